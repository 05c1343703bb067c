//! What a viewer asks to see, in the same words from client to relay and from relay to daemon.

use crate::id::{TaskId, WatchId};
use serde::{Deserialize, Serialize};

/// The output of a task's last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputView {
    /// The viewer's own name for it; every frame carries it.
    pub watch_id: WatchId,
    /// The task.
    pub task_id: TaskId,
    /// The first byte to send.
    pub from: u64,
    /// Whether to go on until the session ends.
    pub follow: bool,
    /// Send no byte at or past this offset until a grant moves it.
    pub grant: u64,
}

/// The terminal of a task's live session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalView {
    /// The viewer's own name for it; every frame carries it.
    pub watch_id: WatchId,
    /// The task.
    pub task_id: TaskId,
    /// The viewer's height in characters.
    pub rows: u16,
    /// The viewer's width in characters.
    pub cols: u16,
    /// The viewer only looks: it never types and never decides the size.
    pub read_only: bool,
    /// How many bytes of output may be sent until a grant moves it.
    pub grant: u64,
}
