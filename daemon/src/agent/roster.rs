//! Which agents this machine has, found once when the daemon starts and told to whoever asks.

use super::discover::{Found, PROBE_PATIENCE, discover, search_path};
use super::environment::Variables;
use crate::kept::Kept;
use hayward_shared::api::Runtime;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// A login shell that says nothing for this long is not waited for any more.
const SHELL_PATIENCE: Duration = Duration::from_secs(10);

/// What was found, in order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Folders joined by colons: the daemon's, then what the login shell has besides.
    pub search_path: String,
    /// The runtimes.
    pub found: Vec<Found>,
}

impl Roster {
    /// The best agent that can take a prompt, if there is one.
    #[must_use]
    pub fn best(&self) -> Option<&Found> {
        self.found.iter().find(|found| found.healthy && found.driven && found.program.is_some())
    }

    /// As the wire tells it.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Runtime> {
        let tell = |found: &Found| Runtime {
            name: found.name.name().to_owned(),
            version: found.version.clone(),
            healthy: found.healthy && found.driven,
            reason: found.reason.clone(),
            provider: None,
        };
        self.found.iter().map(tell).collect()
    }
}

/// The search, and its answer once it is there. Dropping the last clone of it ends nothing; the
/// search itself is bounded.
#[derive(Debug)]
pub struct Search {
    path: watch::Receiver<Option<String>>,
    roster: watch::Receiver<Option<Roster>>,
    _task: Kept,
}

impl Search {
    /// Begins to look. `parent` is the daemon's own environment; `shell` stands for the user's login
    /// shell, where the configuration names one.
    #[must_use]
    pub fn begin(parent: Variables, shell: Option<PathBuf>) -> Self {
        let mut parent = parent;
        if let Some(shell) = shell {
            parent.insert("SHELL".to_owned(), shell.to_string_lossy().into_owned());
        }
        let (path_in, path) = watch::channel(None);
        let (roster_in, roster) = watch::channel(None);
        let task = Kept::of(tokio::spawn(async move {
            let asked = search_path(&parent, SHELL_PATIENCE).await;
            if let Some(silent) = &asked.silent {
                tracing::warn!(%silent, "the login shell's PATH is not known; the daemon's serves");
            }
            path_in.send_replace(Some(asked.path.clone()));
            let found = discover(&asked.path, &parent, PROBE_PATIENCE).await;
            for one in &found {
                tracing::info!(agent = one.name.name(), version = ?one.version, healthy = one.healthy, "found");
            }
            roster_in.send_replace(Some(Roster { search_path: asked.path, found }));
        }));
        Self { path, roster, _task: task }
    }

    /// A search that found nothing, at once: for a simulation, whose agents are its own.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn none() -> Self {
        let (_, path) = watch::channel(Some(String::new()));
        let (_, roster) = watch::channel(Some(Roster::default()));
        Self { path, roster, _task: Kept::of(tokio::spawn(std::future::ready(()))) }
    }

    /// The search path, once the login shell has answered or its time is up.
    pub async fn path(&self) -> String {
        let mut path = self.path.clone();
        let known = path.wait_for(Option::is_some).await;
        known.ok().and_then(|path| path.clone()).unwrap_or_default()
    }

    /// What was found, once all have answered or their time is up.
    pub async fn roster(&self) -> Roster {
        let mut roster = self.roster.clone();
        let known = roster.wait_for(Option::is_some).await;
        known.ok().and_then(|roster| roster.clone()).unwrap_or_default()
    }

    /// What was found, whenever it changes; none before.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Roster>> {
        self.roster.clone()
    }
}
