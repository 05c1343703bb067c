//! The state lane: each message of a daemon is stored once, in order, then acked. Those that are at
//! hand together are stored together.

use super::connection::{Connection, End, Peer, error};
use crate::change::Change;
use crate::refusals;
use crate::routing::{self, Moment, Sender, Verdict};
use crate::store::tasks::{self, Stored};
use crate::store::{StoreError, Tries, Tx, daemons, spending};
use hayward_edge::planted;
use hayward_shared::api::Directories;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RunId, TaskId, WorkspaceId};
use hayward_shared::protocol::{FromDaemon, Tags, ToDaemon};
use hayward_shared::task::{Status, Usage};
use std::collections::{BTreeMap, BTreeSet};
use tracing::field::display;

/// What the daemon is told of a report that was not applied.
enum Answer {
    Stale(TaskId, u64),
    Absent(TaskId),
}

/// A state message with its place in the daemon's outbox; without a body it could not be read.
#[derive(Clone)]
pub(super) struct Numbered {
    pub(super) seq: u64,
    pub(super) tags: Tags,
    pub(super) body: Option<FromDaemon>,
}

/// The tasks of which messages tell that are stored together: each is read once and stored once.
#[derive(Default)]
struct Sheet {
    tasks: BTreeMap<TaskId, Entry>,
    news: News,
}

/// What is said of reports once they are stored.
#[derive(Default)]
struct News {
    /// Statuses that were reported, in their order.
    reported: Vec<(TaskId, Option<RunId>, Status)>,
    /// Whether something was learned of a provider.
    asked: bool,
}

struct Entry {
    change: Change,
    changed: bool,
}

impl Sheet {
    /// Reads the tasks that several messages tell of, by id, as whoever needs several takes them.
    async fn take(
        &mut self,
        tx: &mut Tx,
        workspace: WorkspaceId,
        batch: &[Numbered],
    ) -> Result<(), StoreError> {
        let subject = |message: &Numbered| message.body.as_ref().and_then(routing::subject);
        let tasks: BTreeSet<TaskId> = batch.iter().filter_map(subject).collect();
        if tasks.len() > 1 {
            for task in tasks {
                self.find(tx, workspace, task).await?;
            }
        }
        Ok(())
    }

    /// A task as the messages so far left it.
    async fn find(
        &mut self,
        tx: &mut Tx,
        workspace: WorkspaceId,
        task: TaskId,
    ) -> Result<Option<Stored>, StoreError> {
        if let Some(entry) = self.tasks.get(&task) {
            return Ok(Some(entry.change.row.clone()));
        }
        let found = tasks::find(tx.conn(), workspace, task).await?;
        if let Some(row) = &found {
            let entry = Entry { change: Change::of(row.clone()), changed: false };
            self.tasks.insert(task, entry);
        }
        Ok(found)
    }

    /// Notes what a message made of it.
    fn note(&mut self, change: Change) {
        match self.tasks.get_mut(&change.row.task.id) {
            Some(entry) => {
                entry.change.row = change.row;
                entry.change.drafts.extend(change.drafts);
                entry.change.spent = entry.change.spent.plus(change.spent);
                entry.changed = true;
            }
            None => {
                self.tasks.insert(change.row.task.id, Entry { change, changed: true });
            }
        }
    }

    /// Stores all of it. What is to be said then.
    async fn store(self, tx: &mut Tx) -> Result<News, StoreError> {
        for entry in self.tasks.into_values().filter(|entry| entry.changed) {
            tasks::apply(tx, entry.change).await?;
        }
        Ok(self.news)
    }
}

impl Connection {
    /// Stores state messages and the number of the last in one transaction. One that is stored
    /// already is acked again; one that is too far ahead ends the link, since something was lost.
    pub(super) async fn numbered(&mut self, mut batch: Vec<Numbered>) -> Result<(), End> {
        let mut tries = Tries::default();
        loop {
            let spare = self.core.store.may_undo().then(|| batch.clone());
            match (self.store_numbered(batch).await, spare) {
                (Err(end), Some(spare)) if end.passes(&mut tries) => batch = spare,
                (done, _) => return done,
            }
        }
    }

    async fn store_numbered(&mut self, batch: Vec<Numbered>) -> Result<(), End> {
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let mut tx = self.core.store.write().await?;
        let acked = daemons::acked(tx.conn(), self.peer.daemon).await?;
        let (mut last, mut sheet, mut answers, mut cut) =
            (acked, Sheet::default(), Vec::new(), None);
        let (mut fresh, mut news) = (0, News::default());
        sheet.take(&mut tx, self.peer.workspace, &batch).await?;
        for Numbered { seq, tags, body } in batch {
            if let Some(acked) = last {
                if seq <= acked {
                    continue;
                }
                if seq != acked + 1 {
                    let text =
                        format!("message {seq} came after {acked}: what is between is missing");
                    cut = Some(End::Refused(Fault::new(Code::Conflict, text)));
                    break;
                }
            }
            if let Some(body) = body {
                match self.take(&mut tx, &mut sheet, tags, body).await {
                    Ok(answer) => answers.extend(answer),
                    // those before it are stored
                    Err(e @ StoreError::Unreadable { .. }) => {
                        cut = Some(End::Store(e));
                        break;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            last = Some(seq);
            fresh += 1;
        }
        if let Some(seq) = last.filter(|_| last != acked) {
            news = sheet.store(&mut tx).await?;
            daemons::set_acked(tx.conn(), self.peer.daemon, seq).await?;
            if planted("ack_before_commit") {
                self.say(&ToDaemon::Ack { seq }.into()).await?;
            }
        }
        // also where nothing is new: what was read may be another's that is not on disk yet
        tx.commit().await?;
        self.tell_news(news);
        self.core.metrics.reports.inc_by(fresh);
        if let Some(seq) = last {
            self.stored = (seq, self.stored.1.saturating_add(count));
        }
        for answer in answers {
            self.tell(answer).await?;
        }
        cut.map_or(Ok(()), Err)
    }

    /// Stores a state message of a plain peer, which numbers nothing.
    pub(super) async fn unnumbered(&mut self, tags: Tags, mut body: FromDaemon) -> Result<(), End> {
        let ends =
            matches!(body, FromDaemon::TaskStatusChange(_) | FromDaemon::TaskComplete { .. });
        let mut tries = Tries::default();
        let (answer, news) = loop {
            let spare = self.core.store.may_undo().then(|| body.clone());
            match (self.store_unnumbered(tags, body).await, spare) {
                (Err(e), Some(spare)) if tries.again(&e) => body = spare,
                (stored, _) => break stored?,
            }
        };
        self.tell_news(news);
        if let Some(answer) = answer {
            self.tell(answer).await?;
        }
        // an end makes room, and a plain peer does not ask for more
        if ends && self.peer.plain { self.offer().await } else { Ok(()) }
    }

    async fn store_unnumbered(
        &mut self,
        tags: Tags,
        body: FromDaemon,
    ) -> Result<(Option<Answer>, News), StoreError> {
        let mut tx = self.core.store.write().await?;
        let mut sheet = Sheet::default();
        let answer = self.take(&mut tx, &mut sheet, tags, body).await?;
        let news = sheet.store(&mut tx).await?;
        tx.commit().await?;
        Ok((answer, news))
    }

    /// What is stored may be said. Those who wait for a provider may go on sooner or later.
    fn tell_news(&self, News { reported, asked }: News) {
        for (task, run, status) in reported {
            let run = run.map(display);
            tracing::info!(%task, run, %status, "its run reports");
        }
        if asked {
            self.core.refused.notify_one();
        }
    }

    async fn tell(&self, answer: Answer) -> Result<(), End> {
        match answer {
            Answer::Stale(task, epoch) => self.stale(task, epoch).await,
            Answer::Absent(task) => {
                self.say(&error(&Fault::not_found("task", task), Some(task))).await
            }
        }
    }

    async fn take(
        &mut self,
        tx: &mut Tx,
        sheet: &mut Sheet,
        tags: Tags,
        body: FromDaemon,
    ) -> Result<Option<Answer>, StoreError> {
        match body {
            FromDaemon::Runtimes { runtimes } => {
                self.peer.profile.runtimes = runtimes;
                let Peer { workspace, daemon, ref profile, .. } = self.peer;
                daemons::describe(tx.conn(), daemon, profile).await?;
                self.core.field.describe(workspace, daemon, self.link, profile);
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
                Some(task) => self.report((tx, sheet), task, tags, body).await,
                None => Ok(None),
            },
        }
    }

    async fn report(
        &self,
        (tx, sheet): (&mut Tx, &mut Sheet),
        task: TaskId,
        tags: Tags,
        body: FromDaemon,
    ) -> Result<Option<Answer>, StoreError> {
        let Peer { workspace, daemon, .. } = self.peer;
        let Some(row) = sheet.find(tx, workspace, task).await? else {
            return Ok(Some(Answer::Absent(task)));
        };
        let from = Sender { daemon, epoch: tags.lease_epoch };
        // the system is asked for each roll, and only a status may lead to a pause
        let is_status = matches!(body, FromDaemon::TaskStatusChange(_));
        let moment = Moment {
            now: crate::clock::now(),
            lease_end: self.core.lease_end(tx).await?,
            jitter: if is_status { self.core.jitter() } else { 0.0 },
        };
        let before = row.task.status;
        match routing::judge(row, from, body, moment) {
            Verdict::Apply(mut change) => {
                if change.row.task.status != before {
                    let row = &mut change.row;
                    sheet.news.reported.push((task, row.task.holding.run_id, row.task.status));
                    let learned = refusals::judge(&self.core, tx.conn(), row, moment.now).await?;
                    sheet.news.asked |= learned;
                }
                let freed = !change.row.task.status.is_held();
                sheet.note(*change);
                if freed {
                    // a claim that came before this report found the place taken
                    self.work.notify_one();
                }
            }
            Verdict::Spent(mut change, run, usage) => {
                self.spend(tx, &mut change, (run, usage)).await?;
                // a refusal is told with a usage of nothing
                if usage.output_tokens > 0 {
                    sheet.news.asked |= refusals::answered(tx.conn(), &change.row).await?;
                }
                sheet.note(*change);
            }
            Verdict::Late(mut change, epoch, (run, usage)) => {
                let was = change.row.task.holding.run_id == Some(run)
                    || spending::was_run(tx.conn(), workspace, (task, run)).await?;
                if was {
                    self.spend(tx, &mut change, (run, usage)).await?;
                    sheet.note(*change);
                }
                return Ok(Some(Answer::Stale(task, epoch)));
            }
            Verdict::Pass(why) => tracing::warn!(%task, %why, "a report was not applied"),
            Verdict::Stale(epoch) => return Ok(Some(Answer::Stale(task, epoch))),
            Verdict::Absent => return Ok(Some(Answer::Absent(task))),
        }
        Ok(None)
    }
    /// Counts what a run of a task used so far.
    async fn spend(
        &self,
        tx: &mut Tx,
        change: &mut Change,
        (run, said): (RunId, Usage),
    ) -> Result<(), StoreError> {
        let task = &mut change.row.task;
        let price = task.model().and_then(|model| self.core.prices.of(model));
        let (key, said) = ((task.id, run), (said, price));
        let noted = spending::note_usage(tx.conn(), task.workspace_id, key, said).await?;
        task.results.usage = noted.0;
        task.version += 1;
        change.spent = change.spent.plus(noted.1);
        Ok(())
    }
}
