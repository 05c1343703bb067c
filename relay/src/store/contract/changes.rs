//! Changes at once: each is whole, and none is lost.

use super::{Place, on_sqlite};
use crate::change::{Change, system};
use crate::lease;
use crate::lease::tests::at;
use crate::store::{Heard, daemons, sql, tasks, text};
use hayward_shared::event::Kind;
use hayward_shared::id::MachineId;
use hayward_shared::task::Order;
use serde_json::json;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::task::JoinSet;

contract! {
    a_change_that_is_dropped_leaves_nothing_and_takes_nobody_with_it
    writers_of_one_stream_leave_no_hole_and_each_event_is_heard_once_stored
    a_message_of_a_daemon_is_stored_once_whoever_brings_it
    a_machine_is_one_daemon_even_if_two_relays_welcome_it
    a_chosen_id_makes_one_task_whoever_asks
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
        ids.insert(text(done.unwrap().0));
    }
    assert_eq!(ids.len(), 1);
    let mut reader = place.store.read().await.unwrap();
    let page = daemons::page(&mut reader, place.workspace, None, 10).await.unwrap();
    assert_eq!(page.len(), 1);
    assert!(ids.contains(&text(page[0].id.0)));
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
