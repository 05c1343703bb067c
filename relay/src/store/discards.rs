//! Discarded tasks of which a daemon has yet to hear.

use super::sql::query;
use super::{Conn, Doing, StoreError, read_id, text};
use hayward_shared::id::{DaemonId, TaskId, WorkspaceId};

/// Notes that the daemon is to hear of it.
pub(crate) async fn note(
    conn: &mut Conn,
    workspace: WorkspaceId,
    task: TaskId,
    daemon: DaemonId,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO discards (workspace_id, task_id, daemon_id) VALUES ($1, $2, $3) \
         ON CONFLICT (workspace_id, task_id) DO NOTHING",
    )
    .bind(text(workspace.0))
    .bind(text(task.0))
    .bind(text(daemon.0))
    .execute(conn)
    .await
    .doing("note a discarded task")?;
    Ok(())
}

/// Those of which the daemon has yet to hear, oldest first.
pub(crate) async fn of_daemon(
    conn: &mut Conn,
    daemon: DaemonId,
) -> Result<Vec<(WorkspaceId, TaskId)>, StoreError> {
    let rows: Vec<(String, String)> =
        query("SELECT workspace_id, task_id FROM discards WHERE daemon_id = $1 ORDER BY task_id")
            .bind(text(daemon.0))
            .fetch_all(conn)
            .await
            .doing("read what was discarded")?;
    rows.iter().map(|(w, t)| Ok((WorkspaceId(read_id(w)?), TaskId(read_id(t)?)))).collect()
}

/// The daemon has heard of it.
pub(crate) async fn told(
    conn: &mut Conn,
    workspace: WorkspaceId,
    task: TaskId,
) -> Result<(), StoreError> {
    query("DELETE FROM discards WHERE workspace_id = $1 AND task_id = $2")
        .bind(text(workspace.0))
        .bind(text(task.0))
        .execute(conn)
        .await
        .doing("forget a discarded task")?;
    Ok(())
}
