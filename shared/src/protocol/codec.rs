//! Text frames to messages and back.

use super::from_daemon::{FROM_DAEMON_TYPES, FromDaemon};
use super::to_daemon::{TO_DAEMON_TYPES, ToDaemon};
use crate::fault::{Code, Fault};
use crate::id::RequestId;
use crate::origin::{RequestName, TraceParent, if_readable};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The most bytes of a text frame after authentication.
pub const MAX_TEXT: usize = 1024 * 1024;

/// How many bytes of a WebSocket are read at once: a multiple of most frames, and little, because
/// the room for them is cleared before each look, also where nothing came.
pub const READ_AT_ONCE: usize = 16 * 1024;

/// The most bytes of any frame before it: a stranger gets no more memory than a hello needs.
pub const MAX_PREAUTH: usize = 64 * 1024;

/// What any message may carry besides itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tags {
    /// A command with it is answered with it, once; repeated, the reply repeats, not the effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The number in the sender's outbox, on state messages of a daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The fence of the run that the message is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
    /// What the client calls the request for which a command is sent; for logs alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<RequestName>,
    /// Where in a trace the sender is; for those who trace alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

/// A message with its tags, one flat object on the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tagged<T> {
    /// The message.
    #[serde(flatten)]
    pub body: T,
    /// Its tags.
    #[serde(flatten)]
    pub tags: Tags,
}

impl<T> From<T> for Tagged<T> {
    fn from(body: T) -> Self {
        Self { body, tags: Tags::default() }
    }
}

/// A text frame that is no message of this wire. The link lives on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Larger than the limit.
    #[error("a message of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A `type` that this version does not know.
    #[error("unknown message type '{0}'")]
    UnknownType(String),
    /// Known, or without a `type`, but not of its shape.
    #[error("malformed message{}{}", if .kind.is_empty() { "" } else { " " }, .kind)]
    Malformed {
        /// Its `type`, when it has one.
        kind: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl DecodeError {
    /// How the peer is told.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::TooLarge { .. } => Fault::new(Code::TooLarge, self.to_string()),
            Self::UnknownType(_) => Fault::new(Code::UnknownType, self.to_string()),
            Self::Malformed { source, .. } => {
                Fault::new(Code::Invalid, format!("{self}: {source}"))
            }
        }
    }

    /// How whoever asked for something by it is told: it was asked well, of a peer that is of another
    /// version.
    #[must_use]
    pub fn refusal(&self) -> Fault {
        let fault = self.fault();
        match self {
            Self::TooLarge { .. } => fault,
            Self::UnknownType(_) | Self::Malformed { .. } => {
                Fault::new(Code::Incompatible, format!("it was not understood: {}", fault.message))
                    .with_hint("upgrade the older of the relay and the daemon")
            }
        }
    }
}

/// A family of messages that share a direction.
pub trait Family: DeserializeOwned {
    /// Every `type` of it.
    const TYPES: &'static [&'static str];

    /// Fills in what a peer may leave out.
    fn settle(&mut self) {}
}

impl Family for FromDaemon {
    const TYPES: &'static [&'static str] = FROM_DAEMON_TYPES;
}

impl Family for ToDaemon {
    const TYPES: &'static [&'static str] = TO_DAEMON_TYPES;

    fn settle(&mut self) {
        if let Self::SpawnTask(spawn) = self
            && spawn.task_name.is_empty()
        {
            spawn.task_name = spawn.task_id.short();
        }
    }
}

#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

/// Type and tags. They are read by themselves: to take a flat object apart by what it may hold costs
/// several times as much as to read it twice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    request_id: Option<RequestId>,
    seq: Option<u64>,
    lease_epoch: Option<u64>,
    #[serde(default, deserialize_with = "if_readable")]
    origin: Option<RequestName>,
    #[serde(default, deserialize_with = "if_readable")]
    traceparent: Option<TraceParent>,
}

/// Reads a text frame of at most `limit` bytes.
///
/// # Errors
/// [`DecodeError`]; nothing of the message has been taken then.
pub fn decode<T: Family>(text: &str, limit: usize) -> Result<Tagged<T>, DecodeError> {
    if text.len() > limit {
        return Err(DecodeError::TooLarge { size: text.len(), limit });
    }
    let head = match serde_json::from_str::<Head<'_>>(text) {
        Ok(head) => head,
        Err(source) => {
            let kind = kind_of(text)?;
            known::<T>(&kind)?;
            return Err(DecodeError::Malformed { kind, source });
        }
    };
    let Head { kind, request_id, seq, lease_epoch, origin, traceparent } = head;
    known::<T>(&kind)?;
    let read = serde_json::from_str::<T>(text);
    let mut body =
        read.map_err(|source| DecodeError::Malformed { kind: kind.into_owned(), source })?;
    body.settle();
    Ok(Tagged { body, tags: Tags { request_id, seq, lease_epoch, origin, traceparent } })
}

/// Whether a family has messages of this type.
fn known<T: Family>(kind: &str) -> Result<(), DecodeError> {
    match T::TYPES.contains(&kind) {
        true => Ok(()),
        false => Err(DecodeError::UnknownType(crate::event::bounded(kind, 64).0.to_owned())),
    }
}

/// The type of a message whose tags cannot be read.
fn kind_of(text: &str) -> Result<String, DecodeError> {
    serde_json::from_str::<Peek<'_>>(text)
        .map(|peek| peek.kind.into_owned())
        .map_err(|source| DecodeError::Malformed { kind: String::new(), source })
}

/// The request of a text frame that [`decode`] did not take, when one can be read from it: whoever
/// asked is then told, instead of waiting for its time limit.
#[must_use]
pub fn asked_by(text: &str) -> Option<RequestId> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        request_id: Option<RequestId>,
    }
    serde_json::from_str::<Asked>(text).ok()?.request_id
}

/// The text frame of a message.
///
/// # Errors
/// When a value inside cannot be written as JSON; with the types of this crate it always can.
pub fn encode<T: Serialize>(message: &Tagged<T>) -> Result<String, serde_json::Error> {
    serde_json::to_string(message)
}
