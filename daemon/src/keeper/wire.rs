//! What daemon and keeper say to each other on the keeper's socket.
//!
//! The client sends a greeting of 8 bytes: `hwrd`, its version (u32, big endian). The keeper
//! answers with 12: `hwrd`, its own version, the client's. When they differ the keeper closes, and
//! the agent is untouched. Then both send frames: length of the rest (u32, big endian), kind
//! (u8), body. Kind 0 is a JSON message; kind 1, from the client only, is input: call id (u64),
//! patience in milliseconds (u32), bytes. Every call gets one answer under its id, in any order;
//! output and exit are told unasked after `subscribe`. Kind 2, from the keeper only, is output that
//! a client asked to be shown: offset (u64), bytes.
//! Frames of unknown kind and messages that cannot be read end the connection, never the agent.

use super::folder::Exit;
use crate::process::ProcessId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of all that follows the greeting. The greeting itself never changes.
pub const SOCKET_VERSION: u32 = 1;

/// The most bytes that one call may put in: a prompt is far smaller, and a keeper stays small.
pub const MAX_INPUT: usize = 1 << 20;

/// The largest frame: one full input and what describes it.
pub const MAX_FRAME: usize = MAX_INPUT + 64;

/// The length of a client's greeting.
pub const GREETING: usize = 8;

/// The length of a keeper's answer to a greeting.
pub const WELCOME: usize = 12;

const MAGIC: &[u8; 4] = b"hwrd";
const JSON: u8 = 0;
const INPUT: u8 = 1;
const INPUT_HEAD: usize = 12;
const OUTPUT: u8 = 2;

/// What a client asks of the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Request {
    /// How things stand.
    Status,
    /// Close the agent's standard input; pipe mode only.
    CloseInput,
    /// Change the terminal's size: 1 to 1000 each.
    Resize {
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        cols: u16,
    },
    /// Send a signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Who gets it.
        to: Target,
    },
    /// Ask the whole tree to end, and make it after the grace.
    End {
        /// Milliseconds between asking and making.
        grace_ms: u32,
    },
    /// Stop the whole tree.
    Pause,
    /// Let the whole tree go on.
    Resume,
    /// Tell of output (every 20 ms at most) and of the exit from now on, and once at once.
    Subscribe,
    /// Send the terminal's output itself as soon as it is kept, its size whenever that changes, and
    /// tell of the exit. Of what lies before the present end only that it is there. Terminals only.
    Show {
        /// Behind the last byte that the client has.
        from: u64,
    },
}

/// Who of a session gets a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// The terminal's foreground group; with pipes, the agent's own group.
    Foreground,
    /// Everything that descends from the keeper.
    Tree,
}

/// One request under an id that the client chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Comes back with the answer.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// Bytes for the agent, under an id that the client chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Comes back with the answer.
    pub id: u64,
    /// How long to wait, in milliseconds, while the agent takes nothing.
    pub patience_ms: u32,
    /// At most [`MAX_INPUT`].
    pub bytes: Vec<u8>,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// A request.
    Call(Call),
    /// Input for the agent.
    Input(Input),
}

/// What the keeper sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FromKeeper {
    /// It was done.
    Done {
        /// The call's.
        id: u64,
    },
    /// It was not done.
    Refused {
        /// The call's.
        id: u64,
        /// Why.
        fault: Fault,
    },
    /// How things stand.
    Status {
        /// The call's.
        id: u64,
        /// The keeper.
        keeper: ProcessId,
        /// The agent, unless it could not be started.
        agent: Option<ProcessId>,
    },
    /// The output has grown.
    Output {
        /// Behind the last byte of output.
        end: u64,
        /// Behind the last byte of standard error.
        stderr_end: u64,
    },
    /// Output, to a client that is shown it: each byte once, in order, after it was kept.
    #[serde(skip)]
    Bytes {
        /// Where it begins.
        offset: u64,
        /// The output.
        bytes: Vec<u8>,
    },
    /// To a client that is shown the output: what lies between the last byte that it was sent and
    /// `until` is not sent. It is in the ring, as far as that still holds it.
    Skipped {
        /// Where the next byte begins that is sent.
        until: u64,
    },
    /// To a client that is shown the output: the terminal has this size from here on.
    Resized {
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        cols: u16,
    },
    /// The session has ended and its record is on the disk. The last message.
    Exited {
        /// The record.
        exit: Exit,
    },
}

/// Why the keeper did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Fault {
    /// The terminal collects lines and would silently cut this one.
    #[error(
        "a line is longer than the {limit} bytes that the agent's terminal takes while it collects \
         lines; {taken} bytes were typed. Send it when the agent reads keys, or in shorter lines"
    )]
    LineTooLong {
        /// The most bytes of one line.
        limit: usize,
        /// How many bytes the terminal took before.
        taken: usize,
    },
    /// The agent did not read.
    #[error("the agent does not read its input; {taken} bytes were taken before it stopped")]
    Stalled {
        /// How many bytes were taken.
        taken: usize,
    },
    /// Nobody can read input any more.
    #[error("the agent's input is closed; {taken} bytes were taken before")]
    InputClosed {
        /// How many bytes were taken.
        taken: usize,
    },
    /// Too much input waits already.
    #[error("too much input waits for the agent already; send this again later")]
    Busy,
    /// The size is none that a terminal can have.
    #[error("a terminal has 1 to 1000 rows and columns, not {rows} by {cols}")]
    BadSize {
        /// Height asked for.
        rows: u16,
        /// Width asked for.
        cols: u16,
    },
    /// The request does not fit how the agent's streams are made.
    #[error("this session {has}: the request does not apply")]
    WrongMode {
        /// What it has instead.
        has: String,
    },
    /// There is no such signal.
    #[error("there is no signal {signal}")]
    NoSuchSignal {
        /// The number asked for.
        signal: i32,
    },
    /// As many are shown the output as may be.
    #[error("{most} viewers are shown this terminal by its keeper already")]
    Crowded {
        /// How many that are.
        most: usize,
    },
    /// The agent has ended.
    #[error("the agent has ended")]
    Ended,
    /// The system refused.
    #[error("the system refused: {detail}")]
    System {
        /// What it said.
        detail: String,
    },
}

/// Why what a peer sent cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireFault {
    /// It does not speak this protocol at all.
    #[error("the peer is no keeper and no client of one")]
    NotOurs,
    /// Longer than any frame may be.
    #[error("a frame of {0} bytes is larger than allowed")]
    TooLarge(usize),
    /// No such kind, or too short for its kind.
    #[error("a frame of kind {0} cannot be read")]
    BadFrame(u8),
    /// Not a message of this version.
    #[error("a message cannot be read")]
    BadMessage(#[source] serde_json::Error),
}

/// The greeting of a client of `version`.
#[must_use]
pub fn greeting(version: u32) -> [u8; GREETING] {
    let mut bytes = [0; GREETING];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..].copy_from_slice(&version.to_be_bytes());
    bytes
}

/// The client's version.
///
/// # Errors
/// It is no greeting.
pub fn read_greeting(bytes: [u8; GREETING]) -> Result<u32, WireFault> {
    let [m0, m1, m2, m3, version @ ..] = bytes;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(WireFault::NotOurs);
    }
    Ok(u32::from_be_bytes(version))
}

/// The keeper's answer to a client of version `theirs`.
#[must_use]
pub fn welcome(theirs: u32) -> [u8; WELCOME] {
    let mut bytes = [0; WELCOME];
    bytes[..8].copy_from_slice(&greeting(SOCKET_VERSION));
    bytes[8..].copy_from_slice(&theirs.to_be_bytes());
    bytes
}

/// The keeper's version.
///
/// # Errors
/// It is no keeper's answer.
pub fn read_welcome(bytes: [u8; WELCOME]) -> Result<u32, WireFault> {
    let mut front = [0; GREETING];
    front.copy_from_slice(&bytes[..GREETING]);
    read_greeting(front)
}

/// One message as a frame.
///
/// # Errors
/// It is too large for a frame, or not JSON.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, WireFault> {
    let body = serde_json::to_vec(message).map_err(WireFault::BadMessage)?;
    frame(JSON, &[&body])
}

/// Input as a frame.
///
/// # Errors
/// It is longer than [`MAX_INPUT`].
pub fn encode_input(id: u64, patience_ms: u32, bytes: &[u8]) -> Result<Vec<u8>, WireFault> {
    if bytes.len() > MAX_INPUT {
        return Err(WireFault::TooLarge(bytes.len()));
    }
    frame(INPUT, &[&id.to_be_bytes(), &patience_ms.to_be_bytes(), bytes])
}

/// Adds output as a frame to what waits to be sent.
///
/// # Errors
/// It is longer than any frame may be; nothing was added.
pub fn add_output(to: &mut Vec<u8>, offset: u64, bytes: &[u8]) -> Result<(), WireFault> {
    add_frame(to, OUTPUT, &[&offset.to_be_bytes(), bytes])
}

fn frame(kind: u8, parts: &[&[u8]]) -> Result<Vec<u8>, WireFault> {
    let mut bytes = Vec::new();
    add_frame(&mut bytes, kind, parts)?;
    Ok(bytes)
}

fn add_frame(to: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) -> Result<(), WireFault> {
    let len = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let Some(head) = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME) else {
        return Err(WireFault::TooLarge(len));
    };
    to.reserve(4 + len);
    to.extend_from_slice(&head.to_be_bytes());
    to.push(kind);
    parts.iter().for_each(|part| to.extend_from_slice(part));
    Ok(())
}

/// A frame's kind, its body, and how many bytes it took.
type Frame<'a> = (u8, &'a [u8], usize);

/// The first whole frame of `bytes`.
fn first_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, WireFault> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if len > MAX_FRAME {
        return Err(WireFault::TooLarge(len));
    }
    if len == 0 {
        return Err(WireFault::BadFrame(JSON));
    }
    Ok(rest.get(..len).map(|whole| (whole[0], &whole[1..], 4 + len)))
}

fn read_json<M: DeserializeOwned>(body: &[u8]) -> Result<M, WireFault> {
    serde_json::from_slice(body).map_err(WireFault::BadMessage)
}

/// What a client sent first in `bytes`, and how many bytes that took; `None` until it is whole.
///
/// # Errors
/// The connection cannot go on.
pub fn decode_client(bytes: &[u8]) -> Result<Option<(FromClient, usize)>, WireFault> {
    let Some((kind, body, took)) = first_frame(bytes)? else { return Ok(None) };
    let message = match kind {
        JSON => FromClient::Call(read_json(body)?),
        INPUT => FromClient::Input(read_input(body).ok_or(WireFault::BadFrame(kind))?),
        other => return Err(WireFault::BadFrame(other)),
    };
    Ok(Some((message, took)))
}

fn read_input(body: &[u8]) -> Option<Input> {
    let (id, rest) = body.split_first_chunk::<8>()?;
    let (patience, bytes) = rest.split_first_chunk::<4>()?;
    (body.len() <= INPUT_HEAD + MAX_INPUT).then(|| Input {
        id: u64::from_be_bytes(*id),
        patience_ms: u32::from_be_bytes(*patience),
        bytes: bytes.to_vec(),
    })
}

/// What the keeper sent first in `bytes`, and how many bytes that took; `None` until it is whole.
///
/// # Errors
/// The connection cannot go on.
pub fn decode_keeper(bytes: &[u8]) -> Result<Option<(FromKeeper, usize)>, WireFault> {
    let Some((kind, body, took)) = first_frame(bytes)? else { return Ok(None) };
    match kind {
        JSON => Ok(Some((read_json(body)?, took))),
        OUTPUT => {
            let (offset, bytes) = body.split_first_chunk().ok_or(WireFault::BadFrame(kind))?;
            let offset = u64::from_be_bytes(*offset);
            Ok(Some((FromKeeper::Bytes { offset, bytes: bytes.to_vec() }, took)))
        }
        other => Err(WireFault::BadFrame(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_written_as_they_were_first_released() {
        let call = Call { id: 7, request: Request::Resize { rows: 24, cols: 80 } };
        let frame = encode(&call).unwrap();
        let json = br#"{"id":7,"request":{"type":"resize","rows":24,"cols":80}}"#;
        assert_eq!(&frame[..5], &[0, 0, 0, 57, 0]);
        assert_eq!(&frame[5..], json);
        let output = encode(&FromKeeper::Output { end: 1, stderr_end: 2 }).unwrap();
        assert_eq!(&output[5..], br#"{"type":"output","end":1,"stderrEnd":2}"#);
        let show = encode(&Call { id: 8, request: Request::Show { from: 9 } }).unwrap();
        assert_eq!(&show[5..], br#"{"id":8,"request":{"type":"show","from":9}}"#);
        let mut shown = Vec::new();
        add_output(&mut shown, 3, b"ab").unwrap();
        assert_eq!(shown, *b"\0\0\0\x0b\x02\0\0\0\0\0\0\0\x03ab");
        assert_eq!(greeting(1), *b"hwrd\0\0\0\x01");
        assert_eq!(welcome(9), *b"hwrd\0\0\0\x01\0\0\0\x09");
        assert_eq!(read_welcome(welcome(9)).unwrap(), SOCKET_VERSION);
        assert!(read_greeting(*b"GET / HT").is_err());
    }

    proptest! {
        #[test]
        fn input_survives_and_a_part_is_no_frame(
            id in any::<u64>(),
            patience_ms in any::<u32>(),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let frame = encode_input(id, patience_ms, &bytes).unwrap();
            let cut = cut.index(frame.len());
            prop_assert_eq!(decode_client(&frame[..cut]).unwrap(), None);
            let whole = FromClient::Input(Input { id, patience_ms, bytes });
            prop_assert_eq!(decode_client(&frame).unwrap(), Some((whole, frame.len())));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(decode_client(&bytes));
            drop(decode_keeper(&bytes));
        }

        #[test]
        fn output_survives_with_its_offset_and_a_part_is_no_frame(
            offset in any::<u64>(),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut frame = Vec::new();
            add_output(&mut frame, offset, &bytes).unwrap();
            prop_assert_eq!(decode_keeper(&frame[..cut.index(frame.len())]).unwrap(), None);
            let whole = FromKeeper::Bytes { offset, bytes };
            prop_assert_eq!(decode_keeper(&frame).unwrap(), Some((whole, frame.len())));
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_kept() {
        assert!(matches!(decode_client(&[0xff; 4]), Err(WireFault::TooLarge(_))));
        let large = vec![0; MAX_INPUT + 1];
        assert!(matches!(encode_input(1, 1, &large), Err(WireFault::TooLarge(_))));
        let most = encode_input(1, 1, &large[1..]).unwrap();
        assert!(decode_client(&most).unwrap().is_some());
    }
}
