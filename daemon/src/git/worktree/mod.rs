//! Worktrees: made at an exact commit or not at all, let go, and removed when nothing is lost.
//!
//! What the repository records is written in its turn and in process (`begin`, `record`); the files are
//! written outside of it, so that many worktrees are made at once (`create`). Notes in the
//! `yard` are what a crash is repaired by.

mod begin;
mod contents;
mod create;
mod error;
mod files;
mod grounds;
mod hand;
mod index;
pub(in crate::git) mod leftover;
mod plain;
mod pristine;
mod record;
mod recover;
mod remove;
mod scratch;
mod seed;
mod source;
mod staged;
mod walk;
mod yard;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::branch::{BranchName, Choice};
use super::command::{CommandError, Git};
use super::parse::{self, Listed};
use super::repo::{CommitId, Repository, read};

pub(in crate::git) use begin::{Ground, enter, make_branch, on_ground};
pub(in crate::git) use contents::MAX_HELD;
pub(in crate::git) use create::{blocking, cold, confirm, disk, point, undo};
pub use error::{DropError, ListError, ReleaseError, RemoveError, WorktreeError};
pub(in crate::git) use files::{check_out, write_files};
pub(in crate::git) use grounds::Grounds;
pub use hand::{await_task, hand_over, withhold};
pub(in crate::git) use pristine::{Stamp, is_content, look};
pub(in crate::git) use record::{Hold, Record};
pub(in crate::git) use recover::ready_places;
pub use remove::Held;
pub(in crate::git) use remove::{Sight, is_on_a_branch};
pub(in crate::git) use walk::likeness;
pub use yard::Yard;
pub(in crate::git) use yard::digest;

/// The name under which Hayward signs reflogs and, where the user has none, commits.
pub(super) const NAME: &str = "Hayward";

/// The address beside [`NAME`].
pub(super) const EMAIL: &str = "hayward@localhost";

/// So long whoever starts a thread waits for it to begin beside: a tick of the slowest clock.
const BEGINS: Duration = Duration::from_millis(10);

/// A worktree to be made.
///
/// Its folder must be absent or empty, or hold what an attempt that was cut off left there: then
/// it is made anew, so no agent may be at work there. A folder with anything else in it is never
/// touched.
#[derive(Clone, Debug)]
pub struct NewWorktree {
    /// Its folder, absolute.
    pub path: PathBuf,
    /// The commit that was recorded when the task was handed out.
    pub commit: CommitId,
    /// The branch to make, none for a detached HEAD.
    pub branch: Option<BranchName>,
}

/// A worktree that stands, verified to be at its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worktree {
    /// Its folder.
    pub path: PathBuf,
    /// Where its HEAD stands.
    pub commit: CommitId,
    /// Its branch, with the reason when it is not the wanted one.
    pub branch: Option<Choice>,
}

impl Repository {
    /// All worktrees of the repository, the main one first.
    ///
    /// # Errors
    /// [`ListError`] when git fails.
    pub async fn worktrees(&self) -> Result<Vec<Listed>, ListError> {
        let output = Git::on_repository(self.common_dir())
            .args(["worktree", "list", "--porcelain", "-z"])
            .run()
            .await
            .map_err(ListError::Git)?;
        parse::worktrees(&output.stdout).map_err(ListError::Parse)
    }

    /// Detaches HEAD of a worktree, so that its branch can be checked out elsewhere.
    ///
    /// # Errors
    /// [`ReleaseError`] when it is no worktree of this repository.
    pub async fn release(&self, worktree: &Path) -> Result<(), ReleaseError> {
        let path = worktree.to_owned();
        self.in_turn(move |common| async move { release(&common, &path).await }).await?
    }

    /// Deletes a branch of ours that holds nothing: one that still stands `at` the commit at which
    /// it was made. A branch that moved, or is gone, stays as it is.
    ///
    /// # Errors
    /// [`DropError`] when git fails.
    pub async fn drop_branch(&self, name: &str, at: &CommitId) -> Result<(), DropError> {
        let (name, at) = (name.to_owned(), at.clone());
        self.in_turn(move |common| async move { drop_branch(&common, &name, &at).await }).await?
    }
}

/// Deletes a branch only if it still stands at `commit`; of one that stands for another, itself.
async fn delete_branch(common: &Path, name: &str, commit: &CommitId) -> Result<(), CommandError> {
    Git::on_repository(common)
        .args(["update-ref", "--no-deref", "-d"])
        .arg(format!("refs/heads/{name}"))
        .arg(commit.as_str())
        .run()
        .await
        .map(|_| ())
}

/// Deletes a branch that still stands at `at`, and leaves any other alone, also one that stands for
/// another.
async fn drop_branch(common: &Path, name: &str, at: &CommitId) -> Result<(), DropError> {
    let (place, reference, commit) = (common.to_owned(), format!("refs/heads/{name}"), at.clone());
    let stands = read(move || {
        let repository = git2::Repository::open(&place)?;
        Ok(repository.find_reference(&reference)?.target() == Some(commit.oid()?))
    })
    .await
    .and_then(|stands| stands)
    .unwrap_or(false);
    if !stands {
        return Ok(());
    }
    delete_branch(common, name, at)
        .await
        .map_err(|source| DropError::Git { name: name.to_owned(), source })
}

/// Opens `path` if it is a linked worktree of the repository whose common folder is `common`.
pub(super) fn open_own(common: &Path, path: &Path) -> Option<git2::Repository> {
    let repository = git2::Repository::open(path).ok()?;
    let same = repository.commondir().canonicalize().ok()? == *common;
    (same && repository.is_worktree()).then_some(repository)
}

/// Points HEAD of the worktree at its commit itself; index and files stay as they are.
async fn release(common: &Path, path: &Path) -> Result<(), ReleaseError> {
    let (place, folder) = (common.to_owned(), path.to_owned());
    let head = read(move || {
        let repository = open_own(&place, &folder)?;
        let head = repository.head().and_then(|head| head.peel_to_commit()).ok()?;
        Some((CommitId::from(head.id()), repository.head_detached().unwrap_or(false)))
    })
    .await;
    let Ok(Some((head, detached))) = head else {
        return Err(ReleaseError::NotOurs(path.to_owned()));
    };
    if detached {
        return Ok(());
    }
    detach(path, &head).await.map_err(|source| ReleaseError::Git { path: path.to_owned(), source })
}

pub(super) async fn detach(path: &Path, head: &CommitId) -> Result<(), CommandError> {
    Git::in_worktree(path)
        .committer(NAME, EMAIL)
        .args(["update-ref", "--no-deref", "-m", "hayward: release the branch", "HEAD"])
        .arg(head.as_str())
        .run()
        .await
        .map(|_| ())
}

/// What is under way in a repository, in a word for people.
pub(super) fn under_way(repository: &git2::Repository) -> Option<&'static str> {
    use git2::RepositoryState as State;
    match repository.state() {
        State::Clean => None,
        State::Merge => Some("merge"),
        State::Revert | State::RevertSequence => Some("revert"),
        State::CherryPick | State::CherryPickSequence => Some("cherry-pick"),
        State::Bisect => Some("bisect"),
        State::Rebase | State::RebaseInteractive | State::RebaseMerge => Some("rebase"),
        State::ApplyMailbox | State::ApplyMailboxOrRebase => Some("mailbox patch"),
    }
}
