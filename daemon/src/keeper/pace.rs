//! How often subscribers are told of output: rarely while much is printed, at once while somebody
//! types and waits for what comes back. Pure: moments are milliseconds on one clock.

/// Between two times, while nobody types: a busy agent wakes the daemon fifty times a second.
const USUAL_MS: u64 = 20;
/// Between two times, while somebody types: what a program draws for one key may come in pieces.
const TYPING_MS: u64 = 1;
/// So long the answer to a key waits for what the program prints for it: told of both at once, the
/// daemon and whoever types wake once instead of twice, and the program has the processor.
const TOGETHER_MS: u64 = 2;
/// So long after a key what is printed is taken for its answer.
const ANSWER_MS: u64 = 200;

/// When subscribers were told, and when something was typed. Owned by the keeper's loop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    told: Option<u64>,
    typed: Option<u64>,
}

impl Pace {
    /// Something was typed: what comes next is told at once.
    pub(super) fn typed(&mut self, now: u64) {
        *self = Self { told: None, typed: Some(now) };
    }

    /// Until when the answer to what was typed waits for what it brings; none once that was told.
    pub(super) fn together(&self) -> Option<u64> {
        self.typed.filter(|_| self.told.is_none()).map(|typed| typed + TOGETHER_MS)
    }

    /// Subscribers were told of all output.
    pub(super) fn told(&mut self, now: u64) {
        self.told = Some(now);
    }

    /// When they are to be told of what came since.
    pub(super) fn due(&self) -> u64 {
        let Some(told) = self.told else { return 0 };
        let answers = self.typed.is_some_and(|typed| told < typed + ANSWER_MS);
        told + if answers { TYPING_MS } else { USUAL_MS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_a_key_is_told_at_once_and_much_output_rarely() {
        let mut pace = Pace::default();
        assert_eq!(pace.due(), 0);
        pace.told(100);
        assert_eq!(pace.due(), 120);
        assert_eq!(pace.together(), None);
        pace.typed(105);
        assert_eq!((pace.due(), pace.together()), (0, Some(107)));
        pace.told(105);
        assert_eq!(pace.together(), None);
        assert_eq!(pace.due(), 106);
        pace.told(305);
        assert_eq!(pace.due(), 325);
    }
}
