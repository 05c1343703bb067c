//! `hayward worktree`: look at worktrees, copy one out, remove those that nobody needs.

use super::context::{Context, homely};
use super::print::escape::{line, lines};
use super::print::table::{Table, fixed, flexible};
use super::print::tone::Tone;
use super::print::words::{bytes, count};
use super::typed::Typed;
use crate::client::{Client, array, read};
use crate::exit::{End, OrFault, Outcome};
use hayward_shared::api::{CloneBody, DaemonView, PruneBody};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::protocol::FromDaemon;
use serde_json::{Value, json};
use std::path::Path;

/// What to do with worktrees.
#[derive(clap::Args)]
pub(crate) struct WorktreeArgs {
    #[command(subcommand)]
    command: WorktreeCommand,
}

#[derive(clap::Subcommand)]
enum WorktreeCommand {
    /// List the worktrees of all daemons, and what is kept of those that are gone; with -v the pool
    Ls,
    /// Print where the worktree of a task is
    Path(OneArgs),
    /// Show what another task is doing: its branch, changed files and difference
    Peek(OneArgs),
    /// Copy the work of a task, uncommitted changes too, into a repository of its own
    Clone(CloneArgs),
    /// Remove the worktrees of tasks that have ended and that nobody needs
    Prune(PruneArgs),
}

/// Which task.
#[derive(clap::Args)]
struct OneArgs {
    /// The task
    id: Typed,
}

/// What to copy, and where to.
#[derive(clap::Args)]
struct CloneArgs {
    /// The task
    id: Typed,

    /// A folder on the daemon's machine that is not there yet; a relative one lies in the `home`
    /// folder of its state folder
    dir: String,
}

/// What may go.
#[derive(clap::Args)]
struct PruneArgs {
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,

    /// Remove also what holds work that is nowhere else; that is kept under refs/hayward/salvage
    #[arg(long)]
    force: bool,

    /// Whose worktrees [default: those of this machine's daemon]
    #[arg(long, value_name = "ID")]
    daemon: Option<Typed>,
}

/// Does what the command line says.
pub(crate) async fn run(args: WorktreeArgs, context: &Context) -> Outcome {
    match args.command {
        WorktreeCommand::Ls => list(context).await,
        WorktreeCommand::Path(args) => path(&args.id, context).await,
        WorktreeCommand::Peek(args) => peek(&args.id, context).await,
        WorktreeCommand::Clone(args) => clone(args, context).await,
        WorktreeCommand::Prune(args) => prune(args, context).await,
    }
}

fn word(row: &Value, name: &str) -> String {
    row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn size(row: &Value, name: &str) -> String {
    bytes(row.get(name).and_then(Value::as_u64).unwrap_or_default())
}

fn short(id: &str) -> String {
    id.get(id.len().saturating_sub(8)..).unwrap_or(id).to_owned()
}

fn names(row: &Value) -> Vec<String> {
    let all = row.get("salvage").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

async fn list(context: &Context) -> Outcome {
    let mut answer = context.client()?.get(&["api", "v1", "worktrees"], &[]).await?;
    for daemon in answer.get("unanswered").and_then(Value::as_array).into_iter().flatten() {
        let text =
            format!("{} did not answer: {}", word(daemon, "hostname"), word(daemon, "reason"));
        context.out.note(Tone::Warn, &text);
    }
    if context.out.json() {
        if !context.out.verbose()
            && let Some(answer) = answer.as_object_mut()
        {
            answer.remove("pool");
        }
        context.out.value(&answer)?;
        return Ok(End::Done);
    }
    let rows = array(&mut answer, "worktrees");
    if rows.is_empty() {
        context.out.note(Tone::Dim, "no worktrees");
    } else {
        let columns = [
            fixed("TASK"),
            fixed("STATE"),
            fixed("SIZE"),
            flexible("BRANCH"),
            flexible("PATH OR SALVAGE"),
        ];
        let mut table = Table::new(&columns);
        for row in &rows {
            let state = match (word(row, "state"), row.get("dirty")) {
                (state, Some(Value::Bool(true))) => (format!("{state}, dirty"), Tone::Warn),
                (state, _) if state == "live" => (state, Tone::Good),
                (state, _) => (state, Tone::Plain),
            };
            let place = match names(row) {
                kept if kept.is_empty() => homely(Path::new(&word(row, "path"))),
                kept => kept.join(" "),
            };
            table.toned([
                (short(&word(row, "taskId")), Tone::Plain),
                state,
                (size(row, "sizeBytes"), Tone::Plain),
                (word(row, "branch"), Tone::Plain),
                (place, Tone::Plain),
            ]);
        }
        context.out.table(&table)?;
    }
    if context.out.verbose() {
        pools(&array(&mut answer, "pool"), context)?;
    }
    Ok(End::Done)
}

/// Shows how the pools stand.
pub(super) fn pools(pools: &[Value], context: &Context) -> Result<(), Fault> {
    let number =
        |row: &Value, name: &str| row.get(name).and_then(Value::as_u64).unwrap_or_default();
    for pool in pools {
        let places = number(pool, "places");
        if places == 0 {
            context
                .out
                .line(Tone::Dim, &format!("pool of {}: off", line(&word(pool, "hostname"))))?;
            continue;
        }
        let text = format!(
            "pool of {}: {places} for each repository, {} of {}",
            line(&word(pool, "hostname")),
            size(pool, "usedBytes"),
            size(pool, "budgetBytes"),
        );
        context.out.line(Tone::Plain, &text)?;
        for row in pool.get("repositories").and_then(Value::as_array).into_iter().flatten() {
            let text = format!(
                "  {}: {} ready, {}, {}",
                line(&homely(Path::new(&word(row, "repository")))),
                number(row, "ready"),
                count(number(row, "claims"), "claim"),
                count(number(row, "misses"), "cold start"),
            );
            context.out.line(Tone::Plain, &text)?;
            for miss in row.get("lastMisses").and_then(Value::as_array).into_iter().flatten() {
                let why = word(miss, "reason").replace('_', " ");
                let detail = word(miss, "detail");
                let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
                let text = format!("    missed {}: {why}{detail}", word(miss, "at"));
                context.out.line(Tone::Dim, &line(&text))?;
            }
        }
    }
    Ok(())
}

async fn path(id: &Typed, context: &Context) -> Outcome {
    let row = context.client()?.get(&["api", "v1", "tasks", &id.task()?, "worktree"], &[]).await?;
    if word(&row, "state") == "removed" {
        let text = format!("the worktree of task {} was removed", short(&word(&row, "taskId")));
        let hint = format!("what it held is at {}", names(&row).join(" "));
        return Err(Fault::new(Code::NotFound, text).with_hint(hint));
    }
    let path = word(&row, "path");
    if context.out.json() {
        context.out.value(&json!({ "path": path }))?;
    } else {
        context.out.line(Tone::Plain, &line(&path))?;
    }
    Ok(End::Done)
}

async fn peek(id: &Typed, context: &Context) -> Outcome {
    let mut seen =
        context.client()?.get(&["api", "v1", "tasks", &id.task()?, "overlay"], &[]).await?;
    if context.out.json() {
        context.out.value(&seen)?;
        return Ok(End::Done);
    }
    for name in ["name", "status", "state", "branch", "headCommit", "baseCommit", "path"] {
        let value = word(&seen, name);
        if !value.is_empty() {
            context.out.line(Tone::Plain, &format!("{name:<10} {}", line(&value)))?;
        }
    }
    for kept in names(&seen) {
        context.out.line(Tone::Warn, &format!("{:<10} {}", "salvaged", line(&kept)))?;
    }
    for file in array(&mut seen, "files") {
        let text = format!("{:<10} {}", word(&file, "status"), line(&word(&file, "path")));
        context.out.line(Tone::Plain, &text)?;
    }
    for text in lines(&word(&seen, "patch")) {
        context.out.line(Tone::Plain, &text)?;
    }
    if seen.get("truncated") == Some(&Value::Bool(true)) {
        context.out.say(Tone::Warn, "the rest is left out: the difference is too large");
    }
    Ok(End::Done)
}

async fn clone(args: CloneArgs, context: &Context) -> Outcome {
    let id = args.id.task()?;
    let path = ["api", "v1", "tasks", &id, "worktree", "clone"];
    let body = CloneBody { target_dir: args.dir };
    let raw = context.client()?.post_patiently(&path, &body).await?;
    if context.out.json() {
        context.out.value(&raw)?;
        return Ok(End::Done);
    }
    let FromDaemon::CloneWorktreeResult { message, .. } = read(&raw)? else {
        return Err(Fault::new(Code::Incompatible, "the relay gave an answer of another kind"));
    };
    context.out.line(Tone::Good, &line(&message))?;
    Ok(End::Done)
}

async fn prune(args: PruneArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let daemon = match &args.daemon {
        Some(typed) => daemon(&client, typed).await?,
        None => own_daemon(&client, context).await?,
    };
    let body = PruneBody { dry_run: args.dry_run, force: args.force };
    let path = ["api", "v1", "daemons", &daemon, "worktrees", "prune"];
    let mut raw = client.post_patiently(&path, &body).await?;
    let failed = |row: &Value| word(row, "why") == "failed";
    let rows = raw.get("worktrees").and_then(Value::as_array);
    let end = match rows.is_some_and(|rows| rows.iter().any(failed)) && !args.dry_run {
        true => End::Unsuccessful,
        false => End::Done,
    };
    if context.out.json() {
        context.out.value(&raw)?;
        return Ok(end);
    }
    let rows = array(&mut raw, "worktrees");
    let (mut gone, mut freed, mut unsaved) = (0, 0, 0);
    for row in &rows {
        let (what, tone) = match (word(row, "why").as_str(), args.dry_run) {
            ("unsaved", _) => ("stays", Tone::Warn),
            ("failed", _) => ("stays", Tone::Bad),
            (_, true) => ("would go", Tone::Plain),
            (_, false) => ("gone", Tone::Plain),
        };
        let note = match (names(row), word(row, "note")) {
            (kept, _) if !kept.is_empty() => format!(": its work is kept at {}", kept.join(" ")),
            (_, note) if !note.is_empty() => format!(": {note}"),
            _ => String::new(),
        };
        let path = homely(Path::new(&word(row, "path")));
        context.out.line(tone, &line(&format!("{what:<8} {path}{note}")))?;
        unsaved += u64::from(word(row, "why") == "unsaved");
        if !matches!(word(row, "why").as_str(), "unsaved" | "failed") {
            gone += 1;
            freed += row.get("bytes").and_then(Value::as_u64).unwrap_or_default();
        }
    }
    let verb = if args.dry_run { "would go" } else { "went" };
    let text = format!("{} {verb}, {}", count(gone, "worktree"), bytes(freed));
    context.out.note(Tone::Good, &text);
    if gone > 0 {
        context.out.note(Tone::Dim, "ignored files are not kept");
    }
    if unsaved > 0 {
        let text = "--force keeps unsaved work under refs/hayward/salvage and removes the rest";
        context.out.note(Tone::Dim, text);
    }
    Ok(end)
}

async fn views(client: &Client) -> Result<Vec<DaemonView>, Fault> {
    let rows = client.all(&["api", "v1", "daemons"], &[], "daemons").await?;
    rows.iter().map(read::<DaemonView>).collect()
}

/// The daemon that a part of an id names.
async fn daemon(client: &Client, typed: &Typed) -> Result<String, Fault> {
    let part = typed.fragment("daemon")?.to_string();
    let mut found = views(client).await?.into_iter().map(|view| view.id.to_string());
    let is_named = |id: &String| {
        let plain = id.replace('-', "");
        plain.starts_with(&part) || plain.ends_with(&part)
    };
    let first = found.find(is_named).ok_or_else(|| Fault::not_found("daemon", typed))?;
    match found.find(is_named) {
        None => Ok(first),
        Some(_) => {
            let text = format!("'{typed}' names several daemons: give more of it");
            Err(Fault::new(Code::Ambiguous, text))
        }
    }
}

/// The daemon of this state folder; where none runs, the only one that is online.
async fn own_daemon(client: &Client, context: &Context) -> Result<String, Fault> {
    let running = context.home()?.running().or_fault(Code::Failed)?;
    if let Some(running) = running.filter(|running| !running.daemon_id.is_empty()) {
        return Ok(running.daemon_id);
    }
    let online: Vec<_> = views(client).await?.into_iter().filter(|view| view.online).collect();
    match online.as_slice() {
        [only] => Ok(only.id.to_string()),
        _ => {
            let text = "no daemon runs on this state folder";
            Err(Fault::new(Code::Usage, text).with_hint("name one with --daemon"))
        }
    }
}
