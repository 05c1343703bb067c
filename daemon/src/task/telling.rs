//! What an agent was seen to do, as events of its task: pure.

use crate::agent::event::{AgentEvent, Outcome, Usage as AgentUsage};
use crate::complete::Record;
use hayward_shared::event::{Channel, Kind, MAX_SUMMARY, ToolFinished, ToolStarted, bounded};
use hayward_shared::fault::Fault;
use hayward_shared::protocol::{FromDaemon, TaskEvent};
use hayward_shared::run::RunKey;
use hayward_shared::task::Usage;
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What was told of a run, as far as what follows depends on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Telling {
    /// The starts of tool calls whose end was not seen yet, by the agent's id of the call. Bounded
    /// by what one turn of an agent has open; a call that never ends goes with its run.
    open: BTreeMap<String, Timestamp>,
    /// Whether the agent said something in this turn: then its result is known already.
    said: bool,
}

/// The event that tells where a task's branch stands now that its run has left it.
pub(crate) fn branch_moved(key: RunKey, branch: &str, head: &str, at: Timestamp) -> FromDaemon {
    FromDaemon::TaskEvent(TaskEvent {
        task_id: key.task_id,
        run_id: key.run_id,
        event: Kind::BranchMoved,
        at,
        channel: Some(Channel::Status),
        payload: json!({ "branch": branch, "headCommit": head }),
    })
}

/// The event that tells what came of a completion that nobody awaits any more.
pub(crate) fn completed(
    key: RunKey,
    command: &str,
    ended: &Result<Record, Fault>,
    at: Timestamp,
) -> FromDaemon {
    let (message, url) = match ended {
        Ok(record) => (record.told(), record.pr_url()),
        Err(fault) => (fault.message.clone(), None),
    };
    FromDaemon::TaskEvent(TaskEvent {
        task_id: key.task_id,
        run_id: key.run_id,
        event: Kind::MergeResult,
        at,
        channel: Some(Channel::Status),
        payload: json!({
            "command": command,
            "success": ended.is_ok(),
            "message": bounded(&message, MAX_SUMMARY).0,
            "prUrl": url,
            "code": ended.as_ref().err().map(|fault| fault.code.name()),
        }),
    })
}

/// The event that tells of it, for the run `key` at `at`; none for what was told already.
pub(super) fn tell(
    key: RunKey,
    seen: &AgentEvent,
    telling: &mut Telling,
    at: Timestamp,
) -> Option<FromDaemon> {
    let known = match seen {
        AgentEvent::Text { .. } => {
            telling.said = true;
            false
        }
        AgentEvent::Result { .. } => std::mem::take(&mut telling.said),
        _ => false,
    };
    let (event, channel, payload) = translate(seen, &mut telling.open, at);
    (!known).then_some(FromDaemon::TaskEvent(TaskEvent {
        task_id: key.task_id,
        run_id: key.run_id,
        event,
        at,
        channel,
        payload,
    }))
}

/// The same with titles as seen from the worktree: `src/main.rs` in place of the whole path.
pub(super) fn seen_from(mut seen: AgentEvent, worktree: Option<&Path>) -> AgentEvent {
    if let AgentEvent::ToolStarted { title, .. } | AgentEvent::PermissionRequested { title, .. } =
        &mut seen
        && let Some(worktree) = worktree
        && let Ok(inside) = Path::new(title.as_str()).strip_prefix(worktree)
        && !inside.as_os_str().is_empty()
    {
        *title = inside.to_string_lossy().into_owned();
    }
    seen
}

/// Usage in the words of the wire.
pub(super) fn usage(usage: &AgentUsage) -> Usage {
    Usage {
        input_tokens: usage.input,
        output_tokens: usage.output,
        cache_read_tokens: usage.cache_read,
        cache_write_tokens: usage.cache_write,
        cost_usd: usage.cost_usd,
        ..Usage::default()
    }
}

fn translate(
    seen: &AgentEvent,
    open: &mut BTreeMap<String, Timestamp>,
    at: Timestamp,
) -> (Kind, Option<Channel>, Value) {
    match seen {
        AgentEvent::Session { id, model, version } => (
            Kind::SessionStarted,
            Some(Channel::Status),
            json!({ "sessionId": id, "model": model, "version": version }),
        ),
        AgentEvent::Text { text } => {
            (Kind::SessionOutput, Some(Channel::Text), json!({ "text": text }))
        }
        AgentEvent::Reasoning { text } => {
            (Kind::SessionOutput, Some(Channel::Reasoning), json!({ "text": text }))
        }
        AgentEvent::ToolStarted { id, name, title, input } => {
            open.insert(id.clone(), at);
            let started = ToolStarted {
                tool_id: id.clone(),
                tool_name: name.clone(),
                title: title.clone(),
                input_summary: input.clone(),
                started_at: at,
            };
            (Kind::ToolStarted, Some(Channel::ToolCall), value(&started))
        }
        AgentEvent::ToolFinished { id, name, outcome, latency_ms, summary } => {
            let finished = ToolFinished {
                tool_id: id.clone(),
                tool_name: name.clone(),
                outcome: outcome_name(*outcome).to_owned(),
                started_at: open.remove(id),
                finished_at: at,
                latency_ms: *latency_ms,
                summary: summary.clone(),
            };
            (Kind::ToolFinished, Some(Channel::ToolResult), value(&finished))
        }
        AgentEvent::Usage(total) => (Kind::UsageReported, None, value(&usage(total))),
        AgentEvent::Retry { attempt, status, reason, delay_ms } => (
            Kind::AgentRetry,
            Some(Channel::Status),
            json!({ "attempt": attempt, "status": status, "reason": reason, "delayMs": delay_ms }),
        ),
        AgentEvent::PermissionRequested { id, name, title, input, allowed } => (
            Kind::Other("approval.requested".to_owned()),
            Some(Channel::Status),
            json!({
                "toolId": id, "toolName": name, "title": title, "inputSummary": input,
                "allowed": allowed, "policy": "trusted",
            }),
        ),
        AgentEvent::Interrupted => {
            (Kind::AgentNotice, Some(Channel::Status), json!({ "text": "interrupted" }))
        }
        AgentEvent::Result { text, is_error } => (
            Kind::SessionOutput,
            Some(if *is_error { Channel::Error } else { Channel::Text }),
            json!({ "text": text, "isResult": true }),
        ),
        AgentEvent::Notice { text } => {
            (Kind::AgentNotice, Some(Channel::Status), json!({ "text": text }))
        }
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Error => "error",
        Outcome::Denied => "denied",
    }
}

fn value<T: Serialize>(body: &T) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayward_shared::id::{RunId, TaskId};

    #[test]
    fn a_tool_call_ends_with_the_moment_at_which_it_began() {
        let key = RunKey { task_id: TaskId::fresh(), run_id: RunId::fresh(), lease_epoch: 1 };
        let mut telling = Telling::default();
        let started = AgentEvent::ToolStarted {
            id: "t".into(),
            name: "Bash".into(),
            title: "ls".into(),
            input: "{}".into(),
        };
        let finished = AgentEvent::ToolFinished {
            id: "t".into(),
            name: "Bash".into(),
            outcome: Outcome::Ok,
            latency_ms: Some(40),
            summary: "a".into(),
        };
        tell(key, &started, &mut telling, Timestamp::from_millis(10)).unwrap();
        let told = tell(key, &finished, &mut telling, Timestamp::from_millis(50));
        let Some(FromDaemon::TaskEvent(event)) = told else { panic!() };
        let payload: ToolFinished = serde_json::from_value(event.payload).unwrap();
        assert_eq!(payload.started_at, Some(Timestamp::from_millis(10)));
        assert_eq!((payload.latency_ms, payload.outcome.as_str()), (Some(40), "ok"));
        assert_eq!(telling, Telling::default());
    }

    #[test]
    fn a_result_is_told_only_where_the_agent_had_not_said_it() {
        let key = RunKey { task_id: TaskId::fresh(), run_id: RunId::fresh(), lease_epoch: 1 };
        let mut telling = Telling::default();
        let mut told = |seen| tell(key, &seen, &mut telling, Timestamp::from_millis(1)).is_some();
        let result = || AgentEvent::Result { text: "done".into(), is_error: false };
        assert!(told(AgentEvent::Text { text: "done".into() }));
        assert!(!told(result()));
        assert!(told(result()));
    }

    #[test]
    fn titles_are_seen_from_the_worktree() {
        let started = |title: &str| AgentEvent::ToolStarted {
            id: "t".into(),
            name: "Write".into(),
            title: title.into(),
            input: String::new(),
        };
        let seen = |title| seen_from(started(title), Some(Path::new("/w/x")));
        assert_eq!(seen("/w/x/src/a.rs"), started("src/a.rs"));
        assert_eq!(seen("/w/xy/a.rs"), started("/w/xy/a.rs"));
        assert_eq!(seen("ls -l /w/x"), started("ls -l /w/x"));
    }
}
