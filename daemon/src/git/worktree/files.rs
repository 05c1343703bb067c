//! The files of a worktree that is recorded: written by ourselves where that is sound, else by git.

use std::path::Path;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};

use super::super::command::Git;
use super::super::repo::{CommitId, Repository, read};
use super::create::{blocking, disk};
use super::grounds::{Checkout, FILL};
use super::seed::seed;
use super::source::{Opened, Source};
use super::{BEGINS, Grounds, WorktreeError};
use crate::beside::beside;

/// A source that was read while its worktree was begun.
pub(in crate::git) struct Ahead {
    source: Option<Opened>,
    _permit: OwnedSemaphorePermit,
}

/// Begins to read what a worktree of the commit is filled from, on a thread of its own. None where as many
/// are read as there are processors: one of a large repository takes some memory. Blocking.
pub(super) fn read_ahead(repository: &Repository, commit: &CommitId) -> Option<JoinHandle<Ahead>> {
    let permit = repository.grounds().ahead()?;
    let (common, commit) = (repository.common_dir().to_owned(), commit.clone());
    Some(beside(BEGINS, |beside| {
        spawn_blocking(move || {
            beside.begin();
            let source = source(&common, &commit);
            Ahead { source, _permit: permit }
        })
    }))
}

/// None where git has to write the files, or at least has to say why it cannot.
fn source(common: &Path, commit: &CommitId) -> Option<Opened> {
    let read = Source::read(common, commit);
    read.inspect_err(|cause| tracing::debug!(%cause, "the files are left to git")).ok().flatten()
}

/// Writes the files of the commit into an empty worktree, of which `ahead` may be read already, and the
/// repository opened once more. HEAD must be where it stays: what settings say may hang on it.
pub(in crate::git) async fn write_files(
    repository: &Repository,
    path: &Path,
    commit: &CommitId,
    ahead: Option<Ahead>,
    spare: Option<git2::Repository>,
) -> Result<(), WorktreeError> {
    let (common, at, wanted) =
        (repository.common_dir().to_owned(), path.to_owned(), commit.clone());
    let leave = repository.grounds().checkout().await;
    let (workers, until) = (leave.workers(), Instant::now() + FILL);
    let seeded = blocking(move || {
        let source = ahead.map_or_else(|| source(&common, &wanted), |ahead| ahead.source);
        source.map_or(Ok(false), |source| seed(&at, &source, spare, workers, until))
    });
    let seeded = seeded.await.map_err(disk("fill", path))?;
    match seeded {
        true => Ok(()),
        false => read_tree(leave, path, None, commit).await,
    }
}

/// Writes the files of `to` over those of `from`, of which nothing was changed.
pub(in crate::git) async fn check_out(
    grounds: &Grounds,
    path: &Path,
    from: &CommitId,
    to: &CommitId,
) -> Result<(), WorktreeError> {
    read_tree(grounds.checkout().await, path, Some(from), to).await
}

/// Filters, line ends and sparse patterns are git's business.
async fn read_tree(
    leave: Checkout<'_>,
    path: &Path,
    from: Option<&CommitId>,
    to: &CommitId,
) -> Result<(), WorktreeError> {
    let place = path.to_owned();
    let users_own = read(move || {
        let config = git2::Repository::open(&place)?.config()?.snapshot()?;
        Ok::<_, git2::Error>(config.get_entry("checkout.workers").is_ok())
    });
    let users_own = users_own.await.and_then(|own| own).unwrap_or(false);
    let git = Git::in_worktree(path).timeout(FILL).args(["read-tree", "-m", "-u"]);
    leave
        .equip(git, users_own)
        .args(from.map(CommitId::as_str))
        .arg(to.as_str())
        .run()
        .await
        .map(|_| ())
        .map_err(|source| WorktreeError::Git { path: path.to_owned(), source })
}
