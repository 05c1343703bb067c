//! Durable background work of a daemon, as it crosses the wire.

use crate::id::{JobId, TaskId};
use crate::run::Failure;
use crate::task::{Reason, Status};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Turns that a job remembers: the first, and the newest of the others. What only tells how far it
/// is is no turn, so it drives none of them out.
pub const MOST_TURNS: usize = 64;

/// What a person may want of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOrder {
    /// End it, under way or not.
    Cancel,
    /// Let it wait; a try that is under way is broken off and does not count.
    Pause,
    /// Let a paused one go on.
    Resume,
    /// Try again now: one that waits for its next try, or one that has failed or was cancelled.
    Retry,
}

impl JobOrder {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
        }
    }
}

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// It was made.
    Created,
    /// A try began.
    Running,
    /// A try failed, and another one follows.
    Deferred,
    /// A person let it wait.
    Paused,
    /// A person let it go on.
    Resumed,
    /// A person had it tried again.
    Retried,
    /// Its daemon was restarted while it was under way.
    Restarted,
    /// It is done.
    Completed,
    /// No try is left, or another one would fail alike: it lies until a person has it tried again.
    Failed,
    /// A person ended it.
    Cancelled,
    /// What a newer peer knows.
    #[serde(other)]
    Unknown,
}

/// A turn of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobTurn {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub phase: JobPhase,
    /// Where that led.
    pub status: Status,
    /// The try it was, from 1; 0 before the first.
    pub attempt: u32,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The job.
    pub id: JobId,
    /// What is done: `completion`, `fetch`.
    pub kind: String,
    /// What it is done to, for people.
    pub name: String,
    /// The task it is done for.
    #[serde(default)]
    pub task_id: Option<TaskId>,
    /// How it stands: queued, running, paused, deferred, completed, failed or cancelled.
    pub status: Status,
    /// How far it is, in hundredths of the whole.
    #[serde(default)]
    pub progress: Option<u8>,
    /// What it does, or what came of it, for people.
    #[serde(default)]
    pub detail: Option<String>,
    /// Tries begun.
    pub attempt: u32,
    /// Tries at the most.
    pub max_attempts: u32,
    /// When the next try is due.
    #[serde(default)]
    pub next_retry_at: Option<Timestamp>,
    /// How the last try failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Its turns, oldest first, at most [`MOST_TURNS`].
    pub history: Vec<JobTurn>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Job {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.status.is_final()
    }
}

/// Whether another try of the same may do better: the trouble lies elsewhere and may pass.
#[must_use]
pub fn may_pass(reason: Reason) -> bool {
    matches!(reason, Reason::RemoteUnreachable)
}

/// Milliseconds before the try that follows the `failed`-th (from 1) of a job.
///
/// Anything from none to a bound that doubles from half a second to five minutes, by `dice` in
/// 0..1: jobs that failed together because one remote was away do not come back together.
#[must_use]
pub fn job_delay_ms(failed: u32, dice: f64) -> i64 {
    const BASE_MS: i64 = 500;
    const MOST_MS: i64 = 300_000;
    let bound = BASE_MS.saturating_mul(1 << failed.saturating_sub(1).min(20)).min(MOST_MS);
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "below 2^53")]
    let delay = (bound as f64 * dice.clamp(0.0, 1.0)) as i64;
    delay
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn f33_delays_fill_all_of_a_bound_that_grows_to_five_minutes(
            failed in 1u32..100, dice in 0.0f64..1.0,
        ) {
            let (least, most) = (job_delay_ms(failed, 0.0), job_delay_ms(failed, 1.0));
            prop_assert_eq!(least, 0);
            prop_assert!((500..=300_000).contains(&most));
            prop_assert!((least..=most).contains(&job_delay_ms(failed, dice)));
            prop_assert!(job_delay_ms(failed + 1, 1.0) >= most);
        }
    }

    #[test]
    fn a_phase_of_tomorrow_is_read() {
        assert_eq!(serde_json::from_str::<JobPhase>("\"thawed\"").unwrap(), JobPhase::Unknown);
    }
}
