//! Who is told next to pause or to go on, where not all can be told at once. Pure.

use hayward_shared::id::{DaemonId, TaskId};
use hayward_shared::protocol::ToDaemon;
use std::collections::{BTreeMap, BTreeSet};

/// Daemons that are told at once: each may take as long as an answer may. What is beyond them is told
/// with the next look, which begins behind the last that was told.
const AT_ONCE: usize = 64;

/// Which daemon is told something of which task: one word at a time.
pub(super) type Key = (DaemonId, TaskId);

/// What a daemon is told of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Pause,
    Resume,
}

impl Word {
    /// The command that says it.
    pub(super) fn of(self, task_id: TaskId) -> ToDaemon {
        match self {
            Self::Pause => ToDaemon::PauseTask { task_id },
            Self::Resume => ToDaemon::ResumeTask { task_id },
        }
    }
}

/// For whom the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// For all.
    Whole,
    /// For those alone for whom there was no room since the last whole look. Each is told once, so
    /// that these looks end, however many never do as they are told.
    Rest,
}

/// Who was told and has not answered, and who was not told for want of room.
#[derive(Debug, Default)]
pub(super) struct Turns {
    open: BTreeMap<Key, Word>,
    left: BTreeSet<TaskId>,
    last: Option<Key>,
}

impl Turns {
    /// Whether this look is for whoever runs that task.
    pub(super) fn is_for(&self, look: Look, task: TaskId) -> bool {
        look == Look::Whole || self.left.contains(&task)
    }

    /// Who of all that a look was for is told now. Whoever was told that and has not answered is not
    /// told again.
    pub(super) fn take(&mut self, mut all: Vec<(Key, Word)>) -> Vec<(Key, Word)> {
        self.left.clear();
        all.sort_by_key(|(key, _)| *key);
        let begin = all.partition_point(|(key, _)| Some(*key) <= self.last);
        all.rotate_left(begin);
        let mut told = Vec::new();
        for (key, word) in all {
            match self.open.get(&key) {
                Some(known) if *known == word => {}
                None if self.open.len() < AT_ONCE => {
                    self.open.insert(key, word);
                    self.last = Some(key);
                    told.push((key, word));
                }
                _ => {
                    self.left.insert(key.1);
                }
            }
        }
        told
    }

    /// The word to this one was answered, or given up.
    pub(super) fn answered(&mut self, key: Key) {
        self.open.remove(&key);
    }

    /// Whether anybody was not told for want of room.
    pub(super) fn are_left(&self) -> bool {
        !self.left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<(Key, Word)> {
        let key = |_| ((DaemonId::fresh(), TaskId::fresh()), Word::Pause);
        (0..count).map(key).collect()
    }

    fn look(turns: &mut Turns, all: &[(Key, Word)], look: Look) -> Vec<(Key, Word)> {
        let asked = all.iter().filter(|((_, task), _)| turns.is_for(look, *task));
        let asked = asked.copied().collect();
        turns.take(asked)
    }

    #[test]
    fn quick_looks_end_once_each_was_told_however_few_obey() {
        let (mut turns, all) = (Turns::default(), keys(3 * AT_ONCE + 5));
        for _ in 0..2 {
            let mut told = look(&mut turns, &all, Look::Whole);
            let mut rounds = Vec::new();
            let mut open = told.clone();
            while turns.are_left() {
                rounds.push(open.len());
                open.drain(..).for_each(|(key, _)| turns.answered(key));
                open = look(&mut turns, &all, Look::Rest);
                told.extend(open.iter().copied());
            }
            assert_eq!((rounds, open.len()), (vec![AT_ONCE; 3], 5));
            told.sort_by_key(|(key, _)| *key);
            let mut wanted = all.clone();
            wanted.sort_by_key(|(key, _)| *key);
            assert_eq!(told, wanted, "each once");
            open.drain(..).for_each(|(key, _)| turns.answered(key));
        }
    }

    #[test]
    fn nobody_looks_again_for_one_that_has_not_answered() {
        let (mut turns, all) = (Turns::default(), keys(2));
        assert_eq!(look(&mut turns, &all, Look::Whole).len(), 2);
        turns.answered(all[0].0);
        assert_eq!(look(&mut turns, &all, Look::Whole), [all[0]]);
        assert!(!turns.are_left());
    }

    #[test]
    fn another_word_waits_for_the_answer_to_the_one_before() {
        let (mut turns, mut all) = (Turns::default(), keys(1));
        look(&mut turns, &all, Look::Whole);
        all[0].1 = Word::Resume;
        assert_eq!(look(&mut turns, &all, Look::Whole), []);
        assert!(turns.are_left());
        turns.answered(all[0].0);
        assert_eq!(look(&mut turns, &all, Look::Rest), all);
        assert!(!turns.are_left());
    }

    #[test]
    fn a_look_begins_behind_the_last_that_was_told() {
        let (mut turns, all) = (Turns::default(), keys(AT_ONCE + 1));
        let first = look(&mut turns, &all, Look::Whole);
        turns.answered(first[0].0);
        let next = look(&mut turns, &all, Look::Whole);
        assert!(next.len() == 1 && !first.contains(&next[0]), "{next:?}");
    }
}
