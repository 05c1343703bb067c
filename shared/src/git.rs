//! What git work looks like on the wire.

use crate::id::TaskId;
use serde::{Deserialize, Serialize};

/// Lines of one file, counted from 1. An empty range (`end` one less than `start`) is the place
/// before line `start`, where lines were put in or taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lines {
    /// The first line.
    pub start: u32,
    /// The last line.
    pub end: u32,
}

/// How near the changes of two tasks to one file are; the graver is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Both changed the file, far apart, or where cannot be told (binary, mode).
    DifferentArea,
    /// At most five lines lie between the changes.
    AdjacentLine,
    /// The same lines; or both made the file; or one deleted what the other changed.
    SameLine,
}

impl Severity {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DifferentArea => "different_area",
            Self::AdjacentLine => "adjacent_line",
            Self::SameLine => "same_line",
        }
    }
}

/// The lines of a file that a task changed, as they are numbered in its worktree now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskLines {
    /// The task.
    pub task_id: TaskId,
    /// Its lines in order; empty when they cannot be told.
    pub lines: Vec<Lines>,
}

/// A file that a task renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRename {
    /// The task.
    pub task_id: TaskId,
    /// The new name, from the top of the repository.
    pub to: String,
}

/// One file that live tasks of one repository change at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The file, from the top of the repository, parts divided by `/`.
    pub file_path: String,
    /// The gravest of all pairs of its tasks.
    pub severity: Severity,
    /// The tasks in order of their ids, at least two.
    pub tasks: Vec<TaskId>,
    /// Whether a merge of two of them as they are now would conflict in this file.
    pub conflict: bool,
    /// Where each task changes it.
    #[serde(default)]
    pub ranges: Vec<TaskLines>,
    /// Which tasks renamed it, and to what; its lines are then those of the old name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renames: Vec<TaskRename>,
    /// The repository's folder on the daemon's machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
}
