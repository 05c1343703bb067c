//! How often subscribers are told of output: rarely while much is printed, at once while somebody
//! types and waits for what comes back. And when they are told that something was typed: together
//! with what comes back. Pure: moments are milliseconds on one clock.

use super::input::Typed;

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
#[derive(Debug, Default)]
pub(super) struct Pace {
    told: Option<u64>,
    /// When something was typed by who is told of output, not shown it.
    typed: Option<u64>,
    /// When output was shown first of which subscribers were not told.
    shown: Option<u64>,
    /// What was typed last, and not answered yet; when that was, and when something came back.
    answers: Vec<Typed>,
    since: u64,
    brought: Option<u64>,
}

impl Pace {
    /// Something was typed: what comes next is told at once, and with it `answers`. Not so where all
    /// who typed are shown the output (`by_shown`): nobody else has to wake for them. Answers of what
    /// was typed before come back, to be given now: whoever types on does not wait for them.
    pub(super) fn typed(&mut self, now: u64, answers: Vec<Typed>, by_shown: bool) -> Vec<Typed> {
        if !by_shown {
            (self.told, self.typed) = (None, Some(now));
        }
        (self.since, self.brought) = (now, None);
        std::mem::replace(&mut self.answers, answers)
    }

    /// When what was typed is answered; none when it was.
    pub(super) fn answers_due(&self) -> Option<u64> {
        let alone = self.since + TOGETHER_MS;
        (!self.answers.is_empty()).then(|| self.brought.map_or(alone, |came| came.min(alone)))
    }

    /// The answers that are due.
    pub(super) fn answers(&mut self, now: u64) -> Vec<Typed> {
        let is_due = self.answers_due().is_some_and(|due| due <= now);
        if is_due { std::mem::take(&mut self.answers) } else { Vec::new() }
    }

    /// Output was shown to who asked for that.
    pub(super) fn shown(&mut self, now: u64) {
        self.brought.get_or_insert(now);
        self.shown.get_or_insert(now);
    }

    /// Subscribers were told of all output.
    pub(super) fn told(&mut self, now: u64) {
        self.brought.get_or_insert(now);
        (self.told, self.shown) = (Some(now), None);
    }

    /// When they are to be told of what came since.
    pub(super) fn due(&self) -> u64 {
        let usual = |moment: Option<u64>| moment.map_or(0, |moment| moment + USUAL_MS);
        let answers = |typed| self.told.is_none_or(|told| told < typed + ANSWER_MS);
        if self.typed.is_some_and(answers) {
            return self.told.map_or(0, |told| told + TYPING_MS);
        }
        usual(self.told).max(usual(self.shown))
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::Asker;
    use super::*;

    #[test]
    fn what_answers_a_key_is_told_at_once_and_much_output_rarely() {
        let mut pace = Pace::default();
        assert_eq!(pace.due(), 0);
        pace.told(100);
        assert_eq!(pace.due(), 120);
        pace.typed(105, Vec::new(), false);
        assert_eq!(pace.due(), 0);
        pace.told(105);
        assert_eq!(pace.due(), 106);
        pace.told(305);
        assert_eq!(pace.due(), 325);
    }

    #[test]
    fn what_was_typed_is_answered_with_what_it_brings_and_soon_when_that_is_nothing() {
        let answer = |call| vec![(Asker { client: 1, call }, Ok(()))];
        let mut pace = Pace::default();
        assert_eq!(pace.answers_due(), None);
        assert_eq!(pace.typed(100, answer(1), false), []);
        assert_eq!(pace.answers(101), []);
        assert_eq!((pace.answers_due(), pace.answers(102)), (Some(102), answer(1)));
        assert_eq!(pace.answers_due(), None);
        pace.typed(110, answer(2), false);
        pace.told(110);
        assert_eq!((pace.answers(110), pace.answers(u64::MAX)), (answer(2), vec![]));
        pace.typed(120, answer(3), false);
        assert_eq!(pace.typed(120, answer(4), false), answer(3));
        assert_eq!(pace.answers(u64::MAX), answer(4));
    }

    #[test]
    fn who_is_shown_the_output_wakes_nobody_else_for_each_key() {
        let answer = |call| vec![(Asker { client: 1, call }, Ok(()))];
        let mut pace = Pace::default();
        pace.told(100);
        assert_eq!(pace.typed(200, answer(1), true), []);
        assert_eq!(pace.answers_due(), Some(202));
        pace.shown(200);
        assert_eq!((pace.answers(200), pace.due()), (answer(1), 220));
        pace.typed(210, answer(2), true);
        pace.shown(211);
        assert_eq!((pace.answers(211), pace.due()), (answer(2), 220));
        pace.told(220);
        assert_eq!(pace.due(), 240);
        pace.shown(230);
        pace.typed(231, answer(3), false);
        pace.shown(231);
        assert_eq!(pace.due(), 0);
    }
}
