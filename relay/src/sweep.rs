//! What happens by time alone, and who is told that there may be work. Small loops, all owned by the
//! relay.

use crate::clock::Steady;
use crate::config::Timing;
use crate::core::Core;
use crate::lease::{self, Now};
use crate::mover::Mover;
use crate::refusals;
use crate::store::{Heard, Store, StoreError, clock, due, persist, tasks};
use hayward_shared::event::{Envelope, Kind};
use hayward_shared::id::{TaskId, WorkspaceId};
use hayward_shared::task::{Reason, Status};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Tasks that are looked at together.
const PAGE: u32 = 256;

/// Moves the clock of leases, and says whether it is this relay that does. Ends when it is aborted.
pub(crate) async fn keep(core: Arc<Core>, leads: watch::Sender<bool>) {
    let every = u64::try_from(core.timing.step_ms()).unwrap_or(1).max(1);
    let mut ticks = interval(Duration::from_millis(every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let own = Steady::begin();
    let mut mover = Mover::new(core.timing.most_ms());
    let mut failed = false;
    loop {
        ticks.tick().await;
        let moved = keep_time(&core, &mut mover, own).await;
        if let Err(e) = &moved
            && !failed
        {
            tracing::error!(
                error = e as &dyn std::error::Error,
                "the clock of leases stands still"
            );
        }
        failed = moved.is_err();
        leads.send_replace(!failed && mover.leads(own.millis()));
    }
}

/// Looks again and again for what is overdue, while this relay `leads`. However long that takes, the
/// clock goes on. Ends when it is aborted.
pub(crate) async fn run(core: Arc<Core>, mut leads: watch::Receiver<bool>) {
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        if let Err(e) = sweep(&core).await {
            tracing::error!(error = &e as &dyn std::error::Error, "a sweep failed");
        }
        sleep(core.timing.pause(None)).await;
    }
}

/// Moves the clock of leases, where it is this relay's turn.
async fn keep_time(core: &Core, mover: &mut Mover, own: Steady) -> Result<(), StoreError> {
    let read = async { clock::look(&mut *core.store.read().await?).await };
    let (turn, held) = match read.await {
        Ok(read) => read,
        Err(e) => {
            mover.lost();
            return Err(e);
        }
    };
    let looked = own.millis();
    let Some(of) = mover.look(turn, looked, held) else { return Ok(()) };
    // whatever becomes of it, it is not to be made again
    mover.lost();
    if of.takes_over {
        tracing::info!("this relay moves the clock of leases: those that hold begin anew");
        begin_leases_anew(core).await?;
    }
    let moved = persist(|| async {
        let mut tx = core.store.write().await?;
        let moved = clock::advance(tx.conn(), of, core.id).await?;
        tx.commit().await?;
        Ok(moved)
    });
    if moved.await? {
        mover.moved(of, looked);
    }
    Ok(())
}

async fn sweep(core: &Core) -> Result<(), StoreError> {
    let now = now(core).await?;
    let queued_before = now.wall.plus_millis(-core.timing.queue_ms);
    loop {
        let mut reader = core.store.read().await?;
        let due = due::overdue(&mut reader, now.steady, queued_before, PAGE).await?;
        drop(reader);
        let mut moved = 0;
        for key in &due {
            moved += u32::from(settled(core, *key, now).await);
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
            settled(core, *key, now).await;
        }
        match away.last() {
            Some((_, id)) if u32::try_from(away.len()).is_ok_and(|n| n >= PAGE) => {
                after = crate::store::text(id.0);
            }
            _ => return Ok(()),
        }
    }
}

/// Does what is due to one task, if something is; whether it was done. One that fails keeps no other
/// from its turn.
async fn settled(core: &Core, key: (WorkspaceId, TaskId), now: Now) -> bool {
    let seen = async {
        let found = tasks::find(&mut *core.store.read().await?, key.0, key.1).await?;
        match found.and_then(|row| lease::overdue(&row, now, &core.timing)) {
            Some(_) => settle(&core.store, &core.timing, key, now).await,
            None => Ok(false),
        }
    };
    seen.await.unwrap_or_else(|e| {
        let (task, error) = (key.1, &e as &dyn std::error::Error);
        tracing::error!(%task, error, "what is due to a task failed");
        false
    })
}

/// Does what is due to one task; whether something was. The task is looked at as it is by then, so
/// what several relays see to be due is done once.
pub(crate) async fn settle(
    store: &Store,
    timing: &Timing,
    (workspace, id): (WorkspaceId, TaskId),
    now: Now,
) -> Result<bool, StoreError> {
    persist(|| async {
        let mut tx = store.write().await?;
        let Some(mut row) = tasks::find(tx.conn(), workspace, id).await? else { return Ok(false) };
        let Some(change) = lease::overdue(&row, now, timing) else { return Ok(false) };
        if change.row.task.reason == Some(Reason::QueueExpired)
            && let Some(until) = refusals::parked_until(tx.conn(), &row.task, now.wall).await?
        {
            // from then on it waits for a daemon again
            row.queued_at = Some(until);
            tasks::save(tx.conn(), &row).await?;
            tx.commit().await?;
            return Ok(true);
        }
        tasks::apply(&mut tx, change).await?;
        tx.commit().await?;
        Ok(true)
    })
    .await
}

/// Lets the leases that hold begin anew: nobody could be heard while no relay was there, or by the
/// one that was.
async fn begin_leases_anew(core: &Core) -> Result<(), StoreError> {
    persist(|| async {
        let mut tx = core.store.write().await?;
        let (clock, lease_end) = (tx.clock().await?, core.lease_end(&mut tx).await?);
        due::begin_anew(tx.conn(), clock, lease_end).await?;
        tx.commit().await
    })
    .await
}

/// The present moment. The clock of leases may only be further by the time it is used.
async fn now(core: &Core) -> Result<Now, StoreError> {
    let steady = clock::read(&mut *core.store.read().await?).await?;
    Ok(Now { wall: crate::clock::now(), steady })
}

/// Queues what was deferred as soon as it is due. Ends when it is aborted.
pub(crate) async fn retry(core: Arc<Core>) {
    let mut live = core.store.listen();
    loop {
        let next = match retry_due(&core).await {
            Ok(next) => next,
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "a look for retries failed");
                None
            }
        };
        let deferred = async {
            loop {
                match live.recv().await {
                    Ok(Heard::Event(event)) if !becomes(&event, Status::Deferred) => {}
                    Ok(Heard::Event(_) | Heard::Look(..) | Heard::Missed)
                    | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        // either way the store is asked again
        drop(timeout(core.timing.pause(next), deferred).await);
    }
}

/// Queues all that is due; milliseconds until the next one is.
async fn retry_due(core: &Core) -> Result<Option<i64>, StoreError> {
    loop {
        let now = now(core).await?;
        let mut reader = core.store.read().await?;
        let due = due::retries(&mut reader, now.wall, PAGE).await?;
        if due.is_empty() {
            let next = due::next_retry(&mut reader).await?;
            return Ok(next.map(|at| at.since(now.wall)));
        }
        drop(reader);
        let mut moved = 0;
        for key in due {
            moved += u32::from(settled(core, key, now).await);
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
            Ok(Heard::Missed) | Err(RecvError::Lagged(_)) => core.registry.hint_all(),
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
