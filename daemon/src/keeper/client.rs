//! One client of the keeper: bytes in, messages out, never waiting for either.

use super::wire::{self, FromClient, FromKeeper, GREETING, MAX_FRAME, SOCKET_VERSION};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// How much may wait for a client that does not read. All answers are small; one that lets
/// thousands pile up is cut off when it asks for more; progress does not pile up.
const MAX_OUTBOX: usize = 256 << 10;
/// How much one read may bring.
const READ: usize = 16 << 10;

/// A connected client. Owned by the keeper's loop.
pub(super) struct Client {
    /// Which one, never used again.
    pub(super) id: u64,
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    greeted: bool,
    /// What it was told of the output; `None` while it did not subscribe.
    pub(super) told: Option<(u64, u64)>,
    /// Whether it stays connected once the outbox is empty.
    stays: bool,
}

/// The client is gone, or broke the protocol.
pub(super) struct Gone;

impl Client {
    /// Takes over an accepted connection.
    pub(super) fn new(id: u64, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (inbox, outbox) = (Vec::new(), Vec::new());
        Ok(Self { id, stream, inbox, outbox, greeted: false, told: None, stays: true })
    }

    /// What to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits to be sent.
    pub(super) fn is_behind(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Reads what is there; gives the next whole message, if any.
    pub(super) fn receive(&mut self) -> Result<Option<FromClient>, Gone> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(Some(message));
            }
            if self.inbox.len() > MAX_FRAME + 4 {
                return Err(Gone);
            }
            let old = self.inbox.len();
            self.inbox.resize(old + READ, 0);
            let read = self.stream.read(&mut self.inbox[old..]);
            self.inbox.truncate(old + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(Gone),
                Ok(_) => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    fn next_message(&mut self) -> Result<Option<FromClient>, Gone> {
        if self.outbox.len() > MAX_OUTBOX {
            return Err(Gone);
        }
        if !self.stays {
            self.inbox.clear();
            return Ok(None);
        }
        if !self.greeted {
            let Some(greeting) = self.inbox.first_chunk::<GREETING>() else { return Ok(None) };
            let theirs = wire::read_greeting(*greeting).map_err(|_| Gone)?;
            self.inbox.drain(..GREETING);
            self.outbox.extend_from_slice(&wire::welcome(theirs));
            self.greeted = true;
            self.stays = theirs == SOCKET_VERSION;
            return self.next_message();
        }
        let Some((message, took)) = wire::decode_client(&self.inbox).map_err(|_| Gone)? else {
            return Ok(None);
        };
        self.inbox.drain(..took);
        if self.inbox.is_empty() {
            // a large prompt must not keep the keeper large
            self.inbox = Vec::new();
        }
        Ok(Some(message))
    }

    /// Queues a message.
    pub(super) fn tell(&mut self, message: &FromKeeper) {
        match wire::encode(message) {
            Ok(frame) => self.outbox.extend_from_slice(&frame),
            Err(fault) => eprintln!("a message could not be written: {fault}"),
        }
    }

    /// Sends what the client takes; it is gone when it must go and all was sent.
    pub(super) fn flush(&mut self) -> Result<(), Gone> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => return Err(Gone),
                Ok(sent) => {
                    self.outbox.drain(..sent);
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => break,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
        if self.outbox.is_empty() && !self.stays { Err(Gone) } else { Ok(()) }
    }
}
