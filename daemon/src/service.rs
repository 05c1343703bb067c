//! The daemon as a whole: its rooms opened in order, and closed by dropping it.

use crate::agent::environment::Variables;
use crate::agent::roster::{Roster, Search};
use crate::complete::Completions;
use crate::config::{AgentSection, Config};
use crate::dispatch::Dispatch;
use crate::git::Repositories;
use crate::git::command::orphans_ended;
use crate::git::pool::{Pool, Terms};
use crate::git::remote::Clones;
use crate::git::worktree::Yard;
use crate::home::{Home, HomeError};
use crate::job;
use crate::journal::{Journal, JournalError};
use crate::kept::Kept;
use crate::lease::Leases;
use crate::life::Life;
use crate::link::{self, Facts, Identity, Link, Standing};
use crate::local;
use crate::overlap;
use crate::queue;
use crate::search::Finder;
use crate::task::{Places, Ports, Shop, again, board, kinds};
use crate::vitals;
use hayward_shared::api::{Directories, Runtime, provider_of};
use hayward_shared::id::DaemonId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A daemon that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its state folder cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Its journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It does not know its own program, which keepers are started with.
    #[error("cannot tell where this program is")]
    Program(#[source] std::io::Error),
}

/// A running daemon. Dropping it ends it; agents live on with their keepers.
#[derive(Debug)]
pub struct Daemon {
    link: Link,
    _rooms: [Kept; 12],
    _local: Option<Kept>,
}

impl Daemon {
    /// Opens the journal, takes up the runs it knows, and links to the relay. The caller holds the
    /// state folder.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        home: Home,
        config: Config,
        relay: String,
        token: String,
    ) -> Result<Self, StartError> {
        home.furnish()?;
        let parent: Variables = std::env::vars().collect();
        let journal = Journal::open(&home.journal()).await?;
        let identity = identity(&home, &config, relay, token)?;
        let yard = Yard::new(home.worktrees());
        let repositories = Repositories::with_pool(Pool::new(Terms {
            yard: yard.clone(),
            places: config.worktree.pool as usize,
            budget: config.worktree.quota_bytes / 2,
        }));
        orphans_ended().await;
        let places = journal.places().await?;
        repositories.recover(&yard, |path| places.contains(path)).await;
        let tending = repositories.tend();
        let (jobs, ready) = job::prepare(journal.clone());
        let leases = Leases::default();
        let shop = Arc::new(Shop {
            clones: Clones::new(home.repositories()),
            completions: Completions::new(journal.clone()),
            jobs: jobs.clone(),
            ports: Ports::default(),
            home,
            agents: Search::begin(parent.clone(), config.daemon.login_shell.clone()),
            config,
            journal: journal.clone(),
            repositories,
            places: Places::default(),
            leases: leases.clone(),
            parent,
            keeper: std::env::current_exe().map_err(StartError::Program)?,
            stage: None,
        });
        let working = ready.begin(kinds(&shop)).await?;
        let (board, kept) = board::open(shop.clone()).await?;
        let (queue, queued) = queue::open(shop.clone(), board.clone()).await?;
        let resumed = shop.clone();
        let completions = Kept::of(tokio::spawn(async move { again::resume(&resumed).await }));
        let (runtimes, telling) = runtimes(&shop);
        let (vitals, measured) = vitals::watch(
            shop.home.root().to_owned(),
            shop.config.daemon.min_free_bytes,
            shop.repositories.clone(),
        );
        let facts = Facts { room: board.room(), active: board.active(), runtimes, vitals };
        let (link, linked, commands) = link::start(identity, journal, facts, leases).await?;
        let settings = overlap::Settings::of_machine(shop.home.overlap());
        let (places, notes) = (shop.places.watch(), shop.config.daemon.sibling_notes);
        let (overlaps, room, news) =
            overlap::open(settings, shop.repositories.clone(), places.clone());
        let teller = overlap::teller(board.clone(), overlaps.clone(), places, news, notes);
        let life = Arc::new(Life::new(shop.clone()));
        let ending = life.keep(board.active());
        let finder = Finder::new(shop.clone());
        let local = local::serve(shop.clone(), board.clone(), finder.clone(), link.standing());
        let dispatch = Dispatch::new(shop, board, overlaps, life, queue, finder, link.clone());
        let dispatch = Kept::of(tokio::spawn(dispatch.run(commands)));
        Ok(Self {
            link,
            _rooms: [
                linked,
                kept,
                room,
                teller,
                ending,
                queued,
                dispatch,
                telling,
                completions,
                tending,
                working,
                measured,
            ],
            _local: local,
        })
    }

    /// Who it is to the relay, once it is linked; none when that takes longer than `patience`.
    pub async fn linked(&self, patience: Duration) -> Option<DaemonId> {
        let mut standing = self.link.standing();
        let up = standing.wait_for(|standing| matches!(standing, Standing::Up(_)));
        let standing = tokio::time::timeout(patience, up).await.ok()?.ok()?.clone();
        if let Standing::Up(id) = standing { Some(id) } else { None }
    }

    /// How its link stands.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.link.standing()
    }
}

fn identity(
    home: &Home,
    config: &Config,
    relay: String,
    token: String,
) -> Result<Identity, HomeError> {
    Ok(Identity {
        relay,
        token,
        machine: home.machine()?,
        hostname: hostname(),
        capacity: config.daemon.max_concurrent_tasks,
        labels: config.daemon.labels.clone(),
        directories: Directories {
            working_directory: text(std::env::current_dir().unwrap_or_default()),
            home_directory: text(home.clones()),
            worktrees_directory: text(home.worktrees()),
        },
    })
}

/// What can be run here, empty until it is known, and the task that tells it.
fn runtimes(shop: &Shop) -> (watch::Receiver<Vec<Runtime>>, Kept) {
    let (to, known) = watch::channel(Vec::new());
    let (found, named) = (shop.agents.watch(), shop.config.agents.clone());
    (known, Kept::of(tokio::spawn(tell_runtimes(found, named, to))))
}

async fn tell_runtimes(
    mut roster: watch::Receiver<Option<Roster>>,
    agents: BTreeMap<String, AgentSection>,
    to: watch::Sender<Vec<Runtime>>,
) {
    while let Ok(known) = roster.wait_for(Option::is_some).await.map(|known| known.clone()) {
        let found = known.map(|roster| roster.runtimes()).unwrap_or_default();
        to.send_replace(with_configured(found, &agents));
        if roster.changed().await.is_err() {
            return;
        }
    }
}

/// What was found, and the configured agents that stand on it.
fn with_configured(
    mut found: Vec<Runtime>,
    agents: &BTreeMap<String, AgentSection>,
) -> Vec<Runtime> {
    for (name, agent) in agents {
        let runtime = agent.runtime.as_deref().unwrap_or(name);
        let provider = agent.provider.clone().or_else(|| provider_of(runtime).map(str::to_owned));
        if let Some(known) = found.iter_mut().find(|runtime| runtime.name == *name) {
            known.provider = provider;
            continue;
        }
        let beneath = found.iter().find(|one| one.name == runtime).cloned();
        found.push(match beneath {
            Some(beneath) => Runtime { name: name.clone(), provider, ..beneath },
            None => Runtime {
                name: name.clone(),
                version: None,
                healthy: false,
                reason: Some(format!("its runtime '{runtime}' is not installed")),
                provider,
            },
        });
    }
    found
}

fn hostname() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".to_owned())
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
