//! The lines that Claude Code writes: the part of them that we read. What is not named here is
//! skipped, so that a newer runtime is still understood.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Line {
    System(System),
    Assistant(Said),
    User(Said),
    Result(Box<Outcome>),
    ControlRequest {
        request_id: String,
        request: Request,
    },
    ControlResponse {
        response: Reply,
    },
    CommandLifecycle {
        command_uuid: Uuid,
        state: Lifecycle,
    },
    /// How the subscription stands.
    RateLimitEvent {
        rate_limit_info: Standing,
    },
    #[serde(other)]
    Other,
}

/// How a subscription stands against its limits.
#[derive(Debug, Deserialize)]
pub(super) struct Standing {
    /// `allowed`, `allowed_warning` or `rejected`.
    pub(super) status: Option<String>,
    /// Seconds since 1970.
    #[serde(rename = "resetsAt")]
    pub(super) resets_at: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "subtype", rename_all = "snake_case")]
pub(super) enum System {
    /// A turn begins.
    Init { session_id: String, model: Option<String>, claude_code_version: Option<String> },
    ApiRetry {
        attempt: u32,
        error_status: Option<u16>,
        error: Option<String>,
        retry_delay_ms: Option<f64>,
    },
    /// All commands and sub-agents that run beside the conversation.
    BackgroundTasksChanged { tasks: Vec<IgnoredAny> },
    /// One of them ended.
    TaskNotification { status: Option<String> },
    #[serde(other)]
    Other,
}

/// How far a message of ours has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lifecycle {
    Queued,
    Started,
    /// Completed, cancelled, or what a newer runtime calls its end.
    #[serde(other)]
    Over,
}

/// A line of the conversation, of the model or of the user.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    pub(super) message: Spoken,
    /// Set where a sub-agent speaks.
    pub(super) parent_tool_use_id: Option<String>,
    /// Ours, on the echo of a message.
    pub(super) uuid: Option<Uuid>,
    #[serde(default, rename = "isReplay")]
    pub(super) is_replay: bool,
    #[serde(default)]
    pub(super) tool_result_meta: Vec<ToolMeta>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Spoken {
    pub(super) id: Option<String>,
    pub(super) content: Content,
    pub(super) usage: Option<Tokens>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Blocks(Vec<Block>),
    Text(String),
}

impl Content {
    /// Its parts; plain words are one.
    pub(super) fn into_blocks(self) -> Vec<Block> {
        match self {
            Self::Blocks(blocks) => blocks,
            Self::Text(text) => vec![Block::Text { text }],
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block {
    Text {
        text: String,
    },
    Thinking {
        thinking: String,
    },
    #[serde(alias = "server_tool_use")]
    ToolUse {
        id: String,
        name: String,
        #[serde(default)]
        input: Value,
    },
    #[serde(alias = "web_search_tool_result", alias = "web_fetch_tool_result")]
    ToolResult {
        tool_use_id: String,
        #[serde(default)]
        content: Value,
        #[serde(default)]
        is_error: Option<bool>,
    },
    #[serde(other)]
    Other,
}

/// What the runtime adds about a tool result.
#[derive(Debug, Deserialize)]
pub(super) struct ToolMeta {
    pub(super) id: String,
    pub(super) permission_decision: Option<Permission>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Permission {
    pub(super) decision: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tokens {
    pub(super) input_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
    pub(super) cache_read_input_tokens: Option<u64>,
    pub(super) cache_creation_input_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ModelTokens {
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) cache_read_input_tokens: u64,
    pub(super) cache_creation_input_tokens: u64,
    #[serde(rename = "costUSD")]
    pub(super) cost_usd: Option<f64>,
}

/// The end of a turn.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) subtype: String,
    #[serde(default)]
    pub(super) is_error: bool,
    pub(super) terminal_reason: Option<String>,
    pub(super) stop_reason: Option<String>,
    pub(super) api_error_status: Option<u16>,
    pub(super) result: Option<String>,
    #[serde(default)]
    pub(super) errors: Vec<String>,
    #[serde(default)]
    pub(super) permission_denials: Vec<IgnoredAny>,
    /// Of this turn and the conversation's main line.
    pub(super) usage: Option<Tokens>,
    /// Of the whole session, earlier runs included.
    pub(super) total_cost_usd: Option<f64>,
    /// Since the last `result` of this process, with sub-agents and side requests.
    pub(super) model_usage_since_last_result: Option<BTreeMap<String, ModelTokens>>,
}

/// A question to us.
#[derive(Debug, Deserialize)]
#[serde(tag = "subtype", rename_all = "snake_case")]
pub(super) enum Request {
    CanUseTool {
        tool_name: String,
        #[serde(default)]
        input: Value,
        tool_use_id: Option<String>,
    },
    #[serde(other)]
    Other,
}

/// An answer to us, or the echo of ours.
#[derive(Debug, Deserialize)]
#[serde(tag = "subtype", rename_all = "snake_case")]
pub(super) enum Reply {
    Error {
        request_id: String,
        error: Option<String>,
    },
    #[serde(other)]
    Other,
}
