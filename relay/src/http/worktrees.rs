//! Worktrees: listed and looked into, copied out, removed when nobody needs them. The daemons do it.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::gather::{Gathered, of_daemon};
use super::params::{Body, Id, Params};
use super::tasks::find;
use crate::core::Core;
use crate::store::daemons;
use axum::Json;
use axum::extract::State;
use hayward_shared::api::{CloneBody, PruneBody};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::DaemonId;
use hayward_shared::protocol::{FromDaemon, ToDaemon};
use hayward_shared::task::Task;
use serde_json::{Value, json};
use std::sync::Arc;

type Answer<T> = Result<Json<T>, Refusal>;

/// The worktrees of all daemons that are online, and which of them said nothing.
pub(super) async fn all(State(core): State<Arc<Core>>, Bearer(caller): Bearer) -> Answer<Value> {
    caller.reads()?;
    let question = ToDaemon::ListWorktrees { task_id: None };
    let mut all = Gathered::of(&core, caller.workspace, &question).await?;
    let (mut worktrees, mut pools) = (Vec::new(), Vec::new());
    for said in &mut all.answers {
        worktrees.extend(said.own_rows("worktrees"));
        if let Value::Object(mut pool) = said.take("pool") {
            pool.insert("daemonId".to_owned(), json!(said.daemon));
            pool.insert("hostname".to_owned(), json!(said.hostname));
            pools.push(Value::Object(pool));
        }
    }
    Ok(Json(json!({
        "worktrees": worktrees,
        "truncated": all.truncated(),
        "pool": pools,
        "unanswered": all.silent,
    })))
}

/// The worktree of one task.
pub(super) async fn of_task(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Value> {
    let task = find(&core, &caller, &id).await?.task;
    let daemon = holder(&task)?;
    let body = ToDaemon::ListWorktrees { task_id: Some(task.id) };
    let mut answer = core.registry.ask(daemon, body, core.timing.reply).await?;
    let rows = answer.get_mut("worktrees").map(Value::take).unwrap_or_default();
    match of_daemon(daemon, rows).next() {
        Some(row) => Ok(Json(row)),
        None => Err(Fault::not_found("worktree", format!("of task {}", task.id.short())).into()),
    }
}

/// What a sibling may see of a task's work.
pub(super) async fn overlay(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Value> {
    let task = find(&core, &caller, &id).await?.task;
    let body = ToDaemon::ReadOverlay { task_id: task.id };
    Ok(Json(known(core.registry.ask(holder(&task)?, body, core.timing.reply).await?)?))
}

/// `?dir=`: whether something is there already, and whether a clone may go there at all.
pub(super) async fn target(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    params: Params,
) -> Answer<FromDaemon> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    let named = params.one("dir").ok_or_else(|| invalid("dir: required"))?;
    let body = ToDaemon::CheckTargetExists { task_id: task.id, target_dir: named.to_owned() };
    told(core.registry.ask_typed(holder(&task)?, body, core.timing.reply).await?)
}

/// Copies a task's work out of its worktree.
pub(super) async fn clone_out(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    Body(CloneBody { target_dir }): Body<CloneBody>,
) -> Answer<FromDaemon> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    let body = ToDaemon::CloneWorktree { task_id: task.id, target_dir };
    told(core.registry.ask_typed(holder(&task)?, body, core.timing.work).await?)
}

/// Has a daemon remove the worktrees that nobody needs.
pub(super) async fn prune(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    Body(PruneBody { dry_run, force }): Body<PruneBody>,
) -> Answer<Value> {
    caller.commands()?;
    caller.reads()?;
    let absent = || Fault::not_found("daemon", &id.typed);
    let daemon = DaemonId(id.fragment.whole().ok_or_else(absent)?);
    let mut reader = core.store.read().await?;
    daemons::find(&mut reader, caller.workspace, daemon).await?.ok_or_else(absent)?;
    drop(reader);
    let body = ToDaemon::PruneWorktrees { task_id: None, dry_run, force };
    Ok(Json(known(core.registry.ask(daemon, body, core.timing.work).await?)?))
}

fn told(answer: FromDaemon) -> Answer<FromDaemon> {
    match answer.refusal() {
        Some(fault) => Err(fault.clone().into()),
        None => Ok(Json(answer)),
    }
}

/// A plain peer answers nothing.
fn known(answer: Value) -> Result<Value, Fault> {
    match answer {
        Value::Null => Err(Fault::new(Code::Unavailable, "that daemon does not know this command")),
        answer => Ok(answer),
    }
}

fn holder(task: &Task) -> Result<DaemonId, Fault> {
    let none = || Fault::new(Code::Conflict, "no daemon has run the task yet");
    task.holding.daemon_id.ok_or_else(none)
}
