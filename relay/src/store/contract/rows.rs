//! What is stored comes back, in its order.

use super::Place;
use crate::auth::Who;
use crate::change::{Change, system};
use crate::lease::tests::at;
use crate::store::tasks::{self, Filter, Stored};
use crate::store::tokens::{self, Issue};
use crate::store::{Store, StoreError, sql, text, users};
use hayward_shared::api::Role;
use hayward_shared::event::Kind;
use hayward_shared::id::{DaemonId, WorkspaceId};
use hayward_shared::task::Order;
use serde_json::json;

contract! {
    f30_odd_texts_come_back_as_they_were
    pages_are_in_order_and_filtered
    tokens_and_users_are_kept_by_their_names
    a_newer_relays_database_is_refused
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
    let before = Some((all[3].created_at.millis(), text(all[3].id.0)));
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
    let hex = text(ids[0].0);
    let found = tasks::matching(&mut reader, place.workspace, &hex[24..]).await.unwrap();
    assert_eq!(found, [ids[0]]);
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
