//! Which live tasks overlap, and what of it is to be said when. Pure.

use crate::git::overlap::Clash;
use hayward_shared::git::{Severity, TaskLines, Verdict};
use hayward_shared::id::TaskId;
use hayward_shared::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What a pair has to say is said at most so often, in milliseconds: an agent saves many times a
/// minute, and nobody reads faster.
const PACE_MS: i64 = 3_000;

/// Two tasks, the smaller id first.
pub type Two = (TaskId, TaskId);

/// Two tasks in order.
#[must_use]
pub fn two(one: TaskId, other: TaskId) -> Two {
    if one < other { (one, other) } else { (other, one) }
}

/// What is new about a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The tasks.
    pub tasks: Two,
    /// All files in which they overlap now; none when they no longer do.
    pub clashes: Vec<Clash>,
    /// The gravest file, or the one that was.
    pub gravest: PathBuf,
    /// Whether the agents should hear of it: it is graver than what they heard, and near.
    pub note: bool,
}

#[derive(Debug, Default)]
struct Standing {
    clashes: Vec<Clash>,
    said: Vec<Clash>,
    /// When something may be said again.
    again: Option<Timestamp>,
    noted: Option<Severity>,
}

/// All pairs of live tasks that overlap, or did when last spoken of.
#[derive(Debug, Default)]
pub struct Index {
    pairs: BTreeMap<Two, Standing>,
}

impl Index {
    /// Where two tasks overlap now.
    pub fn settle(&mut self, tasks: Two, clashes: Vec<Clash>) {
        if !clashes.is_empty() || self.pairs.contains_key(&tasks) {
            self.pairs.entry(tasks).or_default().clashes = clashes;
        }
    }

    /// Forgets a task that is no longer live; the others will hear that they are clear of it.
    pub fn leave(&mut self, task: TaskId) {
        for (_, standing) in self.pairs.iter_mut().filter(|((a, b), _)| *a == task || *b == task) {
            standing.clashes.clear();
        }
    }

    /// What is to be said at `now`; it counts as said.
    pub fn announce(&mut self, now: Timestamp) -> Vec<Announcement> {
        let mut all = Vec::new();
        for (tasks, standing) in &mut self.pairs {
            if standing.clashes == standing.said || standing.again.is_some_and(|at| now < at) {
                continue;
            }
            let worst = gravest(&standing.clashes);
            let shown = worst.or_else(|| gravest(&standing.said));
            let near = worst.filter(|c| c.conflict || c.severity >= Severity::AdjacentLine);
            let note = near.map(|clash| clash.severity).filter(|new| standing.noted < Some(*new));
            standing.noted = note.or(standing.noted);
            all.push(Announcement {
                tasks: *tasks,
                clashes: standing.clashes.clone(),
                gravest: shown.map(|clash| clash.path.clone()).unwrap_or_default(),
                note: note.is_some(),
            });
            standing.said.clone_from(&standing.clashes);
            standing.again = Some(Timestamp::from_millis(now.millis() + PACE_MS));
        }
        all
    }

    /// Drops what is remembered of pairs of which one is not live, once all is said.
    pub fn tidy(&mut self, live: impl Fn(TaskId) -> bool) {
        self.pairs
            .retain(|(a, b), standing| live(*a) && live(*b) || standing.clashes != standing.said);
    }

    /// When there is something to say next.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        let waiting = self.pairs.values().filter(|standing| standing.clashes != standing.said);
        waiting.filter_map(|standing| standing.again).min()
    }

    /// One verdict for each file and repository in which tasks overlap, the gravest first. With
    /// `only`, those of one task. `lines` and `repository` know a task's own.
    pub fn verdicts(
        &self,
        only: Option<TaskId>,
        lines: impl Fn(TaskId, &std::path::Path) -> TaskLines,
        repository: impl Fn(TaskId) -> String,
    ) -> Vec<Verdict> {
        let mut files: BTreeMap<(String, PathBuf), (Severity, bool, BTreeSet<TaskId>)> =
            BTreeMap::new();
        for (tasks, standing) in &self.pairs {
            if only.is_some_and(|task| task != tasks.0 && task != tasks.1) {
                continue;
            }
            for clash in &standing.clashes {
                let place = (repository(tasks.0), clash.path.clone());
                let file = files.entry(place).or_insert((clash.severity, false, BTreeSet::new()));
                file.0 = file.0.max(clash.severity);
                file.1 |= clash.conflict;
                file.2.extend([tasks.0, tasks.1]);
            }
        }
        let verdict = |((repository, path), (severity, conflict, tasks)): (
            (String, PathBuf),
            (Severity, bool, BTreeSet<TaskId>),
        )| Verdict {
            file_path: path.to_string_lossy().into_owned(),
            severity,
            ranges: tasks.iter().map(|task| lines(*task, &path)).collect(),
            tasks: tasks.into_iter().collect(),
            conflict,
            renames: Vec::new(),
            repository,
        };
        let mut all: Vec<_> = files.into_iter().map(verdict).collect();
        all.sort_by_key(|verdict| std::cmp::Reverse((verdict.conflict, verdict.severity)));
        all
    }
}

fn gravest(clashes: &[Clash]) -> Option<&Clash> {
    // the first of the gravest
    clashes.iter().rev().max_by_key(|clash| (clash.conflict, clash.severity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clash(path: &str, severity: Severity) -> Clash {
        Clash { path: path.into(), severity, conflict: false, renamed_to: Vec::new() }
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn a_pair_speaks_when_it_changes_and_no_faster_than_its_pace() {
        let (a, b) = (TaskId::fresh(), TaskId::fresh());
        let mut index = Index::default();
        index.settle(two(a, b), Vec::new());
        assert!(index.announce(at(0)).is_empty());
        index.settle(two(b, a), vec![clash("f", Severity::DifferentArea)]);
        let said = index.announce(at(0));
        assert_eq!((said.len(), said[0].note), (1, false));
        assert!(index.announce(at(9_000)).is_empty(), "it was said");
        index.settle(two(a, b), vec![clash("f", Severity::SameLine)]);
        assert!(index.announce(at(1)).is_empty());
        assert_eq!(index.due(), Some(at(PACE_MS)));
        assert!(index.announce(at(PACE_MS))[0].note);
        index.leave(b);
        let said = index.announce(at(2 * PACE_MS));
        assert_eq!((said[0].clashes.len(), said[0].gravest.to_str()), (0, Some("f")));
        index.tidy(|task| task == a);
        assert!(index.pairs.is_empty());
    }

    #[test]
    fn a_pair_is_noted_once_for_each_step() {
        let (a, b) = (TaskId::fresh(), TaskId::fresh());
        let mut index = Index::default();
        let mut now = 0;
        let mut notes = |severity: Option<Severity>| {
            now += PACE_MS;
            let clashes = severity.map(|severity| clash("f", severity)).into_iter().collect();
            index.settle(two(a, b), clashes);
            index.announce(at(now)).iter().filter(|said| said.note).count()
        };
        assert_eq!(notes(Some(Severity::AdjacentLine)), 1);
        assert_eq!(notes(Some(Severity::SameLine)), 1);
        assert_eq!(notes(None), 0);
        assert_eq!(notes(Some(Severity::AdjacentLine)), 0);
        assert_eq!(notes(Some(Severity::SameLine)), 0);
    }

    #[test]
    fn one_verdict_for_a_file_names_all_its_tasks_and_the_gravest() {
        let mut tasks = [TaskId::fresh(), TaskId::fresh(), TaskId::fresh()];
        tasks.sort();
        let mut index = Index::default();
        index.settle((tasks[0], tasks[1]), vec![clash("f", Severity::DifferentArea)]);
        index.settle((tasks[1], tasks[2]), vec![clash("f", Severity::SameLine)]);
        let lines = |task_id, _: &std::path::Path| TaskLines { task_id, lines: Vec::new() };
        let all = index.verdicts(None, lines, |_| "r".into());
        assert_eq!((all.len(), &all[0].tasks[..]), (1, &tasks[..]));
        assert_eq!(all[0].severity, Severity::SameLine);
        let own = index.verdicts(Some(tasks[0]), lines, |_| "r".into());
        assert_eq!(own[0].severity, Severity::DifferentArea);
    }
}
