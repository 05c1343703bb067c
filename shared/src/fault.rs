//! Faults: the errors that cross the wire, with the HTTP status and the exit code each maps to.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $http:literal, $exit:literal, $retry:literal;)+) => {
        /// What kind of error it is. Programs decide by this, never by the message.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)+
            /// A code of a newer peer.
            #[serde(untagged)]
            Other(String),
        }

        impl Code {
            /// The name on the wire.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$name => $text,)+
                    Self::Other(name) => name,
                }
            }

            /// The HTTP status that carries it.
            #[must_use]
            pub fn http(&self) -> u16 {
                match self {
                    $(Self::$name => $http,)+
                    Self::Other(_) => 500,
                }
            }

            /// The exit code of a command that failed with it.
            #[must_use]
            pub fn exit(&self) -> u8 {
                match self {
                    $(Self::$name => $exit,)+
                    Self::Other(_) => 1,
                }
            }

            /// Whether the same request may succeed later.
            #[must_use]
            pub fn retryable(&self) -> bool {
                match self {
                    $(Self::$name => $retry,)+
                    Self::Other(_) => false,
                }
            }
        }
    };
}

codes! {
    /// The request is malformed.
    Invalid = "invalid", 400, 2, false;
    /// A name that means nothing here.
    UnknownType = "unknown_type", 400, 2, false;
    /// No credential, or one that is unknown, expired or revoked.
    Unauthorized = "unauthorized", 401, 5, false;
    /// The credential does not allow it.
    Forbidden = "forbidden", 403, 5, false;
    /// Nothing of that id is there for the caller.
    NotFound = "not_found", 404, 3, false;
    /// A part of an id names several things.
    Ambiguous = "ambiguous", 409, 4, false;
    /// The state does not allow it now.
    Conflict = "conflict", 409, 4, false;
    /// The task's status does not allow that step.
    IllegalTransition = "illegal_transition", 409, 4, false;
    /// The run was handed over; the report came too late.
    StaleLease = "stale_lease", 409, 4, false;
    /// The row was changed by someone else meanwhile.
    VersionConflict = "version_conflict", 409, 4, true;
    /// As many as may be are there already; the message says how many.
    LimitReached = "limit_reached", 409, 4, false;
    /// History that far back is no longer held.
    Gone = "gone", 410, 3, false;
    /// Larger than the limit that the message names.
    TooLarge = "too_large", 413, 2, false;
    /// Too many requests.
    RateLimited = "rate_limited", 429, 1, true;
    /// The fault is ours.
    Internal = "internal", 500, 1, true;
    /// A part that is needed cannot be reached.
    Unavailable = "unavailable", 503, 6, true;
    /// The daemon that holds it is away.
    DaemonOffline = "daemon_offline", 503, 6, true;
    /// The peers share no version or lack a needed capability.
    Incompatible = "incompatible", 400, 1, false;
    /// The operation was tried and failed.
    Failed = "failed", 500, 1, false;
    /// The local policy refuses it.
    Refused = "refused", 403, 5, false;
    /// A command line that cannot be understood.
    Usage = "usage", 400, 2, false;
}

/// An error for people and programs alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// What kind it is.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// What to do, where something helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

impl Fault {
    /// A fault of this kind; whether it may pass by itself follows from the kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { retryable: code.retryable(), code, message: message.into(), hint: None }
    }

    /// With a word on what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Nothing of that kind and id is there for the caller. One text for absent and foreign, so
    /// that nobody learns which ids exist.
    #[must_use]
    pub fn not_found(what: &str, id: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("no {what} {id}"))
    }
}

/// The body of every HTTP error, and of a failed command's output with `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultBody {
    /// The fault.
    pub error: Fault,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_back_and_a_foreign_code_survives() {
        let fault = Fault::not_found("task", "beef").with_hint("see hayward task ls");
        let text = serde_json::to_string(&FaultBody { error: fault.clone() }).unwrap();
        assert_eq!(
            text,
            r#"{"error":{"code":"not_found","message":"no task beef","hint":"see hayward task ls","retryable":false}}"#
        );
        assert_eq!(serde_json::from_str::<FaultBody>(&text).unwrap().error, fault);
        let foreign: Code = serde_json::from_str("\"melted\"").unwrap();
        assert_eq!((foreign.name(), foreign.http(), foreign.exit()), ("melted", 500, 1));
    }
}
