//! What requests carry besides a token: bodies, queries, ids, pages.

use super::fault::{Refusal, invalid};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::Fragment;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::str::FromStr;

/// Rows of a page when the caller does not say.
const USUAL_LIMIT: u32 = 50;

/// Rows of a page at the most.
const MAX_LIMIT: u32 = 200;

/// A JSON body. An empty one reads as `{}`.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await.map_err(|e| {
            if e.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Fault::new(Code::TooLarge, "a body may have 1 MiB at the most")
            } else {
                invalid(e.body_text())
            }
        })?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let body = serde_json::from_slice(text)
            .map_err(|e| invalid(format!("the body cannot be read: {e}")))?;
        Ok(Self(body))
    }
}

/// The pairs of a query, in their order.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Query(pairs) = Query::try_from_uri(&parts.uri).map_err(|e| invalid(e.body_text()))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// Every value of a name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All pairs, in their order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The first value of a name.
    pub(super) fn one<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// The first value of a name, read.
    pub(super) fn read<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Fault> {
        self.one(name)
            .map(|value| value.parse().map_err(|e| invalid(format!("{name}: {e}"))))
            .transpose()
    }

    /// How many rows a page may have.
    pub(super) fn limit(&self) -> Result<u32, Fault> {
        match self.read::<u32>("limit")?.unwrap_or(USUAL_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(invalid(format!("limit: from 1 to {MAX_LIMIT}"))),
        }
    }

    /// Where the page before ended: a moment and an id.
    pub(super) fn cursor(&self) -> Result<Option<(i64, String)>, Fault> {
        let Some(text) = self.one("cursor") else { return Ok(None) };
        read_cursor(text).map(Some).ok_or_else(|| invalid("cursor: not one that this relay gave"))
    }
}

fn read_cursor(text: &str) -> Option<(i64, String)> {
    let (at, id) = text.split_once('.')?;
    let at = i64::from_str_radix(at, 16).ok()?;
    let good = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| (at, id.to_owned()))
}

/// The cursor after a row.
pub(super) fn cursor(at: i64, id: uuid::Uuid) -> String {
    format!("{at:x}.{}", id.simple())
}

/// The cursor after the last row of a page, where the page is full.
pub(super) fn next_cursor<T>(
    rows: &[T],
    limit: u32,
    key: impl Fn(&T) -> (i64, uuid::Uuid),
) -> Option<String> {
    let full = u32::try_from(rows.len()).is_ok_and(|n| n >= limit);
    let (at, id) = key(rows.last().filter(|_| full)?);
    Some(cursor(at, id))
}

/// The `{id}` of a route: a whole id, or a part of one that names it alone.
#[derive(Debug)]
pub(super) struct Id {
    /// As it was typed, for messages.
    pub(super) typed: String,
    pub(super) fragment: Fragment,
}

impl Id {
    /// The one id among those that match, or why there is none.
    pub(super) fn only<T: Copy>(&self, what: &str, found: &[T]) -> Result<T, Fault> {
        match found {
            [id] => Ok(*id),
            [] => Err(Fault::not_found(what, &self.typed)),
            _ => {
                let text = format!("'{}' names several {what}s: give more of it", self.typed);
                Err(Fault::new(Code::Ambiguous, text))
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(typed) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|e| invalid(e.body_text()))?;
        let fragment = typed.parse::<Fragment>().map_err(|e| invalid(e.to_string()))?;
        Ok(Self { typed, fragment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_comes_back_and_no_text_panics(at in 0i64..i64::MAX, id: u128, text in ".*") {
            let id = uuid::Uuid::from_u128(id);
            let read = read_cursor(&cursor(at, id)).unwrap();
            prop_assert_eq!(read, (at, id.simple().to_string()));
            drop(read_cursor(&text));
        }
    }
}
