//! Several relays on one PostgreSQL database, a bus between them, and a balancer before them.

use crate::cable::Cable;
use crate::home::Home;
use crate::http::Api;
use crate::must;
use crate::relay::{Address, free_address};
use crate::wait;
use std::fs;
use std::process::{Child, Command, Stdio};

/// A program that can be killed and started again.
#[derive(Debug)]
struct Restartable(Option<Child>);

impl Restartable {
    fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            must("kill it", child.kill());
            must("reap it", child.wait());
        }
    }
}

impl Drop for Restartable {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two relays, their NATS server, and a line that leads to whichever relay takes it.
#[derive(Debug)]
pub struct Replicas {
    home: Home,
    database: String,
    addresses: [Address; 2],
    relays: [Restartable; 2],
    nats_address: Address,
    nats: Restartable,
    /// What daemons and clients dial.
    pub balancer: Cable,
}

impl Replicas {
    /// Starts all of it on an empty database.
    #[must_use]
    pub fn start(database: &str) -> Self {
        let addresses = [free_address(), free_address()];
        let balancer = Cable::to_any(&[&addresses[0], &addresses[1]]);
        let mut replicas = Self {
            home: Home::new(),
            database: database.to_owned(),
            addresses,
            relays: [Restartable(None), Restartable(None)],
            nats_address: free_address(),
            nats: Restartable(None),
            balancer,
        };
        replicas.start_bus();
        // the first one writes the owner's token
        replicas.start_relay(0);
        replicas.is_ready(0);
        replicas.start_relay(1);
        replicas.is_ready(1);
        replicas
    }

    /// Ends a relay as a crash does.
    pub fn kill_relay(&mut self, nth: usize) {
        self.relays[nth].kill();
    }

    /// Starts it again.
    pub fn start_relay(&mut self, nth: usize) {
        let bus = format!("nats://{}", self.nats_address);
        let arguments = [
            "relay",
            "serve",
            "--listen",
            &self.addresses[nth],
            "--database",
            &self.database,
            "--bus",
            &bus,
        ];
        let child = self.home.spawn(&format!("relay{nth}"), &self.home.user(), &arguments);
        self.relays[nth] = Restartable(Some(child));
    }

    /// Waits until a relay answers and the bus is there for it.
    pub fn is_ready(&self, nth: usize) {
        let api = Api::new(&self.addresses[nth], "");
        wait::until_true("the relay has its bus", wait::LONG, || {
            api.try_send("GET", "/health", None, &[]).is_ok_and(|reply| reply.json()["bus"] == "up")
        });
    }

    /// Ends the bus as a crash does.
    pub fn kill_bus(&mut self) {
        self.nats.kill();
    }

    /// Starts it again.
    pub fn start_bus(&mut self) {
        let port = self.nats_address.rsplit(':').next().unwrap_or_default().to_owned();
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.nats = Restartable(Some(must("start nats-server", command.spawn())));
    }

    /// The first owner's token.
    #[must_use]
    pub fn token(&self) -> String {
        let path = self.home.state().join("owner.token");
        let text = wait::until("the first token is written", wait::LONG, || {
            fs::read_to_string(&path).ok()
        });
        text.trim().to_owned()
    }

    /// The interface of one relay, for the owner.
    #[must_use]
    pub fn api(&self, nth: usize) -> Api {
        Api::new(&self.addresses[nth], &self.token())
    }

    /// The interface of whichever relay there is, for the owner.
    #[must_use]
    pub fn any(&self) -> Api {
        Api::new(&self.balancer.url(), &self.token())
    }
}
