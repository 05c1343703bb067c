//! The daemons of a workspace.

use super::caller::Bearer;
use super::fault::Refusal;
use super::params::{Params, cursor};
use crate::core::Core;
use crate::store::daemons::{self, Daemon};
use axum::Json;
use axum::extract::State;
use hayward_shared::api::DaemonView;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// A page of daemons, oldest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DaemonPage {
    daemons: Vec<DaemonView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Result<Json<DaemonPage>, Refusal> {
    caller.reads()?;
    let limit = params.limit()?;
    let after = params.cursor()?.map(|(_, id)| id);
    let mut reader = core.store.read().await?;
    let rows = daemons::page(&mut reader, caller.workspace, after, limit).await?;
    let full = u32::try_from(rows.len()).is_ok_and(|n| n >= limit);
    let next_cursor = rows.last().filter(|_| full).map(|d| cursor(0, d.id.0));
    drop(reader);
    let online = core.registry.online_in(caller.workspace).await?;
    let shown = |daemon: Daemon| view(online.contains(&daemon.id), daemon);
    let daemons = rows.into_iter().map(shown).collect();
    Ok(Json(DaemonPage { daemons, next_cursor }))
}

fn view(online: bool, daemon: Daemon) -> DaemonView {
    let profile = daemon.profile;
    DaemonView {
        id: daemon.id,
        machine_id: daemon.machine,
        hostname: profile.hostname,
        online,
        version: profile.version,
        active_runs: daemon.held,
        capacity: profile.capacity,
        labels: profile.labels,
        runtimes: profile.runtimes,
        last_seen_at: daemon.last_seen_at,
    }
}

/// The folders that daemons named, two for each daemon that did.
pub(super) async fn directories(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Result<Json<Value>, Refusal> {
    caller.reads()?;
    let limit = params.limit()?;
    let after = params.cursor()?.map(|(_, id)| id);
    let mut reader = core.store.read().await?;
    let rows = daemons::page(&mut reader, caller.workspace, after, limit).await?;
    let full = u32::try_from(rows.len()).is_ok_and(|n| n >= limit);
    let next = rows.last().filter(|_| full).map(|d| cursor(0, d.id.0));
    let list: Vec<_> = rows.iter().flat_map(folders).collect();
    let mut answer = json!({ "directories": list });
    if let Some(next) = next {
        answer["nextCursor"] = next.into();
    }
    Ok(Json(answer))
}

fn folders(daemon: &Daemon) -> Vec<Value> {
    let Some(known) = &daemon.profile.directories else { return Vec::new() };
    let row = |path: &str, label: &str, kind: &str| {
        json!({
            "path": path, "label": label, "directoryType": kind,
            "hostname": daemon.profile.hostname, "daemonId": daemon.id,
        })
    };
    vec![
        row(&known.working_directory, "Working Directory", "working"),
        row(&known.home_directory, "Hayward Home", "home"),
    ]
}
