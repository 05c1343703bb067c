//! SQLite: the file, and how its connections are made.

use super::hold::Hold;
use super::{Doing, StoreError, schema};
use hayward_edge::disk::{self, Pool};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection};
use std::path::Path;
use std::time::Duration;

/// How long a statement waits for the lock of another process, such as a backup.
const BUSY: Duration = Duration::from_secs(5);

/// Connections that only read: as many as a small machine has use for.
const READERS: u32 = 4;

/// Pages of 4 KiB in the log before they go into the file: written back rarely, a commit is one
/// append.
const CHECKPOINT: &str = "4000";

/// Prepared statements that a connection keeps: all that there are, with their sizes.
const STATEMENTS: usize = 256;

/// The connections of a relay: one that writes, and those that read.
#[derive(Debug)]
pub(super) struct Pools {
    pub(super) readers: Pool,
    pub(super) writer: Pool,
    pub(super) hold: Hold,
}

/// Opens the file at `path`, makes it when it is absent, and brings it to this version.
pub(super) async fn open(path: &Path) -> Result<Pools, StoreError> {
    private_file(path).map_err(StoreError::File)?;
    let hold = Hold::take(path).await?;
    let options = options(path);
    let size = |most| SqlitePoolOptions::new().max_connections(most);
    let writer = disk::open(size(1), options.clone()).await.doing("be opened")?;
    disk::migrate(&writer, &schema::for_sqlite()).await.map_err(StoreError::Migrate)?;
    let readers = disk::open(size(READERS), options.read_only(true));
    let readers = readers.await.doing("be opened for reading")?;
    Ok(Pools { readers, writer, hold })
}

/// A connection that no pool keeps, on which the tables are as this version has them, and the lock
/// that keeps relays from the file.
pub(super) async fn alone(path: &Path) -> Result<(SqliteConnection, Hold), StoreError> {
    private_file(path).map_err(StoreError::File)?;
    let hold = Hold::take(path).await?;
    let mut conn = options(path).connect().await.doing("be opened")?;
    schema::for_sqlite().run(&mut conn).await.map_err(StoreError::Migrate)?;
    Ok((conn, hold))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("wal_autocheckpoint", CHECKPOINT)
        .statement_cache_capacity(STATEMENTS)
        .busy_timeout(BUSY)
}

/// Makes the file readable by its owner alone before SQLite makes it for all.
fn private_file(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
