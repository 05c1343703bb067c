//! A worktree looked at before its work is committed, and brought back onto its branch.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{CommitError, WorkOrder, classify, own, unreadable};
use crate::git::command::Git;
use crate::git::repo::CommitId;
use crate::git::worktree::leftover::is_checked_out;
use crate::git::worktree::{EMAIL, NAME, detach, under_way};

/// The hooks that git would run while it commits.
const HOOKS: [&str; 4] = ["pre-commit", "prepare-commit-msg", "commit-msg", "post-commit"];

/// The id that git reads as "there is no such ref yet".
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// What is known of a worktree before anything is done.
pub(super) struct Survey {
    pub(super) git_dir: PathBuf,
    pub(super) head: CommitId,
    /// The branch that is checked out.
    pub(super) on: Option<String>,
    /// Where the task's branch stands, none when it is gone.
    pub(super) tip: Option<CommitId>,
    /// Whether HEAD holds all commits of the task's branch.
    pub(super) covers_tip: bool,
    /// Whether the task's branch is checked out, wherever.
    pub(super) in_use: bool,
    pub(super) has_identity: bool,
    pub(super) hooks: Vec<String>,
}

pub(super) fn survey(common: &Path, order: &WorkOrder) -> Result<Survey, CommitError> {
    let repository = own(common, order)?;
    if let Some(what) = under_way(&repository) {
        return Err(CommitError::InProgress { path: order.worktree.clone(), what });
    }
    look_around(&repository, common, order).map_err(|source| match source.code() {
        git2::ErrorCode::UnbornBranch => CommitError::Strayed {
            path: order.worktree.clone(),
            branch: order.branch.clone().unwrap_or_else(|| order.base.to_string()),
            found: "a branch without commits".to_owned(),
        },
        _ => unreadable(order, source),
    })
}

fn look_around(
    repository: &git2::Repository,
    common: &Path,
    order: &WorkOrder,
) -> Result<Survey, git2::Error> {
    let reference = repository.find_reference("HEAD")?;
    let on = reference.symbolic_target_bytes().map(|name| {
        let name = String::from_utf8_lossy(name);
        name.strip_prefix("refs/heads/").unwrap_or(&name).to_owned()
    });
    let head = repository.head()?.peel_to_commit()?.id();
    let tip = order
        .branch
        .as_ref()
        .and_then(|name| repository.refname_to_id(&format!("refs/heads/{name}")).ok());
    // where a clone was cut short is written in the common folder alone
    let whole = git2::Repository::open(common)?;
    let covers_tip = match tip {
        Some(tip) => tip == head || whole.graph_descendant_of(head, tip)?,
        None => true,
    };
    let config = repository.config()?.snapshot()?;
    let set = |key| config.get_bytes(key).is_ok_and(|value| !value.is_empty());
    Ok(Survey {
        git_dir: repository.path().to_owned(),
        head: head.into(),
        on,
        tip: tip.map(CommitId::from),
        covers_tip,
        in_use: order.branch.as_ref().is_some_and(|name| is_checked_out(common, name)),
        has_identity: set("user.name") && set("user.email"),
        hooks: hooks(&config, common, &order.worktree),
    })
}

/// The commit hooks that git would run here.
fn hooks(config: &git2::Config, common: &Path, worktree: &Path) -> Vec<String> {
    // a relative path is meant from the top of the work tree
    let folder = config
        .get_path("core.hooksPath")
        .map_or_else(|_| common.join("hooks"), |path| worktree.join(path));
    let runs = |name: &&str| {
        folder
            .join(name)
            .metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    HOOKS.iter().filter(|name| runs(name)).map(|name| (*name).to_owned()).collect()
}

/// Brings HEAD onto the task's branch if the agent left it. Says where it had been.
pub(super) async fn settle(
    order: &WorkOrder,
    seen: &Survey,
) -> Result<Option<String>, CommitError> {
    if seen.on == order.branch {
        return Ok(None);
    }
    let found = seen.on.as_ref().map_or("a detached HEAD".to_owned(), |on| format!("'{on}'"));
    let git_failed = |source| classify(order, seen, source);
    let Some(branch) = &order.branch else {
        // whatever branch the agent chose must not move
        detach(&order.worktree, &seen.head).await.map_err(git_failed)?;
        return Ok(Some(found));
    };
    let path = order.worktree.clone();
    if seen.in_use {
        return Err(CommitError::BranchInUse { path, branch: branch.clone() });
    }
    if !seen.covers_tip {
        return Err(CommitError::Strayed { path, branch: branch.clone(), found });
    }
    let name = format!("refs/heads/{branch}");
    let old = seen.tip.as_ref().map_or(NO_COMMIT, CommitId::as_str);
    Git::in_worktree(&order.worktree)
        .committer(NAME, EMAIL)
        .args(["update-ref", "-m", "hayward: bring the work home"])
        .args([&name, seen.head.as_str(), old])
        .run()
        .await
        .map_err(git_failed)?;
    Git::in_worktree(&order.worktree)
        .args(["symbolic-ref", "HEAD", &name])
        .run()
        .await
        .map_err(git_failed)?;
    Ok(Some(found))
}
