//! Who gets a task, and when its lease is over.

use super::Place;
use crate::change::{Change, system};
use crate::lease;
use crate::lease::tests::at;
use crate::store::{due, tasks};
use hayward_shared::id::{DaemonId, MachineId};
use hayward_shared::task::{Order, Status};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;

contract! {
    f28_a_task_is_claimed_once_whoever_asks
    a_claim_passes_over_what_another_is_about_to_take
    leases_begin_anew_and_what_is_due_is_found
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
