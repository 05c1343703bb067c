//! Tokens: their hashes, whom they speak for and until when.

use super::sql::{query, query_scalar};
use super::{Conn, Doing, StoreError, moment, read_id, read_name, text, unreadable};
use crate::auth::{Credential, Secret, Who, role_name};
use hayward_shared::api::{Role, TokenKind, TokenView};
use hayward_shared::id::{TaskId, TokenId, UserId, WorkspaceId};
use hayward_shared::time::Timestamp;

/// The last use is written at most this often: it is for people, who read it by the day.
const USE_MS: i64 = 60_000;

/// A token to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issue {
    pub(crate) workspace: WorkspaceId,
    pub(crate) who: Who,
    pub(crate) role: Role,
    pub(crate) expires_at: Option<Timestamp>,
}

impl Issue {
    fn kind(&self) -> TokenKind {
        match self.who {
            Who::User(_) => TokenKind::User,
            Who::Task(_) => TokenKind::Task,
            Who::Daemon => TokenKind::Daemon,
        }
    }
}

fn kind_name(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::User => "user",
        TokenKind::Daemon => "daemon",
        TokenKind::Task => "task",
    }
}

fn read_kind(name: &str) -> Result<TokenKind, StoreError> {
    [TokenKind::User, TokenKind::Daemon, TokenKind::Task]
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
        .ok_or_else(|| unreadable("token kind", name))
}

/// Makes a token; its secret is known to the caller alone.
pub(crate) async fn issue(
    conn: &mut Conn,
    issue: Issue,
    now: Timestamp,
) -> Result<(Secret, TokenView), StoreError> {
    let secret = Secret::fresh(issue.kind()).map_err(StoreError::Random)?;
    let id = TokenId::fresh();
    let (user, task) = match issue.who {
        Who::User(user) => (Some(user), None),
        Who::Task(task) => (None, Some(task)),
        Who::Daemon => (None, None),
    };
    query(
        "INSERT INTO tokens (id, workspace_id, kind, role, user_id, task_id, hash, created_at, \
         expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(text(id.0))
    .bind(text(issue.workspace.0))
    .bind(kind_name(issue.kind()))
    .bind(role_name(issue.role))
    .bind(user.map(|u| text(u.0)))
    .bind(task.map(|t| text(t.0)))
    .bind(secret.hash().to_vec())
    .bind(now.millis())
    .bind(issue.expires_at.map(Timestamp::millis))
    .execute(conn)
    .await
    .doing("store a token")?;
    let view = TokenView {
        id,
        kind: issue.kind(),
        role: issue.role,
        user_id: user,
        created_at: now,
        expires_at: issue.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    Ok((secret, view))
}

type Row = (
    String,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    Vec<u8>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
);

/// The token with this hash.
pub(crate) async fn find(
    conn: &mut Conn,
    hash: &[u8; 32],
) -> Result<Option<Credential>, StoreError> {
    let row: Option<Row> = query(
        "SELECT t.id, t.workspace_id, t.kind, t.role, t.user_id, t.task_id, t.hash, \
         t.expires_at, t.revoked_at, t.last_used_at, m.role FROM tokens t \
         LEFT JOIN members m ON m.workspace_id = t.workspace_id AND m.user_id = t.user_id \
         WHERE t.hash = $1",
    )
    .bind(hash.to_vec())
    .fetch_optional(conn)
    .await
    .doing("look a token up")?;
    row.map(credential).transpose()
}

fn credential(row: Row) -> Result<Credential, StoreError> {
    let (id, workspace, kind, role, user, task, hash, expires, revoked, used, member) = row;
    let own: Role = read_name(&role, "role")?;
    let (who, role) = match (read_kind(&kind)?, user, task) {
        (TokenKind::User, Some(user), _) => {
            let now = member.map(|m| read_name::<Role>(&m, "role")).transpose()?;
            (Who::User(UserId(read_id(&user)?)), now.map(|now| now.min(own)))
        }
        (TokenKind::Task, _, Some(task)) => (Who::Task(TaskId(read_id(&task)?)), Some(own)),
        (TokenKind::Daemon, ..) => (Who::Daemon, Some(own)),
        _ => return Err(unreadable("token", "a token without an owner")),
    };
    Ok(Credential {
        id: TokenId(read_id(&id)?),
        workspace: WorkspaceId(read_id(&workspace)?),
        who,
        role,
        hash,
        expires_at: moment(expires),
        revoked_at: moment(revoked),
        last_used_at: moment(used),
    })
}

/// Whether the last use of `credential` is old enough to be written again.
pub(crate) fn use_is_news(credential: &Credential, now: Timestamp) -> bool {
    credential.last_used_at.is_none_or(|at| now.since(at) >= USE_MS)
}

/// Writes down that a token was used.
pub(crate) async fn used(
    conn: &mut Conn,
    token: TokenId,
    now: Timestamp,
) -> Result<(), StoreError> {
    query("UPDATE tokens SET last_used_at = $2 WHERE id = $1")
        .bind(text(token.0))
        .bind(now.millis())
        .execute(conn)
        .await
        .doing("note a token's use")?;
    Ok(())
}

/// Whether a token is still good.
pub(crate) async fn is_good(
    conn: &mut Conn,
    token: TokenId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let id: Option<String> = query_scalar(
        "SELECT id FROM tokens WHERE id = $1 AND revoked_at IS NULL \
         AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(text(token.0))
    .bind(now.millis())
    .fetch_optional(conn)
    .await
    .doing("look a token up")?;
    Ok(id.is_some())
}

/// Tokens of users and daemons of a workspace, oldest first, after the one that `after` names.
pub(crate) async fn page(
    conn: &mut Conn,
    workspace: WorkspaceId,
    after: Option<(i64, String)>,
    limit: u32,
) -> Result<Vec<TokenView>, StoreError> {
    let (at, id) = after.unwrap_or((-1, String::new()));
    let rows: Vec<ViewRow> = query(
        "SELECT id, kind, role, user_id, created_at, expires_at, revoked_at, last_used_at \
         FROM tokens WHERE workspace_id = $1 AND task_id IS NULL \
         AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4",
    )
    .bind(text(workspace.0))
    .bind(at)
    .bind(id)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .doing("read the tokens")?;
    rows.into_iter().map(view).collect()
}

type ViewRow = (String, String, String, Option<String>, i64, Option<i64>, Option<i64>, Option<i64>);

fn view(row: ViewRow) -> Result<TokenView, StoreError> {
    let (id, kind, role, user, created, expires, revoked, used) = row;
    Ok(TokenView {
        id: TokenId(read_id(&id)?),
        kind: read_kind(&kind)?,
        role: read_name(&role, "role")?,
        user_id: user.map(|u| read_id(&u).map(UserId)).transpose()?,
        created_at: Timestamp::from_millis(created),
        expires_at: moment(expires),
        revoked_at: moment(revoked),
        last_used_at: moment(used),
    })
}

/// Ids of a workspace's tokens that begin or end with `fragment`; two at the most.
pub(crate) async fn matching(
    conn: &mut Conn,
    workspace: WorkspaceId,
    fragment: &str,
) -> Result<Vec<TokenId>, StoreError> {
    let ids: Vec<String> = query_scalar(
        "SELECT id FROM tokens WHERE workspace_id = $1 AND task_id IS NULL \
         AND (id LIKE $2 OR id LIKE $3) LIMIT 2",
    )
    .bind(text(workspace.0))
    .bind(format!("{fragment}%"))
    .bind(format!("%{fragment}"))
    .fetch_all(conn)
    .await
    .doing("look a token up")?;
    ids.iter().map(|id| read_id(id).map(TokenId)).collect()
}

/// Ends a token of a workspace; a repeated end keeps the first moment.
pub(crate) async fn revoke(
    conn: &mut Conn,
    workspace: WorkspaceId,
    token: TokenId,
    now: Timestamp,
) -> Result<Option<TokenView>, StoreError> {
    let row: Option<ViewRow> = query(
        "UPDATE tokens SET revoked_at = COALESCE(revoked_at, $3) \
         WHERE workspace_id = $1 AND id = $2 \
         RETURNING id, kind, role, user_id, created_at, expires_at, revoked_at, last_used_at",
    )
    .bind(text(workspace.0))
    .bind(text(token.0))
    .bind(now.millis())
    .fetch_optional(conn)
    .await
    .doing("revoke a token")?;
    row.map(view).transpose()
}

/// Deletes the tokens of a task's agents.
pub(crate) async fn drop_of_task(
    conn: &mut Conn,
    workspace: WorkspaceId,
    task: TaskId,
) -> Result<(), StoreError> {
    query("DELETE FROM tokens WHERE workspace_id = $1 AND task_id = $2")
        .bind(text(workspace.0))
        .bind(text(task.0))
        .execute(conn)
        .await
        .doing("drop a task's tokens")?;
    Ok(())
}
