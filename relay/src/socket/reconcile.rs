//! What a returning daemon holds, against what the relay holds of it.
//!
//! A run that the hello names goes on, or is told to end. A claimed run that it does not name and
//! of which nothing was ever reported was never delivered: it is delivered again. Of the others
//! we ask no more than the daemon's next beat or claim: then they are given up.

use super::connection::{Connection, End, Peer, error};
use crate::change::Change;
use crate::core::Core;
use crate::lease;
use crate::registry::LinkId;
use crate::routing::Sender;
use crate::store::events::{self, Draft, Stream};
use crate::store::tasks::{self, Stored};
use crate::store::{StoreError, Tries, Tx, daemons, due, persist, tokens};
use hayward_shared::api::{MOST_WARM, Vitals};
use hayward_shared::backoff;
use hayward_shared::event::{Kind, Subject};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RunId, TaskId};
use hayward_shared::protocol::{Tagged, ToDaemon};
use hayward_shared::run::RunKey;
use hayward_shared::task::Status;
use hayward_shared::time::Timestamp;
use serde_json::json;
use std::collections::BTreeSet;

/// The longest name of a repository that is kept, in bytes: as long as a path may be.
const MAX_NAME: usize = 4_096;

fn sender(daemon: DaemonId) -> Sender {
    Sender { daemon, epoch: None }
}

/// Tells that a daemon came.
pub(super) async fn tell_online(
    core: &Core,
    peer: &Peer,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = core.store.write().await?;
    daemons::seen(tx.conn(), peer.daemon, now).await?;
    tell_presence(tx, peer, true, now).await
}

/// Tells that a daemon went, unless a later link of it is at another relay.
pub(super) async fn tell_offline(
    core: &Core,
    peer: &Peer,
    link: LinkId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = core.store.write().await?;
    // a later link that is not seen here tells that it came behind this
    daemons::seen(tx.conn(), peer.daemon, now).await?;
    if core.bus.left(tx.conn(), peer.daemon, link.number()).await? {
        tell_presence(tx, peer, false, now).await?;
    }
    Ok(())
}

/// Tells it in a change that has the daemon's row.
async fn tell_presence(
    mut tx: Tx,
    peer: &Peer,
    online: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let draft = Draft {
        kind: if online { Kind::DaemonOnline } else { Kind::DaemonOffline },
        at: now,
        actor: sender(peer.daemon).actor(),
        subject: Subject { kind: "daemon".into(), id: peer.daemon.to_string() },
        lease_epoch: None,
        channel: None,
        payload: json!({ "hostname": peer.profile.hostname }),
    };
    if online && peer.profile.settles_at.is_some() {
        daemons::describe(tx.conn(), peer.daemon, &peer.profile).await?;
    }
    events::append(&mut tx, peer.workspace, Stream::Daemon(peer.daemon), vec![draft]).await?;
    tx.commit().await
}

/// What the relay keeps of a machine's state, whatever a peer tells.
fn bounded(mut vitals: Vitals) -> Vitals {
    vitals.warm.truncate(MOST_WARM);
    vitals.warm.retain(|name| name.len() <= MAX_NAME);
    vitals
}

/// Whether nothing was ever heard of a claimed run.
fn is_undelivered(row: &Stored) -> bool {
    row.task.status == Status::Dispatched && row.heard_epoch < row.task.holding.lease_epoch
}

/// What a daemon must be told of a run that it names.
enum Answer {
    GoesOn,
    Ends,
    Stale,
}

/// What a beat did to the runs that it named.
struct Renewed {
    /// They have ended, and the daemon does not know.
    ended: Vec<TaskId>,
    /// The daemon must be told that they were heard.
    renewed: Vec<TaskId>,
}

impl Connection {
    /// Compares what the hello names with what the relay holds.
    pub(super) async fn reconcile(&mut self, named: &[RunKey]) -> Result<(), End> {
        for key in named {
            match persist(|| self.named(key)).await? {
                Answer::GoesOn => {}
                Answer::Ends => {
                    self.say(&ToDaemon::CancelTask { task_id: key.task_id }.into()).await?;
                }
                Answer::Stale => self.stale(key.task_id, key.lease_epoch).await?,
            }
        }
        let Peer { workspace, daemon, .. } = self.peer;
        let held = tasks::held_by(&mut *self.core.store.read().await?, workspace, daemon).await?;
        for row in held {
            let run = row.task.holding.run_id;
            let Some(run) = run.filter(|run| !named.iter().any(|key| key.run_id == *run)) else {
                continue;
            };
            if !is_undelivered(&row) || !self.deliver_again(row.task.id, run).await? {
                self.unnamed.push((row.task.id, run));
            }
        }
        Ok(())
    }

    /// Refuses a run that was handed over; its agent must end.
    pub(super) async fn stale(&self, task: TaskId, epoch: u64) -> Result<(), End> {
        let fault = Fault::new(Code::StaleLease, "the run was handed over");
        let mut message = error(&fault, Some(task));
        message.tags.lease_epoch = Some(epoch);
        self.say(&message).await
    }

    async fn named(&self, key: &RunKey) -> Result<Answer, StoreError> {
        let now = crate::clock::now();
        let mut tx = self.core.store.write().await?;
        let found = tasks::find(tx.conn(), self.peer.workspace, key.task_id).await?;
        let row = match self.judged(found, key) {
            Ok(row) => row,
            Err(answer) => {
                // what was read may be another's that is not on disk yet
                tx.commit().await?;
                return Ok(answer);
            }
        };
        let mut change = Change::of(row);
        change.row.heard_epoch = key.lease_epoch;
        let lease_end = self.core.lease_end(&mut tx).await?;
        lease::heard(&mut change, &sender(self.peer.daemon).actor(), now, lease_end);
        tasks::apply(&mut tx, change).await?;
        tx.commit().await?;
        Ok(Answer::GoesOn)
    }

    /// The task of a run that its daemon still has, or what the daemon is told instead.
    fn judged(&self, found: Option<Stored>, key: &RunKey) -> Result<Stored, Answer> {
        let Some(row) = found else {
            // it was cancelled and discarded while the daemon was away, which ends what it still has of it
            tracing::warn!(task = %key.task_id, run = %key.run_id, "a daemon names a task that is not here");
            return Err(Answer::Ends);
        };
        let holding = &row.task.holding;
        if lease::is_former(key.lease_epoch, holding.lease_epoch) {
            return Err(Answer::Stale);
        }
        if holding.run_id != Some(key.run_id) || holding.daemon_id != Some(self.peer.daemon) {
            return Err(Answer::GoesOn);
        }
        if row.task.status.is_final() {
            return Err(Answer::Ends);
        }
        Ok(row)
    }

    /// Delivers a run whose first delivery was lost, if that is still so now that nothing else is
    /// written: it may have been cancelled since it was read.
    async fn deliver_again(&self, task: TaskId, run: RunId) -> Result<bool, End> {
        let Some(spawn) = persist(|| self.order_again(task, run)).await? else { return Ok(false) };
        self.say(&spawn).await?;
        Ok(true)
    }

    async fn order_again(
        &self,
        task: TaskId,
        run: RunId,
    ) -> Result<Option<Tagged<ToDaemon>>, StoreError> {
        let now = crate::clock::now();
        let mut tx = self.core.store.write().await?;
        if !self.core.bus.has(tx.conn(), self.peer.daemon, self.link.number()).await? {
            // its later link at another relay delivers it
            return Ok(None);
        }
        let found = tasks::find(tx.conn(), self.peer.workspace, task).await?;
        let still = found.filter(|row| row.task.holding.run_id == Some(run) && is_undelivered(row));
        let Some(mut row) = still else { return Ok(None) };
        // the secret of the first delivery is not known any more
        tokens::drop_of_task(tx.conn(), row.task.workspace_id, row.task.id).await?;
        row.lease_expires_at = Some(self.core.lease_end(&mut tx).await?);
        tasks::save(tx.conn(), &row).await?;
        let spawn = super::dispatch::order(&mut tx, &row.task, &self.core.timing, now).await?;
        tx.commit().await?;
        Ok(Some(spawn))
    }

    /// Gives up the runs that the daemon named neither in its hello nor in this beat.
    pub(super) async fn settle_unnamed(&mut self, beat: &[TaskId]) -> Result<(), End> {
        for (task, run) in std::mem::take(&mut self.unnamed) {
            if !beat.contains(&task) {
                persist(|| self.disown(task, run)).await?;
            }
        }
        Ok(())
    }

    async fn disown(&self, task: TaskId, run: RunId) -> Result<(), StoreError> {
        let now = crate::clock::now();
        let mut tx = self.core.store.write().await?;
        if !self.core.bus.has(tx.conn(), self.peer.daemon, self.link.number()).await? {
            // it has a later link at another relay, whose hello may have named the run
            return Ok(());
        }
        let found = tasks::find(tx.conn(), self.peer.workspace, task).await?;
        let still =
            found.filter(|row| row.task.holding.run_id == Some(run) && row.task.status.is_held());
        let Some(row) = still else { return Ok(()) };
        let by = sender(self.peer.daemon).actor();
        match lease::disowned(&row, &by, now, self.core.jitter()) {
            Ok(change) => {
                tasks::apply(&mut tx, change).await?;
                tx.commit().await?;
            }
            Err(e) => tracing::error!(%task, error = %e, "a disowned run stays"),
        }
        Ok(())
    }

    /// A beat: the named runs are alive, and so is the daemon. One with a number is acknowledged
    /// once all that it renewed is stored.
    pub(super) async fn beat(
        &mut self,
        active: &[TaskId],
        number: Option<u64>,
        vitals: Option<Vitals>,
    ) -> Result<(), End> {
        let told = vitals.map(bounded).filter(|told| *told != self.peer.profile.vitals);
        if let Some(vitals) = &told {
            self.peer.profile.vitals.clone_from(vitals);
            let Peer { workspace, daemon, ref profile, .. } = self.peer;
            self.core.field.describe(workspace, daemon, self.link, profile);
        }
        let mut tries = Tries::default();
        let Renewed { ended, renewed } = loop {
            match self.renew(active, told.is_some()).await {
                Err(end) if end.passes(&mut tries) => {}
                done => break done?,
            }
        };
        for task_id in ended {
            // it was cancelled, and the word was lost
            self.say(&Tagged::from(ToDaemon::CancelTask { task_id })).await?;
        }
        if let Some(beat) = number {
            let spread_ms = Some(backoff::spread_ms(self.core.registry.online()));
            self.say(&ToDaemon::HeartbeatAck { beat, renewed, spread_ms }.into()).await?;
        }
        self.settle_unnamed(active).await
    }

    /// Renews the leases of the named runs, and stores what the daemon says of itself where that is
    /// new.
    async fn renew(&self, active: &[TaskId], is_new: bool) -> Result<Renewed, End> {
        let now = crate::clock::now();
        let Peer { workspace, daemon, token, .. } = self.peer;
        let (mut ended, mut renewed) = (Vec::new(), Vec::new());
        let mut tx = self.core.store.write().await?;
        if !tokens::is_good(tx.conn(), token, now).await? {
            return Err(End::Refused(Fault::new(Code::Unauthorized, "the token was revoked")));
        }
        daemons::seen(tx.conn(), daemon, now).await?;
        if is_new {
            daemons::describe(tx.conn(), daemon, &self.peer.profile).await?;
        }
        let lease_end = self.core.lease_end(&mut tx).await?;
        // by id, as whoever needs several tasks takes them
        for task in &BTreeSet::from_iter(active) {
            let Some(row) = tasks::find(tx.conn(), workspace, **task).await? else { continue };
            if row.task.holding.daemon_id != Some(daemon) {
                continue;
            }
            if row.task.status.is_final() {
                ended.push(**task);
                continue;
            }
            if lease::is_fenced(&row, &self.core.timing) {
                renewed.push(**task);
            }
            if lease::is_away(&row) {
                let mut change = Change::of(row);
                lease::heard(&mut change, &sender(daemon).actor(), now, lease_end);
                tasks::apply(&mut tx, change).await?;
            } else {
                due::renew(tx.conn(), workspace, **task, lease_end).await?;
            }
        }
        tx.commit().await?;
        Ok(Renewed { ended, renewed })
    }
}
