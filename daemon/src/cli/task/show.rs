//! Questions about one task.

use super::{DiffArgs, TracesArgs};
use crate::cli::context::Context;
use crate::cli::print::escape::{line, lines};
use crate::cli::print::table::{Table, fixed, flexible};
use crate::cli::print::tone::Tone;
use crate::cli::print::words::{count, quoted, short, took};
use crate::cli::typed::Typed;
use crate::client::{array, read};
use crate::exit::{End, Outcome};
use hayward_shared::api::TaskView;
use hayward_shared::budget::{Budget, Spent};
use hayward_shared::fault::Fault;
use hayward_shared::task::{Task, Usage};
use hayward_shared::why::Why;
use serde_json::Value;

/// Shows all of one task.
pub(super) async fn task(id: &Typed, context: &Context) -> Outcome {
    let (_, task) = context.find(id).await?;
    if context.out.json() {
        context.out.value(&task.raw)?;
        return Ok(End::Done);
    }
    for (name, value) in facts(&task.body) {
        context.out.line(Tone::Plain, &format!("{name:<10} {}", line(&value)))?;
    }
    let view: TaskView = read(&task.raw)?;
    if let (Some(budget), Some(spent)) = (&task.body.order.budget, &view.spent) {
        let text = bounds(budget, spent).join(", ");
        context.out.line(Tone::Plain, &format!("{:<10} {text}", "budget"))?;
    }
    for text in reasons(&view.why) {
        context.out.line(Tone::Warn, &format!("{:<10} {}", "why", line(&text)))?;
    }
    for withheld in &task.body.results.withheld_files {
        let text = format!("{:<10} {}: {}", "withheld", line(&withheld.path), line(&withheld.why));
        context.out.line(Tone::Warn, &text)?;
    }
    for salvage in &task.body.results.salvage {
        let text = format!("{:<10} {}", "salvaged", line(salvage));
        context.out.line(Tone::Warn, &text)?;
    }
    context.out.line(Tone::Plain, "")?;
    for text in lines(&task.body.order.plan) {
        context.out.line(Tone::Plain, &text)?;
    }
    Ok(End::Done)
}

/// What was spent of each bound of a budget.
fn bounds(budget: &Budget, spent: &Spent) -> Vec<String> {
    let tokens = |most| format!("{} of {} tokens", short(spent.tokens), short(most));
    let cost = |most| match spent.unpriced_tokens {
        0 => format!("{} of {most}", spent.cost_usd),
        unknown => {
            format!("{} of {most} and what {} tokens cost", spent.cost_usd, short(unknown))
        }
    };
    let time = |most: u64| {
        format!("{} of {} of running", took(spent.running_ms), took(most.saturating_mul(1_000)))
    };
    let all = [
        budget.max_tokens.map(tokens),
        budget.max_cost_usd.map(cost),
        budget.max_seconds.map(time),
    ];
    all.into_iter().flatten().collect()
}

/// Why a task waits, line by line; daemons of which the same is true share one.
fn reasons(why: &[Why]) -> Vec<String> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for one in why {
        let place = all.iter().position(|(message, _)| *message == one.message);
        let place = place.unwrap_or_else(|| {
            all.push((&one.message, Vec::new()));
            all.len() - 1
        });
        all[place].1.extend(one.hostname.as_deref());
    }
    let told = |(message, hosts): (&str, Vec<&str>)| match hosts.as_slice() {
        [] => message.to_owned(),
        [host] => format!("{host}: {message}"),
        _ => format!("{} ({}): {message}", count(hosts.len() as u64, "daemon"), hosts.join(", ")),
    };
    all.into_iter().map(told).collect()
}

/// What there is to say of a task, line by line; what it does not have is left out.
fn facts(task: &Task) -> Vec<(&'static str, String)> {
    let Task { order, holding, results, .. } = task;
    let status = match task.reason {
        Some(reason) => format!("{} ({reason})", task.status),
        None => task.status.name().to_owned(),
    };
    let pair = |(key, value): (&String, &String)| format!("{key}={value}");
    let labels: Vec<_> = order.labels.iter().map(pair).collect();
    let requires: Vec<_> = order.requires.iter().map(pair).collect();
    let words: Vec<_> = order.command.iter().map(String::as_str).collect();
    let time = |at: Option<hayward_shared::time::Timestamp>| at.map(|at| at.to_string());
    let all = [
        ("id", Some(task.id.to_string())),
        ("name", Some(order.name.clone())),
        ("status", Some(status)),
        ("error", results.error_message.clone()),
        ("agent", order.agent.clone()),
        ("command", (!words.is_empty()).then(|| quoted(&words))),
        ("repository", order.repository_url.clone()),
        ("base", order.base_branch.clone()),
        ("base at", order.base_commit.clone()),
        ("branch", results.branch.clone()),
        ("head", results.head_commit.clone()),
        ("outcome", results.outcome.map(|outcome| crate::cli::token::word(&outcome))),
        (
            "changes",
            results.diff_stat.map(|stat| {
                format!("{}, +{} -{}", count(stat.files, "file"), stat.insertions, stat.deletions)
            }),
        ),
        ("progress", results.progress_summary.clone()),
        ("requires", (!requires.is_empty()).then(|| requires.join(" "))),
        ("labels", (!labels.is_empty()).then(|| labels.join(" "))),
        ("priority", (order.priority != 0).then(|| order.priority.to_string())),
        ("parent", order.parent_task_id.map(|id| id.to_string())),
        ("retry of", order.retry_of.map(|id| id.to_string())),
        ("attempt", Some(format!("{} of {}", holding.attempt, order.max_attempts))),
        ("daemon", holding.daemon_id.map(|id| id.to_string())),
        ("created", time(Some(task.created_at))),
        ("started", time(task.started_at)),
        ("ended", time(task.completed_at)),
        ("next try", time(holding.next_retry_at)),
        ("tokens", (results.usage != Usage::default()).then(|| tokens(&results.usage))),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn tokens(usage: &Usage) -> String {
    let mut text = format!(
        "{} in, {} out, {} from cache, {} to cache",
        short(usage.input_tokens),
        short(usage.output_tokens),
        short(usage.cache_read_tokens),
        short(usage.cache_write_tokens),
    );
    if let Some(cost) = usage.cost_usd {
        text.push_str(&format!(", ${cost:.4}"));
    }
    if usage.unpriced_tokens > 0 {
        let unknown = short(usage.unpriced_tokens);
        text.push_str(&format!(", and the unknown cost of {unknown} tokens"));
    }
    text
}

/// Shows the tokens that a task used.
pub(super) async fn usage(id: &Typed, context: &Context) -> Outcome {
    let raw = context.client()?.get(&["api", "v1", "tasks", &id.task()?, "usage"], &[]).await?;
    if context.out.json() {
        context.out.value(&raw)?;
    } else {
        context.out.line(Tone::Plain, &tokens(&read(&raw)?))?;
    }
    Ok(End::Done)
}

/// Shows what a task has changed.
pub(super) async fn diff(args: &DiffArgs, context: &Context) -> Outcome {
    let path = ["api", "v1", "tasks", &args.id.task()?, "diff"];
    let mut raw = context.client()?.get(&path, &[]).await?;
    if context.out.json() {
        if args.stat
            && let Some(diff) = raw.as_object_mut()
        {
            diff.remove("patch");
        }
        context.out.value(&raw)?;
    } else if args.stat {
        stat(&mut raw, context)?;
    } else {
        patch(&raw, context)?;
    }
    Ok(End::Done)
}

fn word(row: &Value, name: &str) -> String {
    match row.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// `old → new` where it was renamed.
fn name(row: &Value) -> String {
    match row.get("oldPath").and_then(Value::as_str) {
        Some(old) => format!("{old} → {}", word(row, "path")),
        None => word(row, "path"),
    }
}

fn stat(raw: &mut Value, context: &Context) -> Result<(), Fault> {
    let rows = array(raw, "files");
    if rows.is_empty() {
        context.out.note(Tone::Dim, "nothing is changed");
        return Ok(());
    }
    let mut table = Table::new(&[flexible("FILE"), fixed("STATUS"), fixed("+"), fixed("-")]);
    for row in rows {
        table.toned([
            (name(&row), Tone::Plain),
            (word(&row, "status"), Tone::Plain),
            (word(&row, "additions"), Tone::Good),
            (word(&row, "deletions"), Tone::Bad),
        ]);
    }
    context.out.table(&table)
}

fn patch(raw: &Value, context: &Context) -> Result<(), Fault> {
    let patch = raw.get("patch").and_then(Value::as_str).unwrap_or_default();
    if patch.is_empty() {
        context.out.note(Tone::Dim, "nothing is changed");
    }
    for text in lines(patch) {
        let tone = match text.as_bytes() {
            [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] | [b'd', b'i', b'f', b'f', ..] => {
                Tone::Strong
            }
            [b'+', ..] => Tone::Good,
            [b'-', ..] => Tone::Bad,
            [b'@', ..] => Tone::Dim,
            _ => Tone::Plain,
        };
        context.out.line(tone, &text)?;
    }
    if raw.get("truncated") == Some(&Value::Bool(true)) {
        context.out.say(Tone::Warn, "the rest is left out: the diff is too large");
    }
    Ok(())
}

/// Shows the tool calls of a task.
pub(super) async fn traces(args: &TracesArgs, context: &Context) -> Outcome {
    let mut query = Vec::new();
    query.extend(args.limit.map(|limit| ("limit", limit.to_string())));
    query.extend(args.offset.map(|offset| ("offset", offset.to_string())));
    let path = ["api", "v1", "tasks", &args.id.task()?, "traces"];
    let mut raw = context.client()?.get(&path, &query).await?;
    if context.out.json() {
        context.out.value(&raw)?;
        return Ok(End::Done);
    }
    let rows = array(&mut raw, "data");
    let total = raw.get("total").and_then(Value::as_u64).unwrap_or_default();
    let left = total.saturating_sub(rows.len() as u64);
    let columns =
        [fixed("STARTED"), fixed("TOOL"), fixed("OUTCOME"), fixed("TOOK"), flexible("TITLE")];
    let mut table = Table::new(&columns);
    for row in &rows {
        let outcome = word(row, "outcome");
        let tone = if outcome == "ok" { Tone::Good } else { Tone::Bad };
        let latency = row.get("latencyMs").and_then(Value::as_u64);
        table.toned([
            (clock(&word(row, "startedAt")), Tone::Dim),
            (word(row, "toolName"), Tone::Plain),
            (outcome, tone),
            (latency.map_or_else(|| "?".to_owned(), took), Tone::Plain),
            (word(row, "title"), Tone::Plain),
        ]);
    }
    if rows.is_empty() {
        context.out.note(Tone::Dim, "no tool calls");
        return Ok(End::Done);
    }
    context.out.table(&table)?;
    if left > 0 {
        context.out.note(Tone::Dim, &format!("{left} more: see --limit and --offset"));
    }
    Ok(End::Done)
}

/// The time of day of an RFC 3339 moment.
pub(super) fn clock(moment: &str) -> String {
    moment.get(11..23).unwrap_or(moment).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use hayward_shared::task::{DiffStat, Reason, Status};
    use hayward_shared::why::WhyCode;
    use serde_json::json;

    #[test]
    fn facts_tell_what_is_there_and_nothing_else() {
        let mut task = sample::task(Status::Failed);
        task.reason = Some(Reason::AgentExit);
        task.order.command = vec!["sh".into(), "-c".into(), "exit 1".into()];
        task.results.diff_stat = Some(DiffStat { files: 1, insertions: 2, deletions: 0 });
        let facts = facts(&task);
        let fact = |name| facts.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value);
        assert_eq!(fact("status"), Some("failed (agent_exit)"));
        assert_eq!(fact("command"), Some("sh -c 'exit 1'"));
        assert_eq!(fact("changes"), Some("1 file, +2 -0"));
        assert_eq!(fact("branch"), None);
        assert_eq!(fact("tokens"), None);
    }

    #[test]
    fn reasons_that_several_daemons_share_are_told_once() {
        let of = |hostname: Option<&str>, message: &str| Why {
            hostname: hostname.map(str::to_owned),
            ..Why::of_all(WhyCode::NoAgent, message)
        };
        let why =
            [of(Some("a"), "no x"), of(Some("b"), "full"), of(Some("c"), "no x"), of(None, "!")];
        assert_eq!(reasons(&why), ["2 daemons (a, c): no x", "b: full", "!"]);
    }

    #[test]
    fn a_row_of_any_shape_is_read() {
        let row = json!({ "path": "a", "additions": 3 });
        assert_eq!(
            (word(&row, "path"), word(&row, "additions"), word(&row, "x")),
            ("a".into(), "3".into(), String::new())
        );
        assert_eq!(clock("2026-01-01T10:20:30.123Z"), "10:20:30.123");
        assert_eq!(clock("odd"), "odd");
    }
}
