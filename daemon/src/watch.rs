//! The output lane: sessions' bytes to those who watch, never further than each has granted.
//!
//! A watch reads the ring on disk at its own pace. A slow viewer holds up itself alone: neither
//! the agent nor another viewer, and no memory but one frame. A watch of a terminal (`attach`)
//! begins with what it shows, and takes what its viewer types.

mod attach;

pub use attach::{FAR, Hand};

use crate::journal::RunRow;
use crate::kept::Kept;
use crate::link::Lane;
use crate::session::Session;
use crate::task::{Board, LiveSession, RunState, Shop, run_folder};
use crate::terminal::ring::{Read, RingReader};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{TaskId, WatchId};
use hayward_shared::protocol::OutputView;
use hayward_shared::protocol::output::{Body, Frame, MAX_BODY};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A ring that cannot be read is tried again after this long.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The watches of one lane.
#[derive(Debug)]
pub struct Watches {
    shop: Arc<Shop>,
    board: Board,
    lane: Lane,
    most: usize,
    live: HashMap<WatchId, Watch>,
}

#[derive(Debug)]
struct Watch {
    grant: watch::Sender<u64>,
    /// Takes what a viewer of a terminal types and wants.
    hands: Option<mpsc::Sender<attach::Handed>>,
    task: Kept,
}

impl Watches {
    /// No watches yet, and at most so many at once; answers and frames go out over `lane`.
    #[must_use]
    pub fn new(shop: Arc<Shop>, board: Board, lane: Lane, most: usize) -> Self {
        Self { shop, board, lane, most, live: HashMap::new() }
    }

    /// Begins a watch; one of the same name ends. Answers `{runId, start, end}`: what is held.
    ///
    /// # Errors
    /// No run of the task is known here, or there are too many watches.
    pub async fn begin(&mut self, view: OutputView) -> Result<Value, Fault> {
        self.make_room()?;
        let row = last_run(&self.shop, view.task_id).await?;
        let ring =
            RingReader::open(&run_folder(&self.shop.home, row.key.run_id, &row.state).ring());
        let unreadable =
            |error| Fault::new(Code::Failed, format!("the output cannot be read: {error}"));
        let start = ring.start().map_err(unreadable)?;
        let end = ring.end().map_err(unreadable)?;
        let (grant, granted) = watch::channel(view.grant);
        let viewing = Viewing {
            watch: view.watch_id,
            task: view.task_id,
            position: view.from,
            stop: (!view.follow).then_some(end),
            ring,
            live: if view.follow { self.board.session(view.task_id).await } else { None },
            output: None,
            granted,
            lane: self.lane.clone(),
        };
        let task = Kept::of(tokio::spawn(viewing.run()));
        self.live.insert(view.watch_id, Watch { grant, hands: None, task });
        Ok(json!({ "runId": row.key.run_id, "start": start, "end": end }))
    }

    fn make_room(&mut self) -> Result<(), Fault> {
        self.live.retain(|_, watch| !watch.task.is_over());
        if self.live.len() < self.most {
            return Ok(());
        }
        let text = format!("{} watches are served already", self.most);
        Err(Fault::new(Code::Unavailable, text))
    }

    /// Lets a watch send further.
    pub fn grant(&self, id: WatchId, up_to: u64) {
        if let Some(watch) = self.live.get(&id) {
            watch.grant.send_if_modified(|grant| {
                let more = up_to > *grant;
                *grant = up_to.max(*grant);
                more
            });
        }
    }

    /// Whether a watch goes on.
    #[must_use]
    pub fn is_live(&self, id: WatchId) -> bool {
        self.live.get(&id).is_some_and(|watch| !watch.task.is_over())
    }

    /// Ends a watch.
    pub fn end(&mut self, id: WatchId) {
        self.live.remove(&id);
    }

    /// Ends all of them: the lane is closed, and the viewers are gone with it.
    pub fn clear(&mut self) {
        self.live.clear();
    }
}

/// The last run of a task on this daemon.
async fn last_run(shop: &Shop, task: TaskId) -> Result<RunRow<RunState>, Fault> {
    let row = shop.journal.last_run(task).await.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a run cannot be read");
        Fault::new(Code::Internal, "the daemon's journal cannot be read")
    })?;
    row.ok_or_else(|| Fault::not_found("output of task", task.short()))
}

/// One watch under way.
struct Viewing {
    watch: WatchId,
    task: TaskId,
    position: u64,
    stop: Option<u64>,
    ring: RingReader,
    live: Option<LiveSession>,
    output: Option<watch::Receiver<u64>>,
    granted: watch::Receiver<u64>,
    lane: Lane,
}

impl Viewing {
    async fn run(mut self) {
        let mut buffer = vec![0; MAX_BODY];
        loop {
            let Some(room) = self.room(buffer.len()).await else {
                self.send(Body::End).await;
                return;
            };
            let read = match self.ring.read(self.position, &mut buffer[..room]) {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(%error, task = %self.task, "the output cannot be read");
                    tokio::time::sleep(READ_AGAIN).await;
                    Read::AtEnd
                }
            };
            let sent = match read {
                Read::Bytes { len, .. } => {
                    let sent = self.send(Body::Bytes(&buffer[..len])).await;
                    self.position += len as u64;
                    sent
                }
                Read::Gap { to, .. } => {
                    let sent = self.send(Body::Gap { until: to }).await;
                    self.position = to;
                    sent
                }
                Read::AtEnd if self.grows().await => true,
                Read::AtEnd => {
                    self.send(Body::End).await;
                    return;
                }
            };
            if !sent {
                return;
            }
        }
    }

    /// How many bytes may be sent now, at most `most`; waits while it is none. Nothing when the
    /// viewer has all that it asked for.
    async fn room(&mut self, most: usize) -> Option<usize> {
        let (position, stop) = (self.position, self.stop.unwrap_or(u64::MAX));
        if position >= stop {
            return None;
        }
        let granted = *self.granted.wait_for(|grant| *grant > position).await.ok()?;
        let room = granted.min(stop) - position;
        Some(usize::try_from(room).unwrap_or(usize::MAX).min(most))
    }

    /// Waits until there may be more; false when there never will.
    async fn grows(&mut self) -> bool {
        let Some(live) = &mut self.live else { return false };
        let session: Option<Session> = live.borrow_and_update().clone();
        let Some(session) = session else {
            // not started yet, or ended before it was
            if live.changed().await.is_err() {
                self.live = None;
            }
            return true;
        };
        // news alone wakes it: the announced end may lie beyond what the disk took
        let output = self.output.get_or_insert_with(|| session.output());
        tokio::select! {
            grown = output.changed() => {
                if grown.is_err() {
                    self.live = None;
                }
            }
            _ = session.exited() => self.live = None,
        }
        true
    }

    async fn send(&self, body: Body<'_>) -> bool {
        let frame = Frame { watch: self.watch, offset: self.position, body };
        self.lane.output(frame.encode().into()).await
    }
}
