//! The merge queues of a workspace: each daemon has those of its machine's repositories.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::gather::Gathered;
use super::params::{Body, Id};
use super::tasks::find;
use crate::core::Core;
use axum::Json;
use axum::extract::State;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, EntryId};
use hayward_shared::protocol::ToDaemon;
use hayward_shared::queue::QueueAddBody;
use serde_json::{Value, json};
use std::sync::Arc;

/// The most tasks queued at once: what a daemon takes.
const MOST_TASKS: usize = 200;

type Answer = Result<Json<Value>, Refusal>;

pub(super) async fn list(State(core): State<Arc<Core>>, Bearer(caller): Bearer) -> Answer {
    caller.reads()?;
    let mut all = Gathered::of(&core, caller.workspace, &ToDaemon::QueueList {}).await?;
    let rows: Vec<_> = all.answers.iter_mut().flat_map(|said| said.own_rows("queue")).collect();
    Ok(Json(json!({ "queue": rows, "truncated": all.truncated(), "unanswered": all.silent })))
}

/// Queues tasks that have ended, all on one daemon.
pub(super) async fn add(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    Body(body): Body<QueueAddBody>,
) -> Answer {
    caller.commands()?;
    if body.task_ids.is_empty() || body.task_ids.len() > MOST_TASKS {
        return Err(invalid("taskIds: from 1 to 200").into());
    }
    let mut holder = None;
    let mut task_ids = Vec::new();
    for typed in body.task_ids {
        let fragment = typed.parse().map_err(|_| Fault::not_found("task", &typed))?;
        let task = find(&core, &caller, &Id { typed, fragment }).await?.task;
        let short = task.id.short();
        let conflict = |text: String| Fault::new(Code::Conflict, format!("task {short} {text}"));
        if !task.status.is_final() {
            return Err(conflict(format!("is {}: it has not ended", task.status)).into());
        }
        if task.results.branch.is_none() {
            return Err(conflict("has no branch to be merged".to_owned()).into());
        }
        let daemon = task.holding.daemon_id;
        let daemon = daemon.ok_or_else(|| conflict("was run by no daemon".to_owned()))?;
        if *holder.get_or_insert(daemon) != daemon {
            return Err(conflict("ran on another daemon than those before it".to_owned()).into());
        }
        task_ids.push(task.id);
    }
    let daemon = holder.ok_or_else(|| invalid("taskIds: from 1 to 200"))?;
    let command = ToDaemon::QueueAdd {
        task_ids,
        target: body.target_branch.filter(|name| !name.is_empty()),
        check: body.check,
        timeout_seconds: body.timeout_seconds,
    };
    Ok(Json(ask(&core, daemon, command).await?))
}

/// Takes an entry out, on whichever daemon it is.
pub(super) async fn remove(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer {
    caller.commands()?;
    let mut all = Gathered::of(&core, caller.workspace, &ToDaemon::QueueList {}).await?;
    let (daemon, entry, _) = all.find("queue", "entry", &id)?;
    let command = ToDaemon::QueueRemove { entry_id: EntryId(entry) };
    Ok(Json(ask(&core, daemon, command).await?))
}

async fn ask(core: &Core, daemon: DaemonId, command: ToDaemon) -> Result<Value, Fault> {
    match core.registry.ask(daemon, command, core.timing.work).await? {
        Value::Null => Err(Fault::new(Code::Unavailable, "that daemon knows no merge queue")),
        answer => Ok(answer),
    }
}
