//! What every part of a running relay shares.

use crate::clock::Steady;
use crate::config::Timing;
use crate::field::Field;
use crate::http::gate::Gate;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::store::Store;
use hayward_shared::time::Timestamp;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The store, who is connected, and the rules of the house. Shared by all; owned by the relay.
pub(crate) struct Core {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    /// What the linked daemons said of themselves.
    pub(crate) field: Field,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    /// Told when a provider refused: there is a moment to wait for.
    pub(crate) refused: Notify,
    /// What leases are measured by.
    pub(crate) steady: Steady,
    pub(crate) gate: Gate,
    pub(crate) metrics: Metrics,
    /// Becomes true once, when the relay stops.
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) links: Links,
}

impl Core {
    /// Until when whoever is heard now need not be heard again, by the clock of leases.
    pub(crate) fn lease_end(&self) -> Timestamp {
        self.steady.now().plus_millis(self.timing.lease_ms)
    }

    /// A number in 0..1 that spreads retries; without randomness they are not spread.
    pub(crate) fn jitter(&self) -> f64 {
        crate::clock::roll()
    }
}

/// The owner of every WebSocket's task.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<JoinSet<()>>);

impl Links {
    /// Runs a link until it ends or the relay does.
    pub(crate) fn run(&self, link: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while set.try_join_next().is_some() {}
        set.spawn(link);
    }

    /// Waits for all links to end, then ends those that have not.
    pub(crate) async fn drain(&self, within: Duration) {
        let mut set = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while set.join_next().await.is_some() {} };
        if timeout(within, all).await.is_err() {
            tracing::warn!("links that did not end in time were cut");
        }
    }
}
