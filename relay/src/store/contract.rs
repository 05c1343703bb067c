//! What the store promises, whichever database is beneath: every test runs on SQLite, and on
//! PostgreSQL where `HAYWARD_TEST_POSTGRES` names a server.

use super::due;
use super::events::{self, Stream};
use super::tasks::{self, Filter, Stored};
use super::tokens::{self, Issue};
use super::{Heard, Store, StoreError, daemons, discards, spending, sql, users};
use crate::auth::Who;
use crate::change::{Change, system};
use crate::database::Database;
use crate::lease;
use crate::lease::tests::{at, queued};
use crate::prices::Delta;
use hayward_shared::api::Role;
use hayward_shared::budget::{Budget, BudgetReached, Reached, Usd};
use hayward_shared::event::Kind;
use hayward_shared::id::{DaemonId, MachineId, TaskId, WorkspaceId};
use hayward_shared::task::{Order, Reason, Status, Usage};
use serde_json::json;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::task::JoinSet;

/// A store of its own, and what keeps its database.
pub(super) struct Place {
    pub(super) store: Arc<Store>,
    pub(super) database: Database,
    pub(super) workspace: WorkspaceId,
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
pub(super) async fn on_postgres() -> Option<Place> {
    Some(place(empty_schema().await?, None).await)
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

macro_rules! contract {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::on_sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(place) = super::on_postgres().await {
                    super::$name(place).await;
                }
            })*
        }
    };
}

contract! {
    f30_odd_texts_come_back_as_they_were
    pages_are_in_order_and_filtered
    a_change_that_is_dropped_leaves_nothing_and_takes_nobody_with_it
    writers_of_one_stream_leave_no_hole_and_each_event_is_heard_once_stored
    f28_a_task_is_claimed_once_whoever_asks
    a_claim_passes_over_what_another_is_about_to_take
    a_message_of_a_daemon_is_stored_once_whoever_brings_it
    a_machine_is_one_daemon_even_if_two_relays_welcome_it
    a_chosen_id_makes_one_task_whoever_asks
    leases_begin_anew_and_what_is_due_is_found
    what_is_discarded_is_gone_and_usage_is_summed
    what_parts_spend_counts_against_the_budgets_above_them_once
    whoever_runs_below_a_budget_that_is_used_up_is_found
    f37_a_raise_sees_what_was_spent_while_it_waited
    sums_beyond_any_budget_stay_readable_and_never_overflow
    tokens_and_users_are_kept_by_their_names
    a_newer_relays_database_is_refused
}

impl Place {
    pub(super) fn row(&self, order: Order) -> Stored {
        let mut row = queued(order);
        row.task.workspace_id = self.workspace;
        row
    }

    pub(super) async fn store(&self, row: Stored) -> TaskId {
        let mut tx = self.store.write().await.unwrap();
        tasks::set_labels(tx.conn(), &row.task).await.unwrap();
        let task = tasks::apply(&mut tx, lease::created(row, &system())).await.unwrap();
        tx.commit().await.unwrap();
        task.id
    }

    pub(super) async fn find(&self, id: TaskId) -> Option<Stored> {
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

async fn f30_odd_texts_come_back_as_they_were(place: Place) {
    let odd = "\u{0}\u{fffd}\u{10ffff}é'\"\\u0000";
    let labels = [(odd.to_owned(), odd.to_owned())].into();
    let order = Order { plan: odd.into(), name: odd.into(), labels, ..Order::default() };
    let row = place.row(order);
    let id = place.store(row.clone()).await;
    assert_eq!(place.find(id).await.unwrap(), row);
    let mut tx = place.store.write().await.unwrap();
    let mut change = Change::of(row.clone());
    change.say(Kind::Other(odd.into()), &system(), at(2), json!({ odd: odd }));
    tasks::apply(&mut tx, change).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(place.events(id).await[1].payload, json!({ odd: odd }));
    let filter = Filter { labels: vec![(odd.to_owned(), odd.to_owned())], ..Filter::default() };
    let mut reader = place.store.read().await.unwrap();
    let page = tasks::page(&mut reader, place.workspace, &filter, 10).await.unwrap();
    assert_eq!(page.len(), 1);
    let elsewhere = tasks::find(&mut reader, WorkspaceId::fresh(), id).await.unwrap();
    assert_eq!(elsewhere, None);
}

async fn pages_are_in_order_and_filtered(place: Place) {
    let mut ids = Vec::new();
    for nth in 0..10 {
        let mut row = place.row(Order { priority: nth % 3, ..Order::default() });
        row.task.created_at = at(i64::from(nth / 2));
        if nth >= 8 {
            row.task.order.wanted_daemon_id = Some(DaemonId::fresh());
        }
        ids.push(row.task.id);
        place.store(row).await;
    }
    let mut reader = place.store.read().await.unwrap();
    let all = tasks::page(&mut reader, place.workspace, &Filter::default(), 100).await.unwrap();
    let mut expected: Vec<_> = all.iter().map(|t| (t.created_at, t.id)).collect();
    expected.sort();
    expected.reverse();
    assert_eq!(all.iter().map(|t| (t.created_at, t.id)).collect::<Vec<_>>(), expected);
    let before = Some((all[3].created_at.millis(), super::text(all[3].id.0)));
    let filter = Filter { before, except: Some(all[5].id), ..Filter::default() };
    let rest = tasks::page(&mut reader, place.workspace, &filter, 100).await.unwrap();
    assert_eq!(rest, [&all[4..5], &all[6..]].concat());
    // the queue, three at a time, is the queue
    let daemon = DaemonId::fresh();
    let whole = tasks::queue(&mut reader, place.workspace, daemon, None, 100).await.unwrap();
    assert_eq!(whole.len(), 8);
    let key = |row: &Stored| (-row.task.order.priority, row.task.created_at, row.task.id);
    assert!(whole.is_sorted_by_key(key));
    let mut parts: Vec<Stored> = Vec::new();
    loop {
        let last = parts.last();
        let page = tasks::queue(&mut reader, place.workspace, daemon, last, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        parts.extend(page);
    }
    assert_eq!(parts, whole);
    let hex = super::text(ids[0].0);
    let found = tasks::matching(&mut reader, place.workspace, &hex[24..]).await.unwrap();
    assert_eq!(found, [ids[0]]);
}

async fn a_change_that_is_dropped_leaves_nothing_and_takes_nobody_with_it(place: Place) {
    let mut all = JoinSet::new();
    let place = Arc::new(place);
    for nth in 0..40 {
        let place = place.clone();
        all.spawn(async move {
            let row = place.row(Order::default());
            let id = row.task.id;
            let mut tx = place.store.write().await.unwrap();
            tasks::apply(&mut tx, lease::created(row, &system())).await.unwrap();
            match nth % 4 {
                0 => drop(tx),
                1 => {
                    // a statement that fails undoes its own change alone
                    let broken = sql::query("INSERT INTO nowhere VALUES (1)");
                    assert!(broken.execute(tx.conn()).await.is_err());
                    drop(tx);
                }
                _ => tx.commit().await.unwrap(),
            }
            (id, nth % 4 >= 2)
        });
    }
    while let Some(done) = all.join_next().await {
        let (id, kept) = done.unwrap();
        assert_eq!(place.find(id).await.is_some(), kept);
        assert_eq!(place.events(id).await.len(), usize::from(kept));
    }
}

async fn writers_of_one_stream_leave_no_hole_and_each_event_is_heard_once_stored(place: Place) {
    const WRITERS: usize = 8;
    const EACH: usize = 20;
    let id = place.store(place.row(Order::default())).await;
    let mut live = place.store.listen();
    let place = Arc::new(place);
    let mut all = JoinSet::new();
    for writer in 0..WRITERS {
        let place = place.clone();
        all.spawn(async move {
            for nth in 0..EACH {
                let mut tx = place.store.write().await.unwrap();
                let row = tasks::find(tx.conn(), place.workspace, id).await.unwrap().unwrap();
                let mut change = Change::of(row);
                for part in 0..3 {
                    let payload = json!([writer, nth, part]);
                    change.say(Kind::TaskMessage, &system(), at(3), payload);
                }
                change.row.task.version += 1;
                tasks::apply(&mut tx, change).await.unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    let mut heard = BTreeSet::new();
    while heard.len() < WRITERS * EACH * 3 {
        let Heard::Event(event) = live.recv().await.unwrap() else { panic!("nothing was unsure") };
        assert!(heard.insert(event.seq), "heard twice: {}", event.seq);
        if event.seq % 50 == 0 {
            let stored = place.events(id).await;
            assert!(stored.iter().any(|e| e.id == event.id), "heard before it was stored");
        }
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let stored = place.events(id).await;
    assert!(stored.iter().map(|e| e.seq).eq(0..=(WRITERS * EACH * 3) as u64));
    for writer in 0..WRITERS {
        let own = stored.iter().filter(|e| e.payload[0] == writer).map(|e| &e.payload);
        assert!(own.map(|p| (p[1].as_u64(), p[2].as_u64())).is_sorted(), "out of order");
    }
    let version = place.find(id).await.unwrap().task.version;
    assert_eq!(version, 1 + (WRITERS * EACH) as u64, "a change was lost");
}

async fn f28_a_task_is_claimed_once_whoever_asks(place: Place) {
    const TASKS: usize = 40;
    for _ in 0..TASKS {
        place.store(place.row(Order::default())).await;
    }
    let place = Arc::new(place);
    let mut all = JoinSet::new();
    for _ in 0..8 {
        let place = place.clone();
        all.spawn(async move {
            let daemon = DaemonId::fresh();
            let mut claimed = Vec::new();
            loop {
                let mut tx = place.store.write().await.unwrap();
                let queue =
                    tasks::queue(tx.conn(), place.workspace, daemon, None, 64).await.unwrap();
                if queue.is_empty() {
                    return claimed;
                }
                for row in queue {
                    let taken = tasks::take(tx.conn(), place.workspace, row.task.id);
                    let Some(row) = taken.await.unwrap() else { continue };
                    let mut change = Change::of(row);
                    lease::claim(&mut change, daemon, &system(), at(5), at(60_005)).unwrap();
                    claimed.push(change.row.task.id);
                    tasks::apply(&mut tx, change).await.unwrap();
                    break;
                }
                tx.commit().await.unwrap();
            }
        });
    }
    let mut claimed = Vec::new();
    while let Some(done) = all.join_next().await {
        claimed.extend(done.unwrap());
    }
    assert_eq!(claimed.len(), TASKS);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), TASKS);
    for id in claimed {
        let task = place.find(id).await.unwrap().task;
        assert_eq!((task.status, task.holding.lease_epoch), (Status::Dispatched, 1));
    }
}

async fn a_claim_passes_over_what_another_is_about_to_take(place: Place) {
    let id = place.store(place.row(Order::default())).await;
    let mut first = place.store.write().await.unwrap();
    assert!(tasks::take(first.conn(), place.workspace, id).await.unwrap().is_some());
    if !first.conn().is_shared() {
        // SQLite's second writer waits for its turn
        return;
    }
    let mut second = place.store.write().await.unwrap();
    assert!(tasks::take(second.conn(), place.workspace, id).await.unwrap().is_none());
    drop(first);
    let mut third = place.store.write().await.unwrap();
    // the first is undone aside
    while tasks::take(third.conn(), place.workspace, id).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
}

async fn a_message_of_a_daemon_is_stored_once_whoever_brings_it(place: Place) {
    let daemon = place.welcome(MachineId::fresh()).await;
    let place = Arc::new(place);
    let mut all = JoinSet::new();
    for _ in 0..4 {
        let place = place.clone();
        all.spawn(async move {
            let mut stored = 0;
            for seq in 1..=25 {
                let mut tx = place.store.write().await.unwrap();
                let acked = daemons::acked(tx.conn(), daemon).await.unwrap().unwrap_or(0);
                if seq <= acked {
                    continue;
                }
                assert_eq!(seq, acked + 1);
                daemons::set_acked(tx.conn(), daemon, seq).await.unwrap();
                tx.commit().await.unwrap();
                stored += 1;
            }
            stored
        });
    }
    let mut stored = 0;
    while let Some(done) = all.join_next().await {
        stored += done.unwrap();
    }
    assert_eq!(stored, 25);
}

async fn a_machine_is_one_daemon_even_if_two_relays_welcome_it(place: Place) {
    let machine = MachineId::fresh();
    let place = Arc::new(place);
    let mut all = JoinSet::new();
    for _ in 0..6 {
        let place = place.clone();
        all.spawn(async move { place.welcome(machine).await });
    }
    let mut ids = BTreeSet::new();
    while let Some(done) = all.join_next().await {
        ids.insert(super::text(done.unwrap().0));
    }
    assert_eq!(ids.len(), 1);
    let mut reader = place.store.read().await.unwrap();
    let page = daemons::page(&mut reader, place.workspace, None, 10).await.unwrap();
    assert_eq!(page.len(), 1);
    assert!(ids.contains(&super::text(page[0].id.0)));
}

async fn a_chosen_id_makes_one_task_whoever_asks(place: Place) {
    let row = place.row(Order::default());
    let place = Arc::new(place);
    let mut all = JoinSet::new();
    for _ in 0..6 {
        let (place, row) = (place.clone(), row.clone());
        all.spawn(async move {
            let (workspace, id) = (place.workspace, row.task.id);
            let mut tx = place.store.write().await.unwrap();
            tasks::reserve(tx.conn(), workspace, id).await.unwrap();
            if tasks::find(tx.conn(), workspace, id).await.unwrap().is_none() {
                tasks::apply(&mut tx, lease::created(row, &system())).await.unwrap();
                tx.commit().await.unwrap();
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!(place.events(row.task.id).await.len(), 1);
}

async fn leases_begin_anew_and_what_is_due_is_found(place: Place) {
    let daemon = place.welcome(MachineId::fresh()).await;
    let stand = async |status: Status, ends: Option<i64>, retry: Option<i64>| {
        let mut row = place.row(Order::default());
        row.task.status = status;
        row.queued_at = Some(at(5));
        row.lease_expires_at = ends.map(at);
        row.task.holding.next_retry_at = retry.map(at);
        row.task.holding.daemon_id = Some(daemon);
        place.store(row).await
    };
    let mut reader = place.store.read().await.unwrap();
    assert_eq!(due::next_retry(&mut reader).await.unwrap(), None);
    drop(reader);
    let running = stand(Status::Running, Some(10), None).await;
    let paused = stand(Status::Paused, Some(10), None).await;
    let waits = stand(Status::Queued, None, None).await;
    let late = stand(Status::Deferred, None, Some(50)).await;
    let soon = stand(Status::Deferred, None, Some(40)).await;
    let done = stand(Status::Completed, Some(10), None).await;

    let mut reader = place.store.read().await.unwrap();
    let standing = tasks::standing(&mut reader).await.unwrap();
    for (status, count) in
        [(Status::Running, 1), (Status::Deferred, 2), (Status::Queued, 1), (Status::Dispatched, 0)]
    {
        assert!(standing.contains(&(status.name().to_owned(), count)), "{status:?}: {standing:?}");
    }
    assert!(standing.iter().all(|(name, _)| name != Status::Completed.name()));
    let key = |id| (place.workspace, id);
    assert_eq!(due::next_retry(&mut reader).await.unwrap(), Some(at(40)));
    assert_eq!(due::retries(&mut reader, at(39), 9).await.unwrap(), []);
    let due = due::retries(&mut reader, at(50), 9).await.unwrap();
    assert_eq!(due, [key(soon), key(late)]);
    assert_eq!(due::retries(&mut reader, at(50), 1).await.unwrap(), [key(soon)]);
    let overdue = due::overdue(&mut reader, at(10), at(4), 9).await.unwrap();
    assert_eq!(overdue, [key(running)]);
    let overdue = due::overdue(&mut reader, at(9), at(5), 9).await.unwrap();
    assert_eq!(overdue, [key(waits)]);
    assert_eq!(due::abandoned(&mut reader, at(10), "", 9).await.unwrap(), [key(paused)]);
    drop(reader);

    let mut tx = place.store.write().await.unwrap();
    due::renew(tx.conn(), place.workspace, running, at(20)).await.unwrap();
    due::renew(tx.conn(), place.workspace, done, at(20)).await.unwrap();
    tx.commit().await.unwrap();
    let ends = async |id| place.find(id).await.unwrap().lease_expires_at;
    assert_eq!(ends(running).await, Some(at(20)));
    assert_eq!(ends(paused).await, Some(at(10)));
    assert_eq!(ends(done).await, Some(at(10)), "it is held by nobody");
    // one that ran out before the clock stood still counts on
    for (clock, end, then) in [(9, 30, (30, 30)), (30, 50, (30, 30)), (29, 50, (50, 50))] {
        let mut tx = place.store.write().await.unwrap();
        due::begin_anew(tx.conn(), at(clock), at(end)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(ends(running).await, Some(at(then.0)));
        assert_eq!(ends(paused).await, Some(at(then.1)));
    }
    assert_eq!((ends(waits).await, ends(done).await), (None, Some(at(10))));
}

async fn what_is_discarded_is_gone_and_usage_is_summed(place: Place) {
    let id = place.store(place.row(Order::default())).await;
    let daemon = place.welcome(MachineId::fresh()).await;
    let mut tx = place.store.write().await.unwrap();
    let used = |tokens| Usage { input_tokens: tokens, ..Usage::default() };
    let (one, two) = (hayward_shared::id::RunId::fresh(), hayward_shared::id::RunId::fresh());
    let mut spent = 0;
    for (run, tokens, sum) in [(one, 1, 1_u64), (two, 10, 11), (one, 5, 15), (two, 20, 25)] {
        let (key, said) = ((id, run), (used(tokens), None));
        let (all, delta) =
            spending::note_usage(tx.conn(), place.workspace, key, said).await.unwrap();
        spent += delta.tokens;
        assert_eq!((all.input_tokens, all.unpriced_tokens, spent), (sum, sum, sum.cast_signed()));
    }
    tx.commit().await.unwrap();
    let mut tx = place.store.write().await.unwrap();
    tasks::discard(&mut tx, place.workspace, id).await.unwrap();
    for _ in 0..2 {
        discards::note(tx.conn(), place.workspace, id, daemon).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(place.find(id).await, None);
    assert!(place.events(id).await.is_empty());
    let mut reader = place.store.read().await.unwrap();
    let open = discards::of_daemon(&mut reader, daemon).await.unwrap();
    assert_eq!(open, [(place.workspace, id)]);
}

async fn what_parts_spend_counts_against_the_budgets_above_them_once(place: Place) {
    let budget = Budget { max_tokens: Some(100), max_seconds: Some(9), ..Budget::default() };
    let root = place.row(Order { budget: Some(budget), ..Order::default() });
    let part =
        |of: &Stored| place.row(Order { parent_task_id: Some(of.task.id), ..Order::default() });
    let (one, other) = (part(&root), part(&root));
    let leaf = part(&one);
    let mut tx = place.store.write().await.unwrap();
    spending::set_budget(tx.conn(), &root.task).await.unwrap();
    for row in [&root, &one, &other, &leaf] {
        tasks::apply(&mut tx, lease::created(row.clone(), &system())).await.unwrap();
    }
    let delta = |tokens, ms| Delta { tokens, ms, ..Delta::default() };
    for (row, tokens, ms) in [(&leaf, 60, 1), (&other, 30, 2), (&root, 5, 4)] {
        let (over, _) = spending::add(tx.conn(), &row.task, delta(tokens, ms)).await.unwrap();
        assert_eq!(over, [], "{tokens}");
    }
    assert_eq!(spending::over(tx.conn(), &leaf.task).await.unwrap(), None);
    let (over, _) = spending::add(tx.conn(), &leaf.task, delta(5, 0)).await.unwrap();
    let reached = Reached::Tokens { spent: 100, limit: 100 };
    assert_eq!(over, [BudgetReached { of_task_id: root.task.id, reached }]);
    // it is told once, and keeps all of the tree back
    assert_eq!(spending::add(tx.conn(), &one.task, delta(1, 0)).await.unwrap().0, []);
    for row in [&root, &one, &other, &leaf] {
        assert_eq!(spending::over(tx.conn(), &row.task).await.unwrap(), Some(over[0]));
    }
    let spent = spending::own(tx.conn(), &root.task).await.unwrap().spent;
    assert_eq!((spent.tokens, spent.running_ms), (101, 7));
    assert_eq!(spending::own(tx.conn(), &one.task).await.unwrap().spent.tokens, 66);
    // a raise that is none is refused as what it is, and one that is lets all go on
    let mut raised = root.task.clone();
    raised.order.budget = Some(Budget { max_tokens: Some(101), ..budget });
    assert!(spending::set_budget(tx.conn(), &raised).await.unwrap().is_some());
    raised.order.budget = Some(Budget { max_tokens: Some(102), ..budget });
    assert_eq!(spending::set_budget(tx.conn(), &raised).await.unwrap(), None);
    assert_eq!(spending::over(tx.conn(), &leaf.task).await.unwrap(), None);
    // of a part that is discarded what it spent stays spent
    tasks::discard(&mut tx, place.workspace, leaf.task.id).await.unwrap();
    assert_eq!(spending::own(tx.conn(), &root.task).await.unwrap().spent.tokens, 101);
    let (over, _) = spending::add(tx.conn(), &other.task, delta(0, 8_993)).await.unwrap();
    assert_eq!(over[0].reached, Reached::Time { spent: 9, limit: 9 });
    tx.commit().await.unwrap();
}

async fn whoever_runs_below_a_budget_that_is_used_up_is_found(place: Place) {
    let budget = Budget { max_seconds: Some(1), ..Budget::default() };
    let root = place.row(Order { budget: Some(budget), ..Order::default() });
    let part = place.row(Order { parent_task_id: Some(root.task.id), ..Order::default() });
    let stranger = place.row(Order::default());
    let mut tx = place.store.write().await.unwrap();
    spending::set_budget(tx.conn(), &root.task).await.unwrap();
    tasks::apply(&mut tx, lease::created(root.clone(), &system())).await.unwrap();
    for row in [&part, &stranger] {
        let mut change = Change::of(row.clone());
        change.step(Status::Dispatched, None, &system(), at(1)).unwrap();
        change.step(Status::Running, None, &system(), at(1_000)).unwrap();
        tasks::apply(&mut tx, change).await.unwrap();
    }
    let key = (place.workspace, part.task.id);
    assert_eq!(spending::timed(tx.conn()).await.unwrap(), [key]);
    assert_eq!(spending::runaways(tx.conn()).await.unwrap(), []);
    let found = tasks::find(tx.conn(), key.0, key.1).await.unwrap().unwrap();
    let mut change = Change::of(found);
    change.count_time(at(1_999));
    change.count_time(at(2_000));
    change.row.braked = true;
    tasks::apply(&mut tx, change).await.unwrap();
    assert_eq!(spending::timed(tx.conn()).await.unwrap(), [], "it is known to be over");
    assert_eq!(spending::runaways(tx.conn()).await.unwrap(), [key]);
    let found = tasks::find(tx.conn(), key.0, key.1).await.unwrap().unwrap();
    assert_eq!((found.running_since, found.braked), (Some(at(2_000)), true));
    let mut change = Change::of(found);
    change.step(Status::Paused, Some(Reason::Budget), &system(), at(2_500)).unwrap();
    tasks::apply(&mut tx, change).await.unwrap();
    assert_eq!(spending::runaways(tx.conn()).await.unwrap(), []);
    assert_eq!(spending::released(tx.conn()).await.unwrap(), []);
    let spent = spending::own(tx.conn(), &root.task).await.unwrap().spent;
    assert_eq!(spent.running_ms, 1_500, "a pause counts for nothing");
    let mut raised = root.task.clone();
    raised.order.budget = Some(Budget { max_seconds: Some(2), ..budget });
    spending::set_budget(tx.conn(), &raised).await.unwrap();
    assert_eq!(spending::released(tx.conn()).await.unwrap(), [key]);
    tx.commit().await.unwrap();
}

async fn f37_a_raise_sees_what_was_spent_while_it_waited(place: Place) {
    let budget = Budget { max_tokens: Some(100), ..Budget::default() };
    let row = place.row(Order { budget: Some(budget), ..Order::default() });
    let mut tx = place.store.write().await.unwrap();
    spending::set_budget(tx.conn(), &row.task).await.unwrap();
    tx.commit().await.unwrap();
    place.store(row.clone()).await;
    let mut raised = row.task.clone();
    raised.order.budget = Some(Budget { max_tokens: Some(200), ..budget });
    let mut tx = place.store.write().await.unwrap();
    let delta = Delta { tokens: 250, ..Delta::default() };
    let (over, _) = spending::add(tx.conn(), &row.task, delta).await.unwrap();
    assert_eq!(over[0].reached, Reached::Tokens { spent: 250, limit: 100 });
    let store = place.store.clone();
    let mut raise = tokio::spawn(async move {
        let mut tx = store.write().await.unwrap();
        let over = spending::set_budget(tx.conn(), &raised).await.unwrap();
        tx.commit().await.unwrap();
        over
    });
    // it has begun by then, and whatever it read is old
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut raise).await.is_err());
    tx.commit().await.unwrap();
    let reached = Reached::Tokens { spent: 250, limit: 200 };
    assert_eq!(raise.await.unwrap().map(|over| over.reached), Some(reached));
    let mut reader = place.store.read().await.unwrap();
    assert_eq!(spending::own(&mut reader, &row.task).await.unwrap().reached, Some(reached));
}

async fn sums_beyond_any_budget_stay_readable_and_never_overflow(place: Place) {
    let budget = Budget { max_cost_usd: Usd::from_dollars(1e6), ..Budget::default() };
    let root = place.row(Order { budget: Some(budget), ..Order::default() });
    let part = place.row(Order { parent_task_id: Some(root.task.id), ..Order::default() });
    let mut tx = place.store.write().await.unwrap();
    spending::set_budget(tx.conn(), &root.task).await.unwrap();
    for row in [&root, &part] {
        tasks::apply(&mut tx, lease::created(row.clone(), &system())).await.unwrap();
    }
    // two and a half millions, where one may be spent
    let delta = Delta { cost: 500_000_000_000_000, ..Delta::default() };
    for _ in 0..5 {
        spending::add(tx.conn(), &part.task, delta).await.unwrap();
    }
    let account = spending::own(tx.conn(), &root.task).await.unwrap();
    assert_eq!(account.spent.cost_usd, Usd::from_nanos(2_500_000_000_000_000));
    assert!(spending::over(tx.conn(), &part.task).await.unwrap().is_some());
    // what was found to be too much is stored, and read again
    let most = Delta { tokens: i64::MAX, cost: i64::MAX, unpriced: i64::MAX, ms: i64::MAX };
    sql::query("UPDATE spendings SET tokens = $1, cost = $1, unpriced = $1, running_ms = $1")
        .bind(i64::MAX - 5)
        .execute(tx.conn())
        .await
        .unwrap();
    spending::add(tx.conn(), &part.task, most).await.unwrap();
    assert!(spending::set_budget(tx.conn(), &root.task).await.unwrap().is_some());
    let over = spending::over(tx.conn(), &part.task).await.unwrap().unwrap();
    assert_eq!(over.of_task_id, root.task.id);
    let spent = spending::own(tx.conn(), &root.task).await.unwrap().spent;
    assert_eq!((spent.tokens, spent.running_ms), (i64::MAX as u64 - 5, i64::MAX as u64 - 5));
    let fresh = place.row(Order::default());
    tasks::apply(&mut tx, lease::created(fresh.clone(), &system())).await.unwrap();
    for tokens in [3, -10, 4] {
        spending::add(tx.conn(), &fresh.task, Delta { tokens, ..Delta::default() }).await.unwrap();
    }
    let spent = spending::own(tx.conn(), &fresh.task).await.unwrap().spent;
    assert_eq!(spent.tokens, 4, "a sum never owes anything");
    tx.commit().await.unwrap();
}

async fn tokens_and_users_are_kept_by_their_names(place: Place) {
    let mut tx = place.store.write().await.unwrap();
    let add = users::add(tx.conn(), place.workspace, "Ünal", Role::Owner, at(1));
    let user = add.await.unwrap().unwrap();
    let again = users::add(tx.conn(), place.workspace, "Ünal", Role::Owner, at(1)).await.unwrap();
    assert!(again.is_none());
    let who = Who::User(user.id);
    let issue =
        Issue { workspace: place.workspace, who, role: Role::Owner, expires_at: Some(at(90)) };
    let (secret, view) = tokens::issue(tx.conn(), issue, at(2)).await.unwrap();
    tx.commit().await.unwrap();
    let mut reader = place.store.read().await.unwrap();
    let found = tokens::find(&mut reader, &secret.hash()).await.unwrap().unwrap();
    assert_eq!((found.id, found.role), (view.id, Some(Role::Owner)));
    assert!(tokens::is_good(&mut reader, view.id, at(89)).await.unwrap());
    assert!(!tokens::is_good(&mut reader, view.id, at(90)).await.unwrap());
    let mut tx = place.store.write().await.unwrap();
    for now in [50, 60] {
        let ended = tokens::revoke(tx.conn(), place.workspace, view.id, at(now)).await.unwrap();
        assert_eq!(ended.unwrap().revoked_at, Some(at(50)));
    }
    tx.commit().await.unwrap();
    assert!(!tokens::is_good(&mut reader, view.id, at(3)).await.unwrap());
    assert_eq!(users::page(&mut reader, place.workspace, None, 9).await.unwrap(), [user]);
}

async fn a_newer_relays_database_is_refused(place: Place) {
    let mut tx = place.store.write().await.unwrap();
    sql::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', TRUE, $1, 0)",
    )
    .bind(vec![0])
    .execute(tx.conn())
    .await
    .unwrap();
    tx.commit().await.unwrap();
    place.store.close().await;
    assert!(matches!(Store::open(&place.database).await, Err(StoreError::Migrate(_))));
}

async fn is_waiting(mut future: Pin<&mut impl Future>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn changes_that_wait_for_their_turn_share_a_commit_and_a_lone_one_waits_for_nobody() {
    let place = on_sqlite().await;
    let (mut one, two) = (place.row(Order::default()), place.row(Order::default()));
    one.task.order.name = "first".into();
    let (id, other) = (one.task.id, two.task.id);
    let mut first = place.store.write().await.unwrap();
    // the second asks while the first has its turn
    let ask = place.store.write();
    tokio::pin!(ask);
    assert!(is_waiting(ask.as_mut()).await);
    tasks::apply(&mut first, lease::created(one, &system())).await.unwrap();
    let stored = first.commit();
    tokio::pin!(stored);
    assert!(is_waiting(stored.as_mut()).await);
    let mut second = ask.await.unwrap();
    assert!(is_waiting(stored.as_mut()).await, "it was committed alone");
    assert!(place.find(id).await.is_none(), "it was seen before it was durable");
    // a later change sees an earlier one
    let found = tasks::find(second.conn(), place.workspace, id).await.unwrap().unwrap();
    assert_eq!(found.task.order.name, "first");
    tasks::apply(&mut second, lease::created(two, &system())).await.unwrap();
    let (first, second) = tokio::join!(stored, second.commit());
    first.unwrap();
    second.unwrap();
    assert!(place.find(id).await.is_some() && place.find(other).await.is_some());
}
