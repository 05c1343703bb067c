//! Providers that refused for their rate or quota: one pause for all tasks of a workspace that ask
//! them, instead of one for each.

use crate::change::Change;
use crate::core::Core;
use crate::limits::{self, PROBE_MS};
use crate::placement::{self, Candidate};
use crate::store::daemons::Daemon;
use crate::store::tasks::Stored;
use crate::store::{Conn, StoreError, daemons, limits as store, persist, spending, tasks};
use hayward_shared::event::Actor;
use hayward_shared::id::WorkspaceId;
use hayward_shared::task::{Reason, Status, Task};
use hayward_shared::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

/// Daemons that are looked at for whom a task asks: as many as anybody has.
const MOST_DAEMONS: u32 = 1_000;

/// What an end tells of the provider of its run, in the change that stores it. Where it was refused,
/// the task's next try waits for the pause of all. Whether [`run`] must be told once it is stored.
pub(crate) async fn judge(
    core: &Core,
    conn: &mut Conn,
    row: &mut Stored,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let task = &mut row.task;
    if task.status == Status::Completed {
        return answered(conn, row).await;
    }
    let Some(provider) = task.holding.provider.clone() else { return Ok(false) };
    if !limits::is_refusal(task.status, task.reason) {
        return Ok(false);
    }
    let quota = task.reason == Some(Reason::Quota);
    let told = task.holding.next_retry_at.filter(|_| quota);
    let known = store::backoff_of(conn, task.workspace_id, &provider).await?;
    let backoff = limits::struck(known, &provider, told, now, core.jitter());
    store::back_off(conn, task.workspace_id, &backoff).await?;
    tracing::info!(task = %task.id, provider, until = %backoff.until, "a provider refused");
    if task.status == Status::Deferred {
        let own = task.holding.next_retry_at.filter(|_| !quota);
        task.holding.next_retry_at = own.max(Some(backoff.until));
    }
    Ok(true)
}

/// The provider of this task's run answered: where that run tried it for all, the others follow.
/// Whether [`run`] must be told once it is stored.
pub(crate) async fn answered(conn: &mut Conn, row: &Stored) -> Result<bool, StoreError> {
    let task = &row.task;
    let Some(provider) = task.holding.provider.as_deref() else { return Ok(false) };
    store::answered(conn, task.workspace_id, provider, task.id).await
}

/// Until when a queued task is kept back by providers that refused, or by a budget: what that takes
/// is no time in which nobody wanted it. None when neither keeps it back: a daemon could claim it, or
/// none would if it might.
pub(crate) async fn parked_until(
    conn: &mut Conn,
    task: &Task,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    if spending::over(conn, task).await?.is_some() {
        return Ok(Some(now));
    }
    let backoffs = store::backoffs(conn, task.workspace_id).await?;
    if backoffs.iter().all(|one| one.next(now).is_none()) {
        return Ok(None);
    }
    let daemons = daemons::page(conn, task.workspace_id, None, MOST_DAEMONS).await?;
    let fitting = daemons.iter().filter_map(|daemon| {
        let Daemon { id, profile, .. } = daemon;
        placement::explain(task, None, Candidate { id: *id, profile }).ok()?;
        let agent = placement::agent_of(task, profile)?;
        let provider = placement::provider_at(&agent, profile);
        let known = backoffs.iter().find(|one| Some(&one.provider) == provider.as_ref());
        Some(known.and_then(|backoff| backoff.next(now)))
    });
    // the first daemon that may ask again is the first that could claim it
    Ok(fitting.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min()))
}

/// Lets a provider be asked again now, and queues the tasks that wait for it; whether it was known to
/// refuse, and how many those are.
pub(crate) async fn lift(
    core: &Core,
    workspace: WorkspaceId,
    provider: &str,
    by: &Actor,
) -> Result<(bool, u32), StoreError> {
    let was_known = persist(|| async {
        let mut tx = core.store.write().await?;
        let was_known = store::lift(tx.conn(), workspace, provider).await?;
        tx.commit().await?;
        Ok(was_known)
    })
    .await?;
    let all = store::deferred(&mut *core.store.read().await?, workspace).await?;
    let mut woken = 0;
    for task in all.iter().filter(|task| waits_for(task, provider)) {
        let wakes = persist(|| async {
            let mut tx = core.store.write().await?;
            let found = tasks::find(tx.conn(), workspace, task.id).await?;
            let Some(row) = found.filter(|row| waits_for(&row.task, provider)) else {
                return Ok(false);
            };
            let mut change = Change::of(row);
            if change.step(Status::Queued, None, by, crate::clock::now()).is_err() {
                return Ok(false);
            }
            tasks::apply(&mut tx, change).await?;
            tx.commit().await?;
            Ok(true)
        });
        woken += u32::from(wakes.await?);
    }
    core.refused.notify_one();
    core.registry.hint(workspace);
    Ok((was_known, woken))
}

/// Whether a task waits for this provider to answer again.
fn waits_for(task: &Task, provider: &str) -> bool {
    task.holding.provider.as_deref() == Some(provider)
        && limits::is_refusal(task.status, task.reason)
        && task.status == Status::Deferred
}

/// Tells the daemons of a workspace when a provider may be asked again. Ends when it is aborted.
pub(crate) async fn run(core: Arc<Core>) {
    let mut awaited: BTreeMap<WorkspaceId, Timestamp> = BTreeMap::new();
    loop {
        let now = crate::clock::now();
        let next = match moments(&core, now).await {
            Ok(next) => next,
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "refusals cannot be read");
                sleep(core.timing.pause(None)).await;
                continue;
            }
        };
        // what was awaited and is not any more is past, or was answered
        for (workspace, at) in &awaited {
            if *at <= now || next.get(workspace).is_none_or(|next| next > at) {
                core.registry.hint(*workspace);
            }
        }
        awaited = next;
        let soonest = awaited.values().map(|at| at.since(now)).min();
        // either way the store is asked again
        drop(timeout(core.timing.pause(soonest), core.refused.notified()).await);
    }
}

async fn moments(
    core: &Core,
    now: Timestamp,
) -> Result<BTreeMap<WorkspaceId, Timestamp>, StoreError> {
    let mut reader = core.store.read().await?;
    Ok(store::next_asks(&mut reader, now, PROBE_MS).await?.into_iter().collect())
}
