//! After the agent: its work, committed and free for the user to take.

use super::prepare::{chain, is_disk_full};
use super::shop::Shop;
use super::state::{Place, Work};
use crate::git::commit::{CommitError, Hooks, Limits, Message, WorkOrder};
use crate::git::diff::Side;
use crate::git::staging::Withheld;
use crate::git::{CommitId, Repository, commit};
use hayward_shared::id::TaskId;
use hayward_shared::run::Failure;
use hayward_shared::task::{DiffStat, Order, Outcome, Reason, WithheldFile};

/// The longest subject line: what one-line logs show whole.
const SUBJECT: usize = 72;

/// Withheld files that a report names: a message of the wire takes a mebibyte, and nobody reads
/// more.
const MOST_NAMED: usize = 200;

/// Commits what the agent left and frees the branch, or with action `none` only looks. Doing it
/// again after a crash finds the commit made and says the same.
pub(super) async fn deliver(
    shop: &Shop,
    task: TaskId,
    order: &Order,
    place: &Place,
) -> Result<Work, Failure> {
    let repository = shop
        .repositories
        .open(&place.repository)
        .await
        .map_err(|error| Failure::new(Reason::RepositoryUnavailable, chain(&error)))?;
    let base: CommitId =
        place.base_commit.parse().map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    match &place.branch {
        Some(branch) => commit_on(&repository, task, order, place, base, branch).await,
        None => look(&repository, place, base).await,
    }
}

async fn commit_on(
    repository: &Repository,
    task: TaskId,
    order: &Order,
    place: &Place,
    base: CommitId,
    branch: &str,
) -> Result<Work, Failure> {
    let work = repository
        .commit_work(WorkOrder {
            worktree: place.path.clone(),
            base: base.clone(),
            branch: Some(branch.to_owned()),
            message: message(task, order),
            limits: Limits::default(),
            hooks: Hooks::Inert,
        })
        .await
        .map_err(refused)?;
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
    })
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
fn message(task: TaskId, order: &Order) -> Message {
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
