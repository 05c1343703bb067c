//! A task's work as a repository of its own: all objects, its branch, and what is uncommitted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bring::{Bring, BringError, Brought, bring};
use super::command::{CommandError, Git};
use super::repo::{CommitId, Repository};

/// How long copying the objects may take: a repository of some gigabytes on a slow disk.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Where salvaged work is fetched to, and kept from being forgotten.
const HELD: &str = "refs/hayward/salvage/origin";

/// What is cloned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A worktree as it stands, with what is uncommitted.
    Worktree(PathBuf),
    /// A branch whose worktree is gone.
    Branch,
    /// Work that was salvaged, by the whole name of its ref: what was uncommitted is so again.
    Salvage(String),
}

/// A clone that was not made. What there is of it is for the caller to remove.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// Git failed.
    #[error("the work could not be cloned")]
    Git(#[source] CommandError),
    /// What is uncommitted could not be brought along.
    #[error("what is uncommitted could not be brought along")]
    Bring(#[source] BringError),
}

impl Repository {
    /// Clones the work into the folder `to`, which must not be there. It shares nothing with the
    /// repository but the address of its origin. HEAD stands on `branch` where that is at the same
    /// commit, else on the commit itself. Ignored files stay behind.
    ///
    /// # Errors
    /// [`CloneError`].
    pub async fn clone_work(
        &self,
        work: &Work,
        (branch, head): (Option<&str>, &CommitId),
        to: &Path,
    ) -> Result<Brought, CloneError> {
        let from = match work {
            // a detached HEAD of a worktree is offered with its commits
            Work::Worktree(path) => path.as_path(),
            Work::Branch | Work::Salvage(_) => self.common_dir(),
        };
        self.copy_objects(from, to).await?;
        if let Work::Salvage(reference) = work {
            let fetch = ["fetch", "--quiet", "--no-tags", "origin"];
            let wanted = format!("{reference}:{HELD}");
            run(Git::in_worktree(to).args(fetch).arg(wanted).timeout(LIMIT)).await?;
        }
        let check_out = Git::in_worktree(to).timeout(LIMIT).args(["checkout", "--quiet"]);
        run(match branch {
            Some(branch) => check_out.args(["--no-track", "-B", branch, head.as_str()]),
            None => check_out.args(["--detach", head.as_str()]),
        })
        .await?;
        match work {
            Work::Branch => Ok(Brought::default()),
            Work::Salvage(_) => {
                let source = format!("--source={HELD}");
                let restore = ["restore", "--quiet", &source, "--worktree", "--", "."];
                run(Git::in_worktree(to).args(restore).timeout(LIMIT)).await?;
                Ok(Brought::default())
            }
            Work::Worktree(path) => {
                let order = Bring {
                    from: path.clone(),
                    required: Vec::new(),
                    included: false,
                    uncommitted: true,
                };
                bring(order, to.to_owned()).await.map_err(CloneError::Bring)
            }
        }
    }

    async fn copy_objects(&self, from: &Path, to: &Path) -> Result<(), CloneError> {
        let folder = to.parent().unwrap_or(to);
        run(Git::in_worktree(folder)
            // objects are sent, not linked: what nobody may see is not among them
            .args(["clone", "--quiet", "--no-local", "--no-checkout", "--template=", "--"])
            .args([from, to])
            .timeout(LIMIT))
        .await?;
        // the worktree goes one day, the repository stays
        let origin = ["remote", "set-url", "--", "origin"];
        run(Git::in_worktree(to).args(origin).arg(self.home())).await
    }

    /// Its folder as its user knows it.
    fn home(&self) -> &Path {
        match self.common_dir().file_name() {
            Some(name) if name == ".git" => self.common_dir().parent().unwrap_or(self.common_dir()),
            _ => self.common_dir(),
        }
    }
}

async fn run(git: Git) -> Result<(), CloneError> {
    git.run().await.map(drop).map_err(CloneError::Git)
}
