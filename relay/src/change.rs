//! A task while it is changed, with the events that will tell of it. Pure.

use crate::lease;
use crate::limits;
use crate::prices::Delta;
use crate::store::events::Draft;
use crate::store::tasks::Stored;
use hayward_shared::event::{Actor, ActorKind, Kind, StatusChanged, Subject};
use hayward_shared::id::TaskId;
use hayward_shared::task::{FollowUp, IllegalTransition, Reason, Status};
use hayward_shared::time::Timestamp;
use serde_json::{Value, json};

/// A change of one task: what it becomes, and what is told of it. Stored in one transaction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) row: Stored,
    pub(crate) drafts: Vec<Draft>,
    /// What the task spent meanwhile.
    pub(crate) spent: Delta,
}

impl Change {
    /// No change yet.
    pub(crate) fn of(row: Stored) -> Self {
        Self { row, drafts: Vec::new(), spent: Delta::default() }
    }

    /// Moves the task, or says why it may not; nothing changes then.
    pub(crate) fn step(
        &mut self,
        to: Status,
        reason: Option<Reason>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), IllegalTransition> {
        let (old, was_away) = (self.row.task.status, lease::is_away(&self.row));
        self.row.task.advance(to, reason, now)?;
        if old == to {
            return Ok(());
        }
        self.keep_time(was_away, now);
        // one that was told to pause, and whose daemon was away, may yet report that it did
        if (old, to) == (Status::Paused, Status::Running) || !to.is_held() {
            self.row.braked = None;
        }
        // what its agent said before a provider refused it does not end a row of refusals
        let ended = old.is_held() && (to.is_final() || to == Status::Deferred);
        if ended && !limits::is_refusal(to, reason) {
            self.row.task.holding.refusals = 0;
        }
        if to == Status::Queued {
            self.row.queued_at = Some(now);
        }
        if !to.is_held() {
            self.row.lease_expires_at = None;
        }
        let message = match to {
            Status::Failed | Status::Deferred | Status::TimedOut => {
                self.row.task.results.error_message.clone()
            }
            _ => None,
        };
        let payload = StatusChanged { old_status: old, new_status: to, reason, message };
        self.say(
            Kind::TaskStatusChanged,
            by,
            now,
            serde_json::to_value(payload).unwrap_or_default(),
        );
        if to.is_final()
            && let Some(next) = self.row.task.holding.next_follow_up.take()
        {
            self.go_on_with(next, by, now);
        }
        Ok(())
    }

    /// Counts the time that a step ends, and begins that of what it leads to. While its daemon is
    /// away a task's agent works on: that is counted when the daemon is back with it, and nobody
    /// can say of one that never is how long it did.
    fn keep_time(&mut self, was_away: bool, now: Timestamp) {
        let task = &self.row.task;
        let (runs, is_away) = (task.status == Status::Running, lease::is_away(&self.row));
        if runs || !was_away {
            self.count_time(now);
        }
        if !is_away {
            self.row.running_since = runs.then_some(now);
        }
    }

    /// Counts how long the task ran until `now`, since that was last counted. A running one of which
    /// nobody knows since when is counted from now on.
    pub(crate) fn count_time(&mut self, now: Timestamp) {
        if let Some(since) = self.row.running_since {
            // a clock that was set back takes nothing away
            let ms = now.since(since).max(0);
            self.spent = self.spent.plus(Delta { ms, ..Delta::default() });
            self.row.running_since = Some(now);
        }
        if self.row.task.status == Status::Running {
            self.row.running_since = Some(now);
        }
    }

    /// Sends a task that has ended back, or tells why its agent does not hear of it.
    pub(crate) fn go_on_with(&mut self, words: FollowUp, by: &Actor, now: Timestamp) {
        let why = match self.row.task.results.session_id {
            None => Some("no session of its agent is known".to_owned()),
            Some(_) => {
                let sent = self.send_back(words.clone(), by, now);
                sent.err().map(|refused| format!("the task is {}", refused.from))
            }
        };
        self.say_words(&words, why.as_deref(), by, now);
    }

    /// Tells of words for the task's agent; `undelivered` is why it never hears them.
    pub(crate) fn say_words(
        &mut self,
        words: &FollowUp,
        undelivered: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) {
        let mut payload = json!({ "text": words.text, "messageId": words.id });
        if let Some(why) = undelivered {
            payload["undelivered"] = why.into();
        }
        self.say(Kind::TaskMessage, by, now, payload);
    }

    /// Queues a completed task anew, for its agent to go on; nothing changes when it is refused.
    fn send_back(
        &mut self,
        follow_up: FollowUp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), IllegalTransition> {
        let old = self.row.task.status;
        self.row.task.send_back(follow_up)?;
        self.row.queued_at = Some(now);
        let new = self.row.task.status;
        let payload =
            StatusChanged { old_status: old, new_status: new, reason: None, message: None };
        let payload = serde_json::to_value(payload).unwrap_or_default();
        self.say(Kind::TaskStatusChanged, by, now, payload);
        Ok(())
    }

    /// Takes the task from whoever holds it: an older report is refused from now on.
    pub(crate) fn fence(&mut self) {
        self.row.task.holding.lease_epoch += 1;
    }

    /// Tells something of the task.
    pub(crate) fn say(&mut self, kind: Kind, by: &Actor, at: Timestamp, payload: Value) {
        let task = &self.row.task;
        let held = task.holding.run_id.is_some();
        self.drafts.push(Draft {
            kind,
            at,
            actor: by.clone(),
            subject: task_subject(task.id),
            lease_epoch: held.then_some(task.holding.lease_epoch),
            channel: None,
            payload,
        });
    }

    /// Counts a change of fields, and tells which.
    pub(crate) fn updated(&mut self, fields: &[&str], by: &Actor, now: Timestamp) {
        self.row.task.version += 1;
        self.say(Kind::TaskUpdated, by, now, json!({ "updatedFields": fields }));
    }
}

/// How events name a task.
pub(crate) fn task_subject(id: TaskId) -> Subject {
    Subject { kind: "task".into(), id: id.to_string() }
}

/// The relay itself, as events name it.
pub(crate) fn system() -> Actor {
    Actor { kind: ActorKind::System, id: String::new() }
}
