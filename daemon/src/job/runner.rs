//! The owner of all jobs: writes each turn down, then acts on it.

use super::machine::{self, Event, IllegalTurn};
use super::{Ask, Ended, Jobs, Kind, Listed, Order, Progress, Wanted, queue};
use crate::clock;
use crate::journal::{JobRow, Journal, JournalError, MOST_ENDED_JOBS};
use crate::kept::Kept;
use crate::spans;
use hayward_shared::event::{Channel, Kind as EventKind, MAX_SUMMARY, bounded};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::JobId;
use hayward_shared::job::{Job, JobOrder};
use hayward_shared::protocol::{FromDaemon, TaskEvent};
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{Reason, Status};
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument;

/// Orders and wishes that wait for the owner, which only waits for the journal.
const ASKS: usize = 256;

/// Words about how far tries are; more are dropped.
const WORDS: usize = 64;

/// A journal that cannot be written (its disk is full) is tried again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// What an earlier daemon left is called off after this long, if nobody has asked for it. Whoever
/// needs it asks as soon as the daemon is up.
const GRACE: Duration = Duration::from_secs(if cfg!(test) { 10 } else { 60 });

/// The most bytes of jobs that one answer holds: a text frame takes a mebibyte.
const MOST_BYTES: usize = 768 * 1024;

/// The clock is looked at this often at least: it may be set while something waits for its time.
const LOOK: Duration = Duration::from_secs(30);

/// A job with all that is needed to go on with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    job: Job,
    subject: String,
    #[serde(default)]
    run: Option<RunKey>,
    work: Value,
    /// A person had it tried again.
    #[serde(default)]
    wanted: bool,
}

/// What the owner begins with.
#[derive(Debug)]
pub struct Ready {
    journal: Journal,
    asked: mpsc::Receiver<Ask>,
}

/// The handle, and what its owner begins with. What is asked for before it begins waits.
#[must_use]
pub fn prepare(journal: Journal) -> (Jobs, Ready) {
    let (asks, asked) = mpsc::channel(ASKS);
    (Jobs { asks }, Ready { journal, asked })
}

impl Ready {
    /// Begins to work through what is there, and what is asked for. A job of a kind that is not
    /// among these is kept and left alone.
    ///
    /// # Errors
    /// [`JournalError`] when the jobs cannot be read.
    pub async fn begin(self, kinds: Vec<Kind>) -> Result<Kept, JournalError> {
        let mut rows = Vec::new();
        for row in self.journal.jobs::<Value>().await? {
            match serde_json::from_value::<Row>(row) {
                Ok(row) => rows.push(row),
                Err(error) => tracing::error!(%error, "a job of another version is left alone"),
            }
        }
        let (say, said) = mpsc::channel(WORDS);
        let is_left = |row: &&Row| !row.job.is_over() && !row.wanted;
        let runner = Runner {
            journal: self.journal,
            kinds: kinds.into_iter().map(|kind| (kind.name, kind)).collect(),
            left: rows.iter().filter(is_left).map(|row| row.job.id).collect(),
            rows: rows.into_iter().map(|row| (row.job.id, row)).collect(),
            waiting: HashMap::new(),
            tries: JoinSet::new(),
            trying: HashMap::new(),
            say,
        };
        Ok(Kept::of(tokio::spawn(runner.run(self.asked, said))))
    }
}

struct Runner {
    journal: Journal,
    kinds: HashMap<&'static str, Kind>,
    /// All jobs, those that are over as well.
    rows: HashMap<JobId, Row>,
    /// What an earlier daemon left and nobody has asked for.
    left: HashSet<JobId>,
    waiting: HashMap<JobId, Vec<oneshot::Sender<Ended>>>,
    tries: JoinSet<Result<String, Failure>>,
    trying: HashMap<Id, (JobId, AbortHandle)>,
    say: mpsc::Sender<(JobId, u8, String)>,
}

/// What woke the owner.
enum Woken {
    Asked(Option<Ask>),
    Said(JobId, u8, String),
    Tried(Result<(Id, Result<String, Failure>), JoinError>),
    Time,
}

impl Runner {
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<Ask>,
        mut said: mpsc::Receiver<(JobId, u8, String)>,
    ) {
        let broken_off = self.rows.values().filter(|row| row.job.status == Status::Running);
        for id in broken_off.map(|row| row.job.id).collect::<Vec<_>>() {
            if let Err(illegal) = self.step(id, Event::Restarted).await {
                tracing::error!(job = %id, %illegal, "a job stays as it was left");
            }
        }
        let grace = Instant::now() + GRACE;
        loop {
            if Instant::now() >= grace {
                self.left.clear();
            }
            self.begin_due().await;
            let wake = self.wakes(grace);
            let woken = tokio::select! {
                ask = asked.recv() => Woken::Asked(ask),
                Some((id, at, doing)) = said.recv() => Woken::Said(id, at, doing),
                Some(tried) = self.tries.join_next_with_id() => Woken::Tried(tried),
                () = sleep_until(wake) => Woken::Time,
            };
            match woken {
                Woken::Asked(None) => return,
                Woken::Asked(Some(ask)) => self.serve(ask).await,
                Woken::Said(id, at, doing) => {
                    if let Some(row) = self.rows.get_mut(&id) {
                        let at = Event::IsAt(at, doing);
                        // what comes after the end of its try is not heard
                        machine::on(&mut row.job, at, clock::now(), 0.0).unwrap_or_default();
                    }
                }
                Woken::Tried(tried) => self.tried(tried).await,
                Woken::Time => {}
            }
        }
    }

    fn wakes(&self, grace: Instant) -> Instant {
        let now = Instant::now();
        let waiting = self.rows.values().filter(|row| !self.left.contains(&row.job.id));
        let due = queue::wakes(waiting.map(|row| &row.job));
        let until = due.map(|due| due.since(clock::now()).max(0).unsigned_abs());
        let due = until.map_or(now + LOOK, |ms| now + Duration::from_millis(ms).min(LOOK));
        if self.left.is_empty() { due } else { due.min(grace) }
    }

    async fn begin_due(&mut self) {
        loop {
            let jobs = self.rows.values().filter(|row| !self.left.contains(&row.job.id));
            let has_room = |kind: &str, running| {
                self.kinds.get(kind).is_some_and(|kind| running < kind.at_once)
            };
            let next = queue::next(jobs.map(|row| &row.job), clock::now(), has_room);
            let Some(id) = next else { return };
            let is_waited = self.is_waited(id);
            let is_wanted = self.rows.get(&id).is_some_and(|row| row.wanted);
            let event = match is_waited || is_wanted {
                true => Event::Begins,
                false => Event::Ordered(JobOrder::Cancel),
            };
            if self.step(id, event).await.is_err() {
                return;
            }
            let Some(row) = self.rows.get(&id).filter(|_| is_waited || is_wanted) else { continue };
            let Some(kind) = self.kinds.get(&*row.job.kind) else { return };
            let progress = Progress { id, said: self.say.clone() };
            let wanted = Wanted { work: row.work.clone(), by_person: !is_waited };
            let of = (row.job.task_id, row.run.map(|run| run.run_id));
            let span = spans::job(id, &row.job.kind, of);
            let handle = self.tries.spawn((kind.attempt)(wanted, progress).instrument(span));
            self.trying.insert(handle.id(), (id, handle));
        }
    }

    fn is_waited(&self, id: JobId) -> bool {
        let waiting = self.waiting.get(&id);
        waiting.is_some_and(|all| all.iter().any(|one| !one.is_closed()))
    }

    async fn serve(&mut self, ask: Ask) {
        match ask {
            Ask::Do(order, answer) => {
                let id = match self.find(&order) {
                    Some(id) => id,
                    None => self.make(order).await,
                };
                self.waiting.entry(id).or_default().push(answer);
            }
            // whoever asked may be gone
            Ask::List(answer) => drop(answer.send(self.list())),
            Ask::CallOff(run) => {
                let of_run =
                    |row: &&Row| !row.job.is_over() && row.run.is_some_and(|key| key.run_id == run);
                let rows = self.rows.values().filter(of_run);
                for id in rows.map(|row| row.job.id).collect::<Vec<_>>() {
                    if let Err(fault) = self.order(id, JobOrder::Cancel).await {
                        tracing::warn!(job = %id, %fault, "a job is not called off");
                    }
                }
            }
            Ask::Order(id, order, answer) => drop(answer.send(self.order(id, order).await)),
        }
    }

    /// As many as an answer holds.
    fn list(&self) -> Listed {
        let mut all: Vec<&Job> = self.rows.values().map(|row| &row.job).collect();
        all.sort_by_key(|job| (job.is_over(), std::cmp::Reverse(job.id)));
        let mut room = MOST_BYTES;
        let fits = |job: &&&Job| {
            let bytes = serde_json::to_vec(job).map_or(usize::MAX, |bytes| bytes.len());
            let left = room.checked_sub(bytes);
            room = left.unwrap_or_default();
            left.is_some()
        };
        let jobs: Vec<Job> = all.iter().take_while(fits).map(|job| (*job).clone()).collect();
        Listed { truncated: jobs.len() < all.len(), jobs }
    }

    /// What an earlier daemon left of it. It is done as it is wanted now.
    fn find(&mut self, order: &Order) -> Option<JobId> {
        let is_it = |row: &&mut Row| {
            row.job.kind == order.kind
                && row.subject == order.subject
                && self.left.contains(&row.job.id)
        };
        let row = self.rows.values_mut().find(is_it)?;
        (row.work, row.run) = (order.work.clone(), order.run);
        self.left.remove(&row.job.id);
        Some(row.job.id)
    }

    async fn make(&mut self, order: Order) -> JobId {
        let Order { kind, subject, name, run, work } = order;
        let most = self.kinds.get(kind).map_or(1, |kind| kind.max_attempts);
        let (id, task) = (JobId::fresh(), run.map(|run| run.task_id));
        let job = machine::fresh(id, kind, name, task, most, clock::now());
        self.rows.insert(id, Row { job, subject, run, work, wanted: false });
        self.keep(id).await;
        id
    }

    async fn order(&mut self, id: JobId, order: JobOrder) -> Result<Job, Fault> {
        let is_waited = self.is_waited(id);
        let Some(row) = self.rows.get_mut(&id) else { return Err(Fault::not_found("job", id)) };
        let goes_on = matches!(order, JobOrder::Retry | JobOrder::Resume);
        let before = std::mem::replace(&mut row.wanted, goes_on && !is_waited);
        let turned = self.step(id, Event::Ordered(order)).await;
        if let Err(illegal) = turned {
            if let Some(row) = self.rows.get_mut(&id) {
                row.wanted = before;
            }
            return Err(Fault::new(Code::IllegalTransition, illegal.to_string()));
        }
        self.left.remove(&id);
        if matches!(order, JobOrder::Cancel | JobOrder::Pause) {
            self.trying.retain(|_, (of, handle)| {
                if *of == id {
                    handle.abort();
                }
                *of != id
            });
        }
        let row = self.rows.get(&id).ok_or_else(|| Fault::not_found("job", id))?;
        Ok(row.job.clone())
    }

    async fn tried(&mut self, tried: Result<(Id, Result<String, Failure>), JoinError>) {
        let (handle, done) = match tried {
            Ok((handle, done)) => (handle, done),
            Err(broken) => {
                let text = format!("a try broke: {broken}");
                (broken.id(), Err(Failure::new(Reason::Internal, text)))
            }
        };
        // one that was broken off on purpose is not waited for
        let Some((id, _)) = self.trying.remove(&handle) else { return };
        let event = match done {
            Ok(detail) => Event::Done(bounded(&detail, MAX_SUMMARY).0.to_owned()),
            Err(failure) => Event::Failed(Failure {
                message: bounded(&failure.message, MAX_SUMMARY).0.to_owned(),
                ..failure
            }),
        };
        if let Err(illegal) = self.step(id, event).await {
            tracing::error!(job = %id, %illegal, "what came of a try is lost");
        }
    }

    /// Lets something happen to a job: on disk before anything follows from it.
    async fn step(&mut self, id: JobId, event: Event) -> Result<(), IllegalTurn> {
        let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
        if !machine::on(&mut row.job, event, clock::now(), clock::roll())? {
            return Ok(());
        }
        self.keep(id).await;
        let Some(job) = self.rows.get(&id).map(|row| &row.job) else { return Ok(()) };
        let ended = match job.status {
            Status::Completed => Ended::Done,
            Status::Cancelled => Ended::Cancelled,
            Status::Failed => Ended::Failed(job.failure.clone().unwrap_or_else(|| {
                Failure::new(Reason::Internal, "nobody wrote down why it failed")
            })),
            _ => return Ok(()),
        };
        self.left.remove(&id);
        if ended == Ended::Cancelled
            && let Some(row) = self.rows.get(&id)
            && let Some(kind) = self.kinds.get(&*row.job.kind)
        {
            let hears = (kind.cancelled)(row.work.clone());
            self.tries.spawn(async move {
                hears.await;
                Ok(String::new())
            });
        }
        for waiting in self.waiting.remove(&id).unwrap_or_default() {
            // whoever asked may be gone
            drop(waiting.send(ended.clone()));
        }
        self.forget_oldest();
        Ok(())
    }

    /// Returns only when it is on disk.
    async fn keep(&self, id: JobId) {
        let Some(row) = self.rows.get(&id) else { return };
        let told = row.run.map(|run| (run.lease_epoch, told(run, &row.job)));
        let kept = JobRow { id, open: !row.job.is_over(), at: row.job.updated_at, body: row };
        while let Err(error) = self.journal.keep_job(&kept, told.clone()).await {
            tracing::error!(job = %id, error = &error as &dyn std::error::Error, "a job waits for the journal");
            sleep(WRITE_AGAIN).await;
        }
    }

    /// As the journal does.
    fn forget_oldest(&mut self) {
        let mut over: Vec<(Timestamp, JobId)> = self
            .rows
            .values()
            .filter(|row| row.job.is_over())
            .map(|row| (row.job.updated_at, row.job.id))
            .collect();
        let most = usize::try_from(MOST_ENDED_JOBS).unwrap_or(usize::MAX);
        let Some(more) = over.len().checked_sub(most).filter(|more| *more > 0) else { return };
        over.sort_unstable();
        for (_, id) in &over[..more] {
            self.rows.remove(id);
        }
    }
}

/// The event that tells the task of a job's last turn.
fn told(run: RunKey, job: &Job) -> FromDaemon {
    let turn = job.history.last();
    FromDaemon::TaskEvent(TaskEvent {
        task_id: run.task_id,
        run_id: run.run_id,
        event: EventKind::JobTransition,
        at: job.updated_at,
        channel: Some(Channel::Status),
        payload: json!({
            "jobId": job.id,
            "kind": job.kind,
            "name": job.name,
            "phase": turn.map(|turn| turn.phase),
            "status": job.status,
            "attempt": job.attempt,
            "maxAttempts": job.max_attempts,
            "nextRetryAt": job.next_retry_at,
            "detail": turn.and_then(|turn| turn.detail.as_deref()),
        }),
    })
}
