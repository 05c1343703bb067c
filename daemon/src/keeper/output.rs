//! Reading one of the agent's streams into its ring, by the keeper's loop itself: whoever woke
//! another thread for it would pay for that at every echo of a key. Never waits, and never keeps
//! the loop from its clients and its input for long. Text is made of what it read by another thread.

use crate::terminal::ring::RingWriter;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How much one read may bring: the most that a pipe holds.
const READ: usize = 64 << 10;
/// A read that brings less has taken all that was there, most likely: another would cost a terminal
/// more than it costs to wait anew.
const LITTLE: usize = 1 << 10;
/// How much is read before clients and input have their turn: a few milliseconds' worth.
const TURN: usize = 256 << 10;

/// Where bytes are read into; the streams of a session take turns with it.
pub(super) struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; READ])
    }
}

/// One stream being read. Owned by the keeper's loop.
pub(super) struct Output {
    /// Gone once nothing more is read.
    open: Option<Open>,
    end: u64,
    drained: bool,
}

/// A stream that has more, and where it goes.
struct Open {
    source: OwnedFd,
    ring: RingWriter,
    /// Whether the disk refused what was read last.
    refused: bool,
}

impl Output {
    /// Reads `source` into `ring` from now on.
    pub(super) fn start(source: OwnedFd, ring: RingWriter) -> io::Result<Self> {
        set_nonblocking(&source)?;
        let end = ring.end();
        Ok(Self { open: Some(Open { source, ring, refused: false }), end, drained: false })
    }

    /// What to wait on; none once nothing more is read.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.source.as_fd())
    }

    /// Behind the last byte that was read and kept.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether the stream was read to its end.
    pub(super) fn drained(&self) -> bool {
        self.drained
    }

    /// Reads what is there, or as much as one turn takes: the rest is there at the next.
    pub(super) fn read(&mut self, buffer: &mut Buffer) {
        let until = self.end + TURN as u64;
        while self.end < until {
            let Some(open) = &mut self.open else { return };
            match nix::unistd::read(&open.source, &mut buffer.0) {
                Ok(len) if len > 0 => {
                    open.keep(&buffer.0[..len]);
                    self.end = open.ring.end();
                    if len < LITTLE {
                        return;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // a terminal whose other end is closed says EIO
                Ok(_) | Err(_) => {
                    open.ring.settle();
                    self.drained = true;
                    self.open = None;
                }
            }
        }
    }

    /// Stops reading, drained or not: nothing is written any more.
    pub(super) fn stop(&mut self) {
        self.open = None;
    }
}

impl Open {
    fn keep(&mut self, bytes: &[u8]) {
        let kept = self.ring.append(bytes);
        if let (Err(fault), false) = (&kept, self.refused) {
            eprintln!("output is lost, the disk refuses it: {fault}");
        }
        self.refused = kept.is_err();
    }
}

/// Makes reads and writes return instead of waiting.
pub(super) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
