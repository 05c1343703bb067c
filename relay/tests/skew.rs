//! A daemon of the last version at the present relay, over real sockets: the recorded one speaks, and
//! the relay must say all that was said to it then.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../shared/tests/dialogues/mod.rs"]
mod dialogues;
mod harness;

use dialogues::{Cast, Line};
use futures_util::SinkExt;
use harness::{House, Socket, house_with, quick};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

/// Shorter than the harness waits, so that what is missing is named.
const PATIENCE: Duration = Duration::from_secs(9);

/// The recorded daemon and its users, at a relay.
struct Stage {
    house: House,
    cast: Cast,
    daemon: Option<Socket>,
    /// What the relay said that no line has asked for yet.
    heard: Vec<Value>,
    /// Up to where it acknowledged.
    acked: u64,
    asked: Option<JoinHandle<(u16, Value)>>,
    viewer: Option<Socket>,
    /// What the viewer must be shown.
    shown: Vec<u8>,
}

impl Stage {
    async fn play(&mut self, line: &Line) {
        match line.who.as_str() {
            "daemon" => self.say(&line.says).await,
            "frame" => self.show(&line.says).await,
            "relay" => self.hear(line).await,
            "user" => self.ask(&line.says),
            "answer" => self.answer(line).await,
            "viewer" => {
                let mut viewer = self.house.client().await;
                viewer.say(self.cast.speak(&line.says)).await;
                self.viewer = Some(viewer);
            }
            "link" => self.daemon = None,
            other => panic!("nobody is called {other}"),
        }
    }

    async fn say(&mut self, says: &Value) {
        if says["type"] == "authenticate" {
            self.daemon = Some(self.house.socket("/api/v1/ws/daemon", &[]).await.unwrap());
        }
        let said = self.cast.speak(says);
        self.daemon.as_mut().unwrap().say(said).await;
    }

    /// A frame by its bytes, as they were.
    async fn show(&mut self, says: &Value) {
        let watch: Uuid = self.cast.is(says["watchId"].as_str().unwrap()).parse().unwrap();
        let body = says["body"].as_str().unwrap().as_bytes();
        let mut bytes = vec![u8::try_from(says["kind"].as_u64().unwrap()).unwrap()];
        bytes.extend(watch.as_bytes());
        bytes.extend(says["offset"].as_u64().unwrap().to_be_bytes());
        bytes.extend(body);
        self.shown.extend(body);
        let frame = Message::binary(bytes);
        self.daemon.as_mut().unwrap().inner.send(frame).await.unwrap();
        if says["kind"] == 3 {
            self.look().await;
        }
    }

    /// The viewer is shown all that the daemon sent, up to the end.
    async fn look(&mut self) {
        let mut viewer = self.viewer.take().unwrap();
        let mut seen: Vec<u8> = Vec::new();
        loop {
            match viewer.frame().await.expect("the viewer's link ended") {
                Message::Binary(bytes) if bytes[0] == 3 => break,
                Message::Binary(bytes) => seen.extend(bytes.iter().skip(25)),
                Message::Text(text) => assert!(!text.contains("failed"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, self.shown);
    }

    /// Waits until the relay has said this.
    async fn hear(&mut self, line: &Line) {
        if line.says["type"] == "ack" {
            let until = line.says["upTo"].as_u64().unwrap();
            while self.acked < until {
                self.listen(line).await;
            }
            return;
        }
        loop {
            let Self { cast, heard, .. } = self;
            // whose claim comes behind the task is given it without the hint
            if line.says["type"] == "workAvailable"
                && heard.iter().any(|one| one["type"] == "spawnTask")
            {
                return;
            }
            if let Some(nth) = heard.iter().position(|one| cast.hears(&line.says, one)) {
                heard.remove(nth);
                return;
            }
            self.listen(line).await;
        }
    }

    /// Takes the next message of the relay: one that the daemon knew, and no refusal.
    async fn listen(&mut self, line: &Line) {
        let waits = format!("line {}: {}\nheard: {:#?}", line.number, line.says, self.heard);
        let next = self.daemon.as_mut().unwrap().hear();
        let heard = tokio::time::timeout(PATIENCE, next).await;
        let heard = heard.unwrap_or_else(|_| panic!("never said, {waits}"));
        let message = heard.unwrap_or_else(|| panic!("the link ended, {waits}"));
        let kind = message["type"].as_str().unwrap();
        assert!(dialogues::was_known("toDaemon", kind), "that daemon knows no {kind}: {message}");
        assert_ne!(kind, "error", "{message}");
        match message["upTo"].as_u64() {
            Some(upto) => self.acked = self.acked.max(upto),
            None => self.heard.push(message),
        }
    }

    fn ask(&mut self, says: &Value) {
        let says = self.cast.speak(says);
        let method = says["method"].as_str().unwrap().parse().unwrap();
        let url = self.house.url(says["path"].as_str().unwrap());
        let mut request = self.house.http.request(method, url);
        request = request.bearer_auth(self.house.owner.token.expose());
        if let Some(accepted) = says["accept"].as_str() {
            request = request.header("accept", accepted);
        }
        if let Some(body) = says.get("body") {
            request = request.json(body);
        }
        let is_lines = says.get("accept").is_some();
        self.asked = Some(tokio::spawn(async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            let body = if is_lines { text.lines().map(read).collect() } else { read(&text) };
            (status, body)
        }));
    }

    async fn answer(&mut self, line: &Line) {
        let (status, body) = self.asked.take().unwrap().await.unwrap();
        assert_eq!(line.says["status"], status, "line {}: {body:#}", line.number);
        if let Some(told) = line.says.get("body") {
            assert!(self.cast.hears(told, &body), "line {}: {told}\n{body:#}", line.number);
        }
    }
}

impl Stage {
    /// All that was reported of a task is among its events, once and in order, and it ended so.
    async fn has_stored(&self, task: &str, told: &[String]) {
        let id = self.cast.is(task);
        let events = self.house.events(id).await;
        for (seq, event) in events.iter().enumerate() {
            assert_eq!(event["seq"], json!(seq), "a hole: {events:#?}");
        }
        let what = |event: &Value| match event["type"].as_str().unwrap() {
            "task.status_changed" => event["payload"]["newStatus"].as_str().unwrap().to_owned(),
            kind => kind.to_owned(),
        };
        let is_reported = |what: &String| told.contains(what);
        let kept: Vec<_> = events.iter().map(what).filter(is_reported).collect();
        // who cancels has cancelled at once: that the agent has ended comes after it
        let in_order = |all: &[String]| -> Vec<String> {
            all.iter().filter(|what| *what != "cancelled").cloned().collect()
        };
        assert_eq!(in_order(&kept), in_order(told), "{events:#?}");
        let ends: Vec<_> = kept
            .iter()
            .filter(|what| ["completed", "cancelled"].contains(&what.as_str()))
            .collect();
        let is = self.house.task(id).await;
        assert_eq!(ends, [is["status"].as_str().unwrap()], "{is:#}");
        assert_eq!((&is["attempt"], &is["leaseEpoch"]), (&json!(1), &json!(1)));
    }
}

/// What the daemon reported of each task: kinds of events, and where the task went.
fn reported(lines: &[Line]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.who == "daemon") {
        let what = match line.says["type"].as_str().unwrap() {
            "taskEvent" => &line.says["event"],
            "taskStatusChange" => &line.says["newStatus"],
            _ => continue,
        };
        let task = line.says["taskId"].as_str().unwrap();
        all.entry(task.to_owned()).or_default().push(what.as_str().unwrap().to_owned());
    }
    all
}

#[tokio::test]
async fn f36_a_daemon_of_the_last_version_is_served_in_the_words_it_knew() {
    let house = house_with(|config| {
        // nothing is due meanwhile; only the wait after a break is short
        config.timing.settle_ms = quick().settle_ms;
    })
    .await;
    let mut cast = Cast::default();
    cast.set("<token>", house.daemon_token().await);
    let mut stage = Stage {
        house,
        cast,
        daemon: None,
        heard: Vec::new(),
        acked: 0,
        asked: None,
        viewer: None,
        shown: Vec::new(),
    };
    let lines = dialogues::last();
    for line in &lines {
        stage.play(line).await;
    }
    let reported = reported(&lines);
    assert_eq!(reported.len(), 4);
    for (task, told) in reported {
        stage.has_stored(&task, &told).await;
    }
    // what came after that version is not asked of it, and who asks is told why
    let jobs = stage.house.get("/api/v1/jobs").await;
    let why = jobs["unanswered"][0]["reason"].as_str().unwrap();
    let ours = format!("the relay {}", env!("CARGO_PKG_VERSION"));
    for part in ["the daemon 0.1.0 lacks jobs", &ours, "upgrade the daemon"] {
        assert!(why.contains(part), "'{part}' is not in: {why}");
    }
    stage.house.stop().await;
}

/// Hellos that lack an ability that this version needs.
#[tokio::test]
async fn f36_a_daemon_that_lacks_an_ability_is_told_both_versions_and_what_is_missing() {
    let house = house_with(|_| {}).await;
    let token = house.daemon_token().await;
    for (can, lacks) in [
        (json!(["claim", "replies"]), "lacks outbox that"),
        (json!(["outbox", "replies"]), "lacks claim that"),
        (json!([]), "lacks outbox and claim that"),
        (json!(["ofTomorrow"]), "lacks outbox and claim that"),
    ] {
        let mut hello = harness::hello(Uuid::now_v7(), &token, &[]);
        hello["capabilities"] = can;
        hello["version"] = json!("0.0.7");
        hello["protocolVersion"] = json!(1);
        let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
        socket.say(hello).await;
        let refused = socket.hear().await.unwrap();
        assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("incompatible")));
        let message = refused["message"].as_str().unwrap();
        let ours = format!("the relay {} (protocol 1)", env!("CARGO_PKG_VERSION"));
        for part in ["the daemon 0.0.7 (protocol 1)", lacks, &ours] {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
        assert!(socket.hear().await.is_none(), "the link must end");
    }
    let daemons = house.get("/api/v1/daemons").await;
    assert_eq!(daemons["daemons"], json!([]), "who was refused is not among the daemons");
    house.stop().await;
}
