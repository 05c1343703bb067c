//! Tasks: what was asked for, where it stands, and the one table of legal transitions.

use crate::api::COMMAND_AGENT;
use crate::backoff::full_jitter_ms;
use crate::budget::Budget;
use crate::id::{DaemonId, RunId, TaskId, WorkspaceId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

/// Where a task, job or step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Written down, not yet released.
    Pending,
    /// Waits for a daemon to claim it.
    Queued,
    /// Claimed by a daemon that prepares it.
    Dispatched,
    /// Held up; the [`Reason`] says by what.
    Waiting,
    /// Its agent works, or its result is being brought home.
    Running,
    /// Frozen by a user and acknowledged by the daemon.
    Paused,
    /// Failed, and will be queued again at `nextRetryAt`.
    Deferred,
    /// Ended well. Other systems say `done`.
    #[serde(alias = "done")]
    Completed,
    /// Ended badly, for good; the [`Reason`] says how.
    Failed,
    /// Ended by a user.
    Cancelled,
    /// Ended because its time ran out.
    TimedOut,
    /// Never run, because what it depends on did not call for it. Steps only.
    Skipped,
}

use Status::{
    Cancelled, Completed, Deferred, Dispatched, Failed, Paused, Pending, Queued, Running, Skipped,
    TimedOut, Waiting,
};

/// Every status, in the order in which they are met.
pub const STATUSES: [Status; 12] = [
    Pending, Queued, Dispatched, Waiting, Running, Paused, Deferred, Completed, Failed, Cancelled,
    TimedOut, Skipped,
];

/// The legal transitions. Anything that is not here is refused and changes nothing.
const TRANSITIONS: [(Status, &[Status]); 7] = [
    (Pending, &[Queued, Running, Waiting, Cancelled, Skipped]),
    (Queued, &[Dispatched, Running, Cancelled, Failed]),
    (Dispatched, &[Running, Waiting, Queued, Deferred, Failed, Cancelled]),
    (Waiting, &[Running, Completed, Failed, TimedOut, Cancelled, Queued]),
    (Running, &[Paused, Waiting, Completed, Failed, TimedOut, Deferred, Cancelled, Queued]),
    (Paused, &[Running, Queued, Completed, Failed, TimedOut, Cancelled]),
    (Deferred, &[Queued, Cancelled]),
];

impl Status {
    /// Whether the table allows this status to become `to`.
    #[must_use]
    pub fn can_become(self, to: Self) -> bool {
        TRANSITIONS.iter().any(|(from, to_any)| *from == self && to_any.contains(&to))
    }

    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Completed | Failed | Cancelled | TimedOut | Skipped)
    }

    /// Whether a daemon holds a run of it, so that a lease must be live.
    #[must_use]
    pub fn is_held(self) -> bool {
        matches!(self, Dispatched | Waiting | Running | Paused)
    }

    /// The name on the wire and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Pending => "pending",
            Queued => "queued",
            Dispatched => "dispatched",
            Waiting => "waiting",
            Running => "running",
            Paused => "paused",
            Deferred => "deferred",
            Completed => "completed",
            Failed => "failed",
            Cancelled => "cancelled",
            TimedOut => "timed_out",
            Skipped => "skipped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A transition that the table does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {from} task cannot become {to}")]
pub struct IllegalTransition {
    /// Where it stood, and stands.
    pub from: Status,
    /// Where it was to go.
    pub to: Status,
}

/// What follows a failure when attempts are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Another attempt would fail alike.
    Never,
    /// Another attempt may go on with the agent's session.
    Again,
    /// Another attempt must begin a new agent session: the old one is spoilt.
    Fresh,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $retry:ident;)+) => {
        /// Why a task waits or how it failed: a closed set, never decided by reading messages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $text)] $name,)+
            /// A reason of a newer peer.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        /// Every reason that this version knows.
        pub const REASONS: &[Reason] = &[$(Reason::$name),+];

        impl Reason {
            /// The name on the wire and in tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                    Self::Unknown => "unknown",
                }
            }

            /// What follows this failure when attempts are left. Reasons of waiting never retry.
            #[must_use]
            pub fn retry(self) -> Retry {
                match self {
                    $(Self::$name => Retry::$retry,)+
                    Self::Unknown => Retry::Never,
                }
            }
        }
    };
}

reasons! {
    /// Waits for a local folder to be free.
    LocalDirectory = "local_directory", Never;
    /// Waits for a person's approval.
    Approval = "approval", Never;
    /// Waits for a person's answer.
    UserInput = "user_input", Never;
    /// Waits for another task or step.
    Dependency = "dependency", Never;
    /// Waits for its daemon, whose lease ran out, to come back.
    DaemonOffline = "daemon_offline", Never;
    /// Waits until a provider's quota resets.
    Quota = "quota", Never;
    /// Waits for a person to raise a budget.
    Budget = "budget", Never;

    /// The agent ended with a code other than 0.
    AgentExit = "agent_exit", Never;
    /// The agent was ended by a signal that Hayward did not send.
    AgentSignal = "agent_signal", Never;
    /// The agent's program is not installed where the daemon looks.
    AgentNotFound = "agent_not_found", Never;
    /// The agent's program could not be started.
    SpawnFailed = "spawn_failed", Never;
    /// The session vanished without an exit record: its keeper was killed.
    SessionLost = "session_lost", Again;
    /// The provider said 429 until the agent gave up.
    ProviderRateLimited = "provider_rate_limited", Again;
    /// The provider said 503 or 529 until the agent gave up.
    ProviderOverloaded = "provider_overloaded", Again;
    /// The connection to the provider failed until the agent gave up.
    ProviderNetwork = "provider_network", Again;
    /// The provider refused the credential.
    ProviderAuth = "provider_auth", Never;
    /// The provider refused the request itself.
    InvalidRequest = "invalid_request", Fresh;
    /// The agent's conversation no longer fits its model.
    ContextOverflow = "context_overflow", Fresh;
    /// The agent reached its own limit of turns.
    IterationLimit = "iteration_limit", Fresh;
    /// The agent was not allowed what it needed.
    PermissionDenied = "permission_denied", Never;
    /// The model refused the work.
    Refused = "refused", Never;
    /// The agent's output could not be understood.
    AgentProtocol = "agent_protocol", Never;

    /// The repository cannot be opened or reached.
    RepositoryUnavailable = "repository_unavailable", Never;
    /// The base does not name a commit of the repository.
    BaseNotFound = "base_not_found", Never;
    /// The worktree could not be made at the recorded commit.
    WorktreeFailed = "worktree_failed", Never;
    /// A file that the worktree needs is not there, or may not be copied.
    FilesMissing = "files_missing", Never;
    /// The setup command of the worktree failed.
    SetupFailed = "setup_failed", Never;
    /// The agent ended well and changed nothing, where changes were required.
    NoChanges = "no_changes", Never;
    /// Everything the agent changed was withheld from the commit.
    OnlyWithheld = "only_withheld", Never;
    /// The agent's work could not be committed.
    CommitFailed = "commit_failed", Never;
    /// A person cancelled the background work that it needed.
    JobCancelled = "job_cancelled", Never;
    /// The branch could not be pushed.
    PushFailed = "push_failed", Never;
    /// What is to be fetched from or pushed to did not answer, however often it was asked.
    RemoteUnreachable = "remote_unreachable", Never;
    /// The commits hold a secret or blob that must not be published: nothing was pushed.
    SecretsExposed = "secrets_exposed", Never;
    /// The pull request could not be opened.
    PullRequestFailed = "pull_request_failed", Never;
    /// The work does not merge into the target.
    MergeConflict = "merge_conflict", Never;
    /// There is no such branch to merge into.
    TargetNotFound = "target_not_found", Never;
    /// The target cannot be moved now: changes are in the way where it is checked out.
    TargetInTheWay = "target_in_the_way", Never;
    /// The asked completion action is not one that this version runs.
    ActionUnsupported = "action_unsupported", Never;

    /// The task's own time ran out.
    Timeout = "timeout", Never;
    /// No daemon claimed it in time.
    QueueExpired = "queue_expired", Never;
    /// The daemon's disk is full.
    DiskFull = "disk_full", Never;
    /// Something of Hayward itself failed; the message says what.
    Internal = "internal", Never;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What happens with the agent's work once it ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompletionAction {
    /// Nothing: the worktree is kept, no branch is made.
    None,
    /// A branch holds the work.
    #[default]
    Branch,
    /// The branch is merged into the target.
    Merge,
    /// The branch is pushed and a pull request opened.
    Pr,
}

/// What a completed task brought home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Commits, or with action `none` a changed worktree.
    Delivered,
    /// Nothing was changed.
    NoChanges,
}

/// Tokens that a run used, as its agent reported them. Never estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Tokens read anew, neither from nor into the cache.
    pub input_tokens: u64,
    /// Tokens written by the model.
    pub output_tokens: u64,
    /// Tokens read from the cache.
    pub cache_read_tokens: u64,
    /// Tokens written into the cache.
    pub cache_write_tokens: u64,
    /// US dollars, where the agent says so or the relay knows the prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Of all these tokens those whose price nobody knows: the cost is that of the others.
    #[serde(skip_serializing_if = "is_zero")]
    pub unpriced_tokens: u64,
}

impl Usage {
    /// The tokens that count against a budget: all but those read from the cache, which are the
    /// same ones again with every turn. What these cost counts.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens).saturating_add(self.cache_write_tokens)
    }

    /// The sum of two runs; a cost is known when either is.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            cache_read_tokens: self.cache_read_tokens.saturating_add(other.cache_read_tokens),
            cache_write_tokens: self.cache_write_tokens.saturating_add(other.cache_write_tokens),
            cost_usd: match (self.cost_usd, other.cost_usd) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)),
            },
            unpriced_tokens: self.unpriced_tokens.saturating_add(other.unpriced_tokens),
        }
    }
}

/// A file that policy kept out of the commit; it stays in the worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WithheldFile {
    /// Path inside the worktree.
    pub path: String,
    /// Why, in words.
    pub why: String,
}

/// Lines and files that a task changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiffStat {
    /// Changed files.
    pub files: u64,
    /// Added lines.
    pub insertions: u64,
    /// Removed lines.
    pub deletions: u64,
}

/// What was asked for. Set when the task is made; only the base commit is filled in later, when
/// the daemon records it at dispatch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Order {
    /// A short name; branches are called after it. Empty: made from the plan.
    pub name: String,
    /// The prompt, or the command line as text where a command was given.
    pub plan: String,
    /// The command to run, for the `command` agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Which agent runs it; absent: the best that the daemon has.
    pub agent: Option<String>,
    /// The model, where the agent can choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Higher goes first; equal ones by age.
    pub priority: i32,
    /// The task whose part this is.
    pub parent_task_id: Option<TaskId>,
    /// Free labels, for finding it again.
    pub labels: BTreeMap<String, String>,
    /// A folder on the daemon's machine, or a URL.
    pub repository_url: Option<String>,
    /// What the work starts from: a branch, tag or commit. Absent: HEAD.
    pub base_branch: Option<String>,
    /// The commit that the base names, recorded once and never moved.
    pub base_commit: Option<String>,
    /// The branch that a merge or pull request goes to.
    pub target_branch: Option<String>,
    /// What happens with the work.
    pub completion_action: CompletionAction,
    /// How a mesh conversation wants the work merged.
    pub merge_mode: Option<String>,
    /// The task of which this is a new try by hand.
    pub retry_of: Option<TaskId>,
    /// Minutes after the end of its lease at which another daemon may take over from one that is
    /// away; see [`crate::run::REQUEUE_LEAST`].
    pub requeue_after: Option<u32>,
    /// Executions at the most.
    #[serde(default = "one")]
    pub max_attempts: u32,
    /// What it and its parts may spend before a person is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Seconds that a run may last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Whether changing nothing is a failure.
    #[serde(skip_serializing_if = "is_false")]
    pub require_changes: bool,
    /// Labels that a daemon must have to run it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, String>,
    /// The only daemon that may run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted_daemon_id: Option<DaemonId>,
    /// The task whose worktree this one continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_from_task_id: Option<TaskId>,
    /// Ignored files to bring along from the repository's checkout.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copy_files: Vec<String>,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Order {
    /// The agent that runs it wherever it goes: the one that it names, else `command` where it brings
    /// a command; none where a daemon may choose.
    #[must_use]
    pub fn named_agent(&self) -> Option<&str> {
        let command = (!self.command.is_empty()).then_some(COMMAND_AGENT);
        self.agent.as_deref().or(command)
    }
}

/// What the runs of a task made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Results {
    /// The branch that holds the work.
    pub branch: Option<String>,
    /// The branch's tip.
    pub head_commit: Option<String>,
    /// What was brought home, once completed.
    pub outcome: Option<Outcome>,
    /// The pull request.
    pub pr_url: Option<String>,
    /// Files that policy kept out of the commit.
    pub withheld_files: Vec<WithheldFile>,
    /// The agent's exit code, where it exited.
    pub exit_code: Option<i32>,
    /// What the agent last said of its progress.
    pub progress_summary: Option<String>,
    /// What went wrong, in words for people.
    pub error_message: Option<String>,
    /// Tokens of all runs.
    pub usage: Usage,
    /// What the work changes against its base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff_stat: Option<DiffStat>,
    /// The agent's own session, for going on later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The model that its agent last said it asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_model: Option<String>,
    /// The refs, in its repository on its daemon's machine, of work that was in no branch when its
    /// worktree was removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub salvage: Vec<String>,
}

/// What an agent is told when its task, which had completed, is sent back to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FollowUp {
    /// Names the message: the same one is told once.
    pub id: Uuid,
    /// The words.
    pub text: String,
}

/// Who holds a task, and for which attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Holding {
    /// The daemon that has, or last had, its run.
    pub daemon_id: Option<DaemonId>,
    /// The present or last run.
    pub run_id: Option<RunId>,
    /// Counts the hand-overs; a report with an older one is refused.
    pub lease_epoch: u64,
    /// Agent starts so far.
    pub attempt: u32,
    /// When a deferred task is due.
    pub next_retry_at: Option<Timestamp>,
    /// Agent starts in a row that its provider refused for its rate; they count as no attempts.
    #[serde(skip_serializing_if = "is_zero")]
    pub refusals: u32,
    /// The agent that its present or last run was claimed for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_agent: Option<String>,
    /// Whose models that agent asks, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What the coming or present run is about, where the task was sent back; none once it has
    /// ended again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow_up: Option<FollowUp>,
    /// What came for the agent while its run was under way already: the task is sent back with it
    /// when that run has completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_follow_up: Option<FollowUp>,
}

/// A task as every client sees it, and as the relay stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its tenancy.
    pub workspace_id: WorkspaceId,
    /// Where it stands.
    pub status: Status,
    /// Why it waits, or how it failed.
    pub reason: Option<Reason>,
    /// 0 for a task of a user, 1 for its parts, and so on.
    pub depth: u32,
    /// What was asked for.
    #[serde(flatten)]
    pub order: Order,
    /// Who holds it.
    #[serde(flatten)]
    pub holding: Holding,
    /// What came of it.
    #[serde(flatten)]
    pub results: Results,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its agent first started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Grows by one with every change.
    pub version: u64,
}

impl Task {
    /// The model that its agent asks: as that told, else as the task was ordered with.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.results.session_model.as_deref().or(self.order.model.as_deref())
    }

    /// Moves it to `to`, or says why it may not; nothing changes then.
    ///
    /// Sets the reason, the version and the times; a repeated final status changes nothing and is
    /// fine.
    ///
    /// # Errors
    /// [`IllegalTransition`] when the table does not allow the step.
    pub fn advance(
        &mut self,
        to: Status,
        reason: Option<Reason>,
        now: Timestamp,
    ) -> Result<(), IllegalTransition> {
        if self.status == to && to.is_final() {
            return Ok(());
        }
        if !self.status.can_become(to) {
            return Err(IllegalTransition { from: self.status, to });
        }
        self.status = to;
        self.reason = reason;
        self.version += 1;
        if to == Running && self.started_at.is_none() {
            self.started_at = Some(now);
        }
        if to.is_final() {
            self.completed_at = Some(now);
            self.holding.follow_up = None;
        }
        if to != Deferred {
            self.holding.next_retry_at = None;
        }
        Ok(())
    }

    /// Queues a completed task anew: its agent goes on with `follow_up`, in a run of its own. The
    /// one way out of a final status, and no step of the table: only what its daemon asks for on
    /// behalf of the task's own work takes it.
    ///
    /// # Errors
    /// [`IllegalTransition`] unless it has completed; nothing changes then.
    pub fn send_back(&mut self, follow_up: FollowUp) -> Result<(), IllegalTransition> {
        if self.status != Completed {
            return Err(IllegalTransition { from: self.status, to: Queued });
        }
        self.status = Queued;
        self.completed_at = None;
        self.version += 1;
        self.holding.follow_up = Some(follow_up);
        Ok(())
    }
}

/// Milliseconds before attempt `attempt + 1`, when attempt `attempt` (from 1) failed.
///
/// Doubles from 2 s to 5 min: a provider's rate window is a minute, a reboot takes a few.
/// `jitter` in 0..1 takes off up to all of it, so that tasks that failed together do not return
/// together.
#[must_use]
pub fn retry_delay_ms(attempt: u32, jitter: f64) -> i64 {
    full_jitter_ms(2_000, 300_000, attempt, 1.0 - jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn task(status: Status) -> Task {
        Task {
            id: TaskId::fresh(),
            workspace_id: WorkspaceId::fresh(),
            status,
            reason: None,
            depth: 0,
            order: Order::default(),
            holding: Holding::default(),
            results: Results::default(),
            created_at: Timestamp::from_millis(1),
            started_at: None,
            completed_at: None,
            version: 1,
        }
    }

    #[test]
    fn final_means_that_nothing_follows() {
        for from in STATUSES {
            let follows = STATUSES.iter().any(|to| from.can_become(*to));
            assert_eq!(from.is_final(), !follows, "{from}");
        }
    }

    #[test]
    fn a_refused_step_changes_nothing_and_a_repeated_end_is_fine() {
        for from in STATUSES {
            for to in STATUSES {
                let mut moved = task(from);
                let before = moved.clone();
                let allowed = moved.advance(to, None, Timestamp::from_millis(5)).is_ok();
                assert_eq!(allowed, from.can_become(to) || (from == to && from.is_final()));
                if !from.can_become(to) {
                    assert_eq!(moved, before);
                }
            }
        }
    }

    #[test]
    fn only_a_completed_task_is_sent_back_and_its_next_end_is_final_again() {
        for from in STATUSES {
            let mut sent = task(from);
            let before = sent.clone();
            let follow_up = FollowUp { id: Uuid::nil(), text: "mend it".into() };
            assert_eq!(sent.send_back(follow_up).is_ok(), from == Completed, "{from}");
            if from != Completed {
                assert_eq!(sent, before);
                continue;
            }
            assert_eq!((sent.status, sent.completed_at), (Queued, None));
            for to in [Dispatched, Running] {
                sent.advance(to, None, Timestamp::from_millis(5)).unwrap();
                assert!(sent.holding.follow_up.is_some());
            }
            sent.advance(Completed, None, Timestamp::from_millis(6)).unwrap();
            assert_eq!(sent.holding.follow_up, None);
        }
    }

    #[test]
    fn names_are_those_of_the_wire() {
        for status in STATUSES {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
        for reason in REASONS {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
        assert_eq!(serde_json::from_str::<Status>("\"done\"").unwrap(), Completed);
        assert_eq!(serde_json::from_str::<Reason>("\"new_one\"").unwrap(), Reason::Unknown);
    }

    #[test]
    fn only_passing_troubles_and_spoilt_sessions_are_tried_again() {
        let again: Vec<_> =
            REASONS.iter().filter(|r| r.retry() == Retry::Again).map(|r| r.name()).collect();
        assert_eq!(
            again,
            ["session_lost", "provider_rate_limited", "provider_overloaded", "provider_network"]
        );
        let fresh: Vec<_> =
            REASONS.iter().filter(|r| r.retry() == Retry::Fresh).map(|r| r.name()).collect();
        assert_eq!(fresh, ["invalid_request", "context_overflow", "iteration_limit"]);
    }

    #[test]
    fn an_agent_that_is_named_goes_before_the_command_that_it_is_given() {
        let named = |agent: Option<&str>, command: &[&str]| {
            let command = command.iter().map(|&word| word.to_owned()).collect();
            let order = Order { agent: agent.map(str::to_owned), command, ..Order::default() };
            order.named_agent().map(str::to_owned)
        };
        assert_eq!(named(Some("mine"), &["true"]).as_deref(), Some("mine"));
        assert_eq!(named(Some("mine"), &[]).as_deref(), Some("mine"));
        assert_eq!(named(None, &["true"]).as_deref(), Some("command"));
        assert_eq!(named(None, &[]), None);
    }

    #[test]
    fn a_task_is_one_flat_object_with_the_names_of_the_contract() {
        let value = serde_json::to_value(task(Queued)).unwrap();
        let names = "id name status reason plan priority parentTaskId depth labels agent \
            repositoryUrl baseBranch baseCommit targetBranch branch headCommit completionAction \
            mergeMode outcome prUrl withheldFiles retryOf requeueAfter daemonId runId leaseEpoch \
            attempt maxAttempts nextRetryAt exitCode progressSummary errorMessage usage createdAt \
            startedAt completedAt version";
        for name in names.split_whitespace() {
            assert!(value.get(name).is_some(), "{name} is missing");
        }
        assert_eq!(serde_json::from_value::<Task>(value).unwrap().status, Queued);
    }

    proptest! {
        #[test]
        fn delays_grow_to_their_bound(attempt in 1u32..100, jitter in 0.0f64..1.0) {
            let delay = retry_delay_ms(attempt, jitter);
            let most = retry_delay_ms(attempt, 0.0);
            prop_assert!((0..=most).contains(&delay));
            prop_assert!((2_000..=300_000).contains(&most));
            prop_assert!(retry_delay_ms(attempt + 1, 0.0) >= most);
        }
    }
}
