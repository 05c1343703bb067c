//! A relay of its own, and daemons that dial it.

use crate::home::Home;
use crate::http::Api;
use crate::must;
use crate::process::Process;
use crate::wait;
use nix::sys::signal::Signal;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::{fmt, fs};

/// `hayward relay serve` on a fixed port, so that it can go and come back.
#[derive(Debug)]
pub struct Relay {
    home: Home,
    address: Address,
    child: Option<Child>,
}

impl Relay {
    /// Starts one with an empty database.
    #[must_use]
    pub fn start() -> Self {
        let mut relay = Self { home: Home::new(), address: free_address(), child: None };
        relay.come_back();
        relay
    }

    /// Its database.
    #[must_use]
    pub fn database(&self) -> std::path::PathBuf {
        self.home.file("relay.db")
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `http://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts it again on the same port and database.
    pub fn come_back(&mut self) {
        let database = self.home.file("relay.db");
        let database = database.to_string_lossy();
        let arguments = ["relay", "serve", "--listen", &self.address, "--database", &*database];
        let child = self.home.spawn("relay", &self.home.user(), &arguments);
        self.child = Some(child);
        let api = Api::new(&self.url(), "");
        wait::until_true("the relay answers", wait::LONG, || {
            api.try_send("GET", "/health", None, &[]).is_ok_and(|reply| reply.status == 200)
        });
    }

    /// Sets a variable for it from its next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.home.set(name, value);
    }

    /// Ends it as a crash does.
    pub fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            must("kill the relay", child.kill());
            must("reap the relay", child.wait());
        }
    }

    /// The first owner's token.
    #[must_use]
    pub fn token(&self) -> String {
        let path = self.home.file("owner.token");
        let text = wait::until("the first token is written", wait::LONG, || {
            fs::read_to_string(&path).ok()
        });
        text.trim().to_owned()
    }

    /// The interface, for the owner.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(&self.url(), &self.token())
    }

    /// What it said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.home.read("relay.err")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.crash();
    }
}

/// `HOST:PORT` on loopback, nobody else's for as long as this lives: a socket is bound to it that
/// never listens. Whoever asks for a free port is given another one, and a program that names this
/// one may listen there (with `SO_REUSEADDR`, which Rust and Go set).
#[derive(Debug)]
pub struct Address {
    text: String,
    _held: OwnedFd,
}

impl Deref for Address {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An address where nobody listens.
#[must_use]
pub fn free_address() -> Address {
    let flags = SocketFlags::CLOEXEC;
    let held = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
    let held = must("make a socket", held);
    must("share its address", set_socket_reuseaddr(&held, true));
    must("bind it", bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)));
    let address = must("know its address", getsockname(&held));
    let address = must("know its address", SocketAddrV4::try_from(address));
    Address { text: address.to_string(), _held: held }
}

/// `hayward daemon run`, linked to a relay elsewhere.
#[derive(Debug)]
pub struct Linked {
    /// Its state folder. Its commands talk to the relay as the owner.
    pub home: Home,
    url: String,
    token: String,
    child: Option<Child>,
}

impl Linked {
    /// Starts one that dials `url`, which leads to `relay`.
    #[must_use]
    pub fn start(relay: &Relay, url: &str, configuration: &str) -> Self {
        Self::dial((&relay.url(), &relay.token()), url, configuration)
    }

    /// Starts one that dials `url`; its commands go to a relay as the owner.
    #[must_use]
    pub fn dial((relay, owner): (&str, &str), url: &str, configuration: &str) -> Self {
        let mut home = Home::new();
        home.configure(configuration);
        home.set("HAYWARD_RELAY", relay);
        home.set("HAYWARD_TOKEN", owner);
        let issued = home.json(&["token", "create", "--kind", "daemon"]);
        let token = issued["token"].as_str().unwrap_or_default().to_owned();
        let mut linked = Self { home, url: url.to_owned(), token, child: None };
        linked.come_back();
        wait::until_true("the daemon is online", wait::LONG, || linked.online());
        linked
    }

    /// Starts it again on the same state folder.
    pub fn come_back(&mut self) {
        let arguments =
            ["daemon", "run", "--relay", self.url.as_str(), "--token", self.token.as_str()];
        self.child = Some(self.home.spawn("daemon", &self.home.user(), &arguments));
    }

    /// Whether the relay has a link to it.
    #[must_use]
    pub fn online(&self) -> bool {
        let status = self.home.run(&["--json", "status"]);
        let announced = self.home.state().join("daemon.json").exists();
        let daemons =
            if status.code == 0 { status.json()["daemons"].clone() } else { return false };
        let is_up = |daemon: &serde_json::Value| daemon["online"] == true;
        announced && daemons.as_array().is_some_and(|all| all.iter().any(is_up))
    }

    /// Its id. A task that goes to the relay by another way than the daemon's own must name it.
    #[must_use]
    pub fn id(&self) -> String {
        let status = self.home.json(&["status"]);
        status["daemons"][0]["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Its id by its own word, where the relay has several daemons.
    #[must_use]
    pub fn announced(&self) -> String {
        let text = fs::read_to_string(self.home.state().join("daemon.json"));
        let told: serde_json::Value =
            must("read what the daemon tells", serde_json::from_str(&text.unwrap_or_default()));
        told["daemonId"].as_str().unwrap_or_default().to_owned()
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> Process {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        must("find the daemon", pid.and_then(Process::of).ok_or("it does not run"))
    }

    /// Ends it as a crash does.
    pub fn crash(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let pid = i32::try_from(child.id()).unwrap_or_default();
            if let Some(process) = Process::of(pid) {
                process.signal(signal);
            }
            must("reap the daemon", child.wait());
        }
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.crash();
    }
}
