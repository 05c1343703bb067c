//! By which of two ways a task's output is reached, and what follows when one fails. Pure.

use super::{may_pass, pause};
use hayward_shared::fault::{Code, Fault};
use std::time::Duration;

/// A way to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the relay, from whatever machine.
    Relay,
    /// Straight to this machine's daemon.
    Near,
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Relay => Self::Near,
            Self::Near => Self::Relay,
        }
    }
}

/// What to do after a connection has failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try the other way at once.
    Other,
    /// No way leads there now: try again after a pause.
    Later {
        /// How long to wait.
        pause: Duration,
        /// Why; the relay's word where it had one.
        fault: Fault,
        /// How often it failed before, since it last served.
        failures: u32,
    },
    /// No other connection will do either.
    Never(Fault),
}

/// The ways to one task. The one that served last is tried first, then the other; after a round
/// in which neither did, there is a pause.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    /// The one to try.
    way: Way,
    /// Whether the task's run may be on this machine.
    near: bool,
    /// How the first way of this round failed.
    first: Option<Fault>,
    failures: u32,
    /// The one that served last.
    served: Way,
    /// The way that its user knows of; none before the first connection, where any will do.
    told: Option<Way>,
}

impl Ways {
    /// The task was found this way. Unless its run may be on this machine, there is no other.
    pub(crate) fn new(way: Way, near: bool) -> Self {
        let near = near || way == Way::Near;
        Self { way, near, first: None, failures: 0, served: way, told: Some(way) }
    }

    /// Tries this machine's daemon first, where the task's run may be here.
    pub(crate) fn straight_first(&mut self) {
        if self.near {
            self.way = Way::Near;
            self.told = None;
        }
    }

    /// The task's run may be on this machine, as it turned out.
    pub(crate) fn come_near(&mut self) {
        self.near = true;
    }

    /// Whether the task's run may be on this machine.
    pub(crate) fn are_near(&self) -> bool {
        self.near
    }

    /// The way to try now.
    pub(crate) fn way(&self) -> Way {
        self.way
    }

    /// A connection served: what fails from here on is counted anew.
    pub(crate) fn served(&mut self) {
        self.failures = 0;
        self.first = None;
        self.served = self.way;
    }

    /// A connection stands: the way that it goes, if its user knows of another.
    pub(crate) fn moved(&mut self) -> Option<Way> {
        let told = self.told.replace(self.way);
        told.is_some_and(|told| told != self.way).then_some(self.way)
    }

    /// A connection failed.
    pub(crate) fn failed(&mut self, fault: Fault) -> Next {
        if !self.may_pass(&fault) {
            return Next::Never(fault);
        }
        let tried = self.way;
        if self.near {
            self.way = tried.other();
            let Some(first) = self.first.take() else {
                self.first = Some(fault);
                return Next::Other;
            };
            let fault = if tried == Way::Near { first } else { fault };
            return self.later(fault);
        }
        self.later(fault)
    }

    /// A connection failed, and the run's keeper, which is on this machine, goes on to show it. The relay
    /// has it from the same daemon, and would end that: only the daemon is tried again.
    pub(crate) fn failed_beside_keeper(&mut self, fault: Fault) -> Next {
        if !self.may_pass(&fault) {
            return Next::Never(fault);
        }
        (self.way, self.first) = (Way::Near, None);
        self.later(fault)
    }

    /// Whether another connection may do.
    fn may_pass(&self, fault: &Fault) -> bool {
        let passes = match self.way {
            // that this machine does not know the run says nothing of other machines
            Way::Near => fault.code == Code::NotFound,
            // whom the daemon served, a relay that is not its own does not end
            Way::Relay if self.served == Way::Near => {
                matches!(fault.code, Code::Unauthorized | Code::Forbidden | Code::NotFound)
            }
            Way::Relay => false,
        };
        passes || may_pass(&fault.code)
    }

    fn later(&mut self, fault: Fault) -> Next {
        let failures = self.failures;
        self.failures += 1;
        Next::Later { pause: pause(failures), fault, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(text: &str) -> Fault {
        Fault::new(Code::Unavailable, text)
    }

    #[test]
    fn a_run_elsewhere_has_one_way_and_pauses_grow() {
        let mut ways = Ways::new(Way::Relay, false);
        for failures in 0..3 {
            let fault = away("relay");
            let expected = Next::Later { pause: pause(failures), fault: fault.clone(), failures };
            assert_eq!(ways.failed(fault), expected);
            assert_eq!(ways.way(), Way::Relay);
        }
        ways.served();
        assert_eq!(ways.moved(), None);
        assert!(matches!(ways.failed(away("relay")), Next::Later { failures: 0, .. }));
    }

    #[test]
    fn a_run_here_is_reached_straight_while_the_relay_is_away_and_that_is_told_once() {
        let mut ways = Ways::new(Way::Relay, true);
        assert_eq!(ways.moved(), None);
        assert_eq!(ways.failed(away("relay")), Next::Other);
        ways.served();
        assert_eq!((ways.way(), ways.moved(), ways.moved()), (Way::Near, Some(Way::Near), None));
        // the daemon is started anew, or the relay is back meanwhile
        assert_eq!(ways.failed(away("daemon")), Next::Other);
        assert_eq!((ways.way(), ways.moved()), (Way::Relay, Some(Way::Relay)));
    }

    #[test]
    fn a_run_that_may_be_here_is_reached_straight_first_and_then_through_the_relay() {
        let mut far = Ways::new(Way::Relay, false);
        far.straight_first();
        assert_eq!((far.way(), far.moved()), (Way::Relay, None));
        let mut ways = Ways::new(Way::Relay, true);
        ways.straight_first();
        // it runs elsewhere after all: nothing has changed for who waits for the first word
        assert_eq!(
            (ways.way(), ways.failed(Fault::not_found("task", "beef"))),
            (Way::Near, Next::Other)
        );
        assert_eq!((ways.way(), ways.moved()), (Way::Relay, None));
        let mut ways = Ways::new(Way::Relay, true);
        ways.straight_first();
        assert_eq!(ways.moved(), None);
        assert_eq!((ways.failed(away("daemon")), ways.moved()), (Next::Other, Some(Way::Relay)));
    }

    #[test]
    fn when_neither_leads_there_the_relays_word_is_told_whichever_came_first() {
        for way in [Way::Relay, Way::Near] {
            let mut ways = Ways::new(way, true);
            for round in 0..2 {
                let mut last = Next::Other;
                for _ in 0..2 {
                    let text = if ways.way() == Way::Relay { "relay" } else { "daemon" };
                    last = ways.failed(away(text));
                }
                assert!(
                    matches!(&last, Next::Later { fault, failures, .. }
                        if fault.message == "relay" && *failures == round),
                    "{last:?}"
                );
                assert_eq!(ways.way(), way);
            }
        }
    }

    #[test]
    fn beside_a_keeper_only_this_machines_daemon_is_tried_until_the_keeper_is_gone() {
        let mut ways = Ways::new(Way::Relay, true);
        ways.straight_first();
        ways.served();
        assert_eq!(ways.moved(), None);
        let absent = Fault::not_found("task", "beef");
        for (failures, fault) in [away("daemon"), absent, away("daemon")].into_iter().enumerate() {
            let failures = u32::try_from(failures).unwrap();
            let expected = Next::Later { pause: pause(failures), fault: fault.clone(), failures };
            assert_eq!(ways.failed_beside_keeper(fault), expected);
            assert_eq!((ways.way(), ways.moved()), (Way::Near, None));
        }
        assert_eq!((ways.failed(away("daemon")), ways.moved()), (Next::Other, Some(Way::Relay)));
        let mut ways = Ways::new(Way::Near, true);
        let conflict = Fault::new(Code::Conflict, "ended");
        assert_eq!(ways.failed_beside_keeper(conflict.clone()), Next::Never(conflict));
    }

    #[test]
    fn a_refusal_ends_it_but_that_this_machine_does_not_know_the_run_ends_nothing() {
        let conflict = Fault::new(Code::Conflict, "ended");
        for way in [Way::Relay, Way::Near] {
            assert!(matches!(Ways::new(way, true).failed(conflict.clone()), Next::Never(_)));
        }
        let absent = Fault::not_found("task", "beef");
        assert!(matches!(Ways::new(Way::Relay, true).failed(absent.clone()), Next::Never(_)));
        let mut near = Ways::new(Way::Near, true);
        near.failed(away("daemon"));
        assert!(matches!(near.failed(absent.clone()), Next::Later { .. }));
        let mut ways = Ways::new(Way::Relay, true);
        ways.failed(away("relay"));
        assert!(
            matches!(ways.failed(absent), Next::Later { fault, .. } if fault.message == "relay")
        );
    }
}
