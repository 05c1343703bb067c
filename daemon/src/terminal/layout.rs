//! How the clean text of a ring lies on the disk, in blocks that are searched one at a time.

use super::index::{self, LineStart, Open};
use super::page::{Page, Shelf};
use super::segment::{Part, Segment, path, segments};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Text of a block, at least: with a batch more it fits the cache nearest to a processor core beside
/// all else, so that it is read from memory once. Tests take little, for the borders between them.
const BLOCK: u32 = if cfg!(test) { 10 << 10 } else { 256 << 10 };

/// A stretch of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Of which segment.
    pub(super) segment: usize,
    /// Where it begins in the segment.
    pub(super) from: LineStart,
    /// What is open there.
    pub(super) open: Open,
    pub(super) begins: Begins,
    /// Whether the line that is open there is the one that the block before ends with.
    joins: bool,
    /// Where it ends. None for one that reaches from where the index ends to the end of the raw
    /// bytes: its text is not written yet.
    pub(super) to: Option<Written>,
}

/// What is known of the place where a block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// A block begins there for good.
    Stays,
    /// The text that is written ends there for now: once there is more, none begins there.
    Moves,
    /// Nothing of what came before: what is open there may be the end of a line.
    Blindly,
}

/// The end of a block whose text is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// Where it ends in the segment, and what is open there.
    pub(super) end: LineStart,
    pub(super) open: Open,
    /// How many lines begin in it.
    pub(super) count: usize,
    /// Whether a line of it was written over.
    pub(super) redrawn: bool,
    /// Where its frames begin in the segment's index, and how many bytes they take.
    pub(super) frames: (u64, usize),
}

/// The blocks of a ring as it was when it was read. What is dropped later is found missing; the
/// last block may have grown by the time that it is read.
#[derive(Debug, Default)]
pub(super) struct Layout {
    dir: PathBuf,
    segments: Vec<Segment>,
    blocks: Vec<Block>,
}

impl Layout {
    /// Reads the ring in `dir`, which need not be there.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let mut layout = Self { dir: dir.to_owned(), segments: segments(dir)?, ..Self::default() };
        let mut bytes = Vec::new();
        for segment in 0..layout.segments.len() {
            bytes.clear();
            if let Some(mut file) = layout.open(segment, Part::Index)? {
                file.read_to_end(&mut bytes)?;
            }
            layout.divide(segment, &bytes)?;
        }
        Ok(layout)
    }

    /// Divides a segment, whose index is given, into blocks.
    fn divide(&mut self, segment: usize, bytes: &[u8]) -> io::Result<()> {
        let start = self.segments[segment].start;
        let mut joins =
            self.blocks.last().is_some_and(|block| self.segments[block.segment].end() == start);
        let (open, begins, mut frames) = match index::read(bytes) {
            Some((open, frames)) => {
                joins = joins && self.count_back(&open)?;
                (open, Begins::Stays, frames)
            }
            None => {
                let (open, begins) = self.open_before(segment)?;
                (open, begins, index::frames(&[]))
            }
        };
        let written = match fs::metadata(self.path(segment, Part::Text)) {
            Ok(about) => about.len(),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => 0,
            Err(fault) => return Err(fault),
        };
        let from = LineStart::default();
        let mut block = Block { segment, from, open, begins, joins, to: None };
        let mut begun = None;
        let mut blocks = Vec::new();
        loop {
            let at = bytes.len() - frames.rest();
            let Some(frame) = frames.next().filter(|it| u64::from(it.end.text) <= written) else {
                break;
            };
            let to = block.to.get_or_insert(Written {
                end: block.from,
                open: block.open,
                count: 0,
                redrawn: false,
                frames: (at as u64, 0),
            });
            (to.end, to.open) = (frame.end, frame.open);
            to.count += frame.count as usize;
            to.redrawn |= frame.redrawn;
            to.frames.1 += bytes.len() - frames.rest() - at;
            begun = Some((frame.end, frame.open));
            if frame.end.text - block.from.text >= BLOCK {
                blocks.push(block);
                let (from, open, begins) = (frame.end, frame.open, Begins::Stays);
                block = Block { segment, from, open, begins, joins: true, to: None };
                begun = None;
            }
        }
        if let Some((from, open)) = begun {
            blocks.push(block);
            block = Block { segment, from, open, begins: Begins::Moves, joins: true, to: None };
        }
        let last = segment + 1 == self.segments.len();
        if last || u64::from(block.from.raw) < self.segments[segment].len {
            blocks.push(block);
        }
        self.blocks.append(&mut blocks);
        Ok(())
    }

    /// What is open where the last block ends, and where that is. None when there is no block, or it
    /// was dropped meanwhile.
    fn behind(&self) -> io::Result<Option<(u64, Open)>> {
        let Some(last) = self.count().checked_sub(1) else { return Ok(None) };
        let (mut page, mut shelf) = (Page::default(), Shelf::default());
        let there = page.begin(self, last, &mut shelf)? || page.load(self, last, &mut shelf)?;
        Ok(there.then(|| (page.extent().end, page.extent().behind)))
    }

    /// What is open where a segment without an index begins, told from what is before it.
    fn open_before(&self, segment: usize) -> io::Result<(Open, Begins)> {
        let start = self.segments[segment].start;
        Ok(match self.behind()? {
            Some((end, behind)) if end == start => (behind, Begins::Stays),
            Some((_, Open { line, counted, .. })) => {
                (Open { counted, ..Open::at(line + 1, start) }, Begins::Stays)
            }
            None if start == 0 => (Open::at(1, 0), Begins::Stays),
            None => (Open { counted: false, ..Open::at(1, start) }, Begins::Blindly),
        })
    }

    /// Numbers the lines of the last blocks, where that could not be done from before them, back from
    /// what is `open` right behind them. False when that is not the line that they end with.
    fn count_back(&mut self, open: &Open) -> io::Result<bool> {
        let is_uncounted = |block: &&mut Block| !block.open.counted;
        let Some(first) = self.blocks.iter_mut().rev().take_while(is_uncounted).last() else {
            return Ok(true);
        };
        let begun = first.open.line_start;
        let Some((_, behind)) = self.behind()? else { return Ok(false) };
        let Some(more) = open.line.checked_sub(behind.line) else { return Ok(false) };
        // no line began in any of them: it is the one that is open
        let is_one = behind.line_start == begun;
        if !is_one && behind.line_start != open.line_start {
            return Ok(false);
        }
        let renumber = |one: &mut Open| {
            one.line += more;
            one.counted = open.counted;
            if is_one {
                one.line_start = open.line_start;
            }
        };
        for block in self.blocks.iter_mut().rev().take_while(is_uncounted) {
            renumber(&mut block.open);
            block.to.iter_mut().for_each(|to| renumber(&mut to.open));
        }
        Ok(true)
    }

    /// How many blocks there are.
    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    /// A block by its number; the oldest is 0.
    pub(super) fn block(&self, index: usize) -> Option<&Block> {
        self.blocks.get(index)
    }

    /// What is open where a segment begins; none when it has no block.
    pub(super) fn head(&self, segment: usize) -> Option<&Open> {
        let first = self.blocks.partition_point(|block| block.segment < segment);
        let block = self.blocks.get(first).filter(|block| block.segment == segment)?;
        Some(&block.open)
    }

    /// The offset of a segment's first raw byte.
    pub(super) fn begin(&self, segment: usize) -> Option<u64> {
        self.segments.get(segment).map(|segment| segment.start)
    }

    /// The block in which a line begins, or at whose end: then it begins the next one. None when
    /// there is no block.
    pub(super) fn block_of(&self, line: u64) -> Option<usize> {
        let later = self.blocks.partition_point(|block| block.open.line < line);
        (!self.blocks.is_empty()).then(|| later.saturating_sub(1))
    }

    /// The offset of a block's first raw byte.
    pub(super) fn start(&self, block: &Block) -> u64 {
        self.segments[block.segment].start + u64::from(block.from.raw)
    }

    /// The raw bytes that were kept.
    pub(super) fn kept(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |first| first.start);
        start..self.segments.last().map_or(start, |last| last.end())
    }

    /// Whether the line that is open where a block begins is the one that the block before ends with:
    /// no byte is lost between them.
    pub(super) fn joins(&self, index: usize) -> bool {
        self.blocks.get(index).is_some_and(|block| block.joins)
    }

    fn path(&self, segment: usize, part: Part) -> PathBuf {
        path(&self.dir, self.segments[segment].start, part)
    }

    /// Opens a part of a segment; none when it is not there.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn open(&self, segment: usize, part: Part) -> io::Result<Option<File>> {
        match File::open(self.path(segment, part)) {
            Ok(file) => Ok(Some(file)),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// What is open behind the last byte.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn end(&self) -> io::Result<Open> {
        Ok(self.behind()?.map_or(Open::at(1, 0), |(_, open)| open))
    }
}
