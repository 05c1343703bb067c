//! What a tool call is about, in one line.

use super::super::event::{SUMMARY_BYTES, TITLE_BYTES, clip};
use serde_json::Value;

/// The inputs that say best what a call is about, best first.
const TELLING: [&str; 11] = [
    "file_path",
    "notebook_path",
    "path",
    "command",
    "pattern",
    "url",
    "query",
    "description",
    "skill",
    "subject",
    "prompt",
];

/// The first line of the most telling input; the tool's name where none tells.
pub(super) fn of(name: &str, input: &Value) -> String {
    let told = TELLING.iter().find_map(|key| input.get(key)?.as_str());
    let line = told.and_then(|text| text.trim().lines().next()).unwrap_or(name);
    clip(line, TITLE_BYTES)
}

/// The words of a tool's output: a text, or the texts among its parts.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => clip(text, SUMMARY_BYTES),
        Value::Array(parts) => {
            let mut words = String::new();
            for part in parts.iter().filter_map(|part| part.get("text")?.as_str()) {
                if words.len() > SUMMARY_BYTES {
                    break;
                }
                if !words.is_empty() {
                    words.push('\n');
                }
                words.push_str(part);
            }
            words
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_title_is_the_path_or_the_first_line_of_the_command() {
        assert_eq!(of("Write", &json!({"content": "x", "file_path": "/a/b"})), "/a/b");
        assert_eq!(of("Bash", &json!({"command": "\n git add\ngit commit"})), "git add");
        assert_eq!(of("ExitPlanMode", &json!({})), "ExitPlanMode");
        assert!(of("Bash", &json!({"command": "é".repeat(900)})).len() <= TITLE_BYTES);
    }

    #[test]
    fn the_output_of_a_tool_is_its_texts() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]);
        assert_eq!(text_of(&parts), "a\nb");
        assert_eq!(text_of(&json!("plain")), "plain");
        assert_eq!(text_of(&Value::Null), "");
    }
}
