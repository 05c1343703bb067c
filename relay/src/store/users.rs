//! Workspaces, users and who belongs where.

use super::sql::{query, query_scalar};
use super::{Conn, Doing, StoreError, count, read_id, read_name, text};
use crate::auth::role_name;
use hayward_shared::api::{Role, UserView};
use hayward_shared::id::{UserId, WorkspaceId};
use hayward_shared::time::Timestamp;

/// How many users there are in all.
pub(crate) async fn total(conn: &mut Conn) -> Result<u64, StoreError> {
    let total: i64 = query_scalar("SELECT COUNT(*) FROM users")
        .fetch_one(conn)
        .await
        .doing("count the users")?;
    Ok(count(total))
}

/// The oldest workspace.
pub(crate) async fn first_workspace(conn: &mut Conn) -> Result<Option<WorkspaceId>, StoreError> {
    let id: Option<String> =
        query_scalar("SELECT id FROM workspaces ORDER BY created_at, id LIMIT 1")
            .fetch_optional(conn)
            .await
            .doing("read the first workspace")?;
    id.map(|id| read_id(&id).map(WorkspaceId)).transpose()
}

/// The owner of a workspace who was added first.
pub(crate) async fn first_owner(
    conn: &mut Conn,
    workspace: WorkspaceId,
) -> Result<Option<UserId>, StoreError> {
    let id: Option<String> = query_scalar(
        "SELECT u.id FROM members m JOIN users u ON u.id = m.user_id \
         WHERE m.workspace_id = $1 AND m.role = $2 ORDER BY u.created_at, u.id LIMIT 1",
    )
    .bind(text(workspace.0))
    .bind(role_name(Role::Owner))
    .fetch_optional(conn)
    .await
    .doing("read the first owner")?;
    id.map(|id| read_id(&id).map(UserId)).transpose()
}

/// Adds a workspace.
pub(crate) async fn add_workspace(
    conn: &mut Conn,
    name: &str,
    now: Timestamp,
) -> Result<WorkspaceId, StoreError> {
    let id = WorkspaceId::fresh();
    query("INSERT INTO workspaces (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(text(id.0))
        .bind(name)
        .bind(now.millis())
        .execute(conn)
        .await
        .doing("add a workspace")?;
    Ok(id)
}

/// Adds a user to a workspace; `None` when the name is taken.
pub(crate) async fn add(
    conn: &mut Conn,
    workspace: WorkspaceId,
    name: &str,
    role: Role,
    now: Timestamp,
) -> Result<Option<UserView>, StoreError> {
    let id = UserId::fresh();
    let added = query(
        "INSERT INTO users (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
    )
    .bind(text(id.0))
    .bind(name)
    .bind(now.millis())
    .execute(&mut *conn)
    .await
    .doing("add a user")?;
    if added == 0 {
        return Ok(None);
    }
    query("INSERT INTO members (workspace_id, user_id, role) VALUES ($1, $2, $3)")
        .bind(text(workspace.0))
        .bind(text(id.0))
        .bind(role_name(role))
        .execute(conn)
        .await
        .doing("add a member")?;
    Ok(Some(UserView { id, name: name.to_owned(), role, created_at: now }))
}

/// The members of a workspace, oldest first, after the one that `after` names.
pub(crate) async fn page(
    conn: &mut Conn,
    workspace: WorkspaceId,
    after: Option<(i64, String)>,
    limit: u32,
) -> Result<Vec<UserView>, StoreError> {
    let (at, id) = after.unwrap_or((-1, String::new()));
    let rows: Vec<(String, String, String, i64)> = query(
        "SELECT u.id, u.name, m.role, u.created_at FROM members m \
         JOIN users u ON u.id = m.user_id \
         WHERE m.workspace_id = $1 AND (u.created_at, u.id) > ($2, $3) \
         ORDER BY u.created_at, u.id LIMIT $4",
    )
    .bind(text(workspace.0))
    .bind(at)
    .bind(id)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .doing("read the users")?;
    rows.into_iter()
        .map(|(id, name, role, at)| {
            Ok(UserView {
                id: UserId(read_id(&id)?),
                name,
                role: read_name(&role, "role")?,
                created_at: Timestamp::from_millis(at),
            })
        })
        .collect()
}

/// The role of a user in a workspace; `None` for one who is no member.
pub(crate) async fn role(
    conn: &mut Conn,
    workspace: WorkspaceId,
    user: UserId,
) -> Result<Option<Role>, StoreError> {
    let role: Option<String> =
        query_scalar("SELECT role FROM members WHERE workspace_id = $1 AND user_id = $2")
            .bind(text(workspace.0))
            .bind(text(user.0))
            .fetch_optional(conn)
            .await
            .doing("read a member")?;
    role.map(|role| read_name(&role, "role")).transpose()
}
