//! The one place of the daemon that reads clocks and rolls dice: what pure code is given.

use hayward_shared::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

/// The present moment. A clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the edge where time enters")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// Milliseconds since the machine booted, also those that it slept through; nobody can set this
/// clock. One that cannot be read says that all time is over.
#[must_use]
pub fn since_boot() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|now| u64::try_from(std::time::Duration::from(now).as_millis()).ok())
        .unwrap_or(u64::MAX)
}

/// A number in 0..1 from the system's randomness, for spreading waits; the middle when there is
/// none to be had.
#[must_use]
pub fn roll() -> f64 {
    getrandom::u32().map_or(0.5, |n| f64::from(n) / (f64::from(u32::MAX) + 1.0))
}
