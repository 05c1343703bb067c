//! The wall clock and the dice.

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who asks. In a simulation the clocks of the two sides may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The relay.
    Relay,
    /// A daemon.
    Daemon,
}

/// Milliseconds since 1970. A clock set before that reads as 1970.
#[must_use]
pub fn millis(side: Side) -> i64 {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::world::present() {
        return world.millis(side);
    }
    let _ = side;
    #[expect(clippy::disallowed_methods, reason = "this is the edge where time enters")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds since the machine of a daemon booted, also those that it slept through; nobody can
/// set this clock. One that cannot be read says that all time is over.
#[must_use]
pub fn since_boot() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::world::present() {
        return world.since_boot();
    }
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|now| u64::try_from(Duration::from(now).as_millis()).ok())
        .unwrap_or(u64::MAX)
}

/// A number in 0..1 from the system's randomness; none when there is none to be had.
#[must_use]
pub fn roll(side: Side) -> Option<f64> {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::world::present() {
        return Some(world.roll(side));
    }
    let _ = side;
    getrandom::u32().ok().map(|n| f64::from(n) / (f64::from(u32::MAX) + 1.0))
}
