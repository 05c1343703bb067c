use super::{Kind, Order, Progress, Ready, Try, Wanted, prepare};
use crate::journal::Journal;
use crate::kept::Kept;
use hayward_shared::fault::Code;
use hayward_shared::id::RunId;
use hayward_shared::job::{Job, JobOrder, JobPhase};
use hayward_shared::run::Failure;
use hayward_shared::task::{Reason, Status};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The longest that any wish here takes; never reached.
const LONG: Duration = Duration::from_secs(30);

/// A daemon's jobs, whose tries do as the tests say.
struct Bench {
    jobs: super::Jobs,
    kept: Option<Kept>,
    tries: Arc<AtomicUsize>,
    /// A try that is told `wait` ends when it gets one of these.
    leave: Arc<Semaphore>,
    /// Jobs of which their kind heard that they were cancelled.
    dropped: Arc<AtomicUsize>,
}

impl Bench {
    async fn open(dir: &Path) -> Self {
        let journal = Journal::open(&dir.join("journal.db")).await.unwrap();
        let (jobs, ready) = prepare(journal);
        let (tries, leave) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let dropped = Arc::new(AtomicUsize::new(0));
        let kept = Some(begin(ready, &tries, &leave, &dropped).await);
        Self { jobs, kept, tries, leave, dropped }
    }

    fn tries(&self) -> usize {
        self.tries.load(Ordering::SeqCst)
    }

    async fn only(&self) -> Job {
        let jobs = self.jobs.list().await.unwrap().jobs;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.into_iter().next().unwrap()
    }

    async fn until(&self, status: Status) -> Job {
        let found = async {
            loop {
                let jobs = self.jobs.list().await.unwrap().jobs;
                if let Some(job) = jobs.into_iter().find(|job| job.status == status) {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LONG, found).await.unwrap()
    }
}

async fn begin(
    ready: Ready,
    tries: &Arc<AtomicUsize>,
    leave: &Arc<Semaphore>,
    dropped: &Arc<AtomicUsize>,
) -> Kept {
    let (tries, leave) = (tries.clone(), leave.clone());
    let attempt = move |wanted: Wanted, progress: Progress| -> Try {
        let (tries, leave) = (tries.clone(), leave.clone());
        Box::pin(async move {
            let n = tries.fetch_add(1, Ordering::SeqCst) + 1;
            match wanted.work.as_str().unwrap_or_default() {
                _ if wanted.by_person => Ok("done anew".to_owned()),
                "wait" => {
                    progress.is_at(50, "waiting");
                    leave.acquire().await.unwrap().forget();
                    Ok("left".to_owned())
                }
                "away twice" if n <= 2 => Err(Failure::new(Reason::RemoteUnreachable, "away")),
                "away" => Err(Failure::new(Reason::RemoteUnreachable, "away")),
                "refused" => Err(Failure::new(Reason::PushFailed, "no")),
                "broken" => panic!("a try that panics"),
                _ => Ok("done".to_owned()),
            }
        })
    };
    let dropped = dropped.clone();
    let kind = Kind {
        name: "test",
        at_once: 2,
        max_attempts: 4,
        attempt: Arc::new(attempt),
        cancelled: Arc::new(move |_| {
            let dropped = dropped.clone();
            Box::pin(async move {
                dropped.fetch_add(1, Ordering::SeqCst);
            })
        }),
    };
    ready.begin(vec![kind]).await.unwrap()
}

fn order(work: &str) -> Order {
    Order {
        kind: "test",
        subject: work.to_owned(),
        name: work.to_owned(),
        run: None,
        work: Value::from(work),
    }
}

fn asked(bench: &Bench, work: &str) -> tokio::task::JoinHandle<Result<(), Failure>> {
    let (jobs, order) = (bench.jobs.clone(), order(work));
    tokio::spawn(async move { jobs.done(order).await })
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path()).await;
    timeout(LONG, bench.jobs.done(order("away twice"))).await.unwrap().unwrap();
    let job = bench.only().await;
    assert_eq!((bench.tries(), job.attempt, job.status), (3, 3, Status::Completed));
    let phases: Vec<_> = job.history.iter().map(|turn| turn.phase).collect();
    use JobPhase::{Completed, Created, Deferred, Running};
    assert_eq!(phases, [Created, Running, Deferred, Running, Deferred, Running, Completed]);
    let failure = timeout(LONG, bench.jobs.done(order("refused"))).await.unwrap().unwrap_err();
    assert_eq!((failure.reason, bench.tries()), (Reason::PushFailed, 4));
    let failure = timeout(LONG, bench.jobs.done(order("broken"))).await.unwrap().unwrap_err();
    assert_eq!((failure.reason, bench.tries()), (Reason::Internal, 5));
    let failed = bench.until(Status::Failed).await;
    // a person has it tried again, and nobody waits: it is done as things stand now
    assert_eq!(bench.jobs.order(failed.id, JobOrder::Retry).await.unwrap().status, Status::Queued);
    let again = async {
        loop {
            let jobs = bench.jobs.list().await.unwrap().jobs;
            if let Some(job) = jobs.into_iter().find(|job| job.id == failed.id && job.is_over()) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let again = timeout(LONG, again).await.unwrap();
    assert_eq!((again.status, again.detail.as_deref()), (Status::Completed, Some("done anew")));
}

#[tokio::test]
async fn two_at_once_are_tried_and_the_third_waits_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path()).await;
    let waiting: Vec<_> = (0..3).map(|_| asked(&bench, "wait")).collect();
    let running = async {
        while bench
            .jobs
            .list()
            .await
            .unwrap()
            .jobs
            .iter()
            .filter(|job| job.progress == Some(50))
            .count()
            < 2
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, running).await.unwrap();
    let queued = bench.until(Status::Queued).await;
    assert_eq!((bench.tries(), queued.attempt), (2, 0));
    bench.leave.add_permits(3);
    for one in waiting {
        timeout(LONG, one).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(bench.tries(), 3);
}

#[tokio::test]
async fn a_cancelled_try_is_broken_off_and_its_end_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path()).await;
    let waiting = asked(&bench, "wait");
    let job = bench.until(Status::Running).await;
    bench.jobs.order(job.id, JobOrder::Cancel).await.unwrap();
    let failure = timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(failure.reason, Reason::JobCancelled);
    bench.leave.add_permits(1);
    timeout(LONG, bench.jobs.done(order("fine"))).await.unwrap().unwrap();
    assert_eq!(bench.until(Status::Cancelled).await.id, job.id);
    until_dropped(&bench, 1).await;
    let refused = bench.jobs.order(job.id, JobOrder::Pause).await.unwrap_err();
    assert_eq!(refused.code, Code::IllegalTransition);
}

#[tokio::test]
async fn a_paused_job_goes_on_when_it_may_and_its_owner_hears_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path()).await;
    let waiting = asked(&bench, "wait");
    let job = bench.until(Status::Running).await;
    bench.jobs.order(job.id, JobOrder::Pause).await.unwrap();
    bench.leave.add_permits(1);
    let job = bench.until(Status::Paused).await;
    assert_eq!((job.attempt, waiting.is_finished()), (0, false));
    bench.jobs.order(job.id, JobOrder::Resume).await.unwrap();
    timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(bench.only().await.attempt, 1);
}

#[tokio::test]
async fn after_a_restart_its_owner_finds_it_with_its_tries_and_the_time_of_the_next() {
    for _ in 0..20 {
        if restarted_before_the_last_try().await {
            return;
        }
    }
    panic!("twenty times the last try began before the restart");
}

/// False when the pause before the last try, which may last no time at all, was over before the
/// restart.
async fn restarted_before_the_last_try() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path()).await;
    let waiting = asked(&bench, "away");
    let pause = async {
        loop {
            let job = bench.jobs.list().await.unwrap().jobs.into_iter().next();
            let is_it = |job: &Job| job.attempt == 3 && job.status == Status::Deferred;
            if let Some(job) = job.filter(|job| job.is_over() || is_it(job)) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let before = timeout(LONG, pause).await.unwrap();
    drop(bench.kept.take());
    waiting.abort();
    let again = Bench::open(dir.path()).await;
    let kept = again.only().await;
    if kept.attempt != 3 {
        assert_eq!((kept.id, kept.attempt), (before.id, 4));
        return false;
    }
    assert_eq!(kept.id, before.id);
    assert_eq!(kept.next_retry_at, before.next_retry_at);
    // nobody asked yet
    assert_eq!(again.tries(), 0);
    let failure = timeout(LONG, again.jobs.done(order("away"))).await.unwrap().unwrap_err();
    assert_eq!((failure.reason, again.tries()), (Reason::RemoteUnreachable, 1));
    let job = again.only().await;
    assert_eq!((job.id, job.attempt, job.status), (before.id, 4, Status::Failed));
    let last = job.history.last().unwrap().at;
    assert!(last >= before.next_retry_at.unwrap(), "it was tried before its time: {job:?}");
    true
}

#[tokio::test]
async fn what_nobody_asks_for_any_more_is_called_off_and_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::open(dir.path()).await;
    let waiting = asked(&bench, "wait");
    let before = bench.until(Status::Running).await;
    drop(bench.kept.take());
    waiting.abort();
    let again = Bench::open(dir.path()).await;
    again.leave.add_permits(1);
    let over = again.until(Status::Cancelled).await;
    assert_eq!(over.history.iter().rev().nth(1).unwrap().phase, JobPhase::Restarted);
    assert_eq!((over.id, over.attempt, again.tries()), (before.id, 1, 0));
    until_dropped(&again, 1).await;
}

#[tokio::test]
async fn one_whose_owner_went_away_while_it_waited_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path()).await;
    let waiting = asked(&bench, "wait");
    let job = bench.until(Status::Running).await;
    bench.jobs.order(job.id, JobOrder::Pause).await.unwrap();
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    let run = RunId::fresh();
    bench.jobs.call_off(run).await;
    assert_eq!(bench.only().await.status, Status::Paused);
    bench.leave.add_permits(1);
    bench.jobs.order(job.id, JobOrder::Resume).await.unwrap();
    // whoever lets it go on is asked for it
    assert_eq!(bench.until(Status::Completed).await.detail.as_deref(), Some("done anew"));
}

async fn until_dropped(bench: &Bench, wanted: usize) {
    let heard = async {
        while bench.dropped.load(Ordering::SeqCst) < wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, heard).await.unwrap();
}
