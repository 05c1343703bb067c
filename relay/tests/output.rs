//! The output lane: what an agent prints reaches its viewer, however small the pieces.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use futures_util::SinkExt;
use harness::{House, Run, Socket, house};
use hayward_shared::id::WatchId;
use hayward_shared::protocol::output::{Body, Frame};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

/// What a viewer of ours lets come before it grants more.
const WINDOW: usize = 1024 * 1024;

/// A daemon with a run, and a client that watches it.
async fn watched(house: &House) -> (harness::Daemon, Run, Socket, WatchId) {
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    house.make(json!({"plan": "x"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    let mut client = house.client().await;
    let watch = Uuid::now_v7();
    client
        .say(json!({
            "type": "watch", "watchId": watch, "taskId": run.task, "from": 0, "follow": true,
            "grant": WINDOW,
        }))
        .await;
    let asked: Value = daemon.socket.until("watchOutput").await;
    let (request, payload) = (&asked["requestId"], json!({"runId": run.run}));
    let reply = json!({"type": "reply", "requestId": request, "ok": true, "payload": payload});
    daemon.socket.say(reply).await;
    client.until("watch.started").await;
    (daemon, run, client, WatchId(watch))
}

fn frame(watch: WatchId, offset: usize, body: &[u8]) -> Message {
    let body = if body.is_empty() { Body::End } else { Body::Bytes(body) };
    Message::binary(Frame { watch, offset: offset as u64, body }.encode())
}

#[tokio::test]
async fn a_whole_window_of_small_frames_reaches_its_viewer() {
    let house = house().await;
    let (mut daemon, _, mut client, watch) = watched(&house).await;
    let line = [b'x'; 80];
    let count = WINDOW / line.len();
    for nth in 0..count {
        daemon.socket.inner.feed(frame(watch, nth * line.len(), &line)).await.unwrap();
    }
    daemon.socket.inner.feed(frame(watch, count * line.len(), &[])).await.unwrap();
    let (sent, seen) = tokio::join!(daemon.socket.inner.flush(), async {
        let mut seen = 0;
        loop {
            let heard = client.frame().await.expect("the link ended");
            let Message::Binary(bytes) = heard else { panic!("after {seen} bytes: {heard}") };
            let frame = Frame::decode(&bytes).unwrap();
            assert_eq!(frame.offset, seen);
            match frame.body {
                Body::Bytes(bytes) => seen += bytes.len() as u64,
                _ => return seen,
            }
        }
    });
    sent.unwrap();
    assert_eq!(seen, (count * line.len()) as u64);
    house.stop().await;
}

#[tokio::test]
async fn a_viewer_that_takes_nothing_loses_its_watch_and_not_the_relays_memory() {
    let house = house().await;
    let (mut daemon, run, mut client, watch) = watched(&house).await;
    // far beyond what any viewer granted: more than sockets and the queue hold
    let piece = [b'x'; 60_000];
    for nth in 0..400 {
        daemon.socket.inner.send(frame(watch, nth * piece.len(), &piece)).await.unwrap();
    }
    assert_eq!(daemon.socket.until("unwatchOutput").await["watchId"], json!(watch));
    // the rest of the link goes on
    daemon.store(run.status("running", "paused")).await;
    let failed = loop {
        if let Message::Text(text) = client.frame().await.expect("the link ended") {
            break serde_json::from_str::<Value>(&text).unwrap();
        }
    };
    assert_eq!(failed["type"], "watch.failed");
    assert_eq!(failed["error"]["code"], "rate_limited");
    house.stop().await;
}
