//! Durable background work: queued, tried, tried again, and never forgotten.
//!
//! What is to be done is on disk before it is begun, and so is what came of each try. Only trouble
//! that may pass is met by another try, after a wait that grows and is random. After a restart of
//! the daemon the owner of a job asks for it again by its subject, and finds it as it stood, with
//! its tries and the time of the next one; what nobody asks for is gone on with all the same.
//!
//! [`machine`] decides what becomes of one job, [`queue`] which one is next (both pure); `runner`
//! owns them all. The kinds are registered in one place, where the daemon is put together.

pub mod machine;
pub mod queue;
mod runner;
#[cfg(test)]
mod runner_tests;

pub use runner::{Ready, prepare};

use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::JobId;
use hayward_shared::job::{Job, JobOrder};
use hayward_shared::protocol::{Reply, ToDaemon};
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::Reason;
use serde_json::{Value, json};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A try under way; dropping it breaks it off, and the next one must be able to go on from there.
pub type Try = Pin<Box<dyn Future<Output = Result<String, Failure>> + Send>>;

/// A kind of work.
#[derive(Clone)]
pub struct Kind {
    /// Its name, as it is kept and shown.
    pub name: &'static str,
    /// Jobs of it that are tried at once.
    pub at_once: usize,
    /// Tries of one, at the most.
    pub max_attempts: u32,
    /// Tries it: given what was kept of the work, and where to say how far it is. Answers what came
    /// of it, in words for people.
    pub attempt: Arc<dyn Fn(Value, Progress) -> Try + Send + Sync>,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where a try says how far it is. Nothing waits for it: what comes too fast is dropped.
#[derive(Clone, Debug)]
pub struct Progress {
    id: JobId,
    said: mpsc::Sender<(JobId, u8, String)>,
}

impl Progress {
    /// It is so many hundredths done, and does this.
    pub fn is_at(&self, hundredths: u8, doing: &str) {
        // the next word makes up for a lost one
        drop(self.said.try_send((self.id, hundredths, doing.to_owned())));
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// The name of its kind.
    pub kind: &'static str,
    /// What it is done to: after a restart whoever needs it finds it by kind and subject.
    pub subject: String,
    /// The same for people.
    pub name: String,
    /// The run that it is for; its task's events tell of each turn.
    pub run: Option<RunKey>,
    /// What the kind's try is given.
    pub work: Value,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It is done.
    Done,
    /// It failed; a person may have it tried again.
    Failed(Failure),
    /// A person cancelled it.
    Cancelled,
}

enum Ask {
    Do(Order, oneshot::Sender<Ended>),
    List(oneshot::Sender<Vec<Job>>),
    Order(JobId, JobOrder, oneshot::Sender<Result<Job, Fault>>),
}

/// The handle. Clones ask the same owner.
#[derive(Clone, Debug)]
pub struct Jobs {
    asks: mpsc::Sender<Ask>,
}

impl Jobs {
    /// Has it done, and waits for the end of it. Whoever stops waiting does not end it.
    ///
    /// # Errors
    /// Why it failed, or that it was cancelled.
    pub async fn done(&self, order: Order) -> Result<(), Failure> {
        let name = order.name.clone();
        let (answer, ended) = oneshot::channel();
        let closing = |()| Failure::new(Reason::Internal, "the daemon is shutting down");
        self.asks.send(Ask::Do(order, answer)).await.map_err(|_| closing(()))?;
        match ended.await.map_err(|_| closing(()))? {
            Ended::Done => Ok(()),
            Ended::Failed(failure) => Err(failure),
            Ended::Cancelled => {
                Err(Failure::new(Reason::JobCancelled, format!("its job was cancelled: {name}")))
            }
        }
    }

    /// Carries out `listJobs` or `orderJob`.
    pub async fn serve(&self, command: ToDaemon) -> Reply {
        let answer = match command {
            ToDaemon::ListJobs {} => self.list().await.map(|jobs| json!({ "jobs": jobs })),
            ToDaemon::OrderJob { job_id, order } => {
                self.order(job_id, order).await.map(|job| json!({ "job": job }))
            }
            other => {
                let text = format!("'{}' is no command about jobs", other.type_name());
                Err(Fault::new(Code::UnknownType, text))
            }
        };
        answer.map_or_else(Reply::refused, Reply::done)
    }

    async fn list(&self) -> Result<Vec<Job>, Fault> {
        let (answer, jobs) = oneshot::channel();
        self.asks.send(Ask::List(answer)).await.map_err(|_| gone())?;
        jobs.await.map_err(|_| gone())
    }

    async fn order(&self, id: JobId, order: JobOrder) -> Result<Job, Fault> {
        let (answer, job) = oneshot::channel();
        self.asks.send(Ask::Order(id, order, answer)).await.map_err(|_| gone())?;
        job.await.map_err(|_| gone())?
    }
}

fn gone() -> Fault {
    Fault::new(Code::Unavailable, "the daemon is shutting down")
}
