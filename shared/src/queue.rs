//! The merge queue as it crosses the wire.

use crate::id::{EntryId, TaskId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Seconds that a check may take when nobody says: a full test run of a large repository.
pub const CHECK_SECONDS: u64 = 30 * 60;

/// The most seconds that a check may take.
pub const MOST_CHECK_SECONDS: u64 = 24 * 60 * 60;

/// How far an entry is. The last four are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueState {
    /// Waits for its turn, or for what its message names.
    Waiting,
    /// Its check runs, or it is about to land.
    Testing,
    /// It is in the target.
    Landed,
    /// It conflicts with the target.
    Conflict,
    /// The check failed with it.
    Failed,
    /// Somebody took it out.
    Removed,
}

impl QueueState {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Testing => "testing",
            Self::Landed => "landed",
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Removed => "removed",
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Testing)
    }
}

/// What an entry is to bring where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueWish {
    /// The user's repository: the folder that its worktrees share, on the daemon's machine.
    pub repository: String,
    /// The branch that holds the work.
    pub branch: String,
    /// Its tip when it was queued: what was queued is what lands.
    pub head_commit: String,
    /// The branch that it goes to.
    pub target: String,
    /// The command line that must succeed; empty: none.
    pub check: String,
    /// How long that may take.
    pub timeout_seconds: u64,
}

/// An entry of a merge queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueEntry {
    /// The entry.
    pub id: EntryId,
    /// The task whose work it is.
    pub task_id: TaskId,
    /// What goes where.
    #[serde(flatten)]
    pub wish: QueueWish,
    /// How far it is.
    pub state: QueueState,
    /// Its place among those that go to the same branch, from 1; none once it has ended.
    #[serde(default)]
    pub position: Option<u64>,
    /// Why it waits, or how it ended; empty where there is nothing to say.
    #[serde(default)]
    pub message: String,
    /// The files in conflict, at most fifty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// How the task's agent heard that it was sent back, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_back: Option<SentBack>,
    /// The commit of the target that brought it.
    #[serde(default)]
    pub landed_commit: Option<String>,
    /// When it was queued.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
}

/// How a task's own agent hears that its entry was sent back. An event of the task tells of it in
/// any case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "how")]
pub enum SentBack {
    /// As a message into its live session.
    Message,
    /// Its ended session goes on with it, in a new run of the task.
    Resumed,
    /// Not at all.
    Event {
        /// Why.
        why: String,
    },
}

/// Body of `POST /api/v1/queue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueueAddBody {
    /// The tasks, by their ids or unique parts of them.
    pub task_ids: Vec<String>,
    /// The branch that they go to; absent: where the work of each is meant to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_branch: Option<String>,
    /// The command line that must succeed; empty: none.
    pub check: String,
    /// How long it may take; absent: [`CHECK_SECONDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
}
