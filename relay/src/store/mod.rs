//! The relay's store: SQLite behind statements that PostgreSQL would take as they are.
//!
//! [`Store`] owns both pools and the live channel. All writes go through the one [`Tx`]: it takes
//! the write lock at once (`BEGIN IMMEDIATE`), so no read is ever upgraded and nothing is refused
//! as busy. An event is heard only after the transaction that stored it.

pub(crate) mod daemons;
pub(crate) mod discards;
pub(crate) mod events;
mod schema;
pub(crate) mod tasks;
pub(crate) mod tokens;
pub(crate) mod users;

use hayward_edge::disk::{self, Connection, Pool, Reader, Work};
use hayward_shared::event::Envelope;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::time::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use uuid::Uuid;

/// How long a statement waits for the lock of another process, such as a backup.
const BUSY: Duration = Duration::from_secs(5);

/// Connections that only read: as many as a small machine has use for.
const READERS: u32 = 4;

/// Live events that a slow listener may lag behind; past it, it reads the store again.
const LIVE: usize = 4096;

/// The store failed; the text says at what, the source why. Neither is for clients: see
/// `StoreError::fault`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database refused or broke.
    #[error("the database could not {doing}")]
    Database {
        /// What it was to do.
        doing: &'static str,
        /// Its own words.
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed, or the database was written by a newer relay.
    #[error("the database could not be brought to this version; was it used by a newer relay?")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// What is stored cannot be understood.
    #[error("a stored {what} cannot be read")]
    Unreadable {
        /// What kind of thing.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system has no randomness for a secret.
    #[error("no secret could be made")]
    Random(#[source] getrandom::Error),
    /// The database's file could not be prepared.
    #[error("the database's file could not be prepared")]
    File(#[source] std::io::Error),
}

impl StoreError {
    /// What a client hears: whether to try again, and nothing of the database's own words.
    pub(crate) fn fault(&self) -> Fault {
        if self.passes() {
            Fault::new(Code::Unavailable, "the relay's database is busy")
        } else {
            Fault::new(Code::Internal, "the relay's database failed")
        }
    }

    fn passes(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        match source {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
            // 5 is SQLITE_BUSY and 6 SQLITE_LOCKED; the upper bits say more of the same
            sqlx::Error::Database(e) => e
                .code()
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| matches!(code & 0xff, 5 | 6)),
            _ => false,
        }
    }
}

/// Says at what the database failed.
pub(crate) trait Doing<T> {
    /// `doing` completes "the database could not …".
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Database { doing, source })
    }
}

/// The store. Owns the database's connections and the channel of live events.
#[derive(Debug)]
pub(crate) struct Store {
    writer: Pool,
    readers: Pool,
    live: broadcast::Sender<Arc<Envelope>>,
}

impl Store {
    /// Opens the database at `path`, makes it when absent, and brings it to this version.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        private_file(path).map_err(StoreError::File)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let size = |most| SqlitePoolOptions::new().max_connections(most);
        let writer = disk::open(size(1), options.clone()).await.doing("be opened")?;
        schema::migrate(&writer).await?;
        let readers = disk::open(size(READERS), options.read_only(true));
        let readers = readers.await.doing("be opened for reading")?;
        Ok(Self { writer, readers, live: broadcast::channel(LIVE).0 })
    }

    /// Begins to write. Waits for its turn; undone when dropped before [`Tx::commit`].
    pub(crate) async fn write(&self) -> Result<Tx, StoreError> {
        let inner = self.writer.begin_with("BEGIN IMMEDIATE").await.doing("begin to write")?;
        Ok(Tx { inner, live: self.live.clone(), fresh: Vec::new() })
    }

    /// A connection that only reads.
    pub(crate) async fn read(&self) -> Result<Reader, StoreError> {
        self.readers.acquire().await.doing("begin to read")
    }

    /// Every event that is stored from now on, each after it was stored.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Envelope>> {
        self.live.subscribe()
    }

    /// Closes all connections; what follows is refused as unavailable.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Makes the file readable by its owner alone before SQLite makes it for all.
fn private_file(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// One write transaction, and the events that it will let be heard.
pub(crate) struct Tx {
    inner: Work,
    live: broadcast::Sender<Arc<Envelope>>,
    fresh: Vec<Arc<Envelope>>,
}

impl Tx {
    /// The connection, for the statements of the modules below.
    pub(crate) fn conn(&mut self) -> &mut Connection {
        &mut self.inner
    }

    /// Makes it durable, then lets its events be heard.
    ///
    /// Once begun it runs to its end even when the caller goes away, so that no stored event stays
    /// unheard.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let Self { inner, live, fresh } = self;
        let end = tokio::spawn(async move {
            inner.commit().await.doing("store a change")?;
            for event in fresh {
                // without listeners there is nobody to miss it
                drop(live.send(event));
            }
            Ok(())
        });
        end.await.unwrap_or(Err(StoreError::Database {
            doing: "store a change",
            source: sqlx::Error::WorkerCrashed,
        }))
    }
}

/// An id as tables hold it: 32 hex digits, so that text sorts by age and ends can be matched.
pub(crate) fn text(id: Uuid) -> String {
    id.simple().to_string()
}

fn read_id(text: &str) -> Result<Uuid, StoreError> {
    Uuid::parse_str(text).map_err(|e| unreadable("id", e))
}

fn read_name<T: FromStr<Err: Display>>(text: &str, what: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|e: T::Err| unreadable(what, e.to_string()))
}

fn unreadable(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Unreadable { what, source: source.into() }
}

fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(int: i64) -> u64 {
    u64::try_from(int).unwrap_or(0)
}

fn moment(ms: Option<i64>) -> Option<Timestamp> {
    ms.map(Timestamp::from_millis)
}

fn json<T: serde::Serialize>(value: &T, what: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| unreadable(what, e))
}

fn from_json<T: serde::de::DeserializeOwned>(
    text: &str,
    what: &'static str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| unreadable(what, e))
}
