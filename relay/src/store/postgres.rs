//! PostgreSQL: how connections are made, and how a change is made durable there.
//!
//! Several relays write at the same time, so a change locks the rows that it read before it changes
//! them: `Conn::locking`. A statement waits a bounded time for such a lock and for its answer. When
//! the server goes away, what is under way fails as unavailable; the next request takes a new
//! connection. Commits of several connections share the disk's waits by the server's own means.
//!
//! A server that falls silent is met by bounds on each wait for it: for a connection, an answer, a
//! commit, and for what a connection that was given back still owes. The server in its turn lets go
//! of a relay that fell silent ([`BOUNDS`]), and with it of the locks that say who serves.

use super::sql::{ANSWER, silent};
use super::{Doing, StoreError};
use crate::database;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};
use std::time::Duration;
use tokio::time::timeout;

/// Connections that only read. With those that write they leave room for several relays among the
/// hundred that a server usually allows.
const READERS: u32 = 8;

/// Connections that write: more would wait for the disk all the same.
const WRITERS: u32 = 12;

/// A request waits no longer for a connection than a client waits for its answer.
const ACQUIRE: Duration = Duration::from_secs(5);

/// A commit that has not ended by now may or may not be stored.
const COMMIT: Duration = Duration::from_secs(20);

/// Connecting takes no longer than this, or there is nobody.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection that is given back and has not ended what it owes by now is thrown away: it would
/// keep its place from others until the network gives up, a quarter of an hour later.
const GIVEN_BACK: Duration = Duration::from_secs(5);

/// Prepared statements that a connection keeps: all that there are, with their sizes.
const STATEMENTS: usize = 256;

/// Bounds that the server itself holds: a statement, its wait for a lock, a transaction that a
/// relay left open, and a relay whose machine is gone: within a quarter of a minute.
const BOUNDS: [(&str, &str); 8] = [
    ("statement_timeout", "15s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("tcp_keepalives_idle", "5s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "2"),
    ("tcp_user_timeout", "15s"),
    // what is counted under a lock is counted as it is once the lock is had
    ("default_transaction_isolation", "read committed"),
];

/// The connections of a relay.
#[derive(Debug)]
pub(super) struct Pools {
    pub(super) readers: PgPool,
    pub(super) writers: PgPool,
}

/// Connects. The database must be there and let the relay make tables.
pub(super) async fn open(at: &database::Postgres) -> Result<Pools, StoreError> {
    // without bounds: another relay may be bringing a large database to this version
    alone(at).await?.close().await.doing("be opened")?;
    let options = bounded(at);
    let writers = pool(WRITERS).connect_with(options.clone()).await.doing("be opened")?;
    let readers = pool(READERS).connect_with(options).await.doing("be opened for reading")?;
    Ok(Pools { readers, writers })
}

/// A connection without bounds, on which the tables are as this version has them.
pub(super) async fn alone(at: &database::Postgres) -> Result<PgConnection, StoreError> {
    let mut conn = connect(&options(at)).await?;
    super::schema::migrate_postgres(&mut conn).await?;
    Ok(conn)
}

/// A connection that no pool keeps, with the bounds of all others.
pub(super) async fn single(at: &database::Postgres) -> Result<PgConnection, StoreError> {
    connect(&bounded(at)).await
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let connected = timeout(CONNECT, PgConnection::connect_with(options)).await;
    connected.unwrap_or_else(|_| Err(silent())).doing("be opened")
}

fn bounded(at: &database::Postgres) -> PgConnectOptions {
    options(at).options(BOUNDS)
}

fn options(at: &database::Postgres) -> PgConnectOptions {
    PgConnectOptions::clone(&at.options)
        .application_name("hayward-relay")
        .statement_cache_capacity(STATEMENTS)
        .disable_statement_logging()
}

fn pool(size: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE).after_release(|conn, _| {
        Box::pin(async {
            let settled = timeout(GIVEN_BACK, conn.ping()).await;
            settled.unwrap_or_else(|_| Err(silent())).map(|()| true)
        })
    })
}

/// Begins a change.
pub(super) async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    timeout(ANSWER, pool.begin()).await.unwrap_or_else(|_| Err(silent())).doing("begin to write")
}

/// Makes a change durable. When the connection breaks meanwhile, nobody knows whether it is.
pub(super) async fn commit(change: Transaction<'static, Postgres>) -> Result<(), StoreError> {
    timeout(COMMIT, change.commit()).await.unwrap_or_else(|_| Err(silent())).doing("store a change")
}
