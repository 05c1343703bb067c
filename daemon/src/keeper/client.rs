//! One client of the keeper: bytes in, messages out, never waiting for either.

use super::wire::{self, FromClient, FromKeeper, GREETING, MAX_FRAME, SOCKET_VERSION};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// How much may wait for a client that does not read. All answers are small; one that lets
/// thousands pile up is cut off when it asks for more; progress does not pile up.
const MAX_OUTBOX: usize = 256 << 10;
/// How much output may wait for a client that is shown it: one full read of a terminal, so a keeper
/// stays small. What comes beyond is skipped, and read from the ring by who wants it.
const MAX_SHOWN: usize = 64 << 10;
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
    /// What it is shown of the output; `None` while it did not ask for that.
    shown: Option<Shown>,
    /// Whether it stays connected once the outbox is empty.
    stays: bool,
}

/// How far a client was shown the output.
struct Shown {
    /// Behind the last byte that was queued, or named as skipped.
    next: u64,
    /// The last size that it was not told of, because output before it was skipped or too much waits.
    size: Option<TerminalSize>,
}

/// A size of the terminal.
#[derive(Clone, Copy)]
pub(super) struct TerminalSize {
    /// Height in characters.
    pub(super) rows: u16,
    /// Width in characters.
    pub(super) cols: u16,
    /// The offset of the output from which on it has this size.
    pub(super) since: u64,
}

/// The client is gone, or broke the protocol.
pub(super) struct Gone;

impl Client {
    /// Takes over an accepted connection.
    pub(super) fn new(id: u64, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (inbox, outbox) = (Vec::new(), Vec::new());
        Ok(Self { id, stream, inbox, outbox, greeted: false, told: None, shown: None, stays: true })
    }

    /// What to wait on.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits to be sent.
    pub(super) fn is_behind(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Reads what is there, or about as much as a frame may have: what is more is there at the next
    /// turn. A read that is not full took all; another would cost each key one for nothing.
    pub(super) fn read(&mut self) -> Result<(), Gone> {
        if self.inbox.len() > MAX_FRAME + 4 {
            return Err(Gone);
        }
        let before = self.inbox.len();
        loop {
            let old = self.inbox.len();
            self.inbox.resize(old + READ, 0);
            let read = self.stream.read(&mut self.inbox[old..]);
            self.inbox.truncate(old + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(READ) if self.inbox.len() < MAX_FRAME => {}
                Ok(1..) => return Ok(()),
                // what came before the end is heard first
                Ok(0) | Err(_) if self.inbox.len() > before => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Err(Gone),
            }
        }
    }

    /// The next whole message of what was read, if any.
    pub(super) fn next_message(&mut self) -> Result<Option<FromClient>, Gone> {
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

    /// Whether it is shown the output.
    pub(super) fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Shows it the output behind `from`, of a terminal of this size, from now on.
    pub(super) fn begin_to_show(&mut self, from: u64, size: TerminalSize) {
        self.shown = Some(Shown { next: from, size: None });
        self.resized(size);
    }

    /// Queues output that begins at `offset`, unless something before it was skipped or held back, or
    /// too much waits: then it is skipped as well.
    pub(super) fn show(&mut self, offset: u64, bytes: &[u8]) {
        let Some(shown) = &mut self.shown else { return };
        let is_behind = shown.next != offset || shown.size.is_some();
        if is_behind || self.outbox.len() + bytes.len() > MAX_SHOWN {
            return;
        }
        if wire::add_output(&mut self.outbox, offset, bytes).is_ok() {
            shown.next += bytes.len() as u64;
        }
    }

    /// Tells it of another size of the terminal, if it is shown the output: at once where it was shown
    /// all before, else once what was skipped is named.
    pub(super) fn resized(&mut self, size: TerminalSize) {
        let Some(shown) = &mut self.shown else { return };
        if shown.next < size.since || self.outbox.len() > MAX_SHOWN {
            shown.size = Some(size);
        } else {
            shown.size = None;
            self.tell(&FromKeeper::Resized { rows: size.rows, cols: size.cols });
        }
    }

    /// Names the output up to `end` that it was not shown, if there is any, and tells it of the size
    /// in its place.
    pub(super) fn catch_up(&mut self, end: u64) {
        let Some(size) = self.shown.as_mut().map(|shown| shown.size.take()) else { return };
        if let Some(TerminalSize { rows, cols, since }) = size {
            self.skip(since.min(end));
            self.tell(&FromKeeper::Resized { rows, cols });
        }
        self.skip(end);
    }

    /// Names the output up to `until` that it was not shown, if there is any.
    fn skip(&mut self, until: u64) {
        if let Some(shown) = self.shown.as_mut().filter(|shown| shown.next < until) {
            shown.next = until;
            self.tell(&FromKeeper::Skipped { until });
        }
    }

    /// Sends what the client takes, and once it took all, where output is that ends at `end` and was
    /// not shown to it. It is gone when it must go and all was sent.
    pub(super) fn flush(&mut self, end: u64) -> Result<(), Gone> {
        self.send()?;
        if self.outbox.is_empty() {
            self.catch_up(end);
            self.send()?;
        }
        if self.outbox.is_empty() && !self.stays { Err(Gone) } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), Gone> {
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
        if self.outbox.is_empty() && self.outbox.capacity() > READ {
            // much output must not keep the keeper large
            self.outbox = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::MAX_INPUT;
    use super::*;

    /// What is heard within so many turns, and whether the client is gone then.
    fn heard(client: &mut Client, turns: usize) -> (Vec<usize>, bool) {
        let mut heard = Vec::new();
        for _ in 0..turns {
            if client.read().is_err() {
                return (heard, true);
            }
            while let Ok(Some(FromClient::Input(input))) = client.next_message() {
                heard.push(input.bytes.len());
            }
        }
        (heard, false)
    }

    #[test]
    fn f07_what_a_client_sent_before_it_left_is_heard_whole_and_a_large_input_takes_few_turns() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut client = Client::new(1, ours).unwrap();
        client.greeted = true;
        let large = wire::encode_input(1, 0, &vec![b'x'; MAX_INPUT]).unwrap();
        let sending = std::thread::spawn(move || {
            theirs.write_all(&large).unwrap();
            theirs
        });
        let mut sizes = Vec::new();
        while sizes.is_empty() {
            let (more, gone) = heard(&mut client, 1);
            assert!(!gone);
            sizes = more;
        }
        assert_eq!(sizes, [MAX_INPUT]);
        let mut theirs = sending.join().unwrap();
        let part = wire::encode_input(2, 0, &vec![b'y'; 2 * READ]).unwrap();
        theirs.write_all(&[&part[..], &part[..]].concat()).unwrap();
        drop(theirs);
        assert_eq!(heard(&mut client, 1), (vec![2 * READ; 2], false));
        assert_eq!(heard(&mut client, 1), (vec![], true));
    }
}
