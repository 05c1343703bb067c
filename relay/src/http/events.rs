//! The events of a task, and the tool calls among them.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::params::{Id, Params};
use super::tasks::find;
use crate::core::Core;
use crate::store::events;
use axum::Json;
use axum::extract::State;
use hayward_shared::event::{Envelope, task_stream};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// A page of events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventPage {
    events: Vec<Envelope>,
    /// The `since` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Events after number `since` (or `cursor`, which is the same), oldest first.
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    params: Params,
) -> Result<Json<EventPage>, Refusal> {
    let task = find(&core, &caller, &id).await?.task;
    let limit = params.limit()?;
    let since = match params.read::<u64>("cursor")? {
        Some(cursor) => Some(cursor),
        None => params.read::<u64>("since")?,
    };
    let from = match since {
        Some(since) => since.checked_add(1).ok_or_else(|| invalid("since: too large"))?,
        None => 0,
    };
    let stream = task_stream(task.id);
    let mut reader = core.store.read().await?;
    let events = events::read(&mut reader, caller.workspace, &stream, from, limit).await?;
    let full = u32::try_from(events.len()).is_ok_and(|n| n >= limit);
    let next_cursor = events.last().filter(|_| full).map(|event| event.seq.to_string());
    Ok(Json(EventPage { events, next_cursor }))
}

/// A page of tool calls that ended, in the order in which they did.
#[derive(Debug, Serialize)]
pub(super) struct TracePage {
    data: Vec<Value>,
    total: u64,
    limit: u32,
    offset: u64,
}

pub(super) async fn traces(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    params: Params,
) -> Result<Json<TracePage>, Refusal> {
    let task = find(&core, &caller, &id).await?.task;
    let (limit, offset) = (params.limit()?, params.read::<u64>("offset")?.unwrap_or(0));
    let stream = task_stream(task.id);
    let mut reader = core.store.read().await?;
    let page = (limit, offset);
    let (rows, total) = events::tools(&mut reader, caller.workspace, &stream, page).await?;
    let data = rows.into_iter().map(trace).collect();
    Ok(Json(TracePage { data, total, limit, offset }))
}

fn trace(event: Envelope) -> Value {
    let mut row = event.payload;
    if let Value::Object(fields) = &mut row {
        fields.insert("id".into(), event.id.to_string().into());
        fields.insert("runId".into(), event.subject.id.into());
    }
    row
}
