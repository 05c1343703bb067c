//! Why a worktree was not made, let go, listed or removed.

use std::io;
use std::path::PathBuf;

use super::super::command::CommandError;
use super::super::parse::ParseError;
use super::super::repo::{Closed, CommitId};

/// Why no worktree was made. Nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// The repository does not hold the commit.
    #[error("the repository {repository} has no commit {commit}: fetch it first")]
    UnknownCommit {
        /// The repository.
        repository: PathBuf,
        /// The commit.
        commit: CommitId,
    },
    /// The folder holds something that is not ours to delete.
    #[error("{path} holds '{found}', which git does not explain: move it away")]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The first thing found there.
        found: PathBuf,
    },
    /// HEAD is not at the commit that was asked for.
    #[error("the worktree {path} stood at {found} instead of {wanted} and was taken down: retry")]
    WrongCommit {
        /// The folder.
        path: PathBuf,
        /// The commit that was asked for.
        wanted: CommitId,
        /// Where HEAD stood.
        found: String,
    },
    /// Git failed.
    #[error("the worktree {path} could not be made")]
    Git {
        /// The folder.
        path: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git's data cannot be read.
    #[error("the repository {path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The repository or worktree.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The disk refused.
    #[error("cannot {doing} {path}: check the disk and the rights there")]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What a former attempt left could not be cleared away.
    #[error("{path} could not be cleared of a former attempt: check its owner and rights")]
    Uncleared {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why a worktree was not let go.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The folder is no worktree of this repository.
    #[error("{0} is no worktree of this repository: nothing to release")]
    NotOurs(PathBuf),
    /// Git failed.
    #[error("the branch of {path} could not be released")]
    Git {
        /// The folder.
        path: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why a worktree was not removed. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The folder is no worktree of this repository, or the main checkout.
    #[error("{0} is no worktree of this repository: nothing to remove")]
    NotOurs(PathBuf),
    /// It holds changes that are in no commit.
    #[error("{path} holds uncommitted work ({}): commit it or discard it first", list(.files))]
    Dirty {
        /// The folder.
        path: PathBuf,
        /// The first ten changed files.
        files: Vec<PathBuf>,
    },
    /// Its commits are on no branch.
    #[error("{path} stood at {head}, which is on no branch: make a branch of it first")]
    Unreachable {
        /// The folder.
        path: PathBuf,
        /// Its commit.
        head: CommitId,
    },
    /// A merge, rebase or the like is under way in it.
    #[error("{path} is in the middle of a {what}: finish or abort it first")]
    InProgress {
        /// The folder.
        path: PathBuf,
        /// What is under way.
        what: &'static str,
    },
    /// The user locked it.
    #[error("{path} is locked ({reason}): run `git worktree unlock` there first")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What was said when it was locked; may be empty.
        reason: String,
    },
    /// Submodules in it hold work that is nowhere else.
    #[error("{path} has work in submodules that is nowhere else ({}): push it first", list(.names))]
    Submodules {
        /// The folder.
        path: PathBuf,
        /// The submodules, or what of them cannot be kept.
        names: Vec<PathBuf>,
    },
    /// The disk refused.
    #[error("the worktree {path} could not be moved away: check the disk and the rights there")]
    Disk {
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Git failed.
    #[error("the worktree {path} could not be removed")]
    Git {
        /// The folder.
        path: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git's output or data cannot be read.
    #[error("the worktree {path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why an empty branch was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// Git failed.
    #[error("the empty branch '{name}' could not be deleted")]
    Git {
        /// The branch.
        name: String,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why the worktrees could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Git failed.
    #[error("the worktrees could not be listed")]
    Git(#[source] CommandError),
    /// Git wrote something unknown.
    #[error("the list of worktrees could not be read")]
    Parse(#[source] ParseError),
}

fn list(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}
