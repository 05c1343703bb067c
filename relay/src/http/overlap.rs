//! Which live tasks change the same files: asked of every daemon of the workspace that is online.

use super::caller::Bearer;
use super::fault::Refusal;
use super::params::{Id, Params};
use super::tasks::find;
use crate::core::Core;
use crate::store::daemons;
use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use hayward_shared::fault::Fault;
use hayward_shared::id::{DaemonId, TaskId, WorkspaceId};
use hayward_shared::protocol::ToDaemon;
use serde_json::{Value, json};
use std::sync::Arc;

/// Daemons read at once.
const PAGE: u32 = 200;

pub(super) async fn all(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Result<Json<Value>, Refusal> {
    let Some(typed) = params.one("task") else {
        caller.reads()?;
        return Ok(Json(gather(&core, caller.workspace, None).await?));
    };
    let absent = |_| Fault::not_found("task", typed);
    let id = Id { typed: typed.to_owned(), fragment: typed.parse().map_err(absent)? };
    let task = find(&core, &caller, &id).await?.task;
    Ok(Json(gather(&core, caller.workspace, Some(task.id)).await?))
}

pub(super) async fn of_task(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Result<Json<Value>, Refusal> {
    let task = find(&core, &caller, &id).await?.task;
    Ok(Json(gather(&core, caller.workspace, Some(task.id)).await?))
}

/// What the daemons say, put together, and which of them said nothing.
async fn gather(
    core: &Core,
    workspace: WorkspaceId,
    task_id: Option<TaskId>,
) -> Result<Value, Refusal> {
    let asked = online(core, workspace).await?.into_iter().map(|(id, hostname)| async move {
        let body = ToDaemon::ReadOverlap { task_id };
        (id, hostname, core.registry.ask(id, body, core.timing.reply).await)
    });
    let (mut verdicts, mut polled, mut silent, mut truncated) = (vec![], vec![], vec![], false);
    for (id, hostname, answer) in join_all(asked).await {
        match answer {
            Ok(mut answer) => {
                let mut rows = |name: &str| match answer.get_mut(name).map(Value::take) {
                    Some(Value::Array(rows)) => rows,
                    _ => Vec::new(),
                };
                verdicts.extend(rows("overlap"));
                polled.extend(rows("polled"));
                truncated |= answer.get("truncated") == Some(&Value::Bool(true));
            }
            Err(fault) => silent.push(json!({
                "daemonId": id, "hostname": hostname, "reason": fault.message,
            })),
        }
    }
    Ok(json!({
        "overlap": verdicts, "truncated": truncated, "polled": polled, "unanswered": silent,
    }))
}

/// The daemons of a workspace that are online, with their hosts' names.
pub(super) async fn online(
    core: &Core,
    workspace: WorkspaceId,
) -> Result<Vec<(DaemonId, String)>, Refusal> {
    let mut all = known(core, workspace).await?;
    all.retain(|(id, _)| core.registry.is_online(*id));
    Ok(all)
}

/// The daemons of a workspace, with their hosts' names.
pub(super) async fn known(
    core: &Core,
    workspace: WorkspaceId,
) -> Result<Vec<(DaemonId, String)>, Refusal> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let mut reader = core.store.read().await?;
        let rows = daemons::page(&mut reader, workspace, after, PAGE).await?;
        let full = rows.len() >= PAGE as usize;
        after = rows.last().map(|daemon| daemon.id.0.simple().to_string());
        found.extend(rows.into_iter().map(|daemon| (daemon.id, daemon.profile.hostname)));
        if !full {
            return Ok(found);
        }
    }
}
