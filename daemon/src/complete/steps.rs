//! The steps of a completion, and its undoing.

use super::forge::{Forge, Request};
use super::forge_program;
use super::record::{Order, Phase, Record};
use super::{Tools, chain};
use crate::fault::point;
use crate::git::join::Join;
use crate::git::land::{LandError, Landing};
use crate::git::publish::PublishError;
use crate::git::remotes::Remote;
use crate::git::{CommitId, Repository};
use hayward_shared::merge::Relation;
use hayward_shared::run::Failure;
use hayward_shared::task::{CompletionAction, Reason};
use hayward_shared::time::Timestamp;

/// Conflicting files that a failure names.
const MOST_NAMED: usize = 20;

/// Does what the present phase announces. Answers the next phase, to be kept before its own work.
pub(super) async fn next(record: &Record, tools: &Tools<'_>) -> Result<Phase, Failure> {
    let order = &record.order;
    let repository = tools
        .repositories
        .open(&order.repository)
        .await
        .map_err(|error| Failure::new(Reason::RepositoryUnavailable, chain(&error)))?;
    let phase = match (&record.phase, order.action) {
        (Phase::Begun, CompletionAction::Merge) => merge(&repository, order, tools.now).await?,
        (Phase::Begun, CompletionAction::Pr) => check(&repository, order).await?,
        (Phase::Begun, CompletionAction::Branch | CompletionAction::None) => Phase::Stands,
        (Phase::Landing { before, to }, _) => land(&repository, order, before, to).await?,
        (Phase::Pushing { remote, before }, _) => {
            push(&repository, order, remote, before.as_deref()).await?
        }
        (Phase::Pushed { remote: name, before }, _)
            if !is_there(&repository, order, name).await? =>
        {
            tracing::info!(branch = order.branch, "the remote no longer has what was pushed");
            let (remote, before) = (name.clone(), before.clone());
            Phase::Pushing { remote, before }
        }
        (Phase::Pushed { remote, before }, _) => {
            let url = open(&repository, order, remote, &tools.search_path).await?;
            Phase::Opened { remote: remote.clone(), before: before.clone(), url }
        }
        (done, _) => done.clone(),
    };
    point("complete.step.done").map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    Ok(phase)
}

fn id(text: &str) -> Result<CommitId, Failure> {
    text.parse().map_err(|error| Failure::new(Reason::Internal, chain(&error)))
}

/// What whoever lands the work should know, in lines for people: submodules at commits that the
/// checkout does not have.
pub(super) async fn warnings(record: &Record, tools: &Tools<'_>) -> Vec<String> {
    let order = &record.order;
    let (Ok(head), Ok(base)) = (id(&order.head), id(&order.base)) else { return Vec::new() };
    let links = match tools.repositories.open(&order.repository).await {
        Ok(repository) => repository.loose_links(vec![base], &head).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let told =
        |link| format!("your checkout does not have {link}: fetch it before the worktree goes");
    links.iter().map(told).collect()
}

/// Makes the commit that the target shall stand at, if it is not there already.
async fn merge(repository: &Repository, order: &Order, now: Timestamp) -> Result<Phase, Failure> {
    let head = id(&order.head)?;
    let before = repository.branch_tip(&order.target).await.map_err(|_| {
        let text = format!("there is no branch '{}' to merge into: make it first", order.target);
        Failure::new(Reason::TargetNotFound, text)
    })?;
    let trial = repository
        .try_merge(&before, &head)
        .await
        .map_err(|error| Failure::new(Reason::MergeConflict, chain(&error)))?;
    match trial.relation {
        Relation::Identical | Relation::AlreadyMerged => {
            return Ok(Phase::Landed { before: before.to_string(), to: before.to_string() });
        }
        Relation::FastForward => {
            return Ok(Phase::Landing { before: before.to_string(), to: head.to_string() });
        }
        Relation::Diverged => {}
    }
    if !trial.is_clean {
        let files: Vec<_> = trial.conflicts.iter().take(MOST_NAMED).collect();
        let names: Vec<_> = files.iter().map(|file| file.path.display().to_string()).collect();
        let text = format!(
            "'{}' conflicts with '{}' in {}: merge '{}' into the work first, or by hand",
            order.branch,
            order.target,
            names.join(", "),
            order.target
        );
        return Err(Failure::new(Reason::MergeConflict, text));
    }
    let Order { branch, target, title, task, .. } = order;
    let join = Join {
        ours: before.clone(),
        theirs: head,
        tree: trial.tree,
        settled: Vec::new(),
        message: format!(
            "Merge branch '{branch}' into {target}\n\n{title}\n\nHayward-Task: {task}"
        ),
        at: now.millis() / 1000,
        sign: order.sign,
    };
    let to = repository
        .join(join)
        .await
        .map_err(|error| Failure::new(Reason::CommitFailed, chain(&error)))?;
    Ok(Phase::Landing { before: before.to_string(), to: to.to_string() })
}

async fn land(
    repository: &Repository,
    order: &Order,
    before: &str,
    to: &str,
) -> Result<Phase, Failure> {
    let landing = Landing { branch: order.target.clone(), from: id(before)?, to: id(to)? };
    match repository.land(landing).await {
        Ok(_) => Ok(Phase::Landed { before: before.to_owned(), to: to.to_owned() }),
        Err(LandError::Moved { found, .. }) => {
            // it may have moved on from where a former try had brought it
            let on_top = repository.descends(&found, &id(to)?).await;
            match on_top.map_err(|error| Failure::new(Reason::Internal, chain(&error)))? {
                true => Ok(Phase::Landed { before: before.to_owned(), to: to.to_owned() }),
                false => Ok(Phase::Begun),
            }
        }
        // `git gc` may have taken what a former try made
        Err(LandError::Gone { .. }) => Ok(Phase::Begun),
        Err(error) => Err(not_landed(&error)),
    }
}

fn not_landed(error: &LandError) -> Failure {
    let reason = match error {
        LandError::InTheWay { .. }
        | LandError::InProgress { .. }
        | LandError::Twice { .. }
        | LandError::IndexLocked(_)
        | LandError::Moved { .. }
        | LandError::NotForward { .. } => Reason::TargetInTheWay,
        LandError::NoBranch(_) => Reason::TargetNotFound,
        LandError::DiskFull { .. } => Reason::DiskFull,
        _ => Reason::CommitFailed,
    };
    Failure::new(reason, chain(error))
}

/// Looks at what would be published, and at where the remote's branch stands.
async fn check(repository: &Repository, order: &Order) -> Result<Phase, Failure> {
    let head = id(&order.head)?;
    let remote = bound(repository, order).await?;
    let published = repository.remote_tips(&remote).await.map_err(|error| not_pushed(&error))?;
    let exposed = repository.exposed(published.clone(), &head).await;
    let exposed = exposed.map_err(|error| not_pushed(&error))?;
    if !exposed.is_empty() {
        return Err(not_pushed(&PublishError::Exposed(exposed)));
    }
    repository.refuse_loose(published, &head).await.map_err(|error| not_pushed(&error))?;
    let before =
        repository.remote_tip(&remote, &order.branch).await.map_err(|error| not_pushed(&error))?;
    let name = remote.name.clone();
    match before {
        Some(tip) if tip == head => {
            Ok(Phase::Pushed { remote: name, before: Some(tip.to_string()) })
        }
        Some(tip) if !repository.descends(&head, &tip).await.unwrap_or(false) => {
            let branch = order.branch.clone();
            Err(not_pushed(&PublishError::Moved { branch, found: tip }))
        }
        before => Ok(Phase::Pushing { remote: name, before: before.map(|tip| tip.to_string()) }),
    }
}

/// Pushes, unless the remote says that a former try did, and believes the remote alone.
async fn push(
    repository: &Repository,
    order: &Order,
    name: &str,
    before: Option<&str>,
) -> Result<Phase, Failure> {
    let head = id(&order.head)?;
    let before_id = before.map(id).transpose()?;
    let remote = remote(repository, order, name).await?;
    let ask = || repository.remote_tip(&remote, &order.branch);
    let pushed = Phase::Pushed { remote: name.to_owned(), before: before.map(str::to_owned) };
    let found = ask().await.map_err(|error| not_pushed(&error))?;
    if found.as_ref() == Some(&head) {
        return Ok(pushed);
    }
    if found != before_id {
        // somebody else pushed meanwhile: look anew
        return Ok(Phase::Begun);
    }
    let sent = repository.push(&remote, &order.branch, &head, before_id.as_ref()).await;
    point("complete.push.sent").map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    match (ask().await, sent) {
        (Ok(Some(tip)), _) if tip == head => Ok(pushed),
        (_, Err(error)) | (Err(error), Ok(())) => Err(not_pushed(&error)),
        (Ok(_), Ok(())) => {
            let text = format!("the remote took '{}' and does not have it", order.branch);
            Err(Failure::new(Reason::PushFailed, text))
        }
    }
}

/// Whether the remote still has what was pushed, by its own word.
async fn is_there(repository: &Repository, order: &Order, name: &str) -> Result<bool, Failure> {
    let remote = remote(repository, order, name).await?;
    let tip = repository.remote_tip(&remote, &order.branch).await;
    Ok(tip.map_err(|error| not_pushed(&error))?.is_some_and(|tip| tip.as_str() == order.head))
}

/// The remote that the work is pushed to: where it went when the run began, or none.
async fn bound(repository: &Repository, order: &Order) -> Result<Remote, Failure> {
    let remote = repository.remote_for(&order.target).await.map_err(|error| not_pushed(&error))?;
    if let Some(then) = &order.pushes_to {
        then.permit(&order.target, &remote).map_err(|error| not_pushed(&error))?;
    }
    Ok(remote)
}

async fn remote(repository: &Repository, order: &Order, name: &str) -> Result<Remote, Failure> {
    let remote = bound(repository, order).await?;
    if remote.name == name {
        return Ok(remote);
    }
    let text = format!("the push went to the remote '{name}', which is not the configured one now");
    Err(Failure::new(Reason::PushFailed, text))
}

fn not_pushed(error: &PublishError) -> Failure {
    let reason = match error {
        PublishError::Exposed(_) => Reason::SecretsExposed,
        PublishError::Unreachable { may_pass: true, .. } => Reason::RemoteUnreachable,
        _ => Reason::PushFailed,
    };
    Failure::new(reason, chain(error))
}

/// The forge that a remote is on: where git really goes, or, where that is a folder that stands for
/// a forge, what is written.
fn forge_of(remote: &Remote) -> Option<Forge> {
    Forge::of(&remote.url).or_else(|| Forge::of(&remote.written))
}

async fn open(
    repository: &Repository,
    order: &Order,
    name: &str,
    search_path: &str,
) -> Result<String, Failure> {
    let not_opened = |text: String| {
        let pushed = format!("'{}' was pushed, but its pull request was not opened", order.branch);
        Failure::new(Reason::PullRequestFailed, format!("{pushed}: {text}"))
    };
    let remote = remote(repository, order, name).await?;
    let Some(here) = forge_of(&remote) else {
        let shown = crate::git::command::redacted(&remote.url);
        return Err(not_opened(format!("{shown} is no forge that has pull requests")));
    };
    let upstream = repository.upstream_for(&order.target).await;
    let upstream = forge_of(&upstream.map_err(|error| not_opened(chain(&error)))?);
    let forge = upstream.unwrap_or_else(|| here.clone());
    if forge.kind != here.kind {
        let text = format!("it is on {}, its target is on {}", here.host, forge.host);
        return Err(not_opened(text));
    }
    let is_fork = !forge.path.eq_ignore_ascii_case(&here.path);
    let request = Request {
        branch: &order.branch,
        fork: is_fork.then_some(&here.path),
        target: &order.target,
        title: &order.title,
        body: &order.body,
    };
    forge_program::open(&forge, &request, search_path)
        .await
        .map_err(|error| not_opened(chain(&error)))
}

/// Takes back what was done, while nothing was built on it.
pub(super) async fn undo(order: &Order, done: &Phase, tools: &Tools<'_>) -> Result<(), Failure> {
    let repository = tools
        .repositories
        .open(&order.repository)
        .await
        .map_err(|error| Failure::new(Reason::RepositoryUnavailable, chain(&error)))?;
    match done {
        Phase::Landed { before, to } | Phase::Landing { before, to } if before != to => {
            let landing = Landing { branch: order.target.clone(), from: id(before)?, to: id(to)? };
            let undone = repository.take_back(landing).await;
            undone.map(|_| ()).map_err(|error| match error {
                LandError::Moved { .. } => {
                    // what was fast-forwarded has no one commit that brought it all
                    let merged = match *to == order.head {
                        true => format!("{before}..{to}"),
                        false => format!("-m 1 {to}"),
                    };
                    let text = format!(
                        "'{}' has gone on since: undo the merge with `git revert {merged}` there",
                        order.target
                    );
                    Failure::new(Reason::TargetInTheWay, text)
                }
                error => not_landed(&error),
            })
        }
        Phase::Pushing { remote: name, before }
        | Phase::Pushed { remote: name, before }
        | Phase::Opened { remote: name, before, .. } => {
            let remote = remote(&repository, order, name).await?;
            let head = id(&order.head)?;
            let tip = repository.remote_tip(&remote, &order.branch).await;
            match (tip.map_err(|error| not_pushed(&error))?, before) {
                (Some(tip), None) if tip == head => repository
                    .unpublish(&remote, &order.branch, &head)
                    .await
                    .map_err(|error| not_pushed(&error)),
                (Some(tip), Some(before)) if tip == head => repository
                    .push(&remote, &order.branch, &id(before)?, Some(&head))
                    .await
                    .map_err(|error| not_pushed(&error)),
                (None, _) => Ok(()),
                (Some(_), _) => {
                    let text = format!("the remote's '{}' has gone on since", order.branch);
                    Err(Failure::new(Reason::PushFailed, text))
                }
            }
        }
        _ => {
            let text = format!("nothing of task {} is to be taken back", order.task.short());
            Err(Failure::new(Reason::ActionUnsupported, text))
        }
    }
}
