//! A SQLite relay moved into PostgreSQL: all of it, or nothing.
//!
//! One transaction reads the file, one writes the database. Until the second is committed the target
//! is as empty as before, so a move that broke off is simply begun again. Nothing of the source is
//! changed, save that an older one is brought to this version first.

use super::sql::Value;
use super::{Doing, StoreError, count, postgres, relays, sqlite};
use crate::database::{self, Database};
use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqliteConnection};
use std::path::{Path, PathBuf};

/// Rows that one statement writes: their values stay well below PostgreSQL's 65,535.
const CHUNK: usize = 256;

/// What a column holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Int,
    Bytes,
}

use Kind::{Bytes, Int, Text};

struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
}

/// Every table, after those that it refers to.
const TABLES: &[Table] = &[
    Table { name: "workspaces", columns: &[("id", Text), ("name", Text), ("created_at", Int)] },
    Table { name: "users", columns: &[("id", Text), ("name", Text), ("created_at", Int)] },
    Table {
        name: "members",
        columns: &[("workspace_id", Text), ("user_id", Text), ("role", Text)],
    },
    Table {
        name: "tokens",
        columns: &[
            ("id", Text),
            ("workspace_id", Text),
            ("kind", Text),
            ("role", Text),
            ("user_id", Text),
            ("task_id", Text),
            ("hash", Bytes),
            ("created_at", Int),
            ("expires_at", Int),
            ("revoked_at", Int),
            ("last_used_at", Int),
        ],
    },
    Table {
        name: "daemons",
        columns: &[
            ("id", Text),
            ("workspace_id", Text),
            ("machine_id", Text),
            ("acked_seq", Int),
            ("last_seen_at", Int),
            ("document", Text),
        ],
    },
    Table {
        name: "tasks",
        columns: &[
            ("workspace_id", Text),
            ("id", Text),
            ("status", Text),
            ("priority", Int),
            ("created_at", Int),
            ("queued_at", Int),
            ("parent_task_id", Text),
            ("wanted_daemon_id", Text),
            ("daemon_id", Text),
            ("lease_epoch", Int),
            ("heard_epoch", Int),
            ("lease_expires_at", Int),
            ("next_retry_at", Int),
            ("version", Int),
            ("document", Text),
            ("agent", Text),
            ("provider", Text),
            ("running_since", Int),
            ("braked", Int),
        ],
    },
    Table {
        name: "task_labels",
        columns: &[("workspace_id", Text), ("task_id", Text), ("label", Text)],
    },
    Table {
        name: "run_usage",
        columns: &[
            ("workspace_id", Text),
            ("task_id", Text),
            ("run_id", Text),
            ("document", Text),
            ("cost", Int),
            ("unpriced", Int),
        ],
    },
    Table {
        name: "events",
        columns: &[
            ("workspace_id", Text),
            ("stream", Text),
            ("seq", Int),
            ("kind", Text),
            ("document", Text),
        ],
    },
    Table {
        name: "discards",
        columns: &[("workspace_id", Text), ("task_id", Text), ("daemon_id", Text)],
    },
    Table {
        name: "spendings",
        columns: &[
            ("workspace_id", Text),
            ("task_id", Text),
            ("tokens", Int),
            ("cost", Int),
            ("unpriced", Int),
            ("running_ms", Int),
            ("budget", Text),
            ("timed", Int),
            ("reached", Text),
        ],
    },
    Table {
        name: "provider_backoffs",
        columns: &[
            ("workspace_id", Text),
            ("provider", Text),
            ("until", Int),
            ("strikes", Int),
            ("probe", Text),
        ],
    },
];

/// Of the relays that serve a database, and not of their work; and the clock, which is set.
const NOT_MOVED: [&str; 4] = ["relays", "lease_clock", "links", "relay_beats"];

/// A relay's data was not moved. Nothing of it is in the target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// Only a SQLite file can be moved, and only into PostgreSQL.
    #[error(
        "a relay moves from a SQLite file into PostgreSQL: --from sqlite:FILE --to postgres://…"
    )]
    Kinds,
    /// There is no such file.
    #[error("there is no database {}", .0.display())]
    Absent(PathBuf),
    /// Something is in the target: it would be mixed with what is moved.
    #[error("the target is not empty: its table '{table}' has {rows} rows. Name an empty database")]
    NotEmpty {
        /// A table that is not empty.
        table: &'static str,
        /// How many rows it has.
        rows: u64,
    },
    /// Relays serve the target: they would not see what comes.
    #[error("{0} serves the target: stop it first")]
    Served(String),
    /// The source has a table of which this version does not know.
    #[error(
        "the source has a table '{0}' that this version does not know; move it with a newer one"
    )]
    Unknown(String),
    /// The target does not have as many rows as were written.
    #[error("of the {written} rows of '{table}' only {found} are in the target")]
    Lost {
        /// The table.
        table: &'static str,
        /// Rows that were read and written.
        written: u64,
        /// Rows that the target has.
        found: u64,
    },
    /// A database failed.
    #[error("a database failed during the move")]
    Store(#[from] StoreError),
}

/// What was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Each table with its rows, in the order in which they were written.
    pub tables: Vec<(&'static str, u64)>,
}

/// Moves all data of the SQLite relay `from` into the empty PostgreSQL database `to`.
///
/// A relay that serves either is stopped first: while one does, this is refused, and while data is
/// moved none begins to.
///
/// # Errors
/// [`MoveError`]; the target is empty then, and the move can be begun again.
pub async fn migrate(from: &Database, to: &Database) -> Result<Moved, MoveError> {
    let (Database::Sqlite(file), Database::Postgres(to)) = (from, to) else {
        return Err(MoveError::Kinds);
    };
    if !file.is_file() {
        return Err(MoveError::Absent(file.clone()));
    }
    run(file, to).await
}

async fn run(file: &Path, to: &database::Postgres) -> Result<Moved, MoveError> {
    let (mut source, _hold) = sqlite::alone(file).await?;
    let mut target = postgres::alone(to).await?;
    // nobody writes to the source meanwhile
    let mut source = source.begin_with("BEGIN IMMEDIATE").await.doing("begin to read")?;
    let mut target = target.begin().await.doing("begin to write")?;
    all_known(&mut source).await?;
    if let Some(relay) = relays::serving(&mut target).await?.first() {
        return Err(MoveError::Served(relay.to_string()));
    }
    must_be_empty(&mut target).await?;
    let mut tables = Vec::new();
    for table in TABLES {
        let written = copy(table, &mut source, &mut target).await?;
        let found = rows(table, &mut target).await?;
        if found != written {
            return Err(MoveError::Lost { table: table.name, written, found });
        }
        tracing::info!(table = table.name, rows = written, "moved");
        tables.push((table.name, written));
    }
    set_clock(&mut source, &mut target).await?;
    target.commit().await.doing("store what was moved")?;
    source.rollback().await.doing("end")?;
    Ok(Moved { tables })
}

/// Leases end by the clock of the source.
async fn set_clock(
    source: &mut SqliteConnection,
    target: &mut PgConnection,
) -> Result<(), StoreError> {
    let ms: i64 = sqlx::query_scalar("SELECT ms FROM lease_clock")
        .fetch_one(source)
        .await
        .doing("read the clock of leases")?;
    let set = sqlx::query("UPDATE lease_clock SET ms = $1").bind(ms).execute(target).await;
    set.doing("set the clock of leases").map(drop)
}

/// Refuses a source of which something would be left behind.
async fn all_known(source: &mut SqliteConnection) -> Result<(), MoveError> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
         AND name <> '_sqlx_migrations'",
    )
    .fetch_all(source)
    .await
    .doing("list its tables")?;
    let known = |name: &String| {
        NOT_MOVED.contains(&name.as_str()) || TABLES.iter().any(|table| table.name == name)
    };
    let unknown = names.into_iter().find(|name| !known(name));
    unknown.map_or(Ok(()), |name| Err(MoveError::Unknown(name)))
}

/// Keeps relays from writing to the target until the end, and sees that it is empty.
async fn must_be_empty(target: &mut PgConnection) -> Result<(), MoveError> {
    for table in TABLES {
        let sql = format!("LOCK TABLE {} IN EXCLUSIVE MODE", table.name);
        target.execute(AssertSqlSafe(sql)).await.doing("be kept from others")?;
        let rows = rows(table, target).await?;
        if rows > 0 {
            return Err(MoveError::NotEmpty { table: table.name, rows });
        }
    }
    Ok(())
}

async fn rows(table: &Table, target: &mut PgConnection) -> Result<u64, StoreError> {
    let sql = format!("SELECT COUNT(*) FROM {}", table.name);
    let rows: i64 =
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(target).await.doing("count rows")?;
    Ok(count(rows))
}

async fn copy(
    table: &Table,
    source: &mut SqliteConnection,
    target: &mut PgConnection,
) -> Result<u64, StoreError> {
    let names = columns(table);
    let sql = AssertSqlSafe(format!("SELECT {names} FROM {}", table.name));
    let mut found = sqlx::query(sql).fetch(source);
    let mut written = 0;
    let mut chunk = Vec::new();
    while let Some(row) = found.try_next().await.doing("read a row")? {
        chunk.push(values(table, &row).doing("read a row")?);
        if chunk.len() == CHUNK {
            written += write(table, std::mem::take(&mut chunk), target).await?;
        }
    }
    Ok(written + write(table, chunk, target).await?)
}

fn columns(table: &Table) -> String {
    table.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

fn values(table: &Table, row: &SqliteRow) -> Result<Vec<Value>, sqlx::Error> {
    let value = |(at, (_, kind)): (usize, &(&str, Kind))| {
        Ok(match kind {
            Text => Value::Text(row.try_get(at)?),
            Int => Value::Int(row.try_get(at)?),
            Bytes => Value::Bytes(row.try_get(at)?),
        })
    };
    table.columns.iter().enumerate().map(value).collect()
}

async fn write(
    table: &Table,
    rows: Vec<Vec<Value>>,
    target: &mut PgConnection,
) -> Result<u64, StoreError> {
    if rows.is_empty() {
        return Ok(0);
    }
    let count = rows.len() as u64;
    let width = table.columns.len();
    let marks = (0..rows.len())
        .map(|row| {
            let marks = (1..=width).map(|column| format!("${}", row * width + column));
            format!("({})", marks.collect::<Vec<_>>().join(", "))
        })
        .collect::<Vec<_>>()
        .join(", ");
    let sql = format!("INSERT INTO {} ({}) VALUES {marks}", table.name, columns(table));
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in rows.into_iter().flatten() {
        query = match value {
            Value::Text(text) => query.bind(text),
            Value::Int(int) => query.bind(int),
            Value::Bytes(bytes) => query.bind(bytes),
        };
    }
    query.execute(target).await.doing("write a row")?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_table_and_column_of_this_version_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (mut source, _hold) = sqlite::alone(&folder.path().join("relay.db")).await.unwrap();
        all_known(&mut source).await.unwrap();
        for table in TABLES {
            let sql = format!("SELECT name FROM pragma_table_info('{}') ORDER BY cid", table.name);
            let names: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut source).await.unwrap();
            assert!(names.iter().eq(table.columns.iter().map(|(name, _)| *name)), "{}", table.name);
        }
    }
}
