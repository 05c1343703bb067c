//! Which relay has which daemon's link, and which relays live. Only relays that share a bus write it.
//!
//! A relay lives as long as its count goes on: no clock is compared with another machine's.

use super::sql::query;
use super::{Conn, Doing, StoreError, count, int, read_id, text};
use hayward_shared::id::{DaemonId, RelayId, WorkspaceId};

/// A link as other relays need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The relay that has it.
    pub(crate) relay: RelayId,
    /// Its number there: of two links of one daemon at one relay the higher is the present one.
    pub(crate) link: u64,
    pub(crate) workspace: WorkspaceId,
    pub(crate) manners: Manners,
}

/// What the daemon at its end can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manners {
    pub(crate) replies: bool,
    pub(crate) terminals: bool,
    pub(crate) streams: bool,
}

impl Manners {
    fn bits(self) -> i64 {
        i64::from(self.replies) | i64::from(self.terminals) << 1 | i64::from(self.streams) << 2
    }

    fn of(bits: i64) -> Self {
        Self { replies: bits & 1 != 0, terminals: bits & 2 != 0, streams: bits & 4 != 0 }
    }
}

type Row = (String, i64, String, i64);

fn place((relay, link, workspace, manners): Row) -> Result<Place, StoreError> {
    Ok(Place {
        relay: RelayId(read_id(&relay)?),
        link: count(link),
        workspace: WorkspaceId(read_id(&workspace)?),
        manners: Manners::of(manners),
    })
}

/// Notes a daemon's present link, in place of any other; the one that another relay had till now.
pub(crate) async fn put(
    conn: &mut Conn,
    daemon: DaemonId,
    place: Place,
) -> Result<Option<Place>, StoreError> {
    let former = find(conn, daemon).await?.filter(|former| former.relay != place.relay);
    insert(
        conn,
        daemon,
        place,
        "DO UPDATE SET relay_id = excluded.relay_id, link = excluded.link, \
         workspace_id = excluded.workspace_id, manners = excluded.manners \
         WHERE links.relay_id <> excluded.relay_id OR links.link < excluded.link",
    )
    .await?;
    Ok(former)
}

/// Notes a link where none is noted; whether it was noted.
pub(crate) async fn put_back(
    conn: &mut Conn,
    daemon: DaemonId,
    place: Place,
) -> Result<bool, StoreError> {
    insert(conn, daemon, place, "DO NOTHING").await
}

async fn insert(
    conn: &mut Conn,
    daemon: DaemonId,
    place: Place,
    otherwise: &'static str,
) -> Result<bool, StoreError> {
    let sql = format!(
        "INSERT INTO links (daemon_id, relay_id, link, workspace_id, manners) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (daemon_id) {otherwise}"
    );
    let noted = query(sqlx::AssertSqlSafe(sql))
        .bind(text(daemon.0))
        .bind(text(place.relay.0))
        .bind(int(place.link))
        .bind(text(place.workspace.0))
        .bind(place.manners.bits())
        .execute(conn)
        .await
        .doing("note a link")?;
    Ok(noted > 0)
}

/// Where a daemon is linked. Within a change it stays so until the change is stored.
pub(crate) async fn find(conn: &mut Conn, daemon: DaemonId) -> Result<Option<Place>, StoreError> {
    let sql = format!(
        "SELECT relay_id, link, workspace_id, manners FROM links WHERE daemon_id = $1{}",
        conn.locking()
    );
    let row: Option<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(daemon.0))
        .fetch_optional(conn)
        .await
        .doing("look a link up")?;
    row.map(place).transpose()
}

/// Forgets a link, unless a later one took its place.
pub(crate) async fn remove(
    conn: &mut Conn,
    daemon: DaemonId,
    relay: RelayId,
    link: u64,
) -> Result<(), StoreError> {
    query("DELETE FROM links WHERE daemon_id = $1 AND relay_id = $2 AND link = $3")
        .bind(text(daemon.0))
        .bind(text(relay.0))
        .bind(int(link))
        .execute(conn)
        .await
        .doing("forget a link")?;
    Ok(())
}

/// The daemons of a workspace that are linked to any relay, each with its relay.
pub(crate) async fn of_workspace(
    conn: &mut Conn,
    workspace: WorkspaceId,
) -> Result<Vec<(DaemonId, RelayId)>, StoreError> {
    let rows: Vec<(String, String)> =
        query("SELECT daemon_id, relay_id FROM links WHERE workspace_id = $1 ORDER BY daemon_id")
            .bind(text(workspace.0))
            .fetch_all(conn)
            .await
            .doing("read the links")?;
    rows.iter().map(|(d, r)| Ok((DaemonId(read_id(d)?), RelayId(read_id(r)?)))).collect()
}

/// The links of a relay, with their numbers.
pub(crate) async fn of_relay(
    conn: &mut Conn,
    relay: RelayId,
) -> Result<Vec<(DaemonId, u64)>, StoreError> {
    let rows: Vec<(String, i64)> =
        query("SELECT daemon_id, link FROM links WHERE relay_id = $1 ORDER BY daemon_id")
            .bind(text(relay.0))
            .fetch_all(conn)
            .await
            .doing("read the links")?;
    rows.iter().map(|(daemon, link)| Ok((DaemonId(read_id(daemon)?), count(*link)))).collect()
}

/// Says that a relay lives: its count is this now.
pub(crate) async fn beat(conn: &mut Conn, relay: RelayId, beat: u64) -> Result<(), StoreError> {
    query(
        "INSERT INTO relay_beats (relay_id, beat) VALUES ($1, $2) \
         ON CONFLICT (relay_id) DO UPDATE SET beat = excluded.beat",
    )
    .bind(text(relay.0))
    .bind(int(beat))
    .execute(conn)
    .await
    .doing("note that the relay lives")?;
    Ok(())
}

/// The relays that wrote that they live, with their counts.
pub(crate) async fn beats(conn: &mut Conn) -> Result<Vec<(RelayId, u64)>, StoreError> {
    let rows: Vec<(String, i64)> =
        query("SELECT relay_id, beat FROM relay_beats ORDER BY relay_id")
            .fetch_all(conn)
            .await
            .doing("look which relays live")?;
    rows.iter().map(|(relay, beat)| Ok((RelayId(read_id(relay)?), count(*beat)))).collect()
}

/// Forgets a relay that is gone, with the links that it had, unless it counted on since it was judged
/// by `beat`.
pub(crate) async fn forget_gone(
    conn: &mut Conn,
    relay: RelayId,
    beat: u64,
) -> Result<(), StoreError> {
    let removed = query("DELETE FROM relay_beats WHERE relay_id = $1 AND beat = $2")
        .bind(text(relay.0))
        .bind(int(beat))
        .execute(conn)
        .await
        .doing("forget a relay")?;
    if removed > 0 { forget(conn, relay).await } else { Ok(()) }
}

/// Forgets a relay that ended, with the links that it had.
pub(crate) async fn forget(conn: &mut Conn, relay: RelayId) -> Result<(), StoreError> {
    for sql in
        ["DELETE FROM links WHERE relay_id = $1", "DELETE FROM relay_beats WHERE relay_id = $1"]
    {
        query(sql).bind(text(relay.0)).execute(conn).await.doing("forget a relay")?;
    }
    Ok(())
}
