//! The terminal of a session on this machine straight from its keeper, with nobody between: what is
//! typed goes to it, and what it has just read and kept comes back. Who looks, whose size counts and
//! what the screen shows at first is the daemon's to say; this goes on while the daemon is away.

use bytes::Bytes;
use futures_util::FutureExt;
use hayward_daemon::keeper::RunFolder;
use hayward_daemon::keeper::wire::{self, Call, FromKeeper, Request};
use hayward_daemon::line::Line;
use hayward_daemon::session::{ANSWER_LIMIT, LinkFault, PATIENCE, WRITE_LIMIT, connect};
use hayward_daemon::terminal::ring::{Read, RingReader};
use hayward_daemon::terminal::screen::CANCEL;
use hayward_daemon::watch;
use hayward_shared::fault::{Code, Fault};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// A keeper answers within a millisecond; one that has not by then is left to the daemon.
const OPEN: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 1 });

/// Who is this far behind is shown the present instead: twice what the daemon calls far, so that it
/// agrees although it hears of output a moment later.
const FAR: u64 = 2 * watch::FAR;

/// How much of what was skipped is read from the ring at once.
const STEP: u64 = 32 << 10;

/// How much is read at once: what is more is there at the next.
const READ: usize = 32 << 10;

/// The calls that ask to be shown the output are counted from here; what is typed has its own number.
const FIRST_SHOW: u64 = 1 << 63;

/// How much that was read may wait behind what is read from the ring: with more the keeper waits. All
/// that it may have waiting itself for one client, and a part more.
const MOST_LATER: usize = 128 << 10;

/// An open way to a keeper.
pub(super) struct Direct {
    line: Line,
    /// Where the keeper listens.
    folder: RunFolder,
    /// The other end closed it, or broke the protocol.
    is_closed: bool,
    /// The beginning of a message.
    inbox: Vec<u8>,
    /// What the keeper was asked and has not answered, oldest first, and by when it must have.
    unanswered: VecDeque<(u64, Instant)>,
    /// Answers to what was typed: they wait for no output.
    answers: VecDeque<Heard>,
    /// What else was said, in order, and how long each was.
    later: VecDeque<(FromKeeper, usize)>,
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
    /// It is passed over: somebody else shows what lies behind the last byte that was given out.
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
    /// So much was skipped, or cannot be read any more, that somebody else is to show what follows.
    /// Output is passed over until [`Direct::go_on`], and so is the end.
    Far,
    /// The session has ended, and all output was given out.
    Ended,
    /// The keeper is gone, does not show its output, or did not answer in time.
    Gone,
}

impl Direct {
    /// Connects to the keeper of `folder`, and goes on behind `from` once it has agreed to that.
    ///
    /// # Errors
    /// It says nothing in time (`TimedOut`), is not there, or does not show its output.
    pub(super) async fn open(folder: &RunFolder, from: u64) -> io::Result<Self> {
        let opening = async {
            let line = connect(folder).await.map_err(|fault| match fault {
                LinkFault::Io(fault) => fault,
                LinkFault::Foreign(_) => ErrorKind::Unsupported.into(),
            })?;
            let mut direct = Self::over(line, folder, from);
            direct.go_on(from, false).await?;
            // one that knows no such call hangs up
            while direct.flow != Flow::Live {
                let refuses = match direct.later.pop_front() {
                    Some((message, _)) => direct.hear(message).is_some(),
                    None if direct.is_closed => true,
                    None => {
                        direct.receive().await;
                        false
                    }
                };
                if refuses {
                    return Err(ErrorKind::Unsupported.into());
                }
            }
            Ok(direct)
        };
        timeout(OPEN, opening).await.unwrap_or(Err(ErrorKind::TimedOut.into()))
    }

    fn over(line: Line, folder: &RunFolder, from: u64) -> Self {
        Self {
            line,
            folder: folder.clone(),
            is_closed: false,
            inbox: Vec::with_capacity(READ),
            unanswered: VecDeque::new(),
            answers: VecDeque::new(),
            later: VecDeque::new(),
            ring: RingReader::open(&folder.ring()),
            flow: Flow::Held,
            offset: from,
            until: from,
            is_alone: false,
            show: FIRST_SHOW,
        }
    }

    /// Gives out what comes behind `from` from now on, whatever was given out before. Without
    /// anybody who shows the present (`is_alone`) it is never [`Heard::Far`].
    pub(super) async fn go_on(&mut self, from: u64, is_alone: bool) -> io::Result<()> {
        self.show += 1;
        (self.offset, self.until, self.is_alone) = (from, from, is_alone);
        self.flow = Flow::Asked(self.show);
        let call = Call { id: self.show, request: Request::Show { from } };
        let frame = wire::encode(&call).map_err(io::Error::other)?;
        self.ask(self.show, &frame, ANSWER_LIMIT).await
    }

    /// Whether this leads to the keeper of `folder`.
    pub(super) fn is_of(&self, folder: &RunFolder) -> bool {
        self.folder == *folder
    }

    /// Whether what comes is passed over, because somebody else shows it.
    pub(super) fn is_held(&self) -> bool {
        self.flow == Flow::Held
    }

    /// Somebody else has shown what lies before `offset`.
    pub(super) fn pass(&mut self, offset: u64) {
        self.offset = self.offset.max(offset);
    }

    /// Behind the last byte that was given out.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Types; answered under this number.
    pub(super) async fn type_in(&mut self, seq: u64, bytes: &[u8]) -> io::Result<()> {
        let patience_ms = u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX);
        let frame = wire::encode_input(seq, patience_ms, bytes).map_err(io::Error::other)?;
        self.ask(seq, &frame, ANSWER_LIMIT + PATIENCE).await
    }

    async fn ask(&mut self, id: u64, frame: &[u8], within: Duration) -> io::Result<()> {
        self.unanswered.push_back((id, Instant::now() + within));
        let sending = self.line.write_all(frame);
        timeout(WRITE_LIMIT, sending).await.unwrap_or(Err(ErrorKind::TimedOut.into()))
    }

    /// The next thing. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            if self.flow == Flow::Live && self.offset < self.until {
                // an answer may have come meanwhile
                let waits: usize = self.later.iter().map(|(_, len)| len).sum();
                if !self.is_closed && waits < MOST_LATER && self.receive().now_or_never().is_some()
                {
                    continue;
                }
                return self.skipped();
            }
            match self.later.pop_front() {
                Some((message, _)) => {
                    if let Some(heard) = self.hear(message) {
                        return heard;
                    }
                }
                None if self.is_closed => return Heard::Gone,
                None => {
                    let due = self.unanswered.front().map(|(_, due)| *due);
                    let receiving = self.receive();
                    let Some(due) = due else {
                        receiving.await;
                        continue;
                    };
                    // what has come by then is taken, however late it is looked at
                    if timeout_at(due, receiving).await.is_err() {
                        return Heard::Gone;
                    }
                }
            }
        }
    }

    /// Takes what has come, once something has. May be dropped while it waits.
    async fn receive(&mut self) {
        if !matches!(self.line.read_buf(&mut self.inbox).await, Ok(1..)) {
            self.is_closed = true;
            return;
        }
        // one that speaks is busy with what it was asked for, and does not hang
        let least = Instant::now() + ANSWER_LIMIT;
        self.unanswered.iter_mut().for_each(|(_, due)| *due = (*due).max(least));
        let mut read = 0;
        loop {
            match wire::decode_keeper(&self.inbox[read..]) {
                Ok(Some((message, len))) => {
                    read += len;
                    if let FromKeeper::Done { id } | FromKeeper::Refused { id, .. } = &message {
                        self.unanswered.retain(|(asked, _)| asked != id);
                    }
                    match message {
                        FromKeeper::Done { id } if id < FIRST_SHOW => {
                            self.answers.push_back(Heard::Typed(id));
                        }
                        FromKeeper::Refused { id, fault } if id < FIRST_SHOW => {
                            let fault = Fault::new(Code::Conflict, fault.to_string());
                            self.answers.push_back(Heard::Refused(id, fault));
                        }
                        message => self.later.push_back((message, len)),
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    self.is_closed = true;
                    break;
                }
            }
        }
        self.inbox.drain(..read);
    }

    fn hear(&mut self, message: FromKeeper) -> Option<Heard> {
        let is_live = self.flow == Flow::Live;
        match message {
            FromKeeper::Done { id } if Flow::Asked(id) == self.flow => self.flow = Flow::Live,
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
            // while somebody else shows the output, the end is theirs to tell
            FromKeeper::Exited { .. } if is_live => return Some(Heard::Ended),
            _ => {}
        }
        None
    }

    /// The next part of what the keeper skipped, from the ring.
    fn skipped(&mut self) -> Heard {
        let behind = self.until.saturating_sub(self.offset);
        if behind > FAR && !self.is_alone {
            return self.far();
        }
        let mut part = vec![0; usize::try_from(behind.min(STEP)).unwrap_or_default()];
        let go_on_at = match self.ring.read(self.offset, &mut part) {
            Ok(Read::Bytes { len, .. }) => {
                part.truncate(len);
                self.offset += len as u64;
                return Heard::Output(part.into(), self.offset);
            }
            // the disk refused it: nobody has it
            Ok(Read::AtEnd) => self.until,
            Ok(Read::Gap { .. }) | Err(_) if !self.is_alone => return self.far(),
            Ok(Read::Gap { to, .. }) => to.min(self.until),
            Err(_) => self.until,
        };
        self.offset = go_on_at;
        Heard::Output(Bytes::from_static(CANCEL), self.offset)
    }

    fn far(&mut self) -> Heard {
        self.flow = Flow::Held;
        Heard::Far
    }
}
