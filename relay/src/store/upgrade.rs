//! What becomes of rows that a former relay wrote, on either database.

use super::contract::empty_schema;
use super::{Store, schema, spending, tasks, text};
use crate::change::Change;
use crate::database::Database;
use crate::lease::tests::{at, running};
use crate::prices::Prices;
use hayward_shared::budget::Budget;
use hayward_shared::id::{DaemonId, RunId};
use hayward_shared::task::{Order, Usage};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

/// The last migration before what tasks spend was kept.
const BEFORE_SPENDINGS: i64 = 6;

fn used(input: u64, output: u64) -> Usage {
    Usage { input_tokens: input, output_tokens: output, ..Usage::default() }
}

/// A running task and its two runs, of which one said what it cost, as version 6 stored them.
fn former(row: &tasks::Stored, runs: [RunId; 2]) -> String {
    let (workspace, task) = (text(row.task.workspace_id.0), text(row.task.id.0));
    let document = serde_json::to_string(&row.task).unwrap();
    let [one, other] = runs.map(|run| text(run.0));
    format!(
        r#"INSERT INTO workspaces (id, name, created_at) VALUES ('{workspace}', 'w', 0);
        INSERT INTO tasks (workspace_id, id, status, priority, created_at, lease_epoch,
            heard_epoch, version, document)
            VALUES ('{workspace}', '{task}', 'running', 0, 0, 1, 1, 1, '{document}');
        INSERT INTO run_usage (workspace_id, task_id, run_id, document) VALUES
            ('{workspace}', '{task}', '{one}',
            '{{"inputTokens":100,"outputTokens":50,"costUsd":0.25}}'),
            ('{workspace}', '{task}', '{other}', '{{"inputTokens":10,"cacheReadTokens":5}}');"#
    )
}

async fn what_ran_before_sums_were_kept_costs_what_it_said_or_nobody_knows_what(
    store: Store,
    row: tasks::Stored,
    [one, other]: [RunId; 2],
) {
    let (workspace, id) = (row.task.workspace_id, row.task.id);
    let mut tx = store.write().await.unwrap();
    let said = Usage { cache_read_tokens: 5, ..used(30, 0) };
    let noted = spending::note_usage(tx.conn(), workspace, (id, other), (said, None));
    let (sum, delta) = noted.await.unwrap();
    assert_eq!((sum.cost_usd, sum.unpriced_tokens, sum.counted()), (Some(0.25), 35, 180));
    assert_eq!((delta.tokens, delta.cost, delta.unpriced), (20, 0, 20), "only what is new");
    let mut prices = Prices::default();
    prices.set("m=10,20").unwrap();
    let said = Usage { cost_usd: Some(0.25), ..used(200, 50) };
    let noted = spending::note_usage(tx.conn(), workspace, (id, one), (said, prices.of("m")));
    let (sum, delta) = noted.await.unwrap();
    assert_eq!((sum.cost_usd, sum.unpriced_tokens), (Some(0.251), 35));
    assert_eq!((delta.tokens, delta.cost, delta.unpriced), (100, 1_000_000, 0));
    // nobody knows since when it runs: it is counted from when it is looked at
    let found = tasks::find(tx.conn(), workspace, id).await.unwrap().unwrap();
    assert_eq!((found.running_since, found.braked), (None, None));
    let mut bounded = found.task.clone();
    bounded.order.budget = Some(Budget { max_seconds: Some(9), ..Budget::default() });
    spending::set_budget(tx.conn(), &bounded).await.unwrap();
    assert_eq!(spending::timed(tx.conn()).await.unwrap(), [((workspace, id), None)]);
    let mut change = Change::of(found);
    change.count_time(at(70_000));
    assert_eq!((change.spent.ms, change.row.running_since), (0, Some(at(70_000))));
    change.count_time(at(72_000));
    tasks::apply(&mut tx, change).await.unwrap();
    let spent = spending::own(tx.conn(), &row.task).await.unwrap().spent;
    assert_eq!(spent.running_ms, 2_000);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut conn = options.create_if_missing(true).connect().await.unwrap();
    schema::former_sqlite(BEFORE_SPENDINGS).run(&mut conn).await.unwrap();
    let (row, runs) =
        (running(Order::default(), DaemonId::fresh()), [(); 2].map(|()| RunId::fresh()));
    conn.execute(sqlx::raw_sql(AssertSqlSafe(former(&row, runs)))).await.unwrap();
    conn.close().await.unwrap();
    let store = Store::open(&file.into()).await.unwrap();
    what_ran_before_sums_were_kept_costs_what_it_said_or_nobody_knows_what(store, row, runs).await;
}

#[tokio::test]
async fn on_postgres() {
    let Some(database) = empty_schema().await else { return };
    let Database::Postgres(at) = &database else { panic!("{database:?}") };
    let mut conn = at.options.connect().await.unwrap();
    schema::former_postgres(BEFORE_SPENDINGS).run(&mut conn).await.unwrap();
    let (row, runs) =
        (running(Order::default(), DaemonId::fresh()), [(); 2].map(|()| RunId::fresh()));
    conn.execute(sqlx::raw_sql(AssertSqlSafe(former(&row, runs)))).await.unwrap();
    conn.close().await.unwrap();
    let store = Store::open(&database).await.unwrap();
    what_ran_before_sums_were_kept_costs_what_it_said_or_nobody_knows_what(store, row, runs).await;
}
