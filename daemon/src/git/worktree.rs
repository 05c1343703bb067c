//! Worktrees: made at an exact commit or not at all, let go, and removed when nothing is lost.

use std::io;
use std::path::{Path, PathBuf};

use super::branch::{BranchName, Choice};
use super::command::{CommandError, Git};
use super::leftover;
use super::parse::{self, Listed, ParseError, Status};
use super::repo::{Closed, CommitId, Repository, branches, read};

/// The name under which Hayward signs reflogs and, where the user has none, commits.
pub(super) const NAME: &str = "Hayward";

/// The address beside [`NAME`].
pub(super) const EMAIL: &str = "hayward@localhost";

/// How many paths an error names: the rest is counted by the reader's own `git status`.
const MAX_NAMED: usize = 10;

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
    #[error("{path} stands at {head}, which is on no branch: make a branch of it first")]
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

    /// Makes a worktree; see [`NewWorktree`]. Once queued it is done even if nobody waits.
    ///
    /// # Errors
    /// [`WorktreeError`]; nothing of the attempt is left then.
    pub async fn create(&self, new: NewWorktree) -> Result<Worktree, WorktreeError> {
        self.in_turn(move |common| async move { create(&common, &new).await }).await?
    }

    /// Takes down a worktree that was just made for `new` and that no agent has seen, with its
    /// branch if that has not moved. What cannot be taken down is left for the next attempt.
    ///
    /// # Errors
    /// [`Closed`] when the daemon shuts down first.
    pub async fn take_down(&self, new: NewWorktree, branch: Option<Choice>) -> Result<(), Closed> {
        self.in_turn(move |common| async move { undo(&common, &new, branch.as_ref(), true).await })
            .await
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

    /// Removes a worktree that holds nothing that would be lost.
    ///
    /// # Errors
    /// [`RemoveError`] with what would be lost; nothing changed then.
    pub async fn remove(&self, worktree: &Path) -> Result<(), RemoveError> {
        let path = worktree.to_owned();
        self.in_turn(move |common| async move { remove(&common, &path).await }).await?
    }
}

/// Makes a worktree: one `git worktree add`, then a look at where it stands.
async fn create(common: &Path, new: &NewWorktree) -> Result<Worktree, WorktreeError> {
    let stray = leftover::clear(common, new).await?;
    if let Some(branch) = stray {
        delete_branch(common, &branch, &new.commit)
            .await
            .map_err(|source| WorktreeError::Git { path: new.path.clone(), source })?;
    }
    let choice = choose(common, new).await?;
    match add(common, new, choice.as_ref()).await {
        Ok(()) => {
            Ok(Worktree { path: new.path.clone(), commit: new.commit.clone(), branch: choice })
        }
        Err(failure) => {
            let made = matches!(failure, WorktreeError::WrongCommit { .. });
            undo(common, new, choice.as_ref(), made).await;
            Err(failure)
        }
    }
}

async fn choose(common: &Path, new: &NewWorktree) -> Result<Option<Choice>, WorktreeError> {
    let (place, commit, wanted) = (common.to_owned(), new.commit.clone(), new.branch.clone());
    let known = read(move || {
        let repository = git2::Repository::open(&place)?;
        if repository.find_commit(commit.oid()?).is_err() {
            return Ok(None);
        }
        let names = if wanted.is_some() { branches(&repository)? } else { Vec::new() };
        Ok(Some(wanted.map(|wanted| wanted.choose(&names))))
    })
    .await
    .and_then(|known| known)
    .map_err(|source| WorktreeError::Unreadable { path: common.to_owned(), source })?;
    known.ok_or_else(|| WorktreeError::UnknownCommit {
        repository: common.to_owned(),
        commit: new.commit.clone(),
    })
}

async fn add(
    common: &Path,
    new: &NewWorktree,
    choice: Option<&Choice>,
) -> Result<(), WorktreeError> {
    let git = Git::on_repository(common)
        .args(["worktree", "add", "--quiet"])
        // the reflog tells a later attempt that the branch is ours
        .config("core.logAllRefUpdates", "true")
        .committer(NAME, EMAIL);
    let git = match choice {
        Some(choice) => git.args(["--no-track", "-b", &choice.name]),
        None => git.arg("--detach"),
    };
    git.arg("--")
        .arg(&new.path)
        .arg(new.commit.as_str())
        .run()
        .await
        .map_err(|source| WorktreeError::Git { path: new.path.clone(), source })?;
    let (path, branch) = (new.path.clone(), choice.map(|choice| choice.name.clone()));
    let found = read(move || standing(&path, branch.as_deref()))
        .await
        .and_then(|found| found)
        .map_err(|source| WorktreeError::Unreadable { path: new.path.clone(), source })?;
    if found == new.commit.as_str() {
        return Ok(());
    }
    Err(WorktreeError::WrongCommit { path: new.path.clone(), wanted: new.commit.clone(), found })
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

/// Takes down what a failed attempt made. What cannot be taken down is said in the log: the next
/// attempt clears it first. Unless git `made` all it should, its branch goes only when it is ours
/// by its reflog: a user may have made one of this name meanwhile.
async fn undo(common: &Path, new: &NewWorktree, choice: Option<&Choice>, made: bool) {
    let (place, path) = (common.to_owned(), new.path.clone());
    let cleared = tokio::task::spawn_blocking(move || leftover::take_down(&place, &path)).await;
    match cleared {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => {
            tracing::warn!(path = %new.path.display(), %cause, "a failed worktree is left");
        }
        Err(cause) => tracing::warn!(%cause, "a failed worktree is left"),
    }
    let Some(choice) = choice else { return };
    let (place, name, commit) = (common.to_owned(), choice.name.clone(), new.commit.clone());
    let tip = read(move || {
        let tip = git2::Repository::open(&place)?.refname_to_id(&format!("refs/heads/{name}"))?;
        let ours = made || leftover::is_untouched(&place, &name, commit.oid()?);
        Ok::<_, git2::Error>(ours.then(|| CommitId::from(tip)))
    })
    .await;
    if let Ok(Ok(Some(tip))) = tip
        && let Err(cause) = delete_branch(common, &choice.name, &tip).await
    {
        tracing::warn!(branch = choice.name, %cause, "the branch of a failed worktree is left");
    }
}

/// Deletes a branch only if it still stands at `commit`.
async fn delete_branch(common: &Path, name: &str, commit: &CommitId) -> Result<(), CommandError> {
    Git::on_repository(common)
        .args(["update-ref", "-d"])
        .arg(format!("refs/heads/{name}"))
        .arg(commit.as_str())
        .run()
        .await
        .map(|_| ())
}

/// Deletes a branch that still stands at `at`, and leaves any other alone.
async fn drop_branch(common: &Path, name: &str, at: &CommitId) -> Result<(), DropError> {
    let (place, reference, commit) = (common.to_owned(), format!("refs/heads/{name}"), at.clone());
    let stands = read(move || {
        let repository = git2::Repository::open(&place)?;
        Ok(repository.refname_to_id(&reference)? == commit.oid()?)
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

/// Removes a worktree whose work is safe: clean, at rest, its HEAD on a branch.
async fn remove(common: &Path, path: &Path) -> Result<(), RemoveError> {
    let (place, folder) = (common.to_owned(), path.to_owned());
    read(move || removable(&place, &folder)).await.unwrap_or_else(|source| {
        Err(RemoveError::Unreadable { path: path.to_owned(), source: source.into() })
    })?;
    let failed = |source| RemoveError::Git { path: path.to_owned(), source };
    let output = Git::in_worktree(path)
        .args(["status", "--porcelain=v2", "-z", "--untracked-files=normal", "--no-renames"])
        .run()
        .await
        .map_err(failed)?;
    let entries = parse::status(&output.stdout)
        .map_err(|cause| RemoveError::Unreadable { path: path.to_owned(), source: cause.into() })?;
    if !entries.is_empty() {
        let files = entries.into_iter().take(MAX_NAMED).map(|entry| match entry {
            Status::Tracked(tracked) => tracked.path,
            Status::Unmerged(path) | Status::Untracked(path) | Status::Ignored(path) => path,
        });
        return Err(RemoveError::Dirty { path: path.to_owned(), files: files.collect() });
    }
    // without --force git looks once more by itself
    Git::on_repository(common)
        .args(["worktree", "remove", "--"])
        .arg(path)
        .run()
        .await
        .map(|_| ())
        .map_err(failed)
}

fn removable(common: &Path, path: &Path) -> Result<(), RemoveError> {
    let unreadable = |cause: git2::Error| RemoveError::Unreadable {
        path: path.to_owned(),
        source: cause.into(),
    };
    let repository = open_own(common, path).ok_or_else(|| RemoveError::NotOurs(path.to_owned()))?;
    if let Some(what) = under_way(&repository) {
        return Err(RemoveError::InProgress { path: path.to_owned(), what });
    }
    let head = repository.head().map_err(unreadable)?;
    if head.is_branch() {
        return Ok(());
    }
    let head = head.peel_to_commit().map_err(unreadable)?.id();
    if is_on_a_branch(&repository, head).map_err(unreadable)? {
        return Ok(());
    }
    Err(RemoveError::Unreachable { path: path.to_owned(), head: head.into() })
}

/// Whether a branch, local or remote, holds the commit: one walk, however many branches there are.
fn is_on_a_branch(repository: &git2::Repository, commit: git2::Oid) -> Result<bool, git2::Error> {
    let mut walk = repository.revwalk()?;
    walk.push(commit)?;
    for branch in repository.branches(None)? {
        if let Ok(tip) = branch?.0.get().peel_to_commit() {
            walk.hide(tip.id())?;
        }
    }
    Ok(walk.next().is_none())
}
