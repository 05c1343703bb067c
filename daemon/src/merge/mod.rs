//! The desk for merges: the merge commands of the wire, carried out as data.
//!
//! A merge under way is a row of the journal; no work tree ever stands in the middle of one. What
//! it needs is made again from the two commits when it is committed, and then landed: that one
//! step moves the task's branch and the worktree that follows it. So a crash loses nothing, and
//! giving a merge up touches nothing.

mod act;
mod faults;
mod look;
mod machine;

use crate::clock;
use crate::git::{CommitId, Repository};
use crate::journal::Answered;
use crate::task::{Place, RunState, Shop, branch_moved, order_of};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, TaskId};
use hayward_shared::protocol::{FromDaemon, ToDaemon};
use hayward_shared::run::RunKey;
use hayward_shared::task::Order;
use machine::Session;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Mutex as Turn;

/// The desk. It alone changes merges under way; commands to one task are carried out one after
/// another, those to different tasks at once.
#[derive(Debug)]
pub struct Desk {
    shop: Arc<Shop>,
    turns: Mutex<HashMap<TaskId, Weak<Turn<()>>>>,
}

/// A task whose branch can be merged into, as it stands now.
struct Ground {
    task: TaskId,
    /// The task's last run.
    key: RunKey,
    repository: Repository,
    place: Place,
    branch: String,
    order: Order,
    /// Whether its agent may still be at work.
    is_live: bool,
}

/// What a command leads to: how the merge stands after it, and what is answered.
struct Step {
    session: Option<Session>,
    answer: FromDaemon,
    /// Where the task's branch stands now, when that is news.
    moved: Option<String>,
}

impl Desk {
    /// A desk that works with the daemon's tools.
    #[must_use]
    pub fn new(shop: Arc<Shop>) -> Self {
        Self { shop, turns: Mutex::default() }
    }

    /// Carries out a merge command and answers it; any other command is refused. The answer of
    /// one that changes something is kept with the change, so that the same request again gets it
    /// again.
    pub async fn serve(&self, command: ToDaemon, request: Option<RequestId>) -> FromDaemon {
        let done = match &command {
            ToDaemon::PreviewMerge { .. } => self.preview(&command).await,
            _ => match command.answer() {
                Some((task, _)) => self.in_turn(task, &command, request).await,
                None => {
                    let text = format!("'{}' is no merge command", command.type_name());
                    Err(Fault::new(Code::UnknownType, text))
                }
            },
        };
        match done {
            Ok(answer) => answer,
            Err(fault) => self.refuse(&command, request, fault).await,
        }
    }

    async fn in_turn(
        &self,
        task: TaskId,
        command: &ToDaemon,
        request: Option<RequestId>,
    ) -> Result<FromDaemon, Fault> {
        let turn = self.turn(task);
        let held = match command {
            // how things stood before what goes on now is known without waiting for it
            ToDaemon::MergeStatus { .. } => turn.try_lock().ok(),
            _ => Some(turn.lock().await),
        };
        if held.is_none() {
            self.ground(task).await?;
            return self.status(task).await;
        }
        let ground = self.ground(task).await?;
        let healed = self.heal(&ground).await?;
        if let Some(request) = request
            && let Some(answer) =
                self.shop.journal.answer(request).await.map_err(faults::journal)?
        {
            return Ok(answer);
        }
        match command {
            ToDaemon::ListBranches { .. } => self.branches(&ground).await,
            ToDaemon::MergeStatus { .. } => self.status(task).await,
            ToDaemon::CheckMergeComplete { .. } => self.check(&ground).await,
            ToDaemon::MergeSkip { subtask_id, reason, .. } => {
                self.skip(&ground, *subtask_id, reason).await
            }
            _ => {
                let step = self.change(&ground, command, request, healed).await?;
                self.keep(&ground, step, request).await
            }
        }
    }

    /// Writes down where a command led, with its answer, and what the relay is told of it.
    async fn keep(
        &self,
        ground: &Ground,
        step: Step,
        request: Option<RequestId>,
    ) -> Result<FromDaemon, Fault> {
        let Step { session, answer, moved } = step;
        let (task, key, at) = (ground.key.task_id, ground.key, clock::now());
        let told =
            moved.map(|head| (key.lease_epoch, branch_moved(key, &ground.branch, &head, at)));
        let answered = request.map(|request| Answered { request, answer: &answer, at });
        let kept = self.shop.journal.keep_merge(task, session.as_ref(), answered, told).await;
        kept.map_err(faults::journal)?;
        Ok(answer)
    }

    async fn session(&self, task: TaskId) -> Result<Option<Session>, Fault> {
        self.shop.journal.merge(task).await.map_err(faults::journal)
    }

    /// A refusal changes nothing; it is kept all the same, so that a repeated request is not
    /// carried out later.
    async fn refuse(
        &self,
        command: &ToDaemon,
        request: Option<RequestId>,
        fault: Fault,
    ) -> FromDaemon {
        let answer = faults::refusal(command, request, fault);
        let changes = matches!(command.answer(), Some((_, "mergeResult" | "mergeCompleteCheck")));
        if let Some(request) = request.filter(|_| changes)
            && let Err(error) = self.shop.journal.keep_answer(request, &answer, clock::now()).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "an answer cannot be kept");
        }
        answer
    }

    fn turn(&self, task: TaskId) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&task).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::new(()));
        turns.insert(task, Arc::downgrade(&turn));
        turn
    }

    /// The task's last run here, when it made a worktree with a branch.
    async fn ground(&self, task: TaskId) -> Result<Ground, Fault> {
        let row = self.shop.journal.last_run::<RunState>(task).await.map_err(faults::journal)?;
        let row =
            row.ok_or_else(|| Fault::not_found("run", format!("of task {}", task.short())))?;
        let none =
            |what: &str| Fault::new(Code::Conflict, format!("task {} has no {what}", task.short()));
        let place = row.state.place.ok_or_else(|| none("worktree yet"))?;
        let branch = place.branch.clone().ok_or_else(|| {
            none("branch").with_hint("a task makes none with --on none: run it with --on branch")
        })?;
        let opened = self.shop.repositories.open(&place.repository).await;
        let repository = opened.map_err(faults::open)?;
        let (order, is_live) = (order_of(&row.spawn), !row.ended);
        Ok(Ground { task, key: row.key, repository, place, branch, order, is_live })
    }
}

impl Ground {
    /// Where the task's branch stands. A branch that was dropped because it held nothing stands at
    /// the commit it was made at.
    async fn tip(&self) -> Result<CommitId, Fault> {
        let name = format!("refs/heads/{}", self.branch);
        match self.repository.resolve(&name).await {
            Ok(tip) => Ok(tip),
            Err(crate::git::repo::ResolveError::Unknown { .. }) => self.base(),
            Err(error) => Err(faults::resolve(error)),
        }
    }

    fn base(&self) -> Result<CommitId, Fault> {
        self.place
            .base_commit
            .parse()
            .map_err(|error: crate::git::repo::BadCommitId| faults::failed(&error))
    }
}
