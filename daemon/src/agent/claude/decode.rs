//! Claude Code's output, line by line, into steps.
//!
//! A turn is open from the first sign of work on a message to its `result`. The input is closed
//! when the last turn has ended, every message of ours was taken, and nothing runs in the
//! background whose end would start another turn: with its input closed the runtime can no longer
//! ask for permission.

use super::super::ending::{Ending, Exit};
use super::super::event::{AgentEvent, Outcome as Ended, SUMMARY_BYTES, TEXT_BYTES, clip};
use super::super::lines::{Line as Framed, Lines};
use super::super::{Decode, Message, Order, Refused, Session, Step};
use super::ending::{Verdict, aborted, conclude, judge, of_quota, reset};
use super::permission::{Decision, Question, answer};
use super::usage::Tally;
use super::wire::{Block, Lifecycle, Line, Outcome, Reply, Request, Said, System};
use super::{say, title};
use hayward_shared::task::Reason;
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Tool calls whose start is remembered. A turn opens a few at once; a runtime that never ends
/// them must not grow us.
const OPEN_TOOLS: usize = 512;

/// All that is known of one run of Claude Code. One reader owns it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    lines: Lines,
    /// Messages written and not taken yet.
    untaken: Vec<Uuid>,
    turn: Turn,
    background: Background,
    closed: bool,
    interrupts: u32,
    tools: BTreeMap<String, OpenTool>,
    usage: Tally,
    session: Option<Identity>,
    last: Option<Verdict>,
    /// When a quota that is used up comes back.
    #[serde(default)]
    resets_at: Option<Timestamp>,
}

/// Where the conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Turn {
    /// The agent has nothing to do.
    Idle,
    /// It echoed this message, and is about to begin work on it.
    Echoed(Uuid),
    /// It works.
    Open,
    /// It works, and an interrupt is on its way.
    Interrupting,
    /// An interrupt took effect; it waits for a message.
    Paused,
}

/// Work beside the conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Background {
    running: usize,
    /// One ended while no turn was open: the runtime will open one to tell the model.
    wakes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OpenTool {
    name: String,
    since: Timestamp,
    denied: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    id: String,
    model: Option<String>,
    version: Option<String>,
}

impl Decoder {
    /// The state before the first byte.
    pub(super) fn new(order: &Order) -> Self {
        Self {
            lines: Lines::default(),
            untaken: order.prompt.iter().map(|prompt| prompt.id).collect(),
            turn: Turn::Idle,
            background: Background::default(),
            closed: false,
            interrupts: 0,
            tools: BTreeMap::new(),
            usage: Tally::new(matches!(order.session, Session::Resume(_))),
            session: None,
            last: None,
            resets_at: None,
        }
    }

    fn line(&mut self, framed: Framed<'_>, at: Timestamp, steps: &mut Vec<Step>) {
        let bytes = match framed {
            Framed::Whole(bytes) => bytes,
            Framed::TooLong(length) => {
                steps.push(notice(&format!("a line of {length} bytes is too long to be read")));
                return;
            }
        };
        match serde_json::from_slice::<Line>(bytes) {
            Ok(line) => self.event(line, at, steps),
            Err(error) if error.is_data() => {
                steps.push(notice(&format!("a line of unknown shape was skipped: {error}")));
            }
            Err(_) => {
                let text = String::from_utf8_lossy(bytes);
                if !text.trim().is_empty() {
                    steps.push(notice(text.trim_end()));
                }
            }
        }
        self.settle(steps);
    }

    fn event(&mut self, line: Line, at: Timestamp, steps: &mut Vec<Step>) {
        match line {
            Line::System(system) => self.system(system, steps),
            Line::Assistant(said) => self.model_said(said, at, steps),
            Line::User(said) => self.user_said(said, at, steps),
            Line::Result(outcome) => self.turn_ended(&outcome, at, steps),
            Line::RateLimitEvent { rate_limit_info } => self.resets_at = reset(&rate_limit_info),
            Line::ControlRequest { request_id, request } => {
                self.asked(&request_id, &request, steps);
            }
            Line::ControlResponse { response: Reply::Error { request_id, error } } => {
                let error = error.unwrap_or_default();
                steps.push(notice(&format!("the agent did not do '{request_id}': {error}")));
            }
            Line::CommandLifecycle { command_uuid, state } => match state {
                Lifecycle::Queued => {}
                Lifecycle::Started => {
                    self.untaken.retain(|id| *id != command_uuid);
                    self.open_turn();
                }
                Lifecycle::Over => self.over(command_uuid),
            },
            Line::ControlResponse { .. } | Line::Other => {}
        }
    }

    fn system(&mut self, system: System, steps: &mut Vec<Step>) {
        match system {
            System::Init { session_id, model, claude_code_version } => {
                self.open_turn();
                let identity = Identity { id: session_id, model, version: claude_code_version };
                if self.session.as_ref() != Some(&identity) {
                    let Identity { id, model, version } = identity.clone();
                    steps.push(Step::Event(AgentEvent::Session { id, model, version }));
                    self.session = Some(identity);
                }
            }
            System::ApiRetry { attempt, error_status, error, retry_delay_ms } => {
                steps.push(Step::Event(AgentEvent::Retry {
                    attempt,
                    status: error_status,
                    reason: error.unwrap_or_else(|| "unknown".to_owned()),
                    delay_ms: whole_millis(retry_delay_ms),
                }));
            }
            System::BackgroundTasksChanged { tasks } => self.background.running = tasks.len(),
            System::TaskNotification { status } => {
                let by_itself = matches!(status.as_deref(), Some("completed" | "failed"));
                self.background.wakes = by_itself && !self.works();
            }
            System::Other => {}
        }
    }

    fn model_said(&mut self, said: Said, at: Timestamp, steps: &mut Vec<Step>) {
        let sub_agent = said.parent_tool_use_id.is_some();
        if !sub_agent {
            self.open_turn();
        }
        if let (Some(id), Some(tokens)) = (&said.message.id, &said.message.usage)
            && let Some(usage) = self.usage.said(id, tokens)
        {
            steps.push(Step::Event(AgentEvent::Usage(usage)));
        }
        for block in said.message.content.into_blocks() {
            match block {
                // A sub-agent's words are for the agent, not for the user.
                Block::Text { .. } | Block::Thinking { .. } if sub_agent => {}
                // Thinking may come sealed, without words.
                Block::Text { text } | Block::Thinking { thinking: text } if text.is_empty() => {}
                Block::Text { text } => {
                    let text = clip(&text, TEXT_BYTES);
                    steps.push(Step::Event(AgentEvent::Text { text }));
                }
                Block::Thinking { thinking } => {
                    let text = clip(&thinking, TEXT_BYTES);
                    steps.push(Step::Event(AgentEvent::Reasoning { text }));
                }
                Block::ToolUse { id, name, input } => {
                    self.tool_started(id, name, &input, at, steps)
                }
                Block::ToolResult { tool_use_id, content, is_error } => {
                    self.tool_finished(tool_use_id, &content, is_error, false, at, steps);
                }
                Block::Other => {}
            }
        }
    }

    fn user_said(&mut self, said: Said, at: Timestamp, steps: &mut Vec<Step>) {
        if said.is_replay {
            // A runtime that echoes no id takes messages in the order they were written.
            if let Some(id) = said.uuid.or_else(|| self.untaken.first().copied()) {
                self.untaken.retain(|waiting| *waiting != id);
                if !self.works() {
                    self.turn = Turn::Echoed(id);
                }
            }
            return;
        }
        for block in said.message.content.into_blocks() {
            if let Block::ToolResult { tool_use_id, content, is_error } = block {
                let denied = said.tool_result_meta.iter().any(|meta| {
                    let decision = meta.permission_decision.as_ref();
                    meta.id == tool_use_id && decision.is_some_and(|it| it.decision == "reject")
                });
                self.tool_finished(tool_use_id, &content, is_error, denied, at, steps);
            }
        }
    }

    fn tool_started(
        &mut self,
        id: String,
        name: String,
        input: &Value,
        at: Timestamp,
        steps: &mut Vec<Step>,
    ) {
        if self.tools.contains_key(&id) {
            return;
        }
        if self.tools.len() < OPEN_TOOLS {
            let open = OpenTool { name: name.clone(), since: at, denied: false };
            self.tools.insert(id.clone(), open);
        }
        steps.push(Step::Event(AgentEvent::ToolStarted {
            id,
            title: title::of(&name, input),
            input: clip(&input.to_string(), SUMMARY_BYTES),
            name,
        }));
    }

    fn tool_finished(
        &mut self,
        id: String,
        content: &Value,
        is_error: Option<bool>,
        denied: bool,
        at: Timestamp,
        steps: &mut Vec<Step>,
    ) {
        let open = self.tools.remove(&id);
        let outcome = if denied || open.as_ref().is_some_and(|tool| tool.denied) {
            Ended::Denied
        } else if is_error == Some(true) {
            Ended::Error
        } else {
            Ended::Ok
        };
        let latency_ms = open.as_ref().map(|tool| u64::try_from(at.since(tool.since)).unwrap_or(0));
        let name = open.map(|tool| tool.name).unwrap_or_default();
        let summary = clip(&title::text_of(content), SUMMARY_BYTES);
        let event = AgentEvent::ToolFinished { id, name, outcome, latency_ms, summary };
        steps.push(Step::Event(event));
    }

    fn asked(&mut self, id: &str, request: &Request, steps: &mut Vec<Step>) {
        let Request::CanUseTool { tool_name, input, tool_use_id } = request else {
            steps.push(Step::Write(say::unknown(id)));
            steps.push(notice("the agent asked for something that is not known here"));
            return;
        };
        let decision = answer(Question { tool: tool_name, input });
        let allowed = decision == Decision::Allow;
        if let Some(tool) = tool_use_id.as_ref().and_then(|id| self.tools.get_mut(id)) {
            tool.denied = !allowed;
        }
        steps.push(Step::Event(AgentEvent::PermissionRequested {
            id: id.to_owned(),
            name: tool_name.clone(),
            title: title::of(tool_name, input),
            input: clip(&input.to_string(), SUMMARY_BYTES),
            allowed,
        }));
        steps.push(Step::Write(say::decision(id, &decision, input)));
    }

    fn turn_ended(&mut self, outcome: &Outcome, at: Timestamp, steps: &mut Vec<Step>) {
        let verdict = of_quota(judge(outcome, self.session.is_some()), self.resets_at, at);
        let usage = self.usage.ended(outcome);
        steps.push(Step::Event(AgentEvent::Usage(usage)));
        if self.turn == Turn::Interrupting && aborted(outcome) {
            self.turn = Turn::Paused;
            steps.push(Step::Event(AgentEvent::Interrupted));
        } else {
            self.turn = Turn::Idle;
            let said = outcome.result.as_deref().unwrap_or(&verdict.text);
            let is_error = verdict.failure.is_some();
            let text = clip(said, TEXT_BYTES);
            steps.push(Step::Event(AgentEvent::Result { text, is_error }));
        }
        self.last = Some(verdict);
        if self.session.is_none() && !self.closed {
            // It gave up before it began: what is still written to it is never read.
            self.closed = true;
            steps.push(Step::CloseInput);
        }
    }

    /// A message is done with. One that ends right after its echo, no work between, is one that
    /// the session knew: the runtime drops it, and no `result` will come of it.
    fn over(&mut self, id: Uuid) {
        self.untaken.retain(|waiting| *waiting != id);
        if self.turn == Turn::Echoed(id) {
            self.turn = Turn::Idle;
            self.last.get_or_insert_with(|| Verdict {
                failure: Some(Reason::InvalidRequest),
                text: "the session had taken this message before, and did nothing".to_owned(),
            });
        }
    }

    fn open_turn(&mut self) {
        self.background.wakes = false;
        if self.turn != Turn::Interrupting {
            self.turn = Turn::Open;
        }
    }

    fn works(&self) -> bool {
        matches!(self.turn, Turn::Echoed(_) | Turn::Open | Turn::Interrupting)
    }

    fn settle(&mut self, steps: &mut Vec<Step>) {
        let quiet = self.background == Background::default() && self.untaken.is_empty();
        if quiet && self.turn == Turn::Idle && self.last.is_some() && !self.closed {
            self.closed = true;
            steps.push(Step::CloseInput);
        }
    }
}

impl Decode for Decoder {
    fn decode(&mut self, chunk: &[u8], at: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut lines = std::mem::take(&mut self.lines);
        lines.push(chunk, |line| self.line(line, at, &mut steps));
        self.lines = lines;
        steps
    }

    fn offset(&self) -> u64 {
        self.lines.offset()
    }

    fn gap(&mut self, to: u64) -> Vec<Step> {
        let lost = self.lines.jump(to);
        vec![notice(&format!("{lost} bytes of the agent's output are lost"))]
    }

    fn message(&mut self, message: &Message) -> Result<Vec<Step>, Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        if !self.untaken.contains(&message.id) {
            self.untaken.push(message.id);
        }
        Ok(vec![Step::Write(say::user(message))])
    }

    fn interrupt(&mut self) -> Result<Vec<Step>, Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        if !self.works() {
            return Err(Refused::Idle);
        }
        self.turn = Turn::Interrupting;
        self.interrupts += 1;
        Ok(vec![Step::Write(say::interrupt(self.interrupts))])
    }

    fn untaken(&self) -> &[Uuid] {
        &self.untaken
    }

    fn finish(&self, exit: &Exit) -> Ending {
        conclude(self.last.as_ref(), self.works(), self.session.is_some(), exit)
    }

    fn resets_at(&self) -> Option<Timestamp> {
        self.resets_at
    }
}

fn notice(text: &str) -> Step {
    Step::Event(AgentEvent::Notice { text: clip(text, SUMMARY_BYTES) })
}

/// Whole milliseconds, as the runtime tells them: maybe with a fraction, never negative.
fn whole_millis(told: Option<f64>) -> u64 {
    told.unwrap_or(0.0) as u64
}
