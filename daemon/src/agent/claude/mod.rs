//! The `claude` driver: Claude Code, headless, JSON lines both ways over pipes.
//!
//! Headless there is no dialog to get stuck in. Messages go in as lines with ids of ours; the
//! runtime echoes an id when it takes the message, and drops a repeated one, so nothing is lost
//! or said twice across a restart. It asks on its output before it uses a tool, and gets its
//! answer on its input.

mod decode;
mod ending;
mod permission;
mod say;
mod title;
mod usage;
mod wire;

pub use decode::Decoder;

use super::environment::Variable;
use super::{Agent, Mode, Order, Plan, Runtime, Session};

/// Drives Claude Code.
#[derive(Clone, Copy, Debug)]
pub struct Claude;

/// The program, where the order names none.
const PROGRAM: &str = "claude";

/// Headless, both ways in JSON lines, permission questions on the streams, messages echoed.
const HEADLESS: [&str; 9] = [
    "-p",
    "--input-format",
    "stream-json",
    "--output-format",
    "stream-json",
    "--verbose",
    "--permission-prompt-tool",
    "stdio",
    "--replay-user-messages",
];

/// No updates of itself and no side traffic while it works for us.
const QUIET: [(&str, &str); 2] =
    [("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"), ("DISABLE_AUTOUPDATER", "1")];

/// What the runtime's documentation names, and why each is let through.
const VARIABLES: [Variable; 24] = [
    Variable { name: "ANTHROPIC_API_KEY", why: "the user's own key for the provider" },
    Variable { name: "ANTHROPIC_AUTH_TOKEN", why: "the user's own bearer token for a gateway" },
    Variable { name: "ANTHROPIC_BASE_URL", why: "the gateway that stands for the provider" },
    Variable { name: "ANTHROPIC_CUSTOM_HEADERS", why: "headers that a gateway asks for" },
    Variable { name: "ANTHROPIC_MODEL", why: "the default model" },
    Variable { name: "ANTHROPIC_SMALL_FAST_MODEL", why: "the model of its small requests" },
    Variable { name: "ANTHROPIC_BEDROCK_BASE_URL", why: "the gateway, when on Bedrock" },
    Variable { name: "ANTHROPIC_VERTEX_PROJECT_ID", why: "the project, when on Vertex" },
    Variable { name: "CLOUD_ML_REGION", why: "the region, when on Vertex" },
    Variable { name: "CLAUDE_CODE_USE_BEDROCK", why: "picks Bedrock as the provider" },
    Variable { name: "CLAUDE_CODE_USE_VERTEX", why: "picks Vertex as the provider" },
    Variable { name: "CLAUDE_CODE_OAUTH_TOKEN", why: "the user's subscription, without a browser" },
    Variable { name: "CLAUDE_CONFIG_DIR", why: "where its login and sessions are" },
    Variable { name: "CLAUDE_CODE_MAX_RETRIES", why: "how often it asks the provider again" },
    Variable { name: "CLAUDE_CODE_MAX_OUTPUT_TOKENS", why: "the bound of one answer" },
    Variable { name: "MAX_THINKING_TOKENS", why: "the bound of its thinking" },
    Variable { name: "API_TIMEOUT_MS", why: "how long it waits for the provider" },
    Variable { name: "BASH_DEFAULT_TIMEOUT_MS", why: "how long its commands may take" },
    Variable { name: "BASH_MAX_TIMEOUT_MS", why: "how long it may let a command take" },
    Variable { name: "NODE_EXTRA_CA_CERTS", why: "the certificates of a company's proxy" },
    Variable { name: "HTTP_PROXY", why: "the way out of a closed network" },
    Variable { name: "HTTPS_PROXY", why: "the way out of a closed network" },
    Variable { name: "NO_PROXY", why: "what is reached without the proxy" },
    Variable { name: "IS_SANDBOX", why: "says that root is harmless here, as in a container" },
];

impl Agent for Claude {
    fn runtime(&self) -> Runtime {
        Runtime::Claude
    }

    fn launch(&self, order: &Order) -> Plan {
        let mut argv = match order.command.as_slice() {
            [] => vec![PROGRAM.to_owned()],
            words => words.to_vec(),
        };
        argv.extend(HEADLESS.map(str::to_owned));
        if let Some(model) = &order.model {
            argv.extend(["--model".to_owned(), model.clone()]);
        }
        argv.extend(match &order.session {
            Session::Fresh(id) => ["--session-id".to_owned(), id.to_string()],
            Session::Resume(id) => ["--resume".to_owned(), id.clone()],
        });
        let mut first = Vec::new();
        if let Some(instructions) = &order.instructions {
            first.extend(say::initialize(instructions));
        }
        if let Some(prompt) = &order.prompt {
            first.extend(say::user(prompt));
        }
        Plan {
            argv,
            env: QUIET.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            mode: Mode::Pipe,
            first_input: (!first.is_empty()).then_some(first),
        }
    }

    fn decoder(&self, order: &Order) -> super::Decoder {
        super::Decoder::Claude(Box::new(Decoder::new(order)))
    }

    fn variables(&self) -> &'static [Variable] {
        &VARIABLES
    }
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_prompt_and_the_instructions_are_on_stdin_and_never_in_argv() {
        let order = Order {
            worktree: "/w".into(),
            command: vec!["/opt/bin/claude".into()],
            prompt: Some(Message { id: Uuid::from_u128(7), text: "secret\nplan \u{1b}".into() }),
            model: Some("opus".into()),
            session: Session::Resume("abc".into()),
            instructions: Some("be kind".into()),
        };
        let plan = Claude.launch(&order);
        assert_eq!(plan.argv[0], "/opt/bin/claude");
        assert_eq!(plan.argv[plan.argv.len() - 4..], ["--model", "opus", "--resume", "abc"]);
        assert!(!plan.argv.iter().any(|word| word.contains("secret") || word.contains("kind")));
        let first = String::from_utf8(plan.first_input.unwrap()).unwrap();
        let lines: Vec<serde_json::Value> =
            first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["request"]["appendSystemPrompt"], "be kind");
        assert_eq!(lines[1]["message"]["content"][0]["text"], "secret\nplan \u{1b}");
        assert_eq!(lines[1]["uuid"], Uuid::from_u128(7).to_string());
        assert_eq!(plan.mode, Mode::Pipe);
    }
}
