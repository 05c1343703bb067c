//! What is seen of tasks while they run. Pure: events go in, lines come out.

use crate::cli::print::escape::{line, lines};
use crate::cli::print::tone::Tone;
use crate::cli::print::words::{elapsed, quoted, short, took};
use hayward_shared::budget::BudgetReached;
use hayward_shared::event::{
    Channel, Envelope, Kind, StatusChanged, ToolFinished, ToolStarted, task_stream,
};
use hayward_shared::id::TaskId;
use hayward_shared::task::{Status, Task, Usage};
use hayward_shared::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A line to print.
pub(super) type Line = (Tone, String);

/// Until approvals exist, this is so; nobody is to learn it from what an agent did.
const TRUSTED: &str = "agents run trusted: what they do in their worktree is not asked about first";

/// The agent that is no agent but a command of the user.
const COMMAND: &str = "command";

/// Calls of one agent that are under way at the most; an agent that ends none is not kept track of.
const MOST_CALLS: usize = 256;

/// All tasks that are followed.
#[derive(Debug)]
pub(super) struct Progress {
    rows: BTreeMap<String, Row>,
    verbose: bool,
    told_trusted: bool,
}

/// What is known of one of them.
#[derive(Debug)]
struct Row {
    id: TaskId,
    status: Status,
    started: Option<Timestamp>,
    tokens: u64,
    tool: String,
    /// Titles of the tool calls under way, by the agent's ids.
    calls: BTreeMap<String, String>,
    place: Option<String>,
}

impl Progress {
    /// Tasks that were just made.
    pub(super) fn new<'a>(tasks: impl Iterator<Item = &'a Task>, verbose: bool) -> Self {
        let row = |task: &Task| Row {
            id: task.id,
            status: task.status,
            started: task.started_at,
            tokens: 0,
            tool: String::new(),
            calls: BTreeMap::new(),
            place: None,
        };
        let rows = tasks.map(|task| (task_stream(task.id), row(task))).collect();
        Self { rows, verbose, told_trusted: false }
    }

    /// Those that have not ended.
    pub(super) fn open(&self) -> Vec<TaskId> {
        self.rows.values().filter(|row| !row.status.is_final()).map(|row| row.id).collect()
    }

    /// The worktrees.
    pub(super) fn places(self) -> BTreeMap<TaskId, String> {
        self.rows.into_values().filter_map(|row| Some((row.id, row.place?))).collect()
    }

    /// What to print on this event.
    pub(super) fn on(&mut self, event: &Envelope) -> Vec<Line> {
        let many = self.rows.len() > 1;
        let Some(row) = self.rows.get_mut(&event.stream) else { return Vec::new() };
        let mut said = row.on(event, self.verbose);
        if many {
            let id = row.id.short();
            said.iter_mut().for_each(|(_, text)| *text = format!("{id}  {text}"));
        }
        if event.kind == Kind::RunPrepared && !std::mem::replace(&mut self.told_trusted, true) {
            said.push((Tone::Dim, TRUSTED.to_owned()));
        }
        said
    }

    /// The line that changes as time goes.
    pub(super) fn status(&self, now: Timestamp) -> String {
        let mut rows = self.rows.values();
        if let (Some(only), None) = (rows.next(), rows.next()) {
            return only.state(now);
        }
        let mut counts: BTreeMap<Status, usize> = BTreeMap::new();
        for row in self.rows.values() {
            *counts.entry(row.status).or_default() += 1;
        }
        let mut parts: Vec<_> =
            counts.iter().map(|(status, number)| format!("{number} {status}")).collect();
        let tokens = self.rows.values().map(|row| row.tokens).sum();
        if tokens > 0 {
            parts.push(format!("{} tokens", short(tokens)));
        }
        let begun = self.rows.values().filter_map(|row| row.started).min();
        parts.extend(begun.map(|begun| elapsed(now.since(begun))));
        parts.join(" · ")
    }
}

impl Row {
    fn state(&self, now: Timestamp) -> String {
        let mut parts = vec![self.status.name().to_owned()];
        parts.extend(self.started.map(|started| elapsed(now.since(started))));
        if self.tokens > 0 {
            parts.push(format!("{} tokens", short(self.tokens)));
        }
        if !self.tool.is_empty() && self.status == Status::Running {
            parts.push(self.tool.clone());
        }
        parts.join(" · ")
    }

    fn on(&mut self, event: &Envelope, verbose: bool) -> Vec<Line> {
        let payload = &event.payload;
        match &event.kind {
            Kind::TaskStatusChanged => self.moved(payload, event.at),
            Kind::StreamReset => {
                if let Some(status) =
                    payload.get("status").and_then(|s| Status::deserialize(s).ok())
                {
                    self.status = status;
                }
                Vec::new()
            }
            Kind::RunPrepared => self.prepared(payload),
            Kind::RunStarted => {
                self.started = Some(event.at);
                Vec::new()
            }
            Kind::RunAdopted => {
                vec![(Tone::Dim, "the daemon was started anew; the agent lives on".to_owned())]
            }
            Kind::SessionOutput => match event.channel {
                Some(Channel::Reasoning) if !verbose => Vec::new(),
                _ => {
                    lines(word(payload, "text")).into_iter().map(|text| (Tone::Dim, text)).collect()
                }
            },
            Kind::ToolStarted => self.tool_started(payload),
            Kind::ToolFinished => self.tool_finished(payload),
            Kind::AgentRetry => vec![(Tone::Warn, retry(payload))],
            Kind::AgentNotice => vec![(Tone::Warn, line(word(payload, "text")))],
            Kind::TaskProgress => vec![(Tone::Dim, line(word(payload, "summary")))],
            Kind::TaskMessage if payload.get("undelivered").is_some() => {
                let (why, text) = (word(payload, "undelivered"), word(payload, "text"));
                vec![(Tone::Warn, line(&format!("not told ({why}): {text}")))]
            }
            Kind::TaskMessage => {
                vec![(Tone::Strong, format!("you: {}", line(word(payload, "text"))))]
            }
            Kind::BudgetReached => match BudgetReached::deserialize(payload) {
                Ok(over) => vec![(Tone::Warn, line(&over.to_string()))],
                Err(_) => Vec::new(),
            },
            Kind::UsageReported => {
                if let Ok(usage) = Usage::deserialize(payload) {
                    self.tokens = usage.input_tokens.saturating_add(usage.output_tokens);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn moved(&mut self, payload: &Value, at: Timestamp) -> Vec<Line> {
        let Ok(change) = StatusChanged::deserialize(payload) else { return Vec::new() };
        self.status = change.new_status;
        let why = change.reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        let more = change.message.map_or_else(String::new, |text| format!(": {}", line(&text)));
        match change.new_status {
            Status::Running => {
                self.started.get_or_insert(at);
                let again = matches!(change.old_status, Status::Paused | Status::Waiting);
                if again { vec![(Tone::Dim, "it goes on".to_owned())] } else { Vec::new() }
            }
            Status::Waiting | Status::Paused => {
                vec![(Tone::Warn, format!("{}{why}{more}", change.new_status))]
            }
            Status::Deferred => {
                vec![(Tone::Warn, format!("the attempt failed{why}{more}; another follows"))]
            }
            // the end is told by the summary
            _ => Vec::new(),
        }
    }

    fn prepared(&mut self, payload: &Value) -> Vec<Line> {
        self.place = payload.get("path").and_then(Value::as_str).map(str::to_owned);
        let agent = line(word(payload, "agent"));
        let why = line(word(payload, "why"));
        match (agent.is_empty() || agent == COMMAND, why.is_empty()) {
            // a command is what the user typed
            (true, _) => Vec::new(),
            (false, true) => vec![(Tone::Plain, format!("agent {agent}"))],
            (false, false) => vec![(Tone::Plain, format!("agent {agent}: {why}"))],
        }
    }

    fn tool_started(&mut self, payload: &Value) -> Vec<Line> {
        let Ok(call) = ToolStarted::deserialize(payload) else { return Vec::new() };
        self.tool = line(&format!("{} {}", call.tool_name, call.title));
        if self.calls.len() < MOST_CALLS {
            self.calls.insert(call.tool_id, self.tool.clone());
        }
        Vec::new()
    }

    fn tool_finished(&mut self, payload: &Value) -> Vec<Line> {
        let Ok(call) = ToolFinished::deserialize(payload) else { return Vec::new() };
        let what = self.calls.remove(&call.tool_id).unwrap_or_else(|| line(&call.tool_name));
        let time = call.latency_ms.map_or_else(String::new, |ms| format!("  {}", took(ms)));
        let (tone, end) = match call.outcome.as_str() {
            "ok" => (Tone::Plain, String::new()),
            other => (Tone::Warn, format!("  {}", line(other))),
        };
        vec![(tone, format!("  {what}{time}{end}"))]
    }
}

fn retry(payload: &Value) -> String {
    let number = |name: &str| payload.get(name).and_then(Value::as_u64);
    let status = number("status").map_or_else(|| "nothing".to_owned(), |status| status.to_string());
    let pause = number("delayMs").map_or_else(String::new, |ms| format!(" in {}", took(ms)));
    format!("the provider answered {status}; the agent asks again{pause}")
}

fn word<'a>(payload: &'a Value, name: &str) -> &'a str {
    payload.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What is said when tasks were just made.
pub(super) fn made(task: &Task) -> Line {
    let name = line(&task.order.name);
    let what = if name.is_empty() { line(&quoted(&task.order.command)) } else { name };
    (Tone::Plain, format!("task {} {}: {what}", task.id.short(), task.status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use serde_json::json;

    fn one() -> Progress {
        Progress::new([&sample::task(Status::Queued)].into_iter(), false)
    }

    fn told(progress: &mut Progress, kind: Kind, payload: Value) -> Vec<String> {
        let lines = progress.on(&sample::told(kind, payload));
        lines.into_iter().map(|(_, text)| text).collect()
    }

    fn to(progress: &mut Progress, old: &str, new: &str, reason: Option<&str>) -> Vec<String> {
        let payload = json!({ "oldStatus": old, "newStatus": new, "reason": reason });
        told(progress, Kind::TaskStatusChanged, payload)
    }

    #[test]
    fn a_run_is_told_as_it_goes() {
        let mut seen = one();
        let prepared =
            json!({ "path": "/w", "agent": "claude", "why": "the best that is installed" });
        let lines = told(&mut seen, Kind::RunPrepared, prepared.clone());
        assert_eq!(lines, ["agent claude: the best that is installed", TRUSTED]);
        assert_eq!(told(&mut seen, Kind::RunPrepared, prepared).len(), 1);
        assert!(to(&mut seen, "dispatched", "running", None).is_empty());
        let started = json!({
            "toolId": "1", "toolName": "Bash", "title": "cargo test", "inputSummary": "",
            "startedAt": "2026-01-01T00:00:00.000Z",
        });
        assert!(told(&mut seen, Kind::ToolStarted, started).is_empty());
        let usage = json!({ "inputTokens": 12_000, "outputTokens": 345 });
        told(&mut seen, Kind::UsageReported, usage);
        let now = Timestamp::from_millis(43_000);
        assert_eq!(seen.status(now), "running · 0:42 · 12.3k tokens · Bash cargo test");
        let finished = json!({
            "toolId": "1", "toolName": "Bash", "outcome": "error", "startedAt": null,
            "finishedAt": "2026-01-01T00:00:00.000Z", "latencyMs": 1250, "summary": "",
        });
        assert_eq!(
            told(&mut seen, Kind::ToolFinished, finished),
            ["  Bash cargo test  1.2 s  error"]
        );
        let text = json!({ "text": "done\n\x1b[2Jall\n" });
        assert_eq!(told(&mut seen, Kind::SessionOutput, text), ["done", "all"]);
        assert_eq!(seen.open().len(), 1);
        to(&mut seen, "running", "completed", None);
        assert!(seen.open().is_empty());
        assert_eq!(seen.places()[&sample::id()], "/w");
    }

    #[test]
    fn what_holds_a_task_up_is_told() {
        let mut seen = one();
        assert_eq!(
            to(&mut seen, "running", "waiting", Some("daemon_offline")),
            ["waiting (daemon_offline)"]
        );
        assert_eq!(to(&mut seen, "waiting", "running", None), ["it goes on"]);
        let lines = to(&mut seen, "running", "deferred", Some("provider_overloaded"));
        assert_eq!(lines, ["the attempt failed (provider_overloaded); another follows"]);
        let retry = json!({ "attempt": 1, "status": 529, "delayMs": 2000 });
        let expected = ["the provider answered 529; the agent asks again in 2.0 s"];
        assert_eq!(told(&mut seen, Kind::AgentRetry, retry), expected);
        told(&mut seen, Kind::StreamReset, json!({ "status": "failed" }));
        assert!(seen.open().is_empty());
    }

    #[test]
    fn of_several_each_line_names_its_task_and_the_status_counts() {
        let mut other = sample::task(Status::Running);
        other.id = TaskId::fresh();
        let tasks = [sample::task(Status::Queued), other];
        let mut seen = Progress::new(tasks.iter(), false);
        assert_eq!(told(&mut seen, Kind::AgentNotice, json!({ "text": "x" })), ["deadbeef  x"]);
        assert_eq!(seen.status(Timestamp::from_millis(0)), "1 queued · 1 running");
    }

    #[test]
    fn reasoning_is_for_those_who_ask() {
        let thought = Envelope {
            channel: Some(Channel::Reasoning),
            ..sample::told(Kind::SessionOutput, json!({ "text": "hm" }))
        };
        assert!(one().on(&thought).is_empty());
        let tasks = [sample::task(Status::Queued)];
        assert_eq!(Progress::new(tasks.iter(), true).on(&thought).len(), 1);
    }

    #[test]
    fn a_malformed_payload_says_nothing() {
        for kind in [
            Kind::TaskStatusChanged,
            Kind::ToolStarted,
            Kind::ToolFinished,
            Kind::UsageReported,
            Kind::RunPrepared,
        ] {
            for payload in [Value::Null, json!([]), json!({ "newStatus": 3 })] {
                let lines = one().on(&sample::told(kind.clone(), payload));
                assert!(lines.iter().all(|(_, text)| text == TRUSTED), "{lines:?}");
            }
        }
    }
}
