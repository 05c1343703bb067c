//! Events: what happened, in the order in which it happened, one contiguous count per stream.

use crate::id::{EventId, RequestId, TaskId, WorkspaceId};
use crate::task::{Reason, Status};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the envelope.
pub const ENVELOPE_VERSION: u8 = 1;

/// The most bytes of an agent's text that one event carries; the rest is cut off.
pub const MAX_TEXT: usize = 8 * 1024;

/// The most bytes of a tool call's summary that one event carries.
pub const MAX_SUMMARY: usize = 2 * 1024;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        /// What kind of thing happened.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $text)] $name,)+
            /// A kind of a newer peer; readers pass over it.
            #[serde(untagged)]
            Other(String),
        }

        impl Kind {
            /// The name on the wire.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$name => $text,)+
                    Self::Other(name) => name,
                }
            }
        }
    };
}

kinds! {
    /// A task was made. Payload: `{name, status}`.
    TaskCreated = "task.created";
    /// A task moved. Payload: [`StatusChanged`].
    TaskStatusChanged = "task.status_changed";
    /// Fields of a task changed, not its status. Payload: `{updatedFields}`.
    TaskUpdated = "task.updated";
    /// The agent said how far it is. Payload: `{summary}`.
    TaskProgress = "task.progress";
    /// A person sent the agent a message. Payload: `{text}`.
    TaskMessage = "task.message";
    /// The worktree is there. Payload: `{path, branch, baseCommit}`.
    RunPrepared = "run.prepared";
    /// The agent's process runs. Payload: `{pid, argv0, agent}`.
    RunStarted = "run.started";
    /// The daemon was restarted and found the agent alive. Payload: `{pid}`.
    RunAdopted = "run.adopted";
    /// The agent's text or reasoning (see `channel`). Payload: `{text}`.
    SessionOutput = "session.output";
    /// The agent named its own session. Payload: `{sessionId, model}`.
    SessionStarted = "session.started";
    /// The agent's process ended. Payload: `{exitCode, signal, outputBytes}`.
    SessionExited = "session.exited";
    /// A tool call began. Payload: [`ToolStarted`].
    ToolStarted = "tool.started";
    /// A tool call ended. Payload: [`ToolFinished`].
    ToolFinished = "tool.finished";
    /// The agent waits before it asks its provider again. Payload: `{attempt, status, delayMs}`.
    AgentRetry = "agent.retry";
    /// Something odd that a person may want to know. Payload: `{text}`.
    AgentNotice = "agent.notice";
    /// Tokens used by the run so far. Payload: [`crate::task::Usage`].
    UsageReported = "usage.reported";
    /// A budget is used up: the task and all that share the budget pause. Payload:
    /// [`crate::budget::BudgetReached`].
    BudgetReached = "budget.reached";
    /// The work was committed or found empty. Payload: `{branch, headCommit, commits, diffStat}`.
    WorkCommitted = "work.committed";
    /// A merge was begun, committed or aborted. Payload: `{command, success, message, commitSha,
    /// conflicts}`.
    MergeResult = "merge.result";
    /// Its branch stands elsewhere than its run left it: something was merged into it, or more was
    /// committed on it. Payload: `{branch, headCommit}`.
    BranchMoved = "branch.moved";
    /// Live tasks change the same file, or no longer do. Payload: `{filePath, severity, tasks,
    /// conflict, files, truncated}`: the gravest verdict of a pair of tasks and all of them; severity
    /// `none` when they overlap no more.
    WorktreeConflict = "worktree.conflict";
    /// The agent was offered word of what a sibling does. Payload: `{siblingTaskId, siblingName,
    /// siblingStatus, progressSummary, changedFiles, delivered}`; not delivered where its driver
    /// takes no messages or the agent is ending.
    SiblingNote = "task.sibling_note";
    /// The worktree is gone. Payload: `{path, why, salvage}`: `why` is `retention`, `quota` or
    /// `asked`; the refs of `salvage` hold what would have been lost.
    WorktreeRemoved = "worktree.removed";
    /// Its branch waits in the merge queue. Payload, as of all `queue.*` but the last: `{entryId,
    /// target, message, landedCommit}`.
    QueueWaiting = "queue.waiting";
    /// Its branch is checked together with those before it.
    QueueTesting = "queue.testing";
    /// Its branch is in the target.
    QueueLanded = "queue.landed";
    /// Its branch conflicts with the target; nothing of it landed.
    QueueConflict = "queue.conflict";
    /// The check failed with its branch; nothing of it landed.
    QueueFailed = "queue.failed";
    /// Its branch was taken out of the merge queue.
    QueueRemoved = "queue.removed";
    /// Its branch was sent back: it alone caused it. Payload: `{entryId, target, branch, why, files,
    /// checkTail}`, `why` being `conflict` or `failed`.
    QueueRejected = "queue.rejected";
    /// Background work for the task took a turn. Payload: `{jobId, kind, name, phase, status,
    /// attempt, maxAttempts, nextRetryAt, detail}`.
    JobTransition = "job.transition";
    /// A daemon connected. Payload: `{hostname}`.
    DaemonOnline = "daemon.online";
    /// A daemon's link ended. Payload: `{hostname}`.
    DaemonOffline = "daemon.offline";
    /// History before the snapshot is no longer held. Payload: the snapshot.
    StreamReset = "stream.reset";
}

/// Which of an agent's voices an event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// What it says.
    Text,
    /// What it thinks.
    Reasoning,
    /// A tool call that began.
    ToolCall,
    /// What a tool call gave.
    ToolResult,
    /// Where the task stands.
    Status,
    /// What went wrong.
    Error,
    /// Terminal bytes.
    Terminal,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A person.
    User,
    /// An agent.
    Agent,
    /// A daemon.
    Daemon,
    /// The relay itself.
    System,
}

/// Who did it, and which one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The kind of actor.
    pub kind: ActorKind,
    /// Its id; empty for the relay itself.
    pub id: String,
}

/// What it happened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `task`, `run`, `daemon` and so on.
    pub kind: String,
    /// Its id.
    pub id: String,
}

/// One stored event.
///
/// `seq` counts from 0 in its stream without a hole. An event is stored before anyone hears of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// [`ENVELOPE_VERSION`].
    pub v: u8,
    /// The event's own id.
    pub id: EventId,
    /// The stream: see [`task_stream`].
    pub stream: String,
    /// Its place in the stream.
    pub seq: u64,
    /// What kind of thing happened.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// When it happened, by the clock of whoever saw it.
    pub at: Timestamp,
    /// The tenancy.
    pub workspace_id: WorkspaceId,
    /// Who did it.
    pub actor: Actor,
    /// What it happened to.
    pub subject: Subject,
    /// The request that caused it.
    pub request_id: Option<RequestId>,
    /// The fence of the run that it belongs to.
    pub lease_epoch: Option<u64>,
    /// Which voice of the agent it carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// The rest, by kind.
    pub payload: Value,
}

/// The name of a task's stream.
#[must_use]
pub fn task_stream(task: TaskId) -> String {
    format!("task:{task}")
}

/// Payload of [`Kind::TaskStatusChanged`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusChanged {
    /// Where it stood.
    pub old_status: Status,
    /// Where it stands.
    pub new_status: Status,
    /// Why it waits, or how it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// In words, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Payload of [`Kind::ToolStarted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolStarted {
    /// The agent's id of the call.
    pub tool_id: String,
    /// The tool.
    pub tool_name: String,
    /// A path or another short word on what it works on.
    pub title: String,
    /// A bounded summary of its input.
    pub input_summary: String,
    /// When it began.
    pub started_at: Timestamp,
}

/// Payload of [`Kind::ToolFinished`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolFinished {
    /// The agent's id of the call.
    pub tool_id: String,
    /// The tool.
    pub tool_name: String,
    /// How it ended: `ok`, `error` or `denied`.
    pub outcome: String,
    /// When it began, where that was seen.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How long it took; absent only where no start was seen.
    pub latency_ms: Option<u64>,
    /// A bounded summary of what it gave.
    pub summary: String,
}

/// `text`, cut to at most `most` bytes at a character's border, and whether it was cut.
#[must_use]
pub fn bounded(text: &str, most: usize) -> (&str, bool) {
    if text.len() <= most {
        return (text, false);
    }
    (&text[..text.floor_char_boundary(most)], true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_envelope_has_the_shape_of_the_plan() {
        let text = r#"{"v":1,"id":"01939d3a-7c00-7000-8000-0000deadbeef","stream":"task:1","seq":42,"type":"task.status_changed","at":"2026-01-01T00:00:00.000Z","workspaceId":"01939d3a-7c00-7000-8000-000000000001","actor":{"kind":"daemon","id":"d"},"subject":{"kind":"task","id":"1"},"requestId":null,"leaseEpoch":3,"payload":{"newStatus":"running","oldStatus":"queued"}}"#;
        let event: Envelope = serde_json::from_str(text).unwrap();
        assert_eq!(event.kind, Kind::TaskStatusChanged);
        assert_eq!(serde_json::to_string(&event).unwrap(), text);
    }

    #[test]
    fn an_unknown_kind_survives() {
        let kind: Kind = serde_json::from_str("\"flow.step\"").unwrap();
        assert_eq!(kind, Kind::Other("flow.step".into()));
        assert_eq!(serde_json::to_string(&kind).unwrap(), "\"flow.step\"");
    }

    proptest! {
        #[test]
        fn cutting_keeps_whole_characters(text in "\\PC*", most in 0usize..64) {
            let (cut, was_cut) = bounded(&text, most);
            prop_assert!(cut.len() <= most.max(text.len().min(most)));
            prop_assert!(text.starts_with(cut));
            prop_assert_eq!(was_cut, cut.len() < text.len());
        }
    }
}
