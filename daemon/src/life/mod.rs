//! The end of life of what runs leave behind: worktrees, run folders, logs.
//!
//! [`machine`] decides which worktrees go (pure); the rest acts. A worktree goes only when nothing
//! needs it, and whatever would be lost with it is kept under a ref first. What is about to go is
//! in the journal before, and told by a task event after: a crash in between is finished, or taken
//! back, at the next start.

mod ending;
mod going;
mod leftover;
mod lent;
mod look;
pub mod machine;
mod outside;
mod serve;

use crate::clock;
use crate::journal::{JournalError, Standing};
use crate::kept::Kept;
use crate::task::{RunState, Shop, chain, order_of};
use going::Going;
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::time::Timestamp;
use leftover::Leftovers;
use machine::{Limits, Need, Stand, Why};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Worktrees are looked at this often when no run ends.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// Looks come no closer than this, however many runs end.
const PAUSE: Duration = Duration::from_millis(200);

/// The room. It alone removes worktrees of tasks that have ended; one sweep at a time.
#[derive(Debug)]
pub struct Life {
    shop: Arc<Shop>,
    turn: tokio::sync::Mutex<()>,
    /// The bytes of worktrees whose runs have ended, which grow no more.
    sizes: Mutex<HashMap<RunId, u64>>,
}

/// What a sweep is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// What retention and quota say.
    Sweep,
    /// That, and all that nobody needs and that loses nothing.
    Prune {
        /// Of this task alone, and nothing else.
        only: Option<TaskId>,
        /// Only tell.
        dry_run: bool,
        /// Also what holds work that is nowhere else; it is kept under a ref.
        force: bool,
    },
}

impl Wish {
    fn only(self) -> Option<TaskId> {
        match self {
            Self::Prune { only, .. } => only,
            Self::Sweep => None,
        }
    }
}

/// What became, or would become, of a worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its folder.
    pub path: PathBuf,
    /// Its task.
    pub task_id: TaskId,
    /// `retention`, `quota` or `asked`; `unsaved` or `failed` where it stays.
    pub why: &'static str,
    /// The refs under which its work is kept.
    pub salvage: Vec<String>,
    /// The bytes that it takes.
    pub bytes: u64,
    /// Whether it is gone.
    pub done: bool,
    /// What more there is to say, as why it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Life {
    /// A room that works with the daemon's tools.
    #[must_use]
    pub fn new(shop: Arc<Shop>) -> Self {
        Self { shop, turn: tokio::sync::Mutex::default(), sizes: Mutex::default() }
    }

    /// Finishes what a crash cut off, then sweeps now, whenever a run has ended and when a
    /// worktree's time is over.
    pub fn keep(self: &Arc<Self>, mut active: watch::Receiver<Vec<TaskId>>) -> Kept {
        let life = self.clone();
        Kept::of(tokio::spawn(async move {
            life.recover().await;
            lent::clear(&life.shop).await;
            outside::clear(&life.shop).await;
            let mut leftovers = Leftovers::default();
            loop {
                let before = active.borrow_and_update().clone();
                life.sweep(Wish::Sweep).await;
                leftovers.clear(&life.shop).await;
                tokio::time::sleep(PAUSE).await;
                let wait = life.until_next().await;
                let ended = active.wait_for(|now| before.iter().any(|task| !now.contains(task)));
                if let Ok(Err(_)) = tokio::time::timeout(wait, ended).await {
                    return;
                }
            }
        }))
    }

    /// How long nothing goes by its age alone.
    async fn until_next(&self) -> Duration {
        let Ok((stands, _)) = self.stands().await else { return LOOK };
        let limits = self.limits(false);
        let next = machine::next(&stands, &limits).map(|at| at.since(limits.now));
        let wait = next.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        wait.map_or(LOOK, |wait| wait.min(LOOK))
    }

    /// Removes what is due, each after what would be lost is kept. What stays although it was due
    /// is said in the log, and in the rows.
    pub async fn sweep(&self, wish: Wish) -> Vec<Row> {
        self.await_ends(wish).await;
        let _alone = self.turn.lock().await;
        match self.sweep_now(wish).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(error = chain(&error), "the worktrees were not looked after");
                Vec::new()
            }
        }
    }

    async fn sweep_now(&self, wish: Wish) -> Result<Vec<Row>, JournalError> {
        let (stands, standing) = self.stands().await?;
        let limits = self.limits(matches!(wish, Wish::Prune { .. }));
        let mut rows = Vec::new();
        for (run, why) in machine::due(&stands, &limits) {
            let Some(one) = standing.iter().find(|one| one.run.key.run_id == run) else { continue };
            if wish.only().is_some_and(|task| task != one.run.key.task_id) {
                continue;
            }
            let bytes = stands.iter().find(|one| one.run == run).map_or(0, |one| one.bytes);
            let Some(going) = Going::of(one, why, bytes) else { continue };
            let row = match wish {
                Wish::Prune { dry_run: true, force, .. } => self.foresee(&going, force).await,
                Wish::Prune { force, .. } => self.go(&going, force || why != Why::Asked).await,
                Wish::Sweep => self.go(&going, true).await,
            };
            if row.done {
                self.sizes().remove(&run);
            }
            rows.push(row);
        }
        rows.extend(ending::untouched(wish, &stands, &standing));
        Ok(rows)
    }

    fn limits(&self, asked: bool) -> Limits {
        let section = &self.shop.config.worktree;
        Limits {
            now: clock::now(),
            retention_ms: millis(section.retention),
            quota: section.quota_bytes,
            other_bytes: self.shop.repositories.pool().report().used_bytes,
            asked,
        }
    }

    /// The worktrees that stand, as the machine sees them and as the journal has them.
    async fn stands(&self) -> Result<(Vec<Stand>, Vec<Standing<RunState>>), JournalError> {
        let standing = self.shop.journal.standing::<RunState>().await?;
        let needs = Needs::now(&self.shop).await?;
        let mut stands = Vec::with_capacity(standing.len());
        for one in &standing {
            let Some(place) = &one.run.state.place else { continue };
            let key = one.run.key;
            stands.push(Stand {
                task: key.task_id,
                run: key.run_id,
                ended_at: one.ended_at,
                is_final: one.run.state.status.is_final(),
                bytes: self.size(one.ended_at, key.run_id, &place.path).await,
                need: needs.of(key.task_id, &place.path),
            });
        }
        Ok((stands, standing))
    }

    /// The bytes that a worktree takes; one whose run has ended is measured once.
    async fn size(&self, ended_at: Option<Timestamp>, run: RunId, path: &Path) -> u64 {
        if ended_at.is_some()
            && let Some(known) = self.sizes().get(&run)
        {
            return *known;
        }
        let folder = path.to_owned();
        let measured = tokio::task::spawn_blocking(move || leftover::bytes(&folder)).await;
        let bytes = measured.unwrap_or_default();
        if ended_at.is_some() {
            self.sizes().insert(run, bytes);
        }
        bytes
    }

    fn sizes(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, u64>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is needed at one moment.
#[derive(Debug)]
struct Needs {
    live: BTreeSet<TaskId>,
    siblings: BTreeSet<TaskId>,
    busy: BTreeSet<TaskId>,
    places: BTreeSet<PathBuf>,
}

impl Needs {
    async fn now(shop: &Shop) -> Result<Self, JournalError> {
        let live = shop.journal.live_runs::<RunState>().await?;
        let orders = live.iter().map(|run| order_of(&run.spawn));
        let siblings = orders
            .flat_map(|order| [order.continue_from_task_id, order.parent_task_id])
            .flatten()
            .collect();
        let places =
            shop.places.watch().borrow().values().map(|at| at.place.path.clone()).collect();
        Ok(Self {
            live: live.iter().map(|run| run.key.task_id).collect(),
            siblings,
            busy: shop.journal.busy_tasks().await?,
            places,
        })
    }

    fn of(&self, task: TaskId, path: &Path) -> Option<Need> {
        if self.live.contains(&task) {
            return Some(Need::Run);
        }
        if self.places.contains(path) {
            return Some(Need::End);
        }
        if self.siblings.contains(&task) {
            return Some(Need::Sibling);
        }
        self.busy.contains(&task).then_some(Need::Work)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
