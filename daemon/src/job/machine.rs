//! What becomes of a job: pure.

use hayward_shared::id::{JobId, TaskId};
use hayward_shared::job::{Job, JobOrder, JobPhase, JobTurn, MOST_TURNS, job_delay_ms, may_pass};
use hayward_shared::run::Failure;
use hayward_shared::task::{Reason, Status};
use hayward_shared::time::Timestamp;

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A try begins.
    Begins,
    /// It is that far, in hundredths, and does this.
    IsAt(u8, String),
    /// The try did it; what came of it, for people.
    Done(String),
    /// The try failed.
    Failed(Failure),
    /// The daemon that had it under way is gone.
    Restarted,
    /// A person wants something of it.
    Ordered(JobOrder),
}

/// A turn that a job cannot take as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {from} cannot be {wanted}")]
pub struct IllegalTurn {
    /// How it stands.
    pub from: Status,
    /// What it was to be.
    pub wanted: &'static str,
}

/// A job that waits for its first try.
#[must_use]
pub fn fresh(
    id: JobId,
    kind: &str,
    name: String,
    task_id: Option<TaskId>,
    max_attempts: u32,
    now: Timestamp,
) -> Job {
    let mut job = Job {
        id,
        kind: kind.to_owned(),
        name,
        task_id,
        status: Status::Queued,
        progress: Some(0),
        detail: None,
        attempt: 0,
        max_attempts,
        next_retry_at: None,
        failure: None,
        history: Vec::new(),
        created_at: now,
        updated_at: now,
    };
    turn(&mut job, JobPhase::Created, None, now);
    job
}

/// Lets it happen. `dice` in 0..1 says when the next try is due. True when it was a turn, which is
/// told; how far a try is is none.
///
/// # Errors
/// [`IllegalTurn`]; nothing changed then.
pub fn on(job: &mut Job, event: Event, now: Timestamp, dice: f64) -> Result<bool, IllegalTurn> {
    use Status::{Completed, Deferred, Failed, Running};
    let illegal = |wanted| Err(IllegalTurn { from: job.status, wanted });
    match (event, job.status) {
        (Event::Begins, Status::Queued | Deferred) => {
            job.attempt += 1;
            job.progress = Some(0);
            job.detail = None;
            go(job, Running, JobPhase::Running, None, now);
        }
        (Event::Begins, _) => return illegal("begun"),
        (Event::IsAt(progress, detail), Running) => {
            job.progress = Some(progress.min(100).max(job.progress.unwrap_or(0)));
            job.detail = Some(detail);
            job.updated_at = now;
            return Ok(false);
        }
        (Event::Done(detail), Running) => {
            job.progress = Some(100);
            job.detail = Some(detail.clone());
            job.failure = None;
            go(job, Completed, JobPhase::Completed, Some(detail), now);
        }
        (Event::Failed(failure), Running) => {
            let detail = Some(failure.message.clone());
            let again = may_pass(failure.reason) && job.attempt < job.max_attempts;
            job.failure = Some(failure);
            if again {
                go(job, Deferred, JobPhase::Deferred, detail, now);
                job.next_retry_at = Some(now.plus_millis(job_delay_ms(job.attempt, dice)));
            } else {
                go(job, Failed, JobPhase::Failed, detail, now);
            }
        }
        (Event::IsAt(..) | Event::Done(_) | Event::Failed(_), _) => return illegal("under way"),
        (Event::Restarted, Running) if job.attempt < job.max_attempts => {
            go(job, Status::Queued, JobPhase::Restarted, None, now);
        }
        (Event::Restarted, Running) => {
            let text = format!("the daemon ended in each of its {} tries", job.attempt);
            job.failure = Some(Failure::new(Reason::Internal, text.clone()));
            go(job, Failed, JobPhase::Failed, Some(text), now);
        }
        (Event::Restarted, _) => return Ok(false),
        (Event::Ordered(order), _) => obey(job, order, now)?,
    }
    Ok(true)
}

fn obey(job: &mut Job, order: JobOrder, now: Timestamp) -> Result<(), IllegalTurn> {
    use Status::{Cancelled, Deferred, Failed, Paused, Queued, Running};
    match (order, job.status) {
        (JobOrder::Cancel, Queued | Running | Deferred | Paused) => {
            go(job, Cancelled, JobPhase::Cancelled, None, now);
        }
        (JobOrder::Pause, Queued | Running | Deferred) => {
            if job.status == Running {
                job.attempt -= 1;
            }
            go(job, Paused, JobPhase::Paused, None, now);
        }
        (JobOrder::Resume, Paused) => go(job, Queued, JobPhase::Resumed, None, now),
        (JobOrder::Retry, Deferred) => go(job, Queued, JobPhase::Retried, None, now),
        (JobOrder::Retry, Failed | Cancelled) => {
            job.attempt = 0;
            job.progress = Some(0);
            go(job, Queued, JobPhase::Retried, None, now);
        }
        (JobOrder::Cancel, from) => return Err(IllegalTurn { from, wanted: "cancelled" }),
        (JobOrder::Pause, from) => return Err(IllegalTurn { from, wanted: "paused" }),
        (JobOrder::Resume, from) => return Err(IllegalTurn { from, wanted: "resumed" }),
        (JobOrder::Retry, from) => return Err(IllegalTurn { from, wanted: "tried again" }),
    }
    Ok(())
}

fn go(job: &mut Job, to: Status, phase: JobPhase, detail: Option<String>, now: Timestamp) {
    job.status = to;
    job.next_retry_at = None;
    turn(job, phase, detail, now);
}

fn turn(job: &mut Job, phase: JobPhase, detail: Option<String>, now: Timestamp) {
    job.updated_at = now;
    if job.history.len() >= MOST_TURNS {
        job.history.remove(1);
    }
    let (status, attempt) = (job.status, job.attempt);
    job.history.push(JobTurn { at: now, phase, status, attempt, detail });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    fn job() -> Job {
        fresh(JobId::fresh(), "fetch", "it".to_owned(), None, 3, now())
    }

    fn away() -> Event {
        Event::Failed(Failure::new(Reason::RemoteUnreachable, "away"))
    }

    fn refused() -> Event {
        Event::Failed(Failure::new(Reason::PushFailed, "no"))
    }

    fn take(job: &mut Job, event: Event) -> Result<bool, IllegalTurn> {
        on(job, event, now(), 0.5)
    }

    #[test]
    fn what_may_pass_is_tried_again_later_and_later_and_then_lies() {
        let mut job = job();
        for (attempt, delay) in [(1, 250), (2, 500)] {
            take(&mut job, Event::Begins).unwrap();
            assert_eq!(job.attempt, attempt);
            take(&mut job, away()).unwrap();
            assert_eq!(job.status, Status::Deferred);
            assert_eq!(job.next_retry_at, Some(now().plus_millis(delay)));
        }
        take(&mut job, Event::Begins).unwrap();
        take(&mut job, away()).unwrap();
        assert_eq!((job.status, job.next_retry_at), (Status::Failed, None));
        assert_eq!(job.failure.as_ref().unwrap().message, "away");
        take(&mut job, Event::Ordered(JobOrder::Retry)).unwrap();
        assert_eq!((job.status, job.attempt), (Status::Queued, 0));
        take(&mut job, Event::Begins).unwrap();
        take(&mut job, Event::Done("fetched".into())).unwrap();
        assert_eq!((job.status, job.progress, job.failure), (Status::Completed, Some(100), None));
    }

    #[test]
    fn what_another_try_would_not_change_is_not_tried_again() {
        let mut job = job();
        take(&mut job, Event::Begins).unwrap();
        take(&mut job, refused()).unwrap();
        assert_eq!((job.status, job.attempt), (Status::Failed, 1));
    }

    #[test]
    fn a_cancelled_job_cannot_complete_and_a_completed_one_is_left_alone() {
        let mut job = job();
        take(&mut job, Event::Begins).unwrap();
        take(&mut job, Event::Ordered(JobOrder::Cancel)).unwrap();
        let before = job.clone();
        take(&mut job, Event::Done("late".into())).unwrap_err();
        take(&mut job, away()).unwrap_err();
        assert_eq!(job, before);
        let mut done = self::job();
        take(&mut done, Event::Begins).unwrap();
        take(&mut done, Event::Done(String::new())).unwrap();
        let before = done.clone();
        for order in [JobOrder::Cancel, JobOrder::Pause, JobOrder::Resume, JobOrder::Retry] {
            let refused = take(&mut done, Event::Ordered(order)).unwrap_err();
            assert_eq!(refused.from, Status::Completed);
        }
        assert_eq!(done, before);
    }

    #[test]
    fn a_try_that_a_pause_broke_off_does_not_count_and_one_that_took_the_daemon_along_does() {
        let mut job = job();
        take(&mut job, Event::Begins).unwrap();
        take(&mut job, Event::Ordered(JobOrder::Pause)).unwrap();
        assert_eq!((job.status, job.attempt), (Status::Paused, 0));
        take(&mut job, Event::Begins).unwrap_err();
        take(&mut job, Event::Ordered(JobOrder::Resume)).unwrap();
        for attempt in 1..=2 {
            take(&mut job, Event::Begins).unwrap();
            take(&mut job, Event::Restarted).unwrap();
            assert_eq!((job.status, job.attempt), (Status::Queued, attempt));
        }
        take(&mut job, Event::Begins).unwrap();
        take(&mut job, Event::Restarted).unwrap();
        assert_eq!(job.status, Status::Failed);
    }

    #[test]
    fn how_far_it_is_drives_no_turn_out_of_its_history() {
        let mut job = job();
        take(&mut job, Event::Begins).unwrap();
        for n in 0..200u8 {
            assert!(!take(&mut job, Event::IsAt(n, format!("at {n}"))).unwrap());
        }
        assert_eq!((job.progress, job.history.len()), (Some(100), 2));
        take(&mut job, Event::IsAt(7, "back".into())).unwrap();
        assert_eq!(job.progress, Some(100));
    }

    fn anything() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Begins),
            (0..200u8).prop_map(|at| Event::IsAt(at, "at".into())),
            Just(Event::Done("done".into())),
            Just(away()),
            Just(refused()),
            Just(Event::Restarted),
            prop::sample::select(vec![
                JobOrder::Cancel,
                JobOrder::Pause,
                JobOrder::Resume,
                JobOrder::Retry
            ])
            .prop_map(Event::Ordered),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_job_stays_within_its_rules(
            events in prop::collection::vec(anything(), 0..300), dice in 0.0f64..1.0,
        ) {
            let mut job = job();
            for event in events {
                let before = job.clone();
                if on(&mut job, event.clone(), now(), dice).is_err() {
                    prop_assert_eq!(&job, &before);
                }
                prop_assert!(job.attempt <= job.max_attempts, "{:?}", event);
                prop_assert_eq!(job.next_retry_at.is_some(), job.status == Status::Deferred);
                prop_assert!(job.history.len() <= MOST_TURNS);
                prop_assert_eq!(job.history[0].phase, JobPhase::Created);
                prop_assert_eq!(job.history.last().unwrap().status, job.status);
                if before.status == Status::Completed {
                    prop_assert_eq!(job.status, Status::Completed);
                }
            }
        }
    }
}
