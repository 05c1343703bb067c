//! The clock of leases, as all relays of a database share it: `crate::mover` says who moves it.

use super::sql::query;
use super::{Conn, Doing, StoreError};
use crate::mover::Move;
use hayward_shared::id::RelayId;
use hayward_shared::time::Timestamp;

/// How far the clock is.
pub(crate) async fn read(conn: &mut Conn) -> Result<Timestamp, StoreError> {
    let (ms,): (i64,) = query("SELECT ms FROM lease_clock WHERE id = 1")
        .fetch_one(conn)
        .await
        .doing("read the clock of leases")?;
    Ok(Timestamp::from_millis(ms))
}

/// How often the clock was moved, and whether any task is held, so that it measures something.
pub(crate) async fn look(conn: &mut Conn) -> Result<(i64, bool), StoreError> {
    let (turn, held): (i64, i64) = query(
        "SELECT turn, (SELECT COUNT(*) FROM (SELECT 1 FROM tasks WHERE status IN \
         ('dispatched', 'waiting', 'running', 'paused') LIMIT 1) held) FROM lease_clock WHERE id = 1",
    )
    .fetch_one(conn)
    .await
    .doing("read the clock of leases")?;
    Ok((turn, held > 0))
}

/// Moves the clock, unless somebody did since; whether it was moved.
pub(crate) async fn advance(conn: &mut Conn, of: Move, by: RelayId) -> Result<bool, StoreError> {
    let moved = query(
        "UPDATE lease_clock SET ms = ms + $1, turn = turn + 1, moved_by = $2 \
         WHERE id = 1 AND turn = $3",
    )
    .bind(of.by)
    .bind(super::text(by.0))
    .bind(of.after)
    .execute(conn)
    .await
    .doing("move the clock of leases")?;
    Ok(moved > 0)
}
