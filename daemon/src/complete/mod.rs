//! Bringing a task's branch home: leaving it, merging it, or pushing it and opening a pull
//! request.
//!
//! Each is a durable job of few steps. What a step is about to do is on disk before it is done;
//! after a crash the refs, or the remote itself, tell whether it was, and nothing is guessed.
//! Trying again is always safe.

pub mod forge;
mod forge_program;
mod record;
mod steps;

pub use record::{Order, Phase, Record};

use crate::git::Repositories;
use crate::journal::{Journal, JournalError};
use hayward_shared::id::TaskId;
use hayward_shared::run::Failure;
use hayward_shared::task::{CompletionAction, Reason};
use hayward_shared::time::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A journal that cannot be written (its disk is full) is tried again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// All that the steps need.
#[derive(Debug)]
pub struct Tools<'a> {
    /// The repositories.
    pub repositories: &'a Repositories,
    /// The PATH on which the forge's own program is looked for.
    pub search_path: String,
    /// The present moment: when a merge commit says that it was made.
    pub now: Timestamp,
}

/// The completions of this daemon. It alone knows which are under way: one at a time of each task.
#[derive(Debug)]
pub struct Completions {
    journal: Journal,
    turns: Mutex<HashMap<TaskId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Completions {
    /// The completions that `journal` keeps.
    #[must_use]
    pub fn new(journal: Journal) -> Self {
        Self { journal, turns: Mutex::default() }
    }

    /// Does what is ordered, or goes on with it where an earlier try was cut off. `tell` hears how
    /// far it is. Dropping the future breaks it off as a crash would.
    ///
    /// # Errors
    /// Why it went no further. What was reached stays and is kept; trying again goes on from what
    /// the refs and the remote say then.
    pub async fn complete(
        &self,
        order: Order,
        tools: &Tools<'_>,
        tell: impl Fn(&Phase) + Send + Sync,
    ) -> Result<Record, Failure> {
        let turn = self.turn(order.task);
        let _alone = turn.lock().await;
        let former = self.journal.completion(order.task).await;
        let former: Option<Record> = former.map_err(|error| broken(&error))?;
        if order.action == CompletionAction::Branch && former.as_ref().is_some_and(Record::is_done)
        {
            // it stands already, and what is to be taken back is not forgotten over that
            return Ok(Record { phase: Phase::Stands, ..Record::new(order) });
        }
        let mut record = Record::resumed(former, order);
        self.go_on(&mut record, tools, tell).await?;
        Ok(record)
    }

    /// Takes back what the task's last completion did: the target goes back to where it stood, or
    /// the pushed branch is deleted from the remote. Only while nothing was built on it.
    ///
    /// That is on disk before it is begun: a killed daemon's next start goes on with it.
    ///
    /// # Errors
    /// Why it was not taken back; nothing changed then.
    pub async fn undo(&self, task: TaskId, tools: &Tools<'_>) -> Result<Record, Failure> {
        let turn = self.turn(task);
        let _alone = turn.lock().await;
        let former = self.journal.completion(task).await.map_err(|error| broken(&error))?;
        let Some(former): Option<Record> = former else {
            let text = format!("task {} was never completed by an action", task.short());
            return Err(Failure::new(Reason::ActionUnsupported, text));
        };
        let going = former.taken_back();
        self.keep(&going).await;
        let Phase::TakingBack { done } = &going.phase else { return Ok(going) };
        let undone = match steps::undo(&going.order, done, tools).await {
            Ok(()) => Record { phase: Phase::Undone, ..going },
            Err(failure) => {
                let kept = Record { phase: (**done).clone(), ..former };
                self.keep(&kept).await;
                return Err(failure);
            }
        };
        self.keep(&undone).await;
        Ok(undone)
    }

    /// The last completion of a task.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn of(&self, task: TaskId) -> Result<Option<Record>, JournalError> {
        self.journal.completion(task).await
    }

    /// Those that were cut off by the end of an earlier daemon.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn open(&self) -> Result<Vec<Record>, JournalError> {
        self.journal.open_completions().await
    }

    fn turn(&self, task: TaskId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(task).or_default().clone()
    }

    async fn go_on(
        &self,
        record: &mut Record,
        tools: &Tools<'_>,
        tell: impl Fn(&Phase) + Send + Sync,
    ) -> Result<(), Failure> {
        record.failure = None;
        while !record.is_done() {
            self.keep(record).await;
            tell(&record.phase);
            match steps::next(record, tools).await {
                Ok(phase) => {
                    if matches!(phase, Phase::Landing { .. }) {
                        record.warnings = steps::warnings(record, tools).await;
                    }
                    record.phase = phase;
                }
                Err(failure) => {
                    record.failure = Some(failure.clone());
                    self.keep(record).await;
                    return Err(failure);
                }
            }
        }
        self.keep(record).await;
        Ok(())
    }

    /// Returns only when it is on disk.
    async fn keep(&self, record: &Record) {
        let task = record.order.task;
        while let Err(error) = self.journal.keep_completion(task, record.is_open(), record).await {
            tracing::error!(%task, error = &error as &dyn std::error::Error, "a completion waits for the journal");
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }
}

fn broken(error: &JournalError) -> Failure {
    Failure::new(Reason::Internal, chain(error))
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
