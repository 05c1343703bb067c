//! Which job is next: pure.

use hayward_shared::id::JobId;
use hayward_shared::job::Job;
use hayward_shared::task::Status;
use hayward_shared::time::Timestamp;
use std::collections::HashMap;

/// The job to be begun now, if any: of those that are due the one that is due the longest, of a kind
/// that `has_room` for one more beside so many that run.
pub fn next<'a>(
    jobs: impl Iterator<Item = &'a Job> + Clone,
    now: Timestamp,
    has_room: impl Fn(&str, usize) -> bool,
) -> Option<JobId> {
    let mut running: HashMap<&str, usize> = HashMap::new();
    for job in jobs.clone().filter(|job| job.status == Status::Running) {
        *running.entry(&job.kind).or_default() += 1;
    }
    let room = |job: &&Job| has_room(&job.kind, running.get(&*job.kind).copied().unwrap_or(0));
    jobs.filter_map(|job| Some((due(job)?, job)))
        .filter(|(due, job)| *due <= now && room(job))
        .min_by_key(|(due, job)| (*due, job.id))
        .map(|(_, job)| job.id)
}

/// When the next of those that wait for their time is due.
pub fn wakes<'a>(jobs: impl Iterator<Item = &'a Job>) -> Option<Timestamp> {
    jobs.filter_map(|job| job.next_retry_at).min()
}

fn due(job: &Job) -> Option<Timestamp> {
    match job.status {
        Status::Queued => Some(job.updated_at),
        Status::Deferred => Some(job.next_retry_at.unwrap_or(job.updated_at)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::{Event, fresh, on};
    use super::*;
    use hayward_shared::job::JobOrder;
    use hayward_shared::run::Failure;
    use hayward_shared::task::Reason;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn job(kind: &str, made: i64) -> Job {
        fresh(JobId::fresh(), kind, String::new(), None, 4, at(made))
    }

    fn deferred(kind: &str, made: i64) -> Job {
        let mut job = job(kind, made);
        on(&mut job, Event::Begins, at(made), 0.0).unwrap();
        let away = Failure::new(Reason::RemoteUnreachable, "away");
        on(&mut job, Event::Failed(away), at(made), 1.0).unwrap();
        job
    }

    #[test]
    fn the_one_that_is_due_the_longest_is_next_if_its_kind_has_room() {
        let mut jobs = [deferred("fetch", 100), job("fetch", 300), job("completion", 700)];
        let next = |jobs: &[Job], now| {
            let found = super::next(jobs.iter(), at(now), |kind, n| kind != "fetch" || n < 1);
            jobs.iter().position(|job| Some(job.id) == found)
        };
        assert_eq!(next(&jobs, 350), Some(1));
        assert_eq!(next(&jobs, 601), Some(1));
        on(&mut jobs[1], Event::Begins, at(350), 0.0).unwrap();
        // the other fetch is due, and waits for room
        assert_eq!(next(&jobs, 650), None);
        assert_eq!(next(&jobs, 700), Some(2));
        on(&mut jobs[1], Event::Ordered(JobOrder::Pause), at(710), 0.0).unwrap();
        assert_eq!(next(&jobs, 720), Some(0));
    }

    #[test]
    fn it_wakes_for_the_first_that_waits_for_its_time() {
        let mut jobs = [deferred("a", 100), deferred("b", 50), job("c", 1)];
        assert_eq!(wakes(jobs.iter()), Some(at(550)));
        on(&mut jobs[1], Event::Ordered(JobOrder::Cancel), at(60), 0.0).unwrap();
        assert_eq!(wakes(jobs.iter()), Some(at(600)));
    }
}
