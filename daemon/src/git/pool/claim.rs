//! A place of the pool becomes a task's worktree.

use std::path::{Path, PathBuf};
use tracing::Instrument;

use super::super::branch::Choice;
use super::super::repo::{Closed, CommitId, Repository, read};
use super::super::worktree::{
    Ground, Hold, NewWorktree, Worktree, WorktreeError, check_out, cold, confirm, disk, leftover,
    make_branch, on_ground, point, undo,
};
use super::refill::fingerprint;
use super::{Hot, Miss, Place, Pool, chain};
use crate::{clock, fault};

impl Repository {
    /// A worktree for a task: a ready one of the pool, else one made from nothing; see
    /// [`NewWorktree`]. Either is the same to who uses it. Once begun it is done even if nobody
    /// waits. The repository is hot from then on.
    ///
    /// # Errors
    /// [`WorktreeError`]; nothing of the attempt is left then.
    pub async fn provide(&self, new: NewWorktree) -> Result<Worktree, WorktreeError> {
        let repository = self.clone();
        // a caller who goes away must leave no half of a worktree; git's time limit ends it
        let whole = async move {
            let waiting = Waiting::begin(repository.pool());
            let _alone = repository.grounds().hold(&new.path).await;
            let given = match repository.pool().take(repository.common_dir(), &new.commit) {
                Ok(place) => claim(&repository, &new, place).await,
                Err(why) => Err(why),
            };
            let provided = match given {
                Ok(worktree) => Ok(worktree),
                Err(why) => {
                    repository.pool().missed(repository.common_dir(), why);
                    cold(&repository, &new).await
                }
            };
            drop(waiting);
            provided
        };
        let whole = tokio::spawn(whole.in_current_span());
        whole.await.map_err(|_| Closed)?
    }
}

/// A task that waits for its worktree: while it lives nothing is refilled.
struct Waiting<'a>(&'a Pool);

impl<'a> Waiting<'a> {
    fn begin(pool: &'a Pool) -> Self {
        pool.state().waiting += 1;
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
        self.0.wake();
    }
}

impl Pool {
    /// Takes a ready place out of the pool, one that stands at the commit if there is one. The
    /// repository is hot from now on, and its next places are made at this commit.
    fn take(&self, common: &Path, commit: &CommitId) -> Result<Place, Miss> {
        if self.shared.terms.is_none() {
            return Err(Miss::Off);
        }
        let mut state = self.state();
        let is_new = !state.hot.contains_key(common);
        let hot = state.hot.entry(common.to_owned()).or_insert_with(|| Hot::new(commit.clone()));
        hot.wanted = commit.clone();
        // places that cannot be made are tried again ever more seldom
        let hopeless = matches!(hot.stuck, Some(Miss::RefillFailed(_)));
        hot.due = !hopeless || hot.missed.is_power_of_two();
        let best = hot.ready.iter().position(|place| place.commit == *commit);
        match best.or_else(|| hot.ready.len().checked_sub(1)) {
            Some(best) => Ok(hot.ready.swap_remove(best)),
            None if is_new => Err(Miss::ColdRepository),
            None if hot.refilling => Err(Miss::Refilling),
            None => Err(hot.stuck.clone().unwrap_or(Miss::Empty)),
        }
    }

    fn claimed(&self, common: &Path) {
        if let Some(hot) = self.state().hot.get_mut(common) {
            hot.claims += 1;
        }
    }
}

/// Makes the place the task's worktree. When that fails the place is taken down, and the reason
/// says why.
async fn claim(repository: &Repository, new: &NewWorktree, place: Place) -> Result<Worktree, Miss> {
    match transform(repository, new, &place).await {
        Ok(worktree) => {
            repository.pool().claimed(repository.common_dir());
            Ok(worktree)
        }
        Err(failure) => {
            repository.pool().take_down(repository, place.path).await;
            Err(Miss::ClaimFailed(chain(&failure)))
        }
    }
}

/// What failed on ground that is not ours, as it is occupied, leaves all there as it is.
async fn transform(
    repository: &Repository,
    new: &NewWorktree,
    place: &Place,
) -> Result<Worktree, WorktreeError> {
    let Ground { choice, opened, .. } = on_ground(repository, new).await?;
    match hand_over(repository, new, place, choice.as_ref(), opened).await {
        Ok(()) => {
            Ok(Worktree { path: new.path.clone(), commit: new.commit.clone(), branch: choice })
        }
        Err(failure) => {
            undo(repository, new, choice).await;
            Err(failure)
        }
    }
}

async fn hand_over(
    repository: &Repository,
    new: &NewWorktree,
    place: &Place,
    choice: Option<&Choice>,
    opened: git2::Repository,
) -> Result<(), WorktreeError> {
    let (held, common) = (place.clone(), repository.common_dir().to_owned());
    let looked = read(move || is_as_made(&common, &held)).await.and_then(|looked| looked);
    looked.map_err(|source| WorktreeError::Unreadable { path: place.path.clone(), source })?;
    place
        .record
        .lock(&Hold::Claimed)
        .and_then(|()| fault::point("worktree.claim.taken"))
        .map_err(disk("claim", &place.path))?;
    if place.commit != new.commit {
        check_out(repository.grounds(), &place.path, &place.commit, &new.commit).await?;
        point("worktree.claim.moved", &new.path)?;
    }
    let (held, at, branch) = (place.clone(), new.clone(), choice.map(|choice| choice.name.clone()));
    let name = branch.clone();
    repository
        .in_turn(move |common| async move {
            let path = at.path.clone();
            read(move || rename((&common, &opened), &held, &at, name.as_deref()))
                .await
                .map_err(|source| WorktreeError::Unreadable { path, source })?
        })
        .await??;
    confirm(new, branch).await?;
    place.record.unlock().map_err(disk("hand over", &new.path))?;
    point("worktree.claim.unlocked", &new.path)
}

/// Fails unless the place is, file for file, what was made, by settings that are still the same.
fn is_as_made(common: &Path, place: &Place) -> Result<(), git2::Error> {
    if fingerprint(common, &place.path, &place.record, place.bytes)? == place.stamp {
        return Ok(());
    }
    Err(git2::Error::from_str("it, or a setting that it was made by, changed while it waited"))
}

/// Gives the place its folder, branch and HEAD; runs in the repository's turn.
fn rename(
    (common, opened): (&Path, &git2::Repository),
    place: &Place,
    new: &NewWorktree,
    branch: Option<&str>,
) -> Result<(), WorktreeError> {
    let failed = |doing| disk(doing, &new.path);
    // an empty folder may stand there; anything else stops the rename
    std::fs::rename(&place.path, &new.path).map_err(failed("move a ready worktree to"))?;
    point("worktree.claim.renamed", &new.path)?;
    place.record.point_at(&new.path).map_err(failed("record"))?;
    point("worktree.claim.pointed", &new.path)?;
    let now = clock::now();
    if let Some(branch) = branch {
        make_branch(opened, branch, &new.commit, now)
            .map_err(|source| WorktreeError::Unreadable { path: common.to_owned(), source })?;
        point("worktree.claim.branched", &new.path)?;
    }
    place.record.set_head(&new.commit, branch, now).map_err(failed("set HEAD of"))?;
    point("worktree.claim.headed", &new.path)
}

impl Pool {
    /// Takes a place down; what cannot be is said in the log and left for the next start.
    pub(super) async fn take_down(&self, repository: &Repository, path: PathBuf) {
        let Some(terms) = &self.shared.terms else { return };
        let (yard, place) = (terms.yard.clone(), path.clone());
        let gone = repository.in_turn(move |common| async move {
            read(move || leftover::take_down(&common, &yard, &place)).await
        });
        match gone.await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(cause))) => {
                tracing::warn!(path = %path.display(), %cause, "a place of the pool is left");
            }
            Ok(Err(cause)) => tracing::warn!(%cause, "a place of the pool is left"),
            Err(Closed) => {}
        }
    }
}
