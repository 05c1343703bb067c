//! How the daemon keeps its link to the relay: pure.
//!
//! After the welcome the outbox goes first, from behind what the relay holds; only when all of it
//! is on its way do heartbeat and claim follow. So when the relay hears the first beat of a link
//! it has heard every end that the daemon knew of.

use hayward_shared::backoff::Backoff;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::protocol::{
    Authenticated, Capability, PROTOCOL_VERSION, Tagged, ToDaemon, missing, worded,
};
use hayward_shared::run::HEARTBEAT_MS;

/// A relay that has not welcomed us after this long is treated as gone.
pub(super) const GREETING_MS: u64 = 10_000;

/// A link on which nothing came for this long is dead: two of the relay's pings (20 s) and some.
pub(super) const SILENCE_MS: u64 = 45_000;

/// A timer that comes later than this after it was due: this process stood still, as one that was
/// stopped. A machine that sleeps stops this clock too and is not told apart.
const ASLEEP_MS: u64 = 5_000;

/// What a relay must be able to do for this daemon.
const NEEDED: [Capability; 3] = [Capability::Outbox, Capability::Claim, Capability::Replies];

/// What helps where the two cannot work together.
const UPGRADE: &str = "upgrade the older of the two; this daemon goes on trying";

/// Something that happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages, moved once")]
pub(super) enum Event {
    /// The daemon wants to be linked.
    Start,
    /// The timer with this id is due; one that is not the present one does nothing.
    Due(u64),
    /// The socket is open.
    Opened,
    /// There is no socket, or it broke.
    Lost,
    /// A frame of any kind came.
    Heard,
    /// A message came.
    Received(Tagged<ToDaemon>),
    /// The outbox holds messages up to this number.
    OutboxGrew(u64),
    /// Everything up to this number is on its way.
    Transmitted(u64),
    /// There is room for so many more runs.
    Room(u32),
    /// A run waits for the acknowledgement of a beat.
    BeatWanted,
}

/// Something to do, in order.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages, moved once")]
pub(super) enum Effect {
    /// Open a socket; answered by [`Event::Opened`] or [`Event::Lost`].
    Connect,
    /// Close the socket, if there is one. No event follows from it.
    Close,
    /// Send the hello.
    Greet,
    /// Forget the outbox up to this number and count on from it.
    Acked(u64),
    /// Send the outbox after this number; answered by [`Event::Transmitted`].
    Transmit {
        /// The last number that is on its way.
        after: u64,
    },
    /// Send a heartbeat.
    Beat,
    /// The beat of this number was heard, and renewed the time of these tasks.
    Renewed(u64, Vec<TaskId>),
    /// Ask for work.
    Claim(u32),
    /// Do what the relay says.
    Command(Tagged<ToDaemon>),
    /// Wake me after so many milliseconds with this id.
    Arm {
        /// Which timer it is.
        id: u64,
        /// How long.
        ms: u64,
    },
    /// The link is up (the relay's id for us) or down. For people.
    Report(Standing),
}

/// How the link stands, for those who ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Welcomed, as this daemon.
    Up(hayward_shared::id::DaemonId),
    /// Not linked; trying.
    Down,
    /// The relay will not have us; trying on, in case it changes.
    Refused(Fault),
}

#[derive(Debug, PartialEq)]
enum State {
    Idle,
    Waiting,
    Connecting,
    Greeting,
    Up(Up),
}

#[derive(Debug, PartialEq)]
struct Up {
    /// The last number on its way.
    sent: u64,
    /// Whether a [`Effect::Transmit`] has yet to be answered.
    transmitting: bool,
    /// Whether the first beat of this link went out.
    settled: bool,
    /// Whether a claim waits for the outbox.
    owes_claim: bool,
}

/// The link's state. Milliseconds of `now` count from any fixed moment and never go back.
#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    timer: u64,
    /// When the present timer is due.
    due_at: u64,
    backoff: Backoff,
    heard: u64,
    outbox: u64,
    room: u32,
}

impl Machine {
    /// A machine for an outbox that holds messages up to `outbox`.
    #[must_use]
    pub(super) fn new(outbox: u64) -> Self {
        let backoff = Backoff::default();
        Self { state: State::Idle, timer: 0, due_at: u64::MAX, backoff, heard: 0, outbox, room: 0 }
    }

    /// Takes an event at `now`; `roll` in 0..1 spreads the waits.
    pub(super) fn on(&mut self, event: Event, now: u64, roll: f64) -> Vec<Effect> {
        if now > self.due_at.saturating_add(ASLEEP_MS) {
            // whoever it lost meanwhile, it lost alone
            self.backoff.alone();
        }
        match event {
            Event::Start if self.state == State::Idle => self.connect(),
            Event::Start => vec![],
            Event::Due(id) if id == self.timer => {
                self.due_at = u64::MAX;
                self.due(now, roll)
            }
            Event::Due(_) => vec![],
            Event::Opened if self.state == State::Connecting => {
                self.state = State::Greeting;
                self.heard = now;
                vec![Effect::Greet, self.arm(GREETING_MS, now)]
            }
            Event::Opened => vec![],
            Event::Lost if matches!(self.state, State::Idle | State::Waiting) => vec![],
            Event::Lost => self.fall(Standing::Down, now, roll),
            Event::Heard => {
                self.heard = now;
                vec![]
            }
            Event::Received(message) => self.received(message, now, roll),
            Event::OutboxGrew(last) => {
                self.outbox = self.outbox.max(last);
                self.transmit()
            }
            Event::Transmitted(last) => self.transmitted(last),
            Event::Room(slots) => {
                self.room = slots;
                self.claim()
            }
            Event::BeatWanted => match &self.state {
                State::Up(up) if up.settled => vec![Effect::Beat],
                _ => vec![],
            },
        }
    }

    fn connect(&mut self) -> Vec<Effect> {
        self.state = State::Connecting;
        vec![Effect::Connect]
    }

    fn due(&mut self, now: u64, roll: f64) -> Vec<Effect> {
        match &self.state {
            State::Idle | State::Connecting => vec![],
            State::Waiting => self.connect(),
            State::Greeting => self.fall(Standing::Down, now, roll),
            State::Up(_) if now.saturating_sub(self.heard) > SILENCE_MS => {
                self.fall(Standing::Down, now, roll)
            }
            State::Up(_) => {
                self.backoff.held();
                vec![Effect::Beat, self.arm(HEARTBEAT_MS.unsigned_abs(), now)]
            }
        }
    }

    fn fall(&mut self, standing: Standing, now: u64, roll: f64) -> Vec<Effect> {
        self.state = State::Waiting;
        let wait = self.backoff.wait_ms(roll);
        vec![Effect::Close, Effect::Report(standing), self.arm(wait, now)]
    }

    fn received(&mut self, message: Tagged<ToDaemon>, now: u64, roll: f64) -> Vec<Effect> {
        match (&mut self.state, &message.body) {
            (State::Greeting, ToDaemon::Authenticated(welcome)) => {
                let lacks = missing(&NEEDED, &welcome.capabilities);
                if !lacks.is_empty() {
                    let fault = incompatible(welcome, &lacks);
                    return self.fall(Standing::Refused(fault), now, roll);
                }
                let acked = welcome.acked_seq.unwrap_or(0);
                let standing = Standing::Up(welcome.daemon_id);
                self.outbox = self.outbox.max(acked);
                self.state = State::Up(Up {
                    sent: acked,
                    transmitting: false,
                    settled: false,
                    owes_claim: false,
                });
                let beat = self.arm(HEARTBEAT_MS.unsigned_abs(), now);
                let mut effects = vec![Effect::Acked(acked), Effect::Report(standing), beat];
                effects.extend(self.transmit());
                effects.extend(self.settle());
                effects
            }
            (State::Greeting, ToDaemon::Error { code, message, .. }) => {
                let code = serde_json::from_value(code.as_str().into()).unwrap_or(Code::Internal);
                let mut fault = Fault::new(code, message.clone());
                if fault.code == Code::Incompatible {
                    fault = fault.with_hint(UPGRADE);
                }
                self.fall(Standing::Refused(fault), now, roll)
            }
            (State::Up(_), ToDaemon::Ack { seq }) => vec![Effect::Acked(*seq)],
            (State::Up(_), ToDaemon::HeartbeatAck { beat, renewed, spread_ms }) => {
                if let Some(ms) = spread_ms {
                    self.backoff.spread_over(*ms);
                }
                vec![Effect::Renewed(*beat, renewed.clone())]
            }
            (State::Up(_), ToDaemon::WorkAvailable {}) => self.claim(),
            (State::Up(_), ToDaemon::Authenticated(_)) => vec![],
            (State::Up(_), _) => vec![Effect::Command(message)],
            _ => vec![],
        }
    }

    fn transmit(&mut self) -> Vec<Effect> {
        match &mut self.state {
            State::Up(up) if !up.transmitting && up.sent < self.outbox => {
                up.transmitting = true;
                vec![Effect::Transmit { after: up.sent }]
            }
            _ => vec![],
        }
    }

    fn transmitted(&mut self, last: u64) -> Vec<Effect> {
        if let State::Up(up) = &mut self.state {
            up.sent = up.sent.max(last);
            up.transmitting = false;
        }
        let mut effects = self.transmit();
        effects.extend(self.settle());
        if matches!(&self.state, State::Up(up) if up.owes_claim) {
            effects.extend(self.claim());
        }
        effects
    }

    /// The first beat and claim of a link, once the outbox is on its way.
    fn settle(&mut self) -> Vec<Effect> {
        match &mut self.state {
            State::Up(up) if !up.settled && up.sent >= self.outbox => {
                up.settled = true;
                let mut effects = vec![Effect::Beat];
                effects.extend(self.claim());
                effects
            }
            _ => vec![],
        }
    }

    /// Asks for work, behind every end that the outbox holds: a place is free for the relay only
    /// when it knows of the end that freed it.
    fn claim(&mut self) -> Vec<Effect> {
        match &mut self.state {
            State::Up(up) if up.settled && self.room > 0 => {
                up.owes_claim = up.sent < self.outbox;
                if up.owes_claim { vec![] } else { vec![Effect::Claim(self.room)] }
            }
            _ => vec![],
        }
    }

    fn arm(&mut self, ms: u64, now: u64) -> Effect {
        self.timer += 1;
        self.due_at = now.saturating_add(ms);
        Effect::Arm { id: self.timer, ms }
    }
}

fn incompatible(welcome: &Authenticated, lacks: &[Capability]) -> Fault {
    let theirs = welcome.version.as_deref().unwrap_or("of unknown version");
    let protocol = welcome
        .protocol_version
        .map_or("no protocol".to_owned(), |version| format!("protocol {version}"));
    let text = format!(
        "the relay {theirs} ({protocol}) lacks {} that this daemon {} (protocol {PROTOCOL_VERSION}) \
         needs",
        worded(lacks),
        env!("CARGO_PKG_VERSION"),
    );
    Fault::new(Code::Incompatible, text).with_hint(UPGRADE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayward_shared::id::DaemonId;
    use hayward_shared::protocol::{Authenticated, OURS};
    use proptest::prelude::*;

    fn welcome(acked: u64) -> Event {
        Event::Received(
            ToDaemon::Authenticated(Authenticated {
                daemon_id: DaemonId::fresh(),
                protocol_version: Some(1),
                version: Some("9".into()),
                capabilities: OURS.to_vec(),
                acked_seq: Some(acked),
            })
            .into(),
        )
    }

    fn greeted(outbox: u64, acked: u64) -> (Machine, Vec<Effect>) {
        let mut machine = Machine::new(outbox);
        machine.on(Event::Room(2), 0, 0.0);
        assert_eq!(machine.on(Event::Start, 0, 0.0), [Effect::Connect]);
        machine.on(Event::Opened, 1, 0.0);
        let effects = machine.on(welcome(acked), 2, 0.0);
        (machine, effects)
    }

    fn timer(effects: &[Effect]) -> u64 {
        effects
            .iter()
            .find_map(|e| if let Effect::Arm { id, .. } = e { Some(*id) } else { None })
            .unwrap()
    }

    #[test]
    fn f29_the_outbox_goes_before_the_first_beat_and_claim() {
        let (mut machine, effects) = greeted(9, 4);
        assert!(effects.contains(&Effect::Acked(4)));
        assert!(effects.contains(&Effect::Transmit { after: 4 }));
        assert!(!effects.contains(&Effect::Beat));
        assert_eq!(machine.on(Event::Received(ToDaemon::WorkAvailable {}.into()), 3, 0.0), []);
        assert_eq!(machine.on(Event::OutboxGrew(10), 3, 0.0), []);
        assert_eq!(machine.on(Event::Transmitted(9), 3, 0.0), [Effect::Transmit { after: 9 }]);
        assert_eq!(machine.on(Event::Transmitted(10), 3, 0.0), [Effect::Beat, Effect::Claim(2)]);
    }

    #[test]
    fn a_relay_that_holds_more_than_the_disk_wins() {
        let (mut machine, effects) = greeted(3, 8);
        assert!(effects.contains(&Effect::Acked(8)));
        assert!(effects.contains(&Effect::Claim(2)));
        assert_eq!(machine.on(Event::OutboxGrew(9), 3, 0.0), [Effect::Transmit { after: 8 }]);
    }

    #[test]
    fn f33_a_silent_link_is_dropped_and_a_heard_one_is_kept() {
        let (mut machine, effects) = greeted(0, 0);
        let first = timer(&effects);
        let kept = machine.on(Event::Due(first), 15_000, 0.0);
        assert_eq!(kept[0], Effect::Beat);
        machine.on(Event::Heard, 30_000, 0.0);
        let kept = machine.on(Event::Due(timer(&kept)), 60_000, 0.0);
        assert_eq!(kept[0], Effect::Beat);
        let lost = machine.on(Event::Due(timer(&kept)), 75_001, 0.0);
        assert_eq!(lost[..2], [Effect::Close, Effect::Report(Standing::Down)]);
        assert_eq!(machine.on(Event::Due(first), 75_002, 0.0), [], "a stale timer does nothing");
    }

    #[test]
    fn f36_a_relay_that_lacks_what_is_needed_is_refused_by_both_versions() {
        let mut machine = Machine::new(0);
        machine.on(Event::Start, 0, 0.0);
        machine.on(Event::Opened, 0, 0.0);
        let plain = Authenticated {
            daemon_id: DaemonId::fresh(),
            protocol_version: None,
            version: Some("0.0.9".into()),
            capabilities: vec![],
            acked_seq: None,
        };
        let effects = machine.on(Event::Received(ToDaemon::Authenticated(plain).into()), 0, 0.0);
        let Effect::Report(Standing::Refused(fault)) = &effects[1] else { panic!("{effects:?}") };
        assert!(
            fault.message.contains("0.0.9") && fault.message.contains(env!("CARGO_PKG_VERSION"))
        );
    }

    #[test]
    fn a_free_place_is_claimed_behind_the_end_that_freed_it() {
        let (mut machine, _) = greeted(0, 0);
        assert_eq!(machine.on(Event::Room(0), 3, 0.0), []);
        assert_eq!(machine.on(Event::OutboxGrew(1), 4, 0.0), [Effect::Transmit { after: 0 }]);
        assert_eq!(machine.on(Event::Room(1), 4, 0.0), []);
        assert_eq!(machine.on(Event::Transmitted(1), 5, 0.0), [Effect::Claim(1)]);
        assert_eq!(machine.on(Event::Room(1), 6, 0.0), [Effect::Claim(1)]);
        assert_eq!(machine.on(Event::Room(0), 6, 0.0), []);
    }

    #[test]
    fn f34_a_loss_is_spread_as_the_relay_told_but_for_one_that_slept_alone() {
        let told = |spread_ms| {
            let ack = ToDaemon::HeartbeatAck { beat: 1, renewed: vec![], spread_ms };
            Event::Received(ack.into())
        };
        let wait = |effects: &[Effect]| match effects[2] {
            Effect::Arm { ms, .. } => ms,
            _ => panic!("{effects:?}"),
        };
        let (mut machine, _) = greeted(0, 0);
        assert_eq!(machine.on(told(Some(30_000)), 3, 0.0), [Effect::Renewed(1, vec![])]);
        assert_eq!(machine.on(told(None), 3, 0.0), [Effect::Renewed(1, vec![])]);
        assert_eq!(wait(&machine.on(Event::Lost, 10, 0.9)), 27_000);
        let (mut machine, effects) = greeted(0, 0);
        machine.on(told(Some(30_000)), 3, 0.0);
        // stopped for five minutes: the relay hung up long ago
        let woken = machine.on(Event::Due(timer(&effects)), 300_000, 1.0);
        assert_eq!(wait(&woken), 1_000);
        // a relay that does not answer for long is no sleep
        let (mut machine, effects) = greeted(0, 0);
        machine.on(told(Some(30_000)), 3, 0.0);
        let lost = machine.on(Event::Lost, 10, 0.0);
        assert_eq!(timer(&lost), timer(&effects) + 1);
        machine.on(Event::Due(timer(&lost)), 10, 0.0);
        assert_eq!(wait(&machine.on(Event::Lost, 20_000, 0.5)), 15_000);
    }

    #[test]
    fn a_beat_that_a_run_waits_for_goes_out_behind_the_outbox_and_moves_no_timer() {
        let (mut machine, _) = greeted(9, 4);
        assert_eq!(machine.on(Event::BeatWanted, 3, 0.0), []);
        machine.on(Event::Transmitted(9), 4, 0.0);
        assert_eq!(machine.on(Event::BeatWanted, 5, 0.0), [Effect::Beat]);
    }

    proptest! {
        #[test]
        fn waits_grow_to_their_bound_and_are_spread(falls in 1u32..40, roll in 0.0f64..1.0) {
            let mut machine = Machine::new(0);
            machine.on(Event::Start, 0, roll);
            let mut last = 0;
            for _ in 0..falls {
                let effects = machine.on(Event::Lost, 0, roll);
                let Effect::Arm { id, ms } = effects[2] else { panic!() };
                prop_assert!(ms <= 30_000);
                prop_assert!(ms >= last || ms == 0);
                last = ms;
                prop_assert_eq!(machine.on(Event::Due(id), 0, roll), vec![Effect::Connect]);
            }
        }
    }
}
