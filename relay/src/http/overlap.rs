//! Which live tasks change the same files: asked of every daemon of the workspace that is online.

use super::caller::Bearer;
use super::fault::Refusal;
use super::gather::Gathered;
use super::params::{Id, Params};
use super::tasks::find;
use crate::core::Core;
use axum::Json;
use axum::extract::State;
use hayward_shared::fault::Fault;
use hayward_shared::id::{TaskId, WorkspaceId};
use hayward_shared::protocol::ToDaemon;
use serde_json::{Value, json};
use std::sync::Arc;

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
    let question = ToDaemon::ReadOverlap { task_id };
    let mut all = Gathered::of(core, workspace, &question).await?;
    let (mut verdicts, mut polled) = (Vec::new(), Vec::new());
    for said in &mut all.answers {
        verdicts.extend(said.rows("overlap"));
        polled.extend(said.rows("polled"));
    }
    Ok(json!({
        "overlap": verdicts,
        "truncated": all.truncated(),
        "polled": polled,
        "unanswered": all.silent,
    }))
}
