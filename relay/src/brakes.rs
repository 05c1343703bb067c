//! Budgets that are used up: whoever shares one is told to pause, and to go on once it was raised.
//!
//! What is to be done stands in the store and is looked for again and again, so that no word to a
//! daemon is needed to arrive: one that was away is told when it is back.

use crate::change::Change;
use crate::core::Core;
use crate::store::{Heard, StoreError, persist, spending, tasks};
use hayward_shared::event::Kind;
use hayward_shared::id::{DaemonId, TaskId, WorkspaceId};
use hayward_shared::protocol::ToDaemon;
use hayward_shared::task::Status;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

/// While something runs on a budget of time, that is counted so often: seconds are what it is told
/// in.
const TICK_MS: i64 = 1_000;

/// Daemons that are told at once: each may take as long as an answer may. What is beyond them is told
/// with the next look, which begins behind the last that was told.
const AT_ONCE: usize = 64;

/// So long after an answer what waited for it is told: others are answered meanwhile.
const ROOM: Duration = Duration::from_millis(50);

/// Which daemon is told what of which task: one word at a time.
type Key = (DaemonId, TaskId);

/// The owner of the words to daemons that are not answered yet; they end with it.
#[derive(Default)]
struct Telling {
    words: JoinSet<()>,
    open: BTreeMap<Key, task::Id>,
    last: Option<Key>,
    /// Whether something was not told because of what is not answered.
    waits: bool,
}

impl Telling {
    /// Tells these daemons, and waits for none of them. Whoever was told and has not answered is not
    /// told again.
    fn tell(&mut self, core: &Arc<Core>, mut all: Vec<(Key, ToDaemon)>) {
        while let Some(ended) = self.words.try_join_next_with_id() {
            self.answered(ended);
        }
        self.waits = false;
        all.sort_by_key(|(key, _)| *key);
        let begin = all.partition_point(|(key, _)| Some(*key) <= self.last);
        all.rotate_left(begin);
        for (key, body) in all {
            if self.open.len() >= AT_ONCE || self.open.contains_key(&key) {
                self.waits = true;
                continue;
            }
            self.last = Some(key);
            let (core, daemon) = (core.clone(), key.0);
            let word = self.words.spawn(async move {
                // one that brings its work home cannot be paused, and one that is away is told later
                if let Err(fault) = core.registry.ask(daemon, body, core.timing.reply).await {
                    tracing::debug!(%daemon, %fault, "a daemon did not pause or resume a task");
                }
            });
            self.open.insert(key, word.id());
        }
    }

    fn answered(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let word = ended.map_or_else(|e| e.id(), |(id, ())| id);
        self.open.retain(|_, id| *id != word);
    }

    /// Waits until an answer makes room for something that was not told. Nothing is lost when it is
    /// dropped.
    async fn room(&mut self) {
        while let Some(ended) = self.words.join_next_with_id().await {
            self.answered(ended);
            if self.waits {
                return sleep(ROOM).await;
            }
        }
        std::future::pending().await
    }
}

/// Looks after budgets while this relay `leads`. Ends when it is aborted.
pub(crate) async fn run(core: Arc<Core>, mut leads: watch::Receiver<bool>) {
    let (mut live, mut telling) = (core.store.listen(), Telling::default());
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let timed = look(&core, &mut telling).await.unwrap_or_else(|e| {
            tracing::error!(error = &e as &dyn std::error::Error, "budgets cannot be looked after");
            false
        });
        let sweep = core.timing.sweep_ms;
        let pause = if timed { sweep.min(TICK_MS) } else { sweep };
        let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(1).max(1));
        let word = async {
            tokio::select! {
                () = core.raised.notified() => {}
                () = heard(&mut live) => {}
                () = telling.room() => {}
            }
        };
        // either way the store is asked again
        drop(timeout(pause, word).await);
    }
}

/// Waits until something is told that may concern a budget.
async fn heard(live: &mut Receiver<Heard>) {
    loop {
        match live.recv().await {
            Ok(Heard::Event(event)) if !concerns(&event.kind) => {}
            Ok(Heard::Event(_) | Heard::Look(..) | Heard::Missed) | Err(RecvError::Lagged(_)) => {
                return;
            }
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// A budget was used up, or set anew.
fn concerns(kind: &Kind) -> bool {
    matches!(kind, Kind::BudgetReached | Kind::TaskUpdated)
}

/// Does what is to be done now; whether something runs on a budget of time. A task that fails keeps
/// no other from its turn.
async fn look(core: &Arc<Core>, telling: &mut Telling) -> Result<bool, StoreError> {
    let timed = spending::timed(&mut *core.store.read().await?).await?;
    for key in &timed {
        if let Err(e) = count(core, *key).await {
            failed(key.1, &e);
        }
    }
    let mut reader = core.store.read().await?;
    let runaways = spending::runaways(&mut reader).await?;
    let released = spending::released(&mut reader).await?;
    drop(reader);
    let mut all = Vec::new();
    for (keys, resumes) in [(runaways, false), (released, true)] {
        for key in keys {
            let told = if resumes { release(core, key).await } else { brake(core, key).await };
            match told {
                Ok(Some(daemon)) => {
                    let task_id = key.1;
                    let body = match resumes {
                        true => ToDaemon::ResumeTask { task_id },
                        false => ToDaemon::PauseTask { task_id },
                    };
                    all.push(((daemon, task_id), body));
                }
                Ok(None) => {}
                Err(e) => failed(key.1, &e),
            }
        }
    }
    telling.tell(core, all);
    Ok(!timed.is_empty())
}

fn failed(task: TaskId, e: &StoreError) {
    let error = e as &dyn std::error::Error;
    tracing::error!(%task, error, "the budgets of a task cannot be looked after");
}

/// The daemon that is to be told that a task may go on.
async fn release(
    core: &Core,
    (workspace, id): (WorkspaceId, TaskId),
) -> Result<Option<DaemonId>, StoreError> {
    let found = tasks::find(&mut *core.store.read().await?, workspace, id).await?;
    Ok(found.and_then(|row| row.task.holding.daemon_id))
}

/// Counts how long a task ran since that was last done.
async fn count(core: &Core, (workspace, id): (WorkspaceId, TaskId)) -> Result<(), StoreError> {
    persist(|| async {
        let mut tx = core.store.write().await?;
        let found = tasks::find(tx.conn(), workspace, id).await?;
        let Some(row) = found.filter(|row| row.task.status == Status::Running) else {
            return Ok(());
        };
        let mut change = Change::of(row);
        change.count_time(crate::clock::now());
        tasks::apply(&mut tx, change).await?;
        tx.commit().await
    })
    .await
}

/// Notes that a task is told to pause for a budget; the daemon that is to be told.
async fn brake(
    core: &Core,
    (workspace, id): (WorkspaceId, TaskId),
) -> Result<Option<DaemonId>, StoreError> {
    persist(|| async {
        let mut tx = core.store.write().await?;
        let found = tasks::find(tx.conn(), workspace, id).await?;
        let Some(mut row) = found.filter(|row| row.task.status == Status::Running) else {
            return Ok(None);
        };
        if spending::over(tx.conn(), &row.task).await?.is_none() {
            return Ok(None);
        }
        let daemon = row.task.holding.daemon_id;
        if !row.braked {
            row.braked = true;
            tasks::save(tx.conn(), &row).await?;
            tx.commit().await?;
        }
        Ok(daemon)
    })
    .await
}
