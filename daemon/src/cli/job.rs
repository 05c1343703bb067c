//! `hayward job`: the background work of the daemons.

use super::context::Context;
use super::print::escape::line;
use super::print::table::{Table, fixed, flexible};
use super::print::tone::{Tone, of_status};
use super::task::status;
use super::typed::Typed;
use crate::client::{array, read};
use crate::exit::{End, Outcome};
use hayward_shared::job::{Job, JobOrder};
use hayward_shared::task::Status;
use serde_json::{Value, json};

/// What to do with jobs.
#[derive(clap::Args)]
pub(crate) struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(clap::Subcommand)]
enum JobCommand {
    /// List jobs, the newest first
    Ls(LsArgs),
    /// Show all of one job
    Show(IdArgs),
    /// Try a job again now: one that waits for its next try, or one that failed or was cancelled
    Retry(IdArgs),
    /// End a job
    Cancel(IdArgs),
    /// Let a job wait
    Pause(IdArgs),
    /// Let a paused job go on
    Resume(IdArgs),
}

/// Which jobs.
#[derive(clap::Args)]
struct LsArgs {
    /// Only those of this task
    #[arg(long, value_name = "ID")]
    task: Option<Typed>,

    /// Only those that stand so: queued, running, paused, deferred, completed, failed, cancelled
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<Status>,
}

/// Which job.
#[derive(clap::Args)]
struct IdArgs {
    /// The job
    id: Typed,
}

/// Does what the command line says.
pub(crate) async fn run(args: JobArgs, context: &Context) -> Outcome {
    let (id, order) = match args.command {
        JobCommand::Ls(args) => return list(args, context).await,
        JobCommand::Show(IdArgs { id }) => return show(&id, context).await,
        JobCommand::Retry(IdArgs { id }) => (id, JobOrder::Retry),
        JobCommand::Cancel(IdArgs { id }) => (id, JobOrder::Cancel),
        JobCommand::Pause(IdArgs { id }) => (id, JobOrder::Pause),
        JobCommand::Resume(IdArgs { id }) => (id, JobOrder::Resume),
    };
    let fragment = id.fragment("job")?.to_string();
    let path = ["api", "v1", "jobs", &fragment, order.name()];
    let row = taken(context.client()?.post::<()>(&path, None).await?);
    if context.out.json() {
        context.out.value(&row)?;
        return Ok(End::Done);
    }
    let job: Job = read(&row)?;
    let text = format!("job {} ({}) is {}", job.id.short(), line(&job.name), job.status);
    context.out.line(of_status(job.status), &text)?;
    Ok(End::Done)
}

async fn list(args: LsArgs, context: &Context) -> Outcome {
    let mut query = Vec::new();
    if let Some(task) = &args.task {
        let (_, task) = context.find(task).await?;
        query.push(("task", task.body.id.to_string()));
    }
    query.extend(args.status.map(|status| ("status", status.name().to_owned())));
    let mut answer = context.client()?.get_newer("jobs", &["api", "v1", "jobs"], &query).await?;
    for daemon in array(&mut answer, "unanswered") {
        let word = |name: &str| daemon.get(name).and_then(Value::as_str).unwrap_or_default();
        let text = format!("{} did not answer: {}", word("hostname"), word("reason"));
        context.out.note(Tone::Warn, &line(&text));
    }
    let rows = array(&mut answer, "jobs");
    if context.out.json() {
        context.out.value(&json!({ "jobs": rows }))?;
        return Ok(End::Done);
    }
    if rows.is_empty() {
        context.out.note(Tone::Dim, "there is no such background work");
        return Ok(End::Done);
    }
    let mut table = Table::new(&[
        fixed("JOB"),
        fixed("KIND"),
        fixed("TASK"),
        fixed("STATUS"),
        fixed("TRY"),
        flexible("WHAT"),
        flexible("WHAT IS TO SAY"),
    ]);
    for row in &rows {
        let job: Job = read(row)?;
        let said = match (job.next_retry_at, &job.failure, &job.detail) {
            (Some(at), _, _) => format!("again at {at}"),
            (None, Some(failure), _) => failure.message.clone(),
            (None, None, detail) => detail.clone().unwrap_or_default(),
        };
        table.toned([
            (job.id.short(), Tone::Plain),
            (line(&job.kind), Tone::Plain),
            (job.task_id.map(|task| task.short()).unwrap_or_default(), Tone::Plain),
            (job.status.to_string(), of_status(job.status)),
            (format!("{}/{}", job.attempt, job.max_attempts), Tone::Dim),
            (line(&job.name), Tone::Plain),
            (line(said.lines().next().unwrap_or_default()), Tone::Dim),
        ]);
    }
    context.out.table(&table)?;
    Ok(End::Done)
}

async fn show(id: &Typed, context: &Context) -> Outcome {
    let fragment = id.fragment("job")?.to_string();
    let row = taken(context.client()?.get(&["api", "v1", "jobs", &fragment], &[]).await?);
    if context.out.json() {
        context.out.value(&row)?;
        return Ok(End::Done);
    }
    let job: Job = read(&row)?;
    for (name, text) in rows(&job) {
        context.out.line(Tone::Plain, &format!("{name:<10} {}", line(&text)))?;
    }
    for turn in &job.history {
        let phase = serde_json::to_value(turn.phase).unwrap_or_default();
        let said = turn.detail.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
        let word = phase.as_str().unwrap_or_default();
        let text = format!("{}  {word:<10} try {}  {}", turn.at, turn.attempt, line(said));
        context.out.line(Tone::Dim, text.trim_end())?;
    }
    Ok(End::Done)
}

/// What there is to say of a job beside its turns.
fn rows(job: &Job) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("job", job.id.to_string()),
        ("kind", job.kind.clone()),
        ("what", job.name.clone()),
        ("status", job.status.to_string()),
        ("try", format!("{} of {}", job.attempt, job.max_attempts)),
    ];
    rows.extend(job.task_id.map(|task| ("task", task.to_string())));
    rows.extend(job.next_retry_at.map(|at| ("again at", at.to_string())));
    rows.extend(job.progress.map(|at| ("progress", format!("{at} %"))));
    rows.extend(job.detail.clone().map(|detail| ("detail", detail)));
    rows.extend(
        job.failure.as_ref().map(|it| ("failed", format!("{}: {}", it.reason, it.message))),
    );
    rows
}

fn taken(mut answer: Value) -> Value {
    answer.get_mut("job").map(Value::take).unwrap_or_default()
}
