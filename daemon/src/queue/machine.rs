//! One lane of the merge queue: what goes to one branch of one repository, in order. Pure.
//!
//! Entries are merged onto the target's tip one after another, and the check runs on the result:
//! what passes it lands whole. When it fails, the batch is halved until the one entry is found with
//! which it begins to fail; those before it have landed by then, and those behind it go on without
//! it. An entry that conflicts with nothing but an earlier one of its batch waits until that one
//! has landed, or has not.

use hayward_shared::id::EntryId;
use hayward_shared::queue::QueueState;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most entries that are checked together: more save little, and a batch that fails costs one
/// more check for each doubling.
pub const BATCH: usize = 8;

/// The target may move under so many candidates in a row before the lane takes a rest.
const MOVES: u32 = 4;

/// The first rest. Each one after it is twice as long.
const FIRST_REST_MS: u64 = 1_000;

/// The longest rest: a checkout that was in the way is seen to be clean within a minute.
const LONGEST_REST_MS: u64 = 60_000;

/// A check: the command line, empty for none, and the seconds that it may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// The command line.
    pub command: String,
    /// The seconds.
    pub seconds: u64,
}

/// An entry that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The entry.
    pub id: EntryId,
    /// What it must pass.
    pub check: Check,
}

/// Entries on top of a tip: each with the commit that brought it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The tip that it was built on.
    pub from: String,
    /// The entries in order, and the commit after each.
    pub joined: Vec<(EntryId, String)>,
}

impl Candidate {
    /// The commit that holds all of it.
    #[must_use]
    pub fn to(&self) -> &str {
        self.joined.last().map_or(&self.from, |(_, commit)| commit)
    }
}

/// What is under way. On disk before it is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "phase")]
enum Phase {
    /// Nothing.
    Idle,
    /// Nothing until the rest is over.
    Resting,
    /// These are being merged in memory.
    Building { members: Vec<EntryId> },
    /// The check runs on the candidate.
    Testing { candidate: Candidate },
    /// The check runs on the tip itself: with it alone, the one entry failed.
    Proving { tip: String, guilty: EntryId, tail: String },
    /// The candidate passed, and the target is being moved. `is_held` while it is known not to have
    /// moved, and something is in the way.
    Landing { candidate: Candidate, is_held: bool },
}

/// What earlier checks told, as long as the target stays where it was then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    tip: String,
    check: Check,
    /// Whether the tip itself passes.
    passes: Option<bool>,
    /// So many of the first entries fail together; 0 when nothing is known.
    failing: usize,
    /// What the check said then.
    tail: String,
}

/// The lane. Its owner is whoever carries out its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lane {
    /// Names what lies on disk for it.
    pub id: Uuid,
    /// Counts pieces of work: what comes of an older one is of no interest any more.
    turn: u64,
    items: Vec<Item>,
    phase: Phase,
    known: Known,
    /// What went wrong in a row by nobody's fault.
    misses: u32,
}

/// What came of a building.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// What could be joined: the first of the members, without those in conflict.
    pub candidate: Candidate,
    /// Members that do not go onto the tip itself: the files in conflict, or none where the
    /// entry's commit is gone.
    pub conflicts: Vec<(EntryId, Option<Vec<String>>)>,
}

/// What came of a piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The candidate is there.
    Built(Built),
    /// The check passed.
    Passed,
    /// The check failed; the end of what it said.
    Failed(String),
    /// The target stands where the candidate does, or beyond.
    Landed,
    /// The target is no longer where the candidate was built on, or the candidate is gone.
    Moved,
    /// The target did not move and cannot now, for this reason.
    Held(String),
    /// The work could not be done, for a reason that is no entry's fault.
    Trouble(String),
    /// The rest is over.
    TimeUp,
}

/// What is to be done. One piece of work at a time; a new one takes the place of the old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Merge these in memory, in order, onto the target's tip.
    Build(Vec<EntryId>),
    /// Run a check on a commit, made from a tip.
    Test {
        /// The commit.
        commit: String,
        /// The tip below it.
        tip: String,
        /// The check.
        check: Check,
    },
    /// Move the target.
    Land {
        /// From where it must stand.
        from: String,
        /// To where.
        to: String,
    },
    /// Wait.
    Rest {
        /// Milliseconds.
        ms: u64,
    },
}

/// Why an entry was sent back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The files in conflict.
    pub files: Vec<String>,
    /// The end of what the check said.
    pub tail: String,
}

/// How an entry stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entry.
    pub id: EntryId,
    /// Its state.
    pub state: QueueState,
    /// In words, where there is more to say.
    pub message: String,
    /// The commit that brought it.
    pub landed: Option<String>,
    /// Set when its own work is why it ended.
    pub blame: Option<Blame>,
}

/// What a lane decided: to be written down, then begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Entries that stand differently.
    pub changes: Vec<Change>,
    /// What to do, and its number; none when what is under way goes on.
    pub work: Option<(u64, Work)>,
}

/// Why an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// It is not in this lane.
    Absent,
    /// It passed its check and is landing, or has landed.
    Landing,
}

fn change(id: EntryId, state: QueueState, message: impl Into<String>) -> Change {
    Change { id, state, message: message.into(), landed: None, blame: None }
}

impl Lane {
    /// An empty one.
    #[must_use]
    pub fn new(id: Uuid) -> Self {
        Self {
            id,
            turn: 0,
            items: Vec::new(),
            phase: Phase::Idle,
            known: Known::default(),
            misses: 0,
        }
    }

    /// The entries that have not ended, in order.
    pub fn ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.items.iter().map(|item| item.id)
    }

    /// Whether a piece of work is still the one to be done.
    #[must_use]
    pub fn awaits(&self, number: u64) -> bool {
        self.turn == number
    }

    /// Whether no entry is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Puts entries at the end.
    pub fn add(&mut self, items: Vec<Item>) -> Turn {
        let changes = items.iter().map(|item| change(item.id, QueueState::Waiting, ""));
        let mut turn = Turn { changes: changes.collect(), work: None };
        self.items.extend(items);
        if self.phase == Phase::Idle {
            self.begin(&mut turn);
        }
        turn
    }

    /// Takes an entry out; a batch that it is in is built anew without it.
    ///
    /// # Errors
    /// [`Stays`]; nothing changed then.
    pub fn remove(&mut self, id: EntryId) -> Result<Turn, Stays> {
        let at = self.items.iter().position(|item| item.id == id).ok_or(Stays::Absent)?;
        let members = self.members();
        let is_member = members.contains(&id);
        if is_member && matches!(self.phase, Phase::Landing { is_held: false, .. }) {
            return Err(Stays::Landing);
        }
        self.items.remove(at);
        if at < self.known.failing {
            self.known.failing = 0;
        }
        let mut turn = Turn::default();
        turn.changes.push(change(id, QueueState::Removed, "it was taken out of the queue"));
        if is_member || self.items.is_empty() {
            let others = members.into_iter().filter(|member| *member != id);
            turn.changes.extend(others.map(|other| change(other, QueueState::Waiting, "")));
            self.begin(&mut turn);
        }
        Ok(turn)
    }

    /// Takes up what a daemon that is gone left: a landing is proven or done, all else done anew.
    pub fn resume(&mut self) -> Turn {
        let mut turn = Turn::default();
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Landing { candidate, .. } => self.land(&mut turn, candidate),
            phase => {
                self.phase = phase;
                let members = self.members().into_iter();
                turn.changes.extend(members.map(|id| change(id, QueueState::Waiting, "")));
                self.begin(&mut turn);
            }
        }
        turn
    }

    /// Decides what follows from a piece of work; nothing when it is not the one under way.
    pub fn on(&mut self, number: u64, event: Event) -> Turn {
        let mut turn = Turn::default();
        if number != self.turn {
            return turn;
        }
        match (std::mem::replace(&mut self.phase, Phase::Idle), event) {
            (Phase::Building { .. }, Event::Built(built)) => self.built(&mut turn, built),
            (Phase::Testing { candidate }, Event::Passed) => self.land(&mut turn, candidate),
            (Phase::Testing { candidate }, Event::Failed(tail)) => {
                self.failed(&mut turn, &candidate, tail);
            }
            (Phase::Proving { guilty, tail, .. }, Event::Passed) => {
                self.known.passes = Some(true);
                self.blame(&mut turn, guilty, tail);
                self.begin(&mut turn);
            }
            (Phase::Proving { guilty, tail, .. }, Event::Failed(_)) => {
                self.known.passes = Some(false);
                self.blame(&mut turn, guilty, tail);
                self.begin(&mut turn);
            }
            (Phase::Landing { candidate, .. }, Event::Landed) => {
                self.landed(&mut turn, candidate);
            }
            (Phase::Landing { candidate, .. }, Event::Moved) => {
                let why =
                    "the target moved or what was built is gone: it is built and checked anew";
                turn.changes.extend(waiting(&ids(&candidate), why));
                self.misses += 1;
                match self.misses > MOVES {
                    true => self.rest(&mut turn),
                    false => self.begin(&mut turn),
                }
            }
            (Phase::Landing { candidate, .. }, Event::Held(why)) => {
                self.hold(&mut turn, candidate, true, &why);
            }
            // a daemon that was killed may have landed it: it stays until that is known
            (Phase::Landing { candidate, .. }, Event::Trouble(why)) => {
                self.hold(&mut turn, candidate, false, &why);
            }
            (Phase::Landing { candidate, .. }, Event::TimeUp) => self.land(&mut turn, candidate),
            (Phase::Landing { candidate, is_held }, _) => {
                self.phase = Phase::Landing { candidate, is_held };
            }
            (_, Event::TimeUp) => self.begin(&mut turn),
            (phase, Event::Trouble(why)) => {
                self.phase = phase;
                turn.changes.extend(waiting(&self.members(), &why));
                self.misses += 1;
                self.rest(&mut turn);
            }
            (phase, _) => self.phase = phase,
        }
        turn
    }

    /// The entries of the batch that is under way.
    fn members(&self) -> Vec<EntryId> {
        match &self.phase {
            Phase::Idle | Phase::Resting => Vec::new(),
            Phase::Building { members } => members.clone(),
            Phase::Testing { candidate } | Phase::Landing { candidate, .. } => ids(candidate),
            Phase::Proving { guilty, .. } => vec![*guilty],
        }
    }

    fn work(&mut self, turn: &mut Turn, work: Work) {
        self.turn += 1;
        turn.work = Some((self.turn, work));
    }

    fn rest(&mut self, turn: &mut Turn) {
        self.phase = Phase::Resting;
        let ms = self.pause();
        self.work(turn, Work::Rest { ms });
    }

    fn pause(&self) -> u64 {
        let doubled = FIRST_REST_MS << self.misses.saturating_sub(1).min(10);
        doubled.min(LONGEST_REST_MS)
    }

    /// Begins the next batch, or nothing when no entry is left.
    fn begin(&mut self, turn: &mut Turn) {
        self.phase = Phase::Idle;
        if self.known.failing == 1
            && self.known.passes == Some(true)
            && let Some(first) = self.items.first().map(|item| item.id)
        {
            // all before it passed together, and with it they failed
            let tail = self.known.tail.clone();
            self.blame(turn, first, tail);
        }
        let Some(first) = self.items.first() else {
            self.known = Known::default();
            // whatever is under way is of no interest any more
            self.turn += 1;
            return;
        };
        let same = self.items.iter().take_while(|item| item.check == first.check).take(BATCH);
        let mut members: Vec<_> = same.map(|item| item.id).collect();
        if self.known.failing > 0 {
            members.truncate((self.known.failing / 2).max(1));
        }
        self.phase = Phase::Building { members: members.clone() };
        self.work(turn, Work::Build(members));
    }

    fn check(&self) -> Check {
        self.items.first().map(|item| item.check.clone()).unwrap_or_default()
    }

    fn built(&mut self, turn: &mut Turn, built: Built) {
        let Built { candidate, conflicts } = built;
        let check = self.check();
        if self.known.tip != candidate.from || self.known.check != check {
            let tip = candidate.from.clone();
            self.known = Known { tip, check: check.clone(), ..Known::default() };
        }
        for (id, files) in conflicts {
            self.known.failing = 0;
            self.items.retain(|item| item.id != id);
            let message = match files.as_deref() {
                None => "its commit is gone: queue its branch anew".to_owned(),
                Some([]) => "it shares no history with the target".to_owned(),
                Some(files) => format!("it conflicts with the target in {}", files.join(", ")),
            };
            let blame = files.map(|files| Blame { files, tail: String::new() });
            turn.changes.push(Change { blame, ..change(id, QueueState::Conflict, message) });
        }
        if candidate.to() == candidate.from {
            for (id, commit) in candidate.joined {
                self.known.failing = 0;
                self.items.retain(|item| item.id != id);
                let landed = Some(commit);
                let message = "the target held it already";
                turn.changes.push(Change { landed, ..change(id, QueueState::Landed, message) });
            }
            return self.begin(turn);
        }
        let testing = ids(&candidate).into_iter();
        turn.changes.extend(testing.map(|id| change(id, QueueState::Testing, "")));
        if check.command.is_empty() {
            return self.land(turn, candidate);
        }
        let (commit, tip) = (candidate.to().to_owned(), candidate.from.clone());
        self.phase = Phase::Testing { candidate };
        self.work(turn, Work::Test { commit, tip, check });
    }

    fn land(&mut self, turn: &mut Turn, candidate: Candidate) {
        let (from, to) = (candidate.from.clone(), candidate.to().to_owned());
        self.phase = Phase::Landing { candidate, is_held: false };
        self.work(turn, Work::Land { from, to });
    }

    fn hold(&mut self, turn: &mut Turn, candidate: Candidate, is_held: bool, why: &str) {
        turn.changes.extend(waiting(&ids(&candidate), why));
        self.misses += 1;
        let ms = self.pause();
        self.phase = Phase::Landing { candidate, is_held };
        self.work(turn, Work::Rest { ms });
    }

    fn landed(&mut self, turn: &mut Turn, candidate: Candidate) {
        let is_checked = !self.check().command.is_empty();
        self.misses = 0;
        self.known.tip = candidate.to().to_owned();
        self.known.passes = is_checked.then_some(true);
        self.known.failing = self.known.failing.saturating_sub(candidate.joined.len());
        for (id, commit) in candidate.joined {
            self.items.retain(|item| item.id != id);
            let landed = Some(commit);
            turn.changes.push(Change { landed, ..change(id, QueueState::Landed, "") });
        }
        self.begin(turn);
    }

    fn failed(&mut self, turn: &mut Turn, candidate: &Candidate, tail: String) {
        match candidate.joined.as_slice() {
            [(guilty, _)] => match self.known.passes {
                Some(_) => {
                    self.blame(turn, *guilty, tail);
                    self.begin(turn);
                }
                None => {
                    let (tip, check) = (candidate.from.clone(), self.check());
                    self.phase = Phase::Proving { tip: tip.clone(), guilty: *guilty, tail };
                    self.work(turn, Work::Test { commit: tip.clone(), tip, check });
                }
            },
            joined => {
                self.known.failing = joined.len();
                self.known.tail = tail;
                let why = "the check failed with those beside it: they are told apart";
                turn.changes.extend(waiting(&ids(candidate), why));
                self.begin(turn);
            }
        }
    }

    /// Ends an entry with which the check fails. Where the target fails it too, the entry is not
    /// to blame: it only does not mend it.
    fn blame(&mut self, turn: &mut Turn, id: EntryId, tail: String) {
        self.items.retain(|item| item.id != id);
        self.known.failing = 0;
        self.misses = 0;
        let is_broken = self.known.passes == Some(false);
        let message = match is_broken {
            true => "the target itself fails the check, and fails it with this too",
            false => "the check failed with it",
        };
        let message = match tail.is_empty() {
            true => message.to_owned(),
            false => format!("{message}: {tail}"),
        };
        let blame = (!is_broken).then(|| Blame { files: Vec::new(), tail });
        turn.changes.push(Change { blame, ..change(id, QueueState::Failed, message) });
    }
}

fn ids(candidate: &Candidate) -> Vec<EntryId> {
    candidate.joined.iter().map(|(id, _)| *id).collect()
}

fn waiting<'a>(ids: &'a [EntryId], why: &'a str) -> impl Iterator<Item = Change> + 'a {
    ids.iter().map(move |id| change(*id, QueueState::Waiting, why))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
