//! The present daemon at a relay of the last version, over a real socket: the recorded relay speaks,
//! and the daemon must do and say all that was said to it then. And relays that it cannot work with.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../shared/tests/dialogues/mod.rs"]
mod dialogues;

use dialogues::{Cast, Line};
use futures_util::{SinkExt, StreamExt};
use hayward_shared::id::{DaemonId, RequestId};
use hayward_shared::protocol::OURS;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Whatever is waited for must come within this.
const BOUND: Duration = Duration::from_secs(120);

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The output lane's frames: what they begin with.
const HEADER: usize = 1 + 16 + 8;

/// A daemon's machine; the daemon ends with it, by its own id.
struct Machine {
    folder: TempDir,
    relay: TcpListener,
    daemon: std::process::Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.daemon.kill().unwrap_or_default();
        self.daemon.wait().map(drop).unwrap_or_default();
    }
}

impl Machine {
    /// The built daemon, which dials a relay that the test plays.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (state, user) = (folder.path().join("state"), folder.path().join("user"));
        fs::create_dir(&state).unwrap();
        fs::create_dir(&user).unwrap();
        let configuration = "[worktree]\npool = 0\n[daemon]\nmax_concurrent_tasks = 4\n";
        fs::write(state.join("config.toml"), configuration).unwrap();
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", relay.local_addr().unwrap());
        let mut command = hayward(folder.path());
        command.args(["daemon", "run", "--relay", &url, "--token", "hwd_x"]);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let daemon =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { folder, relay, daemon }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn repository(&self) -> PathBuf {
        let path = self.folder.path().canonicalize().unwrap().join("repository");
        fs::create_dir(&path).unwrap();
        git(&path, &["init", "-q", "-b", "main"]);
        fs::write(path.join("README"), "a project\n").unwrap();
        git(&path, &["add", "."]);
        git(&path, &["-c", "user.name=U", "-c", "user.email=u@e", "commit", "-q", "-m", "first"]);
        path
    }

    async fn link(&self) -> WebSocketStream<TcpStream> {
        let (stream, _) = tokio::time::timeout(BOUND, self.relay.accept()).await.unwrap().unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    }
}

fn hayward(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hayward"));
    command.env_clear().env("PATH", PATH).env("HOME", folder.join("user"));
    command.env("SHELL", "/bin/sh").env("LANG", "C.UTF-8");
    command.env("HAYWARD_HOME", folder.join("state"));
    command
}

fn git(place: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(place).env_clear().env("PATH", PATH);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The recorded relay, with a daemon.
struct Stage {
    machine: Machine,
    cast: Cast,
    socket: Option<WebSocketStream<TcpStream>>,
    /// What the daemon said that no line has asked for yet.
    heard: Vec<Value>,
    /// The last numbered message that came.
    last: Option<u64>,
    /// What came on the output lane, and whether it ended.
    shown: (Vec<u8>, bool),
}

impl Stage {
    async fn play(&mut self, line: &Line) {
        match (line.who.as_str(), line.says["type"].as_str().unwrap_or_default()) {
            // what came is acknowledged as it comes
            ("relay", "ack") => {}
            // said when it is time, whatever else is said
            ("daemon", "heartbeat" | "claim" | "runtimes") => {}
            ("relay", "authenticated") => {
                let mut welcome = self.cast.speak(&line.says);
                if welcome.get("ackedSeq").is_some() {
                    welcome["ackedSeq"] = json!(self.last);
                }
                self.say(welcome).await;
            }
            ("relay", _) => {
                let said = self.cast.speak(&line.says);
                self.say(said).await;
            }
            ("daemon", _) => self.hear(line).await,
            ("frame", _) if line.says["kind"] == 1 => {
                while !self.shown.1 {
                    self.listen(line).await;
                }
                assert_eq!(
                    String::from_utf8_lossy(&self.shown.0),
                    line.says["body"].as_str().unwrap()
                );
            }
            ("link", _) => self.socket = None,
            _ => {}
        }
    }

    async fn say(&mut self, message: Value) {
        let socket = self.socket.as_mut().unwrap();
        socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Waits until the daemon has said this.
    async fn hear(&mut self, line: &Line) {
        if line.says["type"] == "authenticate" {
            self.socket = Some(self.machine.link().await);
        }
        loop {
            let Self { cast, heard, .. } = self;
            if let Some(nth) = heard.iter().position(|one| cast.hears(&line.says, one)) {
                heard.remove(nth);
                return;
            }
            self.listen(line).await;
        }
    }

    /// Takes the next frame of the daemon: a message that the relay knew, acknowledged where it has
    /// a number, or output.
    async fn listen(&mut self, line: &Line) {
        let next = self.socket.as_mut().unwrap().next();
        let Ok(frame) = tokio::time::timeout(BOUND, next).await else {
            panic!(
                "never said, line {}: {}\nheard: {:#?}\n{}",
                line.number,
                line.says,
                self.heard,
                self.machine.log()
            );
        };
        match frame.unwrap().unwrap() {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                let kind = message["type"].as_str().unwrap();
                assert!(dialogues::was_known("fromDaemon", kind), "that relay knows no {kind}");
                assert_ne!(kind, "error", "{message}");
                if let Some(seq) = message["seq"].as_u64() {
                    let next = self.last.map_or(seq, |last| last + 1);
                    assert_eq!(seq, next, "a number was left out or used twice: {message}");
                    self.last = Some(seq);
                    self.say(json!({"type": "ack", "upTo": seq})).await;
                }
                self.heard.push(message);
            }
            Message::Binary(bytes) if bytes[0] == 3 => self.shown.1 = true,
            Message::Binary(bytes) => {
                assert_eq!(bytes[0], 1, "a kind of frame that the viewer did not ask for");
                self.shown.0.extend(&bytes[HEADER..]);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn f36_a_relay_of_the_last_version_is_served_in_the_words_it_knew() {
    let machine = Machine::start().await;
    let repository = machine.repository();
    let mut cast = Cast::default();
    cast.set("<token>", "hwd_x");
    cast.set("<base>", git(&repository, &["rev-parse", "HEAD"]));
    cast.set("<repository>", repository.display().to_string());
    let mut stage = Stage {
        machine,
        cast,
        socket: None,
        heard: Vec::new(),
        last: None,
        shown: Default::default(),
    };
    for line in dialogues::last() {
        stage.play(&line).await;
    }
    // what it did is there
    let merged = format!("{}:README", stage.cast.is("<branch-1>"));
    assert_eq!(git(&repository, &["show", &merged]), "part");
    let again = format!("{}:two", stage.cast.is("<branch-3>"));
    assert_eq!(git(&repository, &["show", &again]), "two");
    // it asked for work, and told that it lives
    for kind in ["claim", "heartbeat"] {
        assert!(stage.heard.iter().any(|one| one["type"] == kind), "no {kind}");
    }
}

/// Relays that lack an ability that this daemon needs.
#[tokio::test]
async fn f36_a_relay_that_lacks_an_ability_is_left_and_the_user_is_told() {
    let machine = Machine::start().await;
    let mut socket = machine.link().await;
    let can: Vec<_> = OURS.iter().map(|one| json!(one)).filter(|one| one != "claim").collect();
    let welcome = json!({"type": "authenticated", "daemonId": DaemonId::fresh(),
        "protocolVersion": 1, "version": "0.0.7", "capabilities": can});
    socket.send(Message::text(welcome.to_string())).await.unwrap();
    let ends = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(BOUND, ends).await.unwrap();
    // it goes on trying: the relay may be upgraded
    let mut socket = machine.link().await;
    let log = machine.log();
    for part in [
        "0.0.7 (protocol 1)",
        &format!("{} (protocol 1)", env!("CARGO_PKG_VERSION")),
        "claim",
        "upgrade",
    ] {
        assert!(log.contains(part), "'{part}' is not in: {log}");
    }
    assert!(!log.contains("outbox"), "what it can do is not missing: {log}");
    // and whoever asks how things stand hears of it
    let mut status = hayward(machine.folder.path());
    let nowhere = ["--json", "--relay", "http://127.0.0.1:1", "--token", "x", "status"];
    status.args(nowhere);
    // a daemon that does not answer in time is told of as none
    let begun = Instant::now();
    let told = loop {
        let told: Value = serde_json::from_slice(&status.output().unwrap().stdout).unwrap();
        if !told["link"].is_null() {
            break told;
        }
        assert!(begun.elapsed() < BOUND, "{told}");
    };
    assert_eq!(told["link"]["state"], "refused", "{told}");
    let why = "the relay 0.0.7 (protocol 1) lacks claim that this daemon";
    assert!(told["link"]["error"]["message"].as_str().unwrap().starts_with(why), "{told}");
    assert!(told["link"]["error"]["hint"].as_str().unwrap().contains("upgrade"), "{told}");
    // the same from the other side
    let refusal = json!({"type": "error", "code": "incompatible",
        "message": "the daemon 0.1.0 (protocol 1) lacks flight that the relay 9.0.0 needs"});
    socket.send(Message::text(refusal.to_string())).await.unwrap();
    machine.link().await;
    let log = machine.log();
    assert!(log.contains("lacks flight that the relay 9.0.0 needs"), "{log}");
}

/// Commands of a relay that is further than this daemon.
#[tokio::test]
async fn f36_a_command_that_is_not_understood_is_refused_under_its_request() {
    let machine = Machine::start().await;
    let mut socket = machine.link().await;
    let welcome = json!({"type": "authenticated", "daemonId": DaemonId::fresh(),
        "protocolVersion": 1, "version": "9.0.0", "capabilities": OURS});
    socket.send(Message::text(welcome.to_string())).await.unwrap();
    let asked = [
        json!({"type": "foldTime", "requestId": RequestId::fresh()}),
        json!({"type": "mergeStatus", "requestId": RequestId::fresh(), "taskId": 7}),
    ];
    for command in &asked {
        socket.send(Message::text(command.to_string())).await.unwrap();
        let refused = async {
            loop {
                let Message::Text(text) = socket.next().await.unwrap().unwrap() else { continue };
                let said: Value = serde_json::from_str(&text).unwrap();
                if said["requestId"] == command["requestId"] {
                    return said;
                }
            }
        };
        let refused = tokio::time::timeout(BOUND, refused).await.unwrap();
        assert_eq!((&refused["type"], &refused["ok"]), (&json!("reply"), &json!(false)));
        assert_eq!(refused["error"]["code"], "incompatible", "{refused}");
    }
}
