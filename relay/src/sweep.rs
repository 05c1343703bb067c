//! What happens by time alone, and who is told that there may be work. Two small loops, both owned
//! by the relay.

use crate::core::Core;
use crate::lease;
use crate::store::{Heard, StoreError, tasks};
use hayward_shared::event::{Envelope, Kind};
use hayward_shared::id::{TaskId, WorkspaceId};
use hayward_shared::task::Status;
use hayward_shared::time::Timestamp;
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
    loop {
        ticks.tick().await;
        if let Err(e) = sweep(&core, crate::clock::now()).await {
            tracing::error!(error = &e as &dyn std::error::Error, "a sweep failed");
        }
    }
}

async fn sweep(core: &Core, now: Timestamp) -> Result<(), StoreError> {
    let queued_before = now.plus_millis(-core.timing.queue_ms);
    loop {
        let mut reader = core.store.read().await?;
        let due = tasks::overdue(&mut reader, now, queued_before, PAGE).await?;
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
        let away = tasks::abandoned(&mut reader, now, &after, PAGE).await?;
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
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut tx = core.store.write().await?;
    let Some(row) = tasks::find(tx.conn(), workspace, id).await? else { return Ok(false) };
    let Some(change) = lease::overdue(&row, now, &core.timing) else { return Ok(false) };
    tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    Ok(true)
}

/// Tells daemons of each task that becomes queued. Ends when it is aborted.
pub(crate) async fn hint(core: Arc<Core>) {
    let mut live = core.store.listen();
    loop {
        match live.recv().await {
            Ok(Heard::Event(event)) if becomes_queued(&event) => {
                core.registry.hint(event.workspace_id);
            }
            Ok(Heard::Event(_)) => {}
            Ok(Heard::Look(workspace, _)) => core.registry.hint(workspace),
            Err(RecvError::Lagged(_)) => core.registry.hint_all(),
            Err(RecvError::Closed) => return,
        }
    }
}

fn becomes_queued(event: &Envelope) -> bool {
    let status = match event.kind {
        Kind::TaskCreated => event.payload.get("status"),
        Kind::TaskStatusChanged => event.payload.get("newStatus"),
        _ => None,
    };
    status.is_some_and(|status| status == Status::Queued.name())
}
