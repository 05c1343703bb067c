//! What the relay acknowledged of this daemon's beats. A run whose task may be handed over to
//! another daemon lives by it: see [`crate::keeper::Fence`].

use hayward_shared::id::TaskId;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// A beat that the relay heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewal {
    /// When it was sent, by [`crate::clock::since_boot`]: the relay cannot have heard it earlier.
    pub sent_ms: u64,
    /// The tasks whose time began anew with it.
    pub tasks: Vec<TaskId>,
}

/// Beats and their echo, between the link and the runs. Cheap to clone; the link alone renews.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    renewed: Arc<watch::Sender<Renewal>>,
    wanted: Arc<Notify>,
}

impl Leases {
    /// The relay acknowledged a beat. Of several at once only the last may be seen, which is the
    /// latest.
    pub fn renew(&self, renewal: Renewal) {
        self.renewed.send_replace(renewal);
    }

    /// The last beat that was acknowledged, and those to come.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Renewal> {
        self.renewed.subscribe()
    }

    /// Asks for a beat now: a run waits for its acknowledgement.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a beat is asked for. The link's alone.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}
