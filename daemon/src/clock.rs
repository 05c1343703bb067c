//! The one place of the daemon that reads the wall clock and rolls dice: what pure code is given.

use hayward_shared::time::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// The present moment. A clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the edge where time enters")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// A number in 0..1 from the system's randomness, for spreading waits; the middle when there is
/// none to be had.
#[must_use]
pub fn roll() -> f64 {
    getrandom::u32().map_or(0.5, |n| f64::from(n) / (f64::from(u32::MAX) + 1.0))
}
