//! Why a landing was refused.

use std::io;
use std::path::PathBuf;

use crate::git::command::CommandError;
use crate::git::parse::ParseError;
use crate::git::repo::{Closed, CommitId};

/// Why nothing was landed. Branch, index and files are as they were.
#[derive(Debug, thiserror::Error)]
pub enum LandError {
    /// There is no such branch.
    #[error("there is no branch '{0}' to land on: make it first")]
    NoBranch(String),
    /// The branch moved meanwhile.
    #[error("'{branch}' stands at {found}, no longer at {expected}: merge into what it is now")]
    Moved {
        /// The branch.
        branch: String,
        /// Where it was expected.
        expected: CommitId,
        /// Where it stands.
        found: CommitId,
    },
    /// The new commit does not hold the branch's work.
    #[error("{to} does not descend from '{branch}': merge '{branch}' into it first")]
    NotForward {
        /// The branch.
        branch: String,
        /// Where it was to go.
        to: CommitId,
    },
    /// The new commit is not there: no ref holds it, and git cleared it away.
    #[error("{to}, to which '{branch}' was to go, is no longer there: merge anew")]
    Gone {
        /// The branch.
        branch: String,
        /// Where it was to go.
        to: CommitId,
    },
    /// Files of the work tree would be lost or mixed up.
    #[error(
        "'{branch}' is checked out in {path}, where changes are in the way ({}): \
         commit them or put them away first", named(.files)
    )]
    InTheWay {
        /// The branch.
        branch: String,
        /// The work tree.
        path: PathBuf,
        /// The files, at most twenty.
        files: Vec<PathBuf>,
    },
    /// A merge, rebase or the like of the branch is under way.
    #[error("'{branch}' is in the middle of a {what} in {path}: finish or abort it there first")]
    InProgress {
        /// The branch.
        branch: String,
        /// The work tree.
        path: PathBuf,
        /// What is under way.
        what: &'static str,
    },
    /// Several work trees have the branch checked out.
    #[error("'{branch}' is checked out in {} and {}: leave it in one of them", .one.display(), .two.display())]
    Twice {
        /// The branch.
        branch: String,
        /// One work tree.
        one: PathBuf,
        /// Another.
        two: PathBuf,
    },
    /// Another git holds the index, or one that was killed left its lock.
    #[error("{0} exists: end the git that runs there, or remove the file if none does")]
    IndexLocked(PathBuf),
    /// The disk or quota is full.
    #[error("no space is left to land on '{branch}': free some, then try again")]
    DiskFull {
        /// The branch.
        branch: String,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git failed otherwise.
    #[error("'{branch}' could not be moved")]
    Git {
        /// The branch.
        branch: String,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git wrote something unknown.
    #[error("the state of {path} could not be read")]
    Parse {
        /// The work tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// Git's data cannot be read.
    #[error("{path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The repository or work tree.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// A test asked for it.
    #[error("landing on '{branch}' was stopped")]
    Stopped {
        /// The branch.
        branch: String,
        /// What the test asked for.
        #[source]
        source: io::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

fn named(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

impl LandError {
    /// The files that are in the way, if that is why.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::InTheWay { files, .. } => files,
            _ => &[],
        }
    }
}
