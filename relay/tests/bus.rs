//! Several relays on one database and one bus. Skipped by name where `HAYWARD_TEST_POSTGRES` or
//! `HAYWARD_TEST_NATS` names no server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use futures_util::{SinkExt, StreamExt};
use harness::{BOUND, Daemon, House, Run, Socket, hello, schema};
use hayward_relay::{Config, Relay, Timing};
use hayward_shared::id::WatchId;
use hayward_shared::protocol::output::{Body, Frame};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

/// Nothing comes within this.
const QUIET: Duration = Duration::from_millis(300);

/// The server of the bus, where there is one and a PostgreSQL.
fn nats(test: &str) -> Option<String> {
    let servers = ("HAYWARD_TEST_POSTGRES", "HAYWARD_TEST_NATS");
    let (postgres, nats) = (std::env::var(servers.0), std::env::var(servers.1));
    if postgres.is_err() || nats.is_err() {
        eprintln!("SKIP {test}: {} and {} are not both set", servers.0, servers.1);
        return None;
    }
    nats.ok()
}

/// A way to the bus that can be cut.
struct Cable {
    url: String,
    cut: Arc<watch::Sender<bool>>,
}

impl Cable {
    async fn lay(url: &str) -> Self {
        let server = url.strip_prefix("nats://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(watch::channel(false).0);
        let state = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.subscribe();
                if *state.borrow() {
                    continue;
                }
                let server = server.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { url: format!("nats://127.0.0.1:{port}"), cut }
    }
}

fn config(database: &str, bus: &str) -> Config {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut config = Config::new(
        database.parse::<hayward_relay::Database>().unwrap(),
        "127.0.0.1:0".parse().unwrap(),
    );
    config.bus = Some(bus.parse().unwrap());
    config.owner_token = Some(std::env::temp_dir().join(format!("{}.token", Uuid::now_v7())));
    config.timing = Timing { reply: Duration::from_secs(5), ..Timing::default() };
    config
}

/// Two relays that can talk to each other.
async fn houses(bus: &str) -> (House, House) {
    let database = schema().await;
    let first = harness::house_with(|of| *of = config(&database, bus)).await;
    let second = first.beside(config(&database, bus)).await;
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    (first, second)
}

async fn bus_is(house: &House, wanted: &str) {
    let begun = Instant::now();
    while house.get("/health").await["bus"] != wanted {
        assert!(begun.elapsed() < BOUND, "the bus is never {wanted}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn online(house: &House, daemon: &Value) -> bool {
    let all = house.get("/api/v1/daemons").await;
    let all = all["daemons"].as_array().unwrap();
    all.iter().find(|one| one["id"] == *daemon).unwrap()["online"] == true
}

async fn until_online(house: &House, daemon: &Value, wanted: bool) {
    let begun = Instant::now();
    while online(house, daemon).await != wanted {
        assert!(begun.elapsed() < BOUND, "the daemon is never online: {wanted}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A daemon with all abilities.
async fn daemon(house: &House, token: &str, machine: Uuid) -> Daemon {
    let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    let mut hello = hello(machine, token, &[]);
    let can = hello["capabilities"].as_array_mut().unwrap();
    can.extend([json!("searchStreams"), json!("terminals")]);
    socket.say(hello).await;
    let welcome = socket.until("authenticated").await;
    let next = welcome["ackedSeq"].as_u64().map_or(0, |seq| seq + 1);
    Daemon { socket, next, welcome }
}

/// A daemon at the first relay, with a task that runs.
async fn running(first: &House) -> (Daemon, Run) {
    let token = first.daemon_token().await;
    let mut daemon = daemon(first, &token, Uuid::now_v7()).await;
    first.make(json!({"plan": "x"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    (daemon, run)
}

/// A request under way.
fn ask(
    house: &House,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> tokio::task::JoinHandle<(u16, Value)> {
    let mut request = house.http.request(method.parse().unwrap(), house.url(path));
    request = request.bearer_auth(house.owner.token.expose());
    if let Some(body) = body {
        request = request.json(&body);
    }
    tokio::spawn(async move {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    })
}

fn done(command: &Value, payload: Value) -> Value {
    json!({"type": "reply", "requestId": command["requestId"], "ok": true, "payload": payload})
}

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
    daemon.socket.say(done(&command, Value::Null)).await;
    daemon.report(run.status("running", "paused")).await;
    let (status, paused) = asked.await.unwrap();
    assert_eq!((status, &paused["status"]), (200, &json!("paused")));
    let asked = ask(&second, "POST", &path("resume"), None);
    let command = daemon.socket.until("resumeTask").await;
    daemon.socket.say(done(&command, Value::Null)).await;
    daemon.report(run.status("paused", "running")).await;
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

/// The wish to watch what a run prints.
fn view(watch: Uuid, run: &Run) -> Value {
    json!({
        "type": "watch", "watchId": watch, "taskId": run.task, "from": 0, "follow": true,
        "grant": 65536,
    })
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

/// Follows a stream until it has so many events; their numbers must be whole.
async fn follow(client: &mut Socket, count: u64) {
    for seq in 0..count {
        let event = loop {
            let heard = client.hear().await.expect("the link ended");
            if heard["stream"].is_string() && heard["seq"].is_u64() {
                break heard;
            }
        };
        assert_eq!(event["seq"], seq, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_whole_at_each_relay_while_both_write() {
    let Some(bus) = nats("events are whole at each relay while both write") else { return };
    let cable = Cable::lay(&bus).await;
    let database = schema().await;
    let first = harness::house_with(|of| *of = config(&database, &bus)).await;
    let second = first.beside(config(&database, &cable.url)).await;
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    let (mut daemon, run) = running(&first).await;
    let stream = format!("task:{}", run.task);
    let before = first.events(&run.task).await.len() as u64;
    let mut clients = Vec::new();
    for house in [&first, &second] {
        let mut client = house.client().await;
        client.say(json!({"type": "subscribe", "stream": stream})).await;
        clients.push(client);
    }
    const EACH: u64 = 60;
    let write = async {
        for nth in 0..EACH {
            let text = json!({"type": "taskProgress", "taskId": run.task, "summary": format!("{nth}"), "leaseEpoch": run.epoch});
            daemon.store(text).await;
            // the second relay loses the bus for a while
            cable.cut.send_replace((20..40).contains(&nth));
        }
    };
    let patch = async {
        for nth in 0..EACH {
            loop {
                let version = second.task(&run.task).await["version"].clone();
                let body = json!({"version": version, "name": format!("n{nth}")});
                let path = format!("/api/v1/tasks/{}", run.task);
                let (status, answer) = second.call("PATCH", &path, Some(body)).await;
                match status {
                    200 => break,
                    409 => {}
                    _ => panic!("{status} {answer}"),
                }
            }
        }
    };
    let all = before + 2 * EACH;
    let [one, two] = &mut clients[..] else { panic!() };
    tokio::join!(write, patch, follow(one, all), follow(two, all));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bus_each_relay_serves_its_own_and_says_so_and_it_heals() {
    let Some(bus) = nats("without the bus each relay serves its own") else { return };
    let cable = Cable::lay(&bus).await;
    let (first, second) = houses(&cable.url).await;
    let (mut daemon, run) = running(&first).await;
    let id = daemon.welcome["daemonId"].clone();
    let path = format!("/api/v1/tasks/{}/diff", run.task);
    let mut client = second.client().await;
    let watch = Uuid::now_v7();
    client.say(view(watch, &run)).await;
    let asked = daemon.socket.until("watchOutput").await;
    daemon.socket.say(done(&asked, Value::Null)).await;
    client.until("watch.started").await;
    let under_way = ask(&second, "GET", &path, None);
    daemon.socket.until("readDiff").await;

    cable.cut.send_replace(true);
    // what was under way ends in the open
    let (status, refused) = under_way.await.unwrap();
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("unavailable")), "{refused}");
    assert_eq!(client.until("watch.failed").await["error"]["code"], "unavailable");
    assert_eq!(daemon.socket.until("unwatchOutput").await["watchId"], json!(watch));
    for house in [&first, &second] {
        bus_is(house, "away").await;
    }
    let (status, refused) = second.call("GET", &path, None).await;
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("unavailable")), "{refused}");
    assert!(online(&second, &id).await, "the store knows that it is linked");
    let metrics = second.http.get(second.url("/metrics")).send().await.unwrap();
    assert!(metrics.text().await.unwrap().contains("hayward_relay_bus_up 0"));
    let asked = ask(&first, "GET", &path, None);
    let command = daemon.socket.until("readDiff").await;
    daemon.socket.say(done(&command, json!({"files": []}))).await;
    assert_eq!(asked.await.unwrap().0, 200);

    cable.cut.send_replace(false);
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    let asked = ask(&second, "GET", &path, None);
    let command = daemon.socket.until("readDiff").await;
    daemon.socket.say(done(&command, json!({"files": []}))).await;
    assert_eq!(asked.await.unwrap().0, 200);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_the_daemons_of_a_killed_relay_are_offline_and_come_back_at_another() {
    let Some(bus) = nats("F37 a relay is killed") else { return };
    let database = schema().await;
    let second = harness::house_with(|of| *of = config(&database, &bus)).await;
    // a life of its own, that can be ended without a goodbye
    let life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let life = life.unwrap();
    let (there, of) = (life.handle().clone(), config(&database, &bus));
    let relay = tokio::task::spawn_blocking(move || there.block_on(Relay::start(of)));
    let relay = relay.await.unwrap().unwrap();
    let first = second.with(relay);
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    let token = second.daemon_token().await;
    let machine = Uuid::now_v7();
    let mut old = daemon(&first, &token, machine).await;
    let id = old.welcome["daemonId"].clone();
    second.make(json!({"plan": "x"})).await;
    let run = old.claim_one().await;
    old.store(run.status("dispatched", "running")).await;
    let mut client = second.client().await;
    let watch = Uuid::now_v7();
    client.say(view(watch, &run)).await;
    let asked = old.socket.until("watchOutput").await;
    old.socket.say(done(&asked, Value::Null)).await;
    client.until("watch.started").await;

    life.shutdown_background();
    drop(first);
    let begun = Instant::now();
    let path = format!("/api/v1/tasks/{}/diff", run.task);
    let (status, refused) = second.call("GET", &path, None).await;
    assert_eq!(status, 503, "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(2), "it waited for one that is gone");
    client.until("watch.failed").await;
    until_online(&second, &id, false).await;
    let (_, refused) = second.call("GET", &path, None).await;
    assert_eq!(refused["error"]["code"], "daemon_offline", "{refused}");

    let mut new = daemon(&second, &token, machine).await;
    assert_eq!(new.welcome["daemonId"], id);
    assert!(online(&second, &id).await);
    new.store(run.status("running", "completed")).await;
    second.until(&run.task, "completed").await;
    let events = second.events(&run.task).await;
    assert!(events.iter().zip(0_u64..).all(|(event, seq)| event["seq"] == seq), "{events:?}");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_links_of_a_daemon_at_two_relays_the_later_one_lives() {
    let Some(bus) = nats("of two links at two relays the later one lives") else { return };
    let (first, second) = houses(&bus).await;
    let token = first.daemon_token().await;
    let machine = Uuid::now_v7();
    let mut old = daemon(&first, &token, machine).await;
    let id = old.welcome["daemonId"].clone();
    let mut new = daemon(&second, &token, machine).await;
    while timeout(BOUND, old.socket.hear()).await.expect("it lives on").is_some() {}
    for house in [&first, &second] {
        assert!(online(house, &id).await);
    }
    first.make(json!({"plan": "x"})).await;
    let run = new.claim_one().await;
    new.store(run.status("dispatched", "running")).await;
    let asked = ask(&first, "GET", &format!("/api/v1/tasks/{}/diff", run.task), None);
    let command = new.socket.until("readDiff").await;
    new.socket.say(done(&command, json!({"files": []}))).await;
    assert_eq!(asked.await.unwrap().0, 200);
    let page = first.get("/api/v1/daemons").await;
    assert_eq!(page["daemons"].as_array().unwrap().len(), 1);
    first.stop().await;
    second.stop().await;
}

/// Everything that goes over the bus below the deployment of a house.
async fn tap(bus: &str, house: &House) -> (async_nats::Client, async_nats::Subscriber) {
    let client = async_nats::connect(bus).await.unwrap();
    let root = format!("hayward.{}", house.owner.workspace.0.simple());
    let heard = client.subscribe(format!("{root}.relay.*")).await.unwrap();
    client.flush().await.unwrap();
    (client, heard)
}

/// The next command that one relay has for a daemon of another: kind 3, behind 26 bytes of a parcel.
async fn command_of(heard: &mut async_nats::Subscriber) -> async_nats::Message {
    loop {
        let message = timeout(BOUND, heard.next()).await.expect("no command").unwrap();
        if message.payload.get(26) == Some(&3) {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f37_a_command_that_is_published_twice_reaches_the_daemon_once() {
    let Some(bus) = nats("F37 a command is published twice") else { return };
    let (first, second) = houses(&bus).await;
    let (mut daemon, run) = running(&first).await;
    let (client, mut heard) = tap(&bus, &first).await;
    let path = format!("/api/v1/tasks/{}/message", run.task);
    let asked = ask(&second, "POST", &path, Some(json!({"message": "once"})));
    let original = command_of(&mut heard).await;
    let command = daemon.socket.until("sendMessage").await;
    // as it was
    client.publish(original.subject.clone(), original.payload.clone()).await.unwrap();
    // and under a number of its own, as if it had been said again
    let mut again = original.payload.to_vec();
    let number = u64::from_be_bytes(again[17..25].try_into().unwrap()) + 1;
    again[17..25].copy_from_slice(&number.to_be_bytes());
    client.publish(original.subject, again.into()).await.unwrap();
    client.flush().await.unwrap();
    assert!(daemon.socket.silent_of("sendMessage", QUIET).await);
    daemon.socket.say(done(&command, Value::Null)).await;
    assert_eq!(asked.await.unwrap().0, 200);
    let events = first.events(&run.task).await;
    let told = events.iter().filter(|event| event["type"] == "task.message").count();
    assert_eq!(told, 1, "{events:?}");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_workspace_reaches_no_daemon_and_odd_messages_are_dropped() {
    let Some(bus) = nats("a foreign workspace reaches no daemon") else { return };
    let (first, second) = houses(&bus).await;
    let (mut daemon, run) = running(&first).await;
    let other = second.relay().add_workspace("other", "stranger").await.unwrap().unwrap();
    let stranger = other.token.expose();
    for path in ["diff", "merge/status"] {
        let path = format!("/api/v1/tasks/{}/{path}", run.task);
        assert_eq!(second.call_as(stranger, "GET", &path, None).await.0, 404);
    }
    let (_, all) = second.call_as(stranger, "GET", "/api/v1/daemons", None).await;
    assert_eq!(all["daemons"], json!([]));

    let (client, mut heard) = tap(&bus, &first).await;
    let asked = ask(&second, "GET", &format!("/api/v1/tasks/{}/diff", run.task), None);
    let good = command_of(&mut heard).await;
    let command = daemon.socket.until("readDiff").await;
    daemon.socket.say(done(&command, json!({"files": []}))).await;
    assert_eq!(asked.await.unwrap().0, 200);
    // a relay that nobody knows says odd things: of another workspace, of no shape, of no kind
    let stranger = *Uuid::now_v7().as_bytes();
    let mut foreign = good.payload.to_vec();
    foreign[1..17].copy_from_slice(&stranger);
    foreign[43..59].copy_from_slice(other.workspace.0.as_bytes());
    for (nth, end) in [foreign.len(), 60, 40, 30, 27, 26, 20, 1].into_iter().enumerate() {
        let mut odd = foreign[..end].to_vec();
        if odd.len() > 25 {
            odd[17..25].copy_from_slice(&(nth as u64).to_be_bytes());
        }
        client.publish(good.subject.clone(), odd.into()).await.unwrap();
    }
    let mut spawn = good.payload[..59].to_vec();
    spawn[1..17].copy_from_slice(&stranger);
    spawn[17..25].copy_from_slice(&20_u64.to_be_bytes());
    spawn.extend_from_slice(b"{\"type\":\"ack\",\"upTo\":9999}");
    client.publish(good.subject.clone(), spawn.into()).await.unwrap();
    client.flush().await.unwrap();
    assert!(daemon.socket.silent_of("readDiff", QUIET).await);
    // all goes on
    let asked = ask(&second, "GET", &format!("/api/v1/tasks/{}/diff", run.task), None);
    let command = daemon.socket.until("readDiff").await;
    daemon.socket.say(done(&command, json!({"files": []}))).await;
    assert_eq!(asked.await.unwrap().0, 200);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_bus_is_refused_where_no_other_relay_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(folder.path().join("relay.db"), "127.0.0.1:0".parse().unwrap());
    config.bus = Some("nats://me:geheim@127.0.0.1:1".parse().unwrap());
    let shown = format!("{config:?}");
    let error = Relay::start(config).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("PostgreSQL"), "{error}: {cause}");
    assert!(!format!("{shown} {error:?}").contains("geheim"));
}
