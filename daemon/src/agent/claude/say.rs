//! The lines that we write to Claude Code.

use super::super::Message;
use super::permission::Decision;
use serde_json::{Value, json};

/// The id of the request that sets the instructions.
const INITIALIZE: &str = "hayward-initialize";

/// A message of the user.
pub(super) fn user(message: &Message) -> Vec<u8> {
    line(&json!({
        "type": "user",
        "uuid": message.id,
        "message": {"role": "user", "content": [{"type": "text", "text": message.text}]},
    }))
}

/// Standing instructions, before the first message.
pub(super) fn initialize(instructions: &str) -> Vec<u8> {
    let request = json!({"subtype": "initialize", "appendSystemPrompt": instructions});
    line(&json!({"type": "control_request", "request_id": INITIALIZE, "request": request}))
}

/// Stops the open turn. `count` tells the interrupts of one run apart.
pub(super) fn interrupt(count: u32) -> Vec<u8> {
    line(&json!({
        "type": "control_request",
        "request_id": format!("hayward-interrupt-{count}"),
        "request": {"subtype": "interrupt"},
    }))
}

/// The answer to a permission question about a tool with this input.
pub(super) fn decision(request: &str, decision: &Decision, input: &Value) -> Vec<u8> {
    let response = match decision {
        Decision::Allow => json!({"behavior": "allow", "updatedInput": input}),
        Decision::Deny { message } => json!({"behavior": "deny", "message": message}),
    };
    line(&json!({
        "type": "control_response",
        "response": {"subtype": "success", "request_id": request, "response": response},
    }))
}

/// The answer to a request that we do not know; left without one, the runtime would wait for ever.
pub(super) fn unknown(request: &str) -> Vec<u8> {
    let response = json!({
        "subtype": "error", "request_id": request, "error": "this request is not supported",
    });
    line(&json!({"type": "control_response", "response": response}))
}

fn line(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}
