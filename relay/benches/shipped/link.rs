//! Links of daemons and clients over blocking sockets.

use super::{Shipped, connect};
use serde_json::{Value, json};
use std::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};
use uuid::Uuid;

/// A link, and the number of the next state message on it.
pub struct Link {
    pub socket: WebSocket<TcpStream>,
    pub next: u64,
    /// What the relay calls the daemon; nothing for a client.
    pub daemon: String,
}

/// A run as its `spawnTask` named it.
#[derive(Clone)]
pub struct Run {
    pub task: String,
    pub run: String,
    pub epoch: u64,
}

impl Link {
    fn open(relay: &Shipped, path: &str, bearer: Option<&str>) -> Self {
        let url = format!("ws://{}{path}", relay.address);
        let mut request = url.into_client_request().unwrap();
        if let Some(bearer) = bearer {
            let bearer = format!("Bearer {bearer}").parse().unwrap();
            request.headers_mut().insert("authorization", bearer);
        }
        let (socket, _) = client(request, connect(relay.address)).unwrap();
        Self { socket, next: 0, daemon: String::new() }
    }

    /// A client's, as the first owner.
    pub fn client(relay: &Shipped) -> Self {
        Self::open(relay, "/api/v1/ws/client", Some(relay.owner()))
    }

    /// A daemon's, with room for `capacity` runs.
    pub fn daemon(relay: &Shipped, token: &str, capacity: u32) -> Self {
        let mut link = Self::open(relay, "/api/v1/ws/daemon", None);
        link.say(&hello(token, capacity));
        let welcome = link.until("authenticated");
        link.daemon = welcome["daemonId"].as_str().unwrap().to_owned();
        link
    }

    pub fn say(&mut self, message: &Value) {
        self.socket.send(Message::text(message.to_string())).unwrap();
    }

    /// Passes over messages up to one of this type.
    pub fn until(&mut self, kind: &str) -> Value {
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["type"] == kind {
                return message;
            }
        }
    }

    pub fn claim(&mut self) -> Run {
        self.say(&json!({"type": "claim", "slots": 1}));
        let spawn = self.until("spawnTask");
        Run {
            task: spawn["taskId"].as_str().unwrap().to_owned(),
            run: spawn["run"]["runId"].as_str().unwrap().to_owned(),
            epoch: spawn["leaseEpoch"].as_u64().unwrap(),
        }
    }

    /// Sends a state message and waits until it is stored.
    pub fn store(&mut self, mut message: Value) {
        let seq = self.next;
        self.next += 1;
        message["seq"] = seq.into();
        self.say(&message);
        while self.until("ack")["upTo"].as_u64().unwrap() < seq {}
    }

    /// Gets one run of a task that is meant for this daemon alone, and reports that it is under way.
    pub fn running(&mut self, relay: &Shipped) -> Run {
        relay.http().make(&json!({"plan": "x", "wantedDaemonId": self.daemon}));
        let run = self.claim();
        self.store(run.status("dispatched", "running"));
        run
    }
}

impl Run {
    pub fn status(&self, from: &str, to: &str) -> Value {
        json!({
            "type": "taskStatusChange", "taskId": self.task, "oldStatus": from, "newStatus": to,
            "leaseEpoch": self.epoch,
        })
    }

    /// An event of some 200 bytes of its own: a tool's start, or its end.
    pub fn event(&self, nth: u64) -> Value {
        let kind = if nth.is_multiple_of(2) { "tool.started" } else { "tool.finished" };
        json!({
            "type": "taskEvent", "taskId": self.task, "runId": self.run, "event": kind,
            "at": "2026-01-01T00:00:00.000Z", "leaseEpoch": self.epoch,
            "payload": {"nth": nth, "toolName": "read", "text": "x".repeat(120)},
        })
    }
}

/// What a daemon says first.
pub fn hello(token: &str, capacity: u32) -> Value {
    json!({
        "type": "authenticate", "apiKey": token, "machineId": Uuid::now_v7(), "hostname": "box",
        "maxConcurrentTasks": capacity, "protocolVersion": 1, "version": "0.1.0",
        "capabilities": ["outbox", "claim", "outputFrames", "replies", "selfFence"],
        "runtimes": [{"name": "claude", "version": "2", "healthy": true}],
        "resume": {"nextSeq": 0, "runs": []},
    })
}

/// Appends a message as whoever dialled sends it: masked, by zeros, which servers take off like any
/// other.
pub fn frame(bytes: &mut Vec<u8>, message: &Message) {
    let kind = if message.is_text() { 0x81 } else { 0x82 };
    let payload = message.clone().into_data();
    bytes.push(kind);
    match payload.len() {
        short @ ..126 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&payload);
}
