//! How long the agent of a run may live without a word of the relay, where its task may be handed
//! over to another daemon.
//!
//! The keeper watches the moment ([`Fence`]); here it is found out and written for it. An agent is
//! started only once the relay has acknowledged a beat that named its run: only then is it known
//! when its time is over.

use super::actor::Actor;
use super::state::Phase;
use crate::keeper::{Fence, RunFolder};
use crate::lease::{Leases, Renewal};
use hayward_shared::id::TaskId;
use hayward_shared::run::LEASE_MS;
use std::io;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A run waits this long for the relay to acknowledge it before its agent starts, then it is given
/// back: by then its lease has run out.
const ACKNOWLEDGED: Duration = Duration::from_millis(LEASE_MS.unsigned_abs());

/// A beat that was asked for and brought nothing is asked for again after this long: it may have
/// gone out before the run was known.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The time of one run. Owned by its actor.
#[derive(Debug)]
pub(super) struct Time {
    task: TaskId,
    after_ms: u64,
    leases: Leases,
    renewals: watch::Receiver<Renewal>,
    /// When the session must be over, once that is known.
    fence: Option<Fence>,
}

impl Time {
    /// That of a run whose session must be over `after_ms` after the last beat that counted, as far
    /// as its folder tells of one.
    pub(super) fn begin(task: TaskId, after_ms: u64, leases: &Leases, folder: &RunFolder) -> Self {
        let fence = folder.read().unwrap_or_else(|error| {
            tracing::warn!(%task, %error, "when a run must be over cannot be read");
            None
        });
        Self { task, after_ms, leases: leases.clone(), renewals: leases.watch(), fence }
    }

    /// Waits for a beat that names the run; the new moment is known then. Safe to drop.
    pub(super) async fn renewed(&mut self) {
        loop {
            if self.renewals.changed().await.is_err() {
                return std::future::pending().await;
            }
            let renewal = self.renewals.borrow_and_update().clone();
            if renewal.tasks.contains(&self.task) {
                match Fence::after(renewal.sent_ms, self.after_ms) {
                    Ok(fence) => self.fence = Some(fence),
                    Err(error) => {
                        tracing::error!(%error, "the moment of a beat cannot be written");
                        continue;
                    }
                }
                return;
            }
        }
    }

    /// Whether no agent of the run may live any more, as far as is known.
    pub(super) fn is_over(&self) -> bool {
        self.fence.as_ref().is_none_or(Fence::is_past)
    }

    /// What waits until the relay has acknowledged the run; see [`Acknowledged::wait`].
    pub(super) fn acknowledged(&self) -> Acknowledged {
        Acknowledged { task: self.task, leases: self.leases.clone(), renewals: self.leases.watch() }
    }
}

/// Waits beside the actor.
#[derive(Debug)]
pub(super) struct Acknowledged {
    task: TaskId,
    leases: Leases,
    renewals: watch::Receiver<Renewal>,
}

impl Acknowledged {
    /// When the first acknowledged beat that names the run was sent; none when none was in time.
    pub(super) async fn wait(mut self) -> Option<u64> {
        let by = Instant::now() + ACKNOWLEDGED;
        while Instant::now() < by {
            self.leases.want();
            let named = self.renewals.wait_for(|renewal| renewal.tasks.contains(&self.task));
            if let Ok(Ok(renewal)) = timeout(ASK_AGAIN, named).await {
                return Some(renewal.sent_ms);
            }
        }
        None
    }
}

impl Actor {
    /// Writes the present moment where the keeper reads it. One that cannot be written leaves the
    /// earlier one standing.
    pub(super) fn write_time(&self) {
        let Some(fence) = self.time.as_ref().and_then(|time| time.fence.as_ref()) else { return };
        let folder = self.folder();
        let phase = self.machine.state().phase;
        if !matches!(phase, Phase::Starting | Phase::Running | Phase::Delivering)
            || !folder.path().is_dir()
        {
            return;
        }
        if let Err(error) = folder.note(fence) {
            tracing::warn!(%error, "a run's time cannot be written");
        }
    }

    /// Writes, durably and before the keeper starts, when the session must be over; `false` when it
    /// must be by now.
    pub(super) fn begin_time(&mut self, sent_ms: u64) -> io::Result<bool> {
        let folder = self.folder();
        let Some(time) = &mut self.time else { return Ok(true) };
        let first = Fence::after(sent_ms, time.after_ms)?;
        // a later beat may have been acknowledged meanwhile
        let known =
            time.fence.take().filter(|known| known.boot == first.boot && known.at_ms > first.at_ms);
        let fence = time.fence.insert(known.unwrap_or(first));
        if fence.is_past() {
            return Ok(false);
        }
        folder.create()?;
        folder.write(fence)?;
        Ok(true)
    }
}
