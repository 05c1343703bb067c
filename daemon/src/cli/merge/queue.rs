//! `hayward merge queue`: what waits to be merged, in order, with a check before each landing.

use crate::cli::context::Context;
use crate::cli::print::escape::line;
use crate::cli::print::table::{Table, fixed, flexible};
use crate::cli::print::tone::Tone;
use crate::cli::typed::Typed;
use crate::client::{Client, array, may_pass, read};
use crate::exit::{End, Outcome};
use hayward_shared::fault::Fault;
use hayward_shared::id::EntryId;
use hayward_shared::queue::{QueueAddBody, QueueEntry, QueueState, SentBack};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it is asked how the entries stand: a check takes seconds at least.
const LOOK: Duration = Duration::from_millis(500);

/// What to do with the merge queue.
#[derive(clap::Args)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(clap::Subcommand)]
enum QueueCommand {
    /// Queue the branches of tasks that have ended; what passes the check together lands
    Add(AddArgs),
    /// List what waits and what ended lately
    Ls,
    /// Take an entry out
    Rm(RmArgs),
}

/// What goes where, and what it must pass.
#[derive(clap::Args)]
struct AddArgs {
    /// The tasks, in the order in which they are merged
    #[arg(required = true)]
    ids: Vec<Typed>,

    /// Into which branch [default: where the tasks' work goes, else the branch that is checked out]
    #[arg(long, value_name = "BRANCH")]
    target: Option<String>,

    /// The command line that must succeed on the merged files; '' for none
    #[arg(long, value_name = "CMD")]
    check: String,

    /// How long it may take [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,

    /// Wait until all have ended; exit 4 unless all landed
    #[arg(long)]
    wait: bool,
}

/// Which entry.
#[derive(clap::Args)]
struct RmArgs {
    /// The entry
    id: Typed,
}

/// Does what the command line says.
pub(super) async fn run(args: QueueArgs, context: &Context) -> Outcome {
    match args.command {
        QueueCommand::Add(args) => add(args, context).await,
        QueueCommand::Ls => list(context).await,
        QueueCommand::Rm(args) => remove(&args.id, context).await,
    }
}

async fn add(args: AddArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let body = QueueAddBody {
        task_ids: args.ids.iter().map(Typed::task).collect::<Result<_, _>>()?,
        target_branch: args.target,
        check: args.check,
        timeout_seconds: args.timeout,
    };
    let mut answer = client.post_patiently(&["api", "v1", "queue"], &body).await?;
    let mut rows = array(&mut answer, "queue");
    if args.wait {
        rows = ended(&client, &rows, context).await?;
    }
    show(&rows, context)?;
    let landed =
        |row: &Value| read(row).is_ok_and(|row: QueueEntry| row.state == QueueState::Landed);
    Ok(if !args.wait || rows.iter().all(landed) { End::Done } else { End::Conflicting })
}

/// Waits until none of the entries waits any more; how they stand then. What holds them up is said
/// as it comes.
async fn ended(client: &Client, rows: &[Value], context: &Context) -> Result<Vec<Value>, Fault> {
    let mut wanted: BTreeMap<EntryId, Value> = BTreeMap::new();
    for row in rows {
        wanted.insert(read::<QueueEntry>(row)?.id, row.clone());
    }
    let mut said = String::new();
    loop {
        match client.get(&["api", "v1", "queue"], &[]).await {
            Ok(mut answer) => {
                for row in array(&mut answer, "queue") {
                    if let Some(place) = wanted.get_mut(&read::<QueueEntry>(&row)?.id) {
                        *place = row;
                    }
                }
            }
            Err(fault) if may_pass(&fault.code) => say(&mut said, &fault.message, context),
            Err(fault) => return Err(fault),
        }
        let entries: Vec<QueueEntry> = wanted.values().map(read).collect::<Result<_, _>>()?;
        let mut open = entries.iter().filter(|entry| !entry.state.is_final()).peekable();
        if open.peek().is_none() {
            return Ok(wanted.into_values().collect());
        }
        if let Some(held) = open.find(|entry| !entry.message.is_empty()) {
            say(&mut said, &format!("task {}: {}", held.task_id.short(), held.message), context);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Says it unless it was the last thing said.
fn say(said: &mut String, text: &str, context: &Context) {
    if said != text {
        text.clone_into(said);
        context.out.note(Tone::Dim, &line(text));
    }
}

async fn list(context: &Context) -> Outcome {
    let mut answer = context.client()?.get(&["api", "v1", "queue"], &[]).await?;
    for daemon in array(&mut answer, "unanswered") {
        let word = |name: &str| daemon.get(name).and_then(Value::as_str).unwrap_or_default();
        let text = format!("{} did not answer: {}", word("hostname"), word("reason"));
        context.out.note(Tone::Warn, &line(&text));
    }
    if answer.get("truncated") == Some(&Value::Bool(true)) {
        context.out.note(Tone::Dim, "older entries are not shown");
    }
    show(&array(&mut answer, "queue"), context)?;
    Ok(End::Done)
}

async fn remove(id: &Typed, context: &Context) -> Outcome {
    let fragment = id.fragment("entry")?.to_string();
    let answer = context.client()?.delete(&["api", "v1", "queue", &fragment]).await?;
    if context.out.json() {
        context.out.value(&answer)?;
        return Ok(End::Done);
    }
    let entry: QueueEntry = read(answer.get("entry").unwrap_or(&Value::Null))?;
    let (short, branch) = (entry.id.short(), line(&entry.wish.branch));
    context.out.line(Tone::Good, &format!("{short} ({branch}) is out of the queue"))?;
    Ok(End::Done)
}

fn show(rows: &[Value], context: &Context) -> Result<(), Fault> {
    if context.out.json() {
        return context.out.value(&json!({ "queue": rows }));
    }
    if rows.is_empty() {
        context.out.note(Tone::Dim, "nothing is in the merge queue");
        return Ok(());
    }
    let mut table = Table::new(&[
        fixed("ENTRY"),
        fixed("TASK"),
        fixed("STATE"),
        fixed("#"),
        flexible("BRANCH"),
        flexible("INTO"),
        flexible("WHAT IS TO SAY"),
    ]);
    for row in rows {
        let entry: QueueEntry = read(row)?;
        let said = match (&entry.landed_commit, entry.message.lines().next()) {
            (Some(commit), None) => format!("at {}", commit.get(..8).unwrap_or(commit)),
            (_, said) => said.unwrap_or_default().to_owned(),
        } + &match &entry.sent_back {
            None => String::new(),
            Some(SentBack::Message) => "; its agent was told".to_owned(),
            Some(SentBack::Resumed) => "; its agent goes on with it".to_owned(),
            Some(SentBack::Event { why }) => format!("; its agent was not told: {why}"),
        };
        table.toned([
            (entry.id.short(), Tone::Plain),
            (entry.task_id.short(), Tone::Plain),
            (entry.state.name().to_owned(), tone(entry.state)),
            (entry.position.map_or_else(String::new, |at| at.to_string()), Tone::Dim),
            (entry.wish.branch, Tone::Plain),
            (entry.wish.target, Tone::Plain),
            (said, Tone::Dim),
        ]);
    }
    context.out.table(&table)?;
    Ok(())
}

fn tone(state: QueueState) -> Tone {
    match state {
        QueueState::Landed => Tone::Good,
        QueueState::Testing => Tone::Strong,
        QueueState::Waiting => Tone::Plain,
        QueueState::Conflict | QueueState::Failed => Tone::Bad,
        QueueState::Removed => Tone::Dim,
    }
}
