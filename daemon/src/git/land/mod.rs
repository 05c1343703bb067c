//! Landing: a branch moved forward to a commit that descends from its tip, together with the work
//! tree that has it checked out.
//!
//! A work tree moves only when nothing in it is changed or in the way; otherwise nothing moves at
//! all. Landing again after a crash finds it done or does the rest: git writes files, then the
//! index, then the branch, and what a former attempt wrote is no change of anyone's.

mod checkout;
mod error;

use std::io;
use std::path::{Path, PathBuf};

use super::command::{CommandError, Git};
use super::holder::{Holder, holders};
use super::repo::{CommitId, Repository, is_there, read};
use super::worktree::{EMAIL, NAME, open_own};
use crate::fault;
use checkout::{HEAD, advance};

pub use error::LandError;

/// The id that git reads as "there must be no such ref".
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// A branch to be moved forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    /// The branch, without `refs/heads/`.
    pub branch: String,
    /// Where it must stand now.
    pub from: CommitId,
    /// Where it shall stand; it descends from `from`.
    pub to: CommitId,
}

/// A branch that stands where it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landed {
    /// The work tree that has it checked out and moved with it, if one has.
    pub checkout: Option<PathBuf>,
    /// Whether it stood there already, for instance after a crash.
    pub already: bool,
}

impl Repository {
    /// Moves a branch forward; see [`Landing`]. Where no work tree has it checked out, only the
    /// ref moves, and only from the commit that was expected. Where one has, its files move with
    /// it: no tracked file may be changed there, and no untracked or ignored one in the way. Files
    /// that a filter of the repository would rewrite (git-lfs) arrive as they are stored.
    ///
    /// # Errors
    /// [`LandError`]; nothing moved then.
    pub async fn land(&self, landing: Landing) -> Result<Landed, LandError> {
        self.in_turn(move |common| async move { land(&common, &landing).await }).await?
    }

    /// Takes a worktree of ours, whose HEAD is detached at `from`, on to `to`, which descends from
    /// it. False, and nothing changed, when it stands elsewhere or is on a branch.
    ///
    /// # Errors
    /// [`LandError`], above all when something there is changed; nothing moved then.
    pub async fn follow(
        &self,
        worktree: &Path,
        from: &CommitId,
        to: &CommitId,
    ) -> Result<bool, LandError> {
        let (path, landing) = (
            worktree.to_owned(),
            Landing { branch: HEAD.to_owned(), from: from.clone(), to: to.clone() },
        );
        self.in_turn(move |common| async move { follow(&common, &path, &landing).await }).await?
    }

    /// Takes a landing back: the branch that stands at `to` goes back to `from`, with the work tree
    /// that has it checked out, under the same conditions. A branch that moved on stays.
    ///
    /// # Errors
    /// [`LandError`]; nothing moved then.
    pub async fn take_back(&self, landing: Landing) -> Result<Landed, LandError> {
        self.in_turn(move |common| async move { take_back(&common, landing).await }).await?
    }

    /// Makes a branch of ours again that was dropped because it held nothing. One that is there
    /// stays as it is.
    ///
    /// # Errors
    /// [`LandError`] when git fails.
    pub async fn restore_branch(&self, name: &str, at: &CommitId) -> Result<(), LandError> {
        let (name, at) = (name.to_owned(), at.clone());
        self.in_turn(move |common| async move {
            if tip(&common, &name).await?.is_some() {
                return Ok(());
            }
            move_ref(&common, &name, &at, NO_COMMIT).await
        })
        .await?
    }
}

async fn land(common: &Path, landing: &Landing) -> Result<Landed, LandError> {
    let (lower, upper) = (&landing.from, &landing.to);
    shift(common, landing, (lower, upper)).await
}

async fn take_back(common: &Path, landing: Landing) -> Result<Landed, LandError> {
    let Landing { branch, from, to } = landing;
    let back = Landing { branch, from: to.clone(), to: from.clone() };
    shift(common, &back, (&from, &to)).await
}

/// Moves the branch and whoever has it checked out; `upper` must hold `lower`.
async fn shift(
    common: &Path,
    landing: &Landing,
    (lower, upper): (&CommitId, &CommitId),
) -> Result<Landed, LandError> {
    let landing = &Landing { branch: direct(common, &landing.branch).await?, ..landing.clone() };
    let Landing { branch, from, to } = landing;
    let found = tip(common, branch).await?.ok_or_else(|| LandError::NoBranch(branch.to_owned()))?;
    let checkout = holder(common, branch).await?;
    if found == *to {
        return Ok(Landed { checkout, already: true });
    }
    if found != *from {
        return Err(moved(landing, found));
    }
    must_be_forward(common, branch, (lower, upper)).await?;
    fault::point("merge.land.begun").map_err(stopped(branch))?;
    match &checkout {
        Some(path) => advance(common, path, landing).await?,
        None => move_ref(common, branch, to, from.as_str()).await?,
    }
    fault::point("merge.land.moved").map_err(stopped(branch))?;
    Ok(Landed { checkout, already: false })
}

fn moved(landing: &Landing, found: CommitId) -> LandError {
    let (branch, expected) = (landing.branch.clone(), landing.from.clone());
    LandError::Moved { branch, expected, found }
}

/// The branch itself, where the name is one that stands for another branch.
async fn direct(common: &Path, branch: &str) -> Result<String, LandError> {
    let (place, name) = (common.to_owned(), format!("refs/heads/{branch}"));
    let found = read(move || {
        let repository = git2::Repository::open(&place)?;
        let reference = repository.find_reference(&name)?.resolve()?;
        Ok(String::from_utf8_lossy(reference.name_bytes()).into_owned())
    })
    .await
    .and_then(|name| name);
    match found {
        Ok(name) => name
            .strip_prefix("refs/heads/")
            .map(str::to_owned)
            .ok_or_else(|| LandError::NoBranch(branch.to_owned())),
        // a name that is none is told by whoever looks for its tip
        Err(_) => Ok(branch.to_owned()),
    }
}

/// The one work tree that has the branch checked out, if one has.
async fn holder(common: &Path, branch: &str) -> Result<Option<PathBuf>, LandError> {
    let (place, name) = (common.to_owned(), branch.to_owned());
    let held = read(move || holders(&place, &name))
        .await
        .map_err(|source| LandError::Unreadable { path: common.to_owned(), source })?;
    let mut held = held.into_iter();
    match (held.next(), held.next()) {
        (None, _) => Ok(None),
        (Some(Holder { path, busy: None }), None) => Ok(Some(path)),
        (Some(Holder { path, busy: Some(what) }), None) => {
            Err(LandError::InProgress { branch: branch.to_owned(), path, what })
        }
        (Some(one), Some(two)) => {
            Err(LandError::Twice { branch: branch.to_owned(), one: one.path, two: two.path })
        }
    }
}

fn stopped(branch: &str) -> impl FnOnce(io::Error) -> LandError {
    let branch = branch.to_owned();
    move |source| LandError::Stopped { branch, source }
}

async fn follow(common: &Path, path: &Path, landing: &Landing) -> Result<bool, LandError> {
    let (place, folder) = (common.to_owned(), path.to_owned());
    let unreadable = |source| LandError::Unreadable { path: path.to_owned(), source };
    let head = read(move || {
        let Some(repository) = open_own(&place, &folder) else { return Ok(None) };
        if !repository.head_detached()? {
            return Ok(None);
        }
        Ok(Some(CommitId::from(repository.head()?.peel_to_commit()?.id())))
    })
    .await
    .and_then(|head| head)
    .map_err(unreadable)?;
    match head {
        Some(head) if head == landing.to => Ok(true),
        Some(head) if head == landing.from => {
            must_be_forward(common, &landing.branch, (&landing.from, &landing.to)).await?;
            advance(common, path, landing).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Where the branch stands; none when there is no such branch.
async fn tip(common: &Path, branch: &str) -> Result<Option<CommitId>, LandError> {
    let (place, name) = (common.to_owned(), format!("refs/heads/{branch}"));
    read(move || match git2::Repository::open(&place)?.refname_to_id(&name) {
        Ok(tip) => Ok(Some(CommitId::from(tip))),
        Err(cause) if cause.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(cause) if cause.code() == git2::ErrorCode::InvalidSpec => Ok(None),
        Err(cause) => Err(cause),
    })
    .await
    .and_then(|tip| tip)
    .map_err(|source| LandError::Unreadable { path: common.to_owned(), source })
}

async fn must_be_forward(
    common: &Path,
    branch: &str,
    (older, newer): (&CommitId, &CommitId),
) -> Result<(), LandError> {
    let (place, one, two) = (common.to_owned(), older.clone(), newer.clone());
    let forward = read(move || {
        let repository = git2::Repository::open(&place)?;
        if !is_there(&repository, &two)? {
            return Ok(None);
        }
        let forward = one == two || repository.graph_descendant_of(two.oid()?, one.oid()?)?;
        Ok(Some(forward))
    })
    .await
    .and_then(|forward| forward)
    .map_err(|source| LandError::Unreadable { path: common.to_owned(), source })?;
    let (branch, to) = (branch.to_owned(), newer.clone());
    match forward {
        Some(true) => Ok(()),
        Some(false) => Err(LandError::NotForward { branch, to }),
        None => Err(LandError::Gone { branch, to }),
    }
}

async fn move_ref(common: &Path, branch: &str, to: &CommitId, old: &str) -> Result<(), LandError> {
    Git::on_repository(common)
        .committer(NAME, EMAIL)
        .config("core.logAllRefUpdates", "true")
        .args(["update-ref", "--no-deref", "-m", "hayward: land"])
        .arg(format!("refs/heads/{branch}"))
        .args([to.as_str(), old])
        .run()
        .await
        .map(|_| ())
        .map_err(|source| failed(branch, source))
}

fn failed(branch: &str, source: CommandError) -> LandError {
    let branch = branch.to_owned();
    if source.is_disk_full() {
        LandError::DiskFull { branch, source }
    } else {
        LandError::Git { branch, source }
    }
}
