//! The thread that writes clean text: whoever reads the agent's output hands it what was kept, and
//! goes back to reading while text is made of it.
//!
//! It is begun by the first output that fills a piece of text: most sessions print less. What it is
//! handed is written already as raw bytes, so nothing is lost with it: text is behind by what is on
//! the way, which is bounded. A reader that is quicker than the thread waits for it.

use super::text::{PIECE, TextWriter};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes that are handed over at once: the thread is woken once for sixteen reads of a terminal.
const LOAD: usize = PIECE as usize;

/// Loads on the way at once: the thread may be without a processor for some milliseconds.
const LOADS: usize = 4;

/// Segments that are smaller, in bytes, have their text made by the reader: with a thread it could be
/// behind by more than a segment, and lines are counted by what the oldest one's index says.
const LEAST_SEGMENT: u64 = 2 * (LOADS * LOAD) as u64;

/// The thread calls nothing deep.
const STACK: usize = 128 << 10;

/// What is done in turn.
#[derive(Debug)]
enum Step {
    /// A segment begins; bytes before it may be lost.
    Begin { start: u64, lost: bool },
    /// The segment took these.
    Take(Vec<u8>),
    /// The raw bytes of a segment are gone.
    Remove { start: u64 },
    /// What is held back is to be written.
    Settle,
}

/// Hands on what became of a ring to the writer of its text. Owned by the ring's writer; when it is
/// gone, all that was handed on is done.
#[derive(Debug)]
pub(super) struct Scribe {
    place: Place,
    /// Whether there may be a thread.
    beside: bool,
    /// What was not handed on yet.
    load: Vec<u8>,
}

/// Where text is made.
#[derive(Debug)]
enum Place {
    /// By the reader of the output, as long as there is little.
    Here(Box<TextWriter>),
    /// By a thread.
    Beside(Thread),
    /// Nowhere: the thread broke off. What came since is without text.
    Nowhere,
}

impl Scribe {
    /// Has text written by `text`, for segments of so many bytes.
    pub(super) fn new(text: TextWriter, segment: u64) -> Self {
        let (place, beside) = (Place::Here(Box::new(text)), segment >= LEAST_SEGMENT);
        Self { place, beside, load: Vec::new() }
    }

    /// A segment begins at `start`. Where bytes before it are `lost`, a line ends with them.
    pub(super) fn begin(&mut self, start: u64, lost: bool) {
        self.hand_on();
        self.step(Step::Begin { start, lost });
    }

    /// The current segment took `raw`.
    pub(super) fn take(&mut self, mut raw: &[u8]) {
        while !raw.is_empty() {
            let (part, rest) = raw.split_at(raw.len().min(LOAD - self.load.len()));
            self.load.extend_from_slice(part);
            raw = rest;
            if self.load.len() == LOAD {
                self.start();
                self.hand_on();
            }
        }
    }

    /// The raw bytes of a segment were removed: its text goes as well.
    pub(super) fn remove(&mut self, start: u64) {
        self.step(Step::Remove { start });
    }

    /// Writes all that is held back.
    pub(super) fn settle(&mut self) {
        self.hand_on();
        self.step(Step::Settle);
        self.end();
    }

    /// Starts the thread if there is none and may be one.
    fn start(&mut self) {
        self.place = match mem::replace(&mut self.place, Place::Nowhere) {
            Place::Here(text) if self.beside => Thread::start(text),
            place => place,
        };
    }

    /// Ends the thread if there is one, all that it was handed done.
    pub(super) fn end(&mut self) {
        self.place = match mem::replace(&mut self.place, Place::Nowhere) {
            Place::Beside(thread) => thread.join(),
            place => place,
        };
    }

    fn hand_on(&mut self) {
        if !self.load.is_empty() {
            let spare = match &self.place {
                Place::Beside(thread) => thread.spare.try_recv().ok(),
                Place::Here(_) | Place::Nowhere => None,
            };
            let load = mem::replace(&mut self.load, spare.unwrap_or_default());
            self.step(Step::Take(load));
        }
    }

    fn step(&mut self, step: Step) {
        match &mut self.place {
            Place::Here(text) => drop(run(step, text)),
            Place::Beside(thread) => {
                if thread.steps.send(step).is_err() {
                    self.end();
                }
            }
            Place::Nowhere => {}
        }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.end();
    }
}

/// A thread that makes text.
#[derive(Debug)]
struct Thread {
    steps: SyncSender<Step>,
    /// Memory that was handed on and is free again.
    spare: Receiver<Vec<u8>>,
    /// Gives the writer back.
    handle: JoinHandle<Option<Box<TextWriter>>>,
}

impl Thread {
    /// Has text written by a thread; where the system refuses one, by the caller as before.
    fn start(text: Box<TextWriter>) -> Place {
        let (steps, todo) = sync_channel(LOADS);
        let (used, spare) = sync_channel(LOADS);
        let (give, given) = sync_channel::<Box<TextWriter>>(1);
        let work = move || {
            let mut text = given.recv().ok()?;
            for step in todo {
                if let Some(mut load) = run(step, &mut text) {
                    load.clear();
                    // the few that are kept are enough
                    drop(used.try_send(load));
                }
            }
            Some(text)
        };
        let Ok(handle) = thread::Builder::new().stack_size(STACK).spawn(work) else {
            return Place::Here(text);
        };
        match give.send(text) {
            Ok(()) => Place::Beside(Self { steps, spare, handle }),
            Err(refused) => Place::Here(refused.0),
        }
    }

    /// Waits until all is done that it was handed.
    fn join(self) -> Place {
        drop(self.steps);
        match self.handle.join() {
            Ok(Some(text)) => Place::Here(text),
            Ok(None) | Err(_) => {
                eprintln!("the thread that writes clean text broke off");
                Place::Nowhere
            }
        }
    }
}

/// Does a step; gives back the memory that came with it.
fn run(step: Step, text: &mut TextWriter) -> Option<Vec<u8>> {
    match step {
        Step::Begin { start, lost } => text.begin(start, lost),
        Step::Remove { start } => text.remove(start),
        Step::Settle => text.settle(),
        Step::Take(raw) => {
            text.take(&raw);
            return Some(raw);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::clean::tests::terminal_bytes;
    use super::super::index::Open;
    use super::super::segment::{Part, path};
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    /// Text, index and filter of each segment.
    fn written(segment: u64, parts: &[&[u8]], rolls: usize) -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let mut scribe = Scribe::new(TextWriter::new(dir.path(), Open::at(1, 0)), segment);
        let (mut at, mut begun) = (0, Vec::new());
        for part in parts.chunks(rolls) {
            scribe.begin(at, false);
            begun.push(at);
            part.iter().for_each(|part| scribe.take(part));
            at += part.iter().map(|part| part.len() as u64).sum::<u64>();
        }
        scribe.settle();
        assert!(matches!(scribe.place, Place::Here(_)));
        let files = begun.iter().flat_map(|start| {
            let parts = [Part::Text, Part::Index, Part::Filter];
            parts.map(|part| fs::read(path(dir.path(), *start, part)).unwrap())
        });
        files.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn f08_a_thread_writes_what_the_reader_itself_would(
            piece in terminal_bytes().prop_filter("something", |piece| !piece.is_empty()),
            times in 1usize..400,
            chunk in 1usize..3 * LOAD,
            rolls in 1usize..9,
        ) {
            let raw = piece.repeat(times);
            let parts: Vec<&[u8]> = raw.chunks(chunk).collect();
            let here = written(0, &parts, rolls);
            prop_assert_eq!(&here, &written(LEAST_SEGMENT, &parts, rolls));
            let parts: Vec<&[u8]> = raw.chunks(chunk * rolls).collect();
            prop_assert_eq!(here, written(LEAST_SEGMENT, &parts, 1));
        }
    }

    #[test]
    fn f12_what_is_behind_is_bounded_and_a_removed_segment_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let text = TextWriter::new(dir.path(), Open::at(1, 0));
        let mut scribe = Scribe::new(text, LEAST_SEGMENT);
        for segment in 0..20 {
            scribe.begin(segment * LEAST_SEGMENT, false);
            if segment > 0 {
                let before = path(dir.path(), (segment - 1) * LEAST_SEGMENT, Part::Index);
                assert!(fs::exists(before).unwrap(), "segment {segment}");
                scribe.remove((segment - 1) * LEAST_SEGMENT);
            }
            scribe.take(&b"line\n".repeat(LEAST_SEGMENT as usize / 5));
        }
        drop(scribe);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
