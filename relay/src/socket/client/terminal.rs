//! A client's words about terminals, made into the daemon's. Typing is commanding a task, and
//! takes what that takes.

use super::{Client, Failed};
use hayward_shared::protocol::{ClientMessage, ClientNotice, ToDaemon};

impl Client {
    /// Takes one of the four messages about terminals.
    pub(super) async fn terminal(&self, message: ClientMessage) -> Result<(), Failed> {
        let (watch_id, seq, body) = match message {
            ClientMessage::AttachTerminal(view) => {
                if !view.read_only
                    && let Err(fault) = self.caller.commands()
                {
                    return self.no_watch(view.watch_id, fault.into()).await;
                }
                let body = ToDaemon::AttachTerminal(view);
                return self.watch(view.watch_id, view.task_id, body).await;
            }
            ClientMessage::TypeTerminal { watch_id, seq, data } => {
                (watch_id, Some(seq), ToDaemon::TypeTerminal { watch_id, data })
            }
            ClientMessage::ResizeTerminal { watch_id, rows, cols } => {
                (watch_id, None, ToDaemon::ResizeTerminal { watch_id, rows, cols })
            }
            ClientMessage::TakeTerminal { watch_id } => {
                (watch_id, None, ToDaemon::TakeTerminal { watch_id })
            }
            _ => return Ok(()),
        };
        match self.core.registry.terminal(self.id, watch_id, seq, body) {
            Ok(()) => Ok(()),
            Err(error) => {
                Ok(self.say(&ClientNotice::TerminalRefused { watch_id, seq, error }).await?)
            }
        }
    }
}
