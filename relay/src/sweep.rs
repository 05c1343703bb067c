//! What happens by time alone, and who is told that there may be work. Three small loops, all owned
//! by the relay.

use crate::core::Core;
use crate::lease::{self, Now};
use crate::store::{Heard, StoreError, due, tasks};
use hayward_shared::event::{Envelope, Kind};
use hayward_shared::id::{TaskId, WorkspaceId};
use hayward_shared::task::Status;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};

/// Tasks that are looked at together.
const PAGE: u32 = 256;

/// Looks again and again for what is overdue. Ends when it is aborted.
pub(crate) async fn run(core: Arc<Core>) {
    let every = u64::try_from(core.timing.sweep_ms).unwrap_or(1).max(1);
    let mut ticks = interval(Duration::from_millis(every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = core.steady.now();
    loop {
        ticks.tick().await;
        let at = core.steady.now();
        let pause = at.since(looked);
        if pause > core.timing.sweep_ms + core.timing.lease_ms / 2 {
            tracing::warn!(pause, "this relay stood still: every lease begins anew");
            if let Err(e) = begin_leases_anew(&core).await {
                tracing::error!(error = &e as &dyn std::error::Error, "no lease was renewed");
                // nobody's lease is judged by that pause
                continue;
            }
        }
        looked = at;
        if let Err(e) = sweep(&core, now(&core)).await {
            tracing::error!(error = &e as &dyn std::error::Error, "a sweep failed");
        }
    }
}

fn now(core: &Core) -> Now {
    Now { wall: crate::clock::now(), steady: core.steady.now() }
}

async fn sweep(core: &Core, now: Now) -> Result<(), StoreError> {
    let queued_before = now.wall.plus_millis(-core.timing.queue_ms);
    loop {
        let mut reader = core.store.read().await?;
        let due = due::overdue(&mut reader, now.steady, queued_before, PAGE).await?;
        drop(reader);
        let mut moved = 0;
        for key in &due {
            moved += u32::from(settle(core, *key, now).await?);
        }
        if moved == 0 || u32::try_from(due.len()).is_ok_and(|n| n < PAGE) {
            break;
        }
    }
    let mut after = String::new();
    loop {
        let mut reader = core.store.read().await?;
        let away = due::abandoned(&mut reader, now.steady, &after, PAGE).await?;
        drop(reader);
        for key in &away {
            settle(core, *key, now).await?;
        }
        match away.last() {
            Some((_, id)) if u32::try_from(away.len()).is_ok_and(|n| n >= PAGE) => {
                after = crate::store::text(id.0);
            }
            _ => return Ok(()),
        }
    }
}

/// Does what is due to one task; whether something was.
async fn settle(
    core: &Core,
    (workspace, id): (WorkspaceId, TaskId),
    now: Now,
) -> Result<bool, StoreError> {
    let mut tx = core.store.write().await?;
    let Some(row) = tasks::find(tx.conn(), workspace, id).await? else { return Ok(false) };
    let Some(change) = lease::overdue(&row, now, &core.timing) else { return Ok(false) };
    tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    Ok(true)
}

/// Lets every lease begin anew: nobody could be heard while the relay was away, and its clock may
/// have been set meanwhile.
pub(crate) async fn begin_leases_anew(core: &Core) -> Result<(), StoreError> {
    let mut tx = core.store.write().await?;
    due::renew_all(tx.conn(), core.lease_end()).await?;
    tx.commit().await
}

/// Queues what was deferred as soon as it is due. Ends when it is aborted.
pub(crate) async fn retry(core: Arc<Core>) {
    let mut live = core.store.listen();
    loop {
        let pause = match retry_due(&core).await {
            Ok(pause) => pause,
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "a look for retries failed");
                Some(core.timing.sweep_ms)
            }
        };
        // a wall clock that is set anew is noticed with the next sweep
        let pause = pause.unwrap_or(core.timing.sweep_ms).clamp(1, core.timing.sweep_ms);
        let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(1));
        let deferred = async {
            loop {
                match live.recv().await {
                    Ok(Heard::Event(event)) if !becomes(&event, Status::Deferred) => {}
                    Ok(Heard::Event(_) | Heard::Look(..)) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        // either way the store is asked again
        drop(tokio::time::timeout(pause, deferred).await);
    }
}

/// Queues all that is due; milliseconds until the next one is.
async fn retry_due(core: &Core) -> Result<Option<i64>, StoreError> {
    loop {
        let now = now(core);
        let mut reader = core.store.read().await?;
        let due = due::retries(&mut reader, now.wall, PAGE).await?;
        if due.is_empty() {
            let next = due::next_retry(&mut reader).await?;
            return Ok(next.map(|at| at.since(now.wall)));
        }
        drop(reader);
        let mut moved = 0;
        for key in due {
            moved += u32::from(settle(core, key, now).await?);
        }
        if moved == 0 {
            return Ok(None);
        }
    }
}

/// Tells daemons of each task that becomes queued. Ends when it is aborted.
pub(crate) async fn hint(core: Arc<Core>) {
    let mut live = core.store.listen();
    loop {
        match live.recv().await {
            Ok(Heard::Event(event))
                if becomes(&event, Status::Queued) || (core.limits.count() && frees(&event)) =>
            {
                core.registry.hint(event.workspace_id);
            }
            Ok(Heard::Event(_)) => {}
            Ok(Heard::Look(workspace, _)) => core.registry.hint(workspace),
            Err(RecvError::Lagged(_)) => core.registry.hint_all(),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Whether a run ended: where it reached a limit, others may begin.
fn frees(event: &Envelope) -> bool {
    let held = |name: &str| {
        let told = event.payload.get(name).and_then(|status| Status::deserialize(status).ok());
        told.is_some_and(Status::is_held)
    };
    event.kind == Kind::TaskStatusChanged && held("oldStatus") && !held("newStatus")
}

fn becomes(event: &Envelope, wanted: Status) -> bool {
    let status = match event.kind {
        Kind::TaskCreated => event.payload.get("status"),
        Kind::TaskStatusChanged => event.payload.get("newStatus"),
        _ => None,
    };
    status.is_some_and(|status| status == wanted.name())
}
