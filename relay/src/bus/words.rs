//! What relays say to each other. Pure.
//!
//! What daemons and clients say goes through as it is; the rest is JSON. A message: its kind (1
//! byte), then for all but words the daemon (16), for commands also its workspace (16), then its
//! bytes.

use bytes::Bytes;
use hayward_shared::event::Envelope;
use hayward_shared::fault::Fault;
use hayward_shared::id::{DaemonId, WatchId, WorkspaceId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const WORD: u8 = 1;
const FRAME: u8 = 2;
const COMMAND: u8 = 3;
const ANSWER: u8 = 4;

/// A message between relays.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// From one relay to another, or to all.
    Word(Word),
    /// To who watches: an output frame of a daemon that is linked to the sender.
    Frame(DaemonId, Bytes),
    /// To the relay that has the link: a text for the daemon. Refused where the daemon is of another
    /// workspace than the asker takes it to be.
    Command(DaemonId, WorkspaceId, String),
    /// To the relay that asked: what the daemon said to that.
    Answer(DaemonId, String),
}

/// What relays have to say for themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Word {
    /// A watch at a daemon of the sender ended before its output did.
    WatchLost {
        /// The daemon.
        daemon: DaemonId,
        /// The watch.
        watch: WatchId,
        /// Why.
        fault: Fault,
    },
    /// The sender has no link of that daemon any more.
    Left {
        /// The daemon.
        daemon: DaemonId,
    },
    /// The sender has a later link of a daemon that was the receiver's: look, and end yours.
    Superseded {
        /// The daemon.
        daemon: DaemonId,
    },
    /// To the sender itself: once it comes, whatever comes later is heard.
    Mark {
        /// Which connection to the bus it is, counted from 1.
        nth: u64,
    },
    /// To all: what the sender stored.
    Live {
        /// In the order in which it was stored, so far as that is known.
        told: Vec<Told>,
    },
    /// To all: the sender stored something that it could not tell.
    Missed {},
    /// Something was lost between the two: all that was under way between them has ended.
    Void {},
}

/// What was stored. Not told apart by `type`: events have that word themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Told {
    /// This event.
    Event(Box<Envelope>),
    /// Something in this stream, perhaps.
    Look {
        /// Whose.
        workspace: WorkspaceId,
        /// Its name.
        stream: String,
    },
}

/// Bytes that are no message of this version.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a message of the unknown kind {0}")]
    Kind(u8),
    #[error("a message that ends too early")]
    Short,
    #[error("a text that is none")]
    Text(#[from] std::string::FromUtf8Error),
    #[error("a word that is not known")]
    Word(#[from] serde_json::Error),
}

impl Message {
    /// Its bytes. The types in it can always be written.
    pub(super) fn write(&self) -> Vec<u8> {
        match self {
            Self::Word(word) => {
                let mut out = vec![WORD];
                out.extend(serde_json::to_vec(word).unwrap_or_default());
                out
            }
            Self::Frame(daemon, bytes) => join(FRAME, &[daemon.0.as_bytes(), bytes]),
            Self::Command(daemon, workspace, text) => {
                join(COMMAND, &[daemon.0.as_bytes(), workspace.0.as_bytes(), text.as_bytes()])
            }
            Self::Answer(daemon, text) => join(ANSWER, &[daemon.0.as_bytes(), text.as_bytes()]),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Malformed`] when it is none.
    pub(super) fn read(bytes: &Bytes) -> Result<Self, Malformed> {
        let (kind, rest) = bytes.split_first().ok_or(Malformed::Short)?;
        if *kind == WORD {
            return Ok(Self::Word(serde_json::from_slice(rest)?));
        }
        let (daemon, _) = rest.split_first_chunk::<16>().ok_or(Malformed::Short)?;
        let (daemon, rest) = (DaemonId(Uuid::from_bytes(*daemon)), bytes.slice(17..));
        match *kind {
            FRAME => Ok(Self::Frame(daemon, rest)),
            ANSWER => Ok(Self::Answer(daemon, String::from_utf8(rest.into())?)),
            COMMAND => {
                let (workspace, text) = rest.split_first_chunk::<16>().ok_or(Malformed::Short)?;
                let workspace = WorkspaceId(Uuid::from_bytes(*workspace));
                Ok(Self::Command(daemon, workspace, String::from_utf8(text.to_vec())?))
            }
            other => Err(Malformed::Kind(other)),
        }
    }
}

fn join(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(1 + size);
    out.push(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayward_shared::fault::Code;
    use proptest::prelude::*;

    fn id() -> Uuid {
        "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap()
    }

    #[test]
    fn each_message_reads_back_and_none_that_was_cut_is_taken_for_another() {
        let (daemon, workspace) = (DaemonId(id()), WorkspaceId(id()));
        let fault = Fault::new(Code::Unavailable, "x");
        let look = Told::Look { workspace, stream: "task:x".into() };
        let event: Envelope = serde_json::from_value(serde_json::json!({
            "v": 1, "id": id(), "stream": "task:1", "seq": 42, "type": "task.status_changed",
            "at": "2026-01-01T00:00:00.000Z", "workspaceId": workspace,
            "actor": {"kind": "daemon", "id": "d"}, "subject": {"kind": "task", "id": "1"},
            "requestId": null, "leaseEpoch": 3, "payload": {"newStatus": "running"},
        }))
        .unwrap();
        let words = [
            Word::WatchLost { daemon, watch: WatchId(id()), fault },
            Word::Left { daemon },
            Word::Superseded { daemon },
            Word::Mark { nth: 1 },
            Word::Live { told: vec![look, Told::Event(Box::new(event))] },
            Word::Missed {},
            Word::Void {},
        ];
        let mut all: Vec<_> = words.into_iter().map(Message::Word).collect();
        all.push(Message::Frame(daemon, Bytes::from_static(b"\x01\xff")));
        all.push(Message::Command(daemon, workspace, "{}".into()));
        all.push(Message::Answer(daemon, "{\"a\":\"ä\"}".into()));
        for message in all {
            let bytes = message.write();
            assert_eq!(Message::read(&bytes.clone().into()).unwrap(), message);
            for cut in 0..bytes.len() {
                let read = Message::read(&bytes[..cut].to_vec().into());
                assert!(read.map_or(true, |other| other != message), "{cut} of {message:?}");
            }
        }
        for bytes in [&b"\x09"[..], b"", b"\x02short", b"\x01{}"] {
            assert!(Message::read(&bytes.to_vec().into()).is_err());
        }
    }

    #[test]
    fn the_bytes_of_a_command_are_fixed() {
        let bytes = Message::Command(DaemonId(id()), WorkspaceId(id()), "hi".into()).write();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let one = "01939d3a7c00700080000000deadbeef";
        assert_eq!(hex, format!("03{one}{one}6869"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(Message::read(&bytes.into()));
        }
    }
}
