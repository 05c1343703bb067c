//! The commit that joins two lines of work: the one place that makes one, for completion, merge
//! commands and the queue.

use std::path::{Path, PathBuf};

use hayward_shared::merge::MergeSide;

use super::command::{CommandError, Fault, Git, OBJECT_TRIES};
use super::merge::{Stages, Version};
use super::repo::{Closed, CommitId, Repository, read};
use super::worktree::{EMAIL, NAME};

/// What the commit joins, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The side that is merged into: the first parent.
    pub ours: CommitId,
    /// The side that is merged: the second parent.
    pub theirs: CommitId,
    /// The tree that came of the merge.
    pub tree: String,
    /// How its conflicts are settled; none of a merge without conflicts.
    pub settled: Vec<Settled>,
    /// What the commit says.
    pub message: String,
    /// When, in seconds since 1970: the same merge made again is the same commit, unless it is
    /// signed.
    pub at: i64,
    /// Whether it is signed, as the user's configuration says how.
    pub sign: bool,
}

/// A file in conflict, settled by taking one side's version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The file.
    pub path: PathBuf,
    /// What each side has of it.
    pub stages: Stages,
    /// Whose version it is; a side that deleted the file deletes it.
    pub side: MergeSide,
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
    #[error("the merge of {theirs} into {ours} could not be recorded in {repository}")]
    Git {
        /// The repository.
        repository: PathBuf,
        /// Into which it would go.
        ours: CommitId,
        /// What would be merged.
        theirs: CommitId,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git's data cannot be read, or the tree cannot be written.
    #[error("the repository {repository} cannot be used: check it with `git fsck`")]
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
            let (place, tree, settled) = (common.clone(), join.tree.clone(), join.settled.clone());
            let (tree, has_identity) = read(move || {
                let repository = git2::Repository::open(&place)?;
                Ok((settle(&repository, tree, &settled)?, has_identity(&repository)?))
            })
            .await
            .and_then(|found| found)
            .map_err(unreadable)?;
            let output = command(&common, &join, &tree, has_identity)
                .run()
                .await
                .map_err(|source| failed(&common, &join, source))?;
            let id = git2::Oid::from_str(String::from_utf8_lossy(&output.stdout).trim());
            id.map(CommitId::from).map_err(unreadable)
        })
        .await?
    }
}

fn command(common: &Path, join: &Join, tree: &str, has_identity: bool) -> Git {
    let mut git = Git::on_repository(common)
        // what the user's editor writes may be something else
        .config("i18n.commitEncoding", "UTF-8")
        .dated(join.at)
        .args(["commit-tree", "-F", "-"])
        .stdin(tidy(&join.message).into_bytes());
    if !has_identity {
        git = git.config("user.name", NAME).config("user.email", EMAIL);
    }
    git = if join.sign { git.arg("-S").signed() } else { git.again() };
    git.args(["-p", join.ours.as_str(), "-p", join.theirs.as_str(), tree])
}

fn failed(repository: &Path, join: &Join, source: CommandError) -> JoinError {
    match &source.fault {
        Fault::TimedOut(limit) if join.sign => JoinError::NotSigned {
            stderr: format!("the signer did not answer within {} s", limit.as_secs()),
        },
        Fault::Failed { stderr, .. } if join.sign => {
            JoinError::NotSigned { stderr: stderr.trim().to_owned() }
        }
        _ => JoinError::Git {
            repository: repository.to_owned(),
            ours: join.ours.clone(),
            theirs: join.theirs.clone(),
            source,
        },
    }
}

fn has_identity(repository: &git2::Repository) -> Result<bool, git2::Error> {
    let config = repository.config()?.snapshot()?;
    let set = |key| config.get_str(key).is_ok_and(|value| !value.trim().is_empty());
    Ok(set("user.name") && set("user.email"))
}

/// The tree with the chosen versions in place of the conflicts. Tried again where a gc of the user's
/// was in the way.
fn settle(
    repository: &git2::Repository,
    tree: String,
    settled: &[Settled],
) -> Result<String, git2::Error> {
    if settled.is_empty() {
        return Ok(tree);
    }
    let whole = git2::Oid::from_str(&tree)?;
    let written = (1..OBJECT_TRIES).find_map(|_| replace(repository, whole, settled).ok());
    written.map_or_else(|| replace(repository, whole, settled), Ok).map(|tree| tree.to_string())
}

fn replace(
    repository: &git2::Repository,
    tree: git2::Oid,
    settled: &[Settled],
) -> Result<git2::Oid, git2::Error> {
    let mut index = git2::Index::new()?;
    index.read_tree(&repository.find_tree(tree)?)?;
    for Settled { path, stages, side } in settled {
        if index.get_path(path, 0).is_some() {
            index.remove(path, 0)?;
        }
        if let Some(version) = stages.of(*side) {
            index.add(&entry(path, version)?)?;
        }
    }
    index.write_tree_to(repository)
}

fn entry(path: &Path, version: &Version) -> Result<git2::IndexEntry, git2::Error> {
    let unknown = git2::IndexTime::new(0, 0);
    Ok(git2::IndexEntry {
        ctime: unknown,
        mtime: unknown,
        dev: 0,
        ino: 0,
        mode: version.mode,
        uid: 0,
        gid: 0,
        file_size: 0,
        id: git2::Oid::from_str(&version.id)?,
        flags: 0,
        flags_extended: 0,
        path: std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec(),
    })
}

/// A message as git takes it: no NUL, one line end at its end, never empty.
fn tidy(message: &str) -> String {
    let message = message.replace('\0', "\u{fffd}").replace("\r\n", "\n");
    let message = message.trim();
    format!("{}\n", if message.is_empty() { "Merge" } else { message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f30_a_message_is_never_empty_and_holds_nothing_that_git_refuses() {
        assert_eq!(tidy(" \n"), "Merge\n");
        assert_eq!(tidy("a\0b\r\n\r\nc\n\n"), "a\u{fffd}b\n\nc\n");
    }
}
