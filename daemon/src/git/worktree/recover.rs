//! After a crash: what was being made, claimed or removed is taken down or finished.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::repo::{CommitId, Repositories, read};
use super::record::sweep;
use super::yard::{Note, Yard};
use super::{Hold, Record, leftover, look};

/// What a note turned out to be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// A worktree that somebody knows, or that may hold work: it stays.
    Kept,
    /// Nothing of it is left; its branch, when nothing came of it, goes too.
    Cleared,
}

impl Repositories {
    /// Repairs what a crash left in `yard`: what nobody `knows` and no agent ever had is taken
    /// down, what was being removed is gone, no branch without a commit of its own stays. Call it
    /// before any worktree is made or claimed; the trash is emptied later, by [`Self::tend`].
    ///
    /// What cannot be repaired is said in the log and left for the next start.
    pub async fn recover(&self, yard: &Yard, known: impl Fn(&Path) -> bool) {
        let place = yard.clone();
        if let Err(cause) = read(move || bring_back(&place)).await {
            tracing::warn!(%cause, "what was set aside is left there");
        }
        let notes = yard.notes();
        let repositories: BTreeSet<PathBuf> =
            notes.iter().map(|(_, note)| note.common.clone()).collect();
        for common in repositories.into_iter().filter(|common| common.is_dir()) {
            if let Err(cause) = sweep(&common) {
                tracing::warn!(repository = %common.display(), %cause, "leftovers are left");
            }
        }
        for (path, note) in notes {
            let (place, is_known) = (path.clone(), known(&path));
            let (at, held) = (yard.clone(), note.clone());
            let found = read(move || settle(&at, &place, &held, is_known)).await;
            match found {
                Ok(Ok(Finding::Kept)) => {}
                Ok(Ok(Finding::Cleared)) => finish(yard, &path, &note, is_known).await,
                Ok(Err(cause)) => {
                    tracing::warn!(path = %path.display(), %cause, "a leftover cannot be cleared");
                }
                Err(cause) => tracing::warn!(%cause, "a leftover cannot be cleared"),
            }
        }
        self.pool().recover(yard).await;
    }
}

/// Puts worktrees back that were set aside for a last look when the daemon died.
fn bring_back(yard: &Yard) {
    for aside in yard.aside() {
        let settled = match Record::of(&aside).and_then(|record| record.path()) {
            Some(path)
                if path.parent() == Some(yard.root()) && path.symlink_metadata().is_err() =>
            {
                fs::rename(&aside, &path)
            }
            Some(_) => Err(io::Error::other("its place is taken, or not here")),
            // it had been looked at: its record goes after that
            None => yard.give_up(&aside),
        };
        if let Err(cause) = settled {
            tracing::warn!(path = %aside.display(), %cause, "what was set aside is left there");
        }
    }
}

fn settle(yard: &Yard, path: &Path, note: &Note, known: bool) -> std::io::Result<Finding> {
    let common = &note.common;
    if !common.is_dir() {
        // the repository itself is gone: what stands here is nobody's but the user's
        return Ok(if path.symlink_metadata().is_ok() { Finding::Kept } else { Finding::Cleared });
    }
    if let Some(branch) = &note.branch {
        leftover::unlock_branch(common, branch)?;
    }
    let is_whole = |record: Record| matches!(record.hold(), None | Some(Hold::Awaiting));
    if known && Record::of(path).is_some_and(is_whole) {
        return Ok(Finding::Kept);
    }
    let records = leftover::records(common, path);
    let exists = path.symlink_metadata().is_ok();
    // a lock of ours was never handed over
    let ours_alone = records.iter().any(|record| record.hold().is_some());
    let untouched = || records.iter().any(|record| is_untouched(path, record, note));
    let never_entered = records.is_empty() && leftover::is_empty_or_dangling(common, path);
    if exists && !ours_alone && !never_entered && (known || !untouched()) {
        return Ok(Finding::Kept);
    }
    leftover::take_down(common, yard, path)?;
    Ok(Finding::Cleared)
}

/// Whether a finished worktree is as it was made: at its commit, on its branch, every file as git
/// wrote it. Then nothing is lost with it.
fn is_untouched(path: &Path, record: &Record, note: &Note) -> bool {
    let Ok(commit) = note.commit.parse::<CommitId>() else { return false };
    let stands = match (&note.branch, record.branch()) {
        (Some(wanted), Some(on)) => {
            let (repository, at) = (git2::Repository::open(&note.common), commit.oid());
            let is_untouched = |repository: git2::Repository| {
                at.is_ok_and(|at| leftover::is_untouched(&repository, wanted, at))
            };
            *wanted == on && repository.is_ok_and(is_untouched)
        }
        (None, None) => record.head().as_deref() == Some(commit.as_str()),
        _ => false,
    };
    stands && matches!(look(path, record, &commit), Ok(Some(_)))
}

/// Drops what the note tells of: the branch, unless its task is known, and the note itself.
async fn finish(yard: &Yard, path: &Path, note: &Note, known: bool) {
    if !known
        && note.common.is_dir()
        && let (Some(branch), Ok(commit)) = (&note.branch, note.commit.parse())
        && let Err(cause) = leftover::drop_untouched(&note.common, branch, &commit).await
    {
        tracing::warn!(branch, %cause, "a branch without work is left");
        return;
    }
    if let Err(cause) = yard.forget(path) {
        tracing::warn!(path = %path.display(), %cause, "a note is left");
    }
}

/// The places of a pool that are ready, found again; all else of it is taken down.
pub(in crate::git) fn ready_places(
    yard: &Yard,
    common: &Path,
) -> std::io::Result<Vec<(PathBuf, Record, String)>> {
    let folder = yard.pool_of(common);
    sweep(common)?;
    let mut ready = Vec::new();
    for record in Record::all(common) {
        let Some(path) = record.path().filter(|path| path.parent() == Some(&folder)) else {
            continue;
        };
        match record.hold() {
            Some(Hold::Ready(stamp)) if path.is_dir() => ready.push((path, record, stamp)),
            // a claim that had moved the folder on has a note of its own
            _ => leftover::take_down(common, yard, &path)?,
        }
    }
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() && !ready.iter().any(|(place, _, _)| *place == path) {
            yard.discard(&path)?;
        }
    }
    Ok(ready)
}
