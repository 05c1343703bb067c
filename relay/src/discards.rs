//! Tasks that were discarded, told to the daemons that ran them: they take what waits of such a task
//! out of their merge queues and remove its worktree.
//!
//! What is to be told is stored with the discard and goes when the daemon has answered, so that a
//! daemon which is away hears of it when it returns. Hearing it twice does no harm.

use crate::core::Core;
use crate::store::{StoreError, discards};
use hayward_shared::fault::Code;
use hayward_shared::id::{DaemonId, TaskId, WorkspaceId};
use hayward_shared::protocol::ToDaemon;
use std::sync::Arc;

/// Tells a daemon, aside, of a task. One that is away is told when it is back.
pub(crate) fn tell(core: &Arc<Core>, daemon: DaemonId, workspace: WorkspaceId, task: TaskId) {
    let at = core.clone();
    core.links.run(async move { log(daemon, clear(&at, daemon, (workspace, task)).await) });
}

/// Tells a daemon that is back, aside, of all that it has not answered to yet.
pub(crate) fn tell_all(core: &Arc<Core>, daemon: DaemonId) {
    let at = core.clone();
    core.links.run(async move {
        let told = async {
            let open = discards::of_daemon(&mut *at.store.read().await?, daemon).await?;
            for discarded in open {
                clear(&at, daemon, discarded).await?;
            }
            Ok(())
        };
        log(daemon, told.await);
    });
}

fn log(daemon: DaemonId, told: Result<(), StoreError>) {
    if let Err(e) = told {
        let error = &e as &dyn std::error::Error;
        tracing::warn!(%daemon, error, "what was discarded is told another time");
    }
}

async fn clear(
    core: &Core,
    daemon: DaemonId,
    (workspace, task): (WorkspaceId, TaskId),
) -> Result<(), StoreError> {
    let body = ToDaemon::PruneWorktrees { task_id: Some(task), dry_run: false, force: true };
    // a plain peer has no queue, and clears away by itself
    if core.registry.replies(daemon).await != Some(false)
        && let Err(fault) = core.registry.ask(daemon, body, core.timing.work).await
    {
        tracing::info!(%task, %daemon, %fault, "it was discarded; its daemon has not cleared it");
        if matches!(fault.code, Code::DaemonOffline | Code::Unavailable | Code::Incompatible) {
            return Ok(());
        }
    }
    let mut tx = core.store.write().await?;
    discards::told(tx.conn(), workspace, task).await?;
    tx.commit().await
}
