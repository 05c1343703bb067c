//! Bodies of the relay's HTTP interface that are not a task or an event.

use crate::budget::Spent;
use crate::id::{DaemonId, MachineId, RelayId, TokenId, UserId};
use crate::task::{CompletionAction, Task};
use crate::time::Timestamp;
use crate::why::Why;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One agent command line that a daemon found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// Its name: `claude`, `codex` and so on.
    pub name: String,
    /// What its version probe said.
    pub version: Option<String>,
    /// Whether it can be used.
    pub healthy: bool,
    /// Why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whose models it asks, as its configuration says. Absent: what [`provider_of`] says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// The agent that runs any command and asks no model; every daemon of ours has it.
pub const COMMAND_AGENT: &str = "command";

/// Whose models an agent asks by itself; none where that depends on how it was set up.
#[must_use]
pub fn provider_of(agent: &str) -> Option<&'static str> {
    match agent {
        "claude" => Some("anthropic"),
        "codex" => Some("openai"),
        "gemini" => Some("google"),
        _ => None,
    }
}

/// The most repositories that a daemon tells to be warm: those of a busy machine, and a beat stays
/// small.
pub const MOST_WARM: usize = 32;

/// How a daemon's machine stands, told with its beats. What is absent is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Vitals {
    /// Hundredths of a processor's time that are wanted, for each processor, over the last minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_percent: Option<u32>,
    /// Bytes that are free on the disk of its state folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Below so many free bytes it asks for no work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_bytes: Option<u64>,
    /// The repositories for which a worktree stands ready, as tasks name them: a folder or a URL.
    /// At most [`MOST_WARM`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warm: Vec<String>,
}

impl Vitals {
    /// Whether the disk is so full that nothing new is begun.
    #[must_use]
    pub fn is_short(&self) -> bool {
        matches!((self.free_bytes, self.floor_bytes), (Some(free), Some(floor)) if free < floor)
    }
}

/// A daemon as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonView {
    /// Its id.
    pub id: DaemonId,
    /// Its machine.
    pub machine_id: MachineId,
    /// The machine's name.
    pub hostname: String,
    /// Whether its link is up.
    pub online: bool,
    /// Its version.
    pub version: Option<String>,
    /// Runs that it holds now.
    pub active_runs: u32,
    /// Runs that it takes at once.
    pub capacity: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it can run.
    pub runtimes: Vec<Runtime>,
    /// When it was last heard.
    pub last_seen_at: Timestamp,
}

/// The folders of one daemon, as `daemonDirectories` reported them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directories {
    /// Where it was started.
    pub working_directory: String,
    /// Where finished work is cloned to.
    pub home_directory: String,
    /// Where its worktrees are.
    pub worktrees_directory: String,
}

/// Answer of `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The relay's version.
    pub version: String,
    /// The bus to the other relays, where there is to be one: `up` or `away`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// Why the bus is away, once that is known: `unreachable`, `refused` (it does not let the relay
    /// in) or `certificate` (one of the two does not take the other's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus_fault: Option<String>,
}

/// A relay as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayView {
    /// Its id, which it has as long as its process runs.
    pub id: RelayId,
    /// Where it listens; the port alone, on `0.0.0.0`, where the caller does not manage the workspace.
    pub address: String,
    /// From where it reached the database; absent: it is the only one of its database, or the caller
    /// does not manage the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Where it can be asked; absent: that follows from nothing that the relay who answers knows, or the
    /// caller does not manage the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its version.
    pub version: String,
    /// Whether it is the one that answers.
    pub answers: bool,
    /// Whether it goes on saying that it lives.
    pub online: bool,
    /// Since when its process runs, by its own clock.
    pub since: Timestamp,
    /// How many daemons of the workspace are linked to it.
    pub links: usize,
}

/// Body of `POST /api/v1/tasks/{id}/message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageBody {
    /// What to tell the agent.
    pub message: String,
}

/// Body of `POST /api/v1/tasks/{id}/interrupt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterruptBody {
    /// End the agent instead of asking it to stop what it does.
    pub force: bool,
}

/// Body of `POST /api/v1/tasks/{id}/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResumeBody {
    /// New bounds in place of those that its budget had: a [`crate::budget::Budget`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<serde_json::Value>,
}

/// A provider that refused, as `GET /api/v1/limits` tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalView {
    /// Its name.
    pub provider: String,
    /// Nobody asks it before.
    pub until: Timestamp,
    /// Refusals in a row.
    pub strikes: u32,
    /// Whether one run tries it now.
    pub probed: bool,
}

/// Body of `PATCH /api/v1/tasks/{id}`. Absent fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskPatch {
    /// The version that the caller saw; a newer one refuses the change.
    pub version: u64,
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A new plan, while nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// A new priority, while it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// New labels, in place of all old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// What a member may do in a workspace. Each includes what the ones below it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Makes tasks and commands them.
    Member,
    /// Also manages users and tokens.
    Owner,
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "member" => Ok(Self::Member),
            "owner" => Ok(Self::Owner),
            _ => Err(format!("'{text}' is no role: owner, member or viewer")),
        }
    }
}

/// Whom a token speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// A person (`hwu_`).
    User,
    /// A daemon, bound to one workspace (`hwd_`).
    Daemon,
    /// The agent of one task (`hwt_`).
    Task,
}

impl TokenKind {
    /// The beginning of such a token's secret.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::User => "hwu_",
            Self::Daemon => "hwd_",
            Self::Task => "hwt_",
        }
    }
}

/// Body of `POST /api/v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    /// Whom it speaks for; `task` tokens are made by the relay alone.
    pub kind: TokenKind,
    /// What it may do; at most the caller's own role. Daemon tokens have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The user it speaks for; absent: the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Seconds until it expires; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_seconds: Option<u64>,
}

/// A token as lists show it: never its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    /// Its id, which is no secret.
    pub id: TokenId,
    /// Whom it speaks for.
    pub kind: TokenKind,
    /// What it may do.
    pub role: Role,
    /// The user behind it, for user tokens.
    pub user_id: Option<UserId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// Answer of `POST /api/v1/tokens`: the only time that the secret is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// The secret.
    pub token: String,
    /// The rest.
    #[serde(flatten)]
    pub view: TokenView,
}

/// Body of `POST /api/v1/users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewUser {
    /// The name, unique in the relay.
    pub name: String,
    /// What they may do in the caller's workspace.
    pub role: Role,
}

/// A member of the caller's workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserView {
    /// The id.
    pub id: UserId,
    /// The name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When they were added.
    pub created_at: Timestamp,
}

/// A task as `GET /api/v1/tasks/{id}` answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    /// The task.
    #[serde(flatten)]
    pub task: Task,
    /// Why it waits; nothing of one that runs or has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<Why>,
    /// What it and its parts spent, where it has a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
}

/// A page of tasks, as `GET /api/v1/tasks` answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskPage {
    /// The tasks, newest first.
    pub tasks: Vec<Task>,
    /// Give it back to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Body of `POST /api/v1/tasks/{id}/complete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CompleteBody {
    /// `branch`, `merge` or `pr`; absent: what the task was ordered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<CompletionAction>,
    /// Where the work goes; absent: what the task was ordered with, else the branch it began from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_branch: Option<String>,
    /// Take back what the last completion did.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undo: bool,
}

/// Body of `POST /api/v1/tasks/{id}/worktree/clone`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloneBody {
    /// Where to, on the daemon's machine; a relative one lies below its `home/`.
    pub target_dir: String,
}

/// Body of `POST /api/v1/daemons/{id}/worktrees/prune`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PruneBody {
    /// Only tell which worktrees would go.
    pub dry_run: bool,
    /// Also those that hold work that is nowhere else; it is kept under a ref.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}
