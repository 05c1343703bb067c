//! Leases: what a claim, a beat, silence and a return do to a task. Pure.
//!
//! A lease that ran out hands nothing over: the task waits for its daemon under the same epoch.
//! Only where the daemon itself says that it does not hold the run, or where the task sets
//! `requeueAfter`, does it go back, and then under a new epoch.

use crate::change::{Change, system};
use crate::config::Timing;
use crate::store::tasks::Stored;
use hayward_shared::event::{Actor, Kind};
use hayward_shared::id::{DaemonId, RunId};
use hayward_shared::task::{IllegalTransition, Reason, Status, retry_delay_ms};
use hayward_shared::time::Timestamp;

/// `requeueAfter` counts these.
const MINUTE_MS: i64 = 60_000;

/// Gives a queued task to a daemon, as a new run under a new epoch.
pub(crate) fn claim(
    change: &mut Change,
    daemon: DaemonId,
    by: &Actor,
    now: Timestamp,
    lease_ms: i64,
) -> Result<(), IllegalTransition> {
    let mut next = change.clone();
    next.fence();
    let holding = &mut next.row.task.holding;
    if holding.daemon_id != Some(daemon) {
        // another machine does not have the agent's session
        next.row.task.results.session_id = None;
    }
    holding.daemon_id = Some(daemon);
    holding.run_id = Some(RunId::fresh());
    holding.attempt += 1;
    next.row.lease_expires_at = Some(now.plus_millis(lease_ms));
    next.step(Status::Dispatched, None, by, now)?;
    *change = next;
    Ok(())
}

/// Whether a run with the fence `told` was handed over since: its task has the fence `present`.
pub(crate) fn is_former(told: u64, present: u64) -> bool {
    told < present && !hayward_edge::planted("no_epoch_check")
}

/// Whether the task waits for a daemon whose lease ran out.
pub(crate) fn is_away(row: &Stored) -> bool {
    row.task.status == Status::Waiting && row.task.reason == Some(Reason::DaemonOffline)
}

/// The daemon was heard of this run: its lease is renewed, and if it was away, it runs again.
pub(crate) fn heard(change: &mut Change, by: &Actor, now: Timestamp, lease_ms: i64) {
    if !change.row.task.status.is_held() {
        return;
    }
    change.row.lease_expires_at = Some(now.plus_millis(lease_ms));
    if is_away(&change.row) && change.step(Status::Running, None, by, now).is_err() {
        tracing::error!(task = %change.row.task.id, "a waiting task could not go on");
    }
}

/// What time alone does to a task at `now`; `None` when nothing is due.
pub(crate) fn overdue(row: &Stored, now: Timestamp, timing: &Timing) -> Option<Change> {
    let mut change = Change::of(row.clone());
    let lapsed = row.lease_expires_at.filter(|end| *end <= now);
    let (to, reason) = match row.task.status {
        Status::Dispatched | Status::Running => {
            lapsed?;
            (Status::Waiting, Some(Reason::DaemonOffline))
        }
        Status::Waiting | Status::Paused => {
            let minutes = i64::from(row.task.order.requeue_after?);
            if now.since(lapsed?) < minutes.saturating_mul(MINUTE_MS) {
                return None;
            }
            change.fence();
            (Status::Queued, None)
        }
        Status::Deferred if row.task.holding.next_retry_at.is_none_or(|at| at <= now) => {
            (Status::Queued, None)
        }
        // only one daemon can take it, and its work is done as far as it goes
        Status::Queued if row.task.holding.follow_up.is_some() => return None,
        Status::Queued if now.since(row.queued_at?) >= timing.queue_ms => {
            let hours = timing.queue_ms / 3_600_000;
            change.row.task.results.error_message =
                Some(format!("no daemon claimed it within {hours} hours"));
            (Status::Failed, Some(Reason::QueueExpired))
        }
        _ => return None,
    };
    let lease = change.row.lease_expires_at;
    change.step(to, reason, &system(), now).ok()?;
    if to.is_held() {
        // it stays known since when the daemon is away: `requeueAfter` counts from there
        change.row.lease_expires_at = lease;
    }
    Some(change)
}

/// The daemon that should hold this run says that it does not; `jitter` in 0..1 spreads a retry.
///
/// What was only dispatched goes back to the queue. What ran has lost its session: it is tried
/// again later where attempts are left.
pub(crate) fn disowned(
    row: &Stored,
    by: &Actor,
    now: Timestamp,
    jitter: f64,
) -> Result<Change, IllegalTransition> {
    let mut change = Change::of(row.clone());
    let started = row.heard_epoch >= row.task.holding.lease_epoch;
    if row.task.status == Status::Dispatched || !started {
        change.fence();
        change.row.task.holding.attempt = row.task.holding.attempt.saturating_sub(1);
        change.step(Status::Queued, None, by, now)?;
        return Ok(change);
    }
    change.row.task.results.error_message =
        Some("the daemon came back without the agent's session".into());
    if row.task.holding.attempt < row.task.order.max_attempts {
        if row.task.status != Status::Running {
            change.step(Status::Running, None, by, now)?;
        }
        change.step(Status::Deferred, Some(Reason::SessionLost), by, now)?;
        let delay = retry_delay_ms(row.task.holding.attempt, jitter);
        change.row.task.holding.next_retry_at = Some(now.plus_millis(delay));
    } else {
        change.step(Status::Failed, Some(Reason::SessionLost), by, now)?;
    }
    Ok(change)
}

/// Ends a task at a user's wish.
pub(crate) fn cancel(row: Stored, by: &Actor, now: Timestamp) -> Result<Change, IllegalTransition> {
    let mut change = Change::of(row);
    change.step(Status::Cancelled, None, by, now)?;
    Ok(change)
}

/// Tells that a task was made.
pub(crate) fn created(row: Stored, by: &Actor) -> Change {
    let mut change = Change::of(row);
    let (at, task) = (change.row.task.created_at, &change.row.task);
    let payload = serde_json::json!({ "name": task.order.name, "status": task.status });
    change.say(Kind::TaskCreated, by, at, payload);
    change
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hayward_shared::id::{TaskId, WorkspaceId};
    use hayward_shared::task::{Holding, Order, Results, Task};

    pub(crate) fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    pub(crate) fn queued(order: Order) -> Stored {
        Stored::new(Task {
            id: TaskId::fresh(),
            workspace_id: WorkspaceId::fresh(),
            status: Status::Queued,
            reason: None,
            depth: 0,
            order: Order { max_attempts: order.max_attempts.max(1), ..order },
            holding: Holding::default(),
            results: Results::default(),
            created_at: at(0),
            started_at: None,
            completed_at: None,
            version: 1,
        })
    }

    pub(crate) fn running(order: Order, daemon: DaemonId) -> Stored {
        let mut change = Change::of(queued(order));
        claim(&mut change, daemon, &system(), at(1_000), 60_000).unwrap();
        change.step(Status::Running, None, &system(), at(2_000)).unwrap();
        change.row.heard_epoch = change.row.task.holding.lease_epoch;
        change.row
    }

    fn standing(change: &Change) -> (Status, Option<Reason>, u64) {
        let task = &change.row.task;
        (task.status, task.reason, task.holding.lease_epoch)
    }

    #[test]
    fn f28_a_claimed_task_cannot_be_claimed_again() {
        let mut change = Change::of(queued(Order::default()));
        claim(&mut change, DaemonId::fresh(), &system(), at(1), 60_000).unwrap();
        let before = change.clone();
        assert!(claim(&mut change, DaemonId::fresh(), &system(), at(2), 60_000).is_err());
        assert_eq!(change, before);
    }

    #[test]
    fn f29_silence_makes_a_run_wait_under_the_same_epoch_and_a_return_lets_it_go_on() {
        let row = running(Order::default(), DaemonId::fresh());
        let timing = Timing::default();
        assert!(overdue(&row, at(60_999), &timing).is_none());
        let mut away = overdue(&row, at(61_000), &timing).unwrap();
        assert_eq!(standing(&away), (Status::Waiting, Some(Reason::DaemonOffline), 1));
        assert!(overdue(&away.row, at(i64::MAX), &timing).is_none());
        heard(&mut away, &system(), at(99_000), 60_000);
        assert_eq!(standing(&away), (Status::Running, None, 1));
        assert_eq!(away.row.lease_expires_at, Some(at(159_000)));
    }

    #[test]
    fn a_paused_task_stays_paused_when_its_daemon_is_away() {
        let mut change = Change::of(running(Order::default(), DaemonId::fresh()));
        change.step(Status::Paused, None, &system(), at(3_000)).unwrap();
        assert!(overdue(&change.row, at(i64::MAX), &Timing::default()).is_none());
    }

    #[test]
    fn only_requeue_after_hands_over_and_under_a_new_epoch() {
        let order = Order { requeue_after: Some(5), ..Order::default() };
        let row = running(order, DaemonId::fresh());
        let away = overdue(&row, at(61_000), &Timing::default()).unwrap().row;
        assert!(overdue(&away, at(61_000 + 299_999), &Timing::default()).is_none());
        let back = overdue(&away, at(61_000 + 300_000), &Timing::default()).unwrap();
        assert_eq!(standing(&back), (Status::Queued, None, 2));
    }

    #[test]
    fn a_disowned_run_is_retried_only_where_attempts_are_left() {
        let by = system();
        let once = running(Order::default(), DaemonId::fresh());
        let end = disowned(&once, &by, at(9_000), 0.0).unwrap();
        assert_eq!(standing(&end), (Status::Failed, Some(Reason::SessionLost), 1));
        let twice = running(Order { max_attempts: 2, ..Order::default() }, DaemonId::fresh());
        for from in [Status::Running, Status::Paused, Status::Waiting] {
            let mut change = Change::of(twice.clone());
            if from != Status::Running {
                change.step(from, None, &by, at(3_000)).unwrap();
            }
            let later = disowned(&change.row, &by, at(9_000), 0.0).unwrap();
            assert_eq!(standing(&later), (Status::Deferred, Some(Reason::SessionLost), 1));
            let due = later.row.task.holding.next_retry_at.unwrap();
            assert!(overdue(&later.row, due.plus_millis(-1), &Timing::default()).is_none());
            assert!(overdue(&later.row, due, &Timing::default()).is_some());
        }
    }

    #[test]
    fn a_disowned_claim_goes_back_without_counting_an_attempt() {
        let mut change = Change::of(queued(Order::default()));
        claim(&mut change, DaemonId::fresh(), &system(), at(1), 60_000).unwrap();
        let back = disowned(&change.row, &system(), at(2), 0.0).unwrap();
        assert_eq!(standing(&back), (Status::Queued, None, 2));
        assert_eq!(back.row.task.holding.attempt, 0);
    }

    #[test]
    fn an_unclaimed_task_expires_after_a_day() {
        let row = queued(Order::default());
        let day = 24 * 3_600_000;
        assert!(overdue(&row, at(day - 1), &Timing::default()).is_none());
        let end = overdue(&row, at(day), &Timing::default()).unwrap();
        assert_eq!(standing(&end), (Status::Failed, Some(Reason::QueueExpired), 0));
    }
}
