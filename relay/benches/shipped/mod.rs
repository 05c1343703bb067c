//! The relay as it ships: its binary in a process of its own, on a scratch folder. And those who
//! speak to it over plain blocking sockets, so that they cost the machine little beside it.
#![expect(dead_code, reason = "each bench uses a part of it")]

pub mod bare;
pub mod link;

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whatever is waited for must come within this.
pub const BOUND: Duration = Duration::from_secs(30);

/// Rounds of each comparison: ours and its peers in turn.
pub const ROUNDS: usize = 5;

/// A relay that runs until this is dropped.
pub struct Shipped {
    child: Child,
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
    owner: String,
}

impl Shipped {
    /// Starts it on `database`, or on a SQLite file of its own, and waits until it answers.
    pub fn start(database: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free();
        let file = folder.path().join("relay.db").display().to_string();
        let token = folder.path().join("owner.token");
        let child = Command::new(env!("CARGO_BIN_EXE_hayward-relay"))
            .args(["serve", "--listen", &address.to_string()])
            .args(["--database", database.unwrap_or(&file)])
            .arg("--owner-token")
            .arg(&token)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut relay = Self { child, folder, address, owner: String::new() };
        let begun = Instant::now();
        // its first owner's token is the last thing that it writes before it serves
        while relay.owner.is_empty() || TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < BOUND, "the relay does not start: {}", relay.log());
            std::thread::sleep(Duration::from_millis(20));
            let token = std::fs::read_to_string(&token).unwrap_or_default();
            relay.owner = token.trim().to_owned();
        }
        relay
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn owner(&self) -> &str {
        &self.owner
    }

    pub fn http(&self) -> Http {
        Http { stream: BufReader::new(connect(self.address)), owner: self.owner.clone() }
    }

    /// A token by which daemons come in.
    pub fn daemon_token(&self) -> String {
        let token = self.http().post("/api/v1/tokens", &json!({"kind": "daemon"}));
        token["token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Shipped {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An address of loopback that was free just now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    stream
}

/// One connection over which requests go one by one.
pub struct Http {
    stream: BufReader<TcpStream>,
    owner: String,
}

impl Http {
    /// Sends it as the first owner; the answer, which must be a success.
    pub fn post(&mut self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut request = String::new();
        write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.owner,
            body.len()
        )
        .unwrap();
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut status = String::new();
        self.stream.read_line(&mut status).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let line = line.trim().to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(given) = line.strip_prefix("content-length:") {
                length = given.trim().parse().unwrap();
            }
        }
        let mut text = vec![0; length];
        self.stream.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(status.contains(" 20"), "{path}: {status}{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Makes a task; its id.
    pub fn make(&mut self, order: &Value) -> String {
        self.post("/api/v1/tasks", order)["id"].as_str().unwrap().to_owned()
    }
}

/// Processor time that a process has taken.
pub fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<i64> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').filter_map(|field| field.parse().ok()).collect())
        .unwrap_or_default();
    // without the letter of its state, these are the user's and the kernel's, in hundredths
    Duration::from_millis(10 * (fields[10] + fields[11]).unsigned_abs())
}

/// A line of a process's status, in KiB.
pub fn kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The value below which that share of all lies.
pub fn at(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Prints a result as `scripts/bench` reads it.
pub fn result(what: &str, figure: &str, limit: &str, holds: bool) {
    println!("RESULT\t{what}\t{figure}\t{limit}\t{}", if holds { "holds" } else { "MISSED" });
}

/// Says what could not be measured here, and why.
pub fn skip(what: &str, why: &str) {
    println!("RESULT\t{what}\t-\t-\tSKIPPED: {why}");
}
