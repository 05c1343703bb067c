//! What the store promises when several relays share one PostgreSQL: every test has a store for
//! each of them. Skipped by name where `HAYWARD_TEST_POSTGRES` names no server.

use super::contract::{Place, connect, on_postgres};
use super::relays::{Card, Seat};
use super::{Store, StoreError, due, persist, tasks, text};
use crate::change::{Change, system};
use crate::config::Timing;
use crate::database::Database;
use crate::lease::tests::{at, both};
use crate::{lease, sweep};
use hayward_shared::event::Kind;
use hayward_shared::id::{DaemonId, RelayId, TaskId, WorkspaceId};
use hayward_shared::task::{Order, Status};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Whatever is waited for comes within this.
const BOUND: Duration = Duration::from_secs(60);

async fn place(test: &str) -> Option<Place> {
    let place = on_postgres().await;
    if place.is_none() {
        eprintln!("SKIP {test}: HAYWARD_TEST_POSTGRES is not set");
    }
    place
}

async fn second(place: &Place) -> Arc<Store> {
    let store = Arc::new(Store::open(&place.database).await.unwrap());
    connect(&store).await;
    store
}

/// Stores so many tasks at once.
async fn fill(place: &Place, count: usize, made: impl Fn(&mut tasks::Stored)) -> Vec<TaskId> {
    let mut tx = place.store.write().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..count {
        let mut row = place.row(Order::default());
        made(&mut row);
        ids.push(row.task.id);
        tasks::apply(&mut tx, lease::created(row, &system())).await.unwrap();
    }
    tx.commit().await.unwrap();
    ids
}

/// Claims the best task, as a link does: none when nothing is queued.
async fn claim(
    store: &Store,
    workspace: WorkspaceId,
    daemon: DaemonId,
) -> Result<Option<Option<TaskId>>, StoreError> {
    let mut tx = store.write().await?;
    let queue = tasks::queue(tx.conn(), workspace, daemon, None, 16).await?;
    if queue.is_empty() {
        return Ok(None);
    }
    for row in queue {
        let Some(row) = tasks::take(tx.conn(), workspace, row.task.id).await? else { continue };
        let mut change = Change::of(row);
        lease::claim(&mut change, daemon, &system(), at(5), at(60_005)).unwrap();
        let task = tasks::apply(&mut tx, change).await?;
        tx.commit().await?;
        return Ok(Some(Some(task.id)));
    }
    Ok(Some(None))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_hundreds_of_tasks_are_claimed_once_over_two_relays_while_leases_are_renewed() {
    const TASKS: usize = 400;
    let Some(place) = place("hundreds of tasks are claimed once over two relays").await else {
        return;
    };
    fill(&place, TASKS, |_| {}).await;
    let stores = [place.store.clone(), second(&place).await];
    let over = Arc::new(AtomicBool::new(false));
    let workspace = place.workspace;
    let mut all = JoinSet::new();
    for nth in 0..8 {
        let store = stores[nth % 2].clone();
        all.spawn(async move {
            let daemon = DaemonId::fresh();
            let mut claimed = Vec::new();
            while let Some(task) =
                persist(|| claim(&store, workspace, daemon)).await.expect("a claim failed")
            {
                claimed.extend(task);
            }
            claimed
        });
    }
    let mut renewals = JoinSet::new();
    for store in stores {
        let over = over.clone();
        renewals.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let renewed = persist(|| async {
                    let mut tx = store.write().await?;
                    due::begin_anew(tx.conn(), at(0), at(90_000)).await?;
                    tx.commit().await
                });
                renewed.await.expect("a renewal failed");
                // far more often than relays start
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    let mut claimed = Vec::new();
    while let Some(done) = all.join_next().await {
        claimed.extend(done.unwrap());
    }
    over.store(true, Ordering::SeqCst);
    while let Some(done) = renewals.join_next().await {
        done.unwrap();
    }
    assert_eq!(claimed.len(), TASKS);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), TASKS);
    for id in claimed {
        let task = place.find(id).await.unwrap().task;
        assert_eq!((task.status, task.holding.lease_epoch), (Status::Dispatched, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_is_due_is_queued_once_by_however_many_relays_see_it() {
    const TASKS: usize = 200;
    let Some(place) = place("a retry that is due is queued once").await else { return };
    let ids = fill(&place, TASKS, |row| {
        row.task.status = Status::Deferred;
        row.task.holding.next_retry_at = Some(at(40));
    })
    .await;
    let stores = [place.store.clone(), second(&place).await];
    let mut all = JoinSet::new();
    for nth in 0..6 {
        let store = stores[nth % 2].clone();
        all.spawn(async move {
            let mut queued = 0;
            loop {
                let mut reader = store.read().await.unwrap();
                let due = due::retries(&mut reader, at(50), 64).await.unwrap();
                drop(reader);
                if due.is_empty() {
                    return queued;
                }
                for key in due {
                    let moved = sweep::settle(&store, &Timing::default(), key, both(50)).await;
                    queued += usize::from(moved.unwrap());
                }
            }
        });
    }
    let mut queued = 0;
    while let Some(done) = all.join_next().await {
        queued += done.unwrap();
    }
    assert_eq!(queued, TASKS);
    for id in ids {
        let events = place.events(id).await;
        let moves = events.iter().filter(|event| event.kind == Kind::TaskStatusChanged).count();
        assert_eq!(moves, 1, "{events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_wait_for_each_other_both_succeed() {
    let Some(place) = place("changes that wait for each other both succeed").await else { return };
    let ids = fill(&place, 2, |_| {}).await;
    let stores = [place.store.clone(), second(&place).await];
    let (met, tries) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
    let mut all = JoinSet::new();
    for nth in 0..2 {
        let (store, met, tries) = (stores[nth].clone(), met.clone(), tries.clone());
        let (first, then, workspace) = (ids[nth], ids[1 - nth], place.workspace);
        all.spawn(async move {
            let met_once = AtomicBool::new(false);
            persist(|| async {
                tries.fetch_add(1, Ordering::SeqCst);
                let mut tx = store.write().await?;
                tasks::find(tx.conn(), workspace, first).await?;
                if !met_once.swap(true, Ordering::SeqCst) {
                    met.wait().await;
                }
                let row = tasks::find(tx.conn(), workspace, then).await?.unwrap();
                let mut change = Change::of(row);
                change.row.task.version += 1;
                tasks::apply(&mut tx, change).await?;
                tx.commit().await
            })
            .await
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap().unwrap();
    }
    // whoever gave way may meet the other once more before it went on
    let tries = tries.load(Ordering::SeqCst);
    assert!(tries >= 3, "nobody had to give way in {tries} tries");
    for id in ids {
        assert_eq!(place.find(id).await.unwrap().task.version, 2);
    }
}

fn card(address: &str, bus: bool) -> Card {
    Card { id: RelayId::fresh(), address: address.into(), version: "0.1.0".into(), bus }
}

#[tokio::test]
async fn a_relay_without_a_bus_serves_alone_and_a_killed_one_is_gone_at_once() {
    let Some(place) = place("a relay without a bus serves alone").await else { return };
    let Database::Postgres(database) = &place.database else { panic!("not PostgreSQL") };
    let (alone, lone) = (card("127.0.0.1:1", false), card("127.0.0.1:2", false));
    let mut seat = Seat::take(database, &alone).await.unwrap().unwrap();
    assert!(seat.is_held().await);
    let other = Seat::take(database, &lone).await.unwrap().unwrap_err();
    assert!(other.to_string().contains("127.0.0.1:1"), "{other}");
    let on_bus = Seat::take(database, &card("127.0.0.1:3", true)).await.unwrap();
    assert!(on_bus.is_err(), "the one that is there has no bus");
    // its connection ends without a word, as that of a killed process does
    drop(seat);
    let free = async {
        loop {
            match Seat::take(database, &lone).await.unwrap() {
                Ok(seat) => return seat,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let seat = timeout(BOUND, free).await.expect("the killed relay stays");
    seat.leave().await.unwrap();

    let first = Seat::take(database, &card("127.0.0.1:4", true)).await.unwrap().unwrap();
    let second = Seat::take(database, &card("127.0.0.1:5", true)).await.unwrap().unwrap();
    assert!(Seat::take(database, &lone).await.unwrap().is_err());
    first.leave().await.unwrap();
    second.leave().await.unwrap();
    Seat::take(database, &lone).await.unwrap().unwrap().leave().await.unwrap();
}

#[tokio::test]
async fn a_relay_takes_its_own_place_again() {
    let Some(place) = place("a relay takes its own place again").await else { return };
    let Database::Postgres(database) = &place.database else { panic!("not PostgreSQL") };
    let own = card("127.0.0.1:1", false);
    let mut seat = Seat::take(database, &own).await.unwrap().unwrap();
    let mut tx = place.store.write().await.unwrap();
    let cut = super::sql::query(
        "SELECT CAST(pg_terminate_backend(pid) AS TEXT) FROM pg_locks \
         WHERE locktype = 'advisory' AND pid <> pg_backend_pid() AND (CAST(classid AS BIGINT) << 32) \
         + CAST(objid AS BIGINT) = hashtextextended(current_schema() || '/relay/' || $1, 0)",
    );
    let cut: Vec<(String,)> = cut.bind(text(own.id.0)).fetch_all(tx.conn()).await.unwrap();
    assert_eq!(cut.len(), 1);
    drop(tx);
    let lost = async {
        while seat.is_held().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(BOUND, lost).await.expect("the cut is not noticed");
    let seat = Seat::take(database, &own).await.unwrap().unwrap();
    assert!(Seat::take(database, &card("127.0.0.1:2", false)).await.unwrap().is_err());
    seat.leave().await.unwrap();
}
