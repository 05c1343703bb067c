//! What every part of a running relay shares.

use crate::bus::Bus;
use crate::config::Timing;
use crate::field::Field;
use crate::http::gate::Gate;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::prices::Prices;
use crate::registry::Registry;
use crate::store::{Store, StoreError, Tx};
use hayward_shared::id::RelayId;
use hayward_shared::time::Timestamp;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The store, who is connected, and the rules of the house. Shared by all; owned by the relay.
pub(crate) struct Core {
    /// Who this relay is to others that share its database.
    pub(crate) id: RelayId,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<Store>,
    pub(crate) bus: Bus,
    pub(crate) registry: Registry,
    /// What the linked daemons said of themselves.
    pub(crate) field: Field,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) prices: Prices,
    /// Told when a budget was raised: what was paused for it may go on.
    pub(crate) raised: Notify,
    /// Told when a provider refused: there is a moment to wait for.
    pub(crate) refused: Notify,
    pub(crate) gate: Gate,
    pub(crate) metrics: Metrics,
    /// Becomes true once, when the relay stops.
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) links: Links,
}

impl Core {
    /// Until when whoever was heard before this change began need not be heard again, by the clock
    /// of leases.
    pub(crate) async fn lease_end(&self, tx: &mut Tx) -> Result<Timestamp, StoreError> {
        // since the last move some of the next one has run already
        let whole = self.timing.step_ms().saturating_add(self.timing.lease_ms);
        Ok(tx.clock().await?.plus_millis(whole))
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::{Path, PathBuf};

    /// A core with its data in `folder`, to which nobody is linked.
    pub(crate) async fn core(folder: &Path, timing: Timing, bus: Bus) -> Arc<Core> {
        let database = folder.join("relay.db").into();
        core_on(Arc::new(Store::open(&database).await.unwrap()), timing, bus)
    }

    /// The same, with its data there.
    pub(crate) fn core_on(store: Arc<Store>, timing: Timing, bus: Bus) -> Arc<Core> {
        let config = Config::new(PathBuf::from("relay.db"), "127.0.0.1:0".parse().unwrap());
        Arc::new(Core {
            id: RelayId::fresh(),
            address: config.listen,
            store,
            registry: Registry::new(bus.clone()),
            bus,
            field: Field::default(),
            timing,
            limits: config.limits.clone(),
            prices: config.prices.clone(),
            raised: Notify::new(),
            refused: Notify::new(),
            gate: Gate::new(&config, true),
            metrics: Metrics::default(),
            stopping: watch::channel(false).1,
            links: Links::default(),
        })
    }
}
