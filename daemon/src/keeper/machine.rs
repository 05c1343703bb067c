//! How a session ends: the agent's end, then its leftovers', then its output's, then the record.
//! Pure: moments are milliseconds on a clock of the caller's that never goes back.

use super::folder::How;

/// Between asking the leftovers to end and making them.
const LEFTOVER_GRACE_MS: u64 = 500;
/// When leftovers are given up: what a kill does not end in this time hangs inside the kernel.
const GIVE_UP_MS: u64 = 10_000;
/// How often the tree is counted while it ends: a look through the process table costs about 1 ms.
const LOOK_MS: u64 = 20;
/// How long output may keep coming once nothing of the tree is left: only a stranger that was
/// given the terminal can hold it open.
const DRAIN_MS: u64 = 1000;
/// How long the end may take to reach clients that do not read: the record is the truth.
const LINGER_MS: u64 = 1000;
/// How long the disk may refuse the record before it is tried again.
const RETRY_MS: u64 = 1000;

/// Where a session stands. Owned by the keeper's loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    phase: Phase,
    /// The output was read to its end.
    drained: bool,
    /// When the next look is due.
    due: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The agent lives; asked to end, it is made to at `due`.
    Running,
    /// The agent has ended; what it left is being ended.
    Clearing { how: How, since: u64, leftovers: Option<u32> },
    /// Nothing is left; the rest of the output is read.
    Draining { how: How, leftovers: u32 },
    /// All is known, but the disk has not taken it yet.
    Recording { how: How, leftovers: u32 },
    /// The record is written; clients are being told.
    Telling,
    /// Nothing is left to do.
    Over,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A client, or the machine going down, wants the session to end.
    End { grace_ms: u64 },
    /// The agent itself ended, or never started.
    AgentEnded(How),
    /// So many processes of the tree still live.
    Counted(usize),
    /// The output was read to its end.
    Drained,
    /// The record is on the disk, or not.
    Recorded(bool),
    /// The run folder was removed: the end can be recorded nowhere.
    Homeless,
    /// Every client was told.
    Told,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask every process of the tree to end.
    Ask,
    /// Make every process of the tree end.
    Make,
    /// Count the living processes of the tree and say so.
    Count,
    /// Let go of the agent's end of the terminal, so that its output can end.
    LetGo,
    /// Stop reading output, then write the record.
    Record { how: How, leftovers: u32, drained: bool },
    /// Tell every client that it is over.
    Tell,
}

impl Machine {
    /// A session whose agent was just started.
    pub(super) fn new() -> Self {
        Self { phase: Phase::Running, drained: false, due: None }
    }

    /// Whether the agent itself has ended.
    pub(super) fn agent_ended(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Whether the keeper may leave.
    pub(super) fn over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// When the next [`Event::Tick`] is due.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Takes one event; the effects are to be run in order.
    pub(super) fn on(&mut self, event: Event, now: u64) -> Vec<Effect> {
        match (self.phase.clone(), event) {
            (Phase::Running, Event::End { grace_ms }) => {
                let made = now.saturating_add(grace_ms);
                self.due = Some(self.due.map_or(made, |earlier| earlier.min(made)));
                vec![Effect::Ask]
            }
            (Phase::Running, Event::Tick) if self.is_due(now) => {
                // what forks faster than it is ended is met again
                self.due = Some(now + LOOK_MS);
                vec![Effect::Make]
            }
            (Phase::Running, Event::AgentEnded(how)) => {
                self.phase = Phase::Clearing { how, since: now, leftovers: None };
                self.due = Some(now + LOOK_MS);
                vec![Effect::Count]
            }
            (Phase::Clearing { how, since, leftovers }, Event::Counted(count)) => {
                self.counted(how, since, leftovers, count, now)
            }
            (Phase::Clearing { .. }, Event::Tick) if self.is_due(now) => {
                self.due = Some(now + LOOK_MS);
                vec![Effect::Count]
            }
            (Phase::Draining { how, leftovers }, Event::Drained) => {
                self.drained = true;
                self.record(how, leftovers, now)
            }
            (Phase::Draining { how, leftovers }, Event::Tick) if self.is_due(now) => {
                self.record(how, leftovers, now)
            }
            (Phase::Recording { .. }, Event::Recorded(true)) => {
                self.phase = Phase::Telling;
                self.due = Some(now + LINGER_MS);
                vec![Effect::Tell]
            }
            (Phase::Recording { how, leftovers }, Event::Tick) if self.is_due(now) => {
                self.record(how, leftovers, now)
            }
            // who finds neither folder nor keeper knows that the session is lost
            (Phase::Recording { .. }, Event::Homeless) => self.leave(),
            (Phase::Telling, Event::Told) => self.leave(),
            (Phase::Telling, Event::Tick) if self.is_due(now) => self.leave(),
            (_, Event::Drained) => {
                self.drained = true;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn counted(
        &mut self,
        how: How,
        since: u64,
        known: Option<u32>,
        count: usize,
        now: u64,
    ) -> Vec<Effect> {
        let leftovers = known.unwrap_or_else(|| u32::try_from(count).unwrap_or(u32::MAX));
        if count == 0 || now >= since + GIVE_UP_MS {
            if self.drained {
                return self.record(how, leftovers, now);
            }
            self.phase = Phase::Draining { how, leftovers };
            self.due = Some(now + DRAIN_MS);
            return vec![Effect::LetGo];
        }
        self.phase = Phase::Clearing { how, since, leftovers: Some(leftovers) };
        match known {
            None => vec![Effect::Ask],
            Some(_) if now >= since + LEFTOVER_GRACE_MS => vec![Effect::Make],
            Some(_) => Vec::new(),
        }
    }

    fn record(&mut self, how: How, leftovers: u32, now: u64) -> Vec<Effect> {
        self.phase = Phase::Recording { how: how.clone(), leftovers };
        self.due = Some(now + RETRY_MS);
        vec![Effect::Record { how, leftovers, drained: self.drained }]
    }

    fn leave(&mut self) -> Vec<Effect> {
        self.phase = Phase::Over;
        self.due = None;
        Vec::new()
    }

    fn is_due(&self, now: u64) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEFT: How = How::Exited { code: 0 };

    #[test]
    fn f04_leftovers_are_asked_then_made_to_end_before_anything_is_recorded() {
        let mut machine = Machine::new();
        assert_eq!(machine.on(Event::AgentEnded(LEFT), 0), [Effect::Count]);
        assert_eq!(machine.on(Event::Counted(3), 0), [Effect::Ask]);
        assert_eq!(machine.on(Event::Tick, 19), []);
        assert_eq!(machine.on(Event::Tick, 20), [Effect::Count]);
        assert_eq!(machine.on(Event::Counted(2), 20), []);
        assert_eq!(machine.on(Event::Tick, 500), [Effect::Count]);
        assert_eq!(machine.on(Event::Counted(1), 500), [Effect::Make]);
        assert_eq!(machine.on(Event::Tick, 520), [Effect::Count]);
        assert_eq!(machine.on(Event::Counted(0), 520), [Effect::LetGo]);
        let record = Effect::Record { how: LEFT, leftovers: 3, drained: true };
        assert_eq!(machine.on(Event::Drained, 530), [record]);
        assert_eq!(machine.on(Event::Recorded(true), 531), [Effect::Tell]);
        machine.on(Event::Told, 532);
        assert!(machine.over());
    }

    #[test]
    fn f05_output_that_never_ends_is_cut_off() {
        let mut machine = Machine::new();
        machine.on(Event::AgentEnded(LEFT), 0);
        machine.on(Event::Counted(0), 0);
        assert_eq!(machine.on(Event::Tick, 999), []);
        let record = [Effect::Record { how: LEFT, leftovers: 0, drained: false }];
        assert_eq!(machine.on(Event::Tick, 1000), record);
        assert_eq!(machine.on(Event::Recorded(false), 1001), []);
        assert_eq!(machine.on(Event::Tick, 2000), record);
    }

    #[test]
    fn a_keeper_whose_folder_was_removed_leaves_and_tells_nothing() {
        let mut machine = Machine::new();
        machine.on(Event::Homeless, 0);
        assert!(!machine.over(), "the agent runs");
        machine.on(Event::Drained, 0);
        machine.on(Event::AgentEnded(LEFT), 0);
        let record = Effect::Record { how: LEFT, leftovers: 0, drained: true };
        assert_eq!(machine.on(Event::Counted(0), 1), [record]);
        assert_eq!(machine.on(Event::Homeless, 2), []);
        assert!(machine.over());
    }

    #[test]
    fn the_shortest_grace_counts() {
        let mut machine = Machine::new();
        assert_eq!(machine.on(Event::End { grace_ms: 100 }, 0), [Effect::Ask]);
        machine.on(Event::End { grace_ms: 9000 }, 10);
        assert_eq!(machine.on(Event::Tick, 100), [Effect::Make]);
        assert_eq!(machine.on(Event::Tick, 120), [Effect::Make]);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..3000).prop_map(|grace_ms| Event::End { grace_ms }),
            Just(Event::AgentEnded(LEFT)),
            (0usize..3).prop_map(Event::Counted),
            Just(Event::Drained),
            any::<bool>().prop_map(Event::Recorded),
            Just(Event::Homeless),
            Just(Event::Told),
            Just(Event::Tick),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_clients_hear_of_the_end_once_and_after_the_record(
            events in prop::collection::vec((event(), 0u64..400), 0..80),
        ) {
            let (mut machine, mut now, mut recorded, mut told) = (Machine::new(), 0, false, 0);
            for (event, step) in events {
                now += step;
                if event == Event::Recorded(true) && !recorded {
                    continue;
                }
                for effect in machine.on(event, now) {
                    match effect {
                        Effect::Record { .. } => { prop_assert!(told == 0); recorded = true; }
                        Effect::Tell => { prop_assert!(recorded); told += 1; }
                        Effect::Ask | Effect::Make | Effect::LetGo | Effect::Count => {
                            prop_assert!(!recorded);
                        }
                    }
                }
                prop_assert!(told <= 1);
            }
        }
    }
}
