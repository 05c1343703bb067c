//! The state lane: what comes together is stored together, and still once, in order, and acked.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use futures_util::SinkExt;
use harness::house;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

#[tokio::test]
async fn a_burst_with_repeats_and_odd_messages_is_stored_once_and_in_order() {
    let house = house().await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let id = house.make(json!({"plan": "x"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    let before = house.events(&id).await.len();
    let first = daemon.next;
    let mut frames = Vec::new();
    for nth in 0..180_u64 {
        let seq = first + nth;
        let mut message = run.event("task.message", json!({ "nth": nth }));
        message["seq"] = seq.into();
        frames.push(message.clone());
        match nth % 10 {
            3 => frames.push(message),
            5 if nth < 30 => frames.push(json!({"type": "heartbeat", "activeTasks": [run.task]})),
            _ => {}
        }
    }
    // its number is used up although it cannot be read
    frames.push(json!({"type": "taskEvent", "seq": first + 180}));
    for frame in frames {
        daemon.socket.inner.feed(Message::text(frame.to_string())).await.unwrap();
    }
    daemon.socket.inner.flush().await.unwrap();
    while daemon.socket.until("ack").await["upTo"].as_u64().unwrap() < first + 180 {}
    let events = house.events(&id).await;
    let told: Vec<_> = events.iter().skip(before).map(|e| e["payload"]["nth"].clone()).collect();
    assert_eq!(told, (0..180).map(|nth| json!(nth)).collect::<Vec<_>>());
    assert!(events.iter().enumerate().all(|(seq, event)| event["seq"] == seq));
    house.stop().await;
}

#[tokio::test]
async fn what_comes_before_a_hole_is_stored_and_the_hole_ends_the_link() {
    let house = house().await;
    let token = house.daemon_token().await;
    let machine = Uuid::now_v7();
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let id = house.make(json!({"plan": "x"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    let first = daemon.next;
    for seq in [first, first + 1, first + 3] {
        let mut message = run.event("task.message", json!({ "seq": seq }));
        message["seq"] = seq.into();
        daemon.socket.inner.feed(Message::text(message.to_string())).await.unwrap();
    }
    daemon.socket.inner.flush().await.unwrap();
    let refused = daemon.socket.until("error").await;
    assert_eq!(refused["code"], "conflict");
    let back = house.daemon(machine, &token, &[run.key()]).await;
    assert_eq!(back.next, first + 2);
    let events = house.events(&id).await;
    assert_eq!(events.last().unwrap()["payload"]["seq"], first + 1);
    house.stop().await;
}
