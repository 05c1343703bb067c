//! `hayward search`.

use super::context::Context;
use super::print::escape::lines;
use super::print::tone::Tone;
use super::print::words::count;
use super::typed::Typed;
use crate::client::{Query, array, near, read};
use crate::exit::{End, Outcome};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::search::{MAX_BUDGET_MS, SearchLeft, SearchMatch, SearchedSum};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What is searched for, and where.
#[derive(clap::Args)]
pub(crate) struct SearchArgs {
    /// A regular expression in the syntax of Rust's regex
    #[arg(allow_hyphen_values = true)]
    pattern: String,

    /// Small and large letters are the same
    #[arg(short, long)]
    ignore_case: bool,

    /// The pattern's characters stand for themselves
    #[arg(short = 'F', long)]
    fixed_strings: bool,

    /// Lines shown before and after each match
    #[arg(short = 'C', long, value_name = "N", default_value_t = 0)]
    context: u32,

    /// Matches shown at the most
    #[arg(long, value_name = "N", default_value_t = 500)]
    limit: u32,

    /// The newest matches first
    #[arg(long)]
    newest: bool,

    /// Take what is found within this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    within: Option<u32>,

    /// Only the output of these tasks
    #[arg(long, value_name = "ID", num_args = 1..)]
    task: Vec<Typed>,

    /// Only what these daemons hold
    #[arg(long, value_name = "ID", num_args = 1..)]
    daemon: Vec<Typed>,
}

/// Seconds as milliseconds.
fn seconds(text: &str) -> Result<u32, String> {
    let most = f64::from(MAX_BUDGET_MS) / 1000.0;
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= most => Ok((seconds * 1000.0).ceil() as u32),
        _ => Err(format!("more than 0 and at most {most}")),
    }
}

/// Searches the output of all runs, or of some.
pub(crate) async fn run(args: SearchArgs, context: &Context) -> Outcome {
    let mut query = vec![
        ("pattern", args.pattern.clone()),
        ("limit", args.limit.to_string()),
        ("context", args.context.to_string()),
        ("ignoreCase", args.ignore_case.to_string()),
        ("literal", args.fixed_strings.to_string()),
        ("order", if args.newest { "newest" } else { "oldest" }.to_owned()),
    ];
    query.extend(args.within.map(|budget| ("budgetMs", budget.to_string())));
    for task in &args.task {
        query.push(("task", task.task()?));
    }
    for daemon in &args.daemon {
        query.push(("daemon", daemon.fragment("daemon")?.to_string()));
    }
    let mut answer = match ask(&query, context).await {
        Err(fault) if fault.code == Code::Unavailable && args.daemon.is_empty() => {
            alone(&query, context, fault).await?
        }
        answer => answer?,
    };
    let unanswered = array(&mut answer, "unanswered");
    for daemon in &unanswered {
        let word = |name: &str| daemon.get(name).and_then(Value::as_str).unwrap_or_default();
        let text = format!("{} was not searched: {}", word("hostname"), word("reason"));
        context.out.note(Tone::Warn, &text);
    }
    if context.out.json() {
        answer["unanswered"] = json!(unanswered);
        context.out.value(&answer)?;
        return Ok(End::Done);
    }
    show(answer, args.context > 0, context)
}

const PATH: [&str; 3] = ["api", "v1", "search"];

async fn ask(query: &Query, context: &Context) -> Result<Value, Fault> {
    context.client()?.get(&PATH, query).await
}

/// What this machine's daemon finds while the relay is away; the relay's fault when none answers.
async fn alone(query: &Query, context: &Context, fault: Fault) -> Result<Value, Fault> {
    let finder = context.finder()?;
    let found = near(&finder, &fault, async |daemon| daemon.get(&PATH, query).await).await?;
    context.out.note(Tone::Warn, &format!("{fault}; only this machine is searched"));
    Ok(found)
}

fn show(mut answer: Value, apart: bool, context: &Context) -> Outcome {
    let matches = array(&mut answer, "matches");
    let unsearched = array(&mut answer, "unsearched");
    let matches = matches.iter().map(read::<SearchMatch>).collect::<Result<Vec<_>, _>>()?;
    for (index, found) in matches.iter().enumerate() {
        let last = index.checked_sub(1).and_then(|last| matches.get(last));
        print(found, (last, matches.get(index + 1)), apart, context)?;
    }
    for left in &unsearched {
        let left = read::<SearchLeft>(left)?;
        let why = left.reason.unwrap_or_else(|| "the time was over".to_owned());
        let part = if left.from.is_some() { "a part of " } else { "" };
        let text = format!("{part}task {} was not searched: {why}", left.task_id.short());
        context.out.note(Tone::Warn, &text);
    }
    let total = answer.get("total").and_then(Value::as_u64).unwrap_or_default();
    let searched = answer.get("searched").map(read::<SearchedSum>).transpose()?.unwrap_or_default();
    let mut text = String::new();
    if total > matches.len() as u64 {
        let _ = write!(text, "{} of ", matches.len());
    }
    let runs = count(searched.runs, "run");
    let _ = write!(text, "{} in {runs}, {} ms", count_of(total), searched.ms);
    context.out.note(Tone::Dim, &text);
    Ok(End::Done)
}

fn count_of(total: u64) -> String {
    if total == 1 { "1 match".to_owned() } else { format!("{total} matches") }
}

/// A match with the lines around it, but for those that its neighbours show.
fn print(
    found: &SearchMatch,
    (last, next): (Option<&SearchMatch>, Option<&SearchMatch>),
    apart: bool,
    context: &Context,
) -> Result<(), Fault> {
    let same = |other: &&SearchMatch| other.run_id == found.run_id;
    let (last, next) = (last.filter(same), next.filter(same));
    let span = |one: &SearchMatch| {
        let first = one.line.saturating_sub(one.context_before.len() as u64);
        first..=one.line + one.context_after.len() as u64
    };
    let own = span(found);
    if last.is_none() {
        let text = format!("task {} · run {}", found.task_id.short(), found.run_id.short());
        context.out.line(Tone::Strong, &text)?;
    } else if let Some(last) = last.map(span)
        && apart
        && (*own.start() > last.end() + 1 || *own.end() + 1 < *last.start())
    {
        context.out.line(Tone::Dim, "--")?;
    }
    // the match before shows its lines, the one after is a line of its own
    let free = |number: &u64| {
        last.is_none_or(|last| !span(last).contains(number))
            && next.is_none_or(|next| next.line != *number)
    };
    let row = |number: u64, mark: char, text: &str, tone: Tone| {
        context.out.line(tone, &format!("{number:>7}{mark} {}", lines(text).join(" ")))
    };
    for (number, text) in (*own.start()..).zip(&found.context_before) {
        if free(&number) {
            row(number, '-', text, Tone::Dim)?;
        }
    }
    row(found.line, ':', &found.content, Tone::Plain)?;
    for (number, text) in (found.line + 1..).zip(&found.context_after) {
        if free(&number) && next.is_none_or(|next| next.line < found.line || number < next.line) {
            row(number, '-', text, Tone::Dim)?;
        }
    }
    Ok(())
}
