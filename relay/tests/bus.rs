//! Several relays on one database and one bus. Skipped by name where `HAYWARD_TEST_POSTGRES` or
//! `HAYWARD_TEST_NATS` names no server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use futures_util::SinkExt;
use harness::Socket;
use harness::bus::{ask, daemon, done, houses, nats, online, running, until_online, view};
use hayward_shared::id::WatchId;
use hayward_shared::protocol::output::{Body, Frame};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_is_commanded_through_another_relay() {
    let Some(bus) = nats("a daemon is commanded through another relay") else { return };
    let (first, second) = houses(&bus).await;
    let token = first.daemon_token().await;
    let mut daemon = daemon(&first, &token, Uuid::now_v7()).await;
    let id = daemon.welcome["daemonId"].clone();
    assert!(online(&second, &id).await);

    // the hint that there is work crosses
    let task = second.make(json!({"plan": "x"})).await;
    daemon.socket.until("workAvailable").await;
    let run = daemon.claim_one().await;
    assert_eq!(run.task, task);
    daemon.store(run.status("dispatched", "running")).await;

    let path = |what: &str| format!("/api/v1/tasks/{task}/{what}");
    let asked = ask(&second, "POST", &path("pause"), None);
    let command = daemon.socket.until("pauseTask").await;
    daemon.store(run.status("running", "paused")).await;
    daemon.socket.say(done(&command, Value::Null)).await;
    let (status, paused) = asked.await.unwrap();
    assert_eq!((status, &paused["status"]), (200, &json!("paused")));
    let asked = ask(&second, "POST", &path("resume"), None);
    let command = daemon.socket.until("resumeTask").await;
    daemon.store(run.status("paused", "running")).await;
    daemon.socket.say(done(&command, Value::Null)).await;
    assert_eq!(asked.await.unwrap().1["status"], "running");

    let asked = ask(&second, "POST", &path("message"), Some(json!({"message": "go on"})));
    let command = daemon.socket.until("sendMessage").await;
    assert_eq!(command["message"], "go on");
    daemon.socket.say(done(&command, Value::Null)).await;
    assert_eq!(asked.await.unwrap().0, 200);

    // larger than what the bus takes at once
    let patch = "ä\"\n".repeat(150_000);
    let asked = ask(&second, "GET", &path("diff"), None);
    let command = daemon.socket.until("readDiff").await;
    daemon.socket.say(done(&command, json!({"files": [], "patch": patch}))).await;
    let (status, diff) = asked.await.unwrap();
    assert_eq!((status, diff["patch"] == patch), (200, true));

    // what the daemon refuses is refused there
    let asked = ask(&second, "GET", &path("diff"), None);
    let command = daemon.socket.until("readDiff").await;
    let fault = json!({"code": "conflict", "message": "no", "retryable": false});
    let refused =
        json!({"type": "reply", "requestId": command["requestId"], "ok": false, "error": fault});
    daemon.socket.say(refused).await;
    assert_eq!(asked.await.unwrap().0, 409);

    // and one with an answer of a type of its own
    let asked = ask(&second, "GET", &path("merge/status"), None);
    let command = daemon.socket.until("mergeStatus").await;
    let answer = json!({
        "type": "mergeStatusResponse", "requestId": command["requestId"], "taskId": task,
        "inProgress": false, "sourceBranch": null, "conflictedFiles": [],
    });
    daemon.socket.say(answer).await;
    let (status, merge) = asked.await.unwrap();
    assert_eq!((status, &merge["inProgress"]), (200, &json!(false)), "{merge}");

    let (status, _) = second.call("POST", &path("cancel"), None).await;
    assert_eq!(status, 200);
    assert_eq!(daemon.socket.until("cancelTask").await["taskId"], json!(task));

    drop(daemon);
    until_online(&second, &id, false).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_peer_is_asked_through_another_relay_too() {
    let Some(bus) = nats("a plain peer is asked through another relay too") else { return };
    let (first, second) = houses(&bus).await;
    let token = first.daemon_token().await;
    let mut socket = first.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    let hello = json!({
        "type": "authenticate", "apiKey": token, "machineId": Uuid::now_v7(), "hostname": "old",
        "maxConcurrentTasks": 1,
    });
    socket.say(hello).await;
    socket.until("authenticated").await;
    let task = second.make(json!({"plan": "x"})).await;
    socket.until("spawnTask").await;
    let asked = ask(&second, "GET", &format!("/api/v1/tasks/{task}/merge/branches"), None);
    let command = socket.until("listBranches").await;
    assert!(command.get("requestId").is_none(), "{command}");
    socket.say(json!({"type": "branchList", "taskId": task, "branches": []})).await;
    let (status, list) = asked.await.unwrap();
    assert_eq!((status, &list["branches"]), (200, &json!([])), "{list}");
    first.stop().await;
    second.stop().await;
}

async fn frame(socket: &mut Socket) -> (u64, Vec<u8>) {
    loop {
        if let Message::Binary(bytes) = socket.frame().await.expect("the link ended") {
            return match Frame::decode(&bytes).unwrap() {
                Frame { offset, body: Body::Bytes(body), .. } => (offset, body.to_vec()),
                Frame { offset, body: Body::End, .. } => (offset, Vec::new()),
                other => panic!("{other:?}"),
            };
        }
    }
}

fn bytes(watch: Uuid, offset: u64, body: Body<'_>) -> Message {
    Message::binary(Frame { watch: WatchId(watch), offset, body }.encode())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_and_terminals_are_seen_through_another_relay() {
    let Some(bus) = nats("output and terminals are seen through another relay") else { return };
    let (first, second) = houses(&bus).await;
    let (mut daemon, run) = running(&first).await;
    let mut client = second.client().await;
    let watch = Uuid::now_v7();
    client.say(view(watch, &run)).await;
    let asked = daemon.socket.until("watchOutput").await;
    assert_eq!(asked["watchId"], json!(watch));
    daemon.socket.say(done(&asked, json!({"runId": run.run}))).await;
    assert_eq!(client.until("watch.started").await["payload"]["runId"], json!(run.run));
    for nth in 0..30_u64 {
        let body = [u8::try_from(nth).unwrap(); 2000];
        let said = bytes(watch, nth * 2000, Body::Bytes(&body));
        daemon.socket.inner.send(said).await.unwrap();
    }
    for nth in 0..30_u64 {
        let (offset, body) = frame(&mut client).await;
        assert_eq!((offset, body), (nth * 2000, vec![u8::try_from(nth).unwrap(); 2000]));
    }
    client.say(json!({"type": "grant", "watchId": watch, "upTo": 131_072})).await;
    assert_eq!(daemon.socket.until("grantOutput").await["upTo"], 131_072);
    daemon.socket.inner.send(bytes(watch, 60_000, Body::End)).await.unwrap();
    assert_eq!(frame(&mut client).await, (60_000, Vec::new()));

    let watch = Uuid::now_v7();
    let attach = json!({
        "type": "attachTerminal", "watchId": watch, "taskId": run.task, "rows": 24, "cols": 80,
        "grant": 65536, "readOnly": false,
    });
    client.say(attach).await;
    let asked = daemon.socket.until("attachTerminal").await;
    daemon.socket.say(done(&asked, json!({"runId": run.run}))).await;
    client.until("watch.started").await;
    client.say(json!({"type": "typeTerminal", "watchId": watch, "seq": 7, "data": "aGk="})).await;
    let typed = daemon.socket.until("typeTerminal").await;
    assert_eq!(typed["data"], "aGk=");
    daemon.socket.say(done(&typed, Value::Null)).await;
    assert_eq!(client.until("terminal.typed").await["seq"], 7);
    // whoever leaves is told of to the daemon
    drop(client);
    assert_eq!(daemon.socket.until("unwatchOutput").await["watchId"], json!(watch));

    // a daemon that goes ends the watch
    let mut client = second.client().await;
    let watch = Uuid::now_v7();
    client.say(view(watch, &run)).await;
    let asked = daemon.socket.until("watchOutput").await;
    daemon.socket.say(done(&asked, Value::Null)).await;
    client.until("watch.started").await;
    drop(daemon);
    assert_eq!(client.until("watch.failed").await["error"]["code"], "daemon_offline");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_goes_through_another_relay_page_by_page_and_is_called_off() {
    let Some(bus) = nats("a search goes through another relay page by page") else { return };
    let (first, second) = houses(&bus).await;
    let (mut daemon, run) = running(&first).await;
    let search = || {
        let request = second.http.get(second.url("/api/v1/search?pattern=x&limit=100"));
        let request = request.bearer_auth(second.owner.token.expose());
        let request = request.header("Accept", "application/x-ndjson");
        tokio::spawn(async move { request.send().await.unwrap() })
    };
    let found = |line: u64| {
        json!({
            "taskId": run.task, "runId": run.run, "line": line, "offset": 0, "content": "x",
            "contextBefore": [], "contextAfter": [],
        })
    };
    let answer = search();
    let asked = daemon.socket.until("search").await;
    for line in [1, 2] {
        let page = json!({"type": "searchFound", "requestId": asked["requestId"], "matches": [found(line)]});
        daemon.socket.say(page).await;
        assert_eq!(daemon.socket.until("searchMore").await["asked"], asked["requestId"]);
    }
    let searched = json!({"runs": 1, "bytes": 1, "ms": 1});
    let last = json!({"matches": [found(3)], "total": 3, "truncated": false, "searched": searched});
    daemon.socket.say(done(&asked, last)).await;
    let text = answer.await.unwrap().text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = lines.iter().filter_map(|line| line["match"]["line"].as_u64()).collect();
    assert_eq!(numbers, [1, 2, 3], "{text}");

    let left = search();
    let asked = daemon.socket.until("search").await;
    left.abort();
    assert_eq!(daemon.socket.until("callOff").await["asked"], asked["requestId"]);
    first.stop().await;
    second.stop().await;
}
