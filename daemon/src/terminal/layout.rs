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
    /// Whether the number of that line is known; else lines are counted from the oldest one kept.
    pub(super) counted: bool,
    /// Where it ends. None for one that reaches from where the index ends to the end of the raw
    /// bytes: its text is not written yet.
    pub(super) to: Option<Written>,
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
        let (open, counted, mut frames) = match index::read(bytes) {
            Some((open, frames)) => (open, true, frames),
            None => {
                let (open, counted) = self.open_before(segment)?;
                (open, counted, index::frames(&[]))
            }
        };
        let written = match fs::metadata(self.path(segment, Part::Text)) {
            Ok(about) => about.len(),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => 0,
            Err(fault) => return Err(fault),
        };
        let from = LineStart::default();
        let mut block = Block { segment, from, open, counted, to: None };
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
                block = Block { segment, from: frame.end, open: frame.open, counted, to: None };
                begun = None;
            }
        }
        if let Some((from, open)) = begun {
            blocks.push(block);
            block = Block { segment, from, open, counted, to: None };
        }
        let last = segment + 1 == self.segments.len();
        if last || u64::from(block.from.raw) < self.segments[segment].len {
            blocks.push(block);
        }
        self.blocks.append(&mut blocks);
        Ok(())
    }

    /// What is open where a segment begins, told from the one before it, and whether the number of
    /// that line is known.
    fn open_before(&self, segment: usize) -> io::Result<(Open, bool)> {
        let start = self.segments[segment].start;
        let mut page = Page::default();
        let Some((index, last)) = self.blocks.iter().enumerate().next_back() else {
            return Ok((Open::at(1, start), start == 0));
        };
        if !page.load(self, index, &mut Shelf::default())? {
            return Ok((Open::at(1, start), false));
        }
        let behind = page.extent().behind;
        let open = match page.extent().end == start {
            true => behind,
            false => Open::at(behind.line + 1, start),
        };
        Ok((open, last.counted))
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

    /// Whether no byte is lost between a block and the one before it.
    pub(super) fn joins(&self, index: usize) -> bool {
        let Some((before, block)) =
            index.checked_sub(1).and_then(|before| self.blocks.get(before..=index)?.split_first())
        else {
            return false;
        };
        let Some(block) = block.first() else { return false };
        let (a, b) = (before.segment, block.segment);
        a == b || self.segments[a].end() == self.segments[b].start
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
        let Some(last) = self.count().checked_sub(1) else { return Ok(Open::at(1, 0)) };
        let mut page = Page::default();
        page.load(self, last, &mut Shelf::default())?;
        Ok(page.extent().behind)
    }
}
