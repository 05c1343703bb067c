//! Statements that either database takes: one text with `$1` marks, values bound in order.
//!
//! What differs between the two is here and in the files of each: the rest of the store knows
//! neither.

use hayward_edge::disk;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Postgres, SqlSafeStr, SqlStr, Sqlite, Transaction};
use std::time::Duration;
use tokio::time::timeout;

/// A statement that PostgreSQL has not answered by now never will be: its own bound on a statement
/// (`super::postgres`) is shorter, so the network is gone.
pub(super) const ANSWER: Duration = Duration::from_secs(20);

/// A connection, or a transaction on one.
pub(crate) enum Conn {
    /// SQLite's: one that reads, or the one that writes.
    Sqlite(disk::Reader),
    /// PostgreSQL's that reads.
    Reading(PoolConnection<Postgres>),
    /// PostgreSQL's that writes; undone when dropped.
    Writing(Transaction<'static, Postgres>),
}

impl Conn {
    /// What a question for one row ends with, where that row is then changed: on PostgreSQL others
    /// wait for it, on SQLite there are no others while one writes.
    pub(super) fn locking(&self) -> &'static str {
        match self {
            Self::Writing(_) => " FOR NO KEY UPDATE",
            Self::Sqlite(_) | Self::Reading(_) => "",
        }
    }

    /// Whether others write at the same time.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Writing(_))
    }
}

/// What a row of either database can be read as: tuples of texts, whole numbers and bytes.
pub(super) trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

impl<T> Row for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{}

/// A value of a statement.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
    Bytes(Vec<u8>),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(Some(text.clone()))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(int: i64) -> Self {
        Self::Int(Some(int))
    }
}

impl From<Option<i64>> for Value {
    fn from(int: Option<i64>) -> Self {
        Self::Int(int)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// A statement and its values.
#[derive(Debug)]
pub(super) struct Query {
    sql: SqlStr,
    values: Vec<Value>,
}

/// A statement; its answer is rows, or none.
pub(super) fn query(sql: impl SqlSafeStr) -> Query {
    Query { sql: sql.into_sql_str(), values: Vec::new() }
}

/// A statement whose answer has one column.
pub(super) fn query_scalar(sql: impl SqlSafeStr) -> Scalar {
    Scalar(query(sql))
}

#[cfg(test)]
thread_local! {
    static ASKED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// How many statements a test on one thread has run.
#[cfg(test)]
pub(crate) fn asked() -> u32 {
    ASKED.get()
}

/// Runs `$call` on a statement of the connection's own kind. Only PostgreSQL can fall silent.
macro_rules! on {
    ($conn:expr, $query:expr, $make:ident $(::<$row:ident>)?, $call:ident) => {{
        let Query { sql, values } = $query;
        #[cfg(test)]
        ASKED.set(ASKED.get() + 1);
        match $conn {
            Conn::Sqlite(conn) => {
                let mut query = sqlx::$make::<Sqlite $(, $row)?>(sql);
                for value in values {
                    query = match value {
                        Value::Text(text) => query.bind(text),
                        Value::Int(int) => query.bind(int),
                        Value::Bytes(bytes) => query.bind(bytes),
                    };
                }
                query.$call(&mut **conn).await.map(Into::into)
            }
            other => {
                let mut query = sqlx::$make::<Postgres $(, $row)?>(sql);
                for value in values {
                    query = match value {
                        Value::Text(text) => query.bind(text),
                        Value::Int(int) => query.bind(int),
                        Value::Bytes(bytes) => query.bind(bytes),
                    };
                }
                let answer = async {
                    match other {
                        Conn::Reading(conn) => query.$call(&mut **conn).await,
                        Conn::Writing(conn) => query.$call(&mut **conn).await,
                        Conn::Sqlite(_) => Err(sqlx::Error::WorkerCrashed),
                    }
                };
                timeout(ANSWER, answer).await.unwrap_or_else(|_| Err(silent())).map(Into::into)
            }
        }
    }};
}

pub(super) fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "the database did not answer in time",
    ))
}

/// How many rows a statement changed.
struct Changed(u64);

impl From<sqlx::sqlite::SqliteQueryResult> for Changed {
    fn from(result: sqlx::sqlite::SqliteQueryResult) -> Self {
        Self(result.rows_affected())
    }
}

impl From<sqlx::postgres::PgQueryResult> for Changed {
    fn from(result: sqlx::postgres::PgQueryResult) -> Self {
        Self(result.rows_affected())
    }
}

impl Query {
    /// Binds the next value.
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs it; how many rows it changed.
    pub(super) async fn execute(self, conn: &mut Conn) -> Result<u64, sqlx::Error> {
        let changed: Result<Changed, sqlx::Error> = on!(conn, self, query, execute);
        changed.map(|Changed(rows)| rows)
    }

    /// Its one row.
    pub(super) async fn fetch_one<T: Row>(self, conn: &mut Conn) -> Result<T, sqlx::Error> {
        on!(conn, self, query_as::<T>, fetch_one)
    }

    /// Its first row, when there is one.
    pub(super) async fn fetch_optional<T: Row>(
        self,
        conn: &mut Conn,
    ) -> Result<Option<T>, sqlx::Error> {
        on!(conn, self, query_as::<T>, fetch_optional)
    }

    /// All its rows.
    pub(super) async fn fetch_all<T: Row>(self, conn: &mut Conn) -> Result<Vec<T>, sqlx::Error> {
        on!(conn, self, query_as::<T>, fetch_all)
    }
}

/// A statement whose answer has one column.
#[derive(Debug)]
pub(super) struct Scalar(Query);

impl Scalar {
    /// Binds the next value.
    pub(super) fn bind(self, value: impl Into<Value>) -> Self {
        Self(self.0.bind(value))
    }

    /// Its one value.
    pub(super) async fn fetch_one<T>(self, conn: &mut Conn) -> Result<T, sqlx::Error>
    where
        (T,): Row,
    {
        self.0.fetch_one::<(T,)>(conn).await.map(|(value,)| value)
    }

    /// Its first value, when there is one.
    pub(super) async fn fetch_optional<T>(self, conn: &mut Conn) -> Result<Option<T>, sqlx::Error>
    where
        (T,): Row,
    {
        Ok(self.0.fetch_optional::<(T,)>(conn).await?.map(|(value,)| value))
    }

    /// All its values.
    pub(super) async fn fetch_all<T>(self, conn: &mut Conn) -> Result<Vec<T>, sqlx::Error>
    where
        (T,): Row,
    {
        Ok(self.0.fetch_all::<(T,)>(conn).await?.into_iter().map(|(value,)| value).collect())
    }
}

/// A statement that is put together from parts.
#[derive(Debug)]
pub(super) struct Parts {
    sql: String,
    values: Vec<Value>,
}

impl Parts {
    /// Begins with this text.
    pub(super) fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    /// Goes on with this text.
    pub(super) fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Goes on with the mark of a value.
    pub(super) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.sql.push_str(&format!("${}", self.values.len()));
        self
    }

    /// The whole.
    pub(super) fn done(self) -> Query {
        Query { sql: sqlx::AssertSqlSafe(self.sql).into_sql_str(), values: self.values }
    }

    /// The whole, whose answer has one column.
    pub(super) fn scalar(self) -> Scalar {
        Scalar(self.done())
    }
}
