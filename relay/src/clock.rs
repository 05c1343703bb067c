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

/// The clock of leases. It begins with the wall clock and never jumps after that: a wall clock that
/// is set forward lets no lease run out. It stands still while the machine sleeps, as those who
/// would have been heard do not get through then. Good for one relay's life only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steady {
    began: Timestamp,
    origin: Instant,
}

impl Steady {
    /// A clock that shows `began` now.
    pub(crate) fn from(began: Timestamp) -> Self {
        Self { began, origin: Instant::now() }
    }

    /// What it shows.
    pub(crate) fn now(self) -> Timestamp {
        let ms = i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.began.plus_millis(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_steady_clock_goes_on_from_where_it_began_and_knows_no_other() {
        let began = Timestamp::from_millis(5_000);
        let steady = Steady::from(began);
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(steady.now(), began.plus_millis(1_500));
    }
}
