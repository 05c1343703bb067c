//! Daemons: who they are, what they said of themselves, and how far their outbox is stored.

use super::sql::{query, query_scalar};
use super::{Conn, Doing, StoreError, count, from_json, int, json, read_id, text};
use hayward_edge::planted;
use hayward_shared::api::{Directories, Runtime, Vitals};
use hayward_shared::id::{DaemonId, MachineId, WorkspaceId};
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a daemon said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Profile {
    pub(crate) hostname: String,
    pub(crate) version: Option<String>,
    pub(crate) capacity: u32,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) directories: Option<Directories>,
    /// Whether it speaks the seed's protocol alone.
    pub(crate) plain: bool,
    /// Whether it ends an agent by itself before its task is handed over.
    pub(crate) fences: bool,
    /// Whether it tells of its background work.
    pub(crate) jobs: bool,
    /// Its link gets nothing new before, where it followed one that broke.
    pub(crate) settles_at: Option<Timestamp>,
    /// How its machine stood at its last beat.
    pub(crate) vitals: Vitals,
}

/// A daemon as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    pub(crate) id: DaemonId,
    pub(crate) machine: MachineId,
    pub(crate) profile: Profile,
    pub(crate) last_seen_at: Timestamp,
    /// Tasks of which it holds a run.
    pub(crate) held: u32,
}

type Row = (String, String, String, i64, i64);

const COLUMNS: &str = "SELECT d.id, d.machine_id, d.document, d.last_seen_at, \
    (SELECT COUNT(*) FROM tasks t WHERE t.daemon_id = d.id \
     AND t.status IN ('dispatched', 'waiting', 'running', 'paused')) FROM daemons d ";

fn daemon(row: Row) -> Result<Daemon, StoreError> {
    let (id, machine, document, seen, held) = row;
    Ok(Daemon {
        id: DaemonId(read_id(&id)?),
        machine: MachineId(read_id(&machine)?),
        profile: from_json(&document, "daemon")?,
        last_seen_at: Timestamp::from_millis(seen),
        held: u32::try_from(held).unwrap_or(u32::MAX),
    })
}

/// The daemon of a machine in a workspace, made when it is new; its folders stay as they were.
pub(crate) async fn welcome(
    conn: &mut Conn,
    workspace: WorkspaceId,
    machine: MachineId,
    mut profile: Profile,
    now: Timestamp,
) -> Result<Daemon, StoreError> {
    let sql = format!("{COLUMNS} WHERE d.workspace_id = $1 AND d.machine_id = $2");
    let known: Option<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(text(machine.0))
        .fetch_optional(&mut *conn)
        .await
        .doing("look a daemon up")?;
    let known = known.map(daemon).transpose()?;
    if profile.directories.is_none() {
        profile.directories = known.as_ref().and_then(|k| k.profile.directories.clone());
    }
    let id = known.as_ref().map_or_else(DaemonId::fresh, |k| k.id);
    // another relay may have welcomed it first
    let id: String = query_scalar(
        "INSERT INTO daemons (id, workspace_id, machine_id, last_seen_at, document) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (workspace_id, machine_id) \
         DO UPDATE SET last_seen_at = excluded.last_seen_at, document = excluded.document \
         RETURNING id",
    )
    .bind(text(id.0))
    .bind(text(workspace.0))
    .bind(text(machine.0))
    .bind(now.millis())
    .bind(json(&profile, "daemon")?)
    .fetch_one(conn)
    .await
    .doing("store a daemon")?;
    let held = known.map_or(0, |k| k.held);
    Ok(Daemon { id: DaemonId(read_id(&id)?), machine, profile, last_seen_at: now, held })
}

/// A daemon of a workspace.
pub(crate) async fn find(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: DaemonId,
) -> Result<Option<Daemon>, StoreError> {
    let sql = format!("{COLUMNS} WHERE d.workspace_id = $1 AND d.id = $2");
    let row: Option<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(text(id.0))
        .fetch_optional(conn)
        .await
        .doing("look a daemon up")?;
    row.map(daemon).transpose()
}

/// The daemons of a workspace by id, after `after`.
pub(crate) async fn page(
    conn: &mut Conn,
    workspace: WorkspaceId,
    after: Option<String>,
    limit: u32,
) -> Result<Vec<Daemon>, StoreError> {
    let sql = format!("{COLUMNS} WHERE d.workspace_id = $1 AND d.id > $2 ORDER BY d.id LIMIT $3");
    let rows: Vec<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(after.unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await
        .doing("read the daemons")?;
    rows.into_iter().map(daemon).collect()
}

/// Stores anew what a daemon says of itself.
pub(crate) async fn describe(
    conn: &mut Conn,
    id: DaemonId,
    profile: &Profile,
) -> Result<(), StoreError> {
    query("UPDATE daemons SET document = $2 WHERE id = $1")
        .bind(text(id.0))
        .bind(json(profile, "daemon")?)
        .execute(conn)
        .await
        .doing("store a daemon")?;
    Ok(())
}

/// Notes that a daemon was heard.
pub(crate) async fn seen(conn: &mut Conn, id: DaemonId, now: Timestamp) -> Result<(), StoreError> {
    query("UPDATE daemons SET last_seen_at = $2 WHERE id = $1")
        .bind(text(id.0))
        .bind(now.millis())
        .execute(conn)
        .await
        .doing("note a daemon's beat")?;
    Ok(())
}

/// The last state message of a daemon that is stored. Within a change nobody else stores one.
pub(crate) async fn acked(conn: &mut Conn, id: DaemonId) -> Result<Option<u64>, StoreError> {
    let sql = format!("SELECT acked_seq FROM daemons WHERE id = $1{}", conn.locking());
    let acked: Option<i64> = query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(text(id.0))
        .fetch_one(conn)
        .await
        .doing("read a daemon's count")?;
    Ok(acked.filter(|_| !planted("no_dedup")).map(count))
}

/// Notes the last state message of a daemon, with the change that it made.
pub(crate) async fn set_acked(conn: &mut Conn, id: DaemonId, seq: u64) -> Result<(), StoreError> {
    query("UPDATE daemons SET acked_seq = $2 WHERE id = $1")
        .bind(text(id.0))
        .bind(int(seq))
        .execute(conn)
        .await
        .doing("note a daemon's count")?;
    Ok(())
}
