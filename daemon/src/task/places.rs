//! Where runs are under way on this daemon.

use super::state::Place;
use hayward_shared::id::TaskId;
use hayward_shared::run::RunKey;
use std::collections::BTreeMap;
use tokio::sync::watch;

/// A worktree in which a run is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePlace {
    /// The run.
    pub key: RunKey,
    /// The task's name.
    pub name: String,
    /// The worktree.
    pub place: Place,
}

/// The worktrees in which runs are under way, one of each task. Each entry is its run's own: there
/// from the moment at which the worktree was made until the run's actor is gone.
#[derive(Debug)]
pub struct Places {
    all: watch::Sender<BTreeMap<TaskId, LivePlace>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: watch::Sender::new(BTreeMap::new()) }
    }
}

impl Places {
    /// All of them, whenever one comes or goes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<TaskId, LivePlace>> {
        self.all.subscribe()
    }

    /// Makes a worktree known until the answer is dropped.
    #[must_use]
    pub fn enter(&self, live: LivePlace) -> Present {
        let key = live.key;
        self.all.send_modify(|all| drop(all.insert(key.task_id, live)));
        Present { key, all: self.all.clone() }
    }
}

/// Keeps a worktree known.
#[derive(Debug)]
pub struct Present {
    key: RunKey,
    all: watch::Sender<BTreeMap<TaskId, LivePlace>>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.all.send_if_modified(|all| {
            let own = all.get(&self.key.task_id).is_some_and(|live| live.key == self.key);
            own && all.remove(&self.key.task_id).is_some()
        });
    }
}
