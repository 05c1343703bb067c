//! `hayward search`.

mod rows;

use super::context::Context;
use super::print::tone::Tone;
use super::print::{closed, words};
use super::typed::Typed;
use crate::client::{Client, Lines, Query, near, read};
use crate::exit::{End, OrFault, Outcome};
use hayward_daemon::terminal::pattern::{Pattern, Reading};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::search::{MAX_BUDGET_MS, SearchEnd, SearchLine, SearchMatch, Unanswered};
use rows::Rows;
use serde_json::Value;
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;

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

/// Refuses a pattern that is not valid before anyone is asked, and shows people where it goes wrong.
fn check(args: &SearchArgs, context: &Context) -> Result<(), Fault> {
    let reading = Reading { literal: args.fixed_strings, ignore_case: args.ignore_case };
    let Err(bad) = Pattern::new(&args.pattern, reading) else { return Ok(()) };
    for line in bad.at.and_then(|at| marked(&args.pattern, at)).into_iter().flatten() {
        context.out.note(Tone::Plain, &line);
    }
    Err(Fault::new(Code::Invalid, format!("this is not a valid pattern: {bad}")))
}

/// A pattern, and below it a mark at the character that begins at a byte of it. None when a terminal
/// would not show it as it is.
fn marked(pattern: &str, at: usize) -> Option<[String; 2]> {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    let before = pattern.get(..at).filter(|_| pattern.chars().all(plain))?;
    Some([format!("  {pattern}"), format!("  {}^", " ".repeat(before.len()))])
}

/// Searches the output of all runs, or of some, for as long as anyone reads what is found.
pub(crate) async fn run(args: SearchArgs, context: &Context) -> Outcome {
    tokio::select! {
        biased;
        outcome = search(args, context) => outcome,
        () = context.out.until_closed() => Err(closed()),
    }
}

async fn search(args: SearchArgs, context: &Context) -> Outcome {
    check(&args, context)?;
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
    if context.out.json() {
        return whole(&args, &query, context).await;
    }
    let ask = async |client: Client| client.lines(&PATH, &query).await;
    let mut lines = asked(&args, context, ask).await?;
    let (tell, told) = mpsc::channel();
    let printed = print(told, Rows::new(context.out, args.context > 0))?;
    let (count, end) = read_all(&mut lines, tell, printed).await?;
    close(count, end?, context);
    Ok(End::Done)
}

const PATH: [&str; 3] = ["api", "v1", "search"];

/// Asks the relay; while it is away this machine's daemon, unless others are meant.
async fn asked<T>(
    args: &SearchArgs,
    context: &Context,
    ask: impl AsyncFn(Client) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let asked = match context.client() {
        Ok(client) => ask(client).await,
        Err(fault) => Err(fault),
    };
    match asked {
        Err(fault) if fault.code == Code::Unavailable && args.daemon.is_empty() => {
            let found = near(&context.finder()?, &fault, ask).await?;
            context.out.note(Tone::Warn, &format!("{fault}; only this machine is searched"));
            Ok(found)
        }
        answer => answer,
    }
}

/// The whole answer, for programs.
async fn whole(args: &SearchArgs, query: &Query, context: &Context) -> Outcome {
    let answer = asked(args, context, async |client| client.get(&PATH, query).await).await?;
    for daemon in answer.get("unanswered").and_then(Value::as_array).into_iter().flatten() {
        tell_unanswered(&read(daemon)?, context);
    }
    context.out.value(&answer)?;
    Ok(End::Done)
}

/// How many matches were printed; nothing comes any more once they cannot be.
type Printed = oneshot::Receiver<Result<u64, Fault>>;

/// Prints matches on a thread of its own, so that a slow reader of ours neither holds up the search
/// nor keeps Ctrl-C waiting. What waits for it is no more than the answer in all.
fn print(matches: mpsc::Receiver<SearchMatch>, mut rows: Rows) -> Result<Printed, Fault> {
    let (tell, printed) = oneshot::channel();
    let work = thread::Builder::new().name("print".to_owned()).spawn(move || {
        let done = matches.iter().try_for_each(|found| rows.take(found));
        // nobody waits any more when this fails
        drop(tell.send(done.and_then(|()| rows.end())));
    });
    work.or_fault(Code::Failed)?;
    Ok(printed)
}

/// Hands on matches as they come; how many were printed, and what the answer says of all of them.
async fn read_all(
    lines: &mut Lines,
    tell: mpsc::Sender<SearchMatch>,
    mut printed: Printed,
) -> Result<(u64, Result<SearchEnd, Fault>), Fault> {
    let gone = |_| Fault::new(Code::Internal, "the answer was not printed");
    let end = loop {
        let line = tokio::select! {
            line = lines.next() => line,
            // it cannot be printed
            stopped = &mut printed => return Ok((stopped.map_err(gone)??, Err(broken_off()))),
        };
        match line {
            // the next turn tells why this fails, if it does
            Ok(Some(SearchLine::Match(found))) => drop(tell.send(found)),
            Ok(Some(SearchLine::End(end))) => break Ok(end),
            Ok(Some(SearchLine::Fault(fault))) | Err(fault) => break Err(fault),
            Ok(None) => break Err(broken_off()),
        }
    };
    drop(tell);
    Ok((printed.await.map_err(gone)??, end))
}

fn broken_off() -> Fault {
    Fault::new(Code::Unavailable, "the answer broke off")
}

/// What there is to say at the end.
fn close(count: u64, end: SearchEnd, context: &Context) {
    for daemon in &end.unanswered {
        tell_unanswered(daemon, context);
    }
    let is_silent = end.unsearched.is_empty();
    for left in end.unsearched {
        let why = left.reason.unwrap_or_else(|| "the time was over".to_owned());
        let part = if left.from.is_some() { "a part of " } else { "" };
        let text = format!("{part}task {} was not searched: {why}", left.task_id.short());
        context.out.note(Tone::Warn, &text);
    }
    if end.truncated && end.unanswered.is_empty() && is_silent && end.total <= count {
        context.out.note(Tone::Warn, "there may be more than these");
    }
    let shown = if end.total > count { format!("{count} of ") } else { String::new() };
    let (total, runs) = (count_of(end.total), words::count(end.searched.runs, "run"));
    let text = format!("{shown}{total} in {runs}, {} ms", end.searched.ms);
    context.out.note(Tone::Dim, &text);
}

fn tell_unanswered(daemon: &Unanswered, context: &Context) {
    let text = format!("{} was not searched: {}", daemon.hostname, daemon.reason);
    context.out.note(Tone::Warn, &text);
}

fn count_of(total: u64) -> String {
    if total == 1 { "1 match".to_owned() } else { format!("{total} matches") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f41_a_mark_stands_below_the_place_of_the_pattern_that_is_wrong() {
        assert_eq!(marked("ab(c", 2).unwrap(), ["  ab(c", "    ^"]);
        assert_eq!(marked("a(", 2).unwrap()[1], "    ^");
        assert_eq!(marked("\u{732b}(", 3), None);
        assert_eq!(marked("a\x1b(", 2), None);
    }
}
