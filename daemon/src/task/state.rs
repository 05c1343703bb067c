//! What the journal keeps of a run.

use super::telling::Telling;
use crate::agent::Decoder;
use crate::git::destination::Destinations;
use hayward_shared::protocol::Details;
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{DiffStat, Outcome, Reason, Status, WithheldFile};
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How far a run is. Each phase is on disk before its work begins, so that a restarted daemon
/// knows what may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for a free place, or its worktree is being made. No agent has been started.
    Preparing,
    /// A keeper may have been started.
    Starting,
    /// The agent works.
    Running,
    /// The agent ended well; its work is being brought home.
    Delivering,
    /// Nothing more will happen.
    Ended,
}

/// Who ended a run before its agent did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// A person cancelled the task.
    Cancelled,
    /// Its time ran out.
    TimedOut,
    /// Another daemon has the task now: nothing of this run counts any more.
    Fenced,
    /// No word of the relay came in time, and another daemon may get the task: it is given back.
    Expired,
}

/// The worktree of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// The repository that it belongs to.
    pub repository: PathBuf,
    /// The commit that it was made at.
    pub base_commit: String,
    /// Its branch; none with action `none`.
    pub branch: Option<String>,
    /// The user's repository, where `repository` is one of the task's own that borrows from it.
    #[serde(default)]
    pub lent_from: Option<PathBuf>,
    /// The first of the ports that are its own.
    #[serde(default)]
    pub first_port: Option<u16>,
    /// Where pushes went when it was made; none where that was not told.
    #[serde(default)]
    pub pushes_to: Option<Box<Destinations>>,
    /// What the user may want to know of how it was made.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Which agent runs, and how it came to be that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// Why this one.
    pub why: String,
}

/// How the agent's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitFacts {
    /// Its exit code, where it exited.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All that it ever printed.
    pub output_bytes: u64,
}

/// What an agent made of its worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Commits, or with action `none` changes.
    pub outcome: Outcome,
    /// The branch that holds them.
    pub branch: Option<String>,
    /// Its tip.
    pub head_commit: Option<String>,
    /// Commits on top of the base.
    pub commits: u64,
    /// What they change.
    pub stat: DiffStat,
    /// Files that policy kept out.
    pub withheld: Vec<WithheldFile>,
    /// Commit hooks of the repository that did not run, by policy.
    pub inert_hooks: Vec<String>,
    /// What a merge or pull request came to, in a line for people.
    pub completed: Option<String>,
    /// The pull request.
    pub pr_url: Option<String>,
}

/// How far the agent's output was understood.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reading {
    /// The decoder; none before the agent was launched.
    pub decoder: Option<Decoder>,
    /// What the decoder wants written to the agent and may not have been yet, oldest first.
    pub unwritten: Vec<Unwritten>,
    /// What was told so far, as far as what follows depends on it.
    pub telling: Telling,
    /// The agent's own session.
    pub session_id: Option<String>,
}

/// Something to be done to the agent's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unwritten {
    /// Write this.
    Text(String),
    /// Close it.
    Close,
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunState {
    /// How far it is.
    pub phase: Phase,
    /// What the relay was last told.
    pub status: Status,
    /// Who ended it before its agent did.
    pub wish: Option<Wish>,
    /// Its worktree, once made.
    pub place: Option<Place>,
    /// Its agent, once chosen.
    pub agent: Option<Chosen>,
    /// How often a keeper's folder had to be given up before its agent started.
    pub folder: u32,
    /// When its agent started.
    pub started_at: Option<Timestamp>,
    /// Since when its agent is frozen.
    pub frozen_since: Option<Timestamp>,
    /// Milliseconds in which its agent was frozen before that: they are none of its time.
    pub frozen_ms: i64,
    /// How its agent ended.
    pub exit: Option<ExitFacts>,
    /// Why it will have failed once its agent, which is being ended, has ended.
    pub broken: Option<Failure>,
    /// Why it failed, once it did.
    pub failed: Option<Reason>,
    /// Where its branch stood when it left it.
    pub head_commit: Option<String>,
    /// How far its output was understood.
    pub reading: Reading,
}

impl Default for RunState {
    fn default() -> Self {
        Self {
            phase: Phase::Preparing,
            status: Status::Dispatched,
            wish: None,
            place: None,
            agent: None,
            folder: 0,
            started_at: None,
            frozen_since: None,
            frozen_ms: 0,
            exit: None,
            broken: None,
            failed: None,
            head_commit: None,
            reading: Reading::default(),
        }
    }
}

impl RunState {
    /// When the time of its agent is up: so long after its start, and as much later as it was
    /// frozen. None while it does not run, and where it has all the time.
    #[must_use]
    pub(super) fn time_up(&self, terms: &Terms) -> Option<Timestamp> {
        let (at, ms) = self.started_at.zip(terms.timeout_ms)?;
        (self.phase == Phase::Running).then(|| at.plus_millis(ms.saturating_add(self.frozen_ms)))
    }

    /// Its agent goes on: what it was frozen for is none of its time.
    pub(super) fn thaw(&mut self, now: Timestamp) {
        if let Some(since) = self.frozen_since.take() {
            // a clock that was set back takes nothing away
            self.frozen_ms += now.since(since).max(0);
        }
    }

    /// `details` with how its agent ended, and the agent's own session.
    #[must_use]
    pub(super) fn with_exit(&self, details: Details) -> Details {
        Details {
            exit_code: self.exit.as_ref().and_then(|exit| exit.code),
            session_id: self.reading.session_id.clone(),
            ..details
        }
    }
}

/// What stays the same for a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Which run.
    pub key: RunKey,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Attempts at the most.
    pub max_attempts: u32,
    /// Milliseconds that the agent may work.
    pub timeout_ms: Option<i64>,
    /// Whether changing nothing is a failure.
    pub require_changes: bool,
}

/// The details that go with an end.
#[must_use]
pub(super) fn details_of(work: &Work) -> Details {
    Details {
        branch: work.branch.clone(),
        head_commit: work.head_commit.clone(),
        outcome: Some(work.outcome),
        diff_stat: Some(work.stat),
        withheld_files: Some(work.withheld.clone()),
        pr_url: work.pr_url.clone(),
        ..Details::default()
    }
}

/// The details that go with a failure.
#[must_use]
pub(super) fn details_of_failure(failure: &Failure) -> Details {
    Details { error_message: Some(failure.message.clone()), ..Details::default() }
}
