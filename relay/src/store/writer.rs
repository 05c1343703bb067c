//! SQLite's one writer: changes of many are made durable together.
//!
//! SQLite lets one write at a time, and each commit waits for the disk. So the writer's task owns
//! the connection and lends it out, turn by turn. Each turn is a savepoint of one transaction; the
//! transaction is committed once nobody waits for a turn, at the latest [`MOST`] changes or
//! [`LONGEST`] after its first. A change is told to be stored, and its events are heard, only after
//! that commit; when the commit fails, so does each change in it. A lone change waits for nobody.

use super::sql::Conn;
use super::{Heard, StoreError};
use hayward_edge::disk::{self, Pool};
use hayward_shared::event::Envelope;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Changes that are committed together at the most: past a hundred or so rows a commit's share of
/// each is nothing.
const MOST: usize = 128;

/// A change waits no longer for those of others, less than the 5 ms that one may be held back.
const LONGEST: Duration = Duration::from_millis(4);

/// Changes that may wait for their turn; who comes then waits for room.
const WAITING: usize = 1024;

/// Who has not had a turn by now is told that the database is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// The writer. Its task ends when this is dropped; what was told to be stored is.
#[derive(Debug)]
pub(super) struct Writer {
    asks: mpsc::Sender<Ask>,
    task: JoinHandle<()>,
}

type Ask = oneshot::Sender<Result<Turn, StoreError>>;

/// A change that waits for the commit.
struct Change {
    fresh: Vec<Arc<Envelope>>,
    told: oneshot::Sender<Result<(), StoreError>>,
}

/// The connection, lent for one change; undone when dropped before [`Turn::commit`].
pub(super) struct Turn {
    conn: OwnedMutexGuard<Conn>,
    done: oneshot::Sender<Change>,
}

impl Writer {
    /// Begins to lend the pool's one connection.
    pub(super) fn start(pool: Pool, live: broadcast::Sender<Heard>) -> Self {
        let (asks, queue) = mpsc::channel(WAITING);
        let task = tokio::spawn(lend(pool, queue, live));
        Self { asks, task }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) -> Result<Turn, StoreError> {
        let (ask, turn) = oneshot::channel();
        let wait = async {
            self.asks.send(ask).await.map_err(|_| sqlx::Error::PoolClosed)?;
            turn.await.map_err(|_| sqlx::Error::PoolClosed)
        };
        let doing = "begin to write";
        match timeout(PATIENCE, wait).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(source)) => Err(StoreError::Database { doing, source }),
            Err(_) => Err(StoreError::Database { doing, source: sqlx::Error::PoolTimedOut }),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Turn {
    pub(super) fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Ends the turn, and waits until the change is durable and its events were heard.
    pub(super) async fn commit(self, fresh: Vec<Arc<Envelope>>) -> Result<(), StoreError> {
        let (told, stored) = oneshot::channel();
        let Self { conn, done } = self;
        let sent = done.send(Change { fresh, told });
        drop(conn);
        let crashed =
            || StoreError::Database { doing: "store a change", source: sqlx::Error::WorkerCrashed };
        sent.map_err(|_| crashed())?;
        stored.await.unwrap_or_else(|_| Err(crashed()))
    }
}

async fn lend(pool: Pool, mut queue: mpsc::Receiver<Ask>, live: broadcast::Sender<Heard>) {
    while let Some(first) = queue.recv().await {
        if first.is_closed() {
            continue;
        }
        let conn = match pool.acquire().await {
            Ok(conn) => Arc::new(Mutex::new(Conn::Sqlite(conn))),
            Err(source) => {
                refuse(first, StoreError::Database { doing: "begin to write", source });
                continue;
            }
        };
        if let Err((ask, source)) = begin(&conn, first, &mut queue, &live).await {
            spoil(&conn).await;
            if let Some(ask) = ask {
                refuse(ask, StoreError::Database { doing: "begin to write", source });
            }
        }
    }
}

fn refuse(ask: Ask, why: StoreError) {
    // whoever asked may have gone
    drop(ask.send(Err(why)));
}

/// One transaction, from its first turn to its commit. What failed was told to all who are in it;
/// who waits for the next turn is handed back.
async fn begin(
    conn: &Arc<Mutex<Conn>>,
    first: Ask,
    queue: &mut mpsc::Receiver<Ask>,
    live: &broadcast::Sender<Heard>,
) -> Result<(), (Option<Ask>, sqlx::Error)> {
    wait(conn).await;
    if let Err(source) = run(conn, "BEGIN IMMEDIATE; SAVEPOINT turn").await {
        return Err((Some(first), source));
    }
    let mut changes: Vec<Change> = Vec::new();
    let mut since = None;
    let mut next = Some(first);
    while let Some(ask) = next.take() {
        let change = turn(conn, ask).await;
        let begun = *since.get_or_insert_with(Instant::now);
        let kept = change.is_some();
        changes.extend(change);
        if changes.len() < MOST && begun.elapsed() < LONGEST {
            next = waiting(queue);
        }
        let step = match (kept, next.is_some(), changes.is_empty()) {
            (true, true, _) => "RELEASE turn; SAVEPOINT turn",
            (true, false, _) => "RELEASE turn; COMMIT",
            (false, true, _) => "ROLLBACK TO turn",
            (false, false, false) => "ROLLBACK TO turn; RELEASE turn; COMMIT",
            (false, false, true) => "ROLLBACK",
        };
        let last = next.is_none() && !changes.is_empty();
        if last {
            wait(conn).await;
        }
        if let Err(source) = run(conn, step).await {
            let source = Arc::new(source);
            for change in changes {
                drop(change.told.send(Err(StoreError::Commit(source.clone()))));
            }
            return Err((next, sqlx::Error::Io(std::io::Error::other(source))));
        }
        if last {
            wait(conn).await;
        }
    }
    for change in changes {
        super::hear(live, change.fresh);
        drop(change.told.send(Ok(())));
    }
    Ok(())
}

/// The next who still waits.
fn waiting(queue: &mut mpsc::Receiver<Ask>) -> Option<Ask> {
    while let Ok(ask) = queue.try_recv() {
        if !ask.is_closed() {
            return Some(ask);
        }
    }
    None
}

/// Lends the connection to one, and waits for it; the change, unless it is to be undone.
async fn turn(conn: &Arc<Mutex<Conn>>, ask: Ask) -> Option<Change> {
    let (done, change) = oneshot::channel();
    let turn = Turn { conn: conn.clone().lock_owned().await, done };
    // whoever asked may have gone: the turn is dropped then, and there is nothing to undo
    drop(ask.send(Ok(turn)));
    change.await.ok()
}

async fn run(conn: &Arc<Mutex<Conn>>, sql: &'static str) -> Result<(), sqlx::Error> {
    match &mut *conn.lock().await {
        Conn::Sqlite(conn) => sqlx::raw_sql(sql).execute(&mut **conn).await.map(drop),
        Conn::Reading(_) | Conn::Writing(_) => Err(sqlx::Error::WorkerCrashed),
    }
}

/// Where a simulated disk is slow, it is so before a transaction begins and around its commit.
async fn wait(conn: &Arc<Mutex<Conn>>) {
    if let Conn::Sqlite(conn) = &mut *conn.lock().await {
        disk::wait(conn).await;
    }
}

/// After a failure nobody knows where the transaction stands: the connection is closed, which
/// undoes it, and the pool makes another.
async fn spoil(conn: &Arc<Mutex<Conn>>) {
    if let Conn::Sqlite(conn) = &mut *conn.lock().await {
        conn.close_on_drop();
    }
}
