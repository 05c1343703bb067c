//! The one place of the daemon that reads the wall clock and rolls dice: what pure code is given.

use hayward_edge::clock::{Side, millis};
use hayward_shared::time::Timestamp;

/// The present moment. A clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from_millis(millis(Side::Daemon))
}

/// A number in 0..1 from the system's randomness, for spreading waits; the middle when there is
/// none to be had.
#[must_use]
pub fn roll() -> f64 {
    hayward_edge::clock::roll(Side::Daemon).unwrap_or(0.5)
}
