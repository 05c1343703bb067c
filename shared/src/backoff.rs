//! How a daemon comes back to a relay that it lost.
//!
//! Exponential, with full jitter: a wait lasts anything from nothing to its bound. The bound of the
//! first one is what the relay told (`heartbeatAck`), which knows how many would come with this
//! one; it doubles from there.

/// The bound of the first wait when the relay told nothing: few daemons come back in a second.
const BASE_MS: u64 = 1_000;

/// The largest bound. Those who have tried for long come back within it; of a thousand daemons no
/// more than 70 in one second.
const MOST_MS: u64 = 30_000;

/// What a relay gives each daemon of the time in which all come back: about 33 hellos a second, of
/// which each is three small writes.
const EACH_MS: u64 = 30;

/// Over how many milliseconds `daemons` that lose a relay together spread their first reconnect.
#[must_use]
pub fn spread_ms(daemons: usize) -> u64 {
    let all = u64::try_from(daemons).unwrap_or(u64::MAX).saturating_mul(EACH_MS);
    all.clamp(BASE_MS, MOST_MS)
}

/// The waits of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Attempts since a link last held.
    attempt: u32,
    spread_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { attempt: 0, spread_ms: BASE_MS }
    }
}

impl Backoff {
    /// The relay says over how long the next reconnect is to be spread.
    pub fn spread_over(&mut self, ms: u64) {
        self.spread_ms = ms.clamp(BASE_MS, MOST_MS);
    }

    /// The link holds: it broke for no reason that goes on.
    pub fn held(&mut self) {
        self.attempt = 0;
    }

    /// This daemon itself stood still: nobody else comes back with it.
    pub fn alone(&mut self) {
        self.attempt = 0;
        self.spread_ms = BASE_MS;
    }

    /// Milliseconds until the next attempt, 30,000 at the most; `roll` in 0..1 is the jitter.
    #[must_use]
    pub fn wait_ms(&mut self, roll: f64) -> u64 {
        let grown = BASE_MS.saturating_mul(1 << self.attempt.min(10));
        let most = grown.max(self.spread_ms).min(MOST_MS);
        self.attempt = self.attempt.saturating_add(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "between 0 and 30,000"
        )]
        let wait = (most as f64 * roll.clamp(0.0, 1.0)) as u64;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers in 0..1 that follow from a seed (xorshift).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            f64::from(u32::try_from(self.0 >> 33).unwrap()) / f64::from(1u32 << 31)
        }
    }

    /// How many of a herd come back in each second after a relay that was away for `outage_ms`.
    fn returns(daemons: usize, outage_ms: u64, seed: u64) -> Vec<usize> {
        let mut dice = Dice(seed);
        let mut seconds = Vec::new();
        for _ in 0..daemons {
            let mut backoff = Backoff::default();
            backoff.spread_over(spread_ms(daemons));
            let mut at = backoff.wait_ms(dice.roll());
            while at < outage_ms {
                at += backoff.wait_ms(dice.roll());
            }
            let second = usize::try_from((at - outage_ms) / 1_000).unwrap();
            if seconds.len() <= second {
                seconds.resize(second + 1, 0);
            }
            seconds[second] += 1;
        }
        seconds
    }

    #[test]
    fn f34_of_a_thousand_daemons_no_second_has_more_than_a_tenth_and_all_are_back_in_time() {
        for outage_ms in [0, 500, 3_000, 20_000, 60_000, 3_600_000] {
            for seed in 1..20 {
                let seconds =
                    returns(1_000, outage_ms, 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
                assert!(seconds.len() <= 90, "after {outage_ms}: {} s", seconds.len());
                let most = seconds.iter().max().copied().unwrap();
                assert!(most <= 100, "after {outage_ms}: {most} in one second of {seconds:?}");
            }
        }
    }

    #[test]
    fn f33_a_machine_that_slept_comes_back_alone_and_soon() {
        let mut backoff = Backoff::default();
        backoff.spread_over(30_000);
        backoff.alone();
        assert_eq!(backoff.wait_ms(1.0), 1_000);
    }

    #[test]
    fn few_daemons_are_back_at_once() {
        assert_eq!(spread_ms(0), 1_000);
        assert_eq!(spread_ms(20), 1_000);
        assert_eq!(spread_ms(1_000), 30_000);
        assert_eq!(spread_ms(usize::MAX), 30_000);
    }

    proptest! {
        #[test]
        fn waits_grow_to_their_bound(told in any::<u64>(), tries in 1u32..40, roll in 0.0f64..1.0) {
            let mut backoff = Backoff::default();
            backoff.spread_over(told);
            let mut last = 0;
            for _ in 0..tries {
                let wait = backoff.wait_ms(roll);
                prop_assert!(wait <= MOST_MS && wait >= last);
                last = wait;
            }
            backoff.held();
            prop_assert!(backoff.wait_ms(roll) <= told.clamp(BASE_MS, MOST_MS));
        }
    }
}
