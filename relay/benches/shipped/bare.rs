//! Rows stored by a bare loop, where the relay stores its own: the same kind of database in the same
//! place, made durable by the same means.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor};
use std::path::Path;
use std::time::{Duration, Instant};
use uuid::Uuid;

const TABLE: &str = "CREATE TABLE bare (workspace_id TEXT NOT NULL, stream TEXT NOT NULL, \
     seq BIGINT NOT NULL, kind TEXT NOT NULL, document TEXT NOT NULL, \
     PRIMARY KEY (workspace_id, stream, seq))";

/// Bytes of a row's document: an event of the lane as it is stored.
const DOCUMENT: usize = 600;

/// Rows of a group.
pub const GROUP: i64 = 100;

enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

pub struct Bare {
    runtime: tokio::runtime::Runtime,
    database: Database,
    group: String,
    row: String,
    stream: String,
    seq: i64,
}

impl Bare {
    /// A file in that folder.
    pub fn sqlite(folder: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(folder.join("bare.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "4000");
        Self::on(async move { Database::Sqlite(options.connect().await.unwrap()) })
    }

    /// A table beside the relay's.
    pub fn postgres(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap();
        Self::on(async move { Database::Postgres(options.connect().await.unwrap()) })
    }

    fn on(database: impl Future<Output = Database>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let database = runtime.block_on(async {
            let mut database = database.await;
            match &mut database {
                Database::Sqlite(conn) => drop(conn.execute(TABLE).await.unwrap()),
                Database::Postgres(conn) => drop(conn.execute(TABLE).await.unwrap()),
            }
            database
        });
        let (group, row) = (insert(GROUP), insert(1));
        Self { runtime, database, group, row, stream: Uuid::now_v7().to_string(), seq: 0 }
    }

    /// Stores so many rows in one statement, durably.
    fn store(&mut self, rows: i64) {
        let sql = if rows == 1 { &self.row } else { &self.group };
        let sql = sqlx::AssertSqlSafe(sql.clone());
        let document = "x".repeat(DOCUMENT);
        let (first, stream) = (self.seq, &self.stream);
        macro_rules! run {
            ($conn:expr) => {{
                let mut query = sqlx::query(sql);
                for seq in first..first + rows {
                    query = query.bind("w").bind(stream).bind(seq).bind("k").bind(&document);
                }
                query.execute(&mut *$conn).await.map(drop)
            }};
        }
        let stored = self.runtime.block_on(async {
            match &mut self.database {
                Database::Sqlite(conn) => run!(conn),
                Database::Postgres(conn) => run!(conn),
            }
        });
        stored.unwrap();
        self.seq += rows;
    }

    /// Stores one row durably; how long that takes.
    pub fn one(&mut self) -> Duration {
        let begun = Instant::now();
        self.store(1);
        begun.elapsed()
    }

    /// Stores rows in groups, each durable before the next begins; rows a second.
    pub fn groups(&mut self, rows: i64) -> f64 {
        let begun = Instant::now();
        for _ in 0..rows / GROUP {
            self.store(GROUP);
        }
        rows as f64 / begun.elapsed().as_secs_f64()
    }

    /// Stores single rows for a while; rows a second.
    pub fn singles(&mut self, while_: Duration) -> f64 {
        let (begun, first) = (Instant::now(), self.seq);
        while begun.elapsed() < while_ {
            self.store(1);
        }
        (self.seq - first) as f64 / begun.elapsed().as_secs_f64()
    }
}

fn insert(rows: i64) -> String {
    let row = |at: i64| {
        let marks: Vec<_> = (1..=5).map(|nth| format!("${}", at * 5 + nth)).collect();
        format!("({})", marks.join(", "))
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    format!("INSERT INTO bare VALUES {}", rows.join(", "))
}

/// The server that `HAYWARD_TEST_POSTGRES` names, and there a new, empty schema.
pub fn schema() -> Option<String> {
    let server = std::env::var("HAYWARD_TEST_POSTGRES").ok()?;
    let name = format!("bench{}", Uuid::now_v7().simple());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options: PgConnectOptions = server.parse().unwrap();
        let mut side = PgConnection::connect_with(&options).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"));
        sqlx::query(sql).execute(&mut side).await.unwrap();
    });
    Some(format!("{server}?options[search_path]={name}"))
}
