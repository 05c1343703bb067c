//! Writes clean text, its index and its filter beside the raw bytes of a ring, segment by segment.
//!
//! Text is behind the raw bytes that came here by one batch at most, and nothing rests on it: raw bytes
//! without text are cleaned again by whoever reads them. So neither a killed keeper nor a disk that
//! refuses text loses a line. Without a filter a search reads more, that is all.

use super::filter::{self, Grains};
use super::index::{Batch, LineStart, Open};
use super::segment::{self, Part, path};
use memchr::memchr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Text is written up to a multiple of this: one write for sixteen reads of a terminal. The kernel
/// keeps what was written so in pieces of this size, which are read a quarter quicker than many
/// small ones.
///
/// Tests take less, so that segments of theirs have several blocks.
pub(super) const PIECE: u32 = if cfg!(test) { 4 << 10 } else { 64 << 10 };

/// Raw bytes that text may be behind, where little of them is text: quickly cleaned again by a
/// reader.
const BATCH: u32 = 2 * PIECE;

/// The only writer of a ring's text. Owned by the ring's writer, or by a thread of its own (`scribe`),
/// and told all that becomes of the raw bytes.
#[derive(Debug)]
pub(super) struct TextWriter {
    dir: PathBuf,
    /// What is open behind the last byte taken.
    open: Open,
    /// Where the current segment begins.
    start: u64,
    /// How much of its raw bytes is written with its text.
    written: u32,
    /// What is not written yet.
    batch: Batch,
    text: Vec<u8>,
    frame: Vec<u8>,
    /// The records of the filter that are not written yet.
    grains: Grains,
    /// What was open where the current segment begins, until the disk has taken it: line numbers
    /// rest on it when all before is dropped.
    head: Option<Open>,
    /// None when the disk refused them: the segment stays without.
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    text: File,
    index: File,
    /// None when the disk refused it: the rest of the segment is without.
    filter: Option<File>,
}

impl TextWriter {
    /// Writes text into `dir`, for a stream that goes on at `open`; a segment must begin first.
    pub(super) fn new(dir: &Path, open: Open) -> Self {
        let grains = match open == Open::at(1, 0) {
            true => Grains::at_beginning(),
            false => Grains::behind_unknown(),
        };
        Self {
            dir: dir.to_owned(),
            open,
            start: 0,
            written: 0,
            batch: Batch::default(),
            text: Vec::new(),
            frame: Vec::new(),
            grains,
            head: None,
            files: None,
        }
    }

    /// A segment begins at `start`. Where bytes before it are `lost`, a line ends with them.
    pub(super) fn begin(&mut self, start: u64, lost: bool) {
        self.settle();
        if lost {
            let Open { line, counted, .. } = self.open;
            self.open = Open { counted, ..Open::at(line + 1, start) };
        }
        self.start = start;
        self.written = 0;
        self.batch = Batch::default();
        self.grains.begin();
        self.files = None;
        self.head = Some(self.open);
        self.make();
    }

    /// Makes the files of the current segment if it has none. What was not held back is without text
    /// then, and all behind it.
    fn make(&mut self) {
        let Some(head) = &self.head else { return };
        if let Ok(files) = Files::make(&self.dir, self.start, head) {
            self.files = (self.written == 0).then_some(files);
            self.head = None;
        }
    }

    /// The current segment took `raw`.
    pub(super) fn take(&mut self, mut raw: &[u8]) {
        while !raw.is_empty() {
            // there is no more text than raw bytes: it ends with the piece or before
            let room = (PIECE - self.batch.end.text % PIECE) as usize;
            let (part, rest) = raw.split_at(room.min(raw.len()));
            raw = rest;
            let piece = self.batch.end.text / PIECE;
            self.clean(part);
            let ended = self.batch.end.text / PIECE > piece;
            if ended || self.batch.end.raw - self.written >= BATCH {
                self.settle();
            }
        }
    }

    fn clean(&mut self, raw: &[u8]) {
        let Self { open, batch, text, start, grains, .. } = self;
        let (from, old) = (batch.end, text.len());
        let held = size(old);
        let Open { line, line_start, cleaner, .. } = open;
        cleaner.push(raw, text, |read, len| {
            let raw = from.raw + size(read);
            batch.line(LineStart { raw, text: from.text + size(len) - held });
            *line += 1;
            *line_start = *start + u64::from(raw);
        });
        batch.end.raw += size(raw.len());
        batch.end.text += size(text.len()) - held;
        grains.add(&text[old..]);
    }

    /// The raw bytes of the segment that begins at `start` were removed: its text goes as well.
    pub(super) fn remove(&self, start: u64) {
        segment::remove_text(&self.dir, start);
    }

    /// Writes what is held back.
    pub(super) fn settle(&mut self) {
        self.make();
        if self.batch.end.raw > self.written {
            let redrawn = memchr(b'\r', &self.text).is_some();
            self.batch.frame(&self.open, redrawn, &mut self.frame);
            self.written = self.batch.end.raw;
            self.files = self.files.take().and_then(|mut files| {
                let records = self.grains.records();
                files.append(&self.text, records, &self.frame).is_ok().then_some(files)
            });
        }
        self.text.clear();
        self.grains.written();
    }
}

impl Files {
    fn make(dir: &Path, start: u64, open: &Open) -> io::Result<Self> {
        let make = |part, head: &[u8]| {
            let mut how = OpenOptions::new();
            how.create(true).write(true).truncate(true).mode(0o600);
            let mut file = how.open(path(dir, start, part))?;
            file.write_all(head).map(|()| file)
        };
        let text = make(Part::Text, &[])?;
        let index = make(Part::Index, &open.head())?;
        Ok(Self { text, index, filter: make(Part::Filter, &filter::head(start, open)).ok() })
    }

    /// The text goes first: a frame never speaks of text that is not there. The filter may fail, but
    /// then nothing follows in it.
    fn append(&mut self, text: &[u8], records: &[u8], frame: &[u8]) -> io::Result<()> {
        self.text.write_all(text)?;
        self.filter.take_if(|filter| filter.write_all(records).is_err());
        self.index.write_all(frame)
    }
}

/// Segments are a few MiB: their places fit.
fn size(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
