//! `hayward overlap`.

use super::context::Context;
use super::print::table::{Table, fixed, flexible};
use super::print::tone::Tone;
use super::typed::Typed;
use crate::client::{array, read};
use crate::exit::{End, Outcome};
use hayward_shared::git::{Lines, Severity, Verdict};
use hayward_shared::id::TaskId;
use serde_json::Value;
use std::collections::BTreeSet;

/// Stretches of one task that a row shows.
const MOST_STRETCHES: usize = 3;

/// Whose overlap.
#[derive(clap::Args)]
pub(crate) struct OverlapArgs {
    /// Only what concerns this task
    id: Option<Typed>,
}

/// Shows which running tasks change the same files.
pub(crate) async fn run(args: OverlapArgs, context: &Context) -> Outcome {
    let mut query = Vec::new();
    if let Some(id) = &args.id {
        query.push(("task", id.task()?));
    }
    let mut answer = context.client()?.get(&["api", "v1", "overlap"], &query).await?;
    for daemon in array(&mut answer, "unanswered") {
        let word = |name: &str| daemon.get(name).and_then(Value::as_str).unwrap_or_default();
        let text = format!("{} did not answer: {}", word("hostname"), word("reason"));
        context.out.note(Tone::Warn, &text);
    }
    let polled = array(&mut answer, "polled").len();
    let verdicts = array(&mut answer, "overlap");
    if context.out.json() {
        context.out.value(&Value::Array(verdicts))?;
        return Ok(End::Done);
    }
    if polled > 0 {
        let text =
            format!("{polled} worktrees are too large to be watched; they are a little late");
        context.out.note(Tone::Dim, &text);
    }
    if verdicts.is_empty() {
        context.out.note(Tone::Good, "no running tasks change the same files");
        return Ok(End::Done);
    }
    let mut table =
        Table::new(&[flexible("FILE"), fixed("NEAR"), fixed("MERGE"), flexible("TASKS AND LINES")]);
    for verdict in verdicts.iter().map(read::<Verdict>) {
        let verdict = verdict?;
        let (merge, tone) = match (verdict.conflict, verdict.severity) {
            (true, _) => ("conflicts", Tone::Bad),
            (false, Severity::DifferentArea) => ("clean", Tone::Good),
            (false, _) => ("clean", Tone::Warn),
        };
        let who: Vec<_> = verdict.tasks.iter().map(|task| lines(*task, &verdict)).collect();
        table.toned([
            (file(&verdict), Tone::Plain),
            (verdict.severity.name().replace('_', " "), tone),
            (merge.to_owned(), tone),
            (who.join("  "), Tone::Plain),
        ]);
    }
    context.out.table(&table)?;
    Ok(End::Done)
}

/// `old → new` where a task renamed it.
fn file(verdict: &Verdict) -> String {
    let to: BTreeSet<_> = verdict.renames.iter().map(|rename| rename.to.as_str()).collect();
    [verdict.file_path.as_str()].into_iter().chain(to).collect::<Vec<_>>().join(" → ")
}

/// `deadbeef:3-7,12`
fn lines(task: TaskId, verdict: &Verdict) -> String {
    let own = verdict.ranges.iter().find(|one| one.task_id == task);
    let own = own.map_or(&[][..], |one| &one.lines);
    let mut shown: Vec<_> = own.iter().take(MOST_STRETCHES).map(|one| stretch(*one)).collect();
    if own.len() > MOST_STRETCHES {
        shown.push("…".to_owned());
    }
    match shown.is_empty() {
        true => task.short(),
        false => format!("{}:{}", task.short(), shown.join(",")),
    }
}

fn stretch(lines: Lines) -> String {
    if lines.end <= lines.start {
        return lines.start.to_string();
    }
    format!("{}-{}", lines.start, lines.end)
}
