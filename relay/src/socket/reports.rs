//! The state lane: each message of a daemon is stored once, in order, then acked.

use super::connection::{Connection, End, Peer, error};
use crate::routing::{self, Moment, Sender, Verdict};
use crate::store::{StoreError, Tx, daemons, tasks};
use hayward_edge::planted;
use hayward_shared::api::Directories;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::protocol::{FromDaemon, Tags, ToDaemon};

/// What the daemon is told of a report that was not applied.
enum Answer {
    Stale(TaskId, u64),
    Absent(TaskId),
}

impl Connection {
    /// Stores a state message and its number in one transaction. One that is stored already is
    /// acked again; one that is too far ahead ends the link, since something was lost.
    pub(super) async fn numbered(
        &mut self,
        seq: u64,
        tags: Tags,
        body: Option<FromDaemon>,
    ) -> Result<(), End> {
        let mut tx = self.core.store.write().await?;
        let acked = daemons::acked(tx.conn(), self.peer.daemon).await?;
        if let Some(acked) = acked {
            if seq <= acked {
                self.stored = (acked, self.stored.1 + 1);
                return Ok(());
            }
            if seq != acked + 1 {
                let text = format!("message {seq} came after {acked}: what is between is missing");
                return Err(End::Refused(Fault::new(Code::Conflict, text)));
            }
        }
        let answer = match body {
            Some(body) => self.take(&mut tx, tags, body).await?,
            None => None,
        };
        daemons::set_acked(tx.conn(), self.peer.daemon, seq).await?;
        if planted("ack_before_commit") {
            self.say(&ToDaemon::Ack { seq }.into()).await?;
        }
        tx.commit().await?;
        self.core.metrics.reports.inc();
        self.stored = (seq, self.stored.1 + 1);
        self.tell(answer).await
    }

    /// Stores a state message of a plain peer, which numbers nothing.
    pub(super) async fn unnumbered(&mut self, tags: Tags, body: FromDaemon) -> Result<(), End> {
        let ends =
            matches!(body, FromDaemon::TaskStatusChange(_) | FromDaemon::TaskComplete { .. });
        let mut tx = self.core.store.write().await?;
        let answer = self.take(&mut tx, tags, body).await?;
        tx.commit().await?;
        self.tell(answer).await?;
        // an end makes room, and a plain peer does not ask for more
        if ends && self.peer.plain { self.offer().await } else { Ok(()) }
    }

    async fn tell(&self, answer: Option<Answer>) -> Result<(), End> {
        match answer {
            None => Ok(()),
            Some(Answer::Stale(task, epoch)) => self.stale(task, epoch).await,
            Some(Answer::Absent(task)) => {
                self.say(&error(&Fault::not_found("task", task), Some(task))).await
            }
        }
    }

    async fn take(
        &mut self,
        tx: &mut Tx,
        tags: Tags,
        body: FromDaemon,
    ) -> Result<Option<Answer>, StoreError> {
        match body {
            FromDaemon::Runtimes { runtimes } => {
                self.peer.profile.runtimes = runtimes;
                daemons::describe(tx.conn(), self.peer.daemon, &self.peer.profile).await?;
                self.work.notify_one();
                Ok(None)
            }
            FromDaemon::DaemonDirectories {
                working_directory,
                home_directory,
                worktrees_directory,
            } => {
                self.peer.profile.directories =
                    Some(Directories { working_directory, home_directory, worktrees_directory });
                daemons::describe(tx.conn(), self.peer.daemon, &self.peer.profile).await?;
                Ok(None)
            }
            body => match routing::subject(&body) {
                Some(task) => self.report(tx, task, tags, body).await,
                None => Ok(None),
            },
        }
    }

    async fn report(
        &self,
        tx: &mut Tx,
        task: TaskId,
        tags: Tags,
        body: FromDaemon,
    ) -> Result<Option<Answer>, StoreError> {
        let Peer { workspace, daemon, .. } = self.peer;
        let Some(row) = tasks::find(tx.conn(), workspace, task).await? else {
            return Ok(Some(Answer::Absent(task)));
        };
        let from = Sender { daemon, epoch: tags.lease_epoch };
        let moment = Moment {
            now: crate::clock::now(),
            lease_end: self.core.lease_end(),
            jitter: self.core.jitter(),
        };
        match routing::judge(row, from, body, moment) {
            Verdict::Apply(change) => {
                let freed = !change.row.task.status.is_held();
                tasks::apply(tx, *change).await?;
                if freed {
                    // a claim that came before this report found the place taken
                    self.work.notify_one();
                }
            }
            Verdict::Spent(mut change, run, usage) => {
                let sum = tasks::note_usage(tx.conn(), workspace, (task, run), &usage).await?;
                change.row.task.results.usage = sum;
                change.row.task.version += 1;
                tasks::apply(tx, *change).await?;
            }
            Verdict::Pass(why) => tracing::warn!(%task, %daemon, "a report was not applied: {why}"),
            Verdict::Stale(epoch) => return Ok(Some(Answer::Stale(task, epoch))),
            Verdict::Absent => return Ok(Some(Answer::Absent(task))),
        }
        Ok(None)
    }
}
