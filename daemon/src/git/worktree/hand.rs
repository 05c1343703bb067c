//! From the maker's hands to the agent's: who may have been in a worktree when a crash came.
//!
//! A worktree that is withheld is still being made, whatever is put into it: after a crash it is
//! taken down with all that. One that awaits its task is whole: it is kept when the task knows it.
//! Once handed over it is the agent's, and only what is surely worthless is ever taken down.

use std::path::Path;

use super::create::{blocking, disk};
use super::{Hold, Record, WorktreeError};

/// Takes a worktree that was just made back into our hands, so that more can be put into it.
///
/// # Errors
/// [`WorktreeError::Disk`] when it is no worktree or the disk refuses.
pub async fn withhold(path: &Path) -> Result<(), WorktreeError> {
    mark(path, Some(Hold::Making)).await
}

/// Says that the worktree is whole and waits for its task. To be called before its task is told
/// of it.
///
/// # Errors
/// [`WorktreeError::Disk`] when it is no worktree or the disk refuses.
pub async fn await_task(path: &Path) -> Result<(), WorktreeError> {
    mark(path, Some(Hold::Awaiting)).await
}

/// Hands the worktree over to whoever works there next. Harmless when that was done before, or
/// when an agent made something else of the folder.
///
/// # Errors
/// [`WorktreeError::Disk`] when the disk refuses.
pub async fn hand_over(path: &Path) -> Result<(), WorktreeError> {
    mark(path, None).await
}

async fn mark(path: &Path, hold: Option<Hold>) -> Result<(), WorktreeError> {
    let folder = path.to_owned();
    let marked = blocking(move || match (Record::of(&folder), hold) {
        (Some(record), Some(hold)) => record.lock(&hold),
        // a lock that the user set meanwhile is the user's
        (Some(record), None) if record.hold().is_some() => record.unlock(),
        (_, None) => Ok(()),
        (None, Some(_)) => {
            Err(std::io::Error::new(std::io::ErrorKind::NotFound, "it is no worktree"))
        }
    });
    marked.await.map_err(disk("mark the worktree", path))
}
