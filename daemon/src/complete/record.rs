//! How far the bringing home of a task's branch is: what the journal keeps of it. Pure.

use crate::git::destination::Destinations;
use hayward_shared::id::TaskId;
use hayward_shared::run::Failure;
use hayward_shared::task::CompletionAction;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is to be brought home, and where to. Stays the same however often it is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The task.
    pub task: TaskId,
    /// `branch`, `merge` or `pr`.
    pub action: CompletionAction,
    /// The folder that the repository's worktrees share.
    pub repository: PathBuf,
    /// The branch that holds the work.
    pub branch: String,
    /// Its tip.
    pub head: String,
    /// The commit at which the work began.
    pub base: String,
    /// The branch that it goes to.
    pub target: String,
    /// The first line of a merge, and the title of a pull request.
    pub title: String,
    /// What a pull request says.
    pub body: String,
    /// Whether a merge is signed.
    pub sign: bool,
    /// Where pushes went when the work began: a push goes nowhere else.
    #[serde(default)]
    pub pushes_to: Option<Box<Destinations>>,
}

/// How far it is. Each phase is on disk before what it announces is done, so that whoever takes it
/// up again knows what may have happened and asks for proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "phase")]
pub enum Phase {
    /// Nothing was done yet.
    Begun,
    /// The target is being moved.
    Landing {
        /// Where it stood.
        before: String,
        /// Where it shall stand.
        to: String,
    },
    /// The target was moved, or held the work already.
    Landed {
        /// Where it stood.
        before: String,
        /// Where it stood then.
        to: String,
    },
    /// The branch is being pushed.
    Pushing {
        /// The remote, by its name in the configuration.
        remote: String,
        /// Where the remote's branch stood; none when there was none.
        before: Option<String>,
    },
    /// The remote has the branch, by its own word; a pull request is being opened.
    Pushed {
        /// The remote.
        remote: String,
        /// Where the remote's branch stood.
        before: Option<String>,
    },
    /// There is a pull request.
    Opened {
        /// The remote.
        remote: String,
        /// Where the remote's branch stood.
        before: Option<String>,
        /// Its address.
        url: String,
    },
    /// The branch stands, and that was all.
    Stands,
    /// What was done is being taken back.
    TakingBack {
        /// How far it had been.
        done: Box<Phase>,
    },
    /// It was taken back.
    Undone,
}

/// One completion: what, how far, and why it went no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What.
    pub order: Order,
    /// How far.
    #[serde(flatten)]
    pub phase: Phase,
    /// Why it went no further; it may be tried again.
    pub failure: Option<Failure>,
    /// What is to be known of what was landed, in lines for people.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Record {
    /// A new one.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self { order, phase: Phase::Begun, failure: None, warnings: Vec::new() }
    }

    /// Whether somebody must go on with it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.failure.is_none() && !self.is_done()
    }

    /// Whether it did what was asked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(
            self.phase,
            Phase::Landed { .. } | Phase::Opened { .. } | Phase::Stands | Phase::Undone
        )
    }

    /// The same, about to be taken back.
    #[must_use]
    pub fn taken_back(&self) -> Self {
        let done = match self.phase.clone() {
            Phase::TakingBack { done } => done,
            phase => Box::new(phase),
        };
        Self { phase: Phase::TakingBack { done }, failure: None, ..self.clone() }
    }

    /// Whether what was done is being taken back.
    #[must_use]
    pub fn is_going_back(&self) -> bool {
        matches!(self.phase, Phase::TakingBack { .. })
    }

    /// What a completion by `order` goes on from: the same work going to the same place from where
    /// it was, whose last step is proven anew; anything else from the beginning.
    #[must_use]
    pub fn resumed(former: Option<Self>, order: Order) -> Self {
        let Some(former) = former.filter(|former| former.order == order) else {
            return Self::new(order);
        };
        let reached = match former.phase {
            Phase::TakingBack { done } => *done,
            phase => phase,
        };
        let phase = match reached {
            Phase::Landed { before, to } => Phase::Landing { before, to },
            Phase::Opened { remote, before, .. } => Phase::Pushed { remote, before },
            Phase::Undone | Phase::Stands => Phase::Begun,
            phase => phase,
        };
        Self { order, phase, failure: None, warnings: former.warnings }
    }

    /// What was done, in a line for people.
    #[must_use]
    pub fn told(&self) -> String {
        let Order { branch, target, .. } = &self.order;
        let short = |id: &str| id.chars().take(10).collect::<String>();
        let done = match &self.phase {
            Phase::Landed { before, to } if before == to => {
                format!("'{target}' held '{branch}' already")
            }
            Phase::Landed { before, to } => {
                format!(
                    "'{branch}' was merged: '{target}' went from {} to {}",
                    short(before),
                    short(to)
                )
            }
            Phase::Opened { url, .. } => {
                format!("'{branch}' was pushed, its pull request is {url}")
            }
            Phase::Stands => format!("'{branch}' stands at {}", short(&self.order.head)),
            Phase::TakingBack { .. } => {
                format!("what '{branch}' did to '{target}' is being taken back")
            }
            Phase::Undone => format!("what '{branch}' did to '{target}' was taken back"),
            Phase::Begun | Phase::Landing { .. } => {
                format!("'{branch}' is on its way to '{target}'")
            }
            Phase::Pushing { remote, .. } => format!("'{branch}' is on its way to {remote}"),
            Phase::Pushed { remote, .. } => {
                format!("{remote} has '{branch}', without a pull request")
            }
        };
        let warnings = self.warnings.iter().map(|warning| format!("; {warning}"));
        std::iter::once(done).chain(warnings).collect()
    }

    /// The address of the pull request.
    #[must_use]
    pub fn pr_url(&self) -> Option<&str> {
        match &self.phase {
            Phase::Opened { url, .. } => Some(url),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayward_shared::task::Reason;

    fn order() -> Order {
        Order {
            task: TaskId::fresh(),
            action: CompletionAction::Merge,
            repository: "/r".into(),
            branch: "hayward/x".into(),
            head: "a".repeat(40),
            base: "b".repeat(40),
            target: "main".into(),
            title: "x".into(),
            body: String::new(),
            sign: false,
            pushes_to: None,
        }
    }

    #[test]
    fn the_same_work_is_gone_on_with_and_knows_still_what_to_take_back() {
        let order = order();
        let resumed = |phase: Phase, order: &Order| {
            let failure = Some(Failure::new(Reason::PushFailed, "no"));
            let former = Record { phase, failure, ..Record::new(self::order()) };
            let former = Record { order: order.clone(), ..former };
            Record::resumed(Some(former), order.clone()).phase
        };
        let (before, to) = ("c".to_owned(), "d".to_owned());
        let landing = Phase::Landing { before: before.clone(), to: to.clone() };
        assert_eq!(resumed(Phase::Landed { before, to }, &order), landing);
        let pushed = Phase::Pushed { remote: "o".into(), before: None };
        let opened = Phase::Opened { remote: "o".into(), before: None, url: "u".into() };
        assert_eq!(resumed(opened, &order), pushed);
        assert_eq!(resumed(Phase::Undone, &order), Phase::Begun);
        let done = Box::new(landing.clone());
        assert_eq!(resumed(Phase::TakingBack { done }, &order), landing);
        let other = Order { head: "e".repeat(40), ..order.clone() };
        let former = Record { phase: landing, ..Record::new(order) };
        assert_eq!(Record::resumed(Some(former), other).phase, Phase::Begun);
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        for phase in [
            Phase::Begun,
            Phase::Landing { before: "1".into(), to: "2".into() },
            Phase::Pushed { remote: "origin".into(), before: None },
            Phase::Opened { remote: "o".into(), before: Some("1".into()), url: "u".into() },
        ] {
            let back = Record { phase: phase.clone(), ..Record::new(order()) }.taken_back();
            assert!(back.is_open() && back.is_going_back());
            assert_eq!(back.taken_back(), back);
            let text = serde_json::to_string(&back).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), back, "{text}");
            let record = Record { phase, ..Record::new(order()) };
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{text}");
        }
    }
}
