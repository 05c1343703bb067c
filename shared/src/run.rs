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

/// How long before a hand-over the former daemon has begun to end its agent: asking it, making it
/// and looking whether all of it is gone take half of that at the worst.
pub const FENCE_MS: i64 = 30_000;

/// Of the time until a hand-over this part is given away besides, since two clocks do not run
/// alike: each is kept right by at most one part in two thousand.
const DRIFT: i64 = 1_000;

/// The fewest minutes that `requeueAfter` takes: with fewer a daemon would have to end its agent
/// for a link that was away no longer than a restart of the relay takes.
pub const REQUEUE_LEAST: u32 = 1;

/// What `requeueAfter` counts.
pub const REQUEUE_UNIT_MS: i64 = 60_000;

/// Milliseconds from the sending of the last beat that was acknowledged until a daemon begins to end
/// the agent of a run that the relay hands over `hand_over_ms` after the last beat that it heard.
#[must_use]
pub fn fence_after_ms(hand_over_ms: i64) -> u64 {
    u64::try_from(hand_over_ms - FENCE_MS - hand_over_ms / DRIFT).unwrap_or(0)
}

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

    #[test]
    fn f28_an_agent_is_ended_well_before_another_may_begin_and_not_for_a_lost_beat() {
        for minutes in [REQUEUE_LEAST, 5, 60, 24 * 60, u32::MAX] {
            let whole = LEASE_MS + i64::from(minutes) * REQUEUE_UNIT_MS;
            let fence = i64::try_from(fence_after_ms(whole)).unwrap();
            assert!(whole - fence >= FENCE_MS, "{minutes}");
            // as much as the fastest and the slowest clock that is kept right may differ
            assert!(whole - fence - FENCE_MS >= whole / 1_000, "{minutes}");
            assert!(fence > LEASE_MS, "{minutes}: it would be ended while its lease holds");
        }
    }
}
