//! `hayward merge`: what a merge would bring, and the merge commands of the wire.

mod act;
mod preview;
mod queue;

use super::context::Context;
use super::typed::Typed;
use crate::client::{Client, Doc};
use crate::exit::Outcome;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::Fragment;
use hayward_shared::merge::MergeSide;
use hayward_shared::task::Task;

/// What to do with merges.
#[derive(clap::Args)]
pub(crate) struct MergeArgs {
    #[command(subcommand)]
    command: MergeCommand,
}

#[derive(clap::Subcommand)]
enum MergeCommand {
    /// List the branches of agents that can be merged into a task
    Branches(OneArgs),
    /// Say what a merge would bring, without touching anything
    Preview(PreviewArgs),
    /// Merge a branch into a task's own; with conflicts the merge waits, and this exits 4
    Start(StartArgs),
    /// Show whether a merge waits, and for which files
    Status(OneArgs),
    /// Settle a file in conflict by taking one side's version of it
    Resolve(ResolveArgs),
    /// End a merge with a commit on the task's branch
    Commit(CommitArgs),
    /// Give a merge up; nothing of it is left
    Abort(OneArgs),
    /// Leave a part of a task out of it
    Skip(SkipArgs),
    /// Say whether every part of a task is merged or skipped
    Check(OneArgs),
    /// Merge the branches of tasks in order, each only when a check passes with it
    Queue(queue::QueueArgs),
}

/// Which task.
#[derive(clap::Args)]
struct OneArgs {
    /// The task
    id: Typed,
}

/// What would be merged, and into what.
#[derive(clap::Args)]
struct PreviewArgs {
    /// A task, whose branch is meant, or a branch, tag or commit
    #[arg(value_name = "ID|BRANCH")]
    source: String,

    /// Into what [default: where the task's work goes, else the branch that is checked out]
    #[arg(long, value_name = "BRANCH")]
    target: Option<String>,

    /// The repository, where no task is named [default: the one around this folder]
    #[arg(long, value_name = "PATH")]
    repo: Option<String>,
}

/// What to merge.
#[derive(clap::Args)]
struct StartArgs {
    /// The task into whose branch is merged
    id: Typed,

    /// What to merge: a branch, tag or commit, or a task, whose branch is meant
    branch: String,
}

/// Which file, and how.
#[derive(clap::Args)]
struct ResolveArgs {
    /// The task
    id: Typed,

    /// The file in conflict
    file: String,

    /// `ours` is the task's own version, `theirs` the one that is merged
    #[arg(value_name = "ours|theirs")]
    side: MergeSide,
}

/// What the commit says.
#[derive(clap::Args)]
struct CommitArgs {
    /// The task
    id: Typed,

    /// What the commit says [default: git's usual words]
    #[arg(short, long, value_name = "MSG", default_value = "", hide_default_value = true)]
    message: String,
}

/// Which part, and why.
#[derive(clap::Args)]
struct SkipArgs {
    /// The task
    id: Typed,

    /// The part to leave out
    subtask: Typed,

    /// Why
    #[arg(long, value_name = "R")]
    reason: String,
}

/// Does what the command line says.
pub(crate) async fn run(args: MergeArgs, context: &Context) -> Outcome {
    match args.command {
        MergeCommand::Branches(args) => act::branches(&args.id, context).await,
        MergeCommand::Preview(args) => preview::run(args, context).await,
        MergeCommand::Start(args) => act::start(args, context).await,
        MergeCommand::Status(args) => act::status(&args.id, context).await,
        MergeCommand::Resolve(args) => act::resolve(args, context).await,
        MergeCommand::Commit(args) => act::commit(args, context).await,
        MergeCommand::Abort(args) => act::abort(&args.id, context).await,
        MergeCommand::Skip(args) => act::skip(args, context).await,
        MergeCommand::Check(args) => act::check(&args.id, context).await,
        MergeCommand::Queue(args) => queue::run(args, context).await,
    }
}

/// The task that a word names; none when it names none, so that it may be a branch.
async fn task_named(client: &Client, word: &str) -> Result<Option<Doc<Task>>, Fault> {
    let Ok(fragment) = word.parse::<Fragment>() else { return Ok(None) };
    match client.task(&fragment.to_string()).await {
        Ok(task) => Ok(Some(task)),
        Err(fault) if fault.code == Code::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The branch that a word means: a task's where it names one, else the word itself.
async fn branch_meant(client: &Client, word: &str) -> Result<String, Fault> {
    match task_named(client, word).await? {
        None => Ok(word.to_owned()),
        Some(task) => task.body.results.branch.ok_or_else(|| {
            let text = format!("task {} has no branch", task.body.id.short());
            Fault::new(Code::Conflict, text).with_hint("it may have changed nothing, or not ended")
        }),
    }
}
