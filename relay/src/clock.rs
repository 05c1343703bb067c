//! The one place of the relay that reads clocks and rolls dice.

use hayward_edge::clock::{Side, millis};
use hayward_shared::time::Timestamp;
use tokio::time::Instant;

/// The present moment. A clock set before 1970 reads as 1970.
#[must_use]
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(millis(Side::Relay))
}

/// A number in 0..1 that spreads retries; without randomness they are not spread.
#[must_use]
pub(crate) fn roll() -> f64 {
    hayward_edge::clock::roll(Side::Relay).unwrap_or(0.0)
}

/// A clock that nobody sets: milliseconds since it began. It stands still while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steady(Instant);

impl Steady {
    /// A clock that begins now.
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// What it shows.
    pub(crate) fn millis(self) -> i64 {
        i64::try_from(self.0.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}
