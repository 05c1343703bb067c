//! What all worktrees being made share: one maker per folder, and few checkouts at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::super::command::Git;

/// The ground that worktrees stand on. It alone knows which folders are being worked on and how
/// many checkouts run.
#[derive(Debug)]
pub(in crate::git) struct Grounds {
    folders: Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>,
    checkouts: Semaphore,
    /// How many more sources may be read while their worktrees are begun.
    ahead: Arc<Semaphore>,
    cores: usize,
}

impl Default for Grounds {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            folders: Mutex::default(),
            checkouts: Semaphore::new(cores),
            ahead: Arc::new(Semaphore::new(cores)),
            cores,
        }
    }
}

/// Leave to write the files of a worktree.
#[derive(Debug)]
pub(in crate::git) struct Checkout<'a> {
    workers: usize,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Grounds {
    /// Waits until nobody else makes, claims or removes the worktree at `path`.
    pub(in crate::git) async fn hold(&self, path: &Path) -> OwnedMutexGuard<()> {
        let lock = {
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            folders.retain(|_, held| held.strong_count() > 0);
            let held = folders.get(path).and_then(Weak::upgrade).unwrap_or_default();
            folders.insert(path.to_owned(), Arc::downgrade(&held));
            held
        };
        lock.lock_owned().await
    }

    /// Leave to read ahead, until it is dropped; none where as many have it as there are processors.
    pub(in crate::git) fn ahead(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.ahead).try_acquire_owned().ok()
    }

    /// Waits for a processor to check out with. One who comes alone gets them all.
    pub(in crate::git) async fn checkout(&self) -> Checkout<'_> {
        // the semaphore is never closed
        let permit = self.checkouts.acquire().await.ok();
        let alone = self.checkouts.available_permits() + 1 == self.cores;
        Checkout { workers: if alone { self.cores.min(MAX_WORKERS) } else { 1 }, _permit: permit }
    }
}

/// How long the files of one worktree may take to write: a large repository on a slow disk.
pub(in crate::git) const FILL: Duration = Duration::from_secs(10 * 60);

/// More writers than this gained nothing on any disk that we measured.
const MAX_WORKERS: usize = 4;

impl Checkout<'_> {
    /// How many may write files beside each other.
    pub(in crate::git) fn workers(&self) -> usize {
        self.workers
    }

    /// The command, writing files with as many processes as there is leave for. A number that the
    /// user set stays.
    pub(in crate::git) fn equip(&self, git: Git, users_own: bool) -> Git {
        if users_own { git } else { git.config("checkout.workers", &self.workers.to_string()) }
    }
}
