//! Relays that share a database and a bus.

use super::{BOUND, Daemon, House, Run, hello, house_with, schema};
use hayward_relay::{Config, Database, Timing};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// The server of the bus, where there is one and a PostgreSQL.
pub fn nats(test: &str) -> Option<String> {
    let servers = ("HAYWARD_TEST_POSTGRES", "HAYWARD_TEST_NATS");
    let (postgres, nats) = (std::env::var(servers.0), std::env::var(servers.1));
    if postgres.is_err() || nats.is_err() {
        eprintln!("SKIP {test}: {} and {} are not both set", servers.0, servers.1);
        return None;
    }
    nats.ok()
}

/// A way to the bus that can be cut.
pub struct Cable {
    pub url: String,
    pub cut: Arc<watch::Sender<bool>>,
}

impl Cable {
    pub async fn lay(url: &str) -> Self {
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

pub fn config(database: &str, bus: &str) -> Config {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut config =
        Config::new(database.parse::<Database>().unwrap(), "127.0.0.1:0".parse().unwrap());
    config.bus = Some(bus.parse().unwrap());
    config.timing = Timing { reply: Duration::from_secs(5), ..Timing::default() };
    config
}

/// Two relays that can talk to each other.
pub async fn houses(bus: &str) -> (House, House) {
    let database = schema().await;
    let mut first = house_with(|of| *of = config(&database, bus)).await;
    let mut second = first.beside(config(&database, bus)).await;
    for house in [&first, &second] {
        bus_is(house, "up").await;
    }
    meet(&mut first, &mut second).await;
    (first, second)
}

/// Both relays have heard that the other one is there: until then what is asked of one through the
/// other may be given up. Found out in a workspace beside the test's own.
pub async fn meet(first: &mut House, second: &mut House) {
    let guests = first.relay().add_workspace("guests", "guest").await.unwrap().unwrap();
    let own = std::mem::replace(&mut first.owner, guests.clone());
    second.owner = guests;
    let (mut daemon, run) = running(first).await;
    is_reached_through(second, &mut daemon, &run).await;
    daemon.store(run.status("running", "completed")).await;
    first.owner = own.clone();
    second.owner = own;
}

pub async fn bus_is(house: &House, wanted: &str) {
    let begun = Instant::now();
    while house.get("/health").await["bus"] != wanted {
        assert!(begun.elapsed() < BOUND, "the bus is never {wanted}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub async fn online(house: &House, daemon: &Value) -> bool {
    let all = house.get("/api/v1/daemons").await;
    let all = all["daemons"].as_array().unwrap();
    all.iter().find(|one| one["id"] == *daemon).unwrap()["online"] == true
}

pub async fn until_online(house: &House, daemon: &Value, wanted: bool) {
    let begun = Instant::now();
    while online(house, daemon).await != wanted {
        assert!(begun.elapsed() < BOUND, "the daemon is never online: {wanted}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A daemon with all abilities.
pub async fn daemon(house: &House, token: &str, machine: Uuid) -> Daemon {
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
pub async fn running(first: &House) -> (Daemon, Run) {
    let token = first.daemon_token().await;
    let mut daemon = daemon(first, &token, Uuid::now_v7()).await;
    first.make(json!({"plan": "x"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    (daemon, run)
}

/// A request under way.
pub fn ask(
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

/// What is asked of a run through `house` reaches its daemon, and the answer comes back.
pub async fn is_asked_through(house: &House, daemon: &mut Daemon, run: &Run) {
    let asked = ask(house, "GET", &format!("/api/v1/tasks/{}/diff", run.task), None);
    let command = daemon.socket.until("readDiff").await;
    daemon.socket.say(done(&command, json!({"files": []}))).await;
    assert_eq!(asked.await.unwrap().0, 200);
}

/// The same, where a relay has just heard that the other one is there: the word of it may end what
/// was begun just before it came.
pub async fn is_reached_through(house: &House, daemon: &mut Daemon, run: &Run) {
    let begun = Instant::now();
    loop {
        let mut asked = ask(house, "GET", &format!("/api/v1/tasks/{}/diff", run.task), None);
        // also what was asked by those who gave up is answered
        let status = loop {
            tokio::select! {
                command = daemon.socket.until("readDiff") => {
                    daemon.socket.say(done(&command, json!({"files": []}))).await;
                }
                answer = &mut asked => break answer.unwrap().0,
            }
        };
        if status == 200 {
            return;
        }
        assert_eq!(status, 503);
        assert!(begun.elapsed() < BOUND, "it is not reached");
    }
}

pub fn done(command: &Value, payload: Value) -> Value {
    json!({"type": "reply", "requestId": command["requestId"], "ok": true, "payload": payload})
}

/// The wish to watch what a run prints.
pub fn view(watch: Uuid, run: &Run) -> Value {
    json!({
        "type": "watch", "watchId": watch, "taskId": run.task, "from": 0, "follow": true,
        "grant": 65536,
    })
}
