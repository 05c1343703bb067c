//! Budgets that are used up: whoever shares one is told to pause, and to go on once it was raised.
//!
//! What is to be done stands in the store and is looked for again and again, so that no word to a
//! daemon is needed to arrive: one that was away is told when it is back.

use crate::change::Change;
use crate::core::Core;
use crate::store::{Heard, StoreError, persist, spending, tasks};
use futures_util::StreamExt;
use hayward_shared::event::Kind;
use hayward_shared::id::{DaemonId, TaskId, WorkspaceId};
use hayward_shared::protocol::ToDaemon;
use hayward_shared::task::Status;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::timeout;

/// While something runs on a budget of time, that is counted so often: seconds are what it is told
/// in.
const TICK_MS: i64 = 1_000;

/// Daemons that are told at once: each may take as long as an answer may.
const AT_ONCE: usize = 16;

/// Looks after budgets while this relay `leads`. Ends when it is aborted.
pub(crate) async fn run(core: Arc<Core>, mut leads: watch::Receiver<bool>) {
    let mut live = core.store.listen();
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let timed = look(&core).await.unwrap_or_else(|e| {
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

/// Does what is to be done now; whether something runs on a budget of time.
async fn look(core: &Core) -> Result<bool, StoreError> {
    let timed = spending::timed(&mut *core.store.read().await?).await?;
    for key in &timed {
        count(core, *key).await?;
    }
    let mut reader = core.store.read().await?;
    let runaways = spending::runaways(&mut reader).await?;
    let released = spending::released(&mut reader).await?;
    drop(reader);
    let mut told = Vec::new();
    for key in runaways {
        if let Some(daemon) = brake(core, key).await? {
            told.push((daemon, ToDaemon::PauseTask { task_id: key.1 }));
        }
    }
    for key in released {
        let found = tasks::find(&mut *core.store.read().await?, key.0, key.1).await?;
        if let Some(daemon) = found.and_then(|row| row.task.holding.daemon_id) {
            told.push((daemon, ToDaemon::ResumeTask { task_id: key.1 }));
        }
    }
    let telling =
        futures_util::stream::iter(told).for_each_concurrent(AT_ONCE, |(daemon, body)| {
            let asked = core.registry.ask(daemon, body, core.timing.reply);
            async move {
                // one that brings its work home cannot be paused, and one that is away is told later
                if let Err(fault) = asked.await {
                    tracing::debug!(%daemon, %fault, "a daemon did not pause or resume a task");
                }
            }
        });
    telling.await;
    Ok(!timed.is_empty())
}

/// Counts how long a task ran since that was last done.
async fn count(core: &Core, (workspace, id): (WorkspaceId, TaskId)) -> Result<(), StoreError> {
    persist(|| async {
        let mut tx = core.store.write().await?;
        let found = tasks::find(tx.conn(), workspace, id).await?;
        let Some(row) = found.filter(|row| row.running_since.is_some()) else { return Ok(()) };
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
