//! Who was not told something. Pure.
//!
//! A word that found no room was given no number, so its receiver sees no hole. It is owed one, and
//! the word of it.

use super::To;
use hayward_shared::id::RelayId;
use std::collections::HashSet;

/// Relays that are owed one by one, as many as are heard at once; with more, all are.
const MOST: usize = 64;

/// To whom something could not be said.
#[derive(Debug, Default)]
pub(super) struct Owed {
    relays: HashSet<RelayId>,
    all: bool,
}

impl Owed {
    /// Notes that something was not said to these.
    pub(super) fn owe(&mut self, to: To) {
        match to {
            To::Relay(relay) if self.relays.len() < MOST => drop(self.relays.insert(relay)),
            To::Relay(relay) if self.relays.contains(&relay) => {}
            To::Relay(_) | To::All => self.all = true,
        }
    }

    /// Takes those that are owed; where all are, also each of those that live.
    pub(super) fn take(&mut self, alive: &HashSet<RelayId>) -> Vec<To> {
        let Self { mut relays, all } = std::mem::take(self);
        if all {
            relays.extend(alive);
        }
        all.then_some(To::All).into_iter().chain(relays.into_iter().map(To::Relay)).collect()
    }

    /// Whether nobody is owed anything.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.relays.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn relay(nth: usize) -> RelayId {
        RelayId(Uuid::from_u128(nth as u128))
    }

    #[test]
    fn whoever_was_not_told_is_owed_it_once() {
        let mut owed = Owed::default();
        assert!(owed.is_empty());
        owed.owe(To::Relay(relay(1)));
        owed.owe(To::Relay(relay(1)));
        assert_eq!(owed.take(&HashSet::from([relay(2)])), [To::Relay(relay(1))]);
        assert!(owed.is_empty());
        owed.owe(To::All);
        assert!(!owed.is_empty());
        assert_eq!(owed.take(&HashSet::from([relay(2)])), [To::All, To::Relay(relay(2))]);
    }

    #[test]
    fn where_too_many_are_owed_all_are() {
        let mut owed = Owed::default();
        (0..MOST).for_each(|nth| owed.owe(To::Relay(relay(nth))));
        owed.owe(To::Relay(relay(0)));
        assert!(!owed.all);
        owed.owe(To::Relay(relay(MOST)));
        let alive = (0..=MOST).map(relay).collect();
        assert_eq!(owed.take(&alive).len(), MOST + 2);
    }
}
