//! What the room says when it is asked: the verdicts as they stand, with lines and renames out of
//! the last snapshots. It owns nothing and changes nothing.

use super::Room;
use crate::git::snapshot::Snapshot;
use crate::git::touched::TouchedFile;
use crate::overlap::Report;
use crate::overlap::watcher::Watches;
use hayward_shared::git::{Lines, TaskLines, TaskRename};
use hayward_shared::id::TaskId;
use std::path::Path;

/// The most lines of one task that a verdict names.
const MOST_LINES: usize = 100;

impl Room {
    /// Where tasks renamed a file to.
    fn renames(&self, tasks: &[TaskId], path: &Path) -> Vec<TaskRename> {
        let to = |task: &TaskId| {
            let snapshot = self.trees.get(task)?.snapshot.as_ref()?;
            let to = touched(snapshot, path)?.renamed_to.as_ref()?;
            Some(TaskRename { task_id: *task, to: to.to_string_lossy().into_owned() })
        };
        tasks.iter().filter_map(to).collect()
    }

    pub(super) fn report(&self, only: Option<TaskId>) -> Report {
        let lines = |task_id: TaskId, path: &Path| {
            let tree = self.trees.get(&task_id).and_then(|tree| tree.snapshot.as_ref());
            TaskLines { task_id, lines: tree.map(|tree| lines_of(tree, path)).unwrap_or_default() }
        };
        let repository = |task| {
            let tree = self.trees.get(&task);
            tree.map(|tree| tree.live.place.repository.display().to_string()).unwrap_or_default()
        };
        let mut verdicts = self.index.verdicts(only, lines, repository);
        for verdict in &mut verdicts {
            verdict.renames = self.renames(&verdict.tasks, Path::new(&verdict.file_path));
        }
        let polled = self.trees.iter().filter(|(_, tree)| tree.watched == Some(false));
        let Watches { count, budget, why_polled } = self.watcher.standing();
        Report {
            verdicts,
            live: self.trees.len(),
            looked_at: self.trees.values().filter(|tree| tree.is_known()).count(),
            watched: Watches { count, budget, why_polled },
            polled: polled.map(|(task, _)| *task).collect(),
        }
    }
}

fn touched<'a>(snapshot: &'a Snapshot, path: &Path) -> Option<&'a TouchedFile> {
    let at = snapshot.files.binary_search_by(|file| file.path.as_path().cmp(path)).ok()?;
    snapshot.files.get(at)
}

fn lines_of(snapshot: &Snapshot, path: &Path) -> Vec<Lines> {
    let hunks = touched(snapshot, path).and_then(|file| file.hunks.as_ref());
    hunks.into_iter().flatten().map(|hunk| hunk.new).take(MOST_LINES).collect()
}
