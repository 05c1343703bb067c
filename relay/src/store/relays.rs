//! The relays that serve one PostgreSQL database.
//!
//! Each has a row, and holds a lock of the server's for as long as one connection of its own lives.
//! So the server itself says who is there: a relay that was killed is gone at once, one whose machine
//! or network is gone within a quarter of a minute (`super::postgres`). Nobody compares clocks.
//!
//! A lock is named after the schema too, as one database may hold several relays' tables.

use super::sql::{ANSWER, query, silent};
use super::{Conn, Doing, StoreError, postgres, read_id, text};
use crate::database;
use hayward_shared::id::RelayId;
use sqlx::{Connection, PgConnection};
use std::fmt;
use std::time::Duration;
use tokio::time::timeout;

/// A server that has not answered a relay's look at its seat by now is away.
const LOOK: Duration = Duration::from_secs(5);

/// A relay, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) id: RelayId,
    /// Where it listens.
    pub(crate) address: String,
    pub(crate) version: String,
    /// Whether it reaches other relays.
    pub(crate) bus: bool,
}

/// Another relay that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) address: String,
    pub(crate) version: String,
    pub(crate) bus: bool,
    /// From where it reached the database.
    pub(crate) host: String,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, version, host, .. } = self;
        write!(f, "the relay on {host} that listens on {address} (version {version})")
    }
}

/// Whether a relay may serve beside those that do. Without a bus between all of them a command or an
/// event for another's daemon or client would get lost; the first in the way is handed back.
pub(crate) fn may_join(others: &[Other], has_bus: bool) -> Result<(), &Other> {
    others.iter().find(|other| !has_bus || !other.bus).map_or(Ok(()), Err)
}

/// A relay's place among those that serve a database, for as long as its connection lives.
#[derive(Debug)]
pub(crate) struct Seat {
    conn: PgConnection,
    id: RelayId,
}

/// Address, version, whether it has a bus, host.
type Row = (String, String, i64, String);

/// The lock of a relay's, by its id.
macro_rules! lock_of {
    ($id:literal) => {
        concat!("hashtextextended(current_schema() || '/relay/' || ", $id, ", 0)")
    };
}

const OTHERS: &str = "SELECT address, version, bus, host FROM relays WHERE id <> $1 ORDER BY id";

impl Seat {
    /// Takes a place, unless those who are there leave none: then the one in the way is named.
    pub(crate) async fn take(
        at: &database::Postgres,
        card: &Card,
    ) -> Result<Result<Self, Other>, StoreError> {
        let taken = timeout(ANSWER, Self::join(at, card)).await;
        taken.unwrap_or_else(|_| Err(silent()).doing("join the relays"))
    }

    async fn join(at: &database::Postgres, card: &Card) -> Result<Result<Self, Other>, StoreError> {
        let mut conn = postgres::single(at).await?;
        let mut joining = conn.begin().await.doing("join the relays")?;
        one_at_a_time(&mut joining).await?;
        clear(&mut joining).await?;
        let others = list(&mut joining, &text(card.id.0)).await?;
        if let Err(other) = may_join(&others, card.bus) {
            return Ok(Err(other.clone()));
        }
        // of the session's, and not of the transaction's
        sqlx::query(concat!("SELECT pg_advisory_lock(", lock_of!("$1"), ")"))
            .bind(text(card.id.0))
            .execute(&mut *joining)
            .await
            .doing("join the relays")?;
        sqlx::query(
            "INSERT INTO relays (id, address, version, bus, host) \
             VALUES ($1, $2, $3, $4, COALESCE(host(inet_client_addr()), 'the same machine'))",
        )
        .bind(text(card.id.0))
        .bind(&card.address)
        .bind(&card.version)
        .bind(i64::from(card.bus))
        .execute(&mut *joining)
        .await
        .doing("join the relays")?;
        joining.commit().await.doing("join the relays")?;
        Ok(Ok(Self { conn, id: card.id }))
    }

    /// Whether it still has its place; once it has not, it never has again.
    pub(crate) async fn is_held(&mut self) -> bool {
        matches!(timeout(LOOK, self.conn.ping()).await, Ok(Ok(())))
    }

    /// Gives the place up.
    pub(crate) async fn leave(mut self) -> Result<(), StoreError> {
        let left = async {
            sqlx::query("DELETE FROM relays WHERE id = $1")
                .bind(text(self.id.0))
                .execute(&mut self.conn)
                .await?;
            self.conn.close().await
        };
        timeout(LOOK, left).await.unwrap_or_else(|_| Err(silent())).doing("leave the relays")
    }
}

/// The relays that serve this database, kept from changing until the transaction on `conn` ends.
pub(super) async fn serving(conn: &mut PgConnection) -> Result<Vec<Other>, StoreError> {
    one_at_a_time(conn).await?;
    clear(conn).await?;
    list(conn, "").await
}

/// The relays on the list, oldest first, each with the host from which it reached the database. Whoever
/// was killed stays on it until the next one comes.
pub(crate) async fn cards(conn: &mut Conn) -> Result<Vec<(Card, String)>, StoreError> {
    let rows: Vec<(String, String, String, i64, String)> =
        query("SELECT id, address, version, bus, host FROM relays ORDER BY id")
            .fetch_all(conn)
            .await
            .doing("list the relays")?;
    let card = |(id, address, version, bus, host): (String, String, String, i64, String)| {
        let id = RelayId(read_id(&id)?);
        Ok((Card { id, address, version, bus: bus != 0 }, host))
    };
    rows.into_iter().map(card).collect()
}

/// Those who are there, but for `own`.
async fn list(conn: &mut PgConnection, own: &str) -> Result<Vec<Other>, StoreError> {
    let rows: Vec<Row> =
        sqlx::query_as(OTHERS).bind(own).fetch_all(conn).await.doing("list the relays")?;
    let other = |(address, version, bus, host)| Other { address, version, bus: bus != 0, host };
    Ok(rows.into_iter().map(other).collect())
}

async fn one_at_a_time(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '/relays', 0))")
        .execute(conn)
        .await
        .doing("join the relays")?;
    Ok(())
}

/// Takes away the rows of those who are gone: their locks are to be had.
async fn clear(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query(concat!(
        "DELETE FROM relays WHERE pg_try_advisory_xact_lock(",
        lock_of!("id"),
        ")"
    ))
    .execute(conn)
    .await
    .doing("look which relays are gone")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(bus: bool) -> Other {
        let (address, version) = ("127.0.0.1:7420".into(), "0.1.0".into());
        Other { address, version, bus, host: "10.0.0.5".into() }
    }

    #[test]
    fn relays_serve_together_only_where_each_has_a_bus() {
        assert_eq!(may_join(&[], false), Ok(()));
        assert_eq!(may_join(&[other(true), other(true)], true), Ok(()));
        assert_eq!(may_join(&[other(true)], false), Err(&other(true)));
        assert_eq!(may_join(&[other(true), other(false)], true), Err(&other(false)));
    }
}
