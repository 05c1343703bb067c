//! How the clean text of a ring lies on the disk, in blocks that are searched one at a time.

use super::index::{self, Frame, LineStart, Open};
use super::page::{Page, Shelf};
use super::segment::{Part, Segment, path, segments};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Text of a block, about: what fits the cache nearest to a processor core beside all else, so
/// that it is read from memory once.
const BLOCK: u32 = 512 << 10;

/// A stretch of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Of which segment.
    pub(super) segment: usize,
    /// Where it begins in the segment.
    pub(super) from: LineStart,
    /// What is open there.
    pub(super) open: Open,
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
    /// Its first frame among those of the segment, and how many it has.
    frames: (usize, usize),
}

/// The blocks of a ring as it was when it was read. What is dropped later is found missing; the
/// last block may have grown by the time that it is read.
#[derive(Debug, Default)]
pub(super) struct Layout {
    dir: PathBuf,
    segments: Vec<Segment>,
    /// The index of each segment, as bytes.
    indexes: Vec<Vec<u8>>,
    blocks: Vec<Block>,
}

impl Layout {
    /// Reads the ring in `dir`, which need not be there.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let mut layout = Self { dir: dir.to_owned(), segments: segments(dir)?, ..Self::default() };
        for segment in 0..layout.segments.len() {
            let mut bytes = Vec::new();
            if let Some(mut file) = layout.open(segment, Part::Index)? {
                file.read_to_end(&mut bytes)?;
            }
            layout.indexes.push(bytes);
            layout.divide(segment)?;
        }
        Ok(layout)
    }

    /// Divides a segment into blocks.
    fn divide(&mut self, segment: usize) -> io::Result<()> {
        let open = match index::read(&self.indexes[segment]) {
            Some((open, _)) => open,
            None => self.open_before(segment)?,
        };
        let written = match self.open(segment, Part::Text)? {
            Some(file) => file.metadata()?.len(),
            None => 0,
        };
        let mut block = Block { segment, from: LineStart::default(), open, to: None };
        let mut begun = None;
        let mut blocks = Vec::new();
        let frames = index::read(&self.indexes[segment]).map(|(_, frames)| frames);
        let whole = |frame: &Frame<'_>| u64::from(frame.end.text) <= written;
        for (number, frame) in frames.into_iter().flatten().take_while(whole).enumerate() {
            let to = block.to.get_or_insert(Written {
                end: block.from,
                open: block.open,
                count: 0,
                redrawn: false,
                frames: (number, 0),
            });
            (to.end, to.open) = (frame.end, frame.open);
            to.count += frame.count as usize;
            to.redrawn |= frame.redrawn;
            to.frames.1 += 1;
            begun = Some((frame.end, frame.open));
            if frame.end.text - block.from.text >= BLOCK {
                blocks.push(block);
                block = Block { segment, from: frame.end, open: frame.open, to: None };
                begun = None;
            }
        }
        if let Some((from, open)) = begun {
            blocks.push(block);
            block = Block { segment, from, open, to: None };
        }
        let last = segment + 1 == self.segments.len();
        if last || u64::from(block.from.raw) < self.segments[segment].len {
            blocks.push(block);
        }
        self.blocks.append(&mut blocks);
        Ok(())
    }

    /// What is open where a segment begins, told from the one before it.
    fn open_before(&self, segment: usize) -> io::Result<Open> {
        let start = self.segments[segment].start;
        let Some(last) = self.blocks.len().checked_sub(1) else { return Ok(Open::at(1, start)) };
        let mut page = Page::default();
        match page.load(self, last, &mut Shelf::default())? {
            true if page.end() == start => Ok(page.open_behind()),
            true => Ok(Open::at(page.open_behind().line + 1, start)),
            false => Ok(Open::at(1, start)),
        }
    }

    /// How many blocks there are.
    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    /// A block by its number; the oldest is 0.
    pub(super) fn block(&self, index: usize) -> Option<Block> {
        self.blocks.get(index).copied()
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

    /// Appends where the lines of a written block begin in its segment.
    pub(super) fn lines(&self, block: &Block, to: &mut Vec<LineStart>) {
        let Some(Written { frames: (first, count), .. }) = block.to else { return };
        let frames = index::read(&self.indexes[block.segment]).map(|(_, frames)| frames);
        let own = frames.into_iter().flatten().skip(first).take(count);
        own.for_each(|frame| frame.lines(to));
    }

    /// Opens a part of a segment; none when it is not there.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn open(&self, segment: usize, part: Part) -> io::Result<Option<File>> {
        match File::open(path(&self.dir, self.segments[segment].start, part)) {
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
        Ok(page.open_behind())
    }
}
