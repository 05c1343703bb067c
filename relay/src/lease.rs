//! Leases: what a claim, a beat, silence and a return do to a task. Pure.
//!
//! A lease that ran out hands nothing over: the task waits for its daemon under the same epoch.
//! Only where the daemon itself says that it does not hold the run, or where the task sets
//! `requeueAfter`, does it go back, and then under a new epoch. By then a daemon that took such a
//! task has ended its agent by itself ([`fence_after`]).
//!
//! Leases are measured by a clock of their own, which all relays of a database share and which is
//! never faster than time ([`crate::mover`]).

use crate::change::{Change, system};
use crate::config::Timing;
use crate::mover::Mover;
use crate::store::tasks::Stored;
use hayward_shared::event::{Actor, Kind};
use hayward_shared::id::{DaemonId, RunId};
use hayward_shared::run::fence_after_ms;
use hayward_shared::task::{IllegalTransition, Reason, Status, Task, retry_delay_ms};
use hayward_shared::time::Timestamp;

/// The present moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Of people: what is told, and when a retry is due.
    pub(crate) wall: Timestamp,
    /// Of leases.
    pub(crate) steady: Timestamp,
}

/// How many milliseconds after the end of its lease a task goes to another daemon; none where it
/// stays with its own, as one whose agent's session is to go on.
fn hands_over(task: &Task, timing: &Timing) -> Option<i64> {
    let minutes = task.order.requeue_after.filter(|_| task.holding.follow_up.is_none())?;
    Some(i64::from(minutes).saturating_mul(timing.requeue_unit_ms))
}

/// How long after its last beat that was heard a daemon begins to end the agent of this task by
/// itself; none where the task stays with it.
pub(crate) fn fence_after(task: &Task, timing: &Timing) -> Option<u64> {
    hands_over(task, timing).map(|wait| fence_after_ms(timing.lease_ms.saturating_add(wait)))
}

/// Whether the daemon must be told that its beat renewed this task's time.
pub(crate) fn is_fenced(row: &Stored, timing: &Timing) -> bool {
    row.task.status.is_held() && hands_over(&row.task, timing).is_some()
}

/// Gives a queued task to a daemon, as a new run under a new epoch.
pub(crate) fn claim(
    change: &mut Change,
    daemon: DaemonId,
    by: &Actor,
    now: Timestamp,
    lease_end: Timestamp,
) -> Result<(), IllegalTransition> {
    let mut next = change.clone();
    next.fence();
    let holding = &mut next.row.task.holding;
    if holding.daemon_id != Some(daemon) {
        // another machine does not have the agent's session
        next.row.task.results.session_id = None;
    }
    next.row.task.results.session_model = None;
    holding.daemon_id = Some(daemon);
    holding.run_id = Some(RunId::fresh());
    holding.attempt += 1;
    next.row.lease_expires_at = Some(lease_end);
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

/// The daemon was heard of this run: its lease holds until `lease_end`, and if it was away, it runs
/// again.
pub(crate) fn heard(change: &mut Change, by: &Actor, now: Timestamp, lease_end: Timestamp) {
    if !change.row.task.status.is_held() {
        return;
    }
    change.row.lease_expires_at = Some(lease_end);
    if is_away(&change.row) && change.step(Status::Running, None, by, now).is_err() {
        tracing::error!(task = %change.row.task.id, "a waiting task could not go on");
    }
}

/// What time alone does to a task at `now`; `None` when nothing is due.
pub(crate) fn overdue(row: &Stored, now: Now, timing: &Timing) -> Option<Change> {
    let mut change = Change::of(row.clone());
    let Now { wall, steady } = now;
    let lapsed = row.lease_expires_at.filter(|end| *end <= steady);
    let (to, reason) = match row.task.status {
        Status::Dispatched | Status::Running => {
            lapsed?;
            (Status::Waiting, Some(Reason::DaemonOffline))
        }
        Status::Waiting | Status::Paused => {
            // whoever wrote that end may have read the clock before a move that was under way
            let ahead = Mover::ahead(timing.most_ms());
            let wait = hands_over(&row.task, timing)?.saturating_add(ahead);
            if steady.since(lapsed?) < wait {
                return None;
            }
            change.fence();
            // what it had done there is given up: it may begin anew wherever it could have begun
            change.row.task.holding.daemon_id = None;
            (Status::Queued, None)
        }
        Status::Deferred if row.task.holding.next_retry_at.is_none_or(|at| at <= wall) => {
            (Status::Queued, None)
        }
        // only one daemon can take it, and its work is done as far as it goes
        Status::Queued if row.task.holding.follow_up.is_some() => return None,
        Status::Queued if wall.since(row.queued_at?) >= timing.queue_ms => {
            let hours = timing.queue_ms / 3_600_000;
            change.row.task.results.error_message =
                Some(format!("no daemon claimed it within {hours} hours"));
            (Status::Failed, Some(Reason::QueueExpired))
        }
        _ => return None,
    };
    let lease = change.row.lease_expires_at;
    change.step(to, reason, &system(), wall).ok()?;
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
    if is_away(row) {
        // nobody knows when it ended
        change.row.running_since = None;
    }
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
    use crate::mover::tests::{self as mover, Act, World};
    use hayward_shared::id::{TaskId, WorkspaceId};
    use hayward_shared::task::{Holding, Order, Results, Task};
    use proptest::prelude::*;

    pub(crate) fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// Both clocks show the same.
    pub(crate) fn both(ms: i64) -> Now {
        Now { wall: at(ms), steady: at(ms) }
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
        claim(&mut change, daemon, &system(), at(1_000), at(61_000)).unwrap();
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
        claim(&mut change, DaemonId::fresh(), &system(), at(1), at(60_001)).unwrap();
        let before = change.clone();
        assert!(claim(&mut change, DaemonId::fresh(), &system(), at(2), at(60_002)).is_err());
        assert_eq!(change, before);
    }

    #[test]
    fn f29_silence_makes_a_run_wait_under_the_same_epoch_and_a_return_lets_it_go_on() {
        let row = running(Order::default(), DaemonId::fresh());
        let timing = Timing::default();
        assert!(overdue(&row, both(60_999), &timing).is_none());
        let mut away = overdue(&row, both(61_000), &timing).unwrap();
        assert_eq!(standing(&away), (Status::Waiting, Some(Reason::DaemonOffline), 1));
        assert!(overdue(&away.row, both(i64::MAX), &timing).is_none());
        heard(&mut away, &system(), at(99_000), at(159_000));
        assert_eq!(standing(&away), (Status::Running, None, 1));
        assert_eq!(away.row.lease_expires_at, Some(at(159_000)));
    }

    #[test]
    fn the_time_of_a_run_counts_while_its_daemon_is_away_once_it_comes_back_with_it() {
        let by = system();
        let row = running(Order { requeue_after: Some(5), ..Order::default() }, DaemonId::fresh());
        let away = overdue(&row, both(61_000), &Timing::default()).unwrap();
        assert_eq!((away.spent.ms, away.row.running_since), (59_000, Some(at(61_000))));
        let mut back = Change::of(away.row.clone());
        heard(&mut back, &by, at(99_000), at(159_000));
        assert_eq!((back.spent.ms, back.row.running_since), (38_000, Some(at(99_000))));
        back.step(Status::Completed, None, &by, at(100_000)).unwrap();
        assert_eq!((back.spent.ms, back.row.running_since), (39_000, None));
        // of a run that is handed over, lost or cancelled meanwhile nobody knows how long it ran
        let over = overdue(&away.row, both(9_000_000), &Timing::default()).unwrap();
        let lost = disowned(&away.row, &by, at(9_000_000), 0.0).unwrap();
        let ended = cancel(away.row, &by, at(9_000_000)).unwrap();
        for change in [over, lost, ended] {
            assert_eq!((change.spent.ms, change.row.running_since), (0, None), "{change:?}");
        }
    }

    #[test]
    fn a_claim_forgets_which_model_the_run_before_it_asked() {
        let mut row = running(Order::default(), DaemonId::fresh());
        row.task.results.session_model = Some("dear".into());
        let mut change = Change::of(row);
        change.step(Status::Queued, None, &system(), at(3_000)).unwrap();
        claim(&mut change, DaemonId::fresh(), &system(), at(4_000), at(64_000)).unwrap();
        assert_eq!(change.row.task.results.session_model, None);
    }

    #[test]
    fn a_paused_task_stays_paused_when_its_daemon_is_away() {
        let mut change = Change::of(running(Order::default(), DaemonId::fresh()));
        change.step(Status::Paused, None, &system(), at(3_000)).unwrap();
        assert!(overdue(&change.row, both(i64::MAX), &Timing::default()).is_none());
    }

    #[test]
    fn only_requeue_after_hands_over_and_under_a_new_epoch() {
        let order = Order { requeue_after: Some(5), ..Order::default() };
        let row = running(order, DaemonId::fresh());
        let away = overdue(&row, both(61_000), &Timing::default()).unwrap().row;
        // whoever wrote the end of the lease may have been behind by ten seconds
        assert!(overdue(&away, both(61_000 + 309_999), &Timing::default()).is_none());
        let back = overdue(&away, both(61_000 + 310_000), &Timing::default()).unwrap();
        assert_eq!(standing(&back), (Status::Queued, None, 2));
        assert_eq!(back.row.task.holding.daemon_id, None, "another daemon may take it");
    }

    #[test]
    fn f28_a_wall_clock_that_is_set_forward_lets_no_lease_run_out_and_hands_nothing_over() {
        let order = Order { requeue_after: Some(1), ..Order::default() };
        let row = running(order, DaemonId::fresh());
        let timing = Timing::default();
        let jumped = |steady| Now { wall: at(steady + 3_600_000), steady: at(steady) };
        assert!(overdue(&row, jumped(60_999), &timing).is_none());
        let away = overdue(&row, jumped(61_000), &timing).unwrap().row;
        assert!(overdue(&away, jumped(130_999), &timing).is_none());
        assert!(overdue(&away, jumped(131_000), &timing).is_some());
    }

    #[test]
    fn f28_no_hand_over_comes_before_the_former_daemon_has_ended_its_agent() {
        let timing = Timing::default();
        for minutes in [1, 2, 30, 24 * 60] {
            let order = Order { requeue_after: Some(minutes), ..Order::default() };
            let row = running(order, DaemonId::fresh());
            // the last beat was heard at 1_000 at the latest, and was sent before that
            let fenced = fence_after(&row.task, &timing).unwrap();
            let ended = 1_000 + i64::try_from(fenced).unwrap() + 29_999;
            let away = overdue(&row, both(61_000), &timing).unwrap().row;
            assert!(overdue(&away, both(ended), &timing).is_none(), "{minutes}");
        }
    }

    #[test]
    fn a_task_whose_agent_is_to_go_on_is_handed_to_nobody() {
        let order = Order { requeue_after: Some(1), ..Order::default() };
        let mut row = running(order, DaemonId::fresh());
        let words = hayward_shared::task::FollowUp { id: Default::default(), text: "on".into() };
        row.task.holding.follow_up = Some(words);
        let timing = Timing::default();
        assert_eq!(fence_after(&row.task, &timing), None);
        let away = overdue(&row, both(61_000), &timing).unwrap().row;
        assert!(overdue(&away, both(i64::MAX), &timing).is_none());
    }

    #[test]
    fn f59_a_daemon_that_is_away_for_ten_hours_keeps_its_run_and_its_late_end_is_taken() {
        let row = running(Order::default(), DaemonId::fresh());
        let timing = Timing::default();
        let mut away = overdue(&row, both(61_000), &timing).unwrap();
        assert!(overdue(&away.row, both(36_000_000), &timing).is_none());
        heard(&mut away, &system(), at(36_000_000), at(36_060_000));
        away.step(Status::Completed, None, &system(), at(36_000_001)).unwrap();
        assert_eq!(standing(&away), (Status::Completed, None, 1));
    }

    #[test]
    fn f59_a_quiet_run_on_a_live_lease_is_left_alone_however_long_it_takes() {
        let mut change = Change::of(running(Order::default(), DaemonId::fresh()));
        for beat in 1..=2_400 {
            let now = beat * 15_000;
            heard(&mut change, &system(), at(now), at(now + 60_000));
            assert!(overdue(&change.row, both(now + 14_999), &Timing::default()).is_none());
        }
        assert_eq!(standing(&change), (Status::Running, None, 1));
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
            assert!(overdue(&later.row, both(due.millis() - 1), &Timing::default()).is_none());
            assert!(overdue(&later.row, both(due.millis()), &Timing::default()).is_some());
        }
    }

    #[test]
    fn a_disowned_claim_goes_back_without_counting_an_attempt() {
        let mut change = Change::of(queued(Order::default()));
        claim(&mut change, DaemonId::fresh(), &system(), at(1), at(60_001)).unwrap();
        let back = disowned(&change.row, &system(), at(2), 0.0).unwrap();
        assert_eq!(standing(&back), (Status::Queued, None, 2));
        assert_eq!(back.row.task.holding.attempt, 0);
    }

    #[test]
    fn an_unclaimed_task_expires_after_a_day() {
        let row = queued(Order::default());
        let day = 24 * 3_600_000;
        assert!(overdue(&row, both(day - 1), &Timing::default()).is_none());
        let end = overdue(&row, both(day), &Timing::default()).unwrap();
        assert_eq!(standing(&end), (Status::Failed, Some(Reason::QueueExpired), 0));
    }

    /// What happens to a run's link, or to the relays, one after the other.
    #[derive(Clone, Debug)]
    enum Happening {
        /// A beat is on its way for so long; is it heard, and is its acknowledgement?
        Beat { delay: i64, heard: bool, acked: bool },
        /// One of the relays does something besides what all do each second.
        Relay(usize, Act),
    }

    fn happening() -> impl Strategy<Value = (i64, Happening)> {
        let beat = (0i64..40_000, any::<bool>(), any::<bool>())
            .prop_map(|(delay, heard, acked)| Happening::Beat { delay, heard, acked });
        let relay = (0usize..3, mover::act()).prop_map(|(nth, act)| Happening::Relay(nth, act));
        (1i64..40_000, prop_oneof![1 => beat, 1 => relay])
    }

    /// A sweep, by the clock as it is: the first makes the task wait, the second hands it over.
    fn swept(change: &mut Change, clock: i64, timing: &Timing) -> bool {
        for _ in 0..2 {
            let Some(due) = overdue(&change.row, both(clock), timing) else { break };
            *change = due;
        }
        change.row.task.status == Status::Queued
    }

    proptest! {
        /// Whatever is lost or late, however the daemon's clock runs within what clocks that are kept
        /// right do, and whichever relay moves the clock of leases, stands still or ends: its agent has
        /// ended when a relay may hand over. That leases begin anew when a relay takes over is left
        /// out here: it only makes them longer.
        #[test]
        fn f28_a_fenced_agent_has_ended_whenever_its_task_is_handed_over(
            minutes in 1u32..12,
            drift in -0.0005f64..0.0005,
            relays in 1usize..4,
            happenings in prop::collection::vec(happening(), 0..40),
        ) {
            let timing = Timing::default();
            prop_assert_eq!(timing.most_ms(), mover::MOST);
            let order = Order { requeue_after: Some(minutes), ..Order::default() };
            let mut change = Change::of(running(order, DaemonId::fresh()));
            let fenced = fence_after(&change.row.task, &timing).unwrap();
            let fenced = f64::from(u32::try_from(fenced).unwrap());
            let own = |relay: i64| relay as f64 * (1.0 + drift);
            let mut world = World::of(relays);
            // what a relay that reads the clock writes
            let lease_end = |clock: i64| at(clock + timing.step_ms() + timing.lease_ms);
            change.row.lease_expires_at = Some(lease_end(0));
            // when the last beat that was acknowledged was sent: the first, before the claim
            let mut sent = 0;
            let ended = |sent| own(sent) + fenced + 29_000.0 * (1.0 - drift);
            for (gap, what) in happenings {
                world.tick_until(world.now + gap);
                let began = world.now;
                if let Happening::Beat { delay, .. } = what {
                    world.tick_until(began + delay);
                }
                if swept(&mut change, world.clock, &timing) {
                    prop_assert!(ended(sent) <= own(world.now), "at {}, {sent}", world.now);
                    return Ok(());
                }
                match what {
                    Happening::Beat { heard: true, acked, .. } => {
                        heard(&mut change, &system(), at(world.now), lease_end(world.clock));
                        let lives = own(began) < own(sent) + fenced;
                        sent = if acked && lives { began } else { sent };
                    }
                    Happening::Beat { .. } => {}
                    Happening::Relay(nth, act) => world.act(nth, act),
                }
            }
            // and nothing more is heard
            while !swept(&mut change, world.clock, &timing) {
                world.tick_until(world.now + 1_000);
                prop_assert!(world.now < 8_000_000, "it is never handed over");
            }
            prop_assert!(ended(sent) <= own(world.now), "at {}, {sent}", world.now);
        }
    }
}
