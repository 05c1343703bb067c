//! The one place of the relay that reads the wall clock and rolls dice.

use hayward_edge::clock::{Side, millis};
use hayward_shared::time::Timestamp;

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
