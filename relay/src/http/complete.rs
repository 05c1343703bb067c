//! Completion actions: asked of the task's daemon, and told in the task's stream.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::params::{Body, Id};
use super::tasks::{again, find};
use crate::change::Change;
use crate::core::Core;
use crate::store::tasks;
use axum::Json;
use axum::extract::State;
use hayward_shared::api::CompleteBody;
use hayward_shared::event::{Actor, Kind, MAX_SUMMARY, bounded};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::protocol::{FromDaemon, ToDaemon};
use hayward_shared::task::{CompletionAction, IllegalTransition, Status, Task};
use serde_json::json;
use std::sync::Arc;

/// Runs, or retries, the completion action of a task that has ended; with `undo` takes it back.
pub(super) async fn complete(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    Body(body): Body<CompleteBody>,
) -> Result<Json<FromDaemon>, Refusal> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    if !task.status.is_final() {
        return Err(IllegalTransition { from: task.status, to: Status::Completed }.into());
    }
    let daemon = task
        .holding
        .daemon_id
        .ok_or_else(|| Fault::new(Code::Conflict, "no daemon has run the task yet"))?;
    let (what, command) = command(&task, body)?;
    let answer = core.registry.ask_typed(daemon, command, core.timing.work).await?;
    tell(&core, &task, what, &answer, &caller.actor()).await?;
    match answer.refusal() {
        Some(fault) => Err(fault.clone().into()),
        None => Ok(Json(answer)),
    }
}

fn command(task: &Task, body: CompleteBody) -> Result<(&'static str, ToDaemon), Fault> {
    if body.undo {
        if body.action.is_some() || body.target_branch.is_some() {
            return Err(invalid("undo: takes back what was done, so it takes no action or target"));
        }
        return Ok(("undo", ToDaemon::UndoCompletion { task_id: task.id }));
    }
    let action = match body.action.unwrap_or(task.order.completion_action) {
        // it ended with nothing done: the least that can be done is a branch
        CompletionAction::None => CompletionAction::Branch,
        action => action,
    };
    let command = ToDaemon::RetryCompletionAction {
        task_id: task.id,
        task_name: task.order.name.clone(),
        action,
        target_repo_path: task.order.repository_url.clone().unwrap_or_default(),
        target_branch: body.target_branch.or_else(|| task.order.target_branch.clone()),
    };
    Ok(("complete", command))
}

/// Stores what came of it: in the task's stream, and the pull request in the task.
async fn tell(
    core: &Core,
    task: &Task,
    command: &str,
    answer: &FromDaemon,
    by: &Actor,
) -> Result<(), Refusal> {
    let FromDaemon::CompletionActionResult { success, message, pr_url, error, .. } = answer else {
        return Ok(());
    };
    let payload = json!({
        "command": command,
        "success": success,
        "message": bounded(message, MAX_SUMMARY).0,
        "prUrl": pr_url,
        "code": error.as_ref().map(|fault| fault.code.name()),
    });
    let now = crate::clock::now();
    let mut tx = core.store.write().await?;
    let mut change = Change::of(again(&mut tx, task).await?);
    if pr_url.is_some() && change.row.task.results.pr_url != *pr_url {
        change.row.task.results.pr_url.clone_from(pr_url);
        change.updated(&["prUrl"], by, now);
    }
    change.say(Kind::MergeResult, by, now, payload);
    tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    Ok(())
}
