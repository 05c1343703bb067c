//! Worktrees watched for writes, within a budget.

use crate::clock;
use crate::git::folders::folders;
use hayward_shared::id::TaskId;
use hayward_shared::time::Timestamp;
use notify::event::EventKind;
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// More touched paths of one worktree than this are one look over all of it.
const MOST_PATHS: usize = 512;

/// A worktree that did not fit is tried again after this long though nothing was given back: a walk
/// of a large one takes a second.
const TRY_AGAIN_MS: i64 = 60_000;

/// What was touched in a worktree and has not been looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    /// Anything may have been.
    pub(super) all: bool,
    /// These, from the worktree's top. None while only git's own data changed.
    pub(super) paths: BTreeSet<PathBuf>,
    /// When the first was.
    pub(super) since: Timestamp,
}

impl Touched {
    /// Nothing known: all has to be looked at.
    pub(super) fn all(since: Timestamp) -> Self {
        Self { all: true, paths: BTreeSet::new(), since }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.paths.extend(other.paths);
        self.since = self.since.min(other.since);
        if self.paths.len() > MOST_PATHS {
            self.all = true;
        }
        if self.all {
            self.paths.clear();
        }
    }
}

/// What the watches saw, kept until it is fetched: by worktree, so that nothing is lost and nothing
/// grows without bound.
#[derive(Debug, Default)]
struct Seen {
    roots: HashMap<PathBuf, (TaskId, bool)>,
    touched: HashMap<TaskId, Touched>,
}

#[derive(Debug)]
struct Hands {
    watcher: Option<RecommendedWatcher>,
    covered: HashMap<TaskId, BTreeSet<PathBuf>>,
    /// Counts how often watches were given back.
    freed: u64,
    /// Worktrees that did not fit: how much was given back by then, and when it was tried.
    refused: HashMap<TaskId, (u64, Timestamp)>,
    /// Why worktrees are polled, once the first is.
    why: Option<String>,
}

/// The watches of this daemon. Its own lock owns them; only blocking threads may take it.
#[derive(Debug)]
pub(super) struct Watcher {
    hands: Mutex<Hands>,
    seen: Arc<Mutex<Seen>>,
    /// Rung when something was touched.
    bell: Arc<Notify>,
    budget: usize,
}

/// How the watches stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watches {
    /// Folders that are watched.
    pub count: usize,
    /// The most that may be.
    pub budget: usize,
    /// Why some worktrees are polled instead, where any is or was.
    pub why_polled: Option<String>,
}

impl Watcher {
    /// Watches at most `budget` folders.
    pub(super) fn new(budget: usize) -> Self {
        let (seen, bell) = (Arc::new(Mutex::new(Seen::default())), Arc::new(Notify::new()));
        let (into, ring) = (seen.clone(), bell.clone());
        let made = notify::recommended_watcher(move |event| {
            if lock(&into).note(event) {
                ring.notify_one();
            }
        });
        let mut hands = Hands {
            watcher: None,
            covered: HashMap::new(),
            freed: 0,
            refused: HashMap::new(),
            why: None,
        };
        match made {
            Ok(watcher) => hands.watcher = Some(watcher),
            Err(error) => hands.give_up(&error.to_string()),
        }
        Self { hands: Mutex::new(hands), seen, bell, budget }
    }

    /// Waits until something was touched.
    pub(super) async fn touched(&self) {
        self.bell.notified().await;
    }

    /// What was touched since the last call.
    pub(super) fn fetch(&self) -> HashMap<TaskId, Touched> {
        std::mem::take(&mut lock(&self.seen).touched)
    }

    pub(super) fn standing(&self) -> Watches {
        let hands = lock(&self.hands);
        Watches { count: hands.count(), budget: self.budget, why_polled: hands.why.clone() }
    }

    /// Watches all of a worktree and git's own folder of it. False when the budget or the machine
    /// does not allow it: it is not watched at all then. Blocking.
    pub(super) fn cover(&self, task: TaskId, root: &Path, git_dir: &Path) -> bool {
        lock(&self.seen).roots.insert(root.to_owned(), (task, false));
        lock(&self.seen).roots.insert(git_dir.to_owned(), (task, true));
        let mut hands = lock(&self.hands);
        hands.covered.entry(task).or_default();
        let watched = hands.watch(task, git_dir, self.budget)
            && hands.walk(task, root, Path::new(""), self.budget);
        drop(hands);
        if !watched {
            // what it had for a moment is no room that others could take
            self.refuse(task, 0);
        }
        watched
    }

    /// Whether a worktree that was not allowed may be by now: watches were given back since, or a
    /// while has passed in which it may have become smaller. Blocking.
    pub(super) fn may_fit(&self, task: TaskId) -> bool {
        let hands = lock(&self.hands);
        let Some((freed, at)) = hands.refused.get(&task) else { return true };
        hands.watcher.is_some()
            && (hands.freed != *freed || clock::now().since(*at) >= TRY_AGAIN_MS)
    }

    /// Brings the watches to what was made and removed. False as in [`Watcher::cover`]. Blocking.
    pub(super) fn extend(&self, task: TaskId, root: &Path, touched: &BTreeSet<PathBuf>) -> bool {
        let mut hands = lock(&self.hands);
        let mut watched = true;
        for path in touched {
            let full = root.join(path);
            hands.forget(task, &full);
            if watched && full.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                watched = hands.walk(task, root, path, self.budget);
            }
        }
        drop(hands);
        if !watched {
            self.refuse(task, 1);
        }
        watched
    }

    fn refuse(&self, task: TaskId, given_back: u64) {
        self.forget(task);
        let mut hands = lock(&self.hands);
        hands.forget_all(task);
        hands.freed += given_back;
        let freed = hands.freed;
        hands.refused.insert(task, (freed, clock::now()));
    }

    /// Watches nothing of a task any more. Blocking.
    pub(super) fn release(&self, task: TaskId) {
        self.forget(task);
        let mut hands = lock(&self.hands);
        hands.forget_all(task);
        hands.refused.remove(&task);
        hands.freed += 1;
    }

    fn forget(&self, task: TaskId) {
        let mut seen = lock(&self.seen);
        seen.roots.retain(|_, (own, _)| *own != task);
        seen.touched.remove(&task);
    }
}

impl Seen {
    /// Notes what an event touched; whether it touched anything.
    fn note(&mut self, event: notify::Result<Event>) -> bool {
        let now = clock::now();
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            // events were lost: nothing is known any more
            _ => {
                let tasks: Vec<_> = self.roots.values().map(|(task, _)| *task).collect();
                for task in tasks {
                    self.add(task, Touched::all(now));
                }
                return true;
            }
        };
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        let mut any = false;
        for path in &event.paths {
            let Some((root, (task, own))) =
                path.ancestors().find_map(|at| self.roots.get_key_value(at))
            else {
                continue;
            };
            let inside = path.strip_prefix(root).unwrap_or(Path::new("")).to_owned();
            let locked = inside.extension().is_some_and(|ending| ending == "lock");
            if *own && locked || inside.as_os_str() == ".git" {
                continue;
            }
            let paths = if *own { BTreeSet::new() } else { BTreeSet::from([inside]) };
            let task = *task;
            self.add(task, Touched { all: false, paths, since: now });
            any = true;
        }
        any
    }

    fn add(&mut self, task: TaskId, touched: Touched) {
        match self.touched.get_mut(&task) {
            Some(known) => known.add(touched),
            None => drop(self.touched.insert(task, touched)),
        }
    }
}

impl Hands {
    fn count(&self) -> usize {
        self.covered.values().map(BTreeSet::len).sum()
    }

    fn walk(&mut self, task: TaskId, root: &Path, below: &Path, budget: usize) -> bool {
        let room = budget.saturating_sub(self.count());
        match folders(root, below, room) {
            Ok(found) => found.iter().all(|folder| self.watch(task, folder, budget)),
            Err(error) => {
                tracing::debug!(root = %root.display(), %error, "a worktree cannot be walked");
                false
            }
        }
    }

    fn watch(&mut self, task: TaskId, folder: &Path, budget: usize) -> bool {
        if self.count() >= budget {
            self.give_up(&format!("more than {budget} folders would have to be watched"));
            return false;
        }
        let Some(watcher) = &mut self.watcher else { return false };
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.covered.entry(task).or_default().insert(folder.to_owned());
                true
            }
            // gone already: its parent tells
            Err(error) if is_gone(&error) => true,
            Err(error) => {
                self.give_up(&error.to_string());
                false
            }
        }
    }

    /// Said once: what follows is the same.
    fn give_up(&mut self, why: &str) {
        if self.why.is_none() {
            tracing::warn!(why, "some worktrees are polled for overlap, not watched");
            self.why = Some(why.to_owned());
        }
    }

    fn forget(&mut self, task: TaskId, full: &Path) {
        let Some(covered) = self.covered.get_mut(&task) else { return };
        let gone: Vec<_> = covered
            .range::<Path, _>((Bound::Included(full), Bound::Unbounded))
            .take_while(|path| path.starts_with(full))
            .cloned()
            .collect();
        for path in gone {
            covered.remove(&path);
            self.freed += 1;
            unwatch(self.watcher.as_mut(), &path);
        }
    }

    fn forget_all(&mut self, task: TaskId) {
        for path in self.covered.remove(&task).unwrap_or_default() {
            unwatch(self.watcher.as_mut(), &path);
        }
    }
}

fn unwatch(watcher: Option<&mut RecommendedWatcher>, path: &Path) {
    if let Some(watcher) = watcher
        && let Err(error) = watcher.unwatch(path)
    {
        tracing::trace!(path = %path.display(), %error, "its watch was gone already");
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(cause) => cause.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
