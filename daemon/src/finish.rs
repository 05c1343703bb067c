//! Completion actions by request: carried out, and answered in the words of the wire.

use crate::clock;
use crate::complete::Record;
use crate::task::{Shop, again, chain};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, TaskId};
use hayward_shared::protocol::{FromDaemon, ToDaemon};

/// Carries out `retryCompletionAction` or `undoCompletion`. The answer is kept before it is given:
/// the same request again gets it again.
pub async fn serve(shop: &Shop, command: ToDaemon, request: Option<RequestId>) -> FromDaemon {
    let (task, done) = match command {
        ToDaemon::RetryCompletionAction { task_id, action, target_branch, .. } => {
            (task_id, again::complete(shop, task_id, action, target_branch).await)
        }
        ToDaemon::UndoCompletion { task_id } => (task_id, again::undo(shop, task_id).await),
        other => {
            let text = format!("'{}' is no completion command", other.type_name());
            let task = other.answer().map_or_else(TaskId::fresh, |(task, _)| task);
            (task, Err(Fault::new(Code::UnknownType, text)))
        }
    };
    let answer = told(task, done);
    if let Some(request) = request
        && let Err(error) = shop.journal.keep_answer(request, &answer, clock::now()).await
    {
        tracing::error!(error = chain(&error), "an answer cannot be kept");
    }
    answer
}

fn told(task_id: TaskId, done: Result<Record, Fault>) -> FromDaemon {
    match done {
        Ok(record) => FromDaemon::CompletionActionResult {
            task_id,
            success: true,
            message: record.told(),
            pr_url: record.pr_url().map(str::to_owned),
            error: None,
        },
        Err(fault) => FromDaemon::CompletionActionResult {
            task_id,
            success: false,
            message: fault.message.clone(),
            pr_url: None,
            error: Some(fault),
        },
    }
}
