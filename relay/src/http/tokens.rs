//! The tokens of a workspace. A secret is seen once, in the answer that makes it.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::params::{Body, Id, Params, next_cursor};
use crate::auth::Who;
use crate::core::Core;
use crate::store::tokens::{self, Issue};
use crate::store::users;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hayward_shared::api::{IssuedToken, NewToken, Role, TokenKind, TokenView};
use hayward_shared::fault::Fault;
use hayward_shared::id::TokenId;
use serde::Serialize;
use std::sync::Arc;

/// A page of tokens, oldest first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenPage {
    tokens: Vec<TokenView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Result<Json<TokenPage>, Refusal> {
    caller.manages()?;
    let limit = params.limit()?;
    let mut reader = core.store.read().await?;
    let tokens = tokens::page(&mut reader, caller.workspace, params.cursor()?, limit).await?;
    let next_cursor = next_cursor(&tokens, limit, |t| (t.created_at.millis(), t.id.0));
    Ok(Json(TokenPage { tokens, next_cursor }))
}

pub(super) async fn create(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<IssuedToken>), Refusal> {
    let me = caller.manages()?;
    let now = crate::clock::now();
    let workspace = caller.workspace;
    let expires_at = match new.expires_seconds {
        Some(0) => return Err(invalid("expiresSeconds: 1 at least").into()),
        seconds => seconds
            .map(|s| now.plus_millis(i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000))),
    };
    let mut tx = core.store.write().await?;
    let (who, role) = match new.kind {
        TokenKind::Daemon if new.role.is_some() || new.user_id.is_some() => {
            return Err(invalid("role, userId: a daemon's token has none").into());
        }
        TokenKind::Daemon => (Who::Daemon, Role::Viewer),
        TokenKind::Task => return Err(invalid("kind: task tokens come with their run").into()),
        TokenKind::User => {
            let user = new.user_id.unwrap_or(me);
            let known = users::role(tx.conn(), workspace, user).await?;
            let role = known.ok_or_else(|| Fault::not_found("user", user))?;
            (Who::User(user), new.role.unwrap_or(role).min(role).min(caller.role))
        }
    };
    let issue = Issue { workspace, who, role, expires_at };
    let (secret, view) = tokens::issue(tx.conn(), issue, now).await?;
    tx.commit().await?;
    let token = secret.expose().to_owned();
    Ok((StatusCode::CREATED, Json(IssuedToken { token, view })))
}

pub(super) async fn revoke(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Result<Json<TokenView>, Refusal> {
    caller.manages()?;
    let mut tx = core.store.write().await?;
    let token = match id.fragment.whole() {
        Some(whole) => TokenId(whole),
        None => {
            let part = id.fragment.to_string();
            id.only("token", &tokens::matching(tx.conn(), caller.workspace, &part).await?)?
        }
    };
    let now = crate::clock::now();
    let revoked = tokens::revoke(tx.conn(), caller.workspace, token, now).await?;
    let view = revoked.ok_or_else(|| Fault::not_found("token", &id.typed))?;
    tx.commit().await?;
    Ok(Json(view))
}
