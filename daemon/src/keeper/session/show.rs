//! Showing the terminal's output to clients that asked for it.

use super::super::client::TerminalSize;
use super::{Asker, Fault, Held, Session};

/// The most clients that are shown the output: the other places are for the daemon, also a new one.
const MAX_SHOWN: usize = 12;

impl Session {
    /// Begins to show a client what comes behind `from`.
    pub(super) fn show(&mut self, asker: Asker, from: u64) {
        let size = self.may_show(asker.client);
        self.answer(asker, size.as_ref().map(drop).map_err(Fault::clone));
        let client = self.clients.iter_mut().find(|one| one.id == asker.client);
        if let (Ok(size), Some(client)) = (size, client) {
            client.begin_to_show(from, size);
        }
    }

    /// The size of the terminal, if one more may be shown its output.
    fn may_show(&self, client: u64) -> Result<TerminalSize, Fault> {
        if self.machine.agent_ended() {
            return Err(Fault::Ended);
        }
        if self.clients.iter().filter(|one| one.is_shown() && one.id != client).count() >= MAX_SHOWN
        {
            return Err(Fault::Crowded { most: MAX_SHOWN });
        }
        self.streams
            .size()
            .ok_or_else(|| Fault::WrongMode { has: "has pipes, no terminal".to_owned() })
    }

    /// Reads the output that is there, as much as one turn takes, and shows it to who asked for that.
    pub(super) fn read_output(&mut self) {
        self.show_read(|streams, kept| streams.read(kept));
    }

    /// Reads all the output that is there, and shows it to who asked for that.
    pub(super) fn read_rest(&mut self) {
        self.show_read(|streams, kept| streams.read_rest(kept));
    }

    fn show_read(&mut self, read: impl FnOnce(&mut Held, &mut dyn FnMut(u64, &[u8]))) {
        let Self { streams, clients, .. } = self;
        let mut is_shown = false;
        read(streams, &mut |offset, bytes| {
            for client in clients.iter_mut().filter(|client| client.is_shown()) {
                client.show(offset, bytes);
                is_shown = true;
            }
        });
        if is_shown {
            self.pace.shown(self.now());
        }
    }
}
