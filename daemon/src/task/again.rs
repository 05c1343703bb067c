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
use crate::complete::Record;
use crate::journal::RunRow;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::run::Failure;
use hayward_shared::task::{CompletionAction, Reason};

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
    bring_home(shop, row.key, wanted).await.map_err(fault)
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
    for record in open {
        let task = record.order.task;
        let Ok(row) = ended(shop, task).await else { continue };
        let goes_back = record.is_going_back();
        let ended = match goes_back {
            true => shop.completions.undo(task, &tools(shop).await).await,
            false => bring_home(shop, row.key, record.order).await,
        };
        match &ended {
            Ok(record) => {
                tracing::info!(%task, done = record.told(), "a cut-off completion is done")
            }
            Err(failure) => {
                tracing::warn!(%task, why = failure.message, "a cut-off completion failed");
            }
        }
        // whoever asked for it was cut off too
        let command = if goes_back { "undo" } else { "complete" };
        let told = completed(row.key, command, &ended.map_err(fault), clock::now());
        if let Err(error) = shop.journal.tell(row.key.lease_epoch, told).await {
            tracing::error!(%task, error = chain(&error), "a completion cannot be told");
        }
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
