//! The first message each way.

use super::version::Capability;
use crate::api::Runtime;
use crate::id::{DaemonId, MachineId};
use crate::run::RunKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A daemon's first message. The seed's fields come first; ours are optional, so that a plain
/// peer can speak to us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authenticate {
    /// Its token.
    pub api_key: String,
    /// Its machine.
    pub machine_id: MachineId,
    /// The machine's name.
    pub hostname: String,
    /// Runs that it takes at once. Signed in the seed; less than 0 is malformed here.
    pub max_concurrent_tasks: u32,
    /// The wire's version that it speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<u32>,
    /// Its own version, for messages to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// What it can run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<Runtime>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What it holds from before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// What a daemon holds from an earlier link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume {
    /// The number that its next state message would get.
    pub next_seq: u64,
    /// The runs that live on it, or whose end it has yet to report.
    pub runs: Vec<RunKey>,
}

/// The relay's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authenticated {
    /// Who the daemon is to the relay.
    pub daemon_id: DaemonId,
    /// The wire's version that the relay speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<u32>,
    /// The relay's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the relay can do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// The last state message of this daemon that the relay holds. A daemon whose disk lost its
    /// tail goes on after it and never uses a number twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked_seq: Option<u64>,
}
