//! Why a task waits: said for each daemon that could run it, and of what holds all of them back.

use crate::budget::BudgetReached;
use crate::id::DaemonId;
use serde::{Deserialize, Serialize};

/// What keeps a task waiting. Programs decide by this, never by the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyCode {
    /// It was written down and not released.
    NotReleased,
    /// The workspace has no daemon at all.
    NoDaemon,
    /// The task names another daemon.
    OtherDaemon,
    /// What it works on is on another machine.
    Elsewhere,
    /// The daemon lacks a label that the task requires.
    MissingLabel,
    /// The daemon has no such agent.
    NoAgent,
    /// The daemon has the agent, but it cannot be used.
    AgentUnhealthy,
    /// The daemon could not end the agent by itself before a hand-over.
    Unfenced,
    /// A plain peer cannot run it.
    PlainPeer,
    /// The daemon is not linked.
    DaemonOffline,
    /// The daemon's link is too young after one that broke.
    Settling,
    /// The daemon's disk is below its floor: it asks for no work.
    DiskLow,
    /// All places of the daemon are taken.
    NoFreeSlot,
    /// The workspace runs as many tasks as it may.
    WorkspaceLimit,
    /// As many runs of that agent are under way as may be.
    AgentLimit,
    /// As many runs of that provider's agents are under way as may be.
    ProviderLimit,
    /// The provider refused for its rate or quota: nobody asks it before a moment.
    ProviderBackoff,
    /// Nothing holds it back there: the daemon was told of it.
    Ready,
    /// Its attempt failed, and the next one comes at `nextRetryAt`.
    Retry,
    /// A provider's quota is used up; it goes on at `nextRetryAt`.
    Quota,
    /// It waits for a local folder to be free.
    LocalDirectory,
    /// It waits for a person's approval.
    Approval,
    /// It waits for a person's answer.
    UserInput,
    /// It waits for another task or step.
    Dependency,
    /// A budget is used up, its own or that of one that it is a part of: it waits for a person to
    /// raise it.
    #[serde(alias = "budget")]
    BudgetReached,
    /// One of a newer peer.
    #[serde(other)]
    Unknown,
}

/// One reason why a task waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// The daemon that it is about; absent where it is about all of them, or about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_id: Option<DaemonId>,
    /// That daemon's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What kind of reason.
    pub code: WhyCode,
    /// What holds it back, and what helps, for people.
    pub message: String,
    /// The budget that is used up, for [`WhyCode::BudgetReached`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetReached>,
}

impl Why {
    /// A reason that is about no single daemon.
    pub fn of_all(code: WhyCode, message: impl Into<String>) -> Self {
        Self { daemon_id: None, hostname: None, code, message: message.into(), budget: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_back_and_one_of_a_newer_peer_is_unknown() {
        let why = Why::of_all(WhyCode::NoFreeSlot, "all 4 places are taken");
        let text = serde_json::to_string(&why).unwrap();
        assert_eq!(text, r#"{"code":"no_free_slot","message":"all 4 places are taken"}"#);
        assert_eq!(serde_json::from_str::<Why>(&text).unwrap(), why);
        let newer = text.replace("no_free_slot", "wrong_moon");
        assert_eq!(serde_json::from_str::<Why>(&newer).unwrap().code, WhyCode::Unknown);
    }
}
