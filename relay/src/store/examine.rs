//! A look at a database from outside: what it answers, and how old its tables are. It takes no lock,
//! brings nothing to this version and changes nothing, so it may be taken beside relays that serve.

use super::sql::silent;
use super::{Doing, StoreError, schema};
use crate::clock;
use crate::database::{Database, Postgres};
use hayward_shared::time::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Whoever writes to a SQLite file lets others read within this.
const BUSY: Duration = Duration::from_secs(2);

/// A server that has not told all by now has fallen silent.
const ANSWER: Duration = Duration::from_secs(5);

/// What a look at a relay's database found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The version of its tables; none where no relay made any yet.
    pub version: Option<i64>,
    /// The version that this relay brings them to when it starts.
    pub own: i64,
    /// How long a question and its answer took.
    pub took: Duration,
    /// How many milliseconds the server's clock is ahead of this machine's; none of a file.
    pub ahead_ms: Option<i64>,
}

/// Looks at it. Waits as long as connecting takes.
pub(crate) async fn examine(database: &Database) -> Result<Tables, StoreError> {
    match database {
        Database::Sqlite(file) => of_file(file).await,
        Database::Postgres(at) => of_server(at).await,
    }
}

async fn of_file(file: &Path) -> Result<Tables, StoreError> {
    std::fs::metadata(file).map_err(StoreError::File)?;
    let options = SqliteConnectOptions::new().filename(file).read_only(true).busy_timeout(BUSY);
    let mut conn = options.connect().await.doing("be opened for reading")?;
    let begun = Instant::now();
    let (there,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut conn)
            .await
            .doing("say which tables it has")?;
    let took = begun.elapsed();
    let version = match there {
        0 => None,
        _ => sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
            .fetch_one(&mut conn)
            .await
            .doing("tell its version")?,
    };
    conn.close().await.doing("be closed")?;
    Ok(Tables { version, own: schema::last(), took, ahead_ms: None })
}

async fn of_server(at: &Postgres) -> Result<Tables, StoreError> {
    let mut conn = super::postgres::single(at).await?;
    let asked = timeout(ANSWER, ask(&mut conn)).await;
    let tables = asked.unwrap_or_else(|_| Err(silent()).doing("answer"))?;
    conn.close().await.doing("be closed")?;
    Ok(tables)
}

async fn ask(conn: &mut PgConnection) -> Result<Tables, StoreError> {
    let (asked, begun) = (clock::now(), Instant::now());
    let (now, there): (i64, bool) = sqlx::query_as(
        "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT, \
         to_regclass('_sqlx_migrations') IS NOT NULL",
    )
    .fetch_one(&mut *conn)
    .await
    .doing("say which tables it has")?;
    let took = begun.elapsed();
    let version = match there {
        false => None,
        true => sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
            .fetch_one(conn)
            .await
            .doing("tell its version")?,
    };
    // it looked at its clock somewhere on the way
    let half = i64::try_from(took.as_millis() / 2).unwrap_or(0);
    let ahead_ms = Some(Timestamp::from_millis(now).since(asked.plus_millis(half)));
    Ok(Tables { version, own: schema::last(), took, ahead_ms })
}
