use super::super::record::settled;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

/// What happens beside the queue, one thing before each piece of work.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    TargetMoves,
    InTheWay,
    Trouble,
    DaemonDies,
    Removed(usize),
}

/// A repository made of numbers: a commit is the entries that it holds and how often somebody else
/// moved the target.
struct World {
    ids: Vec<EntryId>,
    guilty: BTreeSet<usize>,
    /// The check fails where both are in.
    bad_pair: Option<(usize, usize)>,
    /// Pairs that conflict.
    clashes: BTreeSet<(usize, usize)>,
    /// The check fails wherever this one is not in.
    mended_by: Option<usize>,
    commits: HashMap<String, Vec<usize>>,
    target: String,
    moves: usize,
    passed: BTreeSet<String>,
    checks: usize,
    ended: HashMap<usize, (QueueState, bool)>,
    landed: Vec<usize>,
}

impl World {
    fn new(count: usize) -> Self {
        Self {
            ids: (0..count).map(|_| EntryId::fresh()).collect(),
            guilty: BTreeSet::new(),
            bad_pair: None,
            clashes: BTreeSet::new(),
            mended_by: None,
            commits: HashMap::from([("tip".to_owned(), vec![])]),
            target: "tip".to_owned(),
            moves: 0,
            passed: BTreeSet::new(),
            checks: 0,
            ended: HashMap::new(),
            landed: Vec::new(),
        }
    }

    fn index(&self, id: EntryId) -> usize {
        self.ids.iter().position(|one| *one == id).unwrap()
    }

    fn passes(&self, held: &[usize]) -> bool {
        let both = |(a, b): (usize, usize)| held.contains(&a) && held.contains(&b);
        !held.iter().any(|one| self.guilty.contains(one))
            && !self.bad_pair.is_some_and(both)
            && self.mended_by.is_none_or(|one| held.contains(&one))
    }

    fn clash(&self, held: &[usize], one: usize) -> bool {
        held.iter().any(|other| self.clashes.contains(&((*other).min(one), (*other).max(one))))
    }

    fn build(&mut self, members: &[EntryId]) -> Built {
        let tip = self.commits[&self.target].clone();
        let mut candidate = Candidate { from: self.target.clone(), joined: vec![] };
        let mut conflicts = Vec::new();
        let mut held = tip.clone();
        for id in members {
            let one = self.index(*id);
            if self.clash(&tip, one) {
                conflicts.push((*id, Some(vec!["file".to_owned()])));
            } else if self.clash(&held, one) {
                break;
            } else {
                held.push(one);
                let commit = format!("{}+{one};", candidate.to());
                self.commits.insert(commit.clone(), held.clone());
                candidate.joined.push((*id, commit));
            }
        }
        Built { candidate, conflicts }
    }

    fn note(&mut self, changes: Vec<Change>) {
        for change in changes {
            let one = self.index(change.id);
            assert!(!self.ended.contains_key(&one), "{one} changed after its end: {change:?}");
            if !change.state.is_final() {
                continue;
            }
            self.ended.insert(one, (change.state, change.blame.is_some()));
            let tip = self.commits[&self.target].clone();
            match change.state {
                QueueState::Failed => {
                    let with: Vec<_> = tip.iter().copied().chain([one]).collect();
                    assert!(!self.passes(&with), "{one} is innocent");
                    assert_eq!(change.blame.is_some(), self.passes(&tip), "blame of {one}");
                }
                QueueState::Conflict => assert!(self.clash(&tip, one), "{one} conflicts with none"),
                QueueState::Landed => {
                    assert!(tip.contains(&one), "{one} is not in the target");
                    self.landed.push(one);
                }
                _ => {}
            }
        }
    }

    fn perform(&mut self, work: Work, is_checked: bool, in_the_way: bool) -> Event {
        match work {
            Work::Build(members) => Event::Built(self.build(&members)),
            Work::Test { commit, tip, .. } => {
                assert!(is_checked);
                assert!(commit.starts_with(&tip));
                self.checks += 1;
                match self.passes(&self.commits[&commit]) {
                    true => {
                        self.passed.insert(commit);
                        Event::Passed
                    }
                    false => Event::Failed("broken".to_owned()),
                }
            }
            // a daemon that was killed may have done it
            Work::Land { to, .. } if self.target.starts_with(&to) => Event::Landed,
            Work::Land { .. } if in_the_way => Event::Held("in the way".to_owned()),
            Work::Land { from, to } if self.target == from => {
                assert!(!is_checked || self.passed.contains(&to), "{to} was never checked");
                self.target = to;
                Event::Landed
            }
            Work::Land { .. } => Event::Moved,
            Work::Rest { .. } => Event::TimeUp,
        }
    }

    /// Runs a lane to its end.
    fn run(&mut self, check: &str, beside: &[Beside]) {
        let check = Check { command: check.to_owned(), seconds: 60 };
        let mut lane = Lane::new(Uuid::nil());
        let item = |id: &EntryId| Item { id: *id, check: check.clone() };
        let mut turn = lane.add(self.ids.iter().map(item).collect());
        let mut beside = beside.iter();
        for _ in 0..10_000 {
            self.note(settled(std::mem::take(&mut turn.changes)));
            let Some((number, work)) = turn.work.take() else {
                assert!(lane.is_empty(), "it stopped with entries left: {lane:?}");
                return;
            };
            let mut in_the_way = false;
            match beside.next().copied().unwrap_or(Beside::Nothing) {
                Beside::Nothing => {}
                Beside::TargetMoves => {
                    self.moves += 1;
                    let held = self.commits[&self.target].clone();
                    self.target = format!("{}!{};", self.target, self.moves);
                    self.commits.insert(self.target.clone(), held);
                }
                Beside::InTheWay => in_the_way = true,
                Beside::Trouble => {
                    turn = lane.on(number, Event::Trouble("disk".to_owned()));
                    continue;
                }
                Beside::DaemonDies => {
                    // whatever was decided is on disk; what was under way may have been done
                    let kept = serde_json::to_string(&lane).unwrap();
                    let is_landing = matches!(work, Work::Land { .. });
                    if is_landing && self.moves.is_multiple_of(2) {
                        self.perform(work, !check.command.is_empty(), false);
                    }
                    lane = serde_json::from_str(&kept).unwrap();
                    turn = lane.resume();
                    continue;
                }
                Beside::Removed(one) => {
                    let id = self.ids[one % self.ids.len()];
                    if let Ok(mut removed) = lane.remove(id) {
                        self.note(settled(std::mem::take(&mut removed.changes)));
                        if !lane.awaits(number) {
                            assert_eq!(lane.on(number, Event::Passed), Turn::default());
                            turn = removed;
                            continue;
                        }
                    }
                }
            }
            let done = self.perform(work, !check.command.is_empty(), in_the_way);
            turn = lane.on(number, done);
        }
        panic!("it does not end");
    }

    fn states(&self) -> Vec<QueueState> {
        (0..self.ids.len()).map(|one| self.ended[&one].0).collect()
    }
}

use QueueState::{Conflict, Failed, Landed};

#[test]
fn three_of_five_land_in_order_and_two_are_told_why() {
    let mut world = World::new(5);
    world.clashes.insert((0, 1));
    world.guilty.insert(3);
    world.run("make", &[]);
    assert_eq!(world.states(), [Landed, Conflict, Landed, Failed, Landed]);
    assert_eq!(world.landed, [0, 2, 4]);
}

#[test]
fn who_conflicts_with_a_guilty_one_alone_lands() {
    let mut world = World::new(2);
    world.clashes.insert((0, 1));
    world.guilty.insert(0);
    world.run("make", &[]);
    assert_eq!(world.states(), [Failed, Landed]);
}

#[test]
fn a_target_that_fails_by_itself_blames_nobody_and_the_one_that_mends_it_lands() {
    let mut world = World::new(3);
    world.guilty.insert(0);
    world.mended_by = Some(1);
    world.run("make", &[]);
    assert_eq!(world.ended[&0], (Failed, false));
    assert_eq!(world.states(), [Failed, Landed, Landed]);
}

#[test]
fn without_a_check_all_that_merges_lands() {
    let mut world = World::new(20);
    world.guilty.insert(3);
    world.run("", &[]);
    assert_eq!(world.landed, (0..20).collect::<Vec<_>>());
    assert_eq!(world.checks, 0);
}

#[test]
fn what_is_landing_is_not_taken_out_and_what_is_held_is() {
    let mut lane = Lane::new(Uuid::nil());
    let id = EntryId::fresh();
    let turn = lane.add(vec![Item { id, check: Check::default() }]);
    let candidate = Candidate { from: "a".into(), joined: vec![(id, "b".into())] };
    let built = Event::Built(Built { candidate, conflicts: vec![] });
    let turn = lane.on(turn.work.unwrap().0, built);
    assert_eq!(lane.remove(id), Err(Stays::Landing));
    let turn = lane.on(turn.work.unwrap().0, Event::Held("in the way".into()));
    assert_eq!(turn.changes[0].message, "in the way");
    assert_eq!(lane.remove(id).unwrap().changes[0].state, QueueState::Removed);
    assert_eq!(lane.remove(id), Err(Stays::Absent));
    assert!(lane.is_empty());
}

#[test]
fn rests_double_to_a_minute() {
    let mut lane = Lane::new(Uuid::nil());
    let pauses: Vec<_> = (1..9)
        .map(|misses| {
            lane.misses = misses;
            lane.pause() / 1000
        })
        .collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn a_batch_ends_where_another_check_begins() {
    let mut lane = Lane::new(Uuid::nil());
    let item = |command: &str| Item {
        id: EntryId::fresh(),
        check: Check { command: command.into(), seconds: 1 },
    };
    let items = vec![item("a"), item("a"), item("b")];
    let first: Vec<_> = items.iter().take(2).map(|item| item.id).collect();
    assert_eq!(lane.add(items).work.unwrap().1, Work::Build(first));
}

fn beside() -> impl Strategy<Value = Beside> {
    prop_oneof![
        6 => Just(Beside::Nothing),
        1 => Just(Beside::TargetMoves),
        1 => Just(Beside::InTheWay),
        1 => Just(Beside::Trouble),
        1 => Just(Beside::DaemonDies),
        1 => (0_usize..20).prop_map(Beside::Removed),
    ]
}

proptest! {
    #[test]
    fn each_ends_once_in_order_and_nobody_innocent_fails(
        count in 1_usize..20,
        guilty in proptest::collection::btree_set(0_usize..20, 0..5),
        pair in proptest::option::of((0_usize..20, 0_usize..20)),
        clashes in proptest::collection::btree_set((0_usize..20, 0_usize..20), 0..6),
        mended_by in proptest::option::weighted(0.2, 0_usize..20),
        is_checked in proptest::bool::weighted(0.9),
        beside in proptest::collection::vec(beside(), 0..60),
    ) {
        let mut world = World::new(count);
        world.guilty = guilty;
        world.bad_pair = pair.filter(|(a, b)| a != b);
        world.clashes = clashes.into_iter().filter(|(a, b)| a < b).collect();
        world.mended_by = mended_by;
        world.run(if is_checked { "make" } else { "" }, &beside);
        prop_assert_eq!(world.ended.len(), count);
        prop_assert!(world.landed.is_sorted(), "out of order: {:?}", world.landed);
        let held = world.commits[&world.target].clone();
        prop_assert_eq!(&held, &world.landed);
    }

    #[test]
    fn a_guilty_one_costs_few_checks(
        count in 1_usize..40,
        guilty in proptest::collection::btree_set(0_usize..40, 0..6),
    ) {
        let mut world = World::new(count);
        world.guilty = guilty.into_iter().filter(|one| *one < count).collect();
        let number = world.guilty.len();
        world.run("make", &[]);
        let (all, found): (BTreeSet<_>, BTreeSet<_>) = (
            world.guilty.clone(),
            world.ended.iter().filter(|(_, end)| end.0 == Failed).map(|(one, _)| *one).collect(),
        );
        prop_assert_eq!(all, found);
        // halvings of a batch, the proof of the tip, and the batch begun anew behind it
        let each = BATCH.ilog2() as usize + 3;
        let most = count.div_ceil(BATCH) + number * each;
        prop_assert!(world.checks <= most, "{} checks for {number} of {count}", world.checks);
    }
}
