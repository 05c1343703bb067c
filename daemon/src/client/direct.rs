//! The terminal of a session on this machine straight from its keeper, with nobody between: what is
//! typed goes to it, and what it has just read and kept comes back. Who looks, whose size counts and
//! what the screen shows at first is the daemon's to say; this goes on while the daemon is away.

use bytes::Bytes;
use hayward_daemon::keeper::wire::{self, Call, FromKeeper, Request, SOCKET_VERSION, WELCOME};
use hayward_daemon::keeper::{RunFolder, SOCKET};
use hayward_daemon::line::Line;
use hayward_daemon::terminal::ring::{Read, RingReader};
use hayward_shared::fault::{Code, Fault};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A keeper answers within a millisecond; one that has not by then is left to the daemon.
const OPEN: Duration = Duration::from_secs(1);

/// A keeper reads whenever it runs; one that takes nothing for this long is left to the daemon.
const SEND: Duration = Duration::from_secs(5);

/// How long the agent may take nothing, in milliseconds, before what is typed fails: as at the daemon.
const PATIENCE_MS: u32 = 4500;

/// Who is this far behind is shown the present instead: twice what the daemon calls far, so that it
/// agrees although it hears of output a moment later.
const FAR: u64 = 8 << 20;

/// How much of what was skipped is read from the ring at once.
const STEP: u64 = 32 << 10;

/// How much is read at once: what is more is there at the next.
const READ: usize = 32 << 10;

/// Ends any sequence that lost its end.
const CANCEL: &[u8] = b"\x18";

/// The calls that ask to be shown the output are counted from here; what is typed has its own number.
const FIRST_SHOW: u64 = 1 << 63;

/// An open way to a keeper.
pub(super) struct Direct {
    line: Line,
    inbox: Vec<u8>,
    ring: RingReader,
    flow: Flow,
    /// Behind the last byte that was given out.
    offset: u64,
    /// What lies between is read from the ring.
    until: u64,
    /// Nobody can show the present instead.
    is_alone: bool,
    show: u64,
}

/// What becomes of output that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// It is given out.
    Live,
    /// It is old until this call is answered.
    Asked(u64),
    /// It is passed over: a screen comes that holds it.
    Held,
}

/// What a keeper says.
#[derive(Debug)]
pub(super) enum Heard {
    /// Output, and the offset behind it.
    Output(Bytes, u64),
    /// The terminal has so many rows and columns from here on.
    Sized(u16, u16),
    /// What was typed under this number has arrived.
    Typed(u64),
    /// What was typed under this number has not.
    Refused(u64, Fault),
    /// So much was skipped, or is no longer kept, that the present is to be shown instead. Output is
    /// passed over until [`Direct::go_on`].
    Far,
    /// The session has ended, and all output was given out.
    Ended,
    /// The keeper is gone, or does not show its output.
    Gone,
}

impl Direct {
    /// Connects to the keeper of `folder`, and goes on behind `from`.
    pub(super) async fn open(folder: &RunFolder, from: u64) -> io::Result<Self> {
        let opening = async {
            // the name of a socket has 108 bytes at most, a folder's may be longer
            let dir = File::open(folder.path())?;
            let name = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
            let mut line = Line::connect(name).await?;
            line.write_all(&wire::greeting(SOCKET_VERSION)).await?;
            let mut welcome = [0; WELCOME];
            line.read_exact(&mut welcome).await?;
            match wire::read_welcome(welcome) {
                Ok(SOCKET_VERSION) => Ok(line),
                _ => Err(io::Error::from(ErrorKind::Unsupported)),
            }
        };
        let line = timeout(OPEN, opening).await.unwrap_or(Err(ErrorKind::TimedOut.into()))?;
        let ring = RingReader::open(&folder.ring());
        let (inbox, flow, show) = (Vec::with_capacity(READ), Flow::Held, FIRST_SHOW);
        let mut direct =
            Self { line, inbox, ring, flow, offset: from, until: from, is_alone: false, show };
        direct.go_on(from, false).await?;
        Ok(direct)
    }

    /// Gives out what comes behind `from` from now on, whatever was given out before. Without
    /// anybody who shows the present (`is_alone`) it is never [`Heard::Far`].
    pub(super) async fn go_on(&mut self, from: u64, is_alone: bool) -> io::Result<()> {
        self.show += 1;
        (self.offset, self.until, self.is_alone) = (from, from, is_alone);
        self.flow = Flow::Asked(self.show);
        let call = Call { id: self.show, request: Request::Show { from } };
        let frame = wire::encode(&call).map_err(io::Error::other)?;
        self.send(&frame).await
    }

    /// Passes over what comes.
    pub(super) fn hold(&mut self) {
        self.flow = Flow::Held;
    }

    /// Whether what comes is passed over until somebody shows the present.
    pub(super) fn is_held(&self) -> bool {
        self.flow == Flow::Held
    }

    /// Behind the last byte that was given out.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Types; answered under this number.
    pub(super) async fn type_in(&mut self, seq: u64, bytes: &[u8]) -> io::Result<()> {
        let frame = wire::encode_input(seq, PATIENCE_MS, bytes).map_err(io::Error::other)?;
        self.send(&frame).await
    }

    async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let sending = self.line.write_all(frame);
        timeout(SEND, sending).await.unwrap_or(Err(ErrorKind::TimedOut.into()))
    }

    /// The next thing. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.skipped() {
                return heard;
            }
            match wire::decode_keeper(&self.inbox) {
                Ok(Some((message, took))) => {
                    self.inbox.drain(..took);
                    if let Some(heard) = self.hear(message) {
                        return heard;
                    }
                }
                Ok(None) => match self.line.read_buf(&mut self.inbox).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Heard::Gone,
                },
                Err(_) => return Heard::Gone,
            }
        }
    }

    fn hear(&mut self, message: FromKeeper) -> Option<Heard> {
        let is_live = self.flow == Flow::Live;
        match message {
            FromKeeper::Done { id } if Flow::Asked(id) == self.flow => self.flow = Flow::Live,
            FromKeeper::Done { id } if id < FIRST_SHOW => return Some(Heard::Typed(id)),
            FromKeeper::Refused { id, fault } if id < FIRST_SHOW => {
                return Some(Heard::Refused(id, Fault::new(Code::Conflict, fault.to_string())));
            }
            FromKeeper::Refused { .. } => return Some(Heard::Gone),
            FromKeeper::Bytes { offset, bytes } if is_live => {
                if offset != self.offset {
                    return Some(Heard::Gone);
                }
                self.offset += bytes.len() as u64;
                self.until = self.offset;
                return Some(Heard::Output(bytes.into(), self.offset));
            }
            FromKeeper::Skipped { until } if is_live => self.until = until,
            FromKeeper::Resized { rows, cols } if is_live => return Some(Heard::Sized(rows, cols)),
            FromKeeper::Exited { .. } => return Some(Heard::Ended),
            _ => {}
        }
        None
    }

    /// The next part of what the keeper skipped, from the ring.
    fn skipped(&mut self) -> Option<Heard> {
        let behind = self.until.saturating_sub(self.offset);
        if behind == 0 || self.flow != Flow::Live {
            return None;
        }
        if behind > FAR && !self.is_alone {
            self.flow = Flow::Held;
            return Some(Heard::Far);
        }
        let mut part = vec![0; usize::try_from(behind.min(STEP)).unwrap_or_default()];
        match self.ring.read(self.offset, &mut part) {
            Ok(Read::Bytes { len, .. }) => {
                part.truncate(len);
                self.offset += len as u64;
                Some(Heard::Output(part.into(), self.offset))
            }
            Ok(Read::Gap { .. }) if !self.is_alone => {
                self.flow = Flow::Held;
                Some(Heard::Far)
            }
            Ok(Read::Gap { to, .. }) => {
                self.offset = to.min(self.until);
                Some(Heard::Output(Bytes::from_static(CANCEL), self.offset))
            }
            Ok(Read::AtEnd) | Err(_) => Some(Heard::Gone),
        }
    }
}
