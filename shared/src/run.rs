//! Runs and leases: one attempt of a task on one daemon, and how long its claim holds.

use crate::id::{RunId, TaskId};
use crate::task::Reason;
use serde::{Deserialize, Serialize};

/// A lease holds for this long after the last heartbeat that named its run.
pub const LEASE_MS: i64 = 60_000;

/// A daemon beats this often: three beats may be lost before a lease runs out.
pub const HEARTBEAT_MS: i64 = 15_000;

/// The relay looks for leases that ran out this often.
pub const SWEEP_MS: i64 = 5_000;

/// A queued task expires after this long without a claim: a day, since people queue overnight.
pub const QUEUE_MS: i64 = 24 * 3_600_000;

/// Nothing is handed to a link younger than this: a machine that wakes for a moment must not
/// take work to sleep with.
pub const SETTLE_MS: i64 = 5_000;

/// One attempt, as daemon and relay name it to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunKey {
    /// The task.
    pub task_id: TaskId,
    /// The attempt.
    pub run_id: RunId,
    /// The fence: of two claims of one task the higher is the true one.
    pub lease_epoch: u64,
}

/// How a run ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The closed reason, which decides a retry.
    pub reason: Reason,
    /// What happened, for people.
    pub message: String,
}

impl Failure {
    /// A failure of this reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_three_lost_beats_and_its_end_is_seen_in_time() {
        const { assert!(LEASE_MS >= 4 * HEARTBEAT_MS) };
        const { assert!(SWEEP_MS < HEARTBEAT_MS) };
    }
}
