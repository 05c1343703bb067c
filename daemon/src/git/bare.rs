//! A checkout that lost its work tree: `git init` inside a hook of a linked worktree marks the
//! shared repository as bare, and the user's own git then refuses to work in the main checkout.

use super::command::{CommandError, Git};
use super::repo::{Repository, read};

/// Why the mark could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// Git failed.
    #[error("the mark of a bare repository could not be taken away: set core.bare to false")]
    Git(#[source] CommandError),
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] super::repo::Closed),
}

impl Repository {
    /// Takes the mark of a bare repository away from one that has a checkout: it is called `.git`
    /// and has an index. Answers whether it was there.
    ///
    /// # Errors
    /// [`MendError`].
    pub async fn mend_bare(&self) -> Result<bool, MendError> {
        self.in_turn(move |common| async move {
            let place = common.clone();
            let spoilt = read(move || {
                let has_checkout = place.ends_with(".git") && place.join("index").is_file();
                let bare = || git2::Repository::open(&place).is_ok_and(|one| one.is_bare());
                has_checkout && bare()
            });
            if !spoilt.await.unwrap_or(false) {
                return Ok(false);
            }
            Git::on_repository(&common)
                .args(["config", "--local", "core.bare", "false"])
                .run()
                .await
                .map_err(MendError::Git)?;
            Ok(true)
        })
        .await?
    }
}
