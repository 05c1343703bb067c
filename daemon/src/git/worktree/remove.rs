//! A worktree removed: only when nothing in it would be lost, and at once whatever its size.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::Instrument;

use super::super::command::Git;
use super::super::hidden::{reveal, unseen};
use super::super::lend::left_behind;
use super::super::modules::{self, Module, Unkeepable};
use super::super::parse::{self, Status};
use super::super::repo::{Closed, CommitId, Repository, read};
use super::walk::likeness;
use super::yard::Yard;
use super::{Record, RemoveError, leftover, look, open_own, under_way};
use crate::fault;

/// How many paths an error names: the rest is counted by the reader's own `git status`.
const MAX_NAMED: usize = 10;

impl Repository {
    /// Removes a worktree that holds nothing that would be lost. Its folder is out of sight when
    /// this returns; its bytes go with the trash. Once begun it is done even if nobody waits.
    ///
    /// # Errors
    /// [`RemoveError`] with what would be lost; nothing changed then.
    pub async fn remove(&self, worktree: &Path) -> Result<(), RemoveError> {
        let (repository, path) = (self.clone(), worktree.to_owned());
        let whole = async move {
            let held = repository.hold(&path).await;
            repository.remove_held(&held).await
        };
        let whole = tokio::spawn(whole.in_current_span());
        whole.await.map_err(|_| Closed)?
    }

    /// Waits until nobody else of this daemon makes, copies from or removes the worktree, and keeps
    /// others waiting until the answer is dropped.
    pub async fn hold(&self, worktree: &Path) -> Held {
        let _alone = self.grounds().hold(worktree).await;
        Held { path: worktree.to_owned(), _alone }
    }

    /// Lets git see all that lies in a worktree whose agent has ended, before it is removed.
    ///
    /// # Errors
    /// [`RemoveError::Git`] when its index cannot be written.
    pub async fn uncover(&self, held: &Held) -> Result<(), RemoveError> {
        let path = held.path();
        reveal(path).await.map_err(|source| RemoveError::Git { path: path.to_owned(), source })
    }

    /// [`Repository::remove`] for who holds the worktree already.
    ///
    /// # Errors
    /// [`RemoveError`] with what would be lost; nothing changed then.
    pub async fn remove_held(&self, held: &Held) -> Result<(), RemoveError> {
        self.uncover(held).await?;
        let path = held.path.clone();
        let removed = self.in_turn(move |common| async move {
            check(&common, &path).await?;
            vanish(&common, &path, None).await.map(drop)
        });
        let done = removed.await?;
        self.pool().wake();
        done
    }

    /// Whether a worktree could be removed now without losing anything. Changes nothing.
    ///
    /// # Errors
    /// [`RemoveError`] with what would be lost.
    pub async fn check_removal(&self, worktree: &Path) -> Result<(), RemoveError> {
        check(self.common_dir(), worktree).await
    }

    /// Whether a worktree holds changes that are in no commit; untracked files count.
    ///
    /// # Errors
    /// [`RemoveError`] when it cannot be told.
    pub async fn is_dirty(&self, worktree: &Path) -> Result<bool, RemoveError> {
        let (path, common) = (worktree.to_owned(), self.common_dir().to_owned());
        let inside = read(move || {
            let record = Record::of(&path)?;
            Some(modules::find(&common, record.folder(), &path).iter().any(Module::is_dirty))
        });
        if matches!(inside.await, Ok(Some(true))) {
            return Ok(true);
        }
        let path = worktree.to_owned();
        let clean = read(move || {
            let record = Record::of(&path)?;
            let repository = git2::Repository::open(&path).ok()?;
            let head = repository.head().and_then(|head| head.peel_to_commit()).ok()?.id();
            look(&path, &record, &head.into()).ok()?
        });
        if matches!(clean.await, Ok(Some(_))) {
            return Ok(false);
        }
        match refuse_dirty(worktree).await {
            Ok(()) => Ok(false),
            Err(RemoveError::Dirty { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Removes a worktree unseen: all that would be lost was kept before. Where its files are not
    /// as they were `seen` any more, it stands, and the answer is false.
    pub(in crate::git) async fn take_away(
        &self,
        held: &Held,
        seen: Option<Sight>,
    ) -> Result<bool, RemoveError> {
        let path = held.path.clone();
        let gone = self.in_turn(move |common| async move { vanish(&common, &path, seen).await });
        let done = gone.await?;
        self.pool().wake();
        done
    }
}

/// A worktree that nobody else of this daemon touches meanwhile.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    _alone: tokio::sync::OwnedMutexGuard<()>,
}

impl Held {
    /// The worktree.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Fails unless the worktree's work is safe: clean, at rest, its HEAD on a branch.
async fn check(common: &Path, path: &Path) -> Result<(), RemoveError> {
    let (place, folder) = (common.to_owned(), path.to_owned());
    let looked = read(move || removable(&place, &folder)).await.unwrap_or_else(|source| {
        Err(RemoveError::Unreadable { path: path.to_owned(), source: source.into() })
    })?;
    if looked == Looked::Unsure {
        refuse_dirty(path).await?;
    }
    Ok(())
}

/// What the files of a worktree looked like at one moment, ignored ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::git) struct Sight(u64);

impl Sight {
    /// None where it cannot be told, as there is no folder, or a closed one in it. Blocking.
    ///
    /// # Errors
    /// The disk's, as that something went meanwhile.
    pub(in crate::git) fn of(path: &Path) -> io::Result<Option<Self>> {
        if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            return Ok(None);
        }
        // whoever looks at work writes objects into the repositories inside
        match likeness(path, |path| path.ends_with(".git")) {
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            seen => seen.map(|seen| Some(Self(seen))),
        }
    }
}

async fn vanish(common: &Path, path: &Path, seen: Option<Sight>) -> Result<bool, RemoveError> {
    let (place, folder) = (common.to_owned(), path.to_owned());
    let gone = tokio::task::spawn_blocking(move || take_away(&place, &folder, seen));
    gone.await
        .map_err(io::Error::other)
        .and_then(|gone| gone)
        .map_err(|source| RemoveError::Disk { path: path.to_owned(), source })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Clean,
    Unsure,
}

async fn refuse_dirty(path: &Path) -> Result<(), RemoveError> {
    let output = Git::in_worktree(path)
        .args(["status", "--porcelain=v2", "-z", "--untracked-files=normal", "--no-renames"])
        // what is inside them is looked at in process: no git runs by their configuration
        .arg("--ignore-submodules=dirty")
        .run()
        .await
        .map_err(|source| RemoveError::Git { path: path.to_owned(), source })?;
    let entries = parse::status(&output.stdout)
        .map_err(|cause| RemoveError::Unreadable { path: path.to_owned(), source: cause.into() })?;
    if entries.is_empty() {
        let place = path.to_owned();
        let files = read(move || unseen(&place)).await.unwrap_or_default();
        if files.is_empty() {
            return Ok(());
        }
        return Err(RemoveError::Dirty { path: path.to_owned(), files });
    }
    let files = entries.into_iter().take(MAX_NAMED).map(|entry| match entry {
        Status::Tracked(tracked) => tracked.path,
        Status::Unmerged(path) | Status::Untracked(path) | Status::Ignored(path) => path,
    });
    Err(RemoveError::Dirty { path: path.to_owned(), files: files.collect() })
}

fn removable(common: &Path, path: &Path) -> Result<Looked, RemoveError> {
    let unreadable = |cause: git2::Error| RemoveError::Unreadable {
        path: path.to_owned(),
        source: cause.into(),
    };
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        return replaced_by_link(common, path);
    }
    let not_ours = || RemoveError::NotOurs(path.to_owned());
    let repository = open_own(common, path).ok_or_else(not_ours)?;
    let record = Record::of(path).ok_or_else(not_ours)?;
    if let Some(reason) = record.locked().filter(|_| record.hold().is_none()) {
        return Err(RemoveError::Locked {
            path: path.to_owned(),
            reason: reason.trim().to_owned(),
        });
    }
    refuse_inner(common, &record, path)?;
    let head = at_rest(&repository, path)?;
    let looked = look(path, &record, &head);
    let bare = repository.head_detached().map_err(unreadable)?;
    if bare {
        reachable(&repository, path, &head)?;
    }
    if let Some(left) = left_behind(&repository).map_err(unreadable)?.first() {
        return Err(RemoveError::Unreachable { path: path.to_owned(), head: (*left).into() });
    }
    Ok(if matches!(looked, Ok(Some(_))) { Looked::Clean } else { Looked::Unsure })
}

/// Fails where a submodule holds what is nowhere else.
fn refuse_inner(common: &Path, record: &Record, path: &Path) -> Result<(), RemoveError> {
    let names: Vec<PathBuf> = match modules::stakes(common, record.folder(), path) {
        Ok(stakes) => stakes.into_iter().map(|(_, stake)| stake.name).take(MAX_NAMED).collect(),
        Err(Unkeepable::Files(files)) => files.into_iter().map(Into::into).collect(),
        Err(Unkeepable::Git(cause)) => {
            return Err(RemoveError::Unreadable { path: path.to_owned(), source: cause.into() });
        }
    };
    if names.is_empty() {
        return Ok(());
    }
    Err(RemoveError::Submodules { path: path.to_owned(), names })
}

/// The commit of HEAD, when no merge or the like is under way.
fn at_rest(repository: &git2::Repository, path: &Path) -> Result<CommitId, RemoveError> {
    if let Some(what) = under_way(repository) {
        return Err(RemoveError::InProgress { path: path.to_owned(), what });
    }
    let head = repository.head().and_then(|head| head.peel_to_commit());
    let head = head
        .map_err(|cause| RemoveError::Unreadable { path: path.to_owned(), source: cause.into() })?;
    Ok(head.id().into())
}

fn reachable(
    repository: &git2::Repository,
    path: &Path,
    head: &CommitId,
) -> Result<(), RemoveError> {
    let held = head.oid().and_then(|oid| is_on_a_branch(repository, oid));
    let held = held
        .map_err(|cause| RemoveError::Unreadable { path: path.to_owned(), source: cause.into() })?;
    if held {
        return Ok(());
    }
    Err(RemoveError::Unreachable { path: path.to_owned(), head: head.clone() })
}

/// Somebody put a link in the worktree's place: its files are gone from here, so only its commits
/// can be lost.
fn replaced_by_link(common: &Path, path: &Path) -> Result<Looked, RemoveError> {
    let record = leftover::records(common, path)
        .into_iter()
        .next()
        .ok_or_else(|| RemoveError::NotOurs(path.to_owned()))?;
    refuse_inner(common, &record, path)?;
    let repository = git2::Repository::open(common)
        .map_err(|cause| RemoveError::Unreadable { path: path.to_owned(), source: cause.into() })?;
    if record.branch().is_none()
        && let Some(Ok(head)) = record.head().map(|head| head.parse::<CommitId>())
    {
        reachable(&repository, path, &head)?;
    }
    Ok(Looked::Clean)
}

fn take_away(common: &Path, path: &Path, seen: Option<Sight>) -> io::Result<bool> {
    let yard = Yard::around(path);
    let records = leftover::records(common, path);
    fault::point("worktree.remove.checked")?;
    let aside = match seen {
        Some(_) => yard.set_aside(path)?,
        None => yard.discard(path).map(|()| None)?,
    };
    // nobody finds it from here on; what was written until now shows
    if let Some(aside) = &aside
        && !Sight::of(aside).is_ok_and(|found| found == seen)
    {
        fs::rename(aside, path)?;
        return Ok(false);
    }
    fault::point("worktree.remove.renamed")?;
    records.iter().try_for_each(Record::remove)?;
    fault::point("worktree.remove.pruned")?;
    if let Some(aside) = aside {
        yard.give_up(&aside)?;
    }
    yard.forget(path)?;
    fault::point("worktree.remove.forgotten")?;
    Ok(true)
}

/// Whether a branch, local or remote, holds the commit: one walk, however many branches there are.
pub(in crate::git) fn is_on_a_branch(
    repository: &git2::Repository,
    commit: git2::Oid,
) -> Result<bool, git2::Error> {
    // where a clone was cut short is written in the common folder alone
    let whole = git2::Repository::open(repository.commondir())?;
    let mut walk = whole.revwalk()?;
    walk.push(commit)?;
    for branch in repository.branches(None)? {
        if let Ok(tip) = branch?.0.get().peel_to_commit() {
            walk.hide(tip.id())?;
        }
    }
    Ok(walk.next().is_none())
}
