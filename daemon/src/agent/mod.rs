//! Drivers: how each kind of agent is started, read, spoken to and understood when it ends.
//!
//! A driver is pure. [`Agent::launch`] says what to run; a [`Decoder`] turns the bytes that come
//! back into [`Step`]s. Starting processes, moving bytes and keeping journals is for others.

pub mod claude;
pub mod command;
pub mod discover;
pub mod ending;
pub mod environment;
pub mod event;
pub mod lines;
pub mod login_shell;
pub mod roster;

use ending::{Ending, Exit};
use environment::Variable;
use event::AgentEvent;
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use uuid::Uuid;

/// The kinds of agents that this version knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Claude Code, headless, JSON lines both ways.
    Claude,
    /// Codex. Found and reported, not yet driven.
    Codex,
    /// Gemini CLI. Found and reported, not yet driven.
    Gemini,
    /// opencode. Found and reported, not yet driven.
    Opencode,
    /// Any command, in a terminal of its own.
    Command,
}

impl Runtime {
    /// The name in configuration and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
            Self::Opencode => "opencode",
            Self::Command => "command",
        }
    }

    /// The driver of this runtime; `None` where this version has none.
    #[must_use]
    pub fn driver(self) -> Option<&'static dyn Agent> {
        match self {
            Self::Claude => Some(&claude::Claude),
            Self::Command => Some(&command::Command),
            Self::Codex | Self::Gemini | Self::Opencode => None,
        }
    }
}

/// What every driver has. All of it is pure: no clock, no file, no process.
pub trait Agent: Sync {
    /// Which runtime this drives.
    fn runtime(&self) -> Runtime;

    /// How to start the agent for this order.
    fn launch(&self, order: &Order) -> Plan;

    /// The decoder of a run started by [`launch`](Self::launch) of the same order.
    fn decoder(&self, order: &Order) -> Decoder;

    /// The environment variables that the agent's own documentation names, let through to it.
    fn variables(&self) -> &'static [Variable];
}

/// What a run asks of its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The checkout that the agent works in; its working directory.
    pub worktree: PathBuf,
    /// The command line, or for a known runtime the words that start it. Empty means the
    /// runtime's own program name, to be found on the search path.
    pub command: Vec<String>,
    /// The first message. Without one the agent starts and waits.
    pub prompt: Option<Message>,
    /// The model, in the runtime's own words. `None` leaves the choice to it.
    pub model: Option<String>,
    /// Which conversation of the runtime to hold.
    pub session: Session,
    /// Standing instructions, given besides the prompt.
    pub instructions: Option<String>,
}

/// The conversation of a runtime that a run holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// A new one with this id, where the runtime lets us choose.
    Fresh(Uuid),
    /// The one that an earlier run reported in [`AgentEvent::Session`].
    Resume(String),
}

/// Words for an agent. The id is echoed when the agent takes the message, so it must be fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique among the messages of the run.
    pub id: Uuid,
    /// The words.
    pub text: String,
}

/// What to run, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Program and arguments; never the prompt, which others on the machine could read here.
    pub argv: Vec<String>,
    /// Variables that the driver sets besides the allowed ones.
    pub env: BTreeMap<String, String>,
    /// Terminal or pipes.
    pub mode: Mode,
    /// Bytes to write to the agent's input first.
    pub first_input: Option<Vec<u8>>,
}

/// What the agent's standard streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// A terminal of this size.
    Pty {
        /// Height in lines.
        rows: u16,
        /// Width in columns.
        cols: u16,
    },
    /// Plain pipes.
    Pipe,
}

/// What decoding asks for, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Something to tell.
    Event(AgentEvent),
    /// Bytes for the agent's input. Writing the same bytes twice after a crash is harmless.
    Write(Vec<u8>),
    /// Close the agent's input: nothing more will be said, it may end.
    CloseInput,
}

/// Why a message or an interrupt was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The agent has been told that nothing more comes.
    #[error("the agent is ending and takes no more input: continue its session in a new run")]
    Closed,
    /// There is no turn to interrupt.
    #[error("the agent is not working on anything that could be interrupted")]
    Idle,
}

/// What every decoder does. One reader of one run owns it.
pub trait Decode {
    /// Reads the next bytes of output, cut anywhere, seen at `at`.
    fn decode(&mut self, chunk: &[u8], at: Timestamp) -> Vec<Step>;

    /// The absolute output offset from which a stored and restored decoder must be fed. It may lie
    /// before the last byte decoded: a line that has not ended is read again.
    fn offset(&self) -> u64;

    /// Output up to the absolute offset `to` is lost; the next bytes are those at `to`.
    fn gap(&mut self, to: u64) -> Vec<Step>;

    /// Passes on a message while the agent runs. A message already on its way is not sent again.
    ///
    /// # Errors
    /// [`Refused::Closed`] once [`Step::CloseInput`] was given.
    fn message(&mut self, message: &Message) -> Result<Vec<Step>, Refused>;

    /// Stops what the agent is doing, without ending the agent.
    ///
    /// # Errors
    /// [`Refused`] when it is idle or ending.
    fn interrupt(&mut self) -> Result<Vec<Step>, Refused>;

    /// The messages passed on that the agent has not taken yet, oldest first. After the end these
    /// are the ones it never saw.
    fn untaken(&self) -> &[Uuid];

    /// What the end of the process means, all output having been decoded.
    fn finish(&self, exit: &Exit) -> Ending;

    /// When the provider's quota comes back, where its end means that this is used up.
    fn resets_at(&self) -> Option<Timestamp> {
        None
    }
}

/// The state of any driver's decoder. It is stored beside the run, and a restored one goes on from
/// [`Decode::offset`] with nothing doubled and no latency lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "runtime", rename_all = "lowercase")]
pub enum Decoder {
    /// Of a command in a terminal.
    Command(command::Decoder),
    /// Of Claude Code.
    Claude(Box<claude::Decoder>),
}

impl Decoder {
    fn of(&self) -> &dyn Decode {
        match self {
            Self::Command(decoder) => decoder,
            Self::Claude(decoder) => decoder.as_ref(),
        }
    }

    fn of_mut(&mut self) -> &mut dyn Decode {
        match self {
            Self::Command(decoder) => decoder,
            Self::Claude(decoder) => decoder.as_mut(),
        }
    }
}

impl Decode for Decoder {
    fn decode(&mut self, chunk: &[u8], at: Timestamp) -> Vec<Step> {
        self.of_mut().decode(chunk, at)
    }

    fn offset(&self) -> u64 {
        self.of().offset()
    }

    fn gap(&mut self, to: u64) -> Vec<Step> {
        self.of_mut().gap(to)
    }

    fn message(&mut self, message: &Message) -> Result<Vec<Step>, Refused> {
        self.of_mut().message(message)
    }

    fn interrupt(&mut self) -> Result<Vec<Step>, Refused> {
        self.of_mut().interrupt()
    }

    fn untaken(&self) -> &[Uuid] {
        self.of().untaken()
    }

    fn finish(&self, exit: &Exit) -> Ending {
        self.of().finish(exit)
    }

    fn resets_at(&self) -> Option<Timestamp> {
        self.of().resets_at()
    }
}
