//! May the agent use this tool? The one place that answers.

use serde_json::Value;

/// A question of the runtime, before it uses a tool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// The tool.
    pub(super) tool: &'a str,
    /// What it would be called with.
    pub(super) input: &'a Value,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Run it as asked.
    Allow,
    /// Do not run it, and tell the model so.
    Deny {
        /// What the model reads.
        message: String,
    },
}

/// The tool by which the model asks the user to choose. Allowed, it would read that the user was
/// asked and said nothing.
const ASK_USER: &str = "AskUserQuestion";

/// Until policies exist every agent is trusted. Only a question to the user is declined: nobody
/// is there to answer it.
pub(super) fn answer(question: Question<'_>) -> Decision {
    let nothing_asked = question.input.get("questions").is_none();
    if question.tool != ASK_USER || nothing_asked {
        return Decision::Allow;
    }
    let message = "Nobody is here to answer. Decide as you think best, and say what you assumed.";
    Decision::Deny { message: message.to_owned() }
}
