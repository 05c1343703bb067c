//! `hayward logs`.

use super::context::Context;
use super::print::Output;
use super::print::escape::Filter;
use super::print::tone::Tone;
use super::print::words::count;
use super::typed::Typed;
use crate::client::{Doc, Reach, Sink, Watch};
use crate::exit::{End, Outcome};
use hayward_shared::fault::Fault;
use hayward_shared::task::Task;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// How often a task that waits for its agent is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Whose output, and how much of it.
#[derive(clap::Args)]
pub(crate) struct LogsArgs {
    /// The task
    id: Typed,

    /// Go on as the agent prints, until it ends
    #[arg(short, long)]
    follow: bool,

    /// Print the exact bytes; without it only text and colours pass
    #[arg(long)]
    raw: bool,

    /// Begin at this byte of all that the agent ever printed
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    from: u64,
}

/// Prints what the agent of a task printed.
pub(crate) async fn run(args: LogsArgs, context: &Context) -> Outcome {
    let (mut reach, task) = context.find(&args.id).await?;
    let task = if args.follow { begun(&mut reach, task, context).await? } else { task };
    let mut paper = Paper::new(&args, context.out);
    if task.body.holding.attempt == 0 {
        let text = format!("the agent of task {} has not started", task.body.id.short());
        context.out.note(Tone::Warn, &text);
    } else {
        let watch = Watch { task: task.body.id, from: args.from, follow: args.follow };
        watch.read(reach, &mut paper).await?;
    }
    paper.end(&task.body)?;
    Ok(End::Done)
}

/// Waits until the agent has started, or never will.
pub(super) async fn begun(
    reach: &mut Reach,
    task: Doc<Task>,
    context: &Context,
) -> Result<Doc<Task>, Fault> {
    let mut task = task;
    let mut told = false;
    while task.body.started_at.is_none() && !task.body.status.is_final() {
        if !told {
            let text = format!("task {} is {}: waiting", task.body.id.short(), task.body.status);
            context.out.note(Tone::Dim, &text);
            told = true;
        }
        sleep(POLL).await;
        task = reach.task(task.body.id).await?;
    }
    Ok(task)
}

/// How bytes become output.
enum Form {
    /// As they are.
    Raw,
    /// Text and colours, as they come.
    Clean(Filter),
    /// Text, collected for the one value at the end.
    Json { filter: Filter, text: String, gaps: Vec<Value> },
}

/// Where the output goes.
struct Paper {
    out: Output,
    form: Form,
    from: u64,
}

impl Paper {
    fn new(args: &LogsArgs, out: Output) -> Self {
        let form = if out.json() {
            Form::Json { filter: Filter::new(false), text: String::new(), gaps: Vec::new() }
        } else if args.raw {
            Form::Raw
        } else {
            Form::Clean(Filter::new(out.may_colour()))
        };
        Self { out, form, from: args.from }
    }

    fn end(self, task: &Task) -> Result<(), Fault> {
        match self.form {
            Form::Raw => Ok(()),
            Form::Clean(mut filter) => {
                let mut rest = String::new();
                filter.finish(&mut rest);
                self.out.bytes(rest.as_bytes())
            }
            Form::Json { mut filter, mut text, gaps } => {
                filter.finish(&mut text);
                let id = task.id;
                self.out
                    .value(&json!({ "taskId": id, "from": self.from, "gaps": gaps, "text": text }))
            }
        }
    }
}

impl Sink for Paper {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match &mut self.form {
            Form::Raw => self.out.bytes(bytes),
            Form::Clean(filter) => {
                let mut text = String::with_capacity(bytes.len());
                filter.push(bytes, &mut text);
                self.out.bytes(text.as_bytes())
            }
            Form::Json { filter, text, .. } => {
                filter.push(bytes, text);
                Ok(())
            }
        }
    }

    fn gap(&mut self, from: u64, until: u64) -> Result<(), Fault> {
        if let Form::Json { gaps, .. } = &mut self.form {
            gaps.push(json!({ "from": from, "until": until }));
        }
        let missing = count(until - from, "byte");
        let text = format!("{missing} from offset {from} on are not kept any more");
        self.out.say(Tone::Warn, &text);
        Ok(())
    }

    fn news(&mut self, text: &str) {
        self.out.note(Tone::Warn, text);
    }
}
