//! The commit that joins two lines of work.

use std::path::PathBuf;

use super::command::{CommandError, Fault, Git};
use super::commit::Message;
use super::repo::{Closed, CommitId, Repository, read};
use super::worktree::{EMAIL, NAME};

/// What the commit joins, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The tree that came of the merge.
    pub tree: String,
    /// The side that is merged into: the first parent.
    pub ours: CommitId,
    /// The side that is merged: the second parent.
    pub theirs: CommitId,
    /// What the commit says.
    pub message: Message,
    /// Whether it is signed, as the user's configuration says how.
    pub sign: bool,
}

/// Why there is no such commit. Nothing moved.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The signer failed or did not answer.
    #[error("the merge could not be signed: {stderr}; unlock your key, or turn `sign` off")]
    NotSigned {
        /// What the signer said.
        stderr: String,
    },
    /// Git failed.
    #[error("the merge of {repository} could not be recorded")]
    Git {
        /// The repository.
        repository: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git's data cannot be read.
    #[error("the repository {repository} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The repository.
        repository: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Repository {
    /// Writes a merge commit. No ref names it yet: [`Repository::land`] does that.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn join(&self, join: Join) -> Result<CommitId, JoinError> {
        self.in_turn(move |common| async move {
            let unreadable = |source| JoinError::Unreadable { repository: common.clone(), source };
            let place = common.clone();
            let has_identity = read(move || {
                let config = git2::Repository::open(place)?.config()?.snapshot()?;
                let set = |key| config.get_bytes(key).is_ok_and(|value| !value.is_empty());
                Ok(set("user.name") && set("user.email"))
            })
            .await
            .and_then(|found| found)
            .map_err(unreadable)?;
            let mut git = Git::on_repository(&common).args(["commit-tree", "-F", "-"]);
            if !has_identity {
                git = git.config("user.name", NAME).config("user.email", EMAIL);
            }
            if join.sign {
                git = git.arg("-S").signed();
            }
            let output = git
                .args(["-p", join.ours.as_str(), "-p", join.theirs.as_str(), &join.tree])
                .stdin(join.message.text())
                .run()
                .await
                .map_err(|source| failed(&common, join.sign, source))?;
            let id = git2::Oid::from_str(String::from_utf8_lossy(&output.stdout).trim());
            id.map(CommitId::from)
                .map_err(|source| JoinError::Unreadable { repository: common.clone(), source })
        })
        .await?
    }
}

fn failed(repository: &std::path::Path, signing: bool, source: CommandError) -> JoinError {
    match &source.fault {
        Fault::TimedOut(limit) if signing => JoinError::NotSigned {
            stderr: format!("the signer did not answer within {} s", limit.as_secs()),
        },
        Fault::Failed { stderr, .. } if signing => {
            JoinError::NotSigned { stderr: stderr.trim().to_owned() }
        }
        _ => JoinError::Git { repository: repository.to_owned(), source },
    }
}
