//! What the store promises, whichever database is beneath: every test runs on SQLite, and on
//! PostgreSQL where `HAYWARD_TEST_POSTGRES` names a server.

use super::events::{self, Stream};
use super::sql::query_scalar;
use super::tasks::{self, Stored};
use super::{Store, Tx, daemons, users};
use crate::change::system;
use crate::database::Database;
use crate::lease;
use crate::lease::tests::{at, queued};
use hayward_shared::id::{DaemonId, MachineId, TaskId, WorkspaceId};
use hayward_shared::task::Order;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A store of its own, and what keeps its database.
pub(crate) struct Place {
    pub(crate) store: Arc<Store>,
    pub(super) database: Database,
    pub(crate) workspace: WorkspaceId,
    _folder: Option<tempfile::TempDir>,
}

async fn place(database: Database, folder: Option<tempfile::TempDir>) -> Place {
    let store = Arc::new(Store::open(&database).await.unwrap());
    let mut tx = store.write().await.unwrap();
    let workspace = users::add_workspace(tx.conn(), "w", at(0)).await.unwrap();
    tx.commit().await.unwrap();
    Place { store, database, workspace, _folder: folder }
}

pub(super) async fn on_sqlite() -> Place {
    let folder = tempfile::tempdir().unwrap();
    place(folder.path().join("relay.db").into(), Some(folder)).await
}

/// A store in a schema of its own; none where there is no server.
pub(crate) async fn on_postgres() -> Option<Place> {
    let place = place(empty_schema().await?, None).await;
    connect(&place.store).await;
    Some(place)
}

/// Makes all connections of a store one by one: many at once are late on a slow machine.
pub(super) async fn connect(store: &Store) {
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        writers.push(store.write().await.unwrap());
    }
    for _ in 0..8 {
        readers.push(store.read().await.unwrap());
    }
}

/// A schema of its own, and nothing in it; none where there is no server.
pub(super) async fn empty_schema() -> Option<Database> {
    let Ok(server) = std::env::var("HAYWARD_TEST_POSTGRES") else {
        eprintln!("SKIP the store's contract on PostgreSQL: HAYWARD_TEST_POSTGRES is not set");
        return None;
    };
    let name = format!("t{}", TaskId::fresh().0.simple());
    let options: sqlx::postgres::PgConnectOptions = server.parse().unwrap();
    let mut side = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let sql = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"));
    sqlx::query(sql).execute(&mut side).await.unwrap();
    Some(format!("{server}?options[search_path]={name}").parse().unwrap())
}

/// Makes each of these a test on either database.
macro_rules! contract {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name($crate::store::contract::on_sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(place) = $crate::store::contract::on_postgres().await {
                    super::$name(place).await;
                }
            })*
        }
    };
}

// behind the macro that makes tests of what they have
mod changes;
mod claims;
mod rows;
mod sums;

impl Place {
    pub(crate) fn row(&self, order: Order) -> Stored {
        let mut row = queued(order);
        row.task.workspace_id = self.workspace;
        row
    }

    pub(crate) async fn store(&self, row: Stored) -> TaskId {
        let mut tx = self.store.write().await.unwrap();
        tasks::set_labels(tx.conn(), &row.task).await.unwrap();
        let task = tasks::apply(&mut tx, lease::created(row, &system())).await.unwrap();
        tx.commit().await.unwrap();
        task.id
    }

    /// Resolves once another change waits for this one. On PostgreSQL alone.
    pub(crate) async fn is_waited_for(&self, tx: &mut Tx) {
        // who is connected is the same until a change ends, and who waits is not
        let waiting = "SELECT COUNT(*) FROM pg_locks \
                       WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))";
        loop {
            let waiting: i64 = query_scalar(waiting).fetch_one(tx.conn()).await.unwrap();
            if waiting > 0 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn find(&self, id: TaskId) -> Option<Stored> {
        let mut reader = self.store.read().await.unwrap();
        tasks::find(&mut reader, self.workspace, id).await.unwrap()
    }

    pub(super) async fn events(&self, id: TaskId) -> Vec<hayward_shared::event::Envelope> {
        let mut reader = self.store.read().await.unwrap();
        let name = Stream::Task(id).name();
        events::read(&mut reader, self.workspace, &name, 0, 10_000).await.unwrap()
    }

    async fn welcome(&self, machine: MachineId) -> DaemonId {
        let mut tx = self.store.write().await.unwrap();
        let profile = daemons::Profile::default();
        let daemon =
            daemons::welcome(tx.conn(), self.workspace, machine, profile, at(1)).await.unwrap();
        tx.commit().await.unwrap();
        daemon.id
    }
}
