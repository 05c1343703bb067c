//! What a peer can do.

use serde::{Deserialize, Serialize};

/// The version of this wire.
pub const PROTOCOL_VERSION: u32 = 1;

/// One ability of a peer. What is used follows from these alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Capability {
    /// Numbers its state messages and resends what was not acked.
    #[serde(rename = "outbox")]
    Outbox,
    /// Claims work by itself; without it the relay pushes.
    #[serde(rename = "claim")]
    Claim,
    /// Sends output in binary frames to those who watch.
    #[serde(rename = "outputFrames")]
    OutputFrames,
    /// Answers commands that carry a request id with `reply`.
    #[serde(rename = "replies")]
    Replies,
    /// Shows the terminals of its sessions, and takes what is typed into them.
    #[serde(rename = "terminals")]
    Terminals,
    /// Sends what a search finds while it goes on, and ends one that is called off.
    #[serde(rename = "searchStreams")]
    SearchStreams,
    /// Ends an agent by itself before the relay may hand its task over, and numbers its beats.
    #[serde(rename = "selfFence")]
    SelfFence,
    /// One of a newer peer.
    #[serde(untagged)]
    Other(String),
}

/// What this version can do.
pub const OURS: [Capability; 7] = [
    Capability::Outbox,
    Capability::Claim,
    Capability::OutputFrames,
    Capability::Replies,
    Capability::Terminals,
    Capability::SearchStreams,
    Capability::SelfFence,
];

/// Those of `needed` that `offered` lacks.
#[must_use]
pub fn missing(needed: &[Capability], offered: &[Capability]) -> Vec<Capability> {
    needed.iter().filter(|c| !offered.contains(c)).cloned().collect()
}
