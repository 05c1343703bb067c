//! Commands to one task.

use super::PlanArgs;
use crate::cli::budget::BudgetArgs;
use crate::cli::context::Context;
use crate::cli::print::tone::Tone;
use crate::cli::typed::Typed;
use crate::client::{Client, Doc, Verb};
use crate::exit::{End, Outcome};
use hayward_shared::api::TaskPatch;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::task::{Status, Task};

/// Tries to change a task that others change meanwhile.
const TRIES: u32 = 3;

/// Pauses, cancels or retries.
pub(super) async fn verb(id: &Typed, verb: Verb, context: &Context) -> Outcome {
    let task = context.client()?.act(&id.task()?, verb).await?;
    let what = match verb {
        Verb::Retry => format!("task {} is new, like {id}", task.body.id.short()),
        _ => stands(&task.body),
    };
    tell(&task, &what, context)
}

/// Lets a paused task go on; what it may spend is set anew where that is said.
pub(super) async fn resume(id: &Typed, budget: BudgetArgs, context: &Context) -> Outcome {
    let budget = budget.read();
    let task = context.client()?.resume(&id.task()?, budget).await?;
    let mut what = stands(&task.body);
    if budget.is_some() && task.body.status == Status::Paused {
        what.push_str("; it goes on as soon as its daemon hears of its new budget");
    }
    tell(&task, &what, context)
}

/// Removes a task that has ended.
pub(super) async fn discard(id: &Typed, context: &Context) -> Outcome {
    let client = context.client()?;
    let task = client.task(&id.task()?).await?;
    client.discard(task.body.id).await?;
    let mut what = format!("task {} is discarded", task.body.id.short());
    if let Some(branch) = &task.body.results.branch {
        what.push_str(&format!("; its branch {branch} stays"));
    }
    what.push_str("; its worktree goes, after what is only there is kept (hayward worktree ls)");
    tell(&task, &what, context)
}

/// Stops what the agent does.
pub(super) async fn interrupt(id: &Typed, force: bool, context: &Context) -> Outcome {
    let task = context.client()?.interrupt(&id.task()?, force).await?;
    tell(&task, &format!("the agent of task {} is told to stop", task.body.id.short()), context)
}

/// Tells the agent something.
pub(super) async fn message(id: &Typed, text: &str, context: &Context) -> Outcome {
    let task = context.client()?.message(&id.task()?, text).await?;
    tell(&task, &format!("the agent of task {} is told", task.body.id.short()), context)
}

/// Changes the plan where no agent has read it yet; else tells the agent.
pub(super) async fn plan(args: PlanArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let found = client.task(&args.id.task()?).await?;
    let id = found.body.id.to_string();
    if !is_unread(found.body.status) {
        if args.interrupt {
            client.interrupt(&id, false).await?;
        }
        let task = client.message(&id, &args.text).await?;
        let what = format!("the agent of task {} is told", task.body.id.short());
        return tell(&task, &what, context);
    }
    let task = amend(&client, found, &args.text).await?;
    tell(&task, &format!("task {} has a new plan", task.body.id.short()), context)
}

/// Whether the plan can still change before an agent reads it.
fn is_unread(status: Status) -> bool {
    matches!(status, Status::Pending | Status::Queued | Status::Deferred)
}

async fn amend(client: &Client, found: Doc<Task>, text: &str) -> Result<Doc<Task>, Fault> {
    let mut found = found;
    let mut tries = 1;
    loop {
        let patch = TaskPatch {
            version: found.body.version,
            plan: Some(text.to_owned()),
            ..TaskPatch::default()
        };
        match client.amend(found.body.id, &patch).await {
            Err(fault) if fault.code == Code::VersionConflict && tries < TRIES => {
                tries += 1;
                found = client.task(&found.body.id.to_string()).await?;
            }
            answer => return answer,
        }
    }
}

fn stands(task: &Task) -> String {
    format!("task {} is {}", task.id.short(), task.status)
}

fn tell(task: &Doc<Task>, what: &str, context: &Context) -> Outcome {
    if context.out.json() {
        context.out.value(&task.raw)?;
    } else {
        context.out.line(Tone::Plain, &crate::cli::print::escape::line(what))?;
    }
    Ok(End::Done)
}
