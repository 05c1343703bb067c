//! A worktree for a moment, in which no agent works.

use std::io;
use std::path::Path;

use super::super::repo::{Closed, Repository};
use super::create::blocking;
use super::leftover;
use super::yard::Yard;

impl Repository {
    /// Takes a worktree of ours down that was made for a moment, whatever was written into it since,
    /// and forgets its note. Its bytes go with the trash. One that is gone, or was half made, is
    /// fine. The caller alone may use its folder.
    ///
    /// # Errors
    /// When the disk fails, something else lies there, or the daemon is shutting down.
    pub async fn scrap(&self, worktree: &Path) -> io::Result<()> {
        let path = worktree.to_owned();
        let _alone = self.grounds().hold(worktree).await;
        self.in_turn(move |common| async move {
            blocking(move || {
                let yard = Yard::around(&path);
                leftover::take_down(&common, &yard, &path)?;
                yard.forget(&path)
            })
            .await
        })
        .await
        .map_err(|closed: Closed| io::Error::other(closed))?
    }
}
