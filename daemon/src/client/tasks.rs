//! Tasks over HTTP.

use super::http::{Client, Doc, array};
use super::{may_pass, pause};
use hayward_shared::api::{InterruptBody, MessageBody, ResumeBody, TaskPatch};
use hayward_shared::budget::Budget;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::task::{Order, Task};
use serde_json::Value;

/// Which tasks a list holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only those of this status.
    pub(crate) status: Option<String>,
    /// Only the parts of this one.
    pub(crate) parent: Option<String>,
    /// Only those that carry all of these, as `k=v`.
    pub(crate) labels: Vec<String>,
}

/// What can be done to a task by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Freeze it.
    Pause,
    /// End it.
    Cancel,
    /// Make a new one like it.
    Retry,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
        }
    }
}

/// Tries of a request that may be repeated, before the relay counts as away.
const TRIES: u32 = 6;

impl Client {
    /// A task, by its id or a part of it.
    pub(crate) async fn task(&self, id: &str) -> Result<Doc<Task>, Fault> {
        let found = self.get(&["api", "v1", "tasks", id], &[]).await;
        Doc::read(found.map_err(|fault| match fault.code {
            Code::NotFound => fault.with_hint("hayward task ls shows what is there"),
            _ => fault,
        })?)
    }

    /// A task, from a relay that may be starting anew just now.
    pub(crate) async fn task_patiently(&self, id: TaskId) -> Result<Doc<Task>, Fault> {
        let id = id.to_string();
        let mut failures = 0;
        loop {
            match self.task(&id).await {
                Err(fault) if may_pass(&fault.code) && failures + 1 < TRIES => {
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                }
                answer => return answer,
            }
        }
    }

    /// All tasks that the filter lets through, newest first.
    pub(crate) async fn tasks(&self, filter: &Filter) -> Result<Vec<Doc<Task>>, Fault> {
        let mut query = Vec::new();
        query.extend(filter.status.clone().map(|status| ("status", status)));
        query.extend(filter.parent.clone().map(|parent| ("parent", parent)));
        query.extend(filter.labels.iter().map(|label| ("label", label.clone())));
        let rows = self.all(&["api", "v1", "tasks"], &query, "tasks").await?;
        rows.into_iter().map(Doc::read).collect()
    }

    /// Makes a task. Repeated when the relay does not answer: it makes one only.
    pub(crate) async fn create_task(&self, order: &Order) -> Result<Doc<Task>, Fault> {
        let key = TaskId::fresh().to_string();
        let mut failures = 0;
        loop {
            match self.post_once(&["api", "v1", "tasks"], &key, order).await {
                Err(fault) if may_pass(&fault.code) && failures < 2 => {
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                }
                answer => return Doc::read(answer?),
            }
        }
    }

    /// Does this to a task. The answer is the task after it; for a retry the new one.
    pub(crate) async fn act(&self, id: &str, verb: Verb) -> Result<Doc<Task>, Fault> {
        self.command::<()>(id, verb.name(), None).await
    }

    /// Lets a paused task go on.
    pub(crate) async fn resume(
        &self,
        id: &str,
        budget: Option<Budget>,
    ) -> Result<Doc<Task>, Fault> {
        let budget = budget.and_then(|budget| serde_json::to_value(budget).ok());
        self.command(id, "resume", Some(&ResumeBody { budget })).await
    }

    /// Asks the agent to stop what it does; with `force` ends it.
    pub(crate) async fn interrupt(&self, id: &str, force: bool) -> Result<Doc<Task>, Fault> {
        self.command(id, "interrupt", Some(&InterruptBody { force })).await
    }

    /// Tells the agent something.
    pub(crate) async fn message(&self, id: &str, text: &str) -> Result<Doc<Task>, Fault> {
        self.command(id, "message", Some(&MessageBody { message: text.to_owned() })).await
    }

    /// Changes what was asked for.
    pub(crate) async fn amend(&self, id: TaskId, patch: &TaskPatch) -> Result<Doc<Task>, Fault> {
        Doc::read(self.patch(&["api", "v1", "tasks", &id.to_string()], patch).await?)
    }

    /// Removes a task that has ended.
    pub(crate) async fn discard(&self, id: TaskId) -> Result<(), Fault> {
        self.delete(&["api", "v1", "tasks", &id.to_string()]).await.map(drop)
    }

    /// One page of stored events after `since`, oldest first.
    pub(crate) async fn events(&self, id: TaskId, since: Option<u64>) -> Result<Vec<Value>, Fault> {
        let mut query = vec![("limit", "200".to_owned())];
        query.extend(since.map(|since| ("since", since.to_string())));
        let id = id.to_string();
        let mut page = self.get(&["api", "v1", "tasks", &id, "events"], &query).await?;
        Ok(array(&mut page, "events"))
    }

    async fn command<B: serde::Serialize + Sync>(
        &self,
        id: &str,
        name: &str,
        body: Option<&B>,
    ) -> Result<Doc<Task>, Fault> {
        Doc::read(self.post(&["api", "v1", "tasks", id, name], body).await?)
    }
}
