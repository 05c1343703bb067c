//! Reading one of the agent's streams into its ring, by the keeper's loop itself: whoever woke
//! another thread for it would pay for that at every echo of a key. Never keeps the loop
//! from its clients and its input for long: text is made of what it read by another thread, which is
//! waited for only when it is behind by some hundred KiB.

use crate::terminal::ring::RingWriter;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How much one read may bring: the most that a pipe holds.
const READ: usize = 64 << 10;
/// A read that brings less has taken all that was there, most likely: another would cost a terminal
/// more than it costs to wait anew.
const LITTLE: usize = 1 << 10;
/// How much is read before clients and input have their turn.
const TURN: usize = 256 << 10;
/// For how long: on a slow disk that is less. A write that the disk holds up is waited for.
const TURN_TIME: Duration = Duration::from_millis(5);

/// More than a terminal holds of what nobody has read.
const TERMINAL: u64 = 64 << 10;

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

    /// Reads what is there, or as much as one turn takes: the rest is there at the next. What was
    /// kept of it goes to `kept` with its offset.
    pub(super) fn read(&mut self, buffer: &mut Buffer, mut kept: impl FnMut(u64, &[u8])) {
        let (until, began) = (self.end + TURN as u64, Instant::now());
        while self.end < until && began.elapsed() < TURN_TIME {
            if self.read_once(buffer, &mut kept).is_none_or(|len| len < LITTLE) {
                return;
            }
        }
    }

    /// Reads all that the stream holds now, however long the disk takes for it. What somebody prints
    /// meanwhile, perhaps without end, is bounded by what the stream can hold at once.
    pub(super) fn read_rest(&mut self, buffer: &mut Buffer, mut kept: impl FnMut(u64, &[u8])) {
        let until = self.end + self.open.as_ref().map_or(0, Open::holds);
        // one read more than that sees the end of a stream that was full
        while self.end <= until && self.read_once(buffer, &mut kept).is_some() {}
    }

    /// How much one read brought; none when nothing is there, or nothing more comes.
    fn read_once(
        &mut self,
        buffer: &mut Buffer,
        kept: &mut impl FnMut(u64, &[u8]),
    ) -> Option<usize> {
        let open = self.open.as_mut()?;
        loop {
            match nix::unistd::read(&open.source, &mut buffer.0) {
                Ok(len) if len > 0 => {
                    if open.keep(&buffer.0[..len]) {
                        kept(self.end, &buffer.0[..len]);
                    }
                    self.end = open.ring.end();
                    return Some(len);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                // a terminal whose other end is closed says EIO
                Ok(_) | Err(_) => {
                    open.ring.settle();
                    self.drained = true;
                    self.open = None;
                    return None;
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
    /// How much the stream can hold that nobody has read.
    fn holds(&self) -> u64 {
        let pipe = fcntl(&self.source, FcntlArg::F_GETPIPE_SZ).ok();
        pipe.and_then(|size| u64::try_from(size).ok()).unwrap_or(TERMINAL)
    }

    /// False when the disk refused some.
    fn keep(&mut self, bytes: &[u8]) -> bool {
        let kept = self.ring.append(bytes);
        if let (Err(fault), false) = (&kept, self.refused) {
            eprintln!("output is lost, the disk refuses it: {fault}");
        }
        self.refused = kept.is_err();
        !self.refused
    }
}

/// Makes reads and writes return instead of waiting.
pub(super) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::unistd::{pipe, write};

    #[test]
    fn f12_a_turn_is_bounded_and_the_rest_is_there_at_the_next() {
        const ALL: usize = 4 * READ + 3;
        let dir = tempfile::tempdir().unwrap();
        let (source, sink) = pipe().unwrap();
        fcntl(&sink, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        let sent: Vec<u8> = (0..2 * ALL as u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(write(&sink, &sent).unwrap(), sent.len());
        let ring = RingWriter::open(dir.path(), 8 << 20).unwrap();
        let mut output = Output::start(source, ring).unwrap();
        let mut buffer = Buffer::default();
        let mut turns = 0;
        while output.end() < sent.len() as u64 {
            let before = output.end();
            output.read(&mut buffer, |_, _| {});
            assert!((1..=TURN as u64).contains(&(output.end() - before)));
            turns += 1;
        }
        assert!(turns > 1 && !output.drained() && output.source().is_some());
        output.read(&mut buffer, |_, _| {});
        assert!(!output.drained());
        drop(sink);
        output.read(&mut buffer, |_, _| {});
        assert!(output.drained() && output.source().is_none());
        let mut kept = vec![0; sent.len()];
        let mut reader = crate::terminal::ring::RingReader::open(dir.path());
        let mut at = 0;
        while at < kept.len() {
            match reader.read(at as u64, &mut kept[at..]).unwrap() {
                crate::terminal::ring::Read::Bytes { len, .. } => at += len,
                other => panic!("{other:?}"),
            }
        }
        assert!(kept == sent);
    }

    #[test]
    fn f06_the_rest_is_all_that_a_full_pipe_holds_and_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (source, sink) = pipe().unwrap();
        let size = fcntl(&sink, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap() as usize;
        assert_eq!(write(&sink, &vec![b'x'; size]).unwrap(), size);
        drop(sink);
        let mut output =
            Output::start(source, RingWriter::open(dir.path(), 8 << 20).unwrap()).unwrap();
        output.read_rest(&mut Buffer::default(), |_, _| {});
        assert_eq!((output.end(), output.drained()), (size as u64, true));
    }

    #[test]
    fn f05_the_rest_is_bounded_where_somebody_prints_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let (source, sink) = pipe().unwrap();
        let printing = std::thread::spawn(move || while write(&sink, &[b'y'; 4096]).is_ok() {});
        let mut output =
            Output::start(source, RingWriter::open(dir.path(), 8 << 20).unwrap()).unwrap();
        let holds = output.open.as_ref().unwrap().holds();
        output.read_rest(&mut Buffer::default(), |_, _| {});
        assert!(output.end() <= holds + READ as u64 && !output.drained(), "{}", output.end());
        output.stop();
        printing.join().unwrap();
    }
}
