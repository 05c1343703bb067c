//! The `command` driver: any command line in a terminal. What it prints is its log, and only its
//! exit status says how it went.

use super::ending::{Ending, Exit};
use super::environment::Variable;
use super::event::AgentEvent;
use super::{Agent, Decode, Message, Mode, Order, Plan, Refused, Runtime, Step};
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Wide enough that build tools do not wrap their lines.
const COLS: u16 = 120;
/// As tall as a common terminal window.
const ROWS: u16 = 40;
/// What Ctrl-C types.
const INTERRUPT: u8 = 0x03;

/// Drives any command.
#[derive(Clone, Copy, Debug)]
pub struct Command;

impl Agent for Command {
    fn runtime(&self) -> Runtime {
        Runtime::Command
    }

    /// The command line as it is. A prompt is typed first; instructions and model have no place.
    fn launch(&self, order: &Order) -> Plan {
        Plan {
            argv: order.command.clone(),
            env: BTreeMap::new(),
            mode: Mode::Pty { rows: ROWS, cols: COLS },
            first_input: order.prompt.as_ref().map(|prompt| typed(&prompt.text)),
        }
    }

    fn decoder(&self, _order: &Order) -> super::Decoder {
        super::Decoder::Command(Decoder::default())
    }

    fn variables(&self) -> &'static [Variable] {
        &[]
    }
}

/// Counts the bytes that it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoder {
    offset: u64,
}

impl Decode for Decoder {
    fn decode(&mut self, chunk: &[u8], _at: Timestamp) -> Vec<Step> {
        self.offset += chunk.len() as u64;
        Vec::new()
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn gap(&mut self, to: u64) -> Vec<Step> {
        let lost = to.saturating_sub(self.offset);
        self.offset = to;
        let text = format!("{lost} bytes of output are lost");
        vec![Step::Event(AgentEvent::Notice { text })]
    }

    fn message(&mut self, message: &Message) -> Result<Vec<Step>, Refused> {
        Ok(vec![Step::Write(typed(&message.text))])
    }

    fn interrupt(&mut self) -> Result<Vec<Step>, Refused> {
        Ok(vec![Step::Write(vec![INTERRUPT])])
    }

    fn untaken(&self) -> &[Uuid] {
        &[]
    }

    fn finish(&self, exit: &Exit) -> Ending {
        Ending::of_exit(exit)
    }
}

/// Text as a person types it, ended by the return key.
fn typed(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(b'\r');
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::Session;
    use super::*;
    use hayward_shared::task::Reason;

    fn order() -> Order {
        Order {
            worktree: "/w".into(),
            command: vec!["make".into(), "check".into()],
            prompt: None,
            model: None,
            session: Session::Fresh(Uuid::nil()),
            instructions: None,
        }
    }

    #[test]
    fn a_command_runs_in_a_terminal_and_messages_are_typed() {
        let plan = Command.launch(&order());
        assert_eq!(plan.argv, ["make", "check"]);
        assert_eq!(plan.mode, Mode::Pty { rows: 40, cols: 120 });
        assert_eq!(plan.first_input, None);

        let mut decoder = Command.decoder(&order());
        let message = Message { id: Uuid::nil(), text: "yes".into() };
        assert_eq!(decoder.message(&message).unwrap(), [Step::Write(b"yes\r".to_vec())]);
        assert_eq!(decoder.interrupt().unwrap(), [Step::Write(vec![3])]);
        let at = Timestamp::from_millis(0);
        assert_eq!(decoder.decode(b"\x1b[31mred", at), []);
        assert_eq!(decoder.offset(), 8);
    }

    #[test]
    fn only_status_0_is_finished() {
        let decoder = Decoder::default();
        assert_eq!(decoder.finish(&Exit::Code(0)), Ending::Finished);
        for (exit, expected) in [
            (Exit::Code(3), Reason::AgentExit),
            (Exit::Signal(9), Reason::AgentSignal),
            (Exit::NotStarted("no such file".into()), Reason::AgentNotFound),
        ] {
            match decoder.finish(&exit) {
                Ending::Failed { reason, .. } => assert_eq!(reason, expected),
                Ending::Finished => panic!("{exit:?} is not finished"),
            }
        }
    }
}
