//! What agents are seen to do: one set of events for all drivers, bounded in size.

use serde::{Deserialize, Serialize};

/// Bytes kept of a tool's input or output: enough to recognise it. The whole stays in the log.
pub const SUMMARY_BYTES: usize = 2 * 1024;
/// Bytes kept of one message of an agent, as the relay stores it.
pub const TEXT_BYTES: usize = 8 * 1024;
/// Bytes kept of a title: one line of a wide terminal.
pub const TITLE_BYTES: usize = 160;

/// Something an agent did or said. Texts are cut to their bounds, never redacted here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AgentEvent {
    /// The agent's own session, told once and again only when it changes.
    Session {
        /// What [`super::Session::Resume`] takes.
        id: String,
        /// The model that it chose.
        model: Option<String>,
        /// The version of the runtime.
        version: Option<String>,
    },
    /// Words for the user.
    Text {
        /// At most [`TEXT_BYTES`].
        text: String,
    },
    /// Thinking aloud.
    Reasoning {
        /// At most [`TEXT_BYTES`].
        text: String,
    },
    /// A tool call began.
    ToolStarted {
        /// Unique within the session.
        id: String,
        /// The tool, in the runtime's words.
        name: String,
        /// The path or command it is about.
        title: String,
        /// At most [`SUMMARY_BYTES`] of its input.
        input: String,
    },
    /// A tool call ended.
    ToolFinished {
        /// As in [`AgentEvent::ToolStarted`].
        id: String,
        /// The tool; empty when its start was not seen.
        name: String,
        /// How it ended.
        outcome: Outcome,
        /// Milliseconds from seeing its start to seeing its end; none without a start.
        latency_ms: Option<u64>,
        /// At most [`SUMMARY_BYTES`] of its output.
        summary: String,
    },
    /// The run's totals so far. A lower bound while a turn is open, exact once it ended.
    Usage(Usage),
    /// The runtime asks its provider again.
    Retry {
        /// Counted from 1 for each request.
        attempt: u32,
        /// The HTTP status, where an answer came at all.
        status: Option<u16>,
        /// The runtime's code for what went wrong.
        reason: String,
        /// Milliseconds until it asks.
        delay_ms: u64,
    },
    /// The runtime asked whether it may use a tool.
    PermissionRequested {
        /// Names the question.
        id: String,
        /// The tool.
        name: String,
        /// The path or command it is about.
        title: String,
        /// At most [`SUMMARY_BYTES`] of its input.
        input: String,
        /// Whether it was allowed.
        allowed: bool,
    },
    /// An interrupt took effect: the agent lives and waits for a message.
    Interrupted,
    /// A turn ended with this answer.
    Result {
        /// At most [`TEXT_BYTES`].
        text: String,
        /// Whether the turn failed.
        is_error: bool,
    },
    /// Output that is no event: a line for people, a line too long, a gap.
    Notice {
        /// At most [`SUMMARY_BYTES`].
        text: String,
    },
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It worked.
    Ok,
    /// It failed, or was stopped.
    Error,
    /// It was not allowed, and did not run.
    Denied,
}

/// Tokens and money of one run, over all its turns, models and sub-agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Input tokens neither read from nor written to a cache.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens read from a cache.
    pub cache_read: u64,
    /// Input tokens written to a cache.
    pub cache_write: u64,
    /// US dollars, where the runtime tells a price.
    pub cost_usd: Option<f64>,
}

/// The beginning of `text`, at most `limit` bytes of whole characters, with a mark where cut.
#[must_use]
pub fn clip(text: &str, limit: usize) -> String {
    const MARK: char = '…';
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub(MARK.len_utf8()));
    let mut kept = text[..end].to_owned();
    kept.push(MARK);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_clipped_text_fits_and_begins_the_same(text in ".{0,80}", limit in 3usize..100) {
            let kept = clip(&text, limit);
            prop_assert!(kept.len() <= limit.max(3));
            prop_assert!(text.starts_with(kept.trim_end_matches('…')) || text == kept);
            prop_assert_eq!(text.len() <= limit, kept == text);
        }
    }
}
