//! `hayward complete`: bring the work of a task that has ended home, or take that back.

use super::context::Context;
use super::print::escape::line;
use super::print::tone::Tone;
use super::typed::Typed;
use crate::client::read;
use crate::exit::{End, Outcome};
use clap::ValueEnum;
use hayward_shared::api::CompleteBody;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::protocol::FromDaemon;
use hayward_shared::task::CompletionAction;

/// Which task, and what becomes of its work.
#[derive(clap::Args)]
pub(crate) struct CompleteArgs {
    /// The task
    id: Typed,

    /// What becomes of the work [default: what the task was ordered with]
    #[arg(long, value_enum)]
    action: Option<Action>,

    /// The branch that the work goes to [default: the task's target, else the branch it began from]
    #[arg(long, value_name = "BRANCH")]
    target: Option<String>,

    /// Take back what the last completion did, while nothing was built on it
    #[arg(long, conflicts_with_all = ["action", "target"])]
    undo: bool,
}

/// What becomes of the work.
#[derive(Clone, Copy, ValueEnum)]
enum Action {
    /// A branch of its own
    Branch,
    /// The branch is merged into the target
    Merge,
    /// The branch is pushed and a pull request opened
    Pr,
}

/// Does what the command line says.
pub(crate) async fn run(args: CompleteArgs, context: &Context) -> Outcome {
    let body = CompleteBody {
        action: args.action.map(|action| match action {
            Action::Branch => CompletionAction::Branch,
            Action::Merge => CompletionAction::Merge,
            Action::Pr => CompletionAction::Pr,
        }),
        target_branch: args.target,
        undo: args.undo,
    };
    let id = args.id.task()?;
    let path = ["api", "v1", "tasks", &id, "complete"];
    let raw = context.client()?.post_patiently(&path, &body).await?;
    if context.out.json() {
        context.out.value(&raw)?;
        return Ok(End::Done);
    }
    let FromDaemon::CompletionActionResult { message, .. } = read(&raw)? else {
        return Err(Fault::new(Code::Incompatible, "the relay gave an answer of another kind"));
    };
    context.out.line(Tone::Good, &line(&message))?;
    Ok(End::Done)
}
