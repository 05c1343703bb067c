//! Providers that refused for their rate or quota: one pause for all tasks of a workspace that ask
//! them, instead of one for each.

use crate::core::Core;
use crate::limits::{self, PROBE_MS};
use crate::store::tasks::Stored;
use crate::store::{Conn, StoreError, limits as store};
use hayward_shared::id::WorkspaceId;
use hayward_shared::task::{Reason, Status};
use hayward_shared::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

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

/// Tells the daemons of a workspace when a provider may be asked again. Ends when it is aborted.
pub(crate) async fn run(core: Arc<Core>) {
    let mut awaited: BTreeMap<WorkspaceId, Timestamp> = BTreeMap::new();
    loop {
        let now = crate::clock::now();
        let next = match moments(&core, now).await {
            Ok(next) => next,
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "refusals cannot be read");
                awaited.clone()
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
        // a wall clock that is set anew is noticed with the next sweep
        let pause = soonest.unwrap_or(core.timing.sweep_ms).clamp(1, core.timing.sweep_ms);
        let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(1));
        // either way the store is asked again
        drop(timeout(pause, core.refused.notified()).await);
    }
}

async fn moments(
    core: &Core,
    now: Timestamp,
) -> Result<BTreeMap<WorkspaceId, Timestamp>, StoreError> {
    let mut reader = core.store.read().await?;
    Ok(store::next_asks(&mut reader, now, PROBE_MS).await?.into_iter().collect())
}
