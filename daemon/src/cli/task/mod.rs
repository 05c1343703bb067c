//! `hayward task`: one file per kind of question.

mod act;
mod events;
mod list;
mod show;
mod wait;

use super::budget::BudgetArgs;
use super::context::Context;
use super::run::order::label;
use super::typed::Typed;
use crate::exit::Outcome;
use hayward_shared::task::{STATUSES, Status};

/// What to do with tasks.
#[derive(clap::Args)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(clap::Subcommand)]
enum TaskCommand {
    /// List tasks, the newest first
    Ls(ListArgs),
    /// Show all of one task
    Show(OneArgs),
    /// Wait until tasks have ended; exits 7 when one did not complete
    Wait(WaitArgs),
    /// Freeze the agent of a task
    Pause(OneArgs),
    /// Let a paused agent go on
    Resume(ResumeArgs),
    /// End a task and its agent
    Cancel(OneArgs),
    /// Make a new task like one that has ended
    Retry(OneArgs),
    /// Remove a task that has ended, with its events
    Discard(OneArgs),
    /// Ask the agent to stop what it is doing
    Interrupt(InterruptArgs),
    /// Tell the agent of a running task something
    Message(TellArgs),
    /// Change what is to be done: the plan of a waiting task, a word to a running one
    Plan(PlanArgs),
    /// Print the events of a task, one a line, from the first
    Events(EventsArgs),
    /// Show what a task has changed so far
    Diff(DiffArgs),
    /// Show the tool calls of a task
    Traces(TracesArgs),
    /// Show the tokens that a task used
    Usage(OneArgs),
}

/// Which tasks.
#[derive(clap::Args)]
struct ListArgs {
    /// Only those of this status
    #[arg(long, value_name = "S", value_parser = status)]
    status: Option<Status>,

    /// Only the parts of this task
    #[arg(long, value_name = "ID")]
    parent: Option<Typed>,

    /// Only those with this label; may be given several times
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Which task.
#[derive(clap::Args)]
struct OneArgs {
    /// The task
    id: Typed,
}

/// Which task, and what it may spend from now on.
#[derive(clap::Args)]
struct ResumeArgs {
    /// The task
    id: Typed,

    #[command(flatten)]
    budget: BudgetArgs,
}

/// Which tasks, and for how long.
#[derive(clap::Args)]
struct WaitArgs {
    /// The tasks
    #[arg(required = true, value_name = "ID")]
    ids: Vec<Typed>,

    /// Give up after so many seconds, with exit code 7
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
}

/// How hard to interrupt.
#[derive(clap::Args)]
struct InterruptArgs {
    /// The task
    id: Typed,

    /// End the agent instead of asking it
    #[arg(long)]
    force: bool,
}

/// What to tell whom.
#[derive(clap::Args)]
struct TellArgs {
    /// The task
    id: Typed,

    /// What to tell its agent
    text: String,
}

/// What is to be done now.
#[derive(clap::Args)]
struct PlanArgs {
    /// The task
    id: Typed,

    /// The new plan
    text: String,

    /// Stop first what a running agent is doing
    #[arg(long)]
    interrupt: bool,
}

/// Which events.
#[derive(clap::Args)]
struct EventsArgs {
    /// The task
    id: Typed,

    /// Only those after the event with this number
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,

    /// Go on as they happen, until the task has ended
    #[arg(short, long)]
    follow: bool,
}

/// How much of the changes.
#[derive(clap::Args)]
struct DiffArgs {
    /// The task
    id: Typed,

    /// Only the names of the files and how much changed in them
    #[arg(long)]
    stat: bool,
}

/// Which tool calls.
#[derive(clap::Args)]
struct TracesArgs {
    /// The task
    id: Typed,

    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u32>,

    /// Pass over so many
    #[arg(long, value_name = "N")]
    offset: Option<u32>,
}

/// Does what the command line says.
pub(crate) async fn run(args: TaskArgs, context: &Context) -> Outcome {
    use crate::client::Verb;
    match args.command {
        TaskCommand::Ls(args) => list::run(args, context).await,
        TaskCommand::Show(args) => show::task(&args.id, context).await,
        TaskCommand::Wait(args) => wait::run(args, context).await,
        TaskCommand::Pause(args) => act::verb(&args.id, Verb::Pause, context).await,
        TaskCommand::Resume(args) => act::resume(&args.id, args.budget, context).await,
        TaskCommand::Cancel(args) => act::verb(&args.id, Verb::Cancel, context).await,
        TaskCommand::Retry(args) => act::verb(&args.id, Verb::Retry, context).await,
        TaskCommand::Discard(args) => act::discard(&args.id, context).await,
        TaskCommand::Interrupt(args) => act::interrupt(&args.id, args.force, context).await,
        TaskCommand::Message(args) => act::message(&args.id, &args.text, context).await,
        TaskCommand::Plan(args) => act::plan(args, context).await,
        TaskCommand::Events(args) => events::run(args, context).await,
        TaskCommand::Diff(args) => show::diff(&args, context).await,
        TaskCommand::Traces(args) => show::traces(&args, context).await,
        TaskCommand::Usage(args) => show::usage(&args.id, context).await,
    }
}

/// Reads the name of a status.
pub(crate) fn status(text: &str) -> Result<Status, String> {
    let named = |status: &&Status| {
        status.name() == text || (text == "done" && **status == Status::Completed)
    };
    STATUSES.iter().find(named).copied().ok_or_else(|| {
        let names: Vec<_> = STATUSES.iter().map(|status| status.name()).collect();
        format!("there is no status '{text}', only {}", names.join(", "))
    })
}
