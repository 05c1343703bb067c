//! Worktrees that were released: whether an agent can go on in one.

use super::repo::{Repository, read};
use super::worktree::leftover::is_checked_out;
use super::worktree::{open_own, under_way};
use std::path::Path;

/// Why no agent can go on in a worktree.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The folder is gone, or no worktree of this repository any more.
    #[error("its worktree is gone")]
    Gone,
    /// A merge, rebase or the like is under way.
    #[error("its worktree is in the middle of a {0}")]
    UnderWay(&'static str),
    /// The branch is gone, or went where HEAD did not.
    #[error("'{0}' is not where its worktree is any more")]
    Moved(String),
    /// The branch is checked out elsewhere: the work could not be brought home to it.
    #[error("'{0}' is checked out in another folder")]
    InUse(String),
    /// It could not be read.
    #[error("its worktree could not be read")]
    Unreadable(#[source] git2::Error),
}

impl Repository {
    /// Whether what is done in a released worktree can be committed on `branch` afterwards. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`Halt`] when it cannot.
    pub async fn can_go_on(&self, worktree: &Path, branch: &str) -> Result<(), Halt> {
        let (common, path) = (self.common_dir().to_owned(), worktree.to_owned());
        let branch = branch.to_owned();
        let seen = read(move || {
            let own = open_own(&common, &path).ok_or(Halt::Gone)?;
            if let Some(what) = under_way(&own) {
                return Err(Halt::UnderWay(what));
            }
            let head = own.head().and_then(|head| head.peel_to_commit());
            let head = head.map_err(Halt::Unreadable)?.id();
            if own.refname_to_id(&format!("refs/heads/{branch}")).ok() != Some(head) {
                return Err(Halt::Moved(branch));
            }
            let is_free = own.head_detached().unwrap_or(false);
            if is_free && is_checked_out(&common, &branch) {
                return Err(Halt::InUse(branch));
            }
            Ok(())
        });
        seen.await.map_err(Halt::Unreadable)?
    }
}
