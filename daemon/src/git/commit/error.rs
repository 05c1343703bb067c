//! Why work was not committed.

use std::path::PathBuf;

use crate::git::command::CommandError;
use crate::git::parse::ParseError;
use crate::git::repo::Closed;

/// Why the work was not committed. The files of the worktree are as they were.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The folder is no worktree of this repository.
    #[error("{0} is no worktree of this repository: its work was not committed")]
    NotOurs(PathBuf),
    /// A merge, rebase or the like is under way.
    #[error("{path} is in the middle of a {what}: finish or abort it there, then commit again")]
    InProgress {
        /// The worktree.
        path: PathBuf,
        /// What is under way.
        what: &'static str,
    },
    /// Files have unresolved conflicts.
    #[error("{path} has {} unresolved conflicts: resolve them, then commit again", .files.len())]
    Conflicted {
        /// The worktree.
        path: PathBuf,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// HEAD left the task's branch and its commits.
    #[error(
        "{path} is on {found} without the commits of '{branch}': merge or check out the branch"
    )]
    Strayed {
        /// The worktree.
        path: PathBuf,
        /// The task's branch.
        branch: String,
        /// Where HEAD is.
        found: String,
    },
    /// The task's branch is checked out elsewhere, so it must not be moved.
    #[error(
        "'{branch}' is checked out in another folder: leave it there, then commit {path} again"
    )]
    BranchInUse {
        /// The worktree.
        path: PathBuf,
        /// The task's branch.
        branch: String,
    },
    /// A hook of the repository refused.
    #[error("a hook of the repository blocked the commit in {path}: {stderr}")]
    Blocked {
        /// The worktree.
        path: PathBuf,
        /// What the hook said, its end.
        stderr: String,
    },
    /// The signer failed, or did not answer.
    #[error("the commit in {path} could not be signed: unlock your key, or turn `sign` off")]
    NotSigned {
        /// The worktree.
        path: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Another git holds the index, or one that was killed left its lock.
    #[error("{lock} exists: end the git that runs there, or remove the file if none does")]
    IndexLocked {
        /// The lock.
        lock: PathBuf,
        /// The command that met it.
        #[source]
        source: CommandError,
    },
    /// The disk or quota is full.
    #[error("no space is left to commit {path}: free some, then commit again")]
    DiskFull {
        /// The worktree.
        path: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git failed otherwise.
    #[error("the work in {path} could not be committed")]
    Git {
        /// The worktree.
        path: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git wrote something unknown.
    #[error("the state of {path} could not be read")]
    Parse {
        /// The worktree.
        path: PathBuf,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// Git's data cannot be read.
    #[error("the worktree {path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The worktree.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}
