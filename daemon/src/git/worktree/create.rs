//! A worktree made from nothing: recorded in the repository's turn, its files written outside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::Instrument;

use super::super::branch::{BranchName, Choice};
use super::super::command::Git;
use super::super::repo::{CommitId, Repository, branches, read};
use super::files::{Ahead, read_ahead, write_files};
use super::yard::{Note, Yard};
use super::{
    EMAIL, Hold, NAME, NewWorktree, Record, Worktree, WorktreeError, delete_branch, leftover,
};
use crate::{clock, fault};
use hayward_shared::time::Timestamp;

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
    let (begun, ahead) = tokio::join!(begin(repository, new), read_ahead(repository, &new.commit));
    let (record, opened, choice) = begun?;
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

/// Clears the ground, records the worktree and makes its branch, in one turn. When it fails nothing is left
/// of it. All that before the first file is written: beside the writers, of which there is one for each
/// processor, it would hold up one of them for longer than it takes.
async fn begin(
    repository: &Repository,
    new: &NewWorktree,
) -> Result<(Record, git2::Repository, Option<Choice>), WorktreeError> {
    let wanted = new.clone();
    let turn = |common: PathBuf| async move {
        let Ground { choice, opened, is_record_alone } = prepare(&common, &wanted).await?;
        let (at, commit) = (&wanted.path, &wanted.commit);
        let recorded = record(&common, at, commit, Hold::Making, is_record_alone).await;
        let entered = match (recorded, &choice) {
            (Ok(record), Some(choice)) => {
                let attached = attach((&common, opened), &record, &wanted, &choice.name).await;
                attached.map(|opened| (record, opened))
            }
            (recorded, _) => recorded.map(|record| (record, opened)),
        };
        Ok::<_, WorktreeError>((entered, choice))
    };
    let (entered, choice) = repository.in_turn(turn).await??;
    match entered {
        Ok((record, opened)) => Ok((record, opened, choice)),
        Err(failure) => {
            undo(repository, new, choice).await;
            Err(failure)
        }
    }
}

/// Where a worktree is about to be made.
pub(in crate::git) struct Ground {
    /// The branch that it gets.
    pub(in crate::git) choice: Option<Choice>,
    /// The repository, opened: that takes as long as writing several files.
    pub(in crate::git) opened: git2::Repository,
    is_record_alone: bool,
}

/// Clears the ground, notes what is about to be made there, and chooses the branch.
pub(in crate::git) async fn on_ground(
    repository: &Repository,
    new: &NewWorktree,
) -> Result<Ground, WorktreeError> {
    let new = new.clone();
    repository.in_turn(|common| async move { prepare(&common, &new).await }).await?
}

/// The same, in the repository's turn.
async fn prepare(common: &Path, new: &NewWorktree) -> Result<Ground, WorktreeError> {
    let (place, wanted) = (common.to_owned(), new.clone());
    let surveyed = read(move || survey(&place, &wanted)).await.unwrap_or_else(|source| {
        Err(WorktreeError::Unreadable { path: common.to_owned(), source })
    });
    let (strays, ground) = surveyed?;
    for branch in strays {
        delete_branch(common, &branch, &new.commit)
            .await
            .map_err(|source| WorktreeError::Git { path: new.path.clone(), source })?;
    }
    let note = Note {
        common: common.to_owned(),
        commit: new.commit.to_string(),
        branch: ground.choice.as_ref().map(|choice| choice.name.clone()),
    };
    let yard = Yard::around(&new.path);
    let noted = yard
        .note(&new.path, &note)
        .and_then(|()| fault::point("worktree.create.noted"))
        .map_err(disk("write a note for", &new.path));
    if noted.is_err() {
        yard.forget(&new.path).map_err(disk("take back the note for", &new.path))?;
    }
    noted?;
    Ok(ground)
}

/// Clears away the folder of a former attempt and its record. Answers those of its branches of which
/// nothing came, and the ground as if they were gone.
fn survey(common: &Path, new: &NewWorktree) -> Result<(Vec<String>, Ground), WorktreeError> {
    let unreadable = |source| WorktreeError::Unreadable { path: common.to_owned(), source };
    let suspects = leftover::clear(common, new)?;
    let opened = git2::Repository::open(common).map_err(unreadable)?;
    let at = new.commit.oid().map_err(unreadable)?;
    let strays: Vec<String> =
        suspects.into_iter().filter(|name| leftover::is_stray(&opened, name, at)).collect();
    if opened.find_commit(at).is_err() {
        let commit = new.commit.clone();
        return Err(WorktreeError::UnknownCommit { repository: common.to_owned(), commit });
    }
    let choose = |wanted: &BranchName| -> Result<Choice, git2::Error> {
        let mut taken = branches(&opened)?;
        taken.retain(|name| !strays.contains(name));
        // one that cannot be read is not among them: what it held is told by its log alone
        let is_broken = |name: &String| {
            !strays.contains(name) && common.join("refs/heads").join(name).is_file()
        };
        loop {
            let choice = wanted.choose(&taken);
            if !is_broken(&choice.name) {
                return Ok(choice);
            }
            taken.push(choice.name);
        }
    };
    let choice = new.branch.as_ref().map(choose).transpose().map_err(unreadable)?;
    let is_record_alone = is_record_alone(&opened).map_err(unreadable)?;
    Ok((strays, Ground { choice, opened, is_record_alone }))
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

/// Enters a worktree with an empty index into the repository's records.
pub(in crate::git) async fn enter(
    repository: &Repository,
    path: &Path,
    commit: &CommitId,
    hold: Hold,
) -> Result<Record, WorktreeError> {
    let (path, commit) = (path.to_owned(), commit.clone());
    repository
        .in_turn(move |common| async move {
            let place = common.clone();
            let alone = read(move || is_record_alone(&git2::Repository::open(place)?))
                .await
                .and_then(|alone| alone)
                .map_err(|source| WorktreeError::Unreadable { path: common.clone(), source })?;
            record(&common, &path, &commit, hold, alone).await
        })
        .await?
}

/// The same, in the repository's turn; by git, where it is not its [record alone](is_record_alone).
async fn record(
    common: &Path,
    path: &Path,
    commit: &CommitId,
    hold: Hold,
    is_record_alone: bool,
) -> Result<Record, WorktreeError> {
    if !is_record_alone {
        return added_by_git(common, path, commit, &hold).await;
    }
    let (place, at, to) = (common.to_owned(), path.to_owned(), commit.clone());
    let now = clock::now();
    let added = blocking(move || Record::enter(&place, &at, &to, &hold, now)).await;
    let record = added.map_err(disk("record", path))?;
    point("worktree.create.added", path)?;
    Ok(record)
}

/// Whether a worktree of the repository is no more than its record: one that has settings or a
/// sparse checkout of its own is recorded by git, which hands them on.
fn is_record_alone(repository: &git2::Repository) -> Result<bool, git2::Error> {
    let config = repository.config()?.snapshot()?;
    let set = |key| config.get_bool(key).unwrap_or(false);
    Ok(!set("extensions.worktreeConfig") && !set("core.sparseCheckout"))
}

async fn added_by_git(
    common: &Path,
    path: &Path,
    commit: &CommitId,
    hold: &Hold,
) -> Result<Record, WorktreeError> {
    let failed = |source| WorktreeError::Git { path: path.to_owned(), source };
    Git::on_repository(common)
        .args(["worktree", "add", "--quiet", "--no-checkout", "--detach"])
        // git's own words would tell the next start that it is somebody else's
        .args(["--lock", "--reason", hold.text().trim_end(), "--"])
        .arg(path)
        .arg(commit.as_str())
        .committer(NAME, EMAIL)
        .run()
        .await
        .map_err(failed)?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "git recorded no worktree there");
    let record = Record::of(path).ok_or_else(missing).map_err(disk("find the record of", path))?;
    point("worktree.create.added", path)?;
    Ok(record)
}

/// Makes the branch and puts HEAD on it; runs in the repository's turn. Hands the repository back.
async fn attach(
    (common, opened): (&Path, git2::Repository),
    record: &Record,
    new: &NewWorktree,
    branch: &str,
) -> Result<git2::Repository, WorktreeError> {
    let (common, record, branch) = (common.to_owned(), record.clone(), branch.to_owned());
    let (path, commit) = (new.path.clone(), new.commit.clone());
    read(move || {
        let now = clock::now();
        make_branch(&opened, &branch, &commit, now)
            .map_err(|source| WorktreeError::Unreadable { path: common, source })?;
        point("worktree.create.branched", &path)?;
        record.set_head(&commit, Some(&branch), now).map_err(disk("set HEAD of", &path))?;
        point("worktree.create.headed", &path)?;
        Ok(opened)
    })
    .await
    .map_err(|source| WorktreeError::Unreadable { path: new.path.clone(), source })?
}

/// Makes a branch at a commit, with a log that has our signature alone: by it a later attempt
/// knows that the branch is ours and that nothing came of it.
pub(in crate::git) fn make_branch(
    repository: &git2::Repository,
    branch: &str,
    commit: &CommitId,
    now: Timestamp,
) -> Result<(), git2::Error> {
    let name = format!("refs/heads/{branch}");
    let at = git2::Time::new(now.millis().div_euclid(1000), 0);
    let by = git2::Signature::new(NAME, EMAIL, &at)?;
    let mut turn = repository.transaction()?;
    turn.lock_ref(&name)?;
    match repository.find_reference(&name) {
        Err(cause) if cause.code() == git2::ErrorCode::NotFound => {}
        Ok(_) => {
            let appeared = format!("the branch '{branch}' appeared meanwhile");
            return Err(git2::Error::from_str(&appeared));
        }
        Err(cause) => return Err(cause),
    }
    let commit = commit.oid()?;
    let mut log = repository.reflog(&name)?;
    while !log.is_empty() {
        log.remove(0, false)?;
    }
    log.append(commit, &by, Some("branch: made for a task"))?;
    turn.set_target(&name, commit, Some(&by), "branch: made for a task")?;
    turn.set_reflog(&name, log)?;
    turn.commit()
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
        if let Err(cause) = cleared.await {
            tracing::warn!(path = %new.path.display(), %cause, "a failed worktree is left");
            return;
        }
        if let Some(branch) = branch
            && let Err(cause) = leftover::drop_untouched(&common, &branch, &new.commit).await
        {
            tracing::warn!(branch, %cause, "the branch of a failed worktree is left");
            return;
        }
        if let Err(cause) = Yard::around(&new.path).forget(&new.path) {
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
