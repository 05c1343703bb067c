//! After the agent: its work, committed and free for the user to take.

use super::aim::target;
use super::furnish::{section_of, whose};
use super::jobs::bring_home;
use super::prepare::{chain, is_disk_full};
use super::shop::Shop;
use super::state::{Place, Work};
use crate::clock;
use crate::complete::{self, Tools};
use crate::config::HookPolicy;
use crate::git::commit::{CommitError, Hooks, Limits, Message, WorkOrder};
use crate::git::diff::Side;
use crate::git::staging::Withheld;
use crate::git::{CommitId, Repository, commit};
use hayward_shared::id::TaskId;
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{CompletionAction, DiffStat, Order, Outcome, Reason, WithheldFile};

/// The longest subject line: what one-line logs show whole.
const SUBJECT: usize = 72;

/// Withheld files that a report names: a message of the wire takes a mebibyte, and nobody reads
/// more.
const MOST_NAMED: usize = 200;

/// Commits what the agent left, frees the branch, and does the completion action; with action
/// `none` it only looks. Where the work is on its branch and the action failed, both are told.
/// Doing it again after a crash finds what was done and goes on.
pub(super) async fn deliver(
    shop: &Shop,
    key: RunKey,
    order: &Order,
    place: &Place,
) -> Result<(Work, Option<Failure>), Failure> {
    let task = key.task_id;
    let repository = open(shop, place).await?;
    let base: CommitId =
        place.base_commit.parse().map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    let Some(branch) = &place.branch else {
        return Ok((look(&repository, place, base).await?, None));
    };
    let mut work = commit_on(shop, &repository, task, order, (place, branch)).await?;
    let repository = match work.head_commit {
        Some(_) => at_home(shop, repository, place, branch).await?,
        None => repository,
    };
    let asked = matches!(order.completion_action, CompletionAction::Merge | CompletionAction::Pr);
    let Some(head) = work.head_commit.clone().filter(|_| asked) else {
        return Ok((work, None));
    };
    let target = match target(&repository, order).await {
        Ok(target) => target,
        Err(failure) => return Ok((work, Some(failure))),
    };
    let wanted = completion(shop, task, order, place, (branch, &head, &target));
    match bring_home(shop, key, wanted).await {
        Ok(record) => {
            work.completed = Some(record.told());
            work.pr_url = record.pr_url().map(str::to_owned);
            Ok((work, None))
        }
        Err(failure) => Ok((work, Some(failure))),
    }
}

pub(super) async fn open(shop: &Shop, place: &Place) -> Result<Repository, Failure> {
    shop.repositories
        .open(&place.repository)
        .await
        .map_err(|error| Failure::new(Reason::RepositoryUnavailable, chain(&error)))
}

/// The user's repository, with the branch in it: one that lies in a repository of the task's own is
/// fetched from there, unless the user's holds all of it and more.
pub(super) async fn at_home(
    shop: &Shop,
    repository: Repository,
    place: &Place,
    branch: &str,
) -> Result<Repository, Failure> {
    let Some(home) = &place.lent_from else { return Ok(repository) };
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Reason::CommitFailed, chain(error))
    };
    let home = shop.repositories.open(home).await.map_err(|error| failed(&error))?;
    let name = format!("refs/heads/{branch}");
    if let (Ok(theirs), Ok(ours)) = (home.resolve(&name).await, repository.resolve(&name).await)
        && home.holds(&theirs, &ours).await.unwrap_or(false)
    {
        return Ok(home);
    }
    home.take_home(&place.repository, branch).await.map_err(|error| failed(&error))?;
    Ok(home)
}

pub(super) async fn tools(shop: &Shop) -> Tools<'_> {
    let search_path = shop.agents.path().await;
    Tools { repositories: &shop.repositories, search_path, now: clock::now() }
}

/// What is to be completed: the branch whose tip is `head`.
pub(super) fn completion(
    shop: &Shop,
    task: TaskId,
    order: &Order,
    place: &Place,
    (branch, head, target): (&str, &str, &str),
) -> complete::Order {
    let message = message(task, order);
    complete::Order {
        task,
        action: order.completion_action,
        repository: whose(place).to_owned(),
        branch: branch.to_owned(),
        head: head.to_owned(),
        base: place.base_commit.clone(),
        target: target.to_owned(),
        title: message.subject,
        body: message.body,
        sign: section_of(shop, order, whose(place)).sign,
        pushes_to: place.pushes_to.clone(),
    }
}

/// Commits what lies in the worktree on `branch`, and frees the branch.
pub(super) async fn commit_on(
    shop: &Shop,
    repository: &Repository,
    task: TaskId,
    order: &Order,
    (place, branch): (&Place, &str),
) -> Result<Work, Failure> {
    let base: CommitId =
        place.base_commit.parse().map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    let wanted = work_order(shop, task, order, (place, branch), base.clone());
    let work = repository.commit_work(wanted).await.map_err(refused)?;
    repository
        .release(&place.path)
        .await
        .map_err(|error| Failure::new(Reason::CommitFailed, chain(&error)))?;
    let delivered = work.outcome == commit::Outcome::Delivered;
    if !delivered {
        repository
            .drop_branch(branch, &base)
            .await
            .map_err(|error| Failure::new(Reason::CommitFailed, chain(&error)))?;
    }
    Ok(Work {
        outcome: if delivered { Outcome::Delivered } else { Outcome::NoChanges },
        branch: delivered.then(|| branch.to_owned()),
        head_commit: delivered.then(|| work.head.to_string()),
        commits: work.commits as u64,
        stat: stat(&work.stat),
        withheld: named(&work.withheld),
        inert_hooks: work.inert_hooks,
        completed: None,
        pr_url: None,
    })
}

fn work_order(
    shop: &Shop,
    task: TaskId,
    order: &Order,
    (place, branch): (&Place, &str),
    base: CommitId,
) -> WorkOrder {
    let section = section_of(shop, order, whose(place));
    WorkOrder {
        worktree: place.path.clone(),
        base,
        branch: Some(branch.to_owned()),
        message: message(task, order),
        limits: Limits::default(),
        hooks: match section.hooks {
            HookPolicy::Inert => Hooks::Inert,
            HookPolicy::Run => Hooks::Run,
        },
        sign: section.sign,
    }
}

/// Whether [`commit_on`] would commit anything.
pub(super) async fn has_work(
    shop: &Shop,
    repository: &Repository,
    task: TaskId,
    order: &Order,
    (place, branch): (&Place, &str),
) -> Result<bool, Failure> {
    let base =
        place.base_commit.parse().map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    let wanted = work_order(shop, task, order, (place, branch), base);
    repository.has_work(wanted).await.map_err(refused)
}

async fn look(repository: &Repository, place: &Place, base: CommitId) -> Result<Work, Failure> {
    let found = repository
        .diff_stat(&base, Side::Worktree(place.path.clone()))
        .await
        .map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    let stat = stat(&found);
    Ok(Work {
        outcome: if stat.files > 0 { Outcome::Delivered } else { Outcome::NoChanges },
        branch: None,
        head_commit: None,
        commits: 0,
        stat,
        withheld: vec![],
        inert_hooks: vec![],
        completed: None,
        pr_url: None,
    })
}

/// The withheld files for the report, at most [`MOST_NAMED`] and then how many more there are.
fn named(withheld: &[Withheld]) -> Vec<WithheldFile> {
    let name = |file: &Withheld| WithheldFile {
        path: file.path.to_string_lossy().into_owned(),
        why: file.why.to_string(),
    };
    let mut named: Vec<_> = withheld.iter().take(MOST_NAMED).map(name).collect();
    if let Some(more) = withheld.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
        named.push(WithheldFile { path: "…".to_owned(), why: format!("and {more} more files") });
    }
    named
}

fn refused(error: CommitError) -> Failure {
    let reason = if is_disk_full(&error) { Reason::DiskFull } else { Reason::CommitFailed };
    Failure::new(reason, chain(&error))
}

/// The task's name as the subject, its plan as the body. What git refuses in a message (NUL) or a
/// terminal would obey becomes a mark.
pub(crate) fn message(task: TaskId, order: &Order) -> Message {
    let shown = |text: &str| -> String {
        let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
        text.trim().replace("\r\n", "\n").replace(odd, "\u{fffd}")
    };
    let (name, plan) = (shown(&order.name), shown(&order.plan));
    let subject = if name.is_empty() { "Work of an agent" } else { &name };
    let (subject, _) = hayward_shared::event::bounded(subject, SUBJECT);
    let mut body = String::new();
    if plan != name {
        body.push_str(&plan);
        body.push_str("\n\n");
    }
    body.push_str(&format!("Hayward-Task: {task}\n"));
    Message { subject: subject.to_owned(), body }
}

fn stat(stat: &crate::git::diff::DiffStat) -> DiffStat {
    DiffStat {
        files: stat.files as u64,
        insertions: stat.insertions as u64,
        deletions: stat.deletions as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f30_a_commit_message_holds_nothing_that_git_or_a_terminal_minds() {
        let order = Order {
            name: "a\u{0}b\u{1b}[31m".into(),
            plan: "first\r\nsecond\u{0}".into(),
            ..Order::default()
        };
        let task = TaskId::fresh();
        let message = message(task, &order);
        assert_eq!(message.subject, "a\u{fffd}b\u{fffd}[31m");
        assert_eq!(message.body, format!("first\nsecond\u{fffd}\n\nHayward-Task: {task}\n"));
    }
}
