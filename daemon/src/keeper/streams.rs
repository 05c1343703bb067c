//! What the keeper holds of its agent's streams: what is typed, what is read, and the size.

use super::Rings;
use super::agent::{self, Streams};
use super::client::TerminalSize;
use super::input::InputQueue;
use super::output::{Buffer, Output};
use super::wire::Fault;
use crate::terminal::ring::RingWriter;
use portable_pty::SlavePty;
use rustix::termios::tcgetwinsize;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The agent's streams, empty before it starts. Owned by the keeper's loop.
#[derive(Default)]
pub(super) struct Held {
    /// What is typed; gone when the session is over.
    pub(super) input: Option<InputQueue>,
    output: Option<Output>,
    stderr: Option<Output>,
    buffer: Buffer,
    /// The agent's end of its terminal.
    terminal: Option<Box<dyn SlavePty + Send>>,
    /// The offset of the output from which on the terminal has its size.
    sized: u64,
}

impl Held {
    /// Takes the streams of a started agent: from here on its output is read.
    pub(super) fn attend(streams: Streams, rings: Rings) -> io::Result<Self> {
        let read = |source, ring: Option<RingWriter>| {
            ring.map(|ring| Output::start(source, ring)).transpose()
        };
        match streams {
            Streams::Terminal { master, held } => Ok(Self {
                output: read(master.try_clone()?, rings.output)?,
                input: Some(InputQueue::new(master, true)?),
                terminal: Some(held),
                ..Self::default()
            }),
            Streams::Pipes { stdin, stdout, stderr } => Ok(Self {
                output: read(stdout, rings.output)?,
                stderr: read(stderr, rings.stderr)?,
                input: Some(InputQueue::new(stdin, false)?),
                ..Self::default()
            }),
        }
    }

    /// Lets go of the agent's end of its terminal, so that its output can end.
    pub(super) fn let_go(&mut self) {
        self.terminal = None;
    }

    /// Takes no more input and reads no more output. The ends stand from now on.
    pub(super) fn stop(&mut self) {
        self.input = None;
        self.each_mut().for_each(Output::stop);
    }

    /// Behind the last bytes of output and of standard error.
    pub(super) fn ends(&self) -> (u64, u64) {
        let end = |output: &Option<Output>| output.as_ref().map_or(0, Output::end);
        (end(&self.output), end(&self.stderr))
    }

    /// Whether all output was read to its end.
    pub(super) fn is_drained(&self) -> bool {
        [&self.output, &self.stderr].into_iter().flatten().all(Output::drained)
    }

    /// What to wait on for more output.
    pub(super) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.output, &self.stderr].into_iter().flatten().filter_map(Output::source)
    }

    /// Reads the output that is there; what was kept of it, errors left out, goes to `kept` with its
    /// offset.
    pub(super) fn read(&mut self, kept: impl FnMut(u64, &[u8])) {
        let Self { output, stderr, buffer, .. } = self;
        if let Some(output) = output {
            output.read(buffer, kept);
        }
        if let Some(stderr) = stderr {
            stderr.read(buffer, |_, _| {});
        }
    }

    /// Reads all the output that is there; what was kept of it, errors left out, goes to `kept` with
    /// its offset.
    pub(super) fn read_rest(&mut self, kept: impl FnMut(u64, &[u8])) {
        let Self { output, stderr, buffer, .. } = self;
        if let Some(output) = output {
            output.read_rest(buffer, kept);
        }
        if let Some(stderr) = stderr {
            stderr.read_rest(buffer, |_, _| {});
        }
    }

    /// The terminal's size; none without a terminal.
    pub(super) fn size(&self) -> Option<TerminalSize> {
        let size = tcgetwinsize(self.input.as_ref()?.master()?).ok()?;
        Some(TerminalSize { rows: size.ws_row, cols: size.ws_col, since: self.sized })
    }

    /// Changes the terminal's size, from the present end of the output on.
    pub(super) fn resize(&mut self, rows: u16, cols: u16) -> Result<(), Fault> {
        if !agent::is_size(rows, cols) {
            return Err(Fault::BadSize { rows, cols });
        }
        let pipes = || Fault::WrongMode { has: "has pipes, no terminal".to_owned() };
        agent::resize(self.master().ok_or_else(pipes)?, rows, cols)
            .map_err(|fault| Fault::System { detail: fault.to_string() })?;
        (self.sized, _) = self.ends();
        Ok(())
    }

    /// The process group in the terminal's foreground.
    pub(super) fn foreground(&self) -> Option<i32> {
        let group = nix::unistd::tcgetpgrp(self.master()?).ok()?.as_raw();
        (group > 0).then_some(group)
    }

    fn master(&self) -> Option<&OwnedFd> {
        self.input.as_ref().and_then(InputQueue::master)
    }

    fn each_mut(&mut self) -> impl Iterator<Item = &mut Output> {
        [&mut self.output, &mut self.stderr].into_iter().flatten()
    }
}
