//! What a relay is told when it starts.

use crate::bus::BusAddress;
use crate::database::Database;
use crate::limits::Limits;
use crate::prices::Prices;
use hayward_shared::run::{LEASE_MS, QUEUE_MS, REQUEUE_UNIT_MS, SETTLE_MS, SWEEP_MS};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a relay keeps its data, where it listens and whom it lets in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its data is.
    pub database: Database,
    /// Where relays that share the database meet. None: this one is alone on it.
    pub bus: Option<BusAddress>,
    /// The file for the token of a new database's first owner. None: `owner.token` beside the
    /// SQLite file, or for PostgreSQL in the working directory.
    pub owner_token: Option<PathBuf>,
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Origins of web pages that may call, exactly as browsers send them. Empty: no page may.
    pub allowed_origins: Vec<String>,
    /// The name under which a relay on loopback may be called, besides `localhost` and addresses.
    pub public_name: Option<String>,
    /// What each workspace may have at once.
    pub limits: Limits,
    /// What the models cost.
    pub prices: Prices,
    /// How long things take; only tests change it.
    pub timing: Timing,
}

impl Config {
    /// A relay with the usual bounds that lets no web page in.
    #[must_use]
    pub fn new(database: impl Into<Database>, listen: SocketAddr) -> Self {
        Self {
            database: database.into(),
            bus: None,
            owner_token: None,
            listen,
            allowed_origins: Vec::new(),
            public_name: None,
            limits: Limits::default(),
            prices: Prices::default(),
            timing: Timing::default(),
        }
    }
}

/// How long things take. The defaults are the wire's; see [`hayward_shared::run`].
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A lease holds this many milliseconds after the last beat that named its run.
    pub lease_ms: i64,
    /// `requeueAfter` counts so many milliseconds each.
    pub requeue_unit_ms: i64,
    /// Milliseconds between two looks for what is overdue.
    pub sweep_ms: i64,
    /// A queued task expires after this many milliseconds.
    pub queue_ms: i64,
    /// A link that follows a broken one gets no new work before this many milliseconds.
    pub settle_ms: i64,
    /// A stranger has this long to say who it is.
    pub hello: Duration,
    /// Every link is pinged this often.
    pub ping: Duration,
    /// A link that was silent for this long is dead.
    pub dead: Duration,
    /// A daemon has this long to answer a command.
    pub reply: Duration,
    /// And this long for one that merges, pushes or copies: what it does goes on behind an answer
    /// that came too late.
    pub work: Duration,
}

impl Timing {
    /// Milliseconds between two moves of the clock of leases.
    pub(crate) fn step_ms(&self) -> i64 {
        (self.sweep_ms / 5).max(1)
    }

    /// How long is waited for what comes in so many milliseconds: no longer than until the next
    /// sweep, with which a wall clock that is set anew is noticed; until then where nothing comes.
    pub(crate) fn pause(&self, comes_in_ms: Option<i64>) -> Duration {
        let most = self.sweep_ms.max(1);
        let pause = comes_in_ms.unwrap_or(most).clamp(1, most);
        Duration::from_millis(pause.unsigned_abs())
    }

    /// Milliseconds that one move of it counts at the most.
    pub(crate) fn most_ms(&self) -> i64 {
        self.sweep_ms.max(1)
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease_ms: LEASE_MS,
            requeue_unit_ms: REQUEUE_UNIT_MS,
            sweep_ms: SWEEP_MS,
            queue_ms: QUEUE_MS,
            settle_ms: SETTLE_MS,
            hello: Duration::from_secs(10),
            ping: Duration::from_secs(20),
            // two pings may be lost
            dead: Duration::from_secs(45),
            reply: Duration::from_secs(10),
            // a push is given a quarter of an hour there
            work: Duration::from_secs(16 * 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_is_looked_at_soon_and_what_is_far_with_the_next_sweep() {
        let timing = Timing { sweep_ms: 500, ..Timing::default() };
        let waits = [Some(-7), Some(0), Some(20), Some(i64::MAX), None];
        let waits = waits.map(|ms| timing.pause(ms).as_millis());
        assert_eq!(waits, [1, 1, 20, 500, 500]);
    }
}
