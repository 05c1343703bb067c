//! Completing a task whose run has ended, when a person asks for it: `hayward complete`.

use super::aim::target;
use super::deliver::{at_home, completion, open, tools};
use super::jobs::bring_home;
use super::prepare::{chain, order_of};
use super::shop::Shop;
use super::standing::{standing, tip};
use super::state::RunState;
use super::telling::{branch_moved, completed};
use crate::clock;
use crate::complete::{self, Record};
use crate::journal::RunRow;
use crate::spans;
use futures_util::future::join_all;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{CompletionAction, Reason};
use tracing::Instrument;

/// Brings the task's work home by `action`, into `into` where that is said. What lies uncommitted
/// in its worktree is committed first, so a run that failed can be completed too.
///
/// # Errors
/// A fault whose code tells a conflict or a missing branch from what broke.
pub async fn complete(
    shop: &Shop,
    task: TaskId,
    action: CompletionAction,
    into: Option<String>,
) -> Result<Record, Fault> {
    let (key, wanted) = wanted(shop, task, action, into).await?;
    bring_home(shop, key, wanted).await.map_err(fault)
}

/// What is to be brought home as the task stands now.
pub(super) async fn wanted(
    shop: &Shop,
    task: TaskId,
    action: CompletionAction,
    into: Option<String>,
) -> Result<(RunKey, complete::Order), Fault> {
    let row = ended(shop, task).await?;
    let place = row.state.place.clone().ok_or_else(|| nothing(task))?;
    let mut order = order_of(&row.spawn);
    order.completion_action = action;
    if into.is_some() {
        order.target_branch = into;
    }
    let repository = open(shop, &place).await.map_err(fault)?;
    let (branch, head) = standing(shop, &repository, &row, &order, &place).await?;
    let repository = at_home(shop, repository, &place, &branch).await.map_err(fault)?;
    let head = match &place.lent_from {
        Some(_) => tip(&repository, &branch).await.map_or(head, |tip| tip.to_string()),
        None => head,
    };
    if row.state.head_commit.as_ref() != Some(&head) {
        let moved = branch_moved(row.key, &branch, &head, clock::now());
        let told = shop.journal.tell(row.key.lease_epoch, moved).await;
        told.map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
    }
    let target = match action {
        CompletionAction::Branch | CompletionAction::None => branch.clone(),
        CompletionAction::Merge | CompletionAction::Pr => {
            target(&repository, &order).await.map_err(fault)?
        }
    };
    let wanted = completion(shop, task, &order, &place, (&branch, &head, &target));
    Ok((row.key, wanted))
}

/// Takes back what the task's last completion did.
///
/// # Errors
/// A fault; nothing changed then.
pub async fn undo(shop: &Shop, task: TaskId) -> Result<Record, Fault> {
    ended(shop, task).await?;
    shop.completions.undo(task, &tools(shop).await).await.map_err(fault)
}

/// Goes on with what an earlier daemon was cut off from. Runs that live bring their own work home.
pub async fn resume(shop: &Shop) {
    let open = match shop.completions.open().await {
        Ok(open) => open,
        Err(error) => {
            tracing::error!(error = chain(&error), "cut-off completions cannot be read");
            return;
        }
    };
    // one that waits, or is paused, holds no other up
    let go_on = |record: Record| {
        let span = spans::task(record.order.task, "complete");
        go_on(shop, record).instrument(span)
    };
    join_all(open.into_iter().map(go_on)).await;
}

async fn go_on(shop: &Shop, record: Record) {
    let task = record.order.task;
    let Ok(row) = ended(shop, task).await else { return };
    let goes_back = record.is_going_back();
    let ended = match goes_back {
        true => shop.completions.undo(task, &tools(shop).await).await,
        false => bring_home(shop, row.key, record.order).await,
    };
    match &ended {
        Ok(record) => {
            tracing::info!(done = record.told(), "a cut-off completion is done")
        }
        Err(failure) => {
            tracing::warn!(why = failure.message, "a cut-off completion failed");
        }
    }
    // whoever asked for it was cut off too
    let command = if goes_back { "undo" } else { "complete" };
    tell(shop, row.key, command, &ended.map_err(fault)).await;
}

/// Tells the task what came of a completion that nobody awaits.
pub(super) async fn tell(shop: &Shop, key: RunKey, command: &str, ended: &Result<Record, Fault>) {
    let told = completed(key, command, ended, clock::now());
    if let Err(error) = shop.journal.tell(key.lease_epoch, told).await {
        tracing::error!(task = %key.task_id, error = chain(&error), "a completion cannot be told");
    }
}

async fn ended(shop: &Shop, task: TaskId) -> Result<RunRow<RunState>, Fault> {
    let row = shop.journal.last_run::<RunState>(task).await;
    let row = row.map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
    let row = row.ok_or_else(|| nothing(task))?;
    if row.ended {
        return Ok(row);
    }
    let text = format!("task {} still runs: wait for its end, or cancel it", task.short());
    Err(Fault::new(Code::IllegalTransition, text))
}

fn nothing(task: TaskId) -> Fault {
    Fault::new(Code::NotFound, format!("task {} has no worktree here", task.short()))
}

pub(super) fn fault(failure: Failure) -> Fault {
    let code = match failure.reason {
        Reason::MergeConflict | Reason::TargetInTheWay | Reason::ActionUnsupported => {
            Code::Conflict
        }
        Reason::TargetNotFound => Code::NotFound,
        Reason::SecretsExposed => Code::Refused,
        _ => Code::Failed,
    };
    Fault::new(code, failure.message)
}
