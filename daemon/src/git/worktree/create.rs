//! A worktree made from nothing: begun in the repository's turn, its files written outside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::Instrument;

use super::super::branch::Choice;
use super::super::repo::{Repository, read};
use super::begin::{Begun, Ground, begin};
use super::files::{Ahead, write_files};
use super::yard::Yard;
use super::{NewWorktree, Record, Worktree, WorktreeError, leftover};
use crate::fault;

impl Repository {
    /// Makes a worktree; see [`NewWorktree`]. Once begun it is done even if nobody waits.
    ///
    /// # Errors
    /// [`WorktreeError`]; nothing of the attempt is left then.
    pub async fn create(&self, new: NewWorktree) -> Result<Worktree, WorktreeError> {
        let repository = self.clone();
        // a caller who goes away must leave no half of a worktree; git's time limit ends it
        let whole = async move {
            let _alone = repository.grounds().hold(&new.path).await;
            cold(&repository, &new).await
        };
        let whole = tokio::spawn(whole.in_current_span());
        whole.await.map_err(|_| super::super::repo::Closed)?
    }

    /// Takes down a worktree that was just made for `new` and that no agent has seen, with its
    /// branch if that has not moved. What cannot be taken down is left for the next start.
    pub async fn take_down(&self, new: NewWorktree, branch: Option<Choice>) {
        let repository = self.clone();
        let whole = async move {
            let _alone = repository.grounds().hold(&new.path).await;
            undo(&repository, &new, branch).await;
        };
        let whole = tokio::spawn(whole.in_current_span());
        if let Err(cause) = whole.await {
            tracing::warn!(%cause, "a worktree is left");
        }
    }
}

/// Makes it without the pool. The caller holds its folder.
pub(in crate::git) async fn cold(
    repository: &Repository,
    new: &NewWorktree,
) -> Result<Worktree, WorktreeError> {
    let Begun { record, ground: Ground { choice, opened, .. }, reading } =
        begin(repository, new).await?;
    let ahead = match reading {
        Some(reading) => reading.await.ok(),
        None => None,
    };
    match build(repository, new, &record, choice.as_ref(), (ahead, opened)).await {
        Ok(()) => {
            Ok(Worktree { path: new.path.clone(), commit: new.commit.clone(), branch: choice })
        }
        Err(failure) => {
            undo(repository, new, choice).await;
            Err(failure)
        }
    }
}

/// Writes its files, looks where it stands, hands it over.
async fn build(
    repository: &Repository,
    new: &NewWorktree,
    record: &Record,
    choice: Option<&Choice>,
    (ahead, opened): (Option<Ahead>, git2::Repository),
) -> Result<(), WorktreeError> {
    write_files(repository, &new.path, &new.commit, ahead, Some(opened)).await?;
    point("worktree.create.filled", &new.path)?;
    // only now: a git that writes files may leave it elsewhere
    if !is_as_made(repository.common_dir(), record, new, choice) {
        confirm(new, choice.map(|choice| choice.name.clone())).await?;
    }
    record.unlock().map_err(disk("hand over", &new.path))?;
    point("worktree.create.unlocked", &new.path)
}

/// Whether HEAD and its branch are, to the letter, what was written there: then it need not be worked out
/// where they lead, which takes a repository to be opened. False where that is not to be told so.
fn is_as_made(common: &Path, record: &Record, new: &NewWorktree, choice: Option<&Choice>) -> bool {
    let Some(choice) = choice else { return false };
    let loose = common.join("refs/heads").join(&choice.name);
    record.branch().as_ref() == Some(&choice.name)
        && fs::read(loose).is_ok_and(|it| it == format!("{}\n", new.commit).as_bytes())
}

/// Looks whether the worktree stands where it should, on its branch.
pub(in crate::git) async fn confirm(
    new: &NewWorktree,
    branch: Option<String>,
) -> Result<(), WorktreeError> {
    let path = new.path.clone();
    let found = read(move || standing(&path, branch.as_deref()))
        .await
        .and_then(|found| found)
        .map_err(|source| WorktreeError::Unreadable { path: new.path.clone(), source })?;
    if found != new.commit.as_str() {
        let (path, wanted) = (new.path.clone(), new.commit.clone());
        return Err(WorktreeError::WrongCommit { path, wanted, found });
    }
    Ok(())
}

/// The commit of the worktree's HEAD, or the name of a branch that should not be there.
fn standing(path: &Path, branch: Option<&str>) -> Result<String, git2::Error> {
    let repository = git2::Repository::open(path)?;
    let head = repository.head()?;
    let on = head.is_branch().then(|| String::from_utf8_lossy(head.shorthand_bytes()).into_owned());
    if on.as_deref() != branch {
        return Ok(on.unwrap_or_else(|| "no branch".to_owned()));
    }
    Ok(head.peel_to_commit()?.id().to_string())
}

/// Takes down what a failed attempt made. What cannot be taken down is said in the log, and its
/// note stays: the next start takes it down. The branch goes only when it is ours by its log and
/// nothing came of it.
pub(in crate::git) async fn undo(
    repository: &Repository,
    new: &NewWorktree,
    choice: Option<Choice>,
) {
    let new = new.clone();
    let undone = repository.in_turn(move |common| async move {
        let (path, branch) = (new.path.clone(), choice.map(|choice| choice.name));
        let cleared = blocking({
            let common = common.clone();
            move || leftover::take_down(&common, &Yard::around(&path), &path)
        });
        let cleared = cleared.await.inspect_err(|cause| {
            tracing::warn!(path = %new.path.display(), %cause, "a failed worktree is left");
        });
        if let Some(branch) = branch
            && let Err(cause) = leftover::drop_untouched(&common, &branch, &new.commit).await
        {
            tracing::warn!(branch, %cause, "the branch of a failed worktree is left");
            return;
        }
        if cleared.is_ok()
            && let Err(cause) = Yard::around(&new.path).forget(&new.path)
        {
            tracing::warn!(path = %new.path.display(), %cause, "a note is left");
        }
    });
    if undone.await.is_err() {
        tracing::warn!("a failed worktree is left: the daemon is shutting down");
    }
}

/// Does what blocks on a thread where blocking is allowed.
pub(in crate::git) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// An error of the disk, with what was tried on which folder.
pub(in crate::git) fn disk(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> WorktreeError {
    let path: PathBuf = path.to_owned();
    move |source| WorktreeError::Disk { doing, path, source }
}

/// Passes a point of the tests. Always in its caller's place, or its name would be in the shipped
/// binary.
#[inline(always)]
pub(in crate::git) fn point(name: &str, path: &Path) -> Result<(), WorktreeError> {
    fault::point(name).map_err(disk("go on with", path))
}
