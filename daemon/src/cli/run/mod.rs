//! `hayward run`: makes tasks and follows them to their end.

mod follow;
pub(crate) mod order;
mod progress;
pub(crate) mod repository;
pub(crate) mod summary;

use super::budget::BudgetArgs;
use super::context::Context;
use super::detach;
use super::print::tone::Tone;
use super::print::words::seconds;
use super::typed::Typed;
use crate::client::{Client, Doc, Finder, read, shown};
use crate::exit::{End, Outcome};
use clap::ValueEnum;
use follow::Ended;
use hayward_shared::api::DaemonView;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, TaskId};
use hayward_shared::run::REQUEUE_LEAST;
use hayward_shared::task::{CompletionAction, Order, Status, Task};
use order::{Place, label};
use std::path::PathBuf;

/// The most tasks that one command line makes.
const MOST: u32 = 1000;

/// What to do, with what, and where.
#[derive(clap::Args)]
#[command(
    override_usage = "hayward run [OPTIONS] [PROMPT]\n       hayward run [OPTIONS] -- COMMAND...",
    after_help = "Examples:\n  \
        hayward run \"fix the failing test\"\n  \
        hayward run --agent claude --prompt-file plan.md --detach\n  \
        hayward run -- sh -c 'make fmt'\n\n\
        Ctrl-C leaves the task running and says how to follow and how to end it."
)]
pub(crate) struct RunArgs {
    /// What the agent is to do
    #[arg(conflicts_with_all = ["prompt_file", "command"])]
    prompt: Option<String>,

    /// A command to run in place of an agent
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "prompt_file")]
    command: Vec<String>,

    /// Read the prompt from this file; - is standard input
    #[arg(long, value_name = "F")]
    prompt_file: Option<PathBuf>,

    /// Which agent does it [default: the best that is installed]
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    agent: Option<String>,

    /// The repository, by a folder in it [default: the one around the current folder]
    #[arg(long, value_name = "PATH")]
    repo: Option<String>,

    /// The branch, tag or commit to start from [default: HEAD]
    #[arg(long, value_name = "REF")]
    base: Option<String>,

    /// The branch that the work is meant for
    #[arg(long, value_name = "BRANCH")]
    target: Option<String>,

    /// What becomes of the work: none, branch, merge or pr
    #[arg(long, value_enum, hide_possible_values = true, value_name = "ACTION", default_value_t = On::Branch)]
    on: On,

    /// A short name; the branch is called after it [default: from the prompt]
    #[arg(long, value_name = "N")]
    name: Option<String>,

    /// Higher goes first, from -1000 to 1000
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,

    /// The task whose part this is
    #[arg(long, value_name = "ID")]
    parent: Option<Typed>,

    /// The task whose worktree this one goes on in
    #[arg(long = "continue", value_name = "ID")]
    go_on: Option<Typed>,

    /// An ignored file to bring along from your checkout; may be given several times
    #[arg(long = "copy", value_name = "FILE")]
    copies: Vec<String>,

    /// A label; may be given several times
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,

    /// A label that a daemon must have to run it, under labels in its config.toml; may be given
    /// several times
    #[arg(long = "require", value_name = "K=V", value_parser = label)]
    requires: Vec<(String, String)>,

    /// The daemon that is to run it [default: the one of this machine]
    #[arg(long, value_name = "ID")]
    daemon: Option<Typed>,

    /// End the agent after so many seconds; 15m and 2h are read too
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<u64>,

    #[command(flatten)]
    budget: BudgetArgs,

    /// How often to start the agent at the most, when what went wrong may pass
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    max_attempts: u32,

    /// Let another daemon begin anew when the one that has it was away for so many minutes; its own
    /// agent is ended before that
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(i64::from(REQUEUE_LEAST)..))]
    requeue_after: Option<u32>,

    /// Make so many tasks of it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    count: u32,

    /// Fail when nothing was changed
    #[arg(long)]
    require_changes: bool,

    /// Do not follow: print the new task and return
    #[arg(long)]
    detach: bool,
}

/// What becomes of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    /// No branch; the worktree is kept
    None,
    /// A branch of its own
    Branch,
    /// The branch is merged into the target
    Merge,
    /// A pull request is opened
    Pr,
}

impl From<On> for CompletionAction {
    fn from(on: On) -> Self {
        match on {
            On::None => Self::None,
            On::Branch => Self::Branch,
            On::Merge => Self::Merge,
            On::Pr => Self::Pr,
        }
    }
}

/// Makes the tasks, and follows them unless they are detached.
pub(crate) async fn run(args: RunArgs, context: &Context) -> Outcome {
    let prompt = order::prompt(&args)?;
    let base = repository::find(args.repo.as_deref(), args.base.as_deref())?;
    order::has_an_aim(&args, &base)?;
    let finder = context.finder()?;
    let own = own_daemon(&finder, args.daemon.is_none(), context).await?;
    let client = Client::new(finder.place()?)?;
    let place = Place {
        daemon: match &args.daemon {
            Some(wanted) => Some(find_daemon(&client, wanted).await?),
            None if base.is_local() => own,
            None => None,
        },
        base,
        parent: task_id(&client, args.parent.as_ref()).await?,
        go_on: task_id(&client, args.go_on.as_ref()).await?,
    };
    let orders = order::orders(&args, prompt, &place);
    let many = args.count > 1;
    let tasks = submit(&client, &orders, context).await?;
    if args.detach {
        print(&tasks, many, context)?;
        return Ok(End::Done);
    }
    match follow::follow(tasks, &client, finder, context).await? {
        Ended::Interrupted(open) => {
            say_how_to_go_on(&open, context);
            Ok(End::Interrupted)
        }
        Ended::All { tasks, places } => {
            for (tone, text) in tasks.iter().filter_map(|task| summary::bad_news(&task.body)) {
                context.out.say(tone, &text);
            }
            if context.out.json() {
                print(&tasks, many, context)?;
                return Ok(verdict(&tasks));
            }
            for Doc { body: task, .. } in &tasks {
                let place = places.get(&task.id).map(String::as_str);
                for (tone, text) in summary::lines(task, place, many) {
                    context.out.line(tone, &text)?;
                }
            }
            Ok(verdict(&tasks))
        }
    }
}

/// Whether all have completed.
pub(crate) fn verdict(tasks: &[Doc<Task>]) -> End {
    let all = tasks.iter().all(|task| task.body.status == Status::Completed);
    if all { End::Done } else { End::NotCompleted }
}

/// The daemon of this machine; started where none runs and nothing says that another is meant.
async fn own_daemon(
    finder: &Finder,
    needed: bool,
    context: &Context,
) -> Result<Option<DaemonId>, Fault> {
    let running = match finder.running()? {
        Some(running) => Some(running),
        None if finder.configured()?.is_none() => {
            context.out.note(Tone::Dim, "starting hayward in the background");
            Some(detach::start(&finder.home, (None, None), context).await?)
        }
        None => None,
    };
    let linked = running.filter(|running| !running.daemon_id.is_empty());
    let relay = finder.relay()?;
    let missing = match &linked {
        Some(running) if running.relay.trim_end_matches('/') == shown(&relay) => {
            return running.daemon_id.parse().map(Some).map_err(|_| {
                Fault::new(Code::Failed, format!("'{}' is no id of a daemon", running.daemon_id))
            });
        }
        _ if !needed => return Ok(None),
        Some(running) => format!("the daemon of this machine is linked to {}", running.relay),
        None => "no daemon of this machine is linked".to_owned(),
    };
    let message = format!("{missing}; the task would go to {}", shown(&relay));
    Err(Fault::new(Code::Unavailable, message)
        .with_hint("start one with hayward up, or name another with --daemon"))
}

async fn find_daemon(client: &Client, wanted: &Typed) -> Result<DaemonId, Fault> {
    let rows = client.all(&["api", "v1", "daemons"], &[], "daemons").await?;
    let views: Vec<DaemonView> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let fragment = wanted.fragment("daemon")?;
    let mut matching = views.iter().filter(|view| fragment.matches(&view.id.0));
    match (matching.next(), matching.next()) {
        (Some(view), None) => Ok(view.id),
        (Some(_), Some(_)) => {
            Err(Fault::new(Code::Ambiguous, format!("{wanted} names several daemons")))
        }
        (None, _) => Err(Fault::not_found("daemon", wanted).with_hint("hayward status shows them")),
    }
}

async fn task_id(client: &Client, id: Option<&Typed>) -> Result<Option<TaskId>, Fault> {
    match id {
        Some(id) => Ok(Some(client.task(&id.task()?).await?.body.id)),
        None => Ok(None),
    }
}

/// Makes the tasks one after the other, so that their ages follow their numbers.
async fn submit(
    client: &Client,
    orders: &[Order],
    context: &Context,
) -> Result<Vec<Doc<Task>>, Fault> {
    let mut tasks = Vec::with_capacity(orders.len());
    for order in orders {
        match client.create_task(order).await {
            Ok(task) => tasks.push(task),
            Err(fault) => {
                for task in &tasks {
                    let task: &Doc<Task> = task;
                    let id = task.body.id.short();
                    context.out.note(Tone::Warn, &format!("task {id} was made before that"));
                }
                return Err(fault);
            }
        }
    }
    Ok(tasks)
}

fn print(tasks: &[Doc<Task>], many: bool, context: &Context) -> Result<(), Fault> {
    if context.out.json() {
        let rows: Vec<_> = tasks.iter().map(|task| &task.raw).collect();
        return match (many, rows.first()) {
            (false, Some(only)) => context.out.value(only),
            _ => context.out.value(&rows),
        };
    }
    for task in tasks {
        context.out.line(Tone::Plain, &task.body.id.short())?;
    }
    if let Some(first) = tasks.first() {
        let id = first.body.id.short();
        context
            .out
            .note(Tone::Dim, &format!("follow it: hayward logs -f {id}, hayward task wait {id}"));
    }
    Ok(())
}

fn say_how_to_go_on(open: &[TaskId], context: &Context) {
    let ids: Vec<_> = open.iter().map(TaskId::short).collect();
    let ids = ids.join(" ");
    let goes = if open.len() == 1 { "it goes" } else { "they go" };
    context.out.say(Tone::Warn, &format!("detached: {goes} on without you"));
    context.out.say(Tone::Plain, &format!("follow:  hayward task wait {ids}"));
    if let [only] = open {
        context.out.say(Tone::Plain, &format!("output:  hayward logs -f {}", only.short()));
    }
    let cancel: Vec<_> =
        open.iter().map(|id| format!("hayward task cancel {}", id.short())).collect();
    context.out.say(Tone::Plain, &format!("cancel:  {}", cancel.join("; ")));
}
