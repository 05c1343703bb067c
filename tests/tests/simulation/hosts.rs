//! The machines: the shipped relay on one, the shipped daemon on each of the others. A machine that
//! goes down loses all that is not on its disk.

use super::agents::Agents;
use super::dice::Dice;
use super::history::{Host, RELAY};
use super::world::{Platter, Sim};
use hayward_daemon::agent::roster::Search;
use hayward_daemon::complete::Completions;
use hayward_daemon::config::Config;
use hayward_daemon::dispatch::Dispatch;
use hayward_daemon::git::Repositories;
use hayward_daemon::git::pool::{Pool, Terms};
use hayward_daemon::git::remote::Clones;
use hayward_daemon::git::worktree::Yard;
use hayward_daemon::home::Home;
use hayward_daemon::job;
use hayward_daemon::journal::Journal;
use hayward_daemon::kept::Kept;
use hayward_daemon::lease::Leases;
use hayward_daemon::life::Life;
use hayward_daemon::link::{self, Facts, Identity};
use hayward_daemon::overlap::{self, Settings};
use hayward_daemon::queue;
use hayward_daemon::search::Finder;
use hayward_daemon::task::{Places, Ports, Shop, board, kinds};
use hayward_relay::{Config as RelayConfig, Relay};
use hayward_shared::api::{COMMAND_AGENT, Directories, Runtime, Vitals};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A machine's folder. After each fall it is a copy of what was on the disk: whatever still runs of
/// the former life has lost its disk.
#[derive(Debug)]
struct Ground {
    host: Host,
    life: u32,
    dice: Dice,
    platter: Option<Arc<Platter>>,
}

impl Ground {
    fn new(host: Host, dice: Dice) -> Self {
        Self { host, life: 0, dice, platter: None }
    }

    fn folder(&self, sim: &Sim) -> PathBuf {
        sim.folder.join(format!("{}-{}", self.host, self.life))
    }

    fn mount(&mut self, sim: &Sim) -> Outcome<PathBuf> {
        let folder = self.folder(sim);
        fs::create_dir_all(&folder)?;
        self.platter = Some(sim.mount(&folder, self.dice.apart(self.life.into())));
        Ok(folder)
    }

    fn fall(&mut self, sim: &Sim) -> Outcome<()> {
        let old = self.folder(sim);
        self.platter.take().iter().for_each(|platter| platter.power_off());
        self.life += 1;
        copy(&old, &self.folder(sim))
    }
}

/// Copies the files of a folder; of a database all but what its readers share in memory.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_file() && !name.to_string_lossy().ends_with("-shm") {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// The relay's machine.
pub struct RelayHost {
    ground: Ground,
    relay: Option<Relay>,
    /// A user's token, and a daemon's.
    pub tokens: Option<(String, String)>,
}

impl RelayHost {
    pub fn new(dice: Dice) -> Self {
        Self { ground: Ground::new(RELAY, dice), relay: None, tokens: None }
    }

    pub async fn up(&mut self, sim: &Sim) -> Outcome<()> {
        let folder = self.ground.mount(sim)?;
        let config = RelayConfig::new(folder.join("relay.db"), ([10, 0, 0, 1], 7070).into());
        let relay = Relay::start(config).await?;
        if let Some(first) = relay.bootstrap() {
            let daemon = relay.issue_daemon_token(first.workspace).await?;
            let tokens = (first.token.expose().to_owned(), daemon.expose().to_owned());
            self.tokens = Some(tokens);
        }
        self.relay = Some(relay);
        sim.history.fault("the relay is up");
        Ok(())
    }

    pub fn is_up(&self) -> bool {
        self.relay.is_some()
    }

    /// Takes it down at once. Its peers hear nothing of it where it is its machine that fell.
    pub fn down(&mut self, sim: &Sim, silent: bool) -> Outcome<()> {
        sim.net.shut();
        if silent {
            sim.net.lose(RELAY)
        } else {
            sim.net.cut(RELAY)
        }
        self.ground.fall(sim)?;
        self.relay = None;
        Ok(())
    }

    pub fn slow(&self, most: u64) {
        self.ground.platter.iter().for_each(|platter| platter.slow(most));
    }
}

/// A daemon's machine.
pub struct DaemonHost {
    pub host: Host,
    pub agents: Agents,
    ground: Ground,
    rooms: Vec<Kept>,
    journal: Option<Journal>,
}

impl DaemonHost {
    pub fn new(host: Host, agents: Agents, dice: Dice) -> Self {
        let ground = Ground::new(host, dice);
        Self { host, agents, ground, rooms: Vec::new(), journal: None }
    }

    pub fn is_up(&self) -> bool {
        !self.rooms.is_empty()
    }

    /// Opens the rooms of a daemon as its service does, but for those that only git, terminals and
    /// files concern: what they would find is not here.
    pub async fn up(&mut self, sim: &Sim, token: &str, capacity: u32) -> Outcome<()> {
        let folder = self.ground.mount(sim)?;
        let home = Home::open(Some(&folder), None)?;
        let journal = Journal::open(&home.journal()).await?;
        let mut config = Config::default();
        config.daemon.max_concurrent_tasks = capacity;
        let identity = Identity {
            relay: Sim::name_of_relay(self.host),
            token: token.to_owned(),
            machine: home.machine()?,
            hostname: format!("machine-{}", self.host),
            capacity,
            labels: BTreeMap::new(),
            directories: Directories {
                working_directory: String::new(),
                home_directory: String::new(),
                worktrees_directory: String::new(),
            },
        };
        let yard = Yard::new(home.worktrees());
        let (jobs, ready) = job::prepare(journal.clone());
        let leases = Leases::default();
        let shop = Arc::new(Shop {
            clones: Clones::new(home.repositories()),
            completions: Completions::new(journal.clone()),
            ports: Ports::default(),
            jobs,
            leases: leases.clone(),
            agents: Search::none(),
            config,
            journal: journal.clone(),
            repositories: Repositories::with_pool(Pool::new(Terms { yard, places: 0, budget: 0 })),
            places: Places::default(),
            parent: Default::default(),
            keeper: PathBuf::new(),
            stage: Some(Arc::new(self.agents.clone())),
            home,
        });
        let working = ready.begin(kinds(&shop)).await?;
        let (board, kept) = board::open(shop.clone()).await?;
        let (queue, queued) = queue::open(shop.clone(), board.clone()).await?;
        let (_, runtimes) = watch::channel(vec![commands()]);
        let (_, vitals) = watch::channel(Vitals::default());
        let facts = Facts { room: board.room(), active: board.active(), runtimes, vitals };
        self.journal = Some(journal.clone());
        let (link, linked, commands) = link::start(identity, journal, facts, leases).await?;
        let poll = Duration::from_secs(3_600);
        let settings = Settings { folder: shop.home.overlap(), watches: 0, poll };
        let nowhere = Places::default().watch();
        let (overlap, room, _) = overlap::open(settings, shop.repositories.clone(), nowhere);
        let life = Arc::new(Life::new(shop.clone()));
        let finder = Finder::new(shop.clone());
        let dispatch = Dispatch::new(shop, board, overlap, life, queue, finder, link);
        let dispatch = Kept::of(tokio::spawn(dispatch.run(commands)));
        self.rooms = vec![dispatch, linked, kept, queued, room, working];
        sim.history.fault(format!("daemon {} is up", self.host));
        Ok(())
    }

    /// Kills the daemon; with its machine also its agents, and then nobody hears of it.
    pub fn down(&mut self, sim: &Sim, machine: bool) -> Outcome<()> {
        if machine {
            sim.net.lose(self.host);
            self.agents.perish();
        } else {
            sim.net.cut(self.host);
        }
        self.ground.fall(sim)?;
        self.rooms.clear();
        self.journal = None;
        Ok(())
    }

    pub fn slow(&self, most: u64) {
        self.ground.platter.iter().for_each(|platter| platter.slow(most));
    }

    /// Whether all that its journal holds is with the relay, as far as it knows.
    pub async fn is_told(&self) -> Outcome<bool> {
        match &self.journal {
            Some(journal) => Ok(journal.outgoing(0, 1).await?.is_empty()),
            None => Ok(false),
        }
    }
}

/// What each daemon here has.
fn commands() -> Runtime {
    Runtime {
        name: COMMAND_AGENT.to_owned(),
        version: None,
        healthy: true,
        reason: None,
        provider: None,
    }
}
