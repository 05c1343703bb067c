//! What waits to be typed to the agent. Never blocks, loses nothing silently.
//!
//! A terminal that collects lines (canonical mode) drops what exceeds 4095 bytes of one line and
//! says that it took it all. So a longer line is held back until the agent reads keys.

use super::output::set_nonblocking;
use super::wire::{Fault, Input, MAX_INPUT};
use nix::errno::Errno;
use nix::sys::termios::{InputFlags, LocalFlags, SpecialCharacterIndices, tcgetattr};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

/// What the kernel keeps of one line, its end left out (N_TTY_BUF_SIZE less one).
const LINE_LIMIT: usize = 4095;
/// How much is typed between two looks at the terminal's mode.
const STEP: usize = 4096;
/// How long until a full or line-collecting terminal is tried again: fills 64 KiB buffers at over
/// 10 MB/s, and costs nothing when nobody types.
const RETRY_MS: u64 = 5;
/// The most inputs that may wait.
const MAX_WAITING: usize = 64;
/// The most bytes that may wait: a keeper stays small.
const MAX_BYTES: usize = 2 * MAX_INPUT;

/// Who asked, and under which id: where the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) client: u64,
    pub(super) call: u64,
}

/// Who asked to type something, and how that went.
pub(super) type Typed = (Asker, Result<(), Fault>);

struct Waiting {
    asker: Asker,
    bytes: Vec<u8>,
    taken: usize,
    patience_ms: u64,
    /// The last moment at which the agent took something, or this came to the front.
    since: Option<u64>,
}

/// The queue in front of the agent's input. Owned by the keeper's loop.
pub(super) struct InputQueue {
    sink: Option<OwnedFd>,
    terminal: bool,
    waiting: VecDeque<Waiting>,
    /// How many bytes were typed since the last line's end, while lines were collected.
    open_line: usize,
    close: bool,
}

enum Step {
    Took(usize),
    /// Nothing could be typed; the fault if that lasts.
    Held(Fault),
    Failed(Fault),
}

impl InputQueue {
    /// A queue in front of `sink`, a terminal's master or a pipe.
    pub(super) fn new(sink: OwnedFd, terminal: bool) -> io::Result<Self> {
        set_nonblocking(&sink)?;
        let waiting = VecDeque::new();
        Ok(Self { sink: Some(sink), terminal, waiting, open_line: 0, close: false })
    }

    /// The terminal's master; `None` with pipes.
    pub(super) fn master(&self) -> Option<&OwnedFd> {
        self.sink.as_ref().filter(|_| self.terminal)
    }

    /// Lets `input` wait for its turn.
    pub(super) fn push(&mut self, asker: Asker, input: Input) -> Result<(), Fault> {
        let held: usize = self.waiting.iter().map(|one| one.bytes.len()).sum();
        if self.sink.is_none() || self.close {
            return Err(Fault::InputClosed { taken: 0 });
        }
        if self.waiting.len() >= MAX_WAITING || held + input.bytes.len() > MAX_BYTES {
            return Err(Fault::Busy);
        }
        let patience_ms = u64::from(input.patience_ms);
        let (bytes, taken, since) = (input.bytes, 0, None);
        self.waiting.push_back(Waiting { asker, bytes, taken, patience_ms, since });
        Ok(())
    }

    /// Closes the agent's standard input once all that waits was taken.
    pub(super) fn close(&mut self) -> Result<(), Fault> {
        if self.terminal {
            return Err(Fault::WrongMode { has: "has a terminal, whose end is typed".to_owned() });
        }
        self.close = true;
        Ok(())
    }

    /// Types what can be typed at `now`; says what was settled.
    pub(super) fn advance(&mut self, now: u64) -> Vec<Typed> {
        let mut settled = Vec::new();
        while let Some(mut front) = self.waiting.pop_front() {
            let since = *front.since.get_or_insert(now);
            if front.taken == front.bytes.len() {
                settled.push((front.asker, Ok(())));
                continue;
            }
            match self.step(&front) {
                Step::Took(len) => {
                    front.taken += len;
                    front.since = Some(now);
                    self.waiting.push_front(front);
                }
                Step::Held(_) if now < since.saturating_add(front.patience_ms) => {
                    self.waiting.push_front(front);
                    return settled;
                }
                Step::Held(fault) | Step::Failed(fault) => settled.push((front.asker, Err(fault))),
            }
        }
        if self.close {
            self.sink = None;
        }
        settled
    }

    /// When to advance again, unless something is pushed before.
    pub(super) fn due(&self, now: u64) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(now + RETRY_MS)
    }

    fn step(&mut self, front: &Waiting) -> Step {
        let (rest, taken) = (&front.bytes[front.taken..], front.taken);
        let Some(sink) = &self.sink else { return Step::Failed(Fault::InputClosed { taken }) };
        let ends = if self.terminal { line_ends(sink) } else { None };
        if ends.as_ref().is_some_and(|ends| exceeds(rest, self.open_line, ends)) {
            return Step::Held(Fault::LineTooLong { limit: LINE_LIMIT, taken });
        }
        match nix::unistd::write(sink, &rest[..rest.len().min(STEP)]) {
            Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => Step::Held(Fault::Stalled { taken }),
            Ok(len) => {
                self.open_line = ends.map_or(0, |ends| open(&rest[..len], self.open_line, &ends));
                Step::Took(len)
            }
            Err(Errno::EPIPE | Errno::EIO) => Step::Failed(Fault::InputClosed { taken }),
            Err(fault) => Step::Failed(Fault::System { detail: fault.to_string() }),
        }
    }
}

/// The bytes that end a line, when the terminal collects lines.
fn line_ends(master: &OwnedFd) -> Option<Vec<u8>> {
    let mode = tcgetattr(master).ok()?;
    if !mode.local_flags.contains(LocalFlags::ICANON) {
        return None;
    }
    let special = |index: SpecialCharacterIndices| mode.control_chars[index as usize];
    let mut ends = vec![b'\n', special(SpecialCharacterIndices::VEOF)];
    ends.push(special(SpecialCharacterIndices::VEOL));
    ends.retain(|end| *end != 0);
    let returns = mode.input_flags & (InputFlags::ICRNL | InputFlags::IGNCR);
    if returns == InputFlags::ICRNL {
        ends.push(b'\r');
    }
    Some(ends)
}

/// Whether a line of `bytes` is too long, when `before` bytes of its first line were typed already.
fn exceeds(bytes: &[u8], before: usize, ends: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| ends.contains(byte));
    lines.next().is_some_and(|first| before + first.len() > LINE_LIMIT)
        || lines.any(|line| line.len() > LINE_LIMIT)
}

/// How long the last line is once `bytes` were typed behind `before` bytes of it.
fn open(bytes: &[u8], before: usize, ends: &[u8]) -> usize {
    match bytes.iter().rposition(|byte| ends.contains(byte)) {
        Some(last) => bytes.len() - last - 1,
        None => before + bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: &[u8] = b"\n\x04";

    #[test]
    fn f07_a_line_is_measured_across_inputs() {
        let line = vec![b'x'; LINE_LIMIT];
        assert!(!exceeds(&line, 0, ENDS));
        assert!(exceeds(&line, 1, ENDS));
        let two = [&line[..], b"\n", &line[..], b"\n"].concat();
        assert!(!exceeds(&two, 0, ENDS));
        assert!(exceeds(&[&two[..], &line[..], b"x"].concat(), 0, ENDS));
        assert_eq!(open(b"ab", 3, ENDS), 5);
        assert_eq!(open(b"ab\ncde", 3, ENDS), 3);
        assert_eq!(open(b"ab\n", 3, ENDS), 0);
    }

    fn push(queue: &mut InputQueue, call: u64, bytes: Vec<u8>) -> Result<(), Fault> {
        queue.push(Asker { client: 1, call }, Input { id: call, patience_ms: 100, bytes })
    }

    #[test]
    fn f07_a_pipe_that_nobody_reads_is_given_up_and_the_queue_is_bounded() {
        let (reader, writer) = io::pipe().unwrap();
        let mut queue = InputQueue::new(writer.into(), false).unwrap();
        push(&mut queue, 1, vec![0; 100_000]).unwrap();
        push(&mut queue, 2, vec![0; 1]).unwrap();
        assert_eq!(push(&mut queue, 3, vec![0; MAX_BYTES]), Err(Fault::Busy));
        assert!(queue.advance(0).is_empty());
        assert!(queue.advance(99).is_empty());
        assert_eq!(queue.advance(100).len(), 1);
        drop(reader);
        let settled = queue.advance(101);
        let asker = Asker { client: 1, call: 2 };
        assert_eq!(settled, [(asker, Err(Fault::InputClosed { taken: 0 }))]);
    }

    #[test]
    fn closing_waits_for_what_was_typed_before() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut queue = InputQueue::new(writer.into(), false).unwrap();
        push(&mut queue, 1, b"all of it".to_vec()).unwrap();
        queue.close().unwrap();
        assert_eq!(push(&mut queue, 2, vec![]), Err(Fault::InputClosed { taken: 0 }));
        assert_eq!(queue.advance(0).len(), 1);
        let mut read = String::new();
        io::Read::read_to_string(&mut reader, &mut read).unwrap();
        assert_eq!(read, "all of it");
    }
}
