//! Worktrees made beforehand, so that a task gets one in an instant whatever the repository's size.
//!
//! A repository is hot after its first task. Its places stand detached and locked in `.pool/` of
//! the yard; a claim (`claim`) takes one, moves it to the wanted commit by a delta checkout, and
//! gives it branch, name and folder. One worker refills (`refill`) while no claim waits.

mod claim;
mod refill;

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::Notify;

use super::repo::{CommitId, read};
use super::worktree::{Record, Yard, leftover, ready_places};
use crate::clock;
use hayward_shared::time::Timestamp;

/// How many misses are remembered of each repository: enough to see a pattern.
const MISSES_KEPT: usize = 8;

/// How a pool is kept.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Where worktrees stand.
    pub yard: Yard,
    /// Ready places for each hot repository; 0 turns the pool off.
    pub places: usize,
    /// The most bytes that all places take together.
    pub budget: u64,
}

/// The pool of all repositories; clones share it. It alone knows which places are ready.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// None: the pool is off.
    terms: Option<Terms>,
    /// Whose trash is emptied, also while the pool is off.
    yard: Option<Yard>,
    state: Mutex<State>,
    /// Told whenever there may be work for the one who tends.
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    hot: HashMap<PathBuf, Hot>,
    /// Tasks that wait for a worktree now: nothing is refilled meanwhile.
    waiting: usize,
}

/// A hot repository.
#[derive(Debug)]
struct Hot {
    ready: Vec<Place>,
    /// The commit that was wanted last: new places are made there.
    wanted: CommitId,
    refilling: bool,
    /// Whether another try to refill is worth it.
    due: bool,
    /// Why the last try to refill ended early.
    stuck: Option<Miss>,
    claims: u64,
    missed: u64,
    last_misses: VecDeque<Missed>,
}

/// A worktree that waits for a task.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) record: Record,
    pub(super) commit: CommitId,
    /// What must not have changed since it was made; see `refill`.
    pub(super) stamp: String,
    pub(super) bytes: u64,
}

/// Why a worktree did not come out of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub enum Miss {
    /// `[worktree] pool` is 0.
    Off,
    /// It was the repository's first task of this daemon.
    ColdRepository,
    /// All its places were taken.
    Empty,
    /// All its places were taken, and one was being made.
    Refilling,
    /// Its places would take more than the budget.
    OverBudget,
    /// The disk is nearly full.
    DiskNearlyFull,
    /// Places could not be made: the text says why.
    RefillFailed(String),
    /// A ready place could not be claimed: the text says why.
    ClaimFailed(String),
}

/// A worktree that did not come out of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Missed {
    /// When.
    pub at: Timestamp,
    /// Why.
    #[serde(flatten)]
    pub why: Miss,
}

/// How the pool stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Places for each hot repository; 0: the pool is off.
    pub places: usize,
    /// The most bytes that all places may take.
    pub budget_bytes: u64,
    /// The bytes that the ready ones take.
    pub used_bytes: u64,
    /// The hot repositories, by path.
    pub repositories: Vec<RepositoryReport>,
}

/// How the pool of one repository stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryReport {
    /// Its common folder.
    pub repository: PathBuf,
    /// Places that are ready.
    pub ready: usize,
    /// Whether one is being made.
    pub refilling: bool,
    /// Worktrees that came out of the pool since the daemon started.
    pub claims: u64,
    /// Worktrees that did not.
    pub misses: u64,
    /// The last eight misses, oldest first.
    pub last_misses: Vec<Missed>,
}

impl Pool {
    /// A pool on these terms; nothing is made before a repository is hot.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let yard = Some(terms.yard.clone());
        let terms = (terms.places > 0).then_some(terms);
        Self { shared: Arc::new(Shared { terms, yard, ..Shared::default() }) }
    }

    /// How it stands now.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.state();
        let mut repositories: Vec<RepositoryReport> = state
            .hot
            .iter()
            .map(|(common, hot)| RepositoryReport {
                repository: common.clone(),
                ready: hot.ready.len(),
                refilling: hot.refilling,
                claims: hot.claims,
                misses: hot.missed,
                last_misses: hot.last_misses.iter().cloned().collect(),
            })
            .collect();
        repositories.sort_by(|one, other| one.repository.cmp(&other.repository));
        Report {
            places: self.shared.terms.as_ref().map_or(0, |terms| terms.places),
            budget_bytes: self.shared.terms.as_ref().map_or(0, |terms| terms.budget),
            used_bytes: state.bytes(),
            repositories,
        }
    }

    /// Tells the one who tends that there may be work.
    pub(super) fn wake(&self) {
        self.shared.work.notify_one();
    }

    /// Finds the places again that a former daemon had made, and clears away what it had begun.
    /// What is no longer wanted is taken down.
    pub(super) async fn recover(&self, yard: &Yard) {
        let (pool, yard) = (self.clone(), yard.clone());
        if let Err(cause) = read(move || pool.recover_now(&yard)).await {
            tracing::warn!(%cause, "the pool was not looked after");
        }
    }

    fn recover_now(&self, yard: &Yard) {
        for entry in fs::read_dir(yard.pools()).into_iter().flatten().flatten() {
            let folder = entry.path();
            let common = fs::read_to_string(folder.join(REPOSITORY)).map(PathBuf::from);
            let settled = match common {
                Ok(common) if common.is_dir() => self.take_up(yard, &common),
                // the repository is gone, and its records with it
                _ => yard.discard(&folder),
            };
            if let Err(cause) = settled {
                tracing::warn!(folder = %folder.display(), %cause, "a pool is left as it is");
            }
        }
    }

    fn take_up(&self, yard: &Yard, common: &Path) -> std::io::Result<()> {
        let places = self.shared.terms.as_ref().map_or(0, |terms| terms.places);
        for (path, record, stamp) in ready_places(yard, common)? {
            let commit = record.head().and_then(|head| head.parse::<CommitId>().ok());
            let bytes = stamp.rsplit(' ').next().and_then(|bytes| bytes.parse().ok());
            let mut state = self.state();
            let found = state.hot.get(common).map_or(0, |hot| hot.ready.len());
            match (commit, bytes) {
                (Some(commit), Some(bytes)) if found < places => {
                    let hot = state
                        .hot
                        .entry(common.to_owned())
                        .or_insert_with(|| Hot::new(commit.clone()));
                    hot.ready.push(Place { path, record, commit, stamp, bytes });
                }
                _ => leftover::take_down(common, yard, &path)?,
            }
        }
        if places == 0 {
            yard.discard(&yard.pool_of(common))?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a miss down.
    fn missed(&self, common: &Path, why: Miss) {
        tracing::debug!(repository = %common.display(), ?why, "no worktree came out of the pool");
        if let Some(hot) = self.state().hot.get_mut(common) {
            hot.missed += 1;
            if hot.last_misses.len() == MISSES_KEPT {
                hot.last_misses.pop_front();
            }
            hot.last_misses.push_back(Missed { at: clock::now(), why });
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The file in a pool's folder that names its repository.
const REPOSITORY: &str = "repository";

impl State {
    fn bytes(&self) -> u64 {
        self.hot.values().flat_map(|hot| &hot.ready).map(|place| place.bytes).sum()
    }
}

impl Hot {
    fn new(wanted: CommitId) -> Self {
        Self {
            ready: Vec::new(),
            wanted,
            refilling: false,
            due: false,
            stuck: None,
            claims: 0,
            missed: 0,
            last_misses: VecDeque::new(),
        }
    }
}
