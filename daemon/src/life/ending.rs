//! Runs whose end is told while they still hold their worktree: what they did to the repository is
//! mended, a teardown command runs. Whoever hears of the end may want the worktree gone at once.

use super::going::Going;
use super::machine::{Need, Stand, Why};
use super::{Life, Row, Wish};
use crate::journal::Standing;
use crate::task::RunState;
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::run::RunKey;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a person waits for runs that are at their end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a discarded task's run may take to be gone: nobody waits for that, and it is asked for
/// once. The relay gives it up a minute later.
const LONG_PATIENCE: Duration = Duration::from_secs(15 * 60);

impl Life {
    /// Waits until the worktrees that are asked for are let go of, where that only takes time.
    pub(super) async fn await_ends(&self, wish: Wish) {
        let Wish::Prune { only, .. } = wish else { return };
        let mut places = self.shop.places.watch();
        // before the journal is read: a run that comes in between is not taken for one that ended
        let there: Vec<_> = places.borrow().values().map(|at| at.key).collect();
        let Ok(live) = self.shop.journal.live_keys().await else { return };
        let live = live.iter().map(|key| key.run_id).collect();
        let ending = ending(&there, &live, only);
        let gone = places.wait_for(|now| now.values().all(|at| !ending.contains(&at.key.run_id)));
        let patience = if only.is_some() { LONG_PATIENCE } else { PATIENCE };
        if tokio::time::timeout(patience, gone).await.is_err() {
            tracing::info!(?ending, "runs that have ended still hold their worktrees");
        }
    }
}

/// The runs that are soon to be gone: those that have told their end. Of a task that is named, the
/// run that lives as well: the task was discarded, and the relay ends what it still has of it.
fn ending(there: &[RunKey], live: &BTreeSet<RunId>, only: Option<TaskId>) -> BTreeSet<RunId> {
    let is_ending = |run: &&RunKey| match only {
        Some(task) => run.task_id == task,
        None => !live.contains(&run.run_id),
    };
    there.iter().filter(is_ending).map(|run| run.run_id).collect()
}

/// What a prune would have taken, had its run let go of it.
pub(super) fn untouched(wish: Wish, stands: &[Stand], standing: &[Standing<RunState>]) -> Vec<Row> {
    let Wish::Prune { only, .. } = wish else { return Vec::new() };
    let is_meant = |stand: &&Stand| {
        stand.need == Some(Need::End)
            && stand.is_final
            && only.is_none_or(|task| task == stand.task)
    };
    let row = |stand: &Stand| {
        let one = standing.iter().find(|one| one.run.key.run_id == stand.run)?;
        Some(Going::of(one, Why::Asked, stand.bytes)?.kept_by(Need::End))
    };
    stands.iter().filter(is_meant).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn run(n: u128) -> RunKey {
        let (task, run) = (Uuid::from_u128(n), Uuid::from_u128(n + 10));
        RunKey { task_id: TaskId(task), run_id: RunId(run), lease_epoch: 1 }
    }

    #[test]
    fn f13_runs_that_told_their_end_are_waited_for_and_of_a_discarded_task_any() {
        let all @ [first, second] = [run(1), run(2)];
        let live = BTreeSet::from([first.run_id]);
        assert_eq!(ending(&all, &live, None), BTreeSet::from([second.run_id]));
        assert_eq!(ending(&all, &live, Some(first.task_id)), BTreeSet::from([first.run_id]));
        assert_eq!(ending(&all, &live, Some(TaskId(Uuid::from_u128(3)))), BTreeSet::new());
    }
}
