//! What a workspace has under way, against its limits; trees of tasks; providers that refused.

use super::sql::{query, query_scalar};
use super::{Conn, Doing, StoreError, from_json, int, moment, read_id, text};
use crate::limits::{Backoff, UnderWay};
use hayward_shared::id::{TaskId, WorkspaceId};
use hayward_shared::task::{STATUSES, Task};
use hayward_shared::time::Timestamp;

/// Keeps the limits of a workspace from all others who would hand out its tasks, until this change
/// ends; whether it does. Another who does so is not waited for: many who waited would keep all
/// connections that write.
pub(crate) async fn alone(conn: &mut Conn, workspace: WorkspaceId) -> Result<bool, StoreError> {
    if !conn.is_shared() {
        return Ok(true);
    }
    query_scalar(
        "SELECT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '/limits/' || $1, 0))",
    )
    .bind(text(workspace.0))
    .fetch_one(conn)
    .await
    .doing("look at the limits alone")
}

/// How many runs of each agent and provider are under way.
pub(crate) async fn under_way(
    conn: &mut Conn,
    workspace: WorkspaceId,
) -> Result<Vec<UnderWay>, StoreError> {
    let rows: Vec<(Option<String>, Option<String>, i64)> = query(
        "SELECT agent, provider, COUNT(*) FROM tasks WHERE workspace_id = $1 \
         AND status IN ('dispatched', 'waiting', 'running', 'paused') GROUP BY agent, provider",
    )
    .bind(text(workspace.0))
    .fetch_all(conn)
    .await
    .doing("count what is under way")?;
    let read = |(agent, provider, runs)| UnderWay {
        agent,
        provider,
        runs: u32::try_from(runs).unwrap_or(u32::MAX),
    };
    Ok(rows.into_iter().map(read).collect())
}

/// At most `limit` tasks that are under way, oldest first.
pub(crate) async fn holders(
    conn: &mut Conn,
    workspace: WorkspaceId,
    limit: u32,
) -> Result<Vec<Task>, StoreError> {
    let rows: Vec<String> = query_scalar(
        "SELECT document FROM tasks WHERE workspace_id = $1 \
         AND status IN ('dispatched', 'waiting', 'running', 'paused') \
         ORDER BY created_at, id LIMIT $2",
    )
    .bind(text(workspace.0))
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .doing("read what is under way")?;
    rows.iter().map(|document| from_json(document, "task")).collect()
}

/// The first task of the tree that a task is in; none when there is no such task.
pub(crate) async fn root(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<Option<TaskId>, StoreError> {
    let root: Option<String> = query_scalar(
        "WITH RECURSIVE up (id, parent_task_id) AS ( \
         SELECT id, parent_task_id FROM tasks WHERE workspace_id = $1 AND id = $2 \
         UNION SELECT t.id, t.parent_task_id FROM tasks t JOIN up ON t.id = up.parent_task_id \
         WHERE t.workspace_id = $1) \
         SELECT id FROM up WHERE parent_task_id IS NULL \
         OR parent_task_id NOT IN (SELECT id FROM up) LIMIT 1",
    )
    .bind(text(workspace.0))
    .bind(text(id.0))
    .fetch_optional(conn)
    .await
    .doing("look for the root of a tree")?;
    root.map(|id| read_id(&id).map(TaskId)).transpose()
}

/// How many tasks the tree below `root` has, itself included. Counting ends at `most`.
pub(crate) async fn tree(
    conn: &mut Conn,
    workspace: WorkspaceId,
    root: TaskId,
    most: u32,
) -> Result<u32, StoreError> {
    let tasks: i64 = query_scalar(
        "WITH RECURSIVE tree (id) AS ( \
         SELECT id FROM tasks WHERE workspace_id = $1 AND id = $2 \
         UNION SELECT t.id FROM tasks t JOIN tree ON t.parent_task_id = tree.id \
         WHERE t.workspace_id = $1) \
         SELECT COUNT(*) FROM (SELECT id FROM tree LIMIT $3) AS counted",
    )
    .bind(text(workspace.0))
    .bind(text(root.0))
    .bind(i64::from(most))
    .fetch_one(conn)
    .await
    .doing("count a tree of tasks")?;
    Ok(u32::try_from(tasks).unwrap_or(u32::MAX))
}

/// A task below `id` that has not ended, however deep; none where all have.
pub(crate) async fn open_part(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<Option<TaskId>, StoreError> {
    let ended: Vec<_> = STATUSES
        .into_iter()
        .filter(|status| status.is_final())
        .map(|status| format!("'{}'", status.name()))
        .collect();
    let such = format!("WHERE status NOT IN ({}) ORDER BY id", ended.join(", "));
    part(conn, workspace, id, &such).await
}

/// The last task that was made below `id`, however deep: mostly it has no parts itself. None where
/// nothing is below it.
pub(crate) async fn last_part(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<Option<TaskId>, StoreError> {
    part(conn, workspace, id, "ORDER BY id DESC").await
}

/// The first such task below `id`.
async fn part(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
    such: &str,
) -> Result<Option<TaskId>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE below (id, status) AS ( \
         SELECT id, status FROM tasks WHERE workspace_id = $1 AND parent_task_id = $2 \
         UNION SELECT t.id, t.status FROM tasks t JOIN below ON t.parent_task_id = below.id \
         WHERE t.workspace_id = $1) SELECT id FROM below {such} LIMIT 1"
    );
    let found: Option<String> = query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(text(id.0))
        .fetch_optional(conn)
        .await
        .doing("look for parts")?;
    found.map(|id| read_id(&id).map(TaskId)).transpose()
}

type Row = (String, i64, i64, Option<String>);

const BACKOFF: &str = "SELECT provider, until, strikes, probe FROM provider_backoffs ";

fn backoff((provider, until, strikes, probe): Row) -> Backoff {
    Backoff {
        provider,
        until: Timestamp::from_millis(until),
        strikes: u32::try_from(strikes).unwrap_or(u32::MAX),
        probed: probe.is_some(),
    }
}

/// The providers of a workspace that refused, those that were forgiven long ago among them.
pub(crate) async fn backoffs(
    conn: &mut Conn,
    workspace: WorkspaceId,
) -> Result<Vec<Backoff>, StoreError> {
    let sql = format!("{BACKOFF} WHERE workspace_id = $1 ORDER BY provider");
    let rows: Vec<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .fetch_all(conn)
        .await
        .doing("read which providers refused")?;
    Ok(rows.into_iter().map(backoff).collect())
}

/// What is known of a provider; within a change it stays so until that ends.
pub(crate) async fn backoff_of(
    conn: &mut Conn,
    workspace: WorkspaceId,
    provider: &str,
) -> Result<Option<Backoff>, StoreError> {
    let locking = conn.locking();
    let sql = format!("{BACKOFF} WHERE workspace_id = $1 AND provider = $2{locking}");
    let row: Option<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(provider)
        .fetch_optional(conn)
        .await
        .doing("read whether a provider refused")?;
    Ok(row.map(backoff))
}

/// Notes that a provider refused; nobody tries it yet.
pub(crate) async fn back_off(
    conn: &mut Conn,
    workspace: WorkspaceId,
    backoff: &Backoff,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO provider_backoffs (workspace_id, provider, until, strikes, probe) \
         VALUES ($1, $2, $3, $4, NULL) ON CONFLICT (workspace_id, provider) DO UPDATE SET \
         until = excluded.until, strikes = excluded.strikes, probe = NULL",
    )
    .bind(text(workspace.0))
    .bind(&backoff.provider)
    .bind(backoff.until.millis())
    .bind(int(u64::from(backoff.strikes)))
    .execute(conn)
    .await
    .doing("note that a provider refused")?;
    Ok(())
}

/// Notes that a run of `task` tries a provider whose pause is over at `now`; whether no other did
/// before, and it did not refuse again since.
pub(crate) async fn probe(
    conn: &mut Conn,
    workspace: WorkspaceId,
    provider: &str,
    (task, now): (TaskId, Timestamp),
) -> Result<bool, StoreError> {
    let changed = query(
        "UPDATE provider_backoffs SET probe = $3 \
         WHERE workspace_id = $1 AND provider = $2 AND probe IS NULL AND until <= $4",
    )
    .bind(text(workspace.0))
    .bind(provider)
    .bind(text(task.0))
    .bind(now.millis())
    .execute(conn)
    .await
    .doing("note who tries a provider")?;
    Ok(changed > 0)
}

/// Forgets that a provider refused, when it is `task` that tried it; whether it was.
pub(crate) async fn answered(
    conn: &mut Conn,
    workspace: WorkspaceId,
    provider: &str,
    task: TaskId,
) -> Result<bool, StoreError> {
    let changed = query(
        "DELETE FROM provider_backoffs WHERE workspace_id = $1 AND provider = $2 AND probe = $3",
    )
    .bind(text(workspace.0))
    .bind(provider)
    .bind(text(task.0))
    .execute(conn)
    .await
    .doing("forget that a provider refused")?;
    Ok(changed > 0)
}

/// Forgets that a provider refused, whatever it told; whether it had.
pub(crate) async fn lift(
    conn: &mut Conn,
    workspace: WorkspaceId,
    provider: &str,
) -> Result<bool, StoreError> {
    let changed = query("DELETE FROM provider_backoffs WHERE workspace_id = $1 AND provider = $2")
        .bind(text(workspace.0))
        .bind(provider)
        .execute(conn)
        .await
        .doing("forget that a provider refused")?;
    Ok(changed > 0)
}

/// The deferred tasks of a workspace.
pub(crate) async fn deferred(
    conn: &mut Conn,
    workspace: WorkspaceId,
) -> Result<Vec<Task>, StoreError> {
    let rows: Vec<String> = query_scalar(
        "SELECT document FROM tasks WHERE workspace_id = $1 AND status = 'deferred' ORDER BY id",
    )
    .bind(text(workspace.0))
    .fetch_all(conn)
    .await
    .doing("read what is deferred")?;
    rows.iter().map(|document| from_json(document, "task")).collect()
}

/// The moments at which something may be asked of a provider again, after `now`: the earliest of
/// each workspace. `probe_ms` is how long the others wait for who tries first.
pub(crate) async fn next_asks(
    conn: &mut Conn,
    now: Timestamp,
    probe_ms: i64,
) -> Result<Vec<(WorkspaceId, Timestamp)>, StoreError> {
    let rows: Vec<(String, i64)> = query(
        "SELECT workspace_id, MIN(at) FROM (SELECT workspace_id, until AS at \
         FROM provider_backoffs WHERE until > $1 UNION ALL SELECT workspace_id, until + $2 \
         FROM provider_backoffs WHERE until + $2 > $1) AS moments \
         GROUP BY workspace_id ORDER BY workspace_id",
    )
    .bind(now.millis())
    .bind(probe_ms)
    .fetch_all(conn)
    .await
    .doing("look for when a provider is asked again")?;
    let read = |(workspace, at): (String, i64)| {
        let at = moment(Some(at)).unwrap_or(now);
        read_id(&workspace).map(|id| (WorkspaceId(id), at))
    };
    rows.into_iter().map(read).collect()
}
