//! The terminal of a session as the daemon knows it. One actor for each session with a terminal
//! owns the model of its screen: it reads the ring like any reader, answers what programs ask of
//! their terminal, exactly once and nobody else does, and decides whose size counts.
//!
//! State and size are noted in the run folder: every few MiB of output, at each change of size, and
//! before anything is answered. A daemon that comes back goes on from the note, so what lies
//! before it is never answered again. Of what was asked while no daemon was there, only what
//! stands at the very end is answered: whoever printed something else since waits no more.

use super::SessionError;
use super::actor::{Ask as KeeperAsk, Asked};
use super::viewers::Viewers;
use crate::keeper::folder::Kept;
use crate::keeper::wire::Request;
use crate::keeper::{Launch, Mode, RunFolder};
use crate::terminal::ring::{Read, RingReader};
use crate::terminal::screen::{CANCEL, Query, Screen, Size};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hayward_shared::id::WatchId;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

/// Requests that may wait; more make their callers wait.
const ASKS: usize = 32;
/// How much is printed to the model between two looks at requests, at least and at most. The more
/// it is, the more of it is passed over; printed in full it takes a few milliseconds.
const STEPS: (u64, u64) = (4 << 10, 128 << 10);
/// Steps of output that are taken before a change of size, so that they are printed at the old one.
const MOST_CAUGHT_UP: usize = 8;
/// How much output may come between two notes at most: so much is printed anew after a restart. A
/// quarter of a small ring, whose head would go by otherwise.
const NOTE_EVERY: u64 = 4 << 20;
/// So much in one step is more than a program draws before it asks something and waits.
const BUSY: u64 = 16 << 10;
/// How long much output may wait to be printed while nobody looks: the more comes at once, the more
/// of it is passed over, and an answer is due within one second.
const REST: Duration = Duration::from_millis(150);
/// Answers to what came in one step; programs ask a handful at a time, and a step may hold many such.
const MOST_ANSWERS: usize = 512;
/// How long an answer may wait to be read: the promise is one second.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// How long the keeper may take to change a size.
const RESIZE_LIMIT: Duration = Duration::from_secs(2);

/// The handle of a session's terminal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Terminal {
    asks: mpsc::Sender<Ask>,
    present: watch::Receiver<Present>,
}

/// How a terminal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its size.
    pub size: Size,
    /// The offset of the output from which on it has this size.
    pub since: u64,
    /// Whose size that is.
    pub owner: Option<WatchId>,
}

/// What a terminal shows at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// Behind the last byte of output that is in it.
    pub offset: u64,
    /// How it stands then.
    pub present: Present,
    /// What makes an empty terminal of that size show it.
    pub state: Vec<u8>,
}

/// A viewer's place; dropping it is leaving.
#[derive(Debug)]
pub struct Seat {
    _stays: oneshot::Receiver<()>,
}

#[derive(Debug)]
enum Ask {
    Join { viewer: WatchId, size: Size, read_only: bool, answer: oneshot::Sender<(Look, Seat)> },
    Look(oneshot::Sender<Look>),
    Resize(WatchId, Size, oneshot::Sender<Result<(), SessionError>>),
    Take(WatchId, oneshot::Sender<Result<(), SessionError>>),
}

impl Terminal {
    /// Takes a place among the viewers. The first that is not `read_only` owns the size. None
    /// when the session is gone.
    pub async fn join(&self, viewer: WatchId, size: Size, read_only: bool) -> Option<(Look, Seat)> {
        self.ask(|answer| Ask::Join { viewer, size, read_only, answer }).await
    }

    /// What it shows now; none when the session is gone.
    pub async fn look(&self) -> Option<Look> {
        self.ask(Ask::Look).await
    }

    /// A viewer has another size; the terminal gets it where that viewer owns it.
    ///
    /// # Errors
    /// The session has ended, or its keeper does not answer.
    pub async fn resize(&self, viewer: WatchId, size: Size) -> Result<(), SessionError> {
        self.ask(|answer| Ask::Resize(viewer, size, answer))
            .await
            .unwrap_or(Err(SessionError::Ended))
    }

    /// From now on this viewer owns the size; one that only looks never does.
    ///
    /// # Errors
    /// As [`Terminal::resize`].
    pub async fn take(&self, viewer: WatchId) -> Result<(), SessionError> {
        self.ask(|answer| Ask::Take(viewer, answer)).await.unwrap_or(Err(SessionError::Ended))
    }

    /// How it stands, whenever that changes.
    #[must_use]
    pub fn present(&self) -> watch::Receiver<Present> {
        self.present.clone()
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// The note in the run folder. Written by the daemon alone.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Behind the last byte of output that is in it; what was asked before it was answered.
    offset: u64,
    rows: u16,
    cols: u16,
    /// [`Screen::snapshot`], in base64.
    state: String,
}

impl Kept for Note {
    const NAME: &'static str = "screen.json";
}

/// What was asked before this daemon was there.
#[derive(Debug)]
struct Late {
    /// Where the output ended when this daemon came.
    until: u64,
    /// Behind the last query.
    end: u64,
    answers: Vec<u8>,
}

impl Late {
    /// Keeps an answer while nothing else follows the query.
    fn hear(&mut self, end: u64, query: Query) {
        if self.end != end.saturating_sub(query.len as u64) {
            self.answers.clear();
        }
        self.answers.extend(query.answer);
        self.end = end;
    }

    /// The answers that somebody may still wait for, once all was read.
    fn due(&mut self, position: u64) -> Option<Vec<u8>> {
        if position < self.until || self.answers.is_empty() {
            return None;
        }
        let answers = std::mem::take(&mut self.answers);
        (self.end == self.until).then_some(answers)
    }
}

/// What the owner of the session tells of its output.
pub(super) struct Told {
    /// Behind its last byte.
    pub(super) end: watch::Receiver<u64>,
    /// That there is more, some time after `end` says so.
    pub(super) grown: watch::Receiver<()>,
}

/// Begins to follow the terminal of a session; none where it has pipes. `adopted` when another
/// daemon may have answered before. Ends when the last handle goes.
pub(super) fn open(
    folder: &RunFolder,
    keeper: &mpsc::Sender<KeeperAsk>,
    told: Told,
    adopted: bool,
) -> Option<Terminal> {
    let launch = folder.read::<Launch>().ok().flatten()?;
    let Mode::Pty { rows, cols } = launch.mode else { return None };
    let ring = RingReader::open(&folder.ring());
    let every = NOTE_EVERY.min(launch.ring_bytes / 4);
    let end = if adopted { ring.end().unwrap_or(0) } else { 0 };
    let (screen, position, is_noted) = match adopted.then(|| noted(folder)).flatten() {
        Some((screen, position)) => (screen, position, true),
        None => {
            let from = end.saturating_sub(every).max(ring.start().unwrap_or(0));
            (Screen::new(Size::new(rows, cols)?), from, false)
        }
    };
    let (asks, asked) = mpsc::channel(ASKS);
    let now = Present { size: screen.size(), since: position, owner: None };
    let (present, presented) = watch::channel(now);
    let actor = Actor {
        folder: folder.clone(),
        ring,
        told,
        keeper: keeper.downgrade(),
        screen,
        position,
        notes: Notes { last: position, every },
        late: Late { until: end, end: 0, answers: Vec::new() },
        viewers: Viewers::default(),
        gone: JoinSet::new(),
        present,
        rest: None,
    };
    tokio::spawn(actor.run(asked, is_noted).in_current_span());
    Some(Terminal { asks, present: presented })
}

fn noted(folder: &RunFolder) -> Option<(Screen, u64)> {
    let note = folder.read::<Note>().ok().flatten()?;
    let mut screen = Screen::new(Size::new(note.rows, note.cols)?);
    screen.feed(&BASE64_STANDARD.decode(&note.state).ok()?);
    Some((screen, note.offset))
}

/// When the screen is noted.
struct Notes {
    /// Where it was last.
    last: u64,
    /// How much output may come until the next.
    every: u64,
}

struct Actor {
    folder: RunFolder,
    ring: RingReader,
    told: Told,
    /// Weak: the session goes when its last handle does, and this with it.
    keeper: mpsc::WeakSender<KeeperAsk>,
    screen: Screen,
    /// Behind the last byte that was printed to the screen.
    position: u64,
    notes: Notes,
    late: Late,
    viewers: Viewers,
    /// Ends with each viewer that leaves.
    gone: JoinSet<WatchId>,
    present: watch::Sender<Present>,
    /// Nothing is printed before.
    rest: Option<Instant>,
}

impl Actor {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>, is_noted: bool) {
        let mut grows = true;
        if is_noted && let Err(fault) = self.set_size(self.screen.size()).await {
            tracing::debug!(%fault, "a terminal may have another size than was noted");
        }
        loop {
            if self.rest.is_none() && self.read().await {
                while let Ok(ask) = asked.try_recv() {
                    self.serve(ask).await;
                }
                yield_now().await;
                continue;
            }
            let rest = self.rest;
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.serve(ask).await,
                    None => return,
                },
                () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {
                    self.rest = None;
                }
                Some(Ok(viewer)) = self.gone.join_next() => {
                    self.viewers.leave(viewer);
                    self.fit_or_tell().await;
                }
                grown = self.told.grown.changed(), if grows && rest.is_none() => grows = grown.is_ok(),
            }
        }
    }

    /// How much output there is that was not printed, as far as was told.
    fn behind(&self) -> u64 {
        let end = *self.told.end.borrow();
        end.max(self.late.until).saturating_sub(self.position)
    }

    /// Takes the next step of the output; false when there is none yet.
    async fn read(&mut self) -> bool {
        let before = self.position;
        let queries = self.print_next();
        if self.position == before {
            return false;
        }
        self.hear(before, queries).await;
        if self.position - before >= BUSY && self.behind() == 0 && self.gone.is_empty() {
            self.rest = Some(Instant::now() + REST);
        }
        if self.position - self.notes.last >= self.notes.every {
            self.note().await;
        }
        true
    }

    /// Prints the next step to the screen, if there is one; the queries in it.
    fn print_next(&mut self) -> Vec<Query> {
        let behind = self.behind();
        if behind == 0 {
            // a look at the disk would cost more than a key's echo does
            return Vec::new();
        }
        let step = usize::try_from(behind.clamp(STEPS.0, STEPS.1)).unwrap_or_default();
        let mut buffer = vec![0; step];
        match self.ring.read(self.position, &mut buffer) {
            Ok(Read::Bytes { len, .. }) => {
                self.position += len as u64;
                return self.screen.feed(&buffer[..len]);
            }
            Ok(Read::Gap { to, .. }) => {
                self.screen.feed(CANCEL);
                self.position = to;
            }
            Ok(Read::AtEnd) => {}
            Err(fault) => tracing::warn!(%fault, "the output of a terminal cannot be read"),
        }
        Vec::new()
    }

    async fn hear(&mut self, before: u64, queries: Vec<Query>) {
        let mut answers = Vec::new();
        let mut fresh = 0;
        for query in queries {
            let end = before + query.end as u64;
            if end <= self.late.until {
                self.late.hear(end, query);
                continue;
            }
            fresh += 1;
            if fresh <= MOST_ANSWERS {
                answers.extend(query.answer);
            }
        }
        if fresh > MOST_ANSWERS {
            tracing::warn!(queries = fresh, "a program asked its terminal too much at once");
        }
        if let Some(late) = self.late.due(self.position) {
            answers.splice(0..0, late);
        }
        if !answers.is_empty() {
            // from here on it is never answered again, whatever happens to this process
            self.note().await;
            let (answer, _) = oneshot::channel();
            let asked = Asked::Input { bytes: answers.into(), patience: ANSWER_PATIENCE };
            let sent = self.keeper.upgrade().map(|to| to.try_send(KeeperAsk { asked, answer }));
            if !matches!(sent, Some(Ok(()))) {
                tracing::warn!("what a program asked of its terminal could not be answered");
            }
        }
    }

    async fn serve(&mut self, ask: Ask) {
        // whoever stopped waiting needs no answer
        match ask {
            Ask::Join { viewer, size, read_only, answer } => {
                self.rest = None;
                self.viewers.join(viewer, size, read_only);
                self.fit_or_tell().await;
                let (mut stays, gone) = oneshot::channel();
                self.gone.spawn(async move {
                    stays.closed().await;
                    viewer
                });
                drop(answer.send((self.look(), Seat { _stays: gone })));
            }
            Ask::Look(answer) => drop(answer.send(self.look())),
            Ask::Resize(viewer, size, answer) => {
                self.viewers.resize(viewer, size);
                drop(answer.send(self.fit().await));
            }
            Ask::Take(viewer, answer) => {
                self.viewers.take(viewer);
                drop(answer.send(self.fit().await));
            }
        }
    }

    fn look(&self) -> Look {
        let present = *self.present.borrow();
        Look { offset: self.position, present, state: self.screen.snapshot() }
    }

    async fn fit_or_tell(&mut self) {
        if let Err(fault) = self.fit().await {
            tracing::warn!(%fault, "a terminal could not be given its viewer's size");
        }
    }

    /// Gives the terminal the size that counts. Viewers are told first: what the program prints
    /// once it learns of it must find them ready.
    async fn fit(&mut self) -> Result<(), SessionError> {
        let (before, wanted) = (self.screen.size(), self.viewers.wanted());
        let Some(wanted) = wanted.filter(|wanted| *wanted != before) else {
            self.announce(before);
            return Ok(());
        };
        for _ in 0..MOST_CAUGHT_UP {
            if !self.read().await {
                break;
            }
        }
        self.announce(wanted);
        let done = self.set_size(wanted).await;
        if matches!(done, Err(SessionError::Refused(_) | SessionError::Ended)) {
            self.announce(before);
        } else {
            self.screen.resize(wanted);
            self.note().await;
        }
        done
    }

    fn announce(&self, size: Size) {
        let (owner, position) = (self.viewers.owner(), self.position);
        self.present.send_if_modified(|present| {
            let since = if size == present.size { present.since } else { position };
            let new = Present { size, since, owner };
            std::mem::replace(present, new) != new
        });
    }

    async fn set_size(&self, size: Size) -> Result<(), SessionError> {
        let keeper = self.keeper.upgrade().ok_or(SessionError::Ended)?;
        let (answer, answered) = oneshot::channel();
        let asked = Asked::Request(Request::Resize { rows: size.rows(), cols: size.cols() });
        let asking = async {
            keeper.send(KeeperAsk { asked, answer }).await.map_err(|_| SessionError::Ended)?;
            answered.await.unwrap_or(Err(SessionError::Unknown))
        };
        timeout(RESIZE_LIMIT, asking).await.unwrap_or(Err(SessionError::Unknown))
    }

    /// Notes how the screen stands. Where the disk refuses, a restart knows less.
    async fn note(&mut self) {
        let size = self.screen.size();
        let note = Note {
            offset: self.position,
            rows: size.rows(),
            cols: size.cols(),
            state: BASE64_STANDARD.encode(self.screen.snapshot()),
        };
        self.notes.last = self.position;
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || folder.note(&note)).await;
        if let Ok(Err(fault)) = written {
            tracing::warn!(%fault, "the state of a terminal cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(answer: &[u8]) -> Query {
        Query { end: 0, len: 4, answer: answer.to_vec() }
    }

    #[test]
    fn f10_of_what_was_asked_before_only_the_very_end_is_answered() {
        let late = || Late { until: 100, end: 0, answers: Vec::new() };
        let mut waits = late();
        waits.hear(20, query(b"old"));
        waits.hear(96, query(b"one "));
        waits.hear(100, query(b"two"));
        assert_eq!(waits.due(90), None);
        assert_eq!(waits.due(100), Some(b"one two".to_vec()));
        assert_eq!(waits.due(100), None);
        let mut moved_on = late();
        moved_on.hear(99, query(b"x"));
        assert_eq!(moved_on.due(100), None);
        assert_eq!(late().due(200), None);
    }
}
