//! The members of a workspace.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::params::{Body, Params, next_cursor};
use crate::core::Core;
use crate::store::users;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hayward_shared::api::{NewUser, UserView};
use hayward_shared::fault::{Code, Fault};
use serde::Serialize;
use std::sync::Arc;

/// Characters of a user's name.
const MAX_NAME: usize = 100;

/// A page of members, oldest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserPage {
    users: Vec<UserView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Result<Json<UserPage>, Refusal> {
    caller.reads()?;
    let limit = params.limit()?;
    let mut reader = core.store.read().await?;
    let users = users::page(&mut reader, caller.workspace, params.cursor()?, limit).await?;
    let next_cursor = next_cursor(&users, limit, |u| (u.created_at.millis(), u.id.0));
    Ok(Json(UserPage { users, next_cursor }))
}

pub(super) async fn create(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Json<UserView>), Refusal> {
    caller.manages()?;
    let name = new.name.trim();
    let fits = !name.is_empty() && name.chars().count() <= MAX_NAME;
    if !fits || name.chars().any(char::is_control) {
        return Err(invalid(format!("name: from 1 to {MAX_NAME} printable characters")).into());
    }
    let mut tx = core.store.write().await?;
    let now = crate::clock::now();
    let added = users::add(tx.conn(), caller.workspace, name, new.role, now).await?;
    let view = added.ok_or_else(|| Fault::new(Code::Conflict, "that name is taken"))?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}
