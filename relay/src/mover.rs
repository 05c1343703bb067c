//! The clock of leases: which relay moves it, and how far. Pure.
//!
//! The clock is a row that all relays of a database share: how far it is, and how often it was moved
//! (its turn). It is moved by what a relay's own steady clock ran since it knew that the last move was
//! stored, at most by [`Mover::most`], and only if nobody else moved it meanwhile. So no two moves
//! count the same time, and while no relay runs, or none reaches the database, it stands still.
//!
//! It is therefore never faster than time itself, but for what was under way when it was read: one
//! move that was not stored yet, and what the next one had counted by then. Who reads it at one moment
//! finds it at a later one by [`Mover::ahead`] more than time at the most. No relay has to be
//! chosen for that, and one that stood still, however long, can only find that it was passed.
//!
//! One relay moves it at a time nevertheless: another takes over only when it stood still for long.

/// A move that a relay may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// The turn after which it comes; after another it does not count.
    pub(crate) after: i64,
    /// Milliseconds.
    pub(crate) by: i64,
    /// Whether another moved the clock before, or this relay in another life: whom that one heard may
    /// need time to come back.
    pub(crate) takes_over: bool,
}

/// What a relay knows of the clock's moves.
#[derive(Clone, Debug)]
pub(crate) struct Mover {
    most: i64,
    known: Option<Known>,
    /// When another was last seen to move it.
    others: Option<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    turn: i64,
    /// By this relay's own clock, at or after the moment at which that turn was stored.
    since: i64,
    own: bool,
}

impl Mover {
    /// A relay that knows nothing yet. A move counts `most` milliseconds at the most, and another's
    /// clock is taken over when it stood still for as long.
    pub(crate) fn new(most: i64) -> Self {
        Self { most: most.max(1), known: None, others: None }
    }

    /// By how many milliseconds the clock may be found to have run more than time, where a move
    /// counts `most` at the most.
    pub(crate) fn ahead(most: i64) -> i64 {
        most.max(1).saturating_mul(2)
    }

    /// The clock was read at this turn; `now` is this relay's own steady clock after that. `needed`
    /// says whether there is anything that it measures: while there is not, no time counts.
    pub(crate) fn look(&mut self, turn: i64, now: i64, needed: bool) -> Option<Move> {
        let Some(known) = self.known.as_mut().filter(|known| known.turn == turn) else {
            if self.known.is_some() {
                self.others = Some(now);
            }
            self.known = Some(Known { turn, since: now, own: false });
            return None;
        };
        if !needed {
            known.since = now;
            return None;
        }
        let ran = now.saturating_sub(known.since);
        let patience = if known.own { 1 } else { self.most };
        let takes_over = !known.own;
        (ran >= patience).then(|| Move { after: turn, by: ran.min(self.most), takes_over })
    }

    /// The move that was made of the look at `looked` is stored.
    pub(crate) fn moved(&mut self, of: Move, looked: i64) {
        self.known = Some(Known { turn: of.after + 1, since: looked, own: true });
    }

    /// A move or a look failed, or nobody knows what became of it.
    pub(crate) fn lost(&mut self) {
        self.known = None;
    }

    /// Whether it is for this relay to see to what is overdue; several may think so.
    pub(crate) fn leads(&self, now: i64) -> bool {
        self.others.is_none_or(|at| now.saturating_sub(at) > Self::ahead(self.most))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Moves count this many milliseconds at the most.
    pub(crate) const MOST: i64 = 5_000;

    /// What one relay of several does.
    #[derive(Clone, Debug)]
    pub(crate) enum Act {
        /// It looks; the answer comes, and what it stores is stored, after so many milliseconds. Is it
        /// told so?
        Look { answer: i64, store: i64, told: bool },
        /// It stands still, and its clock with it, for so long.
        Freeze(i64),
        /// It ends, and another comes in its place.
        Restart,
    }

    pub(crate) fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            12 => (0i64..1_500, 0i64..1_500, prop::bool::weighted(0.9))
                .prop_map(|(answer, store, told)| Act::Look { answer, store, told }),
            1 => (0i64..120_000).prop_map(Act::Freeze),
            1 => Just(Act::Restart),
        ]
    }

    struct Peer {
        mover: Mover,
        /// How long its clock stood still in all.
        frozen: i64,
        /// Until when it does nothing else.
        busy: i64,
    }

    /// Something that comes about later.
    enum Due {
        Answer { store: i64, told: bool, turn: i64 },
        Stored { told: bool, of: Move, looked: i64 },
    }

    /// Relays that share a clock, in a time that they do not know.
    pub(crate) struct World {
        pub(crate) now: i64,
        /// How far the clock is, as whoever reads it sees.
        pub(crate) clock: i64,
        turn: i64,
        peers: Vec<Peer>,
        due: Vec<(i64, usize, Due)>,
        /// How often it was taken over.
        pub(crate) taken: u32,
    }

    impl World {
        pub(crate) fn of(relays: usize) -> Self {
            let peer = || Peer { mover: Mover::new(MOST), frozen: 0, busy: 0 };
            let peers = (0..relays).map(|_| peer()).collect();
            Self { now: 0, clock: 0, turn: 0, peers, due: Vec::new(), taken: 0 }
        }

        /// Time goes by, and what is due by then comes about.
        pub(crate) fn until(&mut self, end: i64) {
            loop {
                let next = (0..self.due.len()).min_by_key(|at| self.due[*at].0);
                let Some(at) = next.filter(|at| self.due[*at].0 <= end) else { break };
                let (when, peer, due) = self.due.remove(at);
                self.now = self.now.max(when);
                self.come_about(peer, due);
            }
            self.now = self.now.max(end);
        }

        /// Time goes by, and each relay looks each second, one a little after the other.
        pub(crate) fn tick_until(&mut self, end: i64) {
            while self.now < end {
                let next = (self.now / 250 + 1) * 250;
                self.until(next.min(end));
                if self.now == next {
                    let nth = usize::try_from(next / 250 % 4).unwrap();
                    if nth < self.peers.len() {
                        self.act(nth, Act::Look { answer: 2, store: 5, told: true });
                    }
                }
            }
        }

        fn come_about(&mut self, nth: usize, due: Due) {
            let peer = &mut self.peers[nth];
            match due {
                Due::Answer { store, told, turn } => {
                    let looked = self.now - peer.frozen;
                    if let Some(of) = peer.mover.look(turn, looked, true) {
                        self.due.push((self.now + store, nth, Due::Stored { told, of, looked }));
                        if !told {
                            // it waits no longer, and what it sent may be stored all the same
                            peer.mover.lost();
                        }
                    }
                }
                Due::Stored { told, of, looked } => {
                    let counts = of.after == self.turn;
                    if counts {
                        self.clock += of.by;
                        self.turn += 1;
                        self.taken += u32::from(of.takes_over);
                    }
                    match (told, counts) {
                        (true, true) => peer.mover.moved(of, looked),
                        (true, false) => peer.mover.lost(),
                        (false, _) => {}
                    }
                }
            }
        }

        pub(crate) fn act(&mut self, nth: usize, act: Act) {
            let (turn, now) = (self.turn, self.now);
            let count = self.peers.len();
            let peer = &mut self.peers[nth % count];
            match act {
                Act::Look { .. } if peer.busy > now => {}
                Act::Look { answer, store, told } => {
                    peer.busy = now + answer + if told { store } else { 0 } + 1;
                    self.due.push((now + answer, nth % count, Due::Answer { store, told, turn }));
                }
                Act::Freeze(ms) => {
                    // what it had sent is stored all the same, and what it was told waits
                    peer.busy = peer.busy.max(now) + ms;
                    peer.frozen += ms;
                    for (when, _, due) in
                        self.due.iter_mut().filter(|(_, of, _)| *of == nth % count)
                    {
                        if matches!(due, Due::Answer { .. }) {
                            *when += ms;
                        }
                    }
                }
                Act::Restart => {
                    peer.mover = Mover::new(MOST);
                    // what it had sent may be stored after its end; nobody is told
                    for (_, _, due) in self.due.iter_mut().filter(|(_, of, _)| *of == nth % count) {
                        if let Due::Stored { told, .. } = due {
                            *told = false;
                        }
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn f28_the_clock_of_leases_never_runs_faster_than_time_whichever_relay_moves_it(
            relays in 1usize..4,
            acts in prop::collection::vec((0i64..3_000, 0usize..4, act()), 0..120),
        ) {
            let mut world = World::of(relays);
            let mut seen: Vec<(i64, i64)> = vec![(0, 0)];
            for (gap, nth, act) in acts {
                world.until(world.now + gap);
                let (now, clock) = (world.now, world.clock);
                for (then, was) in &seen {
                    prop_assert!(clock >= *was, "it went back");
                    prop_assert!(
                        clock - was <= now - then + Mover::ahead(MOST),
                        "{was} at {then}, {clock} at {now}"
                    );
                }
                seen.push((now, clock));
                world.act(nth, act);
            }
        }
    }

    #[test]
    fn one_relay_keeps_the_clock_right_and_a_second_one_only_watches() {
        let mut world = World::of(2);
        for n in 0..60_000 {
            if n % 1_000 == 0 {
                world.act(0, Act::Look { answer: 1, store: 5, told: true });
            }
            if n % 1_000 == 600 {
                world.act(1, Act::Look { answer: 1, store: 5, told: true });
            }
            world.until(n);
        }
        // the first five seconds it was waited whether somebody else moves it
        assert!((57_000..60_000).contains(&world.clock), "{}", world.clock);
        assert_eq!(world.taken, 1);
        let leads = |nth: usize| world.peers[nth].mover.leads(world.now);
        assert_ne!(leads(0), leads(1), "one of the two sees to what is overdue");
    }

    #[test]
    fn another_relay_takes_over_when_the_first_is_gone_and_counts_nothing_for_it() {
        let mut world = World::of(2);
        let look = || Act::Look { answer: 0, store: 0, told: true };
        for n in 0..20 {
            world.until(n * 1_000);
            world.act(0, look());
            world.act(1, look());
        }
        let (before, gone) = (world.clock, world.now);
        for n in 20..40 {
            world.until(n * 1_000);
            world.act(1, look());
        }
        world.until(41_000);
        assert_eq!(world.taken, 2);
        assert!(world.peers[1].mover.leads(world.now));
        let ran = world.clock - before;
        assert!(ran <= world.now - gone && ran >= 18_000, "{ran}");
    }

    #[test]
    fn while_there_is_nothing_to_measure_no_time_counts() {
        let mut mover = Mover::new(MOST);
        for now in 0..100 {
            assert_eq!(mover.look(7, now * 1_000, false), None);
        }
        assert_eq!(mover.look(7, 100_000, true), None);
        let due = mover.look(7, 104_000, true).unwrap();
        assert_eq!(due, Move { after: 7, by: MOST, takes_over: true });
    }
}
