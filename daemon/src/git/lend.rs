//! A repository of a task's own, which borrows the objects of the user's: where agents must not
//! reach the user's configuration, refs and hooks.
//!
//! It is bare, lies beside our clones, and the task's worktree is one of its. What comes of the
//! task is fetched into the user's repository under its branch; nothing else ever goes there but
//! one ref under `refs/hayward/lent/`, which keeps the borrowed commits from being cleaned away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::command::{CommandError, Git};
use super::repo::{Closed, CommitId, Repository, read};
use super::worktree::{EMAIL, NAME};

/// Where the user's branches stand in a lent repository.
const LOCAL: &str = "refs/remotes/local/";

/// Why no repository was lent, or nothing came back from one.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// Its folder could not be made.
    #[error("a repository of the task's own could not be made in {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Git failed.
    #[error("a repository of the task's own could not be made, or its work not brought back")]
    Git(#[source] CommandError),
    /// Git's data cannot be read or written.
    #[error("the repository {path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The repository.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Repository {
    /// Makes a repository at `to` that borrows this one's objects and holds `commit`. One that is
    /// there is of an attempt that came no further, and is made anew.
    ///
    /// # Errors
    /// [`LendError`]; a half-made one is cleared away by the next attempt.
    pub async fn lend(&self, commit: &CommitId, to: &Path) -> Result<(), LendError> {
        let (commit, to) = (commit.clone(), to.to_owned());
        self.in_turn(move |common| async move {
            let folder = |source| LendError::Folder { path: to.clone(), source };
            let aside = to.with_extension("new");
            for old in [&aside, &to] {
                match fs::remove_dir_all(old) {
                    Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                        return Err(folder(cause));
                    }
                    _ => {}
                }
            }
            // borrowed first: from now on nobody cleans the commit away
            Git::on_repository(&common)
                .committer(NAME, EMAIL)
                .args(["update-ref", &kept(&to), commit.as_str()])
                .run()
                .await
                .map_err(LendError::Git)?;
            fs::create_dir_all(&aside).map_err(folder)?;
            let (from, into) = (common.clone(), aside.clone());
            read(move || furnish(&from, &into, &commit))
                .await
                .and_then(|done| done)
                .map_err(|source| LendError::Unreadable { path: common.clone(), source })?;
            fs::rename(&aside, &to).map_err(folder)
        })
        .await?
    }

    /// Fetches a branch of a repository that was lent, which holds this one's branch of the same
    /// name, if there is one.
    ///
    /// # Errors
    /// [`LendError`]; the branch stands as it stood then.
    pub async fn take_home(&self, lent: &Path, branch: &str) -> Result<(), LendError> {
        let (lent, name) = (lent.to_owned(), format!("refs/heads/{branch}"));
        self.in_turn(move |common| async move {
            Git::on_repository(&common)
                .config("protocol.file.allow", "always")
                .config("core.logAllRefUpdates", "true")
                .committer(NAME, EMAIL)
                .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-gc"])
                .args(["--upload-pack=git-upload-pack", "--"])
                .arg(&lent)
                .arg(format!("{name}:{name}"))
                .run()
                .await
                .map(|_| ())
                .map_err(LendError::Git)
        })
        .await?
    }

    /// Forgets a repository that was lent and is no longer needed: its folder, and the ref that
    /// kept what it borrowed.
    ///
    /// # Errors
    /// [`LendError`]; doing it again is harmless.
    pub async fn call_in(&self, lent: &Path) -> Result<(), LendError> {
        let to = lent.to_owned();
        self.in_turn(move |common| async move {
            match fs::remove_dir_all(&to) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LendError::Folder { path: to, source });
                }
                _ => {}
            }
            Git::on_repository(&common)
                .args(["update-ref", "-d", &kept(&to)])
                .run()
                .await
                .map(|_| ())
                .map_err(LendError::Git)
        })
        .await?
    }
}

/// The ref that keeps what a lent repository borrows.
fn kept(lent: &Path) -> String {
    let name = lent.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    format!("refs/hayward/lent/{name}")
}

fn furnish(from: &Path, into: &Path, commit: &CommitId) -> Result<(), git2::Error> {
    let theirs = git2::Repository::open(from)?;
    let mut options = git2::RepositoryInitOptions::new();
    let ours = git2::Repository::init_opts(into, options.bare(true).external_template(false))?;
    let objects = from.join("objects");
    let failed = |cause: io::Error| git2::Error::from_str(&cause.to_string());
    let alternates = into.join("objects/info/alternates");
    fs::create_dir_all(into.join("objects/info")).map_err(failed)?;
    fs::write(alternates, format!("{}\n", objects.display())).map_err(failed)?;
    let ours = git2::Repository::open(ours.path())?;
    ours.reference("refs/hayward/base", commit.oid()?, true, "hayward: lend")?;
    for branch in theirs.branches(Some(git2::BranchType::Local))? {
        let (branch, _) = branch?;
        let name = String::from_utf8_lossy(branch.name_bytes()?).into_owned();
        if let Some(tip) = branch.get().target() {
            ours.reference(&format!("{LOCAL}{name}"), tip, true, "hayward: lend")?;
        }
    }
    let mut config = ours.config()?;
    // agents at work here must not meet a clean-up that one of them set off
    config.set_str("gc.auto", "0")?;
    let said = theirs.config()?.snapshot()?;
    for key in ["user.name", "user.email"] {
        if let Ok(value) = said.get_str(key) {
            config.set_str(key, value)?;
        }
    }
    for name in theirs.remotes()?.iter().flatten().flatten() {
        if let Ok(url) = said.get_str(&format!("remote.{name}.url")) {
            ours.remote(name, url)?;
        }
    }
    Ok(())
}
