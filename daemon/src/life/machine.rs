//! Which worktrees go, and why: pure.

use hayward_shared::id::{RunId, TaskId};
use hayward_shared::run::QUEUE_MS;
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A task that is to be tried again has its next run within this time, here or elsewhere: it waits
/// to be due, and then in the queue.
const RETRY_MS: i64 = 2 * QUEUE_MS;

/// A worktree that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The task whose it is.
    pub task: TaskId,
    /// The last run that had it.
    pub run: RunId,
    /// When that run ended; none while it lives.
    pub ended_at: Option<Timestamp>,
    /// Whether its task has ended too, so that no retry wants it.
    pub is_final: bool,
    /// The bytes that it takes on the disk.
    pub bytes: u64,
    /// What needs it now.
    pub need: Option<Need>,
}

/// What needs a worktree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A run of its task lives.
    Run,
    /// Its run has told its end, and is still cleared up after.
    End,
    /// A live task goes on from it, or takes files from it.
    Sibling,
    /// A merge or a completion is under way in it.
    Work,
    /// Its session may live.
    Session,
}

impl Need {
    /// For people: why it stays.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Run => "its task is at work",
            Self::End => "its run has ended and is still cleared up after: ask again",
            Self::Sibling => "a task at work goes on from it",
            Self::Work => "a merge or completion is under way",
            Self::Session => "its agent may still live",
        }
    }
}

/// Why a worktree goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It was kept as long as worktrees are kept.
    Retention,
    /// All worktrees together take more than they may, and it is among the oldest.
    Quota,
    /// A person asked for it.
    Asked,
}

impl Why {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Quota => "quota",
            Self::Asked => "asked",
        }
    }
}

/// How long and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The present moment.
    pub now: Timestamp,
    /// Milliseconds that the worktree of an ended run is kept.
    pub retention_ms: i64,
    /// The most bytes of all worktrees.
    pub quota: u64,
    /// Bytes that count too and are no task's: the pool's.
    pub other_bytes: u64,
    /// Whether a person asks for all that nobody needs.
    pub asked: bool,
}

impl Limits {
    /// When a worktree was kept as long as it is kept; none while its run lives.
    #[must_use]
    pub fn over_at(&self, stand: &Stand) -> Option<Timestamp> {
        let kept = if stand.is_final { self.retention_ms } else { self.retention_ms.max(RETRY_MS) };
        Some(stand.ended_at?.plus_millis(kept))
    }

    fn is_over(&self, stand: &Stand) -> bool {
        self.over_at(stand).is_some_and(|at| at <= self.now)
    }
}

/// When the next of them will have been kept long enough; none when none waits for that.
#[must_use]
pub fn next(stands: &[Stand], limits: &Limits) -> Option<Timestamp> {
    let ends = stands.iter().filter_map(|stand| limits.over_at(stand));
    ends.filter(|at| *at > limits.now).min()
}

/// The worktrees that go, each with the reason, in the order in which they go: those whose time is
/// over, then the oldest until the rest is within the quota. What is needed never goes, and what
/// a retry may want goes only once no retry can come.
#[must_use]
pub fn due(stands: &[Stand], limits: &Limits) -> Vec<(RunId, Why)> {
    let mut free: Vec<(Timestamp, &Stand)> = stands
        .iter()
        .filter(|stand| stand.need.is_none())
        .filter_map(|stand| Some((stand.ended_at?, stand)))
        .collect();
    free.sort_by_key(|(ended_at, stand)| (*ended_at, stand.run));
    let taken = stands.iter().fold(limits.other_bytes, |sum, one| sum.saturating_add(one.bytes));
    let (old, young): (Vec<_>, Vec<_>) =
        free.into_iter().partition(|(_, stand)| limits.is_over(stand));
    let mut left = taken;
    let mut going = Vec::new();
    for (_, stand) in old {
        left = left.saturating_sub(stand.bytes);
        going.push((stand.run, Why::Retention));
    }
    for (_, stand) in young.into_iter().filter(|(_, stand)| stand.is_final) {
        let why = match (left > limits.quota, limits.asked) {
            (true, _) => Why::Quota,
            (false, true) => Why::Asked,
            (false, false) => break,
        };
        left = left.saturating_sub(stand.bytes);
        going.push((stand.run, why));
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn stand(n: u128, ended_at: Option<i64>, bytes: u64) -> Stand {
        Stand {
            task: TaskId(Uuid::from_u128(n)),
            run: RunId(Uuid::from_u128(n)),
            ended_at: ended_at.map(Timestamp::from_millis),
            is_final: true,
            bytes,
            need: None,
        }
    }

    fn limits(asked: bool) -> Limits {
        let now = Timestamp::from_millis(1_000);
        Limits { now, retention_ms: 500, quota: 100, other_bytes: 10, asked }
    }

    fn going(stands: &[Stand], limits: &Limits) -> Vec<(u128, Why)> {
        due(stands, limits).into_iter().map(|(run, why)| (run.0.as_u128(), why)).collect()
    }

    #[test]
    fn the_old_go_first_then_the_oldest_until_the_quota_holds() {
        let stands = [
            stand(1, Some(900), 50),
            stand(2, Some(600), 60),
            stand(3, Some(500), 10),
            stand(4, None, 20),
        ];
        // 10 of the pool and 140 of four: without 3 and 2 it is 80
        assert_eq!(going(&stands, &limits(false)), [(3, Why::Retention), (2, Why::Quota)]);
        assert_eq!(
            going(&stands, &limits(true)),
            [(3, Why::Retention), (2, Why::Quota), (1, Why::Asked)]
        );
    }

    #[test]
    fn what_a_retry_may_want_goes_once_no_retry_can_come() {
        let deferred = Stand { is_final: false, ..stand(1, Some(600), 900) };
        assert_eq!(going(std::slice::from_ref(&deferred), &limits(true)), []);
        let mut late = limits(false);
        late.now = Timestamp::from_millis(600 + RETRY_MS - 1);
        assert_eq!(going(std::slice::from_ref(&deferred), &late), []);
        let end = Timestamp::from_millis(600 + RETRY_MS);
        assert_eq!(next(std::slice::from_ref(&deferred), &late), Some(end));
        late.now = end;
        assert_eq!(going(&[deferred], &late), [(1, Why::Retention)]);
    }

    fn any_stand() -> impl Strategy<Value = Stand> {
        let need = proptest::option::weighted(
            0.3,
            prop_oneof![
                Just(Need::Run),
                Just(Need::End),
                Just(Need::Sibling),
                Just(Need::Work),
                Just(Need::Session)
            ],
        );
        let ended = proptest::option::weighted(0.8, 0i64..1_000);
        (any::<u128>(), ended, any::<bool>(), 0u64..80, need).prop_map(
            |(n, ended, is_final, bytes, need)| Stand { is_final, need, ..stand(n, ended, bytes) },
        )
    }

    proptest! {
        #[test]
        fn nothing_needed_goes_and_the_quota_holds_or_nothing_is_left_to_give(
            stands in proptest::collection::vec(any_stand(), 0..20),
            asked: bool,
        ) {
            let limits = limits(asked);
            let going = due(&stands, &limits);
            let goes = |stand: &Stand| going.iter().find(|(run, _)| *run == stand.run);
            for stand in &stands {
                if let Some((_, why)) = goes(stand) {
                    prop_assert!(stand.need.is_none() && stand.ended_at.is_some());
                    prop_assert!(stand.is_final || *why == Why::Retention);
                    let over = limits.is_over(stand);
                    prop_assert_eq!(over, *why == Why::Retention);
                    prop_assert!(asked || *why != Why::Asked);
                }
            }
            let stays = |stand: &&Stand| goes(stand).is_none();
            let left: u64 = stands.iter().filter(stays).map(|stand| stand.bytes).sum();
            let more = stands.iter().filter(stays).any(|stand| {
                stand.need.is_none() && stand.ended_at.is_some() && stand.is_final
            });
            prop_assert!(left + limits.other_bytes <= limits.quota || !more);
            prop_assert!(!asked || !more);
        }
    }
}
