//! Where a task's work goes: known before its agent starts, or the task does not begin.

use crate::git::Repository;
use crate::git::branch::is_branch_name;
use crate::git::destination::Destinations;
use hayward_shared::run::Failure;
use hayward_shared::task::{CompletionAction, Order, Reason};

/// Sees before an agent works that what it brings has somewhere to go: the one thing of a merge or
/// pull request that no work of it can change.
pub(super) async fn check(repository: &Repository, order: &Order) -> Result<(), Failure> {
    if !matches!(order.completion_action, CompletionAction::Merge | CompletionAction::Pr) {
        return Ok(());
    }
    let target = target(repository, order).await?;
    let is_merge = order.completion_action == CompletionAction::Merge;
    if is_merge && repository.branch_tip(&target).await.is_err() {
        return Err(no_branch(&target));
    }
    Ok(())
}

/// Where pushes go before an agent works. It may be that nothing will be pushed: not to know is no
/// failure, and nothing is compared then.
pub(super) async fn pushes(repository: &Repository, order: &Order) -> Option<Box<Destinations>> {
    let target = target(repository, order).await.ok();
    let told = repository.destinations(target.as_deref()).await;
    told.map_err(|error| tracing::warn!(%error, "where pushes go is not known")).ok().map(Box::new)
}

fn no_branch(target: &str) -> Failure {
    let text = format!("there is no branch '{target}' to merge into: make it first");
    Failure::new(Reason::TargetNotFound, text)
}

fn no_name(target: &str) -> Failure {
    Failure::new(Reason::TargetNotFound, format!("'{target}' is not the name of a branch"))
}

/// The branch that the work goes to: the one asked for, else the one it began from. Never the one
/// that happens to be checked out by now.
pub(crate) async fn target(repository: &Repository, order: &Order) -> Result<String, Failure> {
    let short = |name: &str| name.strip_prefix("refs/heads/").unwrap_or(name).to_owned();
    if let Some(asked) = &order.target_branch {
        let asked = short(asked);
        return if is_branch_name(&asked) { Ok(asked) } else { Err(no_name(&asked)) };
    }
    let is_there = async |name: String| repository.resolve(&name).await.is_ok();
    let found = match order.base_branch.as_deref().map(short) {
        // of a URL that nothing was said of, what its HEAD names
        None => repository.remote_head().await,
        Some(base) => {
            let here = is_there(format!("refs/heads/{base}")).await
                || is_there(format!("refs/remotes/origin/{base}")).await;
            // a branch of a remote may be called by its whole name
            let whole = !here && is_there(format!("refs/remotes/{base}")).await;
            let branch = if whole { base.split_once('/').map(|(_, b)| b.to_owned()) } else { None };
            if here { Some(base) } else { branch }
        }
    };
    found.ok_or_else(|| {
        let text = "the work began from no branch: say where it goes with --target";
        Failure::new(Reason::TargetNotFound, text)
    })
}
