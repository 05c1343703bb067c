//! Why a task waits: what the store and the links know around it, put before the judge.

use crate::core::Core;
use crate::limits::Gauge;
use crate::placement::why::{Around, Seen, of_budget, why};
use crate::store::{StoreError, daemons, limits, spending, tasks};
use hayward_shared::task::{Reason, Status, Task};
use hayward_shared::why::Why;

/// Daemons that are told of at the most: as many as anybody reads.
const MOST_DAEMONS: u32 = 1_000;

/// Runs that are looked at for who holds a limit.
const MOST_HOLDERS: u32 = 1_000;

/// Why `task` waits; nothing for one that runs or has ended.
pub(super) async fn of(core: &Core, task: &Task) -> Result<Vec<Why>, StoreError> {
    let waits = [Status::Pending, Status::Queued, Status::Waiting, Status::Deferred];
    let is_braked = task.status == Status::Paused && task.reason == Some(Reason::Budget);
    if !waits.contains(&task.status) && !is_braked {
        return Ok(Vec::new());
    }
    if let Some(over) = spending::over(&mut *core.store.read().await?, task).await? {
        return Ok(vec![of_budget(over)]);
    }
    if task.status == Status::Queued {
        return queued(core, task).await;
    }
    let holder = match task.holding.daemon_id.filter(|_| task.status == Status::Waiting) {
        Some(id) => daemons::find(&mut *core.store.read().await?, task.workspace_id, id).await?,
        None => None,
    };
    // of what came so far, neither others nor limits hold it
    let daemons: Vec<_> = holder.iter().map(|daemon| Seen { daemon, online: false }).collect();
    let (under_way, backoffs, now) = (Vec::new(), Vec::new(), crate::clock::now());
    let gauge = Gauge { limits: &core.limits, under_way, backoffs, now };
    Ok(why(task, &Around { daemons: &daemons, continued: None, gauge, holders: &[] }))
}

/// Why a task of the queue waits: any daemon might run it.
async fn queued(core: &Core, task: &Task) -> Result<Vec<Why>, StoreError> {
    let workspace = task.workspace_id;
    let online = core.registry.online_in(workspace).await?;
    let mut reader = core.store.read().await?;
    let all = daemons::page(&mut reader, workspace, None, MOST_DAEMONS).await?;
    let see = |daemon| Seen { daemon, online: online.contains(&daemon.id) };
    let daemons: Vec<_> = all.iter().map(see).collect();
    let (mut under_way, mut holders) = (Vec::new(), Vec::new());
    if core.limits.count() {
        under_way = limits::under_way(&mut reader, workspace).await?;
        holders = limits::holders(&mut reader, workspace, MOST_HOLDERS).await?;
    }
    let backoffs = limits::backoffs(&mut reader, workspace).await?;
    let now = crate::clock::now();
    let around = Around {
        daemons: &daemons,
        continued: tasks::continued_on(&mut reader, task).await?,
        gauge: Gauge { limits: &core.limits, under_way, backoffs, now },
        holders: &holders,
    };
    Ok(why(task, &around))
}
