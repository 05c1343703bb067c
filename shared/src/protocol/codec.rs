//! Text frames to messages and back.

use super::from_daemon::{FROM_DAEMON_TYPES, FromDaemon};
use super::to_daemon::{TO_DAEMON_TYPES, ToDaemon};
use crate::fault::{Code, Fault};
use crate::id::RequestId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most bytes of a text frame after authentication.
pub const MAX_TEXT: usize = 1024 * 1024;

/// How many bytes of a WebSocket are read at once: a multiple of most frames, and little, because
/// the room for them is cleared before each look, also where nothing came.
pub const READ_AT_ONCE: usize = 16 * 1024;

/// The most bytes of any frame before it: a stranger gets no more memory than a hello needs.
pub const MAX_PREAUTH: usize = 64 * 1024;

/// What any message may carry besides itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tags {
    /// A command with it is answered with it, once; repeated, the reply repeats, not the effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// The number in the sender's outbox, on state messages of a daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The fence of the run that the message is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
}

/// A message with its tags, one flat object on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

impl<T> Tagged<T> {
    /// The message as an answerable command.
    pub fn asking(body: T, request: RequestId) -> Self {
        Self { body, tags: Tags { request_id: Some(request), ..Tags::default() } }
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
    kind: std::borrow::Cow<'a, str>,
}

/// Reads a text frame of at most `limit` bytes.
///
/// # Errors
/// [`DecodeError`]; nothing of the message has been taken then.
pub fn decode<T: Family>(text: &str, limit: usize) -> Result<Tagged<T>, DecodeError> {
    if text.len() > limit {
        return Err(DecodeError::TooLarge { size: text.len(), limit });
    }
    let kind = serde_json::from_str::<Peek<'_>>(text)
        .map_err(|source| DecodeError::Malformed { kind: String::new(), source })?
        .kind;
    if !T::TYPES.contains(&kind.as_ref()) {
        return Err(DecodeError::UnknownType(crate::event::bounded(&kind, 64).0.to_owned()));
    }
    let mut message: Tagged<T> = serde_json::from_str(text)
        .map_err(|source| DecodeError::Malformed { kind: kind.into_owned(), source })?;
    message.body.settle();
    Ok(message)
}

/// The text frame of a message.
///
/// # Errors
/// When a value inside cannot be written as JSON; with the types of this crate it always can.
pub fn encode<T: Serialize>(message: &Tagged<T>) -> Result<String, serde_json::Error> {
    serde_json::to_string(message)
}
