//! A merge under way, as data: which files wait for a choice, and what each command may do. Pure.

use crate::git::join::Settled;
use crate::git::merge::{Conflict, Stages};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, TaskId};
use hayward_shared::merge::{ConflictKind, MergeSide};
use hayward_shared::protocol::FromDaemon;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Files that a message for people names; programs have the whole list.
const MOST_NAMED: usize = 5;

/// Files that one answer of the wire lists: a text frame takes a mebibyte.
pub(super) const MOST_LISTED: usize = 2_000;

/// The longest reason for leaving a part out, in bytes.
const MAX_REASON: usize = 2 * 1024;

/// A merge of one branch into a task's own, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// What is merged, as it was called.
    pub source: String,
    /// Its commit, which stays the same however the branch moves.
    pub theirs: String,
    /// Where the task's branch stood when the conflicts were found.
    pub ours: String,
    /// The files in conflict, in git's order.
    pub files: Vec<File>,
    /// The merge commit that was made, from when it is about to be landed.
    pub made: Option<Made>,
}

/// A file in conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Its path as text.
    pub path: String,
    /// In what the sides differ.
    pub kind: ConflictKind,
    /// What each side has of it.
    pub stages: Stages,
    /// Whose version was chosen.
    pub choice: Option<MergeSide>,
}

/// A merge commit that is about to be landed, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    /// The commit.
    pub commit: String,
    /// Where the branch must stand for it.
    pub from: String,
    /// The request that asked for it.
    pub request: Option<RequestId>,
}

/// A path as text; bytes that are no UTF-8 are replaced.
pub(super) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn file(conflict: &Conflict) -> File {
    let (kind, stages) = (conflict.kind, conflict.stages.clone());
    File { path: shown(&conflict.path), kind, stages, choice: None }
}

impl Session {
    /// A merge that begins.
    pub(super) fn begin(source: &str, theirs: &str, ours: &str, conflicts: &[Conflict]) -> Self {
        Self {
            source: source.to_owned(),
            theirs: theirs.to_owned(),
            ours: ours.to_owned(),
            files: conflicts.iter().map(file).collect(),
            made: None,
        }
    }

    /// The files that wait for a choice. What has no versions to choose from waits for none.
    pub(super) fn waiting(&self) -> Vec<String> {
        let waits = |file: &&File| file.choice.is_none() && !file.stages.is_empty();
        self.files.iter().filter(waits).map(|file| file.path.clone()).collect()
    }

    /// Chooses a side for a file; the last choice counts.
    ///
    /// # Errors
    /// [`Fault`] when the file is not in conflict.
    pub(super) fn choose(&mut self, path: &str, side: MergeSide) -> Result<(), Fault> {
        let mut known = false;
        for file in self.files.iter_mut().filter(|file| file.path == path) {
            file.choice = Some(side);
            known = true;
        }
        if known {
            return Ok(());
        }
        let fault = Fault::not_found("conflict", format!("in '{path}'"));
        Err(match some(&self.waiting()) {
            Some(names) => fault.with_hint(format!("in conflict are {names}")),
            None => fault,
        })
    }

    /// The conflicts of the merge as it is now, each settled by its choice. A choice counts only
    /// for the very versions for which it was made.
    ///
    /// # Errors
    /// [`Fault`] that names the files that wait; [`Session::renew`] then tells which.
    pub(super) fn settle(&self, conflicts: &[Conflict]) -> Result<Vec<Settled>, Fault> {
        let mut settled = Vec::new();
        let mut waiting = Vec::new();
        for conflict in conflicts.iter().filter(|conflict| !conflict.stages.is_empty()) {
            match self.choice(conflict) {
                Some(side) => settled.push(Settled {
                    path: conflict.path.clone(),
                    stages: conflict.stages.clone(),
                    side,
                }),
                None => waiting.push(shown(&conflict.path)),
            }
        }
        match some(&waiting) {
            None => Ok(settled),
            Some(names) => {
                let text = format!("{} in conflict: {names}", count(waiting.len()));
                Err(Fault::new(Code::Conflict, text)
                    .with_hint("choose ours or theirs for each, then commit again"))
            }
        }
    }

    fn choice(&self, conflict: &Conflict) -> Option<MergeSide> {
        let path = shown(&conflict.path);
        let same = |file: &&File| file.path == path && file.stages == conflict.stages;
        self.files.iter().find(same).and_then(|file| file.choice)
    }

    /// The same merge into a branch that moved: choices stay where the versions are the same.
    pub(super) fn renew(&mut self, ours: &str, conflicts: &[Conflict]) {
        let renewed =
            |conflict: &Conflict| File { choice: self.choice(conflict), ..file(conflict) };
        self.files = conflicts.iter().map(renewed).collect();
        self.ours = ours.to_owned();
        self.made = None;
    }
}

/// How a part of a task stands to the task's own branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its task.
    pub(super) task: TaskId,
    /// Its branch, where one was made.
    pub(super) branch: Option<String>,
    /// Whether its agent may still work on it.
    pub(super) is_live: bool,
    /// Whether the branch is there, and then whether it is merged.
    pub(super) merged: Option<bool>,
}

/// The completion gate: each part's branch is merged, skipped, or keeps the task from being done.
/// A part that made no branch, or whose empty branch is gone, has nothing to merge.
pub(super) fn tally(
    task: TaskId,
    parts: &[Part],
    skipped: &[TaskId],
    is_merging: bool,
) -> FromDaemon {
    let (mut merged_count, mut skipped_count) = (0, 0);
    let mut unmerged_branches = Vec::new();
    for part in parts {
        let name = || part.branch.clone().unwrap_or_else(|| part.task.short());
        match part.merged {
            _ if skipped.contains(&part.task) => skipped_count += 1,
            _ if part.is_live => unmerged_branches.push(name()),
            Some(true) => merged_count += 1,
            Some(false) => unmerged_branches.push(name()),
            None => {}
        }
    }
    let can_complete = unmerged_branches.is_empty() && !is_merging;
    FromDaemon::MergeCompleteCheck {
        task_id: task,
        can_complete,
        unmerged_branches,
        merged_count,
        skipped_count,
    }
}

/// Looks at a reason for leaving a part out.
///
/// # Errors
/// [`Fault`] when it is empty or too long.
pub(super) fn reason(text: &str) -> Result<&str, Fault> {
    match text.trim() {
        "" => Err(Fault::new(Code::Invalid, "a part is left out for a reason: say which")),
        text if text.len() > MAX_REASON => {
            Err(Fault::new(Code::Invalid, "the reason: 2 KiB at the most"))
        }
        text => Ok(text),
    }
}

/// The message of a merge commit when none is given: git's own words.
pub(super) fn message(source: &str, branch: &str) -> String {
    format!("Merge branch '{source}' into {branch}")
}

/// The first names of a list, and how many more there are; none of an empty one.
pub(super) fn some(names: &[String]) -> Option<String> {
    let more = names.len().saturating_sub(MOST_NAMED);
    let first = names.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(first),
        (false, more) => Some(format!("{first} and {more} more")),
    }
}

/// `1 file`, `2 files`.
pub(super) fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::merge::Version;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn version(id: u8) -> Option<Version> {
        Some(Version { mode: 0o100_644, id: format!("{id:040x}") })
    }

    fn conflict(path: &str, theirs: u8) -> Conflict {
        let stages = Stages { base: version(1), ours: version(2), theirs: version(theirs) };
        Conflict { path: PathBuf::from(path), kind: ConflictKind::Content, stages }
    }

    #[test]
    fn every_file_waits_for_a_choice_and_only_files_in_conflict_take_one() {
        let conflicts = [conflict("a", 3), conflict("b", 3)];
        let mut session = Session::begin("x", "t", "o", &conflicts);
        assert_eq!(session.waiting(), ["a", "b"]);
        assert_eq!(session.choose("c", MergeSide::Ours).unwrap_err().code, Code::NotFound);
        session.choose("a", MergeSide::Ours).unwrap();
        let refused = session.settle(&conflicts).unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        assert!(refused.message.contains("1 file in conflict: b"), "{refused}");
        session.choose("b", MergeSide::Ours).unwrap();
        session.choose("b", MergeSide::Theirs).unwrap();
        let settled = session.settle(&conflicts).unwrap();
        let sides: Vec<_> = settled.iter().map(|one| one.side).collect();
        assert_eq!(sides, [MergeSide::Ours, MergeSide::Theirs]);
    }

    #[test]
    fn a_choice_counts_only_for_the_versions_it_was_made_for() {
        let mut session = Session::begin("x", "t", "o", &[conflict("a", 3), conflict("b", 3)]);
        session.choose("a", MergeSide::Ours).unwrap();
        session.choose("b", MergeSide::Ours).unwrap();
        let moved = [conflict("a", 3), conflict("b", 4), conflict("c", 3)];
        assert!(session.settle(&moved).unwrap_err().message.contains("b, c"));
        session.renew("later", &moved);
        assert_eq!(
            (session.waiting(), session.ours.as_str()),
            (vec!["b".into(), "c".into()], "later")
        );
    }

    #[test]
    fn what_has_no_versions_waits_for_nothing() {
        let folder = Conflict {
            path: PathBuf::from("folder"),
            kind: ConflictKind::Rename,
            stages: Stages::default(),
        };
        let session = Session::begin("x", "t", "o", std::slice::from_ref(&folder));
        assert!(session.waiting().is_empty());
        assert_eq!(session.settle(&[folder]).unwrap(), []);
    }

    #[test]
    fn the_gate_opens_when_nothing_is_left_unmerged() {
        let part = |merged, is_live| Part {
            task: TaskId::fresh(),
            branch: Some("hayward/x".into()),
            is_live,
            merged,
        };
        let parts = [part(Some(true), false), part(Some(false), false), part(None, false)];
        let seen = |parts: &[Part], skipped: &[TaskId], busy| match tally(
            TaskId::fresh(),
            parts,
            skipped,
            busy,
        ) {
            FromDaemon::MergeCompleteCheck {
                can_complete,
                unmerged_branches,
                merged_count,
                skipped_count,
                ..
            } => (can_complete, unmerged_branches.len(), merged_count, skipped_count),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(seen(&parts, &[], false), (false, 1, 1, 0));
        assert_eq!(seen(&parts, &[parts[1].task], false), (true, 0, 1, 1));
        assert_eq!(seen(&parts, &[parts[1].task], true), (false, 0, 1, 1));
        assert_eq!(seen(&[part(Some(true), true)], &[], false), (false, 1, 0, 0));
        assert_eq!(seen(&[], &[], false), (true, 0, 0, 0));
    }

    #[test]
    fn a_reason_is_there_and_short() {
        assert_eq!(reason(" no need ").unwrap(), "no need");
        assert!(reason("  ").is_err() && reason(&"x".repeat(MAX_REASON + 1)).is_err());
    }

    proptest! {
        #[test]
        fn a_merge_settles_exactly_when_every_file_was_chosen(
            files in proptest::collection::btree_map("[a-z]{1,4}", 3_u8..9, 0..8),
            chosen in proptest::collection::vec(("[a-z]{1,4}", any::<bool>()), 0..16),
        ) {
            let conflicts: Vec<_> =
                files.iter().map(|(path, theirs)| conflict(path, *theirs)).collect();
            let mut session = Session::begin("x", "t", "o", &conflicts);
            for (path, ours) in &chosen {
                let side = if *ours { MergeSide::Ours } else { MergeSide::Theirs };
                prop_assert_eq!(session.choose(path, side).is_ok(), files.contains_key(path));
            }
            let all = files.keys().all(|path| chosen.iter().any(|(named, _)| named == path));
            prop_assert_eq!(session.settle(&conflicts).is_ok(), all);
            prop_assert_eq!(session.waiting().is_empty(), all);
            let text = serde_json::to_string(&session).unwrap();
            prop_assert_eq!(serde_json::from_str::<Session>(&text).unwrap(), session);
        }
    }
}
