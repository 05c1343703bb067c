//! The world that stands in for the real one: one relay, some daemons, a network between them, and
//! a disk under each.

use super::dice::Dice;
use super::history::{History, Host};
use super::network::Net;
use hayward_edge::clock::Side;
use hayward_edge::{Disk, Door, Wire, World};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::{Instant, sleep};

/// The wall clock of both sides when a world begins: 2026-01-01.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// The disk of one machine, for as long as it is up.
#[derive(Debug)]
pub struct Platter {
    off: AtomicBool,
    /// The most milliseconds that a transaction waits for it, each of three times.
    slow: AtomicU64,
    dice: Mutex<Dice>,
}

impl Platter {
    fn new(dice: Dice) -> Self {
        Self { off: AtomicBool::new(false), slow: AtomicU64::new(0), dice: Mutex::new(dice) }
    }

    /// Nothing is read or written any more.
    pub fn power_off(&self) {
        self.off.store(true, Ordering::SeqCst);
    }

    pub fn slow(&self, most: u64) {
        self.slow.store(most, Ordering::SeqCst);
    }
}

/// What is under the databases of one machine.
#[derive(Clone, Debug)]
pub struct Spindle(pub Arc<Platter>);

impl Disk for Spindle {
    fn wait(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let platter = self.0.clone();
        Box::pin(async move {
            let most = platter.slow.load(Ordering::SeqCst);
            if most > 0 {
                let wait = {
                    let mut dice = platter.dice.lock().unwrap_or_else(PoisonError::into_inner);
                    dice.millis(0, most)
                };
                sleep(wait).await;
            }
            if platter.off.load(Ordering::SeqCst) {
                std::future::pending().await
            }
        })
    }

    fn is_off(&self) -> bool {
        self.0.off.load(Ordering::SeqCst)
    }
}

/// The world.
pub struct Sim {
    pub net: Net,
    pub history: History,
    pub folder: PathBuf,
    origin: Instant,
    rolls: RefCell<Dice>,
    jumps: [Cell<i64>; 2],
    disks: RefCell<BTreeMap<PathBuf, Arc<Platter>>>,
    fault: Option<&'static str>,
}

impl Sim {
    pub fn new(dice: &Dice, folder: PathBuf, fault: Option<&'static str>) -> Self {
        let history = History::new();
        Self {
            net: Net::new(dice.apart(1), history.clone()),
            history,
            folder,
            origin: Instant::now(),
            rolls: RefCell::new(dice.apart(2)),
            jumps: [Cell::new(0), Cell::new(0)],
            disks: RefCell::default(),
            fault,
        }
    }

    /// A fresh disk for a machine's folder; whatever lay on an older one of that folder stays off.
    pub fn mount(&self, folder: &Path, dice: Dice) -> Arc<Platter> {
        let platter = Arc::new(Platter::new(dice));
        self.disks.borrow_mut().insert(folder.to_owned(), platter.clone());
        platter
    }

    /// Moves the wall clock of a side.
    pub fn jump(&self, side: Side, ms: i64) {
        let jump = &self.jumps[side as usize];
        jump.set(jump.get() + ms);
    }

    /// The name by which a machine's daemon dials the relay.
    pub fn name_of_relay(host: Host) -> String {
        format!("http://relay-of-{host}:7070")
    }
}

impl World for Sim {
    fn millis(&self, side: Side) -> i64 {
        let elapsed = i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX);
        BEGIN_MS + elapsed + self.jumps[side as usize].get()
    }

    fn since_boot(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn roll(&self, _: Side) -> f64 {
        self.rolls.borrow_mut().unit()
    }

    fn dial(
        &self,
        host: &str,
        _: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send>> {
        let net = self.net.clone();
        let host = host.rsplit('-').next().and_then(|number| number.parse().ok());
        Box::pin(async move {
            match host {
                Some(host) => net.dial(host).await,
                None => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }

    fn listen(&self, _: SocketAddr) -> io::Result<Box<dyn Door>> {
        Ok(self.net.listen())
    }

    fn disk(&self, file: &Path) -> Arc<dyn Disk> {
        let disks = self.disks.borrow();
        let under = disks.iter().find(|(folder, _)| file.starts_with(folder));
        let platter = under.map(|(_, platter)| platter.clone());
        Arc::new(Spindle(platter.unwrap_or_else(|| Arc::new(Platter::new(Dice::new(0))))))
    }

    fn planted(&self, name: &str) -> bool {
        self.fault == Some(name)
    }
}
