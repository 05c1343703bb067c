//! What is asked of the queue, looked at before it is taken.

use super::record::Record;
use crate::clock;
use crate::git::repo::ResolveError;
use crate::task::{RunState, Shop, chain, message, order_of, section_of, target, whose};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{EntryId, TaskId};
use hayward_shared::queue::{CHECK_SECONDS, MOST_CHECK_SECONDS, QueueEntry, QueueState, QueueWish};

/// The longest command line of a check, in bytes: a longer one belongs into a script.
const MOST_CHECK: usize = 4 * 1024;

/// The most tasks queued at once.
const MOST_TASKS: usize = 200;

/// What `queueAdd` asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) tasks: Vec<TaskId>,
    pub(super) target: Option<String>,
    pub(super) check: String,
    pub(super) timeout_seconds: Option<u64>,
}

fn invalid(text: &str) -> Fault {
    Fault::new(Code::Invalid, text)
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(Code::Failed, chain(error))
}

/// The entries that are asked for, in order; nothing is changed.
pub(super) async fn drafts(shop: &Shop, asked: &Asked) -> Result<Vec<Record>, Fault> {
    if asked.tasks.is_empty() || asked.tasks.len() > MOST_TASKS {
        return Err(invalid("taskIds: from 1 to 200"));
    }
    if asked.check.len() > MOST_CHECK || asked.check.contains('\0') {
        return Err(invalid("check: 4 KiB at the most, and no NUL"));
    }
    if !(1..=MOST_CHECK_SECONDS).contains(&asked.timeout_seconds.unwrap_or(CHECK_SECONDS)) {
        return Err(invalid("timeoutSeconds: from 1 to 86400"));
    }
    let mut records: Vec<Record> = Vec::new();
    for task in &asked.tasks {
        if records.iter().any(|record| record.entry.task_id == *task) {
            return Err(invalid("taskIds: name each task once"));
        }
        records.push(draft(shop, *task, asked).await?);
    }
    let goes = |record: &Record| {
        let wish = &record.entry.wish;
        (wish.repository.clone(), wish.target.clone())
    };
    if records.windows(2).any(|pair| pair.first().map(goes) != pair.last().map(goes)) {
        let text = "these tasks go to different branches or repositories";
        return Err(Fault::new(Code::Conflict, text).with_hint("queue them one branch at a time"));
    }
    Ok(records)
}

async fn draft(shop: &Shop, task: TaskId, asked: &Asked) -> Result<Record, Fault> {
    let conflict =
        |text: String| Fault::new(Code::Conflict, format!("task {} {text}", task.short()));
    let row = shop.journal.last_run::<RunState>(task).await.map_err(|error| failed(&error))?;
    let row = row.ok_or_else(|| Fault::not_found("run", format!("of task {}", task.short())))?;
    if !row.ended {
        return Err(conflict("has not ended yet".to_owned()));
    }
    let place = row.state.place.ok_or_else(|| conflict("has no worktree".to_owned()))?;
    let branch = place.branch.clone().ok_or_else(|| conflict("made no branch".to_owned()))?;
    let opened = shop.repositories.open(whose(&place)).await;
    let repository = opened.map_err(|error| failed(&error))?;
    let head = match repository.resolve(&format!("refs/heads/{branch}")).await {
        Ok(head) => head,
        Err(ResolveError::Unknown { .. }) => {
            return Err(conflict(format!(
                "has no work to be merged: there is no branch '{branch}'"
            )));
        }
        Err(error) => return Err(failed(&error)),
    };
    let order = order_of(&row.spawn);
    let target = match &asked.target {
        Some(name) => name.strip_prefix("refs/heads/").unwrap_or(name).to_owned(),
        None => target(&repository, &order)
            .await
            .map_err(|failure| Fault::new(Code::Conflict, failure.message))?,
    };
    if target == branch {
        return Err(conflict(format!("works on '{target}' itself")));
    }
    match repository.branch_tip(&target).await {
        Ok(_) => {}
        Err(ResolveError::Unknown { near, .. }) => {
            let fault = Fault::not_found("branch", format!("'{target}' to merge into"));
            return Err(match near.as_slice() {
                [] => fault,
                near => fault.with_hint(format!("did you mean '{}'?", near.join("', '"))),
            });
        }
        Err(error) => return Err(failed(&error)),
    }
    Ok(Record {
        entry: QueueEntry {
            id: EntryId::fresh(),
            task_id: task,
            wish: QueueWish {
                repository: repository.common_dir().to_string_lossy().into_owned(),
                branch,
                head_commit: head.to_string(),
                target,
                check: asked.check.trim().to_owned(),
                timeout_seconds: asked.timeout_seconds.unwrap_or(CHECK_SECONDS),
            },
            state: QueueState::Waiting,
            position: None,
            message: String::new(),
            files: Vec::new(),
            sent_back: None,
            landed_commit: None,
            created_at: clock::now(),
            ended_at: None,
        },
        run: row.key,
        title: message(task, &order).subject,
        sign: section_of(shop, &order, whose(&place)).sign,
        named: order.repository_url.unwrap_or_default(),
    })
}
