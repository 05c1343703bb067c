//! How a worktree begins, in its repository's turn: the ground is cleared and noted, the worktree recorded,
//! its branch made.
//!
//! As far as no git is needed for it, one thread does it all: a step that is handed to another thread waits
//! there behind whoever reads ahead.

use std::io;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use super::super::branch::{BranchName, Choice};
use super::super::command::Git;
use super::super::repo::{CommitId, Repository, branches, read};
use super::create::{disk, point, undo};
use super::files::{Ahead, read_ahead};
use super::yard::{Note, Yard};
use super::{EMAIL, Hold, NAME, NewWorktree, Record, WorktreeError, delete_branch, leftover};
use crate::{clock, fault};
use hayward_shared::time::Timestamp;

/// Where a worktree is about to be made.
pub(in crate::git) struct Ground {
    /// The branch that it gets.
    pub(in crate::git) choice: Option<Choice>,
    /// The repository, opened: that takes as long as writing several files.
    pub(in crate::git) opened: git2::Repository,
    is_record_alone: bool,
}

/// A worktree that has all but its files.
pub(super) struct Begun {
    pub(super) record: Record,
    pub(super) ground: Ground,
    /// What its files come from; none where it was not read ahead.
    pub(super) reading: Option<JoinHandle<Ahead>>,
}

/// Begins a worktree, and to read what it is filled from. When it fails nothing is left of it. All that
/// before the first file is written: beside the writers, of which there is one for each processor, it would
/// hold up one of them for longer than it takes. Where a thread breaks, the next start undoes it.
pub(super) async fn begin(
    repository: &Repository,
    new: &NewWorktree,
) -> Result<Begun, WorktreeError> {
    let (ours, wanted) = (repository.clone(), new.clone());
    let turn = |common: PathBuf| async move {
        let (place, at) = (common.clone(), wanted.clone());
        let first = move || {
            let reading = read_ahead(&ours, &at.commit);
            (survey(&place, &at).and_then(|found| found.first(&place, &at)), reading)
        };
        let (step, reading) = off(&common, first).await?;
        let (ground, entered) = match step? {
            Step::Entered(ground, entered) => (ground, entered),
            Step::ForGit(found) => entered_by_git(&common, &wanted, found).await?,
        };
        Ok::<_, WorktreeError>((ground, entered, reading))
    };
    let (ground, entered, reading) = repository.in_turn(turn).await??;
    match entered {
        Ok(record) => Ok(Begun { record, ground, reading }),
        Err(failure) => {
            undo(repository, new, ground.choice).await;
            Err(failure)
        }
    }
}

/// Clears the ground, notes what is about to be made there, and chooses the branch.
pub(in crate::git) async fn on_ground(
    repository: &Repository,
    new: &NewWorktree,
) -> Result<Ground, WorktreeError> {
    let new = new.clone();
    let turn = |common: PathBuf| async move {
        let (place, wanted) = (common.clone(), new.clone());
        let found = off(&common, move || survey(&place, &wanted)).await??;
        cleared(&common, &new, found).await
    };
    repository.in_turn(turn).await?
}

/// Enters a worktree with an empty index into the repository's records.
pub(in crate::git) async fn enter(
    repository: &Repository,
    path: &Path,
    commit: &CommitId,
    hold: Hold,
) -> Result<Record, WorktreeError> {
    let (path, commit) = (path.to_owned(), commit.clone());
    let turn = |common: PathBuf| async move {
        let place = common.clone();
        let is_alone = off(&common, move || is_record_alone(&git2::Repository::open(place)?));
        if !is_alone.await?.map_err(unreadable(&common))? {
            return added_by_git(&common, &path, &commit, &hold).await;
        }
        let place = common.clone();
        off(&common, move || record(&place, &path, (&commit, None), &hold)).await?
    };
    repository.in_turn(turn).await?
}

/// What is found where a worktree is to be made.
struct Found {
    ground: Ground,
    /// Branches of a former attempt of which nothing came: git deletes them.
    strays: Vec<String>,
}

/// How far one comes without git.
enum Step {
    /// It was begun; where that failed, what there is of it is to be undone.
    Entered(Ground, Result<Record, WorktreeError>),
    /// Nothing was done.
    ForGit(Found),
}

impl Found {
    fn first(self, common: &Path, new: &NewWorktree) -> Result<Step, WorktreeError> {
        if !self.strays.is_empty() || !self.ground.is_record_alone {
            return Ok(Step::ForGit(self));
        }
        note(common, new, &self.ground)?;
        let entered = self.ground.enter(common, new);
        Ok(Step::Entered(self.ground, entered))
    }
}

impl Ground {
    fn branch(&self) -> Option<&str> {
        self.choice.as_ref().map(|choice| choice.name.as_str())
    }

    /// Makes the branch, and the record with HEAD on it. Blocking.
    fn enter(&self, common: &Path, new: &NewWorktree) -> Result<Record, WorktreeError> {
        self.make_branch(common, new)?;
        record(common, &new.path, (&new.commit, self.branch()), &Hold::Making)
    }

    /// The same where git made the record, at the commit. Blocking.
    fn take_up(
        &self,
        common: &Path,
        record: Record,
        new: &NewWorktree,
    ) -> Result<Record, WorktreeError> {
        self.make_branch(common, new)?;
        let headed = record.set_head(&new.commit, self.branch(), clock::now());
        headed.map_err(disk("set HEAD of", &new.path))?;
        point("worktree.create.headed", &new.path)?;
        Ok(record)
    }

    fn make_branch(&self, common: &Path, new: &NewWorktree) -> Result<(), WorktreeError> {
        let Some(name) = self.branch() else { return Ok(()) };
        make_branch(&self.opened, name, &new.commit, clock::now()).map_err(unreadable(common))?;
        point("worktree.create.branched", &new.path)
    }
}

/// Clears away the folder of a former attempt and its record. Answers the ground as if its branches of
/// which nothing came were gone. Blocking.
fn survey(common: &Path, new: &NewWorktree) -> Result<Found, WorktreeError> {
    let suspects = leftover::clear(common, new)?;
    let opened = git2::Repository::open(common).map_err(unreadable(common))?;
    let at = new.commit.oid().map_err(unreadable(common))?;
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
    let choice = new.branch.as_ref().map(choose).transpose().map_err(unreadable(common))?;
    let is_record_alone = is_record_alone(&opened).map_err(unreadable(common))?;
    Ok(Found { ground: Ground { choice, opened, is_record_alone }, strays })
}

/// Deletes what came of nothing, and notes what is about to be made.
async fn cleared(common: &Path, new: &NewWorktree, found: Found) -> Result<Ground, WorktreeError> {
    for branch in found.strays {
        delete_branch(common, &branch, &new.commit)
            .await
            .map_err(|source| WorktreeError::Git { path: new.path.clone(), source })?;
    }
    let (place, new, ground) = (common.to_owned(), new.clone(), found.ground);
    off(common, move || note(&place, &new, &ground).map(|()| ground)).await?
}

/// Begins it where that takes a git. What failed once it was noted is to be undone.
async fn entered_by_git(
    common: &Path,
    new: &NewWorktree,
    found: Found,
) -> Result<(Ground, Result<Record, WorktreeError>), WorktreeError> {
    let ground = cleared(common, new, found).await?;
    let added = match ground.is_record_alone {
        true => None,
        false => match added_by_git(common, &new.path, &new.commit, &Hold::Making).await {
            Ok(record) => Some(record),
            Err(failure) => return Ok((ground, Err(failure))),
        },
    };
    let (place, new) = (common.to_owned(), new.clone());
    let enter = move || {
        let entered = match added {
            Some(record) => ground.take_up(&place, record, &new),
            None => ground.enter(&place, &new),
        };
        (ground, entered)
    };
    off(common, enter).await
}

/// Notes what is about to be made on the ground, whole or not at all. Blocking.
fn note(common: &Path, new: &NewWorktree, ground: &Ground) -> Result<(), WorktreeError> {
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
    noted
}

/// Records it with HEAD on the branch, if one is given, where it is its [record alone](is_record_alone).
/// Blocking.
fn record(
    common: &Path,
    path: &Path,
    (commit, branch): (&CommitId, Option<&str>),
    hold: &Hold,
) -> Result<Record, WorktreeError> {
    let record = Record::enter(common, path, (commit, branch), hold, clock::now());
    let record = record.map_err(disk("record", path))?;
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

/// Does what blocks on a thread where blocking is allowed.
async fn off<T: Send + 'static>(
    common: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorktreeError> {
    read(work).await.map_err(unreadable(common))
}

fn unreadable(common: &Path) -> impl Fn(git2::Error) -> WorktreeError {
    move |source| WorktreeError::Unreadable { path: common.to_owned(), source }
}
