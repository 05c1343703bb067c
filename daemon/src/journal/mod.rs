//! The daemon's one database: runs, outbox and replies.
//!
//! Written before anything is sent or spawned: a state message enters the outbox in the same
//! transaction as the state that it tells of. The [`Journal`] is the only writer; it has one
//! connection, so transactions come one after another, each on disk before its call returns.

mod completions;
mod jobs;
mod merges;
mod outbox;
mod queue;
mod removals;
mod replies;
mod runs;

pub use jobs::{JobRow, MOST_ENDED_JOBS};
pub use merges::Answered;
pub use outbox::Outgoing;
pub use queue::{QueueRow, QueueStep};
pub use removals::{Removed, Standing};
pub use runs::{RunRow, Step};

use hayward_edge::disk::{self, Pool};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// The journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It cannot be opened.
    #[error("cannot open the journal {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: sqlx::Error,
    },
    /// It was written by a newer version.
    #[error(
        "{} was written by a newer Hayward (layout {found}, this one knows {known}): upgrade this one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The database refused.
    #[error("cannot {doing} in the journal")]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// A row does not hold what it should.
    #[error("a row of the journal is damaged ({what})")]
    Damaged {
        /// Which kind of row.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl JournalError {
    fn doing(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }

    fn damaged(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Damaged { what, source }
    }

    /// Whether the disk is full, so that the same write may succeed later.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Database { source: sqlx::Error::Database(error), .. }
            if error.code().as_deref() == Some("13"))
    }
}

/// One layout after the other; a database is brought forward from where it stands.
const LAYOUTS: [&str; 6] = [
    "
    CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        task_id TEXT NOT NULL,
        lease_epoch INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        ended INTEGER NOT NULL,
        spawn TEXT NOT NULL,
        state TEXT NOT NULL
    );
    CREATE INDEX runs_by_task ON runs (task_id, lease_epoch);
    CREATE INDEX runs_live ON runs (ended) WHERE ended = 0;
    CREATE TABLE outbox (seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    INSERT INTO numbers VALUES ('next_seq', 1);
    CREATE TABLE replies (request_id TEXT PRIMARY KEY, at INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE INDEX replies_by_age ON replies (at);
",
    completions::LAYOUT,
    merges::LAYOUT,
    removals::LAYOUT,
    queue::LAYOUT,
    jobs::LAYOUT,
];

/// The journal. Clones share the one connection.
#[derive(Clone, Debug)]
pub struct Journal {
    pool: Pool,
    grown: watch::Sender<u64>,
}

impl Journal {
    /// Opens the journal, making or migrating it as needed.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be opened, is damaged, or is newer than this version.
    pub async fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Open { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let size =
            SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let pool = disk::open(size, options).await.map_err(failed)?;
        let found: i64 =
            sqlx::query_scalar("PRAGMA user_version").fetch_one(&pool).await.map_err(failed)?;
        let known = LAYOUTS.len() as i64;
        if found > known {
            return Err(JournalError::Newer { path: path.to_owned(), found, known });
        }
        for (at, layout) in LAYOUTS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
            let step = format!("BEGIN IMMEDIATE;{layout};PRAGMA user_version = {};COMMIT", at + 1);
            sqlx::raw_sql(sqlx::AssertSqlSafe(step)).execute(&pool).await.map_err(failed)?;
        }
        let next = next_seq(&pool).await.map_err(failed)?;
        Ok(Self { pool, grown: watch::Sender::new(next - 1) })
    }

    /// The number of the last message in the outbox, whenever it grows.
    #[must_use]
    pub fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }
}

async fn next_seq<'e, E>(executor: E) -> Result<u64, sqlx::Error>
where
    E: sqlx::Executor<'e, Database = sqlx::Sqlite>,
{
    let row = sqlx::query("SELECT value FROM numbers WHERE name = 'next_seq'")
        .fetch_one(executor)
        .await?;
    Ok(unsigned(row.get(0)))
}

/// A count from the database, which knows only signed ones.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A count for the database.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
