//! Tasks by time: leases, retries that are due, and what nobody came for. Of all workspaces, as time
//! passes for all alike.

use super::sql::{query, query_scalar};
use super::{Conn, Doing, StoreError, moment, read_id, text};
use hayward_shared::id::{TaskId, WorkspaceId};
use hayward_shared::time::Timestamp;

/// Lets the lease of a task that is held last until `lease_end`; nothing else changes.
pub(crate) async fn renew(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
    lease_end: Timestamp,
) -> Result<(), StoreError> {
    query(
        "UPDATE tasks SET lease_expires_at = $3 WHERE workspace_id = $1 AND id = $2 \
         AND status IN ('dispatched', 'waiting', 'running', 'paused')",
    )
    .bind(text(workspace.0))
    .bind(text(id.0))
    .bind(lease_end.millis())
    .execute(conn)
    .await
    .doing("renew a lease")?;
    Ok(())
}

/// Lets every lease that holds at `clock` last until `lease_end`: how long no relay was there to hear
/// beats is not held against anyone. One that ran out before stays so, and counts on; one that was
/// renewed further meanwhile keeps that.
pub(crate) async fn begin_anew(
    conn: &mut Conn,
    clock: Timestamp,
    lease_end: Timestamp,
) -> Result<(), StoreError> {
    // by id, as whoever needs several tasks takes them
    let held = format!(
        "SELECT workspace_id, id FROM tasks \
         WHERE status IN ('dispatched', 'waiting', 'running', 'paused') \
         AND lease_expires_at > $2 AND lease_expires_at < $1 ORDER BY id{}",
        conn.locking()
    );
    query(sqlx::AssertSqlSafe(format!(
        "UPDATE tasks SET lease_expires_at = $1 WHERE (workspace_id, id) IN ({held})"
    )))
    .bind(lease_end.millis())
    .bind(clock.millis())
    .execute(conn)
    .await
    .doing("renew the leases")?;
    Ok(())
}

/// When the next retry is due; none when no task is deferred.
pub(crate) async fn next_retry(conn: &mut Conn) -> Result<Option<Timestamp>, StoreError> {
    let at: Option<i64> =
        query_scalar("SELECT MIN(COALESCE(next_retry_at, 0)) FROM tasks WHERE status = 'deferred'")
            .fetch_one(conn)
            .await
            .doing("look for the next retry")?;
    Ok(moment(at))
}

/// At most `limit` deferred tasks of any workspace whose retry is due at `now`, longest due first.
pub(crate) async fn retries(
    conn: &mut Conn,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<(WorkspaceId, TaskId)>, StoreError> {
    let rows: Vec<(String, String)> = query(
        "SELECT workspace_id, id FROM tasks WHERE status = 'deferred' \
         AND COALESCE(next_retry_at, 0) <= $1 ORDER BY next_retry_at, id LIMIT $2",
    )
    .bind(now.millis())
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .doing("look for retries that are due")?;
    keys(&rows)
}

/// At most `limit` tasks of any workspace whose lease ran out by the clock of leases, or that were
/// never claimed, oldest first.
///
/// `queued_before` is when a task must have been queued to have expired.
pub(crate) async fn overdue(
    conn: &mut Conn,
    steady: Timestamp,
    queued_before: Timestamp,
    limit: u32,
) -> Result<Vec<(WorkspaceId, TaskId)>, StoreError> {
    let rows: Vec<(String, String)> = query(
        "SELECT workspace_id, id FROM tasks WHERE \
         (status IN ('dispatched', 'running') AND lease_expires_at <= $1) \
         OR (status = 'queued' AND queued_at <= $2) ORDER BY created_at, id LIMIT $3",
    )
    .bind(steady.millis())
    .bind(queued_before.millis())
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .doing("look for what is overdue")?;
    keys(&rows)
}

/// Tasks of any workspace whose holder was not heard since before `steady`, after the one named.
pub(crate) async fn abandoned(
    conn: &mut Conn,
    steady: Timestamp,
    after: &str,
    limit: u32,
) -> Result<Vec<(WorkspaceId, TaskId)>, StoreError> {
    let rows: Vec<(String, String)> = query(
        "SELECT workspace_id, id FROM tasks WHERE status IN ('waiting', 'paused') \
         AND lease_expires_at <= $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(steady.millis())
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .doing("look for what was abandoned")?;
    keys(&rows)
}

fn keys(rows: &[(String, String)]) -> Result<Vec<(WorkspaceId, TaskId)>, StoreError> {
    rows.iter().map(|(w, t)| Ok((WorkspaceId(read_id(w)?), TaskId(read_id(t)?)))).collect()
}
