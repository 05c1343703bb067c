//! What of a task is brought home when a person asks: its branch as it stands now, with what lies
//! uncommitted in its worktree.

use super::again::fault;
use super::deliver::{commit_on, has_work};
use super::prepare::chain;
use super::shop::Shop;
use super::state::{Place, RunState};
use crate::git::{BranchName, CommitId, Repository};
use crate::journal::RunRow;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::task::Order;

/// The task's branch and the commit of it to bring. What lies in its worktree is committed first. A
/// branch that the user took on is brought as it is, when it holds all that the task made. A task
/// that ended without a branch is given one.
pub(super) async fn standing(
    shop: &Shop,
    repository: &Repository,
    row: &RunRow<RunState>,
    order: &Order,
    place: &Place,
) -> Result<(String, String), Fault> {
    let task = row.key.task_id;
    let former = shop.completions.of(task).await.map_err(|error| failed(&error))?;
    let former = former.map(|record| record.order);
    let known = place.branch.clone().or_else(|| former.as_ref().map(|one| one.branch.clone()));
    let made = row.state.head_commit.clone().or_else(|| former.map(|one| one.head));
    let at = match &known {
        Some(name) => tip(repository, name).await.map(|tip| (name.as_str(), tip)),
        None => None,
    };
    if let Some((name, tip)) = &at
        && (!place.path.is_dir() || leads(shop, repository, row, order, (place, name, tip)).await?)
    {
        let made = made.as_deref().unwrap_or(&place.base_commit);
        holds(repository, (name, tip), &made.parse().map_err(|error| failed(&error))?).await?;
        if tip.as_str() == place.base_commit {
            return Err(no_work(row));
        }
        return Ok(((*name).to_owned(), tip.to_string()));
    }
    if !place.path.is_dir() {
        let text = format!("neither worktree nor branch of task {} is left", task.short());
        return Err(Fault::new(Code::NotFound, text));
    }
    let name = match known {
        Some(name) => name,
        None => {
            let taken = repository.branches().await.map_err(|error| failed(&error))?;
            BranchName::for_task(&order.name, &task.short()).choose(&taken).name
        }
    };
    let work = commit_on(shop, repository, task, order, (place, &name)).await.map_err(fault)?;
    work.branch.zip(work.head_commit).ok_or_else(|| no_work(row))
}

/// Whether the branch has all that lies in the worktree, be it that the user took it on from there.
/// Refuses where each has what the other lacks.
async fn leads(
    shop: &Shop,
    repository: &Repository,
    row: &RunRow<RunState>,
    order: &Order,
    (place, name, tip): (&Place, &str, &CommitId),
) -> Result<bool, Fault> {
    let there = shop.repositories.open(&place.path).await.map_err(|error| failed(&error))?;
    let head = there.head().await.map_err(|error| failed(&error))?;
    if head.branch.as_deref() == Some(name) {
        return Ok(false);
    }
    let held = async |holder, commit| {
        repository.holds(holder, commit).await.map_err(|error| failed(&error))
    };
    if !held(tip, &head.commit).await? {
        if held(&head.commit, tip).await? {
            return Ok(false);
        }
        let text = format!(
            "'{name}' was rewritten: at {tip} it lacks what the worktree has at {}",
            head.commit
        );
        let hint = format!("merge {} into '{name}', or point it back there", head.commit);
        return Err(Fault::new(Code::Conflict, text).with_hint(hint));
    }
    let task = row.key.task_id;
    let has_work = has_work(shop, repository, task, order, (place, name)).await.map_err(fault)?;
    if has_work && *tip != head.commit {
        let path = place.path.display();
        let text = format!("'{name}' went on to {tip} without the changes that lie in {path}");
        return Err(Fault::new(Code::Conflict, text)
            .with_hint("commit them onto it by hand, or take them out of the worktree"));
    }
    Ok(!has_work)
}

/// Fails unless the branch still has what the task made.
async fn holds(
    repository: &Repository,
    (name, tip): (&str, &CommitId),
    made: &CommitId,
) -> Result<(), Fault> {
    if repository.holds(tip, made).await.map_err(|error| failed(&error))? {
        return Ok(());
    }
    let text = format!("'{name}' was rewritten: at {tip} it lacks what the task made, {made}");
    let hint = format!("merge {made} into '{name}', or point it back there");
    Err(Fault::new(Code::Conflict, text).with_hint(hint))
}

/// Where a branch stands; none when it is not there.
pub(super) async fn tip(repository: &Repository, branch: &str) -> Option<CommitId> {
    repository.resolve(&format!("refs/heads/{branch}")).await.ok()
}

fn no_work(row: &RunRow<RunState>) -> Fault {
    let text =
        format!("task {} changed nothing: there is no work to bring", row.key.task_id.short());
    Fault::new(Code::Conflict, text)
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(Code::Failed, chain(error))
}
