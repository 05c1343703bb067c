//! The one place of the daemon that reads clocks and rolls dice: what pure code is given.

use hayward_edge::clock::{Side, millis};
use hayward_shared::time::Timestamp;

/// The present moment. A clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from_millis(millis(Side::Daemon))
}

/// Milliseconds since the machine booted, also those that it slept through; nobody can set this
/// clock. One that cannot be read says that all time is over.
#[must_use]
pub fn since_boot() -> u64 {
    hayward_edge::clock::since_boot()
}

/// A number in 0..1 from the system's randomness, for spreading waits; the middle when there is
/// none to be had.
#[must_use]
pub fn roll() -> f64 {
    hayward_edge::clock::roll(Side::Daemon).unwrap_or(0.5)
}
