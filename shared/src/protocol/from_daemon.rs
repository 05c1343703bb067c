//! What a daemon says to the relay.

use super::hello::Authenticate;
use crate::api::Vitals;
use crate::event::{Channel, Kind};
use crate::fault::Fault;
use crate::id::{RunId, TaskId};
use crate::search::SearchPage;
use crate::task::{DiffStat, FollowUp, Outcome, Reason, Status, WithheldFile};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! from_daemon {
    ($($(#[$doc:meta])* $name:ident $body:tt = $text:literal),+ $(,)?) => {
        /// Every `type` of [`FromDaemon`].
        pub const FROM_DAEMON_TYPES: &[&str] = &[$($text),+];

        /// A message of a daemon. The first sixteen are the seed's, the rest ours.
        ///
        /// Optional fields of the seed are written as `null`, ours are left out.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", rename_all_fields = "camelCase")]
        pub enum FromDaemon {
            $($(#[$doc])* #[serde(rename = $text)] $name $body),+
        }

        impl FromDaemon {
            /// The `type` on the wire.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $text),+
                }
            }
        }
    };
}

from_daemon! {
    /// The hello.
    Authenticate(Authenticate) = "authenticate",
    /// It lives, and so do these runs.
    Heartbeat {
        /// The tasks whose runs it holds.
        active_tasks: Vec<TaskId>,
        /// Its number, where an acknowledgement is asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beat: Option<u64>,
        /// How its machine stands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vitals: Option<Vitals>,
    } = "heartbeat",
    /// Text of an agent, from a peer without output frames.
    TaskOutput {
        /// The task.
        task_id: TaskId,
        /// The text.
        output: String,
        /// Whether more of the same line follows.
        is_partial: bool,
    } = "taskOutput",
    /// A task moved.
    TaskStatusChange(StatusReport) = "taskStatusChange",
    /// How far the agent is, in its own words.
    TaskProgress {
        /// The task.
        task_id: TaskId,
        /// The words.
        summary: String,
    } = "taskProgress",
    /// A task ended, from a peer that does not report it as a status.
    TaskComplete {
        /// The task.
        task_id: TaskId,
        /// Whether it ended well.
        success: bool,
        /// What went wrong.
        error: Option<String>,
    } = "taskComplete",
    /// An orchestrator's key for the mesh endpoints.
    RegisterToolKey {
        /// The task.
        task_id: TaskId,
        /// The key.
        key: String,
    } = "registerToolKey",
    /// That key is no longer good.
    RevokeToolKey {
        /// The task.
        task_id: TaskId,
    } = "revokeToolKey",
    /// Answer to `listBranches`.
    BranchList {
        /// The task.
        task_id: TaskId,
        /// The branches of its repository that are ours, but its own.
        branches: Vec<BranchInfo>,
    } = "branchList",
    /// Answer to `mergeStatus`.
    MergeStatusResponse {
        /// The task.
        task_id: TaskId,
        /// Whether a merge is under way.
        in_progress: bool,
        /// What is being merged.
        source_branch: Option<String>,
        /// Files that still conflict.
        conflicted_files: Vec<String>,
    } = "mergeStatusResponse",
    /// Answer to `mergeStart`, `mergeResolve`, `mergeCommit` and `mergeAbort`. A merge that waits
    /// for conflicts to be settled is no success, and has `conflicts` and no `error`.
    MergeResult {
        /// The task.
        task_id: TaskId,
        /// Whether it went well.
        success: bool,
        /// What happened.
        message: String,
        /// The merge's commit.
        commit_sha: Option<String>,
        /// Files that conflict, when some do.
        conflicts: Option<Vec<String>>,
        /// Why it was refused or failed, where a plain peer's `message` says too little.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Fault>,
    } = "mergeResult",
    /// Answer to `checkMergeComplete` and `mergeSkip`.
    MergeCompleteCheck {
        /// The task.
        task_id: TaskId,
        /// Whether every part is merged or skipped.
        can_complete: bool,
        /// Branches that are neither.
        unmerged_branches: Vec<String>,
        /// How many are merged.
        merged_count: u32,
        /// How many are skipped.
        skipped_count: u32,
    } = "mergeCompleteCheck",
    /// Answer to `retryCompletionAction`.
    CompletionActionResult {
        /// The task.
        task_id: TaskId,
        /// Whether it went well.
        success: bool,
        /// What happened.
        message: String,
        /// The pull request.
        pr_url: Option<String>,
        /// Why it was refused or failed, where a plain peer's `message` says too little.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Fault>,
    } = "completionActionResult",
    /// Where the daemon works.
    DaemonDirectories {
        /// Where it was started.
        working_directory: String,
        /// Where finished work is cloned to.
        home_directory: String,
        /// Where its worktrees are.
        worktrees_directory: String,
    } = "daemonDirectories",
    /// Answer to `cloneWorktree`.
    CloneWorktreeResult {
        /// The task.
        task_id: TaskId,
        /// Whether it went well.
        success: bool,
        /// What happened.
        message: String,
        /// Where the clone is.
        target_dir: Option<String>,
        /// Why it was refused or failed, where a plain peer's `message` says too little.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Fault>,
    } = "cloneWorktreeResult",
    /// Answer to `checkTargetExists`.
    CheckTargetExistsResult {
        /// The task.
        task_id: TaskId,
        /// Whether something is there.
        exists: bool,
        /// Where.
        target_dir: String,
        /// Why it was refused or failed, where a plain peer's `message` says too little.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Fault>,
    } = "checkTargetExistsResult",

    /// It has room for so many runs, now.
    Claim {
        /// Free places.
        slots: u32,
    } = "claim",
    /// Something happened in a run. Stored in the task's stream.
    TaskEvent(TaskEvent) = "taskEvent",
    /// A completed task is to be sent back: the session of its agent goes on with these words, in a
    /// new run. Passed over where the task is anything but completed.
    TaskFollowUp {
        /// The task.
        task_id: TaskId,
        /// Its last run.
        run_id: RunId,
        /// The words.
        follow_up: FollowUp,
    } = "taskFollowUp",
    /// The answer to a command that carried a `requestId`.
    Reply(Reply) = "reply",
    /// The next page of what a search finds, under the `requestId` of the search; its `reply` is the
    /// last.
    SearchFound(SearchPage) = "searchFound",
    /// What it can run has changed.
    Runtimes {
        /// All of it, anew.
        runtimes: Vec<crate::api::Runtime>,
    } = "runtimes",
    /// A message that it could not take.
    Error {
        /// What kind of error, see [`crate::fault::Code`].
        code: String,
        /// What happened.
        message: String,
    } = "error",
}

impl FromDaemon {
    /// The task that it is about, where it is one of the seven answers with a type of their own.
    /// The command that it answers is told by its `requestId`; for a peer that echoes none by
    /// [`super::ToDaemon::answer`].
    #[must_use]
    pub fn answered(&self) -> Option<TaskId> {
        match self {
            Self::BranchList { task_id, .. }
            | Self::MergeStatusResponse { task_id, .. }
            | Self::MergeResult { task_id, .. }
            | Self::MergeCompleteCheck { task_id, .. }
            | Self::CompletionActionResult { task_id, .. }
            | Self::CloneWorktreeResult { task_id, .. }
            | Self::CheckTargetExistsResult { task_id, .. } => Some(*task_id),
            _ => None,
        }
    }

    /// Why the command that it answers was refused or failed, where it says so.
    #[must_use]
    pub fn refusal(&self) -> Option<&Fault> {
        match self {
            Self::MergeResult { error, .. }
            | Self::CompletionActionResult { error, .. }
            | Self::CloneWorktreeResult { error, .. }
            | Self::CheckTargetExistsResult { error, .. } => error.as_ref(),
            Self::Reply(reply) => reply.error.as_ref(),
            _ => None,
        }
    }
}

/// A branch of a task's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BranchInfo {
    /// Its name.
    pub name: String,
    /// The part whose work it holds.
    pub task_id: Option<TaskId>,
    /// Whether it is merged.
    pub is_merged: bool,
    /// Its tip, short.
    pub last_commit: String,
    /// The tip's subject line.
    pub last_commit_message: String,
}

/// `taskStatusChange`: the seed's three fields, and what ours tells with the step.
///
/// What is absent stays as it was in the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// The task.
    pub task_id: TaskId,
    /// Where the daemon had it.
    pub old_status: Status,
    /// Where it is now.
    pub new_status: Status,
    /// When, by the daemon's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Why it waits, or how it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When a deferred task is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry_at: Option<Timestamp>,
    /// What is known of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// What a daemon knows of a run's result. Absent fields say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// The commit that the worktree was made at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_commit: Option<String>,
    /// The agent that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The branch that holds the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Its tip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_commit: Option<String>,
    /// What was brought home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff_stat: Option<DiffStat>,
    /// Files that policy kept out of the commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld_files: Option<Vec<WithheldFile>>,
    /// The pull request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr_url: Option<String>,
    /// The agent's exit code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The agent's own session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// `taskEvent`: something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskEvent {
    /// The task.
    pub task_id: TaskId,
    /// The run.
    pub run_id: RunId,
    /// What kind of thing.
    pub event: Kind,
    /// When, by the daemon's clock.
    pub at: Timestamp,
    /// Which voice of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// The rest, by kind.
    pub payload: Value,
}

/// `reply`: what became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub payload: Value,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

impl Reply {
    /// Done, with this to show for it.
    #[must_use]
    pub fn done(payload: Value) -> Self {
        Self { ok: true, payload, error: None }
    }

    /// Not done.
    #[must_use]
    pub fn refused(fault: Fault) -> Self {
        Self { ok: false, payload: Value::Null, error: Some(fault) }
    }

    /// As a result.
    ///
    /// # Errors
    /// The fault of a command that was not done.
    pub fn into_result(self) -> Result<Value, Fault> {
        match (self.ok, self.error) {
            (true, _) => Ok(self.payload),
            (false, Some(fault)) => Err(fault),
            (false, None) => {
                Err(Fault::new(crate::fault::Code::Failed, "the daemon gave no reason"))
            }
        }
    }
}
