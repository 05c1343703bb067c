//! One look at the worktrees of a repository: what was touched is taken anew, and the pairs that
//! this concerns are compared.

use super::index::{Two, two};
use super::watcher::{Touched, Watcher};
use crate::git::aside::Aside;
use crate::git::overlap::Clash;
use crate::git::snapshot::{Again, Snapshot};
use crate::git::{CommitId, Repository};
use hayward_shared::id::TaskId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is looked at.
pub(super) struct Look {
    pub(super) repository: Repository,
    pub(super) aside: Aside,
    pub(super) subjects: Vec<Subject>,
    /// The newest snapshots of all live worktrees of the repository.
    pub(super) known: BTreeMap<TaskId, Arc<Snapshot>>,
    /// Which commits of a pair were compared last.
    pub(super) compared: BTreeMap<Two, (CommitId, CommitId)>,
}

/// A worktree to take anew.
pub(super) struct Subject {
    pub(super) task: TaskId,
    pub(super) path: PathBuf,
    pub(super) base: CommitId,
    pub(super) touched: Touched,
    /// Whether it is watched; none before it was tried.
    pub(super) watched: Option<bool>,
}

/// What came of it.
pub(super) struct Seen {
    pub(super) subject: Subject,
    /// None when it could not be read; it is tried again.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) took: Duration,
}

/// A pair as it is now.
pub(super) struct Compared {
    pub(super) tasks: Two,
    pub(super) commits: (CommitId, CommitId),
    pub(super) clashes: Vec<Clash>,
}

/// Looks. Watches are in place before a worktree is read, so that no write falls between.
pub(super) async fn look(look: Look, watcher: Arc<Watcher>) -> (Vec<Seen>, Vec<Compared>) {
    let Look { repository, aside, subjects, mut known, compared } = look;
    let mut seen = Vec::new();
    for subject in subjects {
        let begun = Instant::now();
        let subject = watch(subject, watcher.clone()).await;
        let former = known.get(&subject.task).filter(|_| !subject.touched.all).cloned();
        let touched = subject.touched.paths.iter().cloned().collect();
        let again = former.map(|former| Again { former, touched });
        let taken = repository.snapshot_aside(&subject.path, &subject.base, &aside, again).await;
        let snapshot = match taken {
            Ok(snapshot) => Some(Arc::new(snapshot)),
            Err(error) => {
                let text = chain(&error);
                tracing::debug!(task = %subject.task, text, "a live worktree cannot be read now");
                None
            }
        };
        match &snapshot {
            Some(snapshot) => drop(known.insert(subject.task, snapshot.clone())),
            None => drop(known.remove(&subject.task)),
        }
        seen.push(Seen { subject, snapshot, took: begun.elapsed() });
    }
    let mut pairs: BTreeMap<Two, (Arc<Snapshot>, Arc<Snapshot>)> = BTreeMap::new();
    for task in seen.iter().map(|seen| seen.subject.task) {
        for other in known.keys().filter(|other| **other != task) {
            let tasks = two(task, *other);
            if let (Some(one), Some(two)) = (known.get(&tasks.0), known.get(&tasks.1))
                && compared.get(&tasks) != Some(&(one.commit.clone(), two.commit.clone()))
            {
                pairs.insert(tasks, (one.clone(), two.clone()));
            }
        }
    }
    let asked = pairs.values().cloned().collect();
    let found = match repository.overlap(&aside, asked).await {
        Ok(found) => found,
        Err(error) => {
            let text = chain(&error);
            tracing::warn!(repository = %repository.common_dir().display(), text, "not compared");
            return (seen, Vec::new());
        }
    };
    let compared = pairs
        .into_iter()
        .zip(found)
        .map(|((tasks, (one, two)), clashes)| Compared {
            tasks,
            commits: (one.commit.clone(), two.commit.clone()),
            clashes,
        })
        .collect();
    (seen, compared)
}

async fn watch(mut subject: Subject, watcher: Arc<Watcher>) -> Subject {
    let (task, root) = (subject.task, subject.path.clone());
    let touched = subject.touched.paths.clone();
    let watching = match subject.watched {
        Some(true) => tokio::task::spawn_blocking(move || watcher.extend(task, &root, &touched)),
        // what is polled is read as a whole: nothing falls between that and its watches
        Some(false) | None => tokio::task::spawn_blocking(move || {
            if !watcher.may_fit(task) {
                return false;
            }
            let git_dir = git_dir(&root);
            git_dir.is_some_and(|git_dir| watcher.cover(task, &root, &git_dir))
        }),
    };
    subject.watched = Some(watching.await.unwrap_or(false));
    subject
}

/// Git's own folder of a worktree, as its `.git` file says.
fn git_dir(root: &std::path::Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(root.join(".git")).ok()?;
    let named = root.join(text.strip_prefix("gitdir:")?.trim());
    named.canonicalize().ok()
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
