//! What tasks spend, and the budgets above them.

use super::Place;
use crate::change::{Change, system};
use crate::lease;
use crate::lease::tests::at;
use crate::prices::{Delta, MOST};
use crate::store::tasks::{self, Braker, Stored};
use crate::store::{discards, spending, sql};
use hayward_shared::budget::{Budget, BudgetReached, Reached, Usd};
use hayward_shared::event::Kind;
use hayward_shared::id::{MachineId, RunId};
use hayward_shared::task::{Order, Reason, Status, Usage};
use std::time::Duration;

contract! {
    the_time_of_a_task_is_counted_without_storing_anything_else_of_it
    what_is_discarded_is_gone_and_usage_is_summed
    what_parts_spend_counts_against_the_budgets_above_them_once
    whoever_runs_below_a_budget_that_is_used_up_is_found
    f37_a_raise_sees_what_was_spent_while_it_waited
    sums_beyond_any_budget_stay_readable_and_never_overflow
}

async fn what_is_discarded_is_gone_and_usage_is_summed(place: Place) {
    let id = place.store(place.row(Order::default())).await;
    let daemon = place.welcome(MachineId::fresh()).await;
    let mut tx = place.store.write().await.unwrap();
    let used = |tokens| Usage { input_tokens: tokens, ..Usage::default() };
    let (one, two) = (RunId::fresh(), RunId::fresh());
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
    assert_eq!(spending::timed(tx.conn()).await.unwrap(), [(key, Some(at(1_000)))]);
    assert_eq!(spending::runaways(tx.conn()).await.unwrap(), []);
    let found = tasks::find(tx.conn(), key.0, key.1).await.unwrap().unwrap();
    let mut change = Change::of(found);
    change.count_time(at(1_999));
    change.count_time(at(2_000));
    change.row.braked = Some(Braker::Budget);
    tasks::apply(&mut tx, change).await.unwrap();
    assert_eq!(spending::timed(tx.conn()).await.unwrap(), [], "it is known to be over");
    assert_eq!(spending::runaways(tx.conn()).await.unwrap(), [key]);
    let found = tasks::find(tx.conn(), key.0, key.1).await.unwrap().unwrap();
    assert_eq!((found.running_since, found.braked), (Some(at(2_000)), Some(Braker::Budget)));
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
    let mut row = tasks::find(tx.conn(), key.0, key.1).await.unwrap().unwrap();
    row.braked = Some(Braker::Person);
    tasks::save(tx.conn(), &row).await.unwrap();
    assert_eq!(tasks::find(tx.conn(), key.0, key.1).await.unwrap(), Some(row));
    assert_eq!(spending::released(tx.conn()).await.unwrap(), [], "a person paused it");
    tx.commit().await.unwrap();
}

async fn the_time_of_a_task_is_counted_without_storing_anything_else_of_it(place: Place) {
    let budget = Budget { max_seconds: Some(1), ..Budget::default() };
    let row = place.row(Order { budget: Some(budget), ..Order::default() });
    let mut tx = place.store.write().await.unwrap();
    spending::set_budget(tx.conn(), &row.task).await.unwrap();
    let mut change = Change::of(row);
    change.step(Status::Dispatched, None, &system(), at(1)).unwrap();
    change.step(Status::Running, None, &system(), at(1_000)).unwrap();
    tasks::apply(&mut tx, change.clone()).await.unwrap();
    let stored = change.row;
    let mut change = Change::of(stored.clone());
    change.count_time(at(2_500));
    change.row.task.version += 1;
    change.row.queued_at = None;
    tasks::apply_time(&mut tx, change).await.unwrap();
    tx.commit().await.unwrap();
    let wanted = Stored { running_since: Some(at(2_500)), ..stored };
    assert_eq!(place.find(wanted.task.id).await, Some(wanted.clone()));
    let mut reader = place.store.read().await.unwrap();
    let account = spending::own(&mut reader, &wanted.task).await.unwrap();
    assert_eq!(account.reached, Some(Reached::Time { spent: 1, limit: 1 }));
    let told = place.events(wanted.task.id).await;
    assert!(told.iter().any(|event| event.kind == Kind::BudgetReached), "{told:?}");
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
    // of reports that came together nothing is lost, however much each of them told
    let delta = Delta { cost: 2 * MOST - 1, ..Delta::default() };
    spending::add(tx.conn(), &part.task, delta).await.unwrap();
    let spent = spending::own(tx.conn(), &root.task).await.unwrap().spent;
    assert_eq!(spent.cost_usd, Usd::from_nanos(4_499_999_999_999_999));
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
