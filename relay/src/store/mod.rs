//! The relay's store: SQLite or PostgreSQL, by the same statements.
//!
//! [`Store`] owns the connections and the live channel. All writes go through the one [`Tx`]. On
//! SQLite its turn comes in order and it is committed with others ([`writer`]); on PostgreSQL it
//! locks the rows that it changes ([`postgres`]). An event is heard only after the transaction that
//! stored it.

pub(crate) mod clock;
#[cfg(test)]
pub(crate) mod contract;
pub(crate) mod daemons;
pub(crate) mod discards;
pub(crate) mod due;
pub(crate) mod events;
mod examine;
mod hold;
pub(crate) mod limits;
pub(crate) mod links;
mod moving;
mod postgres;
pub(crate) mod relays;
mod schema;
#[cfg(test)]
mod several;
pub(crate) mod spending;
mod sql;
mod sqlite;
pub(crate) mod tasks;
pub(crate) mod tokens;
#[cfg(test)]
mod upgrade;
pub(crate) mod users;
mod writer;

pub use examine::Tables;
pub(crate) use examine::examine;
pub use moving::{MoveError, Moved, migrate};
pub(crate) use sql::Conn;
#[cfg(test)]
pub(crate) use sql::asked;

use crate::database::Database;
use hayward_shared::event::Envelope;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::WorkspaceId;
use hayward_shared::time::Timestamp;
use sqlx::{Postgres, Transaction};
use std::fmt::Display;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::broadcast;
use uuid::Uuid;

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
    /// The commit failed that this change shared with others.
    #[error("the database could not store a change")]
    Commit(#[source] Arc<sqlx::Error>),
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
    /// Another process serves the database's file.
    #[error(
        "{} is served by another relay ({by}): stop that one, or keep this one's data elsewhere",
        file.display()
    )]
    InUse {
        /// The file.
        file: PathBuf,
        /// The process, as far as it is known.
        by: String,
    },
}

/// What PostgreSQL answers when another moment would serve: a deadlock or a lost race, a lock that
/// did not come, no room for a connection, a statement cut off, a server that stops or starts.
const PASSING: [&str; 9] =
    ["40001", "40P01", "55P03", "53300", "57014", "57P01", "57P02", "57P03", "25P03"];

impl StoreError {
    /// What a client hears: whether to try again, and nothing of the database's own words.
    pub(crate) fn fault(&self) -> Fault {
        if self.passes() {
            Fault::new(Code::Unavailable, "the relay's database is busy or away: try again")
        } else {
            Fault::new(Code::Internal, "the relay's database failed")
        }
    }

    /// Whether the database undid a change for another's sake: a deadlock, or a lost race. Nothing of
    /// it is stored, and at once it may well succeed.
    fn gave_way(&self) -> bool {
        let code = match self.source() {
            Some(sqlx::Error::Database(e)) => e.code(),
            _ => None,
        };
        code.is_some_and(|code| code == "40P01" || code == "40001")
    }

    fn source(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database { source, .. } => Some(source),
            Self::Commit(source) => Some(source),
            _ => None,
        }
    }

    fn passes(&self) -> bool {
        let Some(source) = self.source() else { return false };
        match source {
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            // a link that breaks within a word is told so
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed => true,
            sqlx::Error::Database(e) => e.code().is_some_and(|code| {
                let postgres = PASSING.contains(&&*code) || code.starts_with("08");
                // 5 is SQLITE_BUSY and 6 SQLITE_LOCKED; the upper bits say more of the same
                let lite = || code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6));
                // PostgreSQL's codes are of five letters and digits
                if code.len() == 5 { postgres } else { lite() }
            }),
            _ => false,
        }
    }
}

/// A change that gives way to others is tried so often: with that many who each lock a few rows in
/// another order the last try still fails once in thousands.
const TRIES: u32 = 6;

/// Makes a change, and makes it anew where the database undid it for another's sake. `change` begins
/// and commits it, and does nothing that must not be done twice.
pub(crate) async fn persist<T, F>(mut change: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut tries = Tries::default();
    loop {
        match change().await {
            Err(e) if tries.again(&e) => {}
            done => return done,
        }
    }
}

/// How often a change was tried, where [`persist`] cannot make it: one that also changes what its
/// maker holds.
#[derive(Debug, Default)]
pub(crate) struct Tries(u32);

impl Tries {
    /// Whether a change that failed so is to be made anew.
    pub(crate) fn again(&mut self, e: &StoreError) -> bool {
        self.0 += 1;
        let again = e.gave_way() && self.0 < TRIES;
        if again {
            tracing::debug!("a change gave way to another: once more");
        }
        again
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

/// What listeners are told.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// An event was stored.
    Event(Arc<Envelope>),
    /// Events of this stream may have been stored: nobody knows, so look.
    Look(WorkspaceId, Arc<str>),
    /// Events of any stream may have been stored by another relay, and were not heard here.
    Missed,
}

fn hear(live: &broadcast::Sender<Heard>, fresh: Vec<Arc<Envelope>>) {
    for event in fresh {
        // without listeners there is nobody to miss it
        drop(live.send(Heard::Event(event)));
    }
}

/// The store. Owns the database's connections and the channel of live events.
#[derive(Debug)]
pub(crate) struct Store {
    backend: Backend,
    live: broadcast::Sender<Heard>,
    /// Of what is live, what this relay stored itself; only where other relays may be.
    own: broadcast::Sender<Heard>,
}

#[derive(Debug)]
enum Backend {
    Sqlite(sqlite::Pools, writer::Writer),
    Postgres(postgres::Pools),
}

impl Store {
    /// Opens the database, makes a SQLite file when it is absent, and brings it to this version.
    pub(crate) async fn open(database: &Database) -> Result<Self, StoreError> {
        let (live, own) = (broadcast::channel(LIVE).0, broadcast::channel(LIVE).0);
        let backend = match database {
            Database::Sqlite(path) => {
                let pools = sqlite::open(path).await?;
                let writer = writer::Writer::start(pools.writer.clone(), live.clone());
                Backend::Sqlite(pools, writer)
            }
            Database::Postgres(at) => Backend::Postgres(postgres::open(at).await?),
        };
        Ok(Self { backend, live, own })
    }

    /// Begins to write. Waits for its turn; undone when dropped before [`Tx::commit`].
    pub(crate) async fn write(&self) -> Result<Tx, StoreError> {
        let turn = match &self.backend {
            Backend::Sqlite(_, writer) => Turn::Lent(writer.turn().await?),
            Backend::Postgres(pools) => {
                Turn::Own(Conn::Writing(postgres::begin(&pools.writers).await?))
            }
        };
        let heard_by = [self.live.clone(), self.own.clone()];
        Ok(Tx { turn, heard_by, fresh: Vec::new(), clock: None })
    }

    /// A connection that only reads.
    pub(crate) async fn read(&self) -> Result<Reader, StoreError> {
        let doing = "begin to read";
        Ok(Reader(match &self.backend {
            Backend::Sqlite(pools, _) => Conn::Sqlite(pools.readers.acquire().await.doing(doing)?),
            Backend::Postgres(pools) => Conn::Reading(pools.readers.acquire().await.doing(doing)?),
        }))
    }

    /// Whether a change may be undone for another's sake, and is then to be made anew: only where
    /// others write at the same time.
    pub(crate) fn may_undo(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// Every event that is stored from now on, each after it was stored.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Heard> {
        self.live.subscribe()
    }

    /// Of these, what this relay stores itself in a database that others may share.
    pub(crate) fn listen_to_own(&self) -> broadcast::Receiver<Heard> {
        self.own.subscribe()
    }

    /// Lets all who listen hear what another relay stored.
    pub(crate) fn overhear(&self, heard: Heard) {
        // without listeners there is nobody to miss it
        drop(self.live.send(heard));
    }

    /// Closes all connections; what follows is refused as unavailable.
    pub(crate) async fn close(&self) {
        match &self.backend {
            Backend::Sqlite(pools, _) => {
                pools.readers.close().await;
                pools.writer.close().await;
                pools.hold.release();
            }
            Backend::Postgres(pools) => {
                pools.readers.close().await;
                pools.writers.close().await;
            }
        }
    }
}

/// A connection that only reads, for the statements of the modules below.
pub(crate) struct Reader(Conn);

impl Deref for Reader {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.0
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.0
    }
}

/// One write transaction, and the events that it will let be heard.
pub(crate) struct Tx {
    turn: Turn,
    /// All who listen, and those who tell other relays.
    heard_by: [broadcast::Sender<Heard>; 2],
    fresh: Vec<Arc<Envelope>>,
    clock: Option<Timestamp>,
}

enum Turn {
    /// SQLite's one connection, for now.
    Lent(writer::Turn),
    /// A connection of its own.
    Own(Conn),
}

impl Tx {
    /// The connection, for the statements of the modules below.
    pub(crate) fn conn(&mut self) -> &mut Conn {
        match &mut self.turn {
            Turn::Lent(turn) => turn.conn(),
            Turn::Own(conn) => conn,
        }
    }

    /// How far the clock of leases is: never behind what was stored when this change began.
    pub(crate) async fn clock(&mut self) -> Result<Timestamp, StoreError> {
        if let Some(read) = self.clock {
            return Ok(read);
        }
        let read = clock::read(self.conn()).await?;
        self.clock = Some(read);
        Ok(read)
    }

    /// Makes it durable, then lets its events be heard.
    ///
    /// Once begun it runs to its end even when the caller goes away, so that no stored event stays
    /// unheard.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let Self { turn, heard_by, fresh, .. } = self;
        let change = match turn {
            Turn::Lent(turn) => return turn.commit(fresh).await,
            Turn::Own(Conn::Writing(change)) => change,
            Turn::Own(_) => return Err(crashed()),
        };
        tokio::spawn(commit(change, heard_by, fresh)).await.unwrap_or_else(|_| Err(crashed()))
    }
}

async fn commit(
    change: Transaction<'static, Postgres>,
    heard_by: [broadcast::Sender<Heard>; 2],
    fresh: Vec<Arc<Envelope>>,
) -> Result<(), StoreError> {
    let stored = postgres::commit(change).await;
    for listeners in heard_by {
        if stored.is_ok() {
            hear(&listeners, fresh.clone());
            continue;
        }
        // it may be stored although nobody could say so
        for event in &fresh {
            drop(listeners.send(Heard::Look(event.workspace_id, event.stream.as_str().into())));
        }
    }
    stored
}

fn crashed() -> StoreError {
    StoreError::Database { doing: "store a change", source: sqlx::Error::WorkerCrashed }
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
