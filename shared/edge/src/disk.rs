//! Connections to SQLite. What ships uses sqlx's own types.
//!
//! sqlx answers from threads of its own, so the order of two answers is chance, and a paused clock
//! runs on while one is awaited. In a simulated world each statement is therefore done within the
//! poll that asks for it: it takes no time, and nothing runs beside it.

#[cfg(not(feature = "simulation"))]
pub use plain::{Connection, Pool, Reader, Work};
#[cfg(feature = "simulation")]
pub use stand_in::{Connection, Pool, Reader, Work};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

/// Opens the database, with as many connections as `size` says.
///
/// # Errors
/// When it cannot be opened.
pub async fn open(
    size: SqlitePoolOptions,
    options: SqliteConnectOptions,
) -> Result<Pool, sqlx::Error> {
    #[cfg(feature = "simulation")]
    return Pool::open(size, options).await;
    #[cfg(not(feature = "simulation"))]
    size.connect_with(options).await
}

/// Brings a database to the newest of its versions.
///
/// # Errors
/// When a step fails, or the database is newer.
pub async fn migrate(pool: &Pool, migrator: &Migrator) -> Result<(), MigrateError> {
    #[cfg(feature = "simulation")]
    return pool.migrate(migrator).await;
    #[cfg(not(feature = "simulation"))]
    migrator.run(pool).await
}

/// Waits for the disk of a simulated world, as a transaction does that is begun and committed by
/// statements of its own: before it begins, before its commit, and after. Elsewhere over at once.
#[cfg_attr(not(feature = "simulation"), expect(clippy::unused_async, reason = "a world may wait"))]
pub async fn wait(_connection: &mut Reader) {
    #[cfg(feature = "simulation")]
    _connection.wait().await;
}

#[cfg(not(feature = "simulation"))]
mod plain {
    /// The connections of one database.
    pub type Pool = sqlx::SqlitePool;

    /// A connection, for statements.
    pub type Connection = sqlx::SqliteConnection;

    /// A connection of the pool's, while it is held.
    pub type Reader = sqlx::pool::PoolConnection<sqlx::Sqlite>;

    /// A transaction; undone when it is dropped before it is committed.
    pub type Work = sqlx::Transaction<'static, sqlx::Sqlite>;
}

#[cfg(feature = "simulation")]
mod stand_in;
