//! Merges: asked of the task's daemon, answered in the words of the wire.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::params::{Id, Params};
use super::tasks::{again, find};
use crate::change::Change;
use crate::core::Core;
use crate::store::{daemons, tasks};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use hayward_shared::event::{Actor, Kind, MAX_SUMMARY, bounded};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, Fragment};
use hayward_shared::merge::{MergeCommitBody, MergeResolveBody, MergeSkipBody, MergeStartBody};
use hayward_shared::protocol::{FromDaemon, ToDaemon};
use hayward_shared::task::Task;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// Files in conflict that an event names: it is a summary, the answer has them all.
const MOST_NAMED: usize = 50;

/// The most bytes of a name in a query: longer ones are no branch of git's.
const MAX_NAME: usize = 1024;

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) async fn branches(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<FromDaemon> {
    let task = find(&core, &caller, &id).await?.task;
    Ok(Json(ask(&core, &task, ToDaemon::ListBranches { task_id: task.id }).await?))
}

pub(super) async fn status(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<FromDaemon> {
    let task = find(&core, &caller, &id).await?.task;
    Ok(Json(ask(&core, &task, ToDaemon::MergeStatus { task_id: task.id }).await?))
}

pub(super) async fn check(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<FromDaemon> {
    let task = find(&core, &caller, &id).await?.task;
    Ok(Json(ask(&core, &task, ToDaemon::CheckMergeComplete { task_id: task.id }).await?))
}

/// `?target=` into which, `?source=` in place of the task's own branch.
pub(super) async fn preview(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    params: Params,
) -> Answer<Value> {
    let task = find(&core, &caller, &id).await?.task;
    let body = ToDaemon::PreviewMerge {
        task_id: Some(task.id),
        repository: None,
        source: name(&params, "source")?,
        target: name(&params, "target")?,
    };
    let daemon = holder(&task)?;
    Ok(Json(previewed(&core, daemon, body).await?))
}

/// A preview in a repository of a daemon's machine. Whoever may command agents there may look.
pub(super) async fn preview_on(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    params: Params,
) -> Answer<Value> {
    caller.commands()?;
    let absent = || Fault::not_found("daemon", &id.typed);
    let daemon = DaemonId(id.fragment.whole().ok_or_else(absent)?);
    let mut reader = core.store.read().await?;
    daemons::find(&mut reader, caller.workspace, daemon).await?.ok_or_else(absent)?;
    drop(reader);
    let required = |of: &'static str| {
        name(&params, of).and_then(|name| name.ok_or_else(|| invalid(format!("{of}: required"))))
    };
    let body = ToDaemon::PreviewMerge {
        task_id: None,
        repository: Some(required("repository")?),
        source: Some(required("source")?),
        target: name(&params, "target")?,
    };
    Ok(Json(previewed(&core, daemon, body).await?))
}

/// `start`, `resolve`, `commit`, `abort` and `skip`. A merge that conflicts is no error: its answer
/// lists the files.
pub(super) async fn command(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    Path((id, what)): Path<(String, String)>,
    body: Bytes,
) -> Answer<FromDaemon> {
    caller.commands()?;
    let fragment = id.parse::<Fragment>().map_err(|e| invalid(e.to_string()))?;
    let task = find(&core, &caller, &Id { typed: id, fragment }).await?.task;
    let task_id = task.id;
    let command = match what.as_str() {
        "start" => {
            let MergeStartBody { source_branch } = read(&body)?;
            ToDaemon::MergeStart { task_id, source_branch }
        }
        "resolve" => {
            let MergeResolveBody { file, strategy } = read(&body)?;
            ToDaemon::MergeResolve { task_id, file, strategy: strategy.name().to_owned() }
        }
        "commit" => {
            let MergeCommitBody { message } = read(&body)?;
            ToDaemon::MergeCommit { task_id, message }
        }
        "abort" => ToDaemon::MergeAbort { task_id },
        "skip" => {
            let MergeSkipBody { subtask_id, reason } = read(&body)?;
            let fragment = subtask_id.parse::<Fragment>().map_err(|e| invalid(e.to_string()))?;
            let part = find(&core, &caller, &Id { typed: subtask_id, fragment }).await?.task;
            ToDaemon::MergeSkip { task_id, subtask_id: part.id, reason }
        }
        other => {
            return Err(Fault::new(Code::NotFound, format!("no merge command '{other}'")).into());
        }
    };
    let is_told = matches!(what.as_str(), "start" | "commit" | "abort");
    let answer = act(&core, &task, command).await?;
    if is_told {
        tell(&core, &task, &what, &answer, &caller.actor()).await?;
    }
    match answer.refusal() {
        Some(fault) => Err(fault.clone().into()),
        None => Ok(Json(answer)),
    }
}

/// Has the daemon do it. A plain peer gives no answer to a skip, so it is asked how things stand.
async fn act(core: &Core, task: &Task, command: ToDaemon) -> Result<FromDaemon, Fault> {
    let is_skip = matches!(command, ToDaemon::MergeSkip { .. });
    if is_skip && core.registry.replies(holder(task)?).await == Some(false) {
        core.registry.tell(holder(task)?, command).await?;
        return ask(core, task, ToDaemon::CheckMergeComplete { task_id: task.id }).await;
    }
    core.registry.ask_typed(holder(task)?, command, core.timing.work).await
}

async fn ask(core: &Core, task: &Task, command: ToDaemon) -> Result<FromDaemon, Fault> {
    core.registry.ask_typed(holder(task)?, command, core.timing.reply).await
}

async fn previewed(core: &Core, daemon: DaemonId, command: ToDaemon) -> Result<Value, Fault> {
    match core.registry.ask(daemon, command, core.timing.work).await? {
        Value::Null => Err(Fault::new(Code::Unavailable, "that daemon knows no previews")),
        preview => Ok(preview),
    }
}

fn holder(task: &Task) -> Result<DaemonId, Fault> {
    let none = || Fault::new(Code::Conflict, "no daemon has run the task yet");
    task.holding.daemon_id.ok_or_else(none)
}

fn name(params: &Params, of: &'static str) -> Result<Option<String>, Fault> {
    match params.one(of).filter(|name| !name.is_empty()) {
        Some(name) if name.len() > MAX_NAME => Err(invalid(format!("{of}: 1 KiB at the most"))),
        name => Ok(name.map(str::to_owned)),
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Fault> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).map_err(|e| invalid(format!("the body cannot be read: {e}")))
}

/// Stores what came of a merge in the task's stream.
async fn tell(
    core: &Core,
    task: &Task,
    command: &str,
    answer: &FromDaemon,
    by: &Actor,
) -> Result<(), Refusal> {
    let FromDaemon::MergeResult { success, message, commit_sha, conflicts, error, .. } = answer
    else {
        return Ok(());
    };
    let named = conflicts.as_ref().map(|files| {
        files.iter().take(MOST_NAMED).map(|file| bounded(file, MAX_NAME).0).collect::<Vec<_>>()
    });
    let payload = json!({
        "command": command,
        "success": success,
        "message": bounded(message, MAX_SUMMARY).0,
        "commitSha": commit_sha,
        "conflicts": named,
        "code": error.as_ref().map(|fault| fault.code.name()),
    });
    let mut tx = core.store.write().await?;
    let mut change = Change::of(again(&mut tx, task).await?);
    change.say(Kind::MergeResult, by, crate::clock::now(), payload);
    tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    Ok(())
}
