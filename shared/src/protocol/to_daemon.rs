//! What the relay says to a daemon.

use super::hello::Authenticated;
use super::view::{OutputView, TerminalView};
use crate::id::{EntryId, JobId, RequestId, RunId, TaskId, WatchId};
use crate::job::JobOrder;
use crate::search::SearchQuery;
use crate::task::{CompletionAction, FollowUp, Order};
use serde::{Deserialize, Serialize};

macro_rules! to_daemon {
    ($($(#[$doc:meta])* $name:ident $body:tt = $text:literal),+ $(,)?) => {
        /// Every `type` of [`ToDaemon`].
        pub const TO_DAEMON_TYPES: &[&str] = &[$($text),+];

        /// A message to a daemon. The first nineteen are the seed's, the rest ours.
        ///
        /// Optional fields of the seed are written as `null`, ours are left out.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", rename_all_fields = "camelCase")]
        pub enum ToDaemon {
            $($(#[$doc])* #[serde(rename = $text)] $name $body),+
        }

        impl ToDaemon {
            /// The `type` on the wire.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $text),+
                }
            }
        }
    };
}

to_daemon! {
    /// Welcome.
    Authenticated(Authenticated) = "authenticated",
    /// Run this task.
    SpawnTask(Box<SpawnTask>) = "spawnTask",
    /// Freeze its agent.
    PauseTask {
        /// The task.
        task_id: TaskId,
    } = "pauseTask",
    /// Let it go on.
    ResumeTask {
        /// The task.
        task_id: TaskId,
    } = "resumeTask",
    /// Stop what the agent does now.
    InterruptTask {
        /// The task.
        task_id: TaskId,
        /// Ask the agent; otherwise signal it.
        graceful: bool,
    } = "interruptTask",
    /// Tell the agent something.
    SendMessage {
        /// The task.
        task_id: TaskId,
        /// What to tell.
        message: String,
    } = "sendMessage",
    /// Let the agent know what a sibling does: information, not instruction.
    InjectSiblingContext {
        /// The task to tell.
        task_id: TaskId,
        /// The sibling.
        sibling_task_id: TaskId,
        /// Its name.
        sibling_name: String,
        /// Its status.
        sibling_status: String,
        /// What it said of its progress.
        progress_summary: Option<String>,
        /// What it changed.
        changed_files: Vec<String>,
    } = "injectSiblingContext",
    /// Which branches do its parts have?
    ListBranches {
        /// The task.
        task_id: TaskId,
    } = "listBranches",
    /// Begin to merge a branch into its worktree.
    MergeStart {
        /// The task.
        task_id: TaskId,
        /// What to merge.
        source_branch: String,
    } = "mergeStart",
    /// How does the merge stand?
    MergeStatus {
        /// The task.
        task_id: TaskId,
    } = "mergeStatus",
    /// Settle one conflicting file.
    MergeResolve {
        /// The task.
        task_id: TaskId,
        /// The file.
        file: String,
        /// `ours` or `theirs`.
        strategy: String,
    } = "mergeResolve",
    /// End the merge with a commit.
    MergeCommit {
        /// The task.
        task_id: TaskId,
        /// Its message.
        message: String,
    } = "mergeCommit",
    /// Forget the merge.
    MergeAbort {
        /// The task.
        task_id: TaskId,
    } = "mergeAbort",
    /// Leave a part out, and say why.
    MergeSkip {
        /// The task.
        task_id: TaskId,
        /// The part.
        subtask_id: TaskId,
        /// Why.
        reason: String,
    } = "mergeSkip",
    /// Are all parts merged or skipped?
    CheckMergeComplete {
        /// The task.
        task_id: TaskId,
    } = "checkMergeComplete",
    /// Bring the work home once more.
    RetryCompletionAction {
        /// The task.
        task_id: TaskId,
        /// Its name.
        task_name: String,
        /// `branch`, `merge` or `pr`.
        action: CompletionAction,
        /// The user's repository.
        target_repo_path: String,
        /// Where it goes.
        target_branch: Option<String>,
    } = "retryCompletionAction",
    /// Copy its worktree out.
    CloneWorktree {
        /// The task.
        task_id: TaskId,
        /// Where to.
        target_dir: String,
    } = "cloneWorktree",
    /// Is something there?
    CheckTargetExists {
        /// The task.
        task_id: TaskId,
        /// Where.
        target_dir: String,
    } = "checkTargetExists",
    /// A message was not taken.
    Error {
        /// What kind of error, see [`crate::fault::Code`].
        code: String,
        /// What happened.
        message: String,
        /// The task whose report was refused, with `stale_lease`: its agent must end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_id: Option<TaskId>,
    } = "error",

    /// All state messages up to this number are stored.
    Ack {
        /// The last one. Not called `seq` on the wire: that is the sender's own tag.
        #[serde(rename = "upTo")]
        seq: u64,
    } = "ack",
    /// A heartbeat that carried a number was heard, and what it renewed is stored.
    HeartbeatAck {
        /// Its number.
        beat: u64,
        /// Those of its tasks that may be handed over when no more beats come: their time begins
        /// anew with this beat.
        renewed: Vec<TaskId>,
        /// The next reconnect is spread over so many milliseconds, so that all who lose this relay
        /// together do not come back together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spread_ms: Option<u64>,
    } = "heartbeatAck",
    /// There may be work; claim if there is room.
    WorkAvailable {} = "workAvailable",
    /// End its agent and keep what it made.
    CancelTask {
        /// The task.
        task_id: TaskId,
    } = "cancelTask",
    /// What did it change against its base? Answered with `reply`.
    ReadDiff {
        /// The task.
        task_id: TaskId,
    } = "readDiff",
    /// What would merging one branch into another bring? Answered with `reply`, whose payload is a
    /// [`crate::merge::MergePreview`]. Changes nothing.
    PreviewMerge {
        /// The task whose repository is meant, and whose branch and target stand in for those that
        /// are not named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_id: Option<TaskId>,
        /// The repository's folder on the daemon's machine, where no task is named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        repository: Option<String>,
        /// What would be merged: a branch, tag or commit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        /// Into what; else the task's target branch, its base branch, or the branch that is checked
        /// out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
    } = "previewMerge",
    /// Take back what its last completion action did. Answered with `completionActionResult`.
    UndoCompletion {
        /// The task.
        task_id: TaskId,
    } = "undoCompletion",
    /// Which live tasks change the same files? Answered with `reply`.
    ReadOverlap {
        /// Only what concerns this task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_id: Option<TaskId>,
    } = "readOverlap",
    /// Which worktrees do you have, and how does your pool stand? Answered with `reply`.
    ListWorktrees {
        /// Only that of this task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_id: Option<TaskId>,
    } = "listWorktrees",
    /// What may a sibling see of its work? Answered with `reply`.
    ReadOverlay {
        /// The task.
        task_id: TaskId,
    } = "readOverlay",
    /// Remove the worktrees that nobody needs. Answered with `reply` where that is asked for.
    PruneWorktrees {
        /// Only that of this task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_id: Option<TaskId>,
        /// Only tell which.
        dry_run: bool,
        /// Also those that hold work that is nowhere else; it is kept under a ref.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    } = "pruneWorktrees",
    /// Queue the branches of tasks that have ended, all to one branch, in this order, all or none.
    /// Answered with `reply`, payload `{queue}`: a [`crate::queue::QueueEntry`] of each.
    QueueAdd {
        /// The tasks.
        task_ids: Vec<TaskId>,
        /// The branch they go to; else where the work of each is meant to go.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// The command line that must succeed; an empty one asks for nothing but a clean merge.
        check: String,
        /// How long it may take.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<u64>,
    } = "queueAdd",
    /// What is in the merge queues, and what was lately? Answered as `queueAdd` is.
    QueueList {} = "queueList",
    /// Take an entry out of its queue. Answered with `reply`, payload `{entry}`.
    QueueRemove {
        /// The entry.
        entry_id: EntryId,
    } = "queueRemove",
    /// Which background work is there, and was there lately? Answered with `reply`, payload
    /// `{jobs}`: a [`crate::job::Job`] of each, the newest first, at most 500.
    ListJobs {} = "listJobs",
    /// Do something with a job. Answered with `reply`, payload `{job}`.
    OrderJob {
        /// The job.
        job_id: JobId,
        /// What to do.
        order: JobOrder,
    } = "orderJob",
    /// Search what agents printed. Answered with `reply`, payload a [`crate::search::SearchReport`].
    /// With `stream`, pages of it come before that as `searchFound`, two at the most before the
    /// first is said to be taken.
    Search(Box<SearchQuery>) = "search",
    /// A page of a search was taken: another one may be sent.
    SearchMore {
        /// The request of the search.
        asked: RequestId,
    } = "searchMore",
    /// Nobody waits for the answer to a request any more: what only looks is ended at once, all else
    /// goes on. Neither is answered.
    CallOff {
        /// The request.
        asked: RequestId,
    } = "callOff",
    /// Send the output of its last run to one viewer. Answered with `reply`, then frames.
    WatchOutput(OutputView) = "watchOutput",
    /// The viewer can take more.
    GrantOutput {
        /// The watch.
        watch_id: WatchId,
        /// Send no byte at or past this offset.
        up_to: u64,
    } = "grantOutput",
    /// The viewer is gone.
    UnwatchOutput {
        /// The watch.
        watch_id: WatchId,
    } = "unwatchOutput",
    /// Show the terminal of its live session to one viewer. Answered with `reply`, payload
    /// `{runId}`, then frames: what it shows now, then its output. Ends as a watch does.
    AttachTerminal(TerminalView) = "attachTerminal",
    /// Type into the terminal. Answered with `reply` once the agent's terminal took all of it.
    TypeTerminal {
        /// The viewer's watch.
        watch_id: WatchId,
        /// The bytes, in base64.
        data: String,
    } = "typeTerminal",
    /// The viewer has another size; the terminal follows the one that decides it. Answered with
    /// `reply`.
    ResizeTerminal {
        /// The viewer's watch.
        watch_id: WatchId,
        /// Its height in characters.
        rows: u16,
        /// Its width in characters.
        cols: u16,
    } = "resizeTerminal",
    /// From now on the size of this viewer counts. Answered with `reply`.
    TakeTerminal {
        /// The viewer's watch.
        watch_id: WatchId,
    } = "takeTerminal",
}

impl ToDaemon {
    /// Whether it is ended by `callOff`: it only looks, and may take its time.
    #[must_use]
    pub fn may_be_called_off(&self) -> bool {
        matches!(self, Self::Search(_))
    }

    /// The task that it is about, where it is one.
    #[must_use]
    pub fn subject(&self) -> Option<TaskId> {
        match self {
            Self::SpawnTask(spawn) => Some(spawn.task_id),
            Self::PauseTask { task_id }
            | Self::ResumeTask { task_id }
            | Self::InterruptTask { task_id, .. }
            | Self::SendMessage { task_id, .. }
            | Self::InjectSiblingContext { task_id, .. }
            | Self::CancelTask { task_id }
            | Self::ReadDiff { task_id }
            | Self::ReadOverlay { task_id } => Some(*task_id),
            Self::Error { task_id, .. }
            | Self::PreviewMerge { task_id, .. }
            | Self::ReadOverlap { task_id }
            | Self::ListWorktrees { task_id }
            | Self::PruneWorktrees { task_id, .. } => *task_id,
            Self::WatchOutput(view) => Some(view.task_id),
            _ => self.answer().map(|(task, _)| task),
        }
    }

    /// The `type` of the answer, where it is one of the seven with a type of their own, and the
    /// task that it will be about.
    #[must_use]
    pub fn answer(&self) -> Option<(TaskId, &'static str)> {
        match self {
            Self::ListBranches { task_id } => Some((*task_id, "branchList")),
            Self::MergeStatus { task_id } => Some((*task_id, "mergeStatusResponse")),
            Self::MergeStart { task_id, .. }
            | Self::MergeResolve { task_id, .. }
            | Self::MergeCommit { task_id, .. }
            | Self::MergeAbort { task_id } => Some((*task_id, "mergeResult")),
            Self::MergeSkip { task_id, .. } | Self::CheckMergeComplete { task_id } => {
                Some((*task_id, "mergeCompleteCheck"))
            }
            Self::RetryCompletionAction { task_id, .. } | Self::UndoCompletion { task_id } => {
                Some((*task_id, "completionActionResult"))
            }
            Self::CloneWorktree { task_id, .. } => Some((*task_id, "cloneWorktreeResult")),
            Self::CheckTargetExists { task_id, .. } => Some((*task_id, "checkTargetExistsResult")),
            _ => None,
        }
    }
}

/// `spawnTask`: the seed's fields, and ours under `run`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpawnTask {
    /// The task.
    pub task_id: TaskId,
    /// Its name. Always sent; where a peer leaves it out, the short id stands in.
    #[serde(default)]
    pub task_name: String,
    /// The prompt.
    pub plan: String,
    /// The repository.
    pub repo_url: Option<String>,
    /// What the work starts from.
    pub base_branch: Option<String>,
    /// Where it goes.
    pub target_branch: Option<String>,
    /// The task whose part this is.
    pub parent_task_id: Option<TaskId>,
    /// 0 for a user's task.
    pub depth: u32,
    /// Whether it has parts of its own.
    pub is_orchestrator: bool,
    /// The user's repository, outside the daemon's folders.
    pub target_repo_path: Option<String>,
    /// What happens with the work.
    pub completion_action: Option<CompletionAction>,
    /// The task whose worktree this one continues.
    pub continue_from_task_id: Option<TaskId>,
    /// Ignored files to bring along.
    pub copy_files: Option<Vec<String>>,
    /// What ours adds; the fence is the message's `leaseEpoch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunOrder>,
}

/// What ours adds to `spawnTask`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunOrder {
    /// The attempt.
    pub run_id: RunId,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// The whole order, as the task has it.
    pub order: Order,
    /// The agent's session to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_session_id: Option<String>,
    /// What the run is about instead of the plan, where the task was sent back after it had
    /// completed: the agent's session goes on with it, in the same worktree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_up: Option<FollowUp>,
    /// Where the relay may hand the task over to another daemon: this one begins to end its agent
    /// so many milliseconds after it sent the last beat that was acknowledged for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_after_ms: Option<u64>,
    /// A credential for the agent, good for this task alone (`hwt_`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_token: Option<String>,
}
