//! Connections that may lie on the disk of a simulated world.

use crate::world::{Disk, present};
use futures_core::future::BoxFuture;
use futures_core::stream::{BoxStream, Stream};
use futures_util::StreamExt;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteQueryResult, SqliteRow,
    SqliteStatement, SqliteTypeInfo,
};
use sqlx::{
    ConnectOptions, Either, Error, Execute, Executor, SqlStr, SqliteConnection, Transaction,
};
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The connections of one database: a pool, or in a simulated world one that is taken in turn.
#[derive(Clone, Debug)]
pub enum Pool {
    /// Of the real world.
    Real(SqlitePool),
    /// Of a simulated one.
    Simulated(Turns),
}

/// One connection, in turn.
#[derive(Clone, Debug)]
pub struct Turns {
    connection: Arc<Mutex<SqliteConnection>>,
    disk: Arc<dyn Disk>,
}

/// A connection, for statements.
#[derive(Debug)]
pub struct Connection(Held);

#[derive(Debug)]
enum Held {
    Pooled(PoolConnection<Sqlite>),
    Begun(Transaction<'static, Sqlite>),
    Simulated(OwnedMutexGuard<SqliteConnection>, Arc<dyn Disk>),
}

/// A connection of the pool's, while it is held.
#[derive(Debug)]
pub struct Reader(Connection);

/// A transaction; undone when it is dropped before it is committed.
#[derive(Debug)]
pub struct Work {
    connection: Option<Connection>,
}

impl Pool {
    pub(super) async fn open(
        size: SqlitePoolOptions,
        options: SqliteConnectOptions,
    ) -> Result<Self, Error> {
        let disk = present().map(|world| world.disk(options.get_filename()));
        let Some(disk) = disk else { return size.connect_with(options).await.map(Self::Real) };
        let connection = AtOnce::new(options.connect(), Some(disk.clone())).await?;
        Ok(Self::Simulated(Turns { connection: Arc::new(Mutex::new(connection)), disk }))
    }

    pub(super) async fn migrate(&self, migrator: &Migrator) -> Result<(), MigrateError> {
        match self {
            Self::Real(pool) => migrator.run(pool).await,
            Self::Simulated(turns) => {
                let mut held = turns.connection.lock().await;
                AtOnce::new(migrator.run(&mut *held), Some(turns.disk.clone())).await
            }
        }
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn acquire(&self) -> Result<Reader, Error> {
        Ok(Reader(Connection(match self {
            Self::Real(pool) => Held::Pooled(pool.acquire().await?),
            Self::Simulated(turns) => turns.take().await,
        })))
    }

    /// Begins a transaction by the statement `begin`.
    ///
    /// # Errors
    /// When it cannot be begun.
    pub async fn begin_with(&self, begin: &'static str) -> Result<Work, Error> {
        let connection = match self {
            Self::Real(pool) => Connection(Held::Begun(pool.begin_with(begin).await?)),
            Self::Simulated(turns) => {
                turns.disk.wait().await;
                let mut connection = Connection(turns.take().await);
                sqlx::raw_sql(begin).execute(&mut connection).await?;
                connection
            }
        };
        Ok(Work { connection: Some(connection) })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        if let Self::Real(pool) = self {
            pool.close().await;
        }
    }
}

impl Turns {
    async fn take(&self) -> Held {
        Held::Simulated(self.connection.clone().lock_owned().await, self.disk.clone())
    }
}

impl Work {
    /// Makes it durable.
    ///
    /// # Errors
    /// When it could not be.
    pub async fn commit(mut self) -> Result<(), Error> {
        let Some(connection) = self.connection.take() else { return Ok(()) };
        match connection.0 {
            Held::Begun(transaction) => transaction.commit().await,
            Held::Pooled(_) => Ok(()),
            Held::Simulated(_, ref disk) => {
                let disk = disk.clone();
                self.connection = Some(connection);
                disk.wait().await;
                let Some(connection) = &mut self.connection else { return Ok(()) };
                sqlx::raw_sql("COMMIT").execute(connection).await?;
                self.connection = None;
                disk.wait().await;
                Ok(())
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let Some(Connection(Held::Simulated(held, disk))) = &mut self.connection else { return };
        undo(held, &**disk);
    }
}

fn undo(connection: &mut SqliteConnection, disk: &dyn Disk) {
    if disk.is_off() {
        return;
    }
    let undone = AtOnce::new(sqlx::raw_sql("ROLLBACK").execute(connection), None);
    // where it cannot be undone the next one cannot begin, and says so
    drop(std::pin::pin!(undone).as_mut().poll(&mut Context::from_waker(Waker::noop())));
}

impl Reader {
    pub(super) async fn wait(&mut self) {
        let (_, disk) = self.0.parts();
        if let Some(disk) = disk {
            disk.wait().await;
        }
    }

    /// Undoes what was begun on it: the connection is closed once it is given back, or in a
    /// simulated world kept.
    pub fn close_on_drop(&mut self) {
        match &mut self.0.0 {
            Held::Pooled(connection) => connection.close_on_drop(),
            Held::Begun(_) => {}
            Held::Simulated(held, disk) => undo(held, &**disk),
        }
    }
}

impl Deref for Reader {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl Deref for Work {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("a transaction that was committed is gone"),
        }
    }
}

impl DerefMut for Work {
    fn deref_mut(&mut self) -> &mut Connection {
        match &mut self.connection {
            Some(connection) => connection,
            None => unreachable!("a transaction that was committed is gone"),
        }
    }
}

impl Connection {
    fn parts(&mut self) -> (&mut SqliteConnection, Option<Arc<dyn Disk>>) {
        match &mut self.0 {
            Held::Pooled(connection) => (connection, None),
            Held::Begun(transaction) => (transaction, None),
            Held::Simulated(held, disk) => (held, Some(disk.clone())),
        }
    }
}

type Many<'e> = BoxStream<'e, Result<Either<SqliteQueryResult, SqliteRow>, Error>>;

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Sqlite;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Many<'e>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        match self.parts() {
            (connection, None) => connection.fetch_many(query),
            (connection, disk) => AtOnce::new(connection.fetch_many(query), disk).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<SqliteRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        match self.parts() {
            (connection, None) => connection.fetch_optional(query),
            (connection, disk) => Box::pin(AtOnce::new(connection.fetch_optional(query), disk)),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, Result<SqliteStatement, Error>>
    where
        'c: 'e,
    {
        match self.parts() {
            (connection, None) => connection.prepare_with(sql, parameters),
            (connection, disk) => {
                Box::pin(AtOnce::new(connection.prepare_with(sql, parameters), disk))
            }
        }
    }
}

impl<'p> Executor<'p> for &Pool {
    type Database = Sqlite;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Many<'e>
    where
        'p: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        let turns = match self {
            Pool::Real(pool) => return pool.fetch_many(query),
            Pool::Simulated(turns) => turns.clone(),
        };
        // the rows of one statement are few here, and are held while the connection is
        let all = async move {
            let mut connection = Connection(turns.take().await);
            connection.fetch_many(query).collect::<Vec<_>>().await
        };
        futures_util::stream::once(all).flat_map(futures_util::stream::iter).boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<SqliteRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Sqlite>,
    {
        let turns = match self {
            Pool::Real(pool) => return pool.fetch_optional(query),
            Pool::Simulated(turns) => turns.clone(),
        };
        Box::pin(async move {
            let mut connection = Connection(turns.take().await);
            connection.fetch_optional(query).await
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [SqliteTypeInfo],
    ) -> BoxFuture<'e, Result<SqliteStatement, Error>>
    where
        'p: 'e,
    {
        let turns = match self {
            Pool::Real(pool) => return pool.prepare_with(sql, parameters),
            Pool::Simulated(turns) => turns.clone(),
        };
        Box::pin(async move {
            let mut connection = Connection(turns.take().await);
            connection.prepare_with(sql, parameters).await
        })
    }
}

/// A future or stream that only a thread of sqlx's wakes, done within one poll. Once its disk is
/// off it is never ready again.
struct AtOnce<F> {
    inner: Pin<Box<F>>,
    disk: Option<Arc<dyn Disk>>,
}

/// Wakes a thread that waits within a poll.
struct Woken(Thread);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<F> AtOnce<F> {
    fn new(inner: F, disk: Option<Arc<dyn Disk>>) -> Self {
        Self { inner: Box::pin(inner), disk }
    }

    fn now<T>(
        &mut self,
        mut poll: impl FnMut(Pin<&mut F>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.disk.as_ref().is_some_and(|disk| disk.is_off()) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::new(Woken(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(done) = poll(self.inner.as_mut(), &mut context) {
                return Poll::Ready(done);
            }
            thread::park();
        }
    }
}

impl<F: Future> Future for AtOnce<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<F::Output> {
        self.now(|inner, context| inner.poll(context))
    }
}

impl<S: Stream> Stream for AtOnce<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.now(|inner, context| inner.poll_next(context))
    }
}
