//! The board: which runs live here, and who may begin.
//!
//! One actor owns it. At most `max_concurrent_tasks` runs work at once; what the relay hands out
//! beyond that (a claim that crossed another) waits here in order.

use super::actor::{Actor, answer};
use super::inform::Notice;
use super::order::{RunOrder, What};
use super::shop::Shop;
use super::state::RunState;
use crate::clock;
use crate::journal::{JournalError, RunRow};
use crate::kept::Kept;
use crate::session::Session;
use crate::spans;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::protocol::{SpawnTask, Tagged};
use hayward_shared::run::RunKey;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{Instrument, Span};
use uuid::Uuid;

/// Orders that wait for the board, and for a run. Full means wait: none is dropped.
const QUEUE: usize = 32;

/// A run that the journal did not take is tried again after this long.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What the relay can order of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Freeze its agent.
    Pause,
    /// Let it go on.
    Resume,
    /// Stop what the agent does now.
    Interrupt {
        /// Ask the agent; otherwise by a signal.
        graceful: bool,
    },
    /// Tell the agent something.
    Message {
        /// Names the message: the same one is told once.
        id: Uuid,
        /// The words.
        text: String,
    },
    /// Tell of something that is no order.
    Inform(Notice),
    /// End its agent.
    Cancel,
    /// End its agent if its fence is this one or older: the task was handed over.
    Fence {
        /// The fence that is no longer good.
        epoch: Option<u64>,
    },
}

/// The handle of the board.
#[derive(Clone, Debug)]
pub struct Board {
    asks: mpsc::Sender<Ask>,
    room: watch::Receiver<u32>,
    active: watch::Receiver<Vec<TaskId>>,
}

type Answer = oneshot::Sender<Result<(), Fault>>;

#[derive(Debug)]
enum Ask {
    Spawn(Box<Tagged<SpawnTask>>),
    Command(TaskId, Command, Answer),
    Session(TaskId, oneshot::Sender<LiveSession>),
}

/// The session of a live run, once it is there; closed when the run has ended.
pub type LiveSession = watch::Receiver<Option<Session>>;

impl Board {
    /// Takes a task that was handed out. A run that is known already is not begun again.
    pub async fn spawn(&self, spawn: Tagged<SpawnTask>) {
        drop(self.asks.send(Ask::Spawn(Box::new(spawn))).await);
    }

    /// Hands an order to a task's run; its answer comes when it was carried out or refused.
    /// Orders to one task are carried out in the order of their calls.
    pub async fn command(
        &self,
        task: TaskId,
        command: Command,
    ) -> oneshot::Receiver<Result<(), Fault>> {
        let (reply, answered) = oneshot::channel();
        drop(self.asks.send(Ask::Command(task, command, reply)).await);
        answered
    }

    /// The session of a task's live run; none when no run of it lives here.
    pub async fn session(&self, task: TaskId) -> Option<LiveSession> {
        let (reply, answered) = oneshot::channel();
        drop(self.asks.send(Ask::Session(task, reply)).await);
        answered.await.ok()
    }

    /// Free places.
    #[must_use]
    pub fn room(&self) -> watch::Receiver<u32> {
        self.room.clone()
    }

    /// The tasks whose runs live here.
    #[must_use]
    pub fn active(&self) -> watch::Receiver<Vec<TaskId>> {
        self.active.clone()
    }
}

/// Opens the board: every run that the journal knows and that has not ended goes on. Dropping the
/// second part stops it; agents live on with their keepers.
///
/// # Errors
/// [`JournalError`] when the journal cannot be read.
pub async fn open(shop: Arc<Shop>) -> Result<(Board, Kept), JournalError> {
    let (asks, asked) = mpsc::channel(QUEUE);
    let (room_in, room) = watch::channel(0);
    let (active_in, active) = watch::channel(Vec::new());
    let rows = shop.journal.live_runs::<RunState>().await?;
    let mut owner = Owner {
        capacity: shop.config.daemon.max_concurrent_tasks as usize,
        shop,
        asks: asks.downgrade(),
        live: HashMap::new(),
        waiting: VecDeque::new(),
        runs: JoinSet::new(),
        room: room_in,
        active: active_in,
    };
    for row in rows {
        owner.resume(row).await?;
    }
    owner.publish();
    let kept = Kept::of(tokio::spawn(owner.run(asked)));
    Ok((Board { asks, room, active }, kept))
}

struct Owner {
    capacity: usize,
    shop: Arc<Shop>,
    asks: mpsc::WeakSender<Ask>,
    live: HashMap<TaskId, Live>,
    waiting: VecDeque<TaskId>,
    runs: JoinSet<TaskId>,
    room: watch::Sender<u32>,
    active: watch::Sender<Vec<TaskId>>,
}

struct Live {
    key: RunKey,
    orders: mpsc::Sender<RunOrder>,
    session: LiveSession,
    /// The actor and its orders, while it waits for a place.
    waiting: Option<(Box<Actor>, mpsc::Receiver<RunOrder>)>,
    /// The run that begins when this one has ended.
    next: Option<Box<Tagged<SpawnTask>>>,
}

impl Owner {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        loop {
            // ends before orders: a place that is free is known as free
            tokio::select! {
                biased;
                Some(ended) = self.runs.join_next() => match ended {
                    Ok(task) => self.ended(task).await,
                    Err(error) => {
                        tracing::error!(%error, "the actor of a run broke; it is adopted at the next start");
                        self.live.retain(|_, live| live.waiting.is_some() || !live.orders.is_closed());
                        self.admit();
                    }
                },
                ask = asked.recv() => match ask {
                    Some(Ask::Spawn(spawn)) => self.spawn(*spawn).await,
                    Some(Ask::Command(task, command, reply)) => {
                        self.command(task, command, reply).await;
                    }
                    Some(Ask::Session(task, reply)) => {
                        if let Some(live) = self.live.get(&task) {
                            answer(reply, live.session.clone());
                        }
                    }
                    None => return,
                },
            }
            self.publish();
        }
    }

    async fn spawn(&mut self, mut spawn: Tagged<SpawnTask>) {
        let Some(run) = &mut spawn.body.run else {
            tracing::warn!(task = %spawn.body.task_id, "a task came without a run; not begun");
            return;
        };
        // no agent of this version is given it, and what is not needed is not kept on disk
        run.task_token = None;
        let key = RunKey {
            task_id: spawn.body.task_id,
            run_id: run.run_id,
            lease_epoch: spawn.tags.lease_epoch.unwrap_or(0),
        };
        if let Some(live) = self.live.get_mut(&key.task_id) {
            tracing::info!(task = %key.task_id, run = %live.key.run_id, "a run of it lives already");
            if live.key.lease_epoch < key.lease_epoch {
                // the relay gave the task out anew: the old run ends, then the new one begins
                live.next = Some(Box::new(spawn));
                let (reply, _) = oneshot::channel();
                self.command(key.task_id, Command::Fence { epoch: None }, reply).await;
            }
            return;
        }
        match self.accept(key, &spawn.body).await {
            Ok(Some(former)) => {
                let span = spans::run(key, spawn.tags.traceparent);
                self.enlist((key, span), &spawn.body, RunState::default(), *former);
            }
            Ok(None) => tracing::info!(task = %key.task_id, run = %key.run_id, "known already"),
            Err(error) => {
                let text = super::prepare::chain(&error);
                tracing::error!(task = %key.task_id, run = %key.run_id, text, "a run waits for the journal");
                self.ask_again(spawn);
            }
        }
    }

    /// Comes back to a run that could not be written down, as when the disk is full.
    fn ask_again(&self, spawn: Tagged<SpawnTask>) {
        let asks = self.asks.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            if let Some(asks) = asks.upgrade() {
                drop(asks.send(Ask::Spawn(Box::new(spawn))).await);
            }
        });
    }

    /// Writes the run down; none when it is known, else the run before it.
    async fn accept(
        &self,
        key: RunKey,
        spawn: &SpawnTask,
    ) -> Result<Option<Box<Option<RunRow<RunState>>>>, JournalError> {
        let journal = &self.shop.journal;
        let former = journal.last_run::<RunState>(key.task_id).await?;
        let new = journal.accept(key, spawn, &RunState::default(), clock::now()).await?;
        Ok(new.then(|| Box::new(former)))
    }

    async fn resume(&mut self, row: RunRow<RunState>) -> Result<(), JournalError> {
        let former = self.shop.journal.run_before::<RunState>(row.key).await?;
        self.enlist((row.key, spans::run(row.key, None)), &row.spawn, row.state, former);
        Ok(())
    }

    fn enlist(
        &mut self,
        (key, span): (RunKey, Span),
        spawn: &SpawnTask,
        state: RunState,
        former: Option<RunRow<RunState>>,
    ) {
        let (orders, ordered) = mpsc::channel(QUEUE);
        let begun = state.phase != super::state::Phase::Preparing;
        let actor = Actor::new(self.shop.clone(), (key, span), spawn, state, former);
        let mut live =
            Live { key, orders, session: actor.session_watch(), waiting: None, next: None };
        if begun || self.working() < self.capacity {
            self.begin(key.task_id, actor, ordered);
        } else {
            live.waiting = Some((Box::new(actor), ordered));
            self.waiting.push_back(key.task_id);
        }
        self.live.insert(key.task_id, live);
    }

    fn begin(&mut self, task: TaskId, actor: Actor, ordered: mpsc::Receiver<RunOrder>) {
        let span = actor.span.clone();
        let run = async move {
            actor.run(ordered).await;
            task
        };
        self.runs.spawn(run.instrument(span));
    }

    fn working(&self) -> usize {
        self.live.values().filter(|live| live.waiting.is_none()).count()
    }

    async fn ended(&mut self, task: TaskId) {
        let next = self.live.remove(&task).and_then(|live| live.next);
        if let Some(next) = next {
            self.spawn(*next).await;
        }
        self.admit();
    }

    fn admit(&mut self) {
        while self.working() < self.capacity
            && let Some(task) = self.waiting.pop_front()
        {
            let waiting = self.live.get_mut(&task).and_then(|live| live.waiting.take());
            if let Some((actor, ordered)) = waiting {
                self.begin(task, *actor, ordered);
            }
        }
    }

    async fn command(&mut self, task: TaskId, command: Command, reply: Answer) {
        let Some(live) = self.live.get(&task) else {
            answer(reply, Err(absent(task)));
            return;
        };
        let what = match command {
            Command::Pause => What::Pause,
            Command::Resume => What::Resume,
            Command::Interrupt { graceful } => What::Interrupt { graceful },
            Command::Message { id, text } => What::Message { id, text },
            Command::Inform(notice) => What::Inform(notice),
            Command::Cancel => What::Cancel,
            Command::Fence { epoch } if epoch.is_none_or(|epoch| live.key.lease_epoch <= epoch) => {
                What::Fence
            }
            Command::Fence { .. } => {
                answer(reply, Ok(()));
                return;
            }
        };
        let ends = matches!(what, What::Cancel | What::Fence);
        let order = RunOrder { what, reply };
        if let Err(
            mpsc::error::TrySendError::Full(order) | mpsc::error::TrySendError::Closed(order),
        ) = live.orders.try_send(order)
        {
            let text = format!("task {} has too many orders waiting", task.short());
            answer(order.reply, Err(Fault::new(Code::Unavailable, text)));
        } else if ends && self.waiting.contains(&task) {
            self.cancel_waiting(task);
        }
    }

    /// One that waits for a place needs none to be cancelled.
    fn cancel_waiting(&mut self, task: TaskId) {
        self.waiting.retain(|waiting| *waiting != task);
        let waiting = self.live.get_mut(&task).and_then(|live| live.waiting.take());
        if let Some((actor, ordered)) = waiting {
            self.begin(task, *actor, ordered);
        }
    }

    fn publish(&self) {
        let free = self.capacity.saturating_sub(self.live.len());
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        self.room.send_if_modified(|room| std::mem::replace(room, free) != free);
        let mut active: Vec<_> = self.live.keys().copied().collect();
        active.sort_unstable();
        self.active.send_if_modified(|old| {
            let changed = *old != active;
            *old = active;
            changed
        });
    }
}

fn absent(task: TaskId) -> Fault {
    Fault::new(Code::Conflict, format!("no run of task {} lives on this daemon", task.short()))
}
