//! The merge queue: work that has ended goes into its target in order, and only what passes its
//! check together.
//!
//! A lane is a branch of a repository. Lanes work at the same time, each on one batch: merged in
//! memory, checked in a scratch worktree, landed by moving the target forward to exactly the commit
//! that was checked. What a lane decides (`machine`) is in the journal before it is begun, so a
//! killed daemon goes on with it, and the target stands at its old tip or at a checked one.

mod back;
mod ground;
mod machine;
mod order;
mod owner;
mod record;
mod runner;

use crate::journal::JournalError;
use crate::kept::Kept;
use crate::task::{Board, Shop};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{EntryId, RequestId, TaskId};
use hayward_shared::protocol::{FromDaemon, Reply, ToDaemon};
use order::{Asked, drafts};
use owner::Owner;
use record::Record;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the queue. Full means wait: none is dropped.
const QUEUE: usize = 32;

/// What the queue is asked; each is answered by the payload of a `reply`.
#[derive(Debug)]
enum Ask {
    Add(Vec<Record>, Option<RequestId>),
    List,
    Remove(EntryId, Option<RequestId>),
    Forget(TaskId),
}

type Answer = oneshot::Sender<Result<Value, Fault>>;

/// The handle of the queue.
#[derive(Clone, Debug)]
pub struct Queue {
    shop: Arc<Shop>,
    asks: mpsc::Sender<(Ask, Answer)>,
}

/// Opens the queue: every lane that the journal knows goes on. Dropping the second part stops it, and
/// the next start goes on from the journal.
///
/// # Errors
/// [`JournalError`] when the journal cannot be read.
pub async fn open(shop: Arc<Shop>, board: Board) -> Result<(Queue, Kept), JournalError> {
    let (asks, asked) = mpsc::channel(QUEUE);
    let owner = Owner::open(shop.clone(), board).await?;
    let kept = Kept::of(tokio::spawn(owner.run(asked)));
    Ok((Queue { shop, asks }, kept))
}

impl Queue {
    /// Carries out `queueAdd`, `queueList` or `queueRemove`, and answers it. The answer of what
    /// changes something is kept with the change: the same request again gets it again.
    pub async fn serve(&self, command: ToDaemon, request: Option<RequestId>) -> FromDaemon {
        let done = self.carry_out(command, request).await;
        FromDaemon::Reply(done.map_or_else(Reply::refused, Reply::done))
    }

    async fn carry_out(
        &self,
        command: ToDaemon,
        request: Option<RequestId>,
    ) -> Result<Value, Fault> {
        let ask = match command {
            ToDaemon::QueueAdd { task_ids: tasks, target, check, timeout_seconds } => {
                let asked = Asked { tasks, target, check, timeout_seconds };
                Ask::Add(drafts(&self.shop, &asked).await?, request)
            }
            ToDaemon::QueueList {} => Ask::List,
            ToDaemon::QueueRemove { entry_id } => Ask::Remove(entry_id, request),
            other => {
                let text = format!("'{}' is no command of the merge queue", other.type_name());
                return Err(Fault::new(Code::UnknownType, text));
            }
        };
        self.ask(ask).await
    }

    /// Takes all that waits of a task out, for one that was thrown away. What has passed its check
    /// and is landing lands.
    pub async fn forget(&self, task: TaskId) {
        if let Err(fault) = self.ask(Ask::Forget(task)).await {
            tracing::warn!(%task, %fault, "it was thrown away and may still land");
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Value, Fault> {
        let gone = |_| Fault::new(Code::Unavailable, "the daemon is shutting down");
        let (reply, answer) = oneshot::channel();
        self.asks.send((ask, reply)).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }
}
