//! Handing out work: claims, and pushes to peers that do not claim.

use super::connection::{Connection, End, Peer};
use crate::auth::Who;
use crate::change::Change;
use crate::config::Timing;
use crate::lease;
use crate::placement::{self, Candidate};
use crate::routing::Sender;
use crate::store::tasks::{self, Stored};
use crate::store::tokens::{self, Issue};
use crate::store::{StoreError, Tx, daemons, persist};
use hayward_shared::api::Role;
use hayward_shared::protocol::{RunOrder, SpawnTask, Tagged, ToDaemon};
use hayward_shared::task::{CompletionAction, Task};
use hayward_shared::time::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Runs that one claim gets at the most, whatever it asks for.
const MAX_SLOTS: u32 = 64;

/// A queued task that another holds is looked at again after this: long past most changes, and a
/// change that takes long does not keep link and daemon busy.
const PASSED_OVER: Duration = Duration::from_millis(250);

/// Queued tasks that are looked at together.
const QUEUE_PAGE: u32 = 64;

impl Connection {
    /// There may be work: ours are told, plain peers are given what they have room for.
    pub(super) async fn offer(&mut self) -> Result<(), End> {
        if Instant::now() < self.settled_at {
            return Ok(());
        }
        let Peer { workspace, daemon, plain, .. } = self.peer;
        let mut reader = self.core.store.read().await?;
        if tasks::queue(&mut reader, workspace, daemon, None, 1).await?.is_empty() {
            return Ok(());
        }
        if !plain {
            drop(reader);
            return self.say(&ToDaemon::WorkAvailable {}.into()).await;
        }
        drop(reader);
        self.claim(u32::MAX).await
    }

    /// Gives the daemon at most `slots` runs, best first; each is stored before it is sent. Never
    /// more than its capacity in all: a claim that crossed another asks for places that are taken.
    pub(super) async fn claim(&mut self, slots: u32) -> Result<(), End> {
        if Instant::now() < self.settled_at {
            // it is told again once it has settled
            return Ok(());
        }
        let Peer { workspace, daemon, .. } = self.peer;
        let mut reader = self.core.store.read().await?;
        let held = daemons::find(&mut reader, workspace, daemon).await?.map_or(0, |d| d.held);
        drop(reader);
        let free = self.peer.profile.capacity.saturating_sub(held);
        let mut passed_over = false;
        for _ in 0..slots.min(free).min(MAX_SLOTS) {
            let (spawn, passed) = persist(|| self.claim_one()).await?;
            passed_over |= passed;
            let Some(spawn) = spawn else { break };
            self.say(&spawn).await?;
        }
        if passed_over {
            let work = self.work.clone();
            self.core.links.run(async move {
                sleep(PASSED_OVER).await;
                work.notify_one();
            });
        }
        Ok(())
    }

    /// Claims the best task there is, and says whether one was passed over that another holds.
    async fn claim_one(&self) -> Result<(Option<Tagged<ToDaemon>>, bool), StoreError> {
        let now = crate::clock::now();
        let by = Sender { daemon: self.peer.daemon, epoch: None }.actor();
        let mut tx = self.core.store.write().await?;
        let (mut last, mut passed_over) = (None, false);
        if !self.core.bus.has(tx.conn(), self.peer.daemon, self.link.number()).await? {
            // it has a later link at another relay: what this one is given would get lost
            return Ok((None, false));
        }
        loop {
            let Some(row) = self.best(&mut tx, &mut last, &mut passed_over).await? else {
                return Ok((None, passed_over));
            };
            let mut change = Change::of(row);
            let lease_end = self.core.lease_end(&mut tx).await?;
            if let Err(e) = lease::claim(&mut change, self.peer.daemon, &by, now, lease_end) {
                tracing::error!(task = %change.row.task.id, "a queued task cannot be claimed: {e}");
                continue;
            }
            let task = tasks::apply(&mut tx, change).await?;
            let spawn = order(&mut tx, &task, &self.core.timing, now).await?;
            tx.commit().await?;
            return Ok((Some(spawn), passed_over));
        }
    }

    /// The best queued task after `last` that this daemon may run; from now on nobody else takes it.
    async fn best(
        &self,
        tx: &mut Tx,
        last: &mut Option<Stored>,
        passed_over: &mut bool,
    ) -> Result<Option<Stored>, StoreError> {
        let Peer { workspace, daemon, plain, fences, .. } = self.peer;
        let runtimes = self.peer.profile.runtimes.clone();
        let candidate = Candidate { id: daemon, plain, fences, runtimes };
        loop {
            let after = last.as_ref();
            let page = tasks::queue(tx.conn(), workspace, daemon, after, QUEUE_PAGE).await?;
            if page.is_empty() {
                return Ok(None);
            }
            for row in page {
                *last = Some(row.clone());
                let continued = match row.task.order.continue_from_task_id {
                    Some(id) => tasks::holder(tx.conn(), workspace, id).await?,
                    None => None,
                };
                match placement::explain(&row.task, continued, &candidate) {
                    Ok(()) => match tasks::take(tx.conn(), workspace, row.task.id).await? {
                        Some(row) => return Ok(Some(row)),
                        // if it was not claimed but changed, it is still to be had
                        None => *passed_over = true,
                    },
                    Err(why) => tracing::debug!(task = %row.task.id, %daemon, "not placed: {why}"),
                }
            }
        }
    }
}

/// `spawnTask` for a task that was just claimed, with a new credential for its agent.
pub(super) async fn order(
    tx: &mut Tx,
    task: &Task,
    timing: &Timing,
    now: Timestamp,
) -> Result<Tagged<ToDaemon>, StoreError> {
    let issue = Issue {
        workspace: task.workspace_id,
        who: Who::Task(task.id),
        role: Role::Viewer,
        expires_at: None,
    };
    let (secret, _) = tokens::issue(tx.conn(), issue, now).await?;
    let parts = tasks::has_parts(tx.conn(), task.workspace_id, task.id).await?;
    let fence_after_ms = lease::fence_after(task, timing);
    Ok(spawn(task, parts, fence_after_ms, secret.expose().to_owned()))
}

fn spawn(task: &Task, parts: bool, fence_after_ms: Option<u64>, token: String) -> Tagged<ToDaemon> {
    let order = &task.order;
    let acts = order.completion_action != CompletionAction::None;
    let local = order.repository_url.clone().filter(|url| acts && placement::is_local(url));
    let run = task.holding.run_id.map(|run_id| RunOrder {
        run_id,
        attempt: task.holding.attempt,
        order: order.clone(),
        resume_session_id: task.results.session_id.clone(),
        follow_up: task.holding.follow_up.clone(),
        fence_after_ms,
        task_token: Some(token),
    });
    let mut message: Tagged<ToDaemon> = ToDaemon::SpawnTask(Box::new(SpawnTask {
        task_id: task.id,
        task_name: order.name.clone(),
        plan: order.plan.clone(),
        repo_url: order.repository_url.clone(),
        base_branch: order.base_branch.clone(),
        target_branch: order.target_branch.clone(),
        parent_task_id: order.parent_task_id,
        depth: task.depth,
        is_orchestrator: task.depth == 0 && parts,
        target_repo_path: local,
        completion_action: Some(order.completion_action),
        continue_from_task_id: order.continue_from_task_id,
        copy_files: (!order.copy_files.is_empty()).then(|| order.copy_files.clone()),
        run,
    }))
    .into();
    message.tags.lease_epoch = Some(task.holding.lease_epoch);
    message
}
