//! A relay on a free port with a scratch database, and peers that speak to it over real sockets.
#![expect(dead_code, reason = "each test file uses a part of it")]

pub mod authority;
pub mod bus;
pub mod guarded;

use futures_util::{SinkExt, StreamExt};
use hayward_relay::{Bootstrap, Config, Database, Relay, Timing};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use uuid::Uuid;

/// Whatever is waited for must come within this.
pub const BOUND: Duration = Duration::from_secs(40);

pub struct House {
    pub relay: Option<Relay>,
    pub folder: tempfile::TempDir,
    database: Database,
    pub owner: Bootstrap,
    pub http: reqwest::Client,
    base: String,
}

/// Leases and sweeps in fractions of a second.
pub fn quick() -> Timing {
    Timing { lease_ms: 600, sweep_ms: 50, settle_ms: 300, ..Timing::default() }
}

pub async fn house() -> House {
    house_with(|_| {}).await
}

pub async fn house_with(change: impl FnOnce(&mut Config)) -> House {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(database(&folder).await, "127.0.0.1:0".parse().unwrap());
    change(&mut config);
    config.owner_token = Some(folder.path().join("owner.token"));
    let database = config.database.clone();
    let relay = Relay::start(config).await.unwrap();
    let owner = relay.bootstrap().unwrap().clone();
    let base = format!("http://{}", relay.address());
    House { relay: Some(relay), folder, database, owner, http: reqwest::Client::new(), base }
}

/// Whether the tests run on PostgreSQL: `HAYWARD_TEST_STORE=postgres`.
pub fn on_postgres() -> bool {
    std::env::var("HAYWARD_TEST_STORE").is_ok_and(|store| store == "postgres")
}

/// A database of its own: a file, or a schema on the server that `HAYWARD_TEST_POSTGRES` names.
async fn database(folder: &tempfile::TempDir) -> Database {
    if on_postgres() {
        schema().await.parse().unwrap()
    } else {
        folder.path().join("relay.db").into()
    }
}

/// The address of a new, empty schema.
pub async fn schema() -> String {
    let server = std::env::var("HAYWARD_TEST_POSTGRES").expect("HAYWARD_TEST_POSTGRES is not set");
    let name = format!("t{}", Uuid::now_v7().simple());
    let options: sqlx::postgres::PgConnectOptions = server.parse().unwrap();
    let mut side = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let sql = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"));
    sqlx::query(sql).execute(&mut side).await.unwrap();
    format!("{server}?options[search_path]={name}")
}

impl House {
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub async fn call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, self.url(path)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
        (status, value)
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.call_as(self.owner.token.expose(), method, path, body).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub async fn task(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/tasks/{id}")).await
    }

    pub async fn make(&self, body: Value) -> String {
        let (status, task) = self.call("POST", "/api/v1/tasks", Some(body)).await;
        assert_eq!(status, 201, "{task}");
        task["id"].as_str().unwrap().to_owned()
    }

    pub async fn events(&self, id: &str) -> Vec<Value> {
        let page = self.get(&format!("/api/v1/tasks/{id}/events?limit=200")).await;
        page["events"].as_array().unwrap().clone()
    }

    /// Waits until the task stands as `wanted`.
    pub async fn until(&self, id: &str, wanted: &str) -> Value {
        let begun = tokio::time::Instant::now();
        loop {
            let task = self.task(id).await;
            if task["status"] == wanted {
                return task;
            }
            assert!(begun.elapsed() < BOUND, "{id} is {} and never {wanted}", task["status"]);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the task has gone through these, one after the other, behind its first `since`
    /// events: where it stands for a moment only, nobody need see it stand.
    pub async fn until_went(&self, id: &str, since: usize, through: &[&str]) {
        let begun = tokio::time::Instant::now();
        loop {
            let events = self.events(id).await;
            let mut left = through.iter();
            let mut next = left.next();
            for event in events.iter().skip(since) {
                if next.is_some_and(|status| event["payload"]["newStatus"] == **status) {
                    next = left.next();
                }
            }
            let Some(status) = next else { return };
            assert!(begun.elapsed() < BOUND, "{id} never went {status}: {events:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn daemon_token(&self) -> String {
        let begun = tokio::time::Instant::now();
        loop {
            match self.relay().issue_daemon_token(self.owner.workspace).await {
                Ok(token) => return token.expose().to_owned(),
                // on a slow machine a new connection to a database may come too late
                Err(error) => assert!(begun.elapsed() < BOUND, "no token: {error}"),
            }
        }
    }

    pub async fn socket(&self, path: &str, headers: &[(&str, &str)]) -> Result<Socket, Error> {
        let url = self.url(path).replace("http://", "ws://");
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name: reqwest::header::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (inner, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Socket { inner })
    }

    pub async fn client(&self) -> Socket {
        let bearer = format!("Bearer {}", self.owner.token.expose());
        self.socket("/api/v1/ws/client", &[("authorization", &bearer)]).await.unwrap()
    }

    /// A daemon of ours that offers all it should; `resume` names its runs.
    pub async fn daemon(&self, machine: Uuid, token: &str, resume: &[Value]) -> Daemon {
        let mut socket = self.socket("/api/v1/ws/daemon", &[]).await.unwrap();
        socket.say(hello(machine, token, resume)).await;
        let welcome = socket.until("authenticated").await;
        let acked = welcome["ackedSeq"].as_u64();
        Daemon { socket, next: acked.map_or(0, |seq| seq + 1), welcome }
    }

    /// Stops the relay; its database stays.
    pub async fn away(&mut self) {
        self.relay.take().unwrap().stop().await;
    }

    /// Starts it again on its database.
    pub async fn come_back(&mut self, timing: Timing) {
        let mut config = Config::new(self.database.clone(), "127.0.0.1:0".parse().unwrap());
        config.timing = timing;
        let relay = Relay::start(config).await.unwrap();
        self.base = format!("http://{}", relay.address());
        self.relay = Some(relay);
    }

    /// Another relay, on the database that the configuration names: the one of this house.
    pub async fn beside(&self, config: Config) -> House {
        let relay = Relay::start(config).await.unwrap();
        self.with(relay)
    }

    /// The house of another relay on the same database.
    pub fn with(&self, relay: Relay) -> House {
        let base = format!("http://{}", relay.address());
        let folder = tempfile::tempdir().unwrap();
        let (owner, http) = (self.owner.clone(), self.http.clone());
        House { relay: Some(relay), folder, database: self.database.clone(), owner, http, base }
    }

    pub async fn stop(mut self) {
        self.relay.take().unwrap().stop().await;
    }
}

/// Milliseconds from one moment to a later one, both in RFC 3339.
pub fn millis_between(from: &str, to: &str) -> i64 {
    let read = |text: &str| text.parse::<hayward_shared::time::Timestamp>().unwrap();
    read(to).since(read(from))
}

pub fn hello(machine: Uuid, token: &str, resume: &[Value]) -> Value {
    json!({
        "type": "authenticate", "apiKey": token, "machineId": machine, "hostname": "box",
        "maxConcurrentTasks": 64, "protocolVersion": 1, "version": "0.1.0",
        "capabilities": ["outbox", "claim", "outputFrames", "replies", "selfFence"],
        "runtimes": [{"name": "claude", "version": "2", "healthy": true}],
        "resume": {"nextSeq": 0, "runs": resume},
    })
}

pub struct Socket {
    pub inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub async fn say(&mut self, message: Value) {
        self.inner.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next frame that is neither ping nor pong; `None` once the link has ended.
    pub async fn frame(&mut self) -> Option<Message> {
        loop {
            let frame = tokio::time::timeout(BOUND, self.inner.next()).await.expect("no frame");
            match frame {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(frame)) => return Some(frame),
            }
        }
    }

    pub async fn hear(&mut self) -> Option<Value> {
        match self.frame().await? {
            Message::Text(text) => Some(serde_json::from_str(&text).unwrap()),
            other => panic!("not text: {other:?}"),
        }
    }

    /// Passes over messages up to one of this type.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self.hear().await.unwrap_or_else(|| panic!("ended before {kind}"));
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Whether nothing of this type comes for a while.
    pub async fn silent_of(&mut self, kind: &str, while_: Duration) -> bool {
        let heard = async {
            loop {
                match self.hear().await {
                    Some(message) if message["type"] == kind => return,
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            }
        };
        tokio::time::timeout(while_, heard).await.is_err()
    }
}

pub struct Daemon {
    pub socket: Socket,
    pub next: u64,
    pub welcome: Value,
}

/// A run as its `spawnTask` named it.
#[derive(Clone, Debug)]
pub struct Run {
    pub task: String,
    pub run: String,
    pub epoch: u64,
    pub spawn: Value,
}

impl Run {
    pub fn of(spawn: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            task: text(&spawn["taskId"]),
            run: text(&spawn["run"]["runId"]),
            epoch: spawn["leaseEpoch"].as_u64().unwrap(),
            spawn,
        }
    }

    pub fn key(&self) -> Value {
        json!({"taskId": self.task, "runId": self.run, "leaseEpoch": self.epoch})
    }

    pub fn status(&self, from: &str, to: &str) -> Value {
        json!({
            "type": "taskStatusChange", "taskId": self.task, "oldStatus": from, "newStatus": to,
            "leaseEpoch": self.epoch,
        })
    }

    pub fn event(&self, kind: &str, payload: Value) -> Value {
        json!({
            "type": "taskEvent", "taskId": self.task, "runId": self.run, "event": kind,
            "at": "2026-01-01T00:00:00.000Z", "payload": payload, "leaseEpoch": self.epoch,
        })
    }
}

impl Daemon {
    pub async fn claim(&mut self, slots: u32) {
        self.socket.say(json!({"type": "claim", "slots": slots})).await;
    }

    pub async fn claim_one(&mut self) -> Run {
        self.claim(1).await;
        Run::of(self.socket.until("spawnTask").await)
    }

    /// Sends a state message under the next number; that number.
    pub async fn report(&mut self, mut message: Value) -> u64 {
        let seq = self.next;
        self.next += 1;
        message["seq"] = seq.into();
        self.socket.say(message).await;
        seq
    }

    /// Sends a state message and waits until it is stored.
    pub async fn store(&mut self, message: Value) {
        let seq = self.report(message).await;
        while self.socket.until("ack").await["upTo"].as_u64().unwrap() < seq {}
    }

    /// Sends a message without a number and waits until the relay has read it.
    pub async fn beat(&mut self, tasks: &[&str]) {
        self.socket.say(json!({"type": "heartbeat", "activeTasks": tasks})).await;
        // an unknown type is answered in turn: what came before has been handled by then
        self.socket.say(json!({"type": "mark"})).await;
        while self.socket.until("error").await["code"] != "unknown_type" {}
    }
}
