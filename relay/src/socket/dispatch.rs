//! Handing out work: claims, and pushes to peers that do not claim.

use super::connection::{Connection, End, Peer};
use crate::auth::Who;
use crate::change::Change;
use crate::config::Timing;
use crate::lease;
use crate::limits::Gauge;
use crate::origin;
use crate::placement::{self, Candidate};
use crate::routing::Sender;
use crate::store::tasks::{self, Closed, Stored};
use crate::store::tokens::{self, Issue};
use crate::store::{Conn, StoreError, Tx, daemons, limits, persist, spending};
use hayward_shared::api::Role;
use hayward_shared::protocol::{RunOrder, SpawnTask, Tagged, ToDaemon};
use hayward_shared::task::{CompletionAction, Task};
use hayward_shared::time::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, error_span, field::display};

/// Runs that one claim gets at the most, whatever it asks for.
const MAX_SLOTS: u32 = 64;

/// A queued task that another holds is looked at again after this: long past most changes, and a
/// change that takes long does not keep link and daemon busy.
const PASSED_OVER: Duration = Duration::from_millis(250);

/// Queued tasks that are looked at first: mostly one of the best few is taken.
const FIRST_PAGE: u32 = 8;

/// Queued tasks that are looked at together where none of those was.
const QUEUE_PAGE: u32 = 64;

/// Queued tasks by which it is judged who is told of work first.
const JUDGED: u32 = 8;

/// A daemon that would do a task less well hears of it so much later: longer than the better one's
/// claim takes on a network of today, and shorter than anybody notices.
const HEAD_START: Duration = Duration::from_millis(100);

/// What a claim found.
struct Found {
    row: Stored,
    agent: Option<String>,
    provider: Option<String>,
    /// Whether it is the first to ask a provider that refused.
    probe: bool,
}

impl Connection {
    /// There may be work: ours are told, plain peers are given what they have room for. One that
    /// another does better is told a moment later, if there still is some.
    pub(super) async fn offer(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if now < self.settled_at || self.told_at.is_some_and(|at| now < at) {
            // there will be a look then
            return Ok(());
        }
        // those who would do better had their head start
        let is_late = self.told_at.take().is_some();
        let Peer { workspace, daemon, plain, .. } = self.peer;
        let judges = !plain && !is_late && self.core.field.has_rival(workspace, daemon);
        let read = if judges { JUDGED } else { 1 };
        let mut reader = self.core.store.read().await?;
        let queue = tasks::queue(&mut reader, workspace, daemon, None, read).await?;
        drop(reader);
        if queue.is_empty() {
            return Ok(());
        }
        if plain {
            return self.claim(u32::MAX).await;
        }
        if judges && self.is_second_best(&queue) {
            self.told_at = Some(now + HEAD_START);
            return Ok(());
        }
        self.say(&ToDaemon::WorkAvailable {}.into()).await
    }

    /// Whether another daemon would do better at the first task that this one may run.
    fn is_second_best(&self, queue: &[Stored]) -> bool {
        let Peer { workspace, daemon, profile, .. } = &self.peer;
        let candidate = Candidate { id: *daemon, profile };
        let fits = |row: &&Stored| placement::explain(&row.task, None, candidate).is_ok();
        let first = queue.iter().find(fits);
        first.is_some_and(|row| self.core.field.has_better(*workspace, *daemon, &row.task))
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
        let room = slots.min(self.peer.profile.capacity.saturating_sub(held));
        let (mut given, mut passed_over) = (0, false);
        while given < room.min(MAX_SLOTS) {
            let (spawn, passed) = persist(|| self.claim_one()).await?;
            passed_over |= passed;
            let Some(spawn) = spawn else { break };
            self.hand_out(spawn).await?;
            given += 1;
        }
        if passed_over {
            let work = self.work.clone();
            self.core.links.run(async move {
                sleep(PASSED_OVER).await;
                work.notify_one();
            });
        }
        self.core.field.has_free(workspace, daemon, self.link, room - given);
        Ok(())
    }

    /// Sends a run that was stored as this daemon's. Its trace begins here: who asked for the task
    /// was answered long ago.
    async fn hand_out(&self, mut spawn: Tagged<ToDaemon>) -> Result<(), End> {
        let ToDaemon::SpawnTask(order) = &spawn.body else { return self.say(&spawn).await };
        let run = order.run.as_ref().map(|run| display(run.run_id));
        let span = error_span!("assign", task = %order.task_id, run, daemon = %self.peer.daemon);
        spawn.tags.traceparent = span.in_scope(origin::here);
        span.in_scope(|| tracing::info!("handed out"));
        self.say(&spawn).instrument(span).await
    }

    /// Claims the best task there is, and says whether one was passed over that another holds.
    async fn claim_one(&self) -> Result<(Option<Tagged<ToDaemon>>, bool), StoreError> {
        let now = crate::clock::now();
        let Peer { workspace, daemon, .. } = self.peer;
        let by = Sender { daemon, epoch: None }.actor();
        let mut tx = self.core.store.write().await?;
        let Some(mut gauge) = self.gauge(tx.conn(), now).await? else { return Ok((None, true)) };
        if !self.core.bus.has(tx.conn(), daemon, self.link.number()).await? {
            // it has a later link at another relay: what this one is given would get lost
            return Ok((None, false));
        }
        let (mut last, mut passed_over) = (None, false);
        loop {
            let found = self.best(&mut tx, &gauge, (&mut last, &mut passed_over)).await?;
            let Some(Found { row, agent, provider, probe }) = found else {
                return Ok((None, passed_over));
            };
            let former = row.task.holding.run_id;
            let mut change = Change::of(row);
            let lease_end = self.core.lease_end(&mut tx).await?;
            if let Err(e) = lease::claim(&mut change, daemon, &by, now, lease_end) {
                tracing::error!(task = %change.row.task.id, error = %e, "a queued task cannot be claimed");
                continue;
            }
            let id = change.row.task.id;
            let tries = provider.as_deref().filter(|_| probe);
            if let Some(provider) = tries
                && !limits::probe(tx.conn(), workspace, provider, (id, now)).await?
            {
                // another claim was first
                gauge.is_probed(provider);
                continue;
            }
            change.row.task.holding.claimed_agent = agent;
            change.row.task.holding.provider = provider;
            let task = tasks::apply(&mut tx, change).await?;
            if let Some(run) = former {
                spending::keep_run(tx.conn(), workspace, (id, run)).await?;
            }
            let spawn = order(&mut tx, &task, &self.core.timing, now).await?;
            tx.commit().await?;
            return Ok((Some(spawn), passed_over));
        }
    }

    /// How the workspace stands. What it counts stays so until the change ends; none while another
    /// hands out its tasks.
    async fn gauge(
        &self,
        conn: &mut Conn,
        now: Timestamp,
    ) -> Result<Option<Gauge<'_>>, StoreError> {
        let (workspace, limits) = (self.peer.workspace, &self.core.limits);
        let under_way = if limits.count() {
            if !limits::alone(conn, workspace).await? {
                return Ok(None);
            }
            limits::under_way(conn, workspace).await?
        } else {
            Vec::new()
        };
        let backoffs = limits::backoffs(conn, workspace).await?;
        Ok(Some(Gauge { limits, under_way, backoffs, now }))
    }

    /// The agents of this daemon whose tasks no claim gets now.
    fn closed(&self, gauge: &Gauge<'_>) -> Closed {
        let profile = &self.peer.profile;
        let is_closed = |agent: &str| {
            let provider = placement::provider_at(agent, profile);
            gauge.barrier(Some(agent), provider.as_deref()).is_some()
        };
        let names = profile.runtimes.iter().map(|runtime| &runtime.name);
        let agents = names.filter(|name| is_closed(name)).cloned().collect();
        let unnamed = placement::chosen(profile).is_some_and(|agent| is_closed(&agent));
        Closed { agents, unnamed }
    }

    /// The best queued task after `last` that this daemon may run; from now on nobody else takes it.
    async fn best(
        &self,
        tx: &mut Tx,
        gauge: &Gauge<'_>,
        (last, passed_over): (&mut Option<Stored>, &mut bool),
    ) -> Result<Option<Found>, StoreError> {
        let Peer { workspace, daemon, ref profile, .. } = self.peer;
        if gauge.whole().is_some() {
            return Ok(None);
        }
        let closed = self.closed(gauge);
        loop {
            let limit = if last.is_none() { FIRST_PAGE } else { QUEUE_PAGE };
            let after = (last.as_ref(), limit);
            let page = tasks::queue_but(tx.conn(), workspace, daemon, after, &closed).await?;
            if page.is_empty() {
                return Ok(None);
            }
            let mut held_back = None;
            for row in &page {
                *last = Some(row.clone());
                let continued = tasks::continued_on(tx.conn(), &row.task).await?;
                let candidate = Candidate { id: daemon, profile };
                if let Err(why) = placement::explain(&row.task, continued, candidate) {
                    tracing::debug!(task = %row.task.id, %why, "not placed");
                    continue;
                }
                let agent = placement::agent_of(&row.task, profile);
                let provider = agent.as_deref().and_then(|a| placement::provider_at(a, profile));
                if gauge.barrier(agent.as_deref(), provider.as_deref()).is_some() {
                    continue;
                }
                if held_back.is_none() {
                    // of all at once: a tree whose budget is used up may have many in the queue
                    held_back = Some(spending::held_back(tx.conn(), workspace, &page).await?);
                }
                if held_back.as_ref().is_some_and(|held| held.contains(&row.task.id)) {
                    continue;
                }
                match tasks::take(tx.conn(), workspace, row.task.id).await? {
                    Some(row) => {
                        let probe = provider.as_deref().is_some_and(|name| gauge.is_probe(name));
                        return Ok(Some(Found { row, agent, provider, probe }));
                    }
                    // if it was not claimed but changed, it is still to be had
                    None => *passed_over = true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::change::system;
    use crate::core::tests::core;
    use crate::lease::tests::{at, queued};
    use crate::placement::tests::profile;
    use crate::prices::Delta;
    use crate::registry::LinkId;
    use crate::socket::pipe::Outlet;
    use crate::store::daemons::Profile;
    use crate::store::{asked, users};
    use axum::extract::ws::Message;
    use hayward_shared::api::Vitals;
    use hayward_shared::budget::Budget;
    use hayward_shared::id::{DaemonId, TokenId};
    use hayward_shared::task::{Order, Status};
    use std::sync::Arc;
    use tokio::sync::mpsc::Receiver;
    use tracing::Span;

    const FAR: Duration = Duration::from_secs(3_600);

    /// A link that got all that it was to get, and what it says.
    async fn linked() -> (Connection, Receiver<Message>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let core = core(folder.path(), Timing::default(), Bus::default()).await;
        let mut tx = core.store.write().await.unwrap();
        let workspace = users::add_workspace(tx.conn(), "w", at(0)).await.unwrap();
        tx.commit().await.unwrap();
        let (outlet, queue) = Outlet::narrow(4);
        let (daemon, token) = (DaemonId::fresh(), TokenId::fresh());
        let profile = profile(&[("claude", true)]);
        core.field.enter(workspace, daemon, LinkId(1), &profile);
        let connection = Connection {
            core,
            peer: Peer { daemon, workspace, token, plain: false, profile, span: Span::none() },
            link: LinkId(1),
            outlet,
            work: Arc::default(),
            settled_at: Instant::now(),
            told_at: None,
            unnamed: Vec::new(),
            stored: (0, 0),
        };
        (connection, queue, folder)
    }

    #[tokio::test]
    async fn a_claim_asks_once_for_the_budgets_of_all_that_it_passes_over() {
        let (link, _said, _folder) = linked().await;
        let row = |priority, budget, parent| {
            let order = Order {
                repository_url: Some("/r".into()),
                parent_task_id: parent,
                priority,
                budget,
                ..Order::default()
            };
            let mut row = queued(order);
            row.task.workspace_id = link.peer.workspace;
            row
        };
        let budget = Budget { max_tokens: Some(9), ..Budget::default() };
        let root = row(1, Some(budget), None);
        let parts = (0..99).map(|_| row(1, None, Some(root.task.id)));
        let other = row(0, Some(budget), None);
        let mut tx = link.core.store.write().await.unwrap();
        for row in parts.chain([root.clone(), other.clone()]) {
            if row.task.order.budget.is_some() {
                spending::set_budget(tx.conn(), &row.task).await.unwrap();
            }
            tasks::apply(&mut tx, lease::created(row, &system())).await.unwrap();
        }
        let spent = Delta { tokens: 9, ..Delta::default() };
        spending::add(tx.conn(), &root.task, spent).await.unwrap();
        tx.commit().await.unwrap();
        let before = asked();
        let (spawn, passed_over) = link.claim_one().await.unwrap();
        let asked = asked() - before;
        let Some(ToDaemon::SpawnTask(spawn)) = spawn.map(|spawn| spawn.body) else { panic!() };
        assert_eq!((spawn.task_id, passed_over), (other.task.id, false));
        assert!(asked < 40, "{asked} statements");
    }

    #[tokio::test]
    async fn who_is_second_best_is_told_once_the_better_one_had_its_time_and_left_some() {
        let (mut link, mut said, _folder) = linked().await;
        let (core, workspace) = (link.core.clone(), link.peer.workspace);
        let order = Order { repository_url: Some("/r".into()), ..Order::default() };
        let mut row = queued(order);
        row.task.workspace_id = workspace;
        let mut tx = core.store.write().await.unwrap();
        tasks::apply(&mut tx, lease::created(row.clone(), &system())).await.unwrap();
        tx.commit().await.unwrap();
        let vitals = Vitals { warm: vec!["/r".into()], ..Vitals::default() };
        let (rival, warm) = (DaemonId::fresh(), Profile { vitals, ..link.peer.profile.clone() });
        core.field.enter(workspace, rival, LinkId(2), &warm);
        core.field.has_free(workspace, rival, LinkId(2), 1);

        link.offer().await.unwrap();
        assert!(link.told_at.is_some() && said.is_empty());
        link.told_at = Some(Instant::now() + FAR);
        link.offer().await.unwrap();
        assert!(link.told_at.is_some() && said.is_empty(), "a second hint changes nothing");
        link.told_at = Some(Instant::now());
        link.offer().await.unwrap();
        let told = said.try_recv().unwrap();
        assert!(told.to_text().unwrap().contains("workAvailable") && link.told_at.is_none());

        link.told_at = Some(Instant::now());
        row.task.status = Status::Cancelled;
        let mut tx = core.store.write().await.unwrap();
        tasks::save(tx.conn(), &row).await.unwrap();
        tx.commit().await.unwrap();
        link.offer().await.unwrap();
        assert!(link.told_at.is_none() && said.is_empty(), "the better one took it");
    }
}
