//! Completing a task whose run has ended, when a person asks for it: `hayward complete`.

use super::deliver::{at_home, commit_on, completion, open, target, tools};
use super::prepare::{chain, order_of};
use super::shop::Shop;
use super::state::{Place, RunState};
use crate::complete::Record;
use crate::git::{BranchName, CommitId, Repository};
use crate::journal::RunRow;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::run::Failure;
use hayward_shared::task::{CompletionAction, Order, Reason};

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
    let place = row.state.place.ok_or_else(|| nothing(task))?;
    let mut order = order_of(&row.spawn);
    order.completion_action = action;
    if into.is_some() {
        order.target_branch = into;
    }
    let repository = open(shop, &place).await.map_err(fault)?;
    let (branch, head) = branch(shop, &repository, task, &order, &place).await?;
    let repository = at_home(shop, repository, &place, &branch).await.map_err(fault)?;
    let target = match action {
        CompletionAction::Branch | CompletionAction::None => branch.clone(),
        CompletionAction::Merge | CompletionAction::Pr => {
            target(&repository, &order).await.map_err(fault)?
        }
    };
    let wanted = completion(shop, task, &order, &place, (&branch, &head, &target));
    shop.completions.complete(wanted, &tools(shop).await).await.map_err(fault)
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
        if ended(shop, task).await.is_err() {
            continue;
        }
        let goes_back = record.is_going_back();
        let tools = tools(shop).await;
        let ended = match goes_back {
            true => shop.completions.undo(task, &tools).await,
            false => shop.completions.complete(record.order, &tools).await,
        };
        match ended {
            Ok(record) => {
                tracing::info!(%task, done = record.told(), "a cut-off completion is done")
            }
            Err(failure) => {
                tracing::warn!(%task, why = failure.message, "a cut-off completion failed");
            }
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

/// The task's branch and its tip, after what lies in its worktree was committed on it. A task that
/// ended without a branch is given one.
async fn branch(
    shop: &Shop,
    repository: &Repository,
    task: TaskId,
    order: &Order,
    place: &Place,
) -> Result<(String, String), Fault> {
    let known = match &place.branch {
        Some(branch) => Some(branch.clone()),
        None => {
            let former = shop.completions.of(task).await;
            former.map_err(|error| Fault::new(Code::Failed, chain(&error)))?.map(|r| r.order.branch)
        }
    };
    let tip = async |branch: &str| -> Option<CommitId> {
        repository.resolve(&format!("refs/heads/{branch}")).await.ok()
    };
    if place.path.is_dir() {
        let name = match known {
            Some(name) => name,
            None => {
                BranchName::for_task(&order.name, &task.short())
                    .choose(
                        &repository
                            .branches()
                            .await
                            .map_err(|e| Fault::new(Code::Failed, chain(&e)))?,
                    )
                    .name
            }
        };
        let work = commit_on(shop, repository, task, order, (place, &name)).await.map_err(fault)?;
        return match (work.branch, work.head_commit) {
            (Some(branch), Some(head)) => Ok((branch, head)),
            _ => {
                let text =
                    format!("task {} changed nothing: there is no work to bring", task.short());
                Err(Fault::new(Code::Conflict, text))
            }
        };
    }
    if let Some(name) = known
        && let Some(head) = tip(&name).await
    {
        return Ok((name, head.to_string()));
    }
    let text = format!("neither worktree nor branch of task {} is left", task.short());
    Err(Fault::new(Code::NotFound, text))
}

fn fault(failure: Failure) -> Fault {
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
