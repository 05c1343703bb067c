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
    /// Tells of its background work, and takes orders for it.
    #[serde(rename = "jobs")]
    Jobs,
    /// One of a newer peer.
    #[serde(untagged)]
    Other(String),
}

/// What this version can do.
pub const OURS: [Capability; 8] = [
    Capability::Outbox,
    Capability::Claim,
    Capability::OutputFrames,
    Capability::Replies,
    Capability::Terminals,
    Capability::SearchStreams,
    Capability::SelfFence,
    Capability::Jobs,
];

impl Capability {
    /// The name on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Outbox => "outbox",
            Self::Claim => "claim",
            Self::OutputFrames => "outputFrames",
            Self::Replies => "replies",
            Self::Terminals => "terminals",
            Self::SearchStreams => "searchStreams",
            Self::SelfFence => "selfFence",
            Self::Jobs => "jobs",
            Self::Other(name) => name,
        }
    }
}

/// Several of them in words: "outbox and claim".
#[must_use]
pub fn worded(all: &[Capability]) -> String {
    let names: Vec<_> = all.iter().map(Capability::name).collect();
    names.join(" and ")
}

/// Those of `needed` that `offered` lacks.
#[must_use]
pub fn missing(needed: &[Capability], offered: &[Capability]) -> Vec<Capability> {
    needed.iter().filter(|c| !offered.contains(c)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_called_as_it_is_written() {
        for one in OURS {
            assert_eq!(serde_json::to_string(&one).unwrap(), format!("\"{}\"", one.name()));
        }
        assert_eq!(worded(&[Capability::Outbox, Capability::Claim]), "outbox and claim");
    }
}
