//! The clean text of one block in memory.

use super::index::{Batch, LineStart, Open, Walk};
use super::layout::{Begins, Block, Layout};
use super::segment::Part;
use memchr::{memchr, memchr_iter, memrchr};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A line longer than this, in raw bytes, is taken in pieces, one a block: so much is held in
/// memory for one line at the most, and the block in which it ends.
const LONGEST_LINE: u64 = 8 << 20;

/// What is read of raw bytes at once when they are cleaned again.
const READ: usize = 64 << 10;

/// What is read at once of a page that is not read whole: a few lines. Tests take less than a line.
const UNIT: usize = if cfg!(test) { 16 } else { 1 << 10 };

/// The files that were read from last, open for the next block of their segment.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    text: Option<(usize, File)>,
    index: Option<(usize, File)>,
}

/// Opens a segment's part, unless that is what was opened last; none when the segment was dropped.
fn open<'a>(
    place: &'a mut Option<(usize, File)>,
    layout: &Layout,
    segment: usize,
    part: Part,
) -> io::Result<Option<&'a File>> {
    if place.as_ref().is_none_or(|(open, _)| *open != segment) {
        *place = layout.open(segment, part)?.map(|file| (segment, file));
    }
    Ok(place.as_ref().map(|(_, file)| file))
}

/// What of the stream a block is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// The offset of its first raw byte, and what is open there.
    pub(super) start: u64,
    pub(super) open: Open,
    pub(super) begins: Begins,
    /// The offset behind its last raw byte, and what is open there.
    pub(super) end: u64,
    pub(super) behind: Open,
    /// The last of the lines that it has a part of, by its place among them; the first is 0.
    pub(super) last: usize,
    /// Whether a line of it was written over.
    pub(super) redrawn: bool,
}

impl Extent {
    /// The number that a line has in the whole stream.
    pub(super) fn number(&self, line: usize) -> u64 {
        self.open.line + line as u64
    }

    /// Whether its first line began before it, and still belongs there: no piece of a line begins
    /// where none will any more once the line is longer.
    pub(super) fn goes_on(&self) -> bool {
        let began = self.open.line_start;
        began < self.start && (self.start - began < LONGEST_LINE || self.begins == Begins::Moves)
    }
}

/// A block's text. Its memory is used for one block after the other, so that it stays in the cache
/// of the processor that reads it.
#[derive(Debug)]
pub(super) struct Page {
    extent: Extent,
    /// Memory for the text, of which the first `len` bytes are it.
    buffer: Vec<u8>,
    len: usize,
    /// Which units of the text were read; none of them is looked up when it was read whole.
    units: Option<Vec<bool>>,
    /// Where it begins in its segment.
    from: LineStart,
    /// What the index tells of its lines, once it was asked; what it would tell of text that is not
    /// written yet.
    frames: Vec<u8>,
}

impl Default for Page {
    fn default() -> Self {
        let open = Open::at(1, 0);
        let (start, end, last, redrawn) = (0, 0, 0, false);
        let begins = Begins::Stays;
        let extent = Extent { start, open, begins, end, behind: open, last, redrawn };
        let (buffer, from, frames) = (Vec::new(), LineStart::default(), Vec::new());
        Self { extent, buffer, len: 0, units: None, from, frames }
    }
}

impl Page {
    /// Fills it with a block; false when that was dropped meanwhile.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn load(
        &mut self,
        layout: &Layout,
        index: usize,
        shelf: &mut Shelf,
    ) -> io::Result<bool> {
        let Some(block) = layout.block(index) else { return Ok(false) };
        if block.to.is_none() {
            return self.clean(layout, block);
        }
        if !self.begin(layout, index, shelf)? {
            return Ok(false);
        }
        self.fill(0..self.len, shelf)?;
        self.units = None;
        Ok(true)
    }

    /// Makes it that of a block whose text is written, of which it has nothing yet; false when that
    /// was dropped meanwhile. What is looked at must be filled, with the same shelf.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn begin(
        &mut self,
        layout: &Layout,
        index: usize,
        shelf: &mut Shelf,
    ) -> io::Result<bool> {
        let Some(block) = layout.block(index) else { return Ok(false) };
        let Some(to) = &block.to else { return Ok(false) };
        self.frames.clear();
        if open(&mut shelf.text, layout, block.segment, Part::Text)?.is_none() {
            return Ok(false);
        }
        self.len = (to.end.text - block.from.text) as usize;
        if self.buffer.len() < self.len {
            self.buffer.resize(self.len, 0);
        }
        let mut units = self.units.take().unwrap_or_default();
        units.clear();
        units.resize(self.len.div_ceil(UNIT), false);
        self.units = Some(units);
        self.from = block.from;
        let start = layout.start(block);
        self.extent = Extent {
            start,
            open: block.open,
            begins: block.begins,
            end: start + u64::from(to.end.raw - block.from.raw),
            behind: to.open,
            last: to.count,
            redrawn: to.redrawn,
        };
        Ok(true)
    }

    /// Reads what it has not of a place in its text.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn fill(&mut self, place: Range<usize>, shelf: &Shelf) -> io::Result<()> {
        let Self { units: Some(units), buffer, len, from, .. } = self else { return Ok(()) };
        let Some((_, text)) = &shelf.text else { return Ok(()) };
        let last = place.end.min(*len).div_ceil(UNIT);
        let mut unit = place.start / UNIT;
        while unit < last {
            let run = units[unit..last].iter().take_while(|there| !**there).count();
            if run > 0 {
                let (at, end) = (unit * UNIT, (*len).min((unit + run) * UNIT));
                text.read_exact_at(&mut buffer[at..end], u64::from(from.text) + at as u64)?;
                units[unit..unit + run].fill(true);
            }
            unit += run.max(1);
        }
        Ok(())
    }

    /// Reads what it has not of the line at `at` of its text, and of so many before and behind it.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn reach(&mut self, at: usize, lines: usize, shelf: &Shelf) -> io::Result<()> {
        if self.units.is_none() {
            return Ok(());
        }
        let ends = |text: &[u8]| memchr_iter(b'\n', text).count();
        let (mut found, mut end) = (0, at);
        while found <= lines && end < self.len {
            let next = self.len.min((end / UNIT + 1) * UNIT);
            self.fill(end..next, shelf)?;
            found += ends(&self.buffer[end..next]);
            end = next;
        }
        let (mut found, mut begin) = (0, at.min(self.len));
        while found <= lines && begin > 0 {
            let next = (begin - 1) / UNIT * UNIT;
            self.fill(next..begin, shelf)?;
            found += ends(&self.buffer[next..begin]);
            begin = next;
        }
        Ok(())
    }

    /// Makes the text of raw bytes that have none yet.
    fn clean(&mut self, layout: &Layout, block: &Block) -> io::Result<bool> {
        let Some(file) = layout.open(block.segment, Part::Raw)? else { return Ok(false) };
        self.frames.clear();
        self.units = None;
        self.buffer.clear();
        let Open { mut line, counted, mut line_start, mut cleaner } = block.open;
        let (start, mut batch) = (layout.start(block), Batch::default());
        let (mut raw, mut read) = (vec![0; READ], 0);
        loop {
            let got = read_at(&file, &mut raw, u64::from(block.from.raw + read))?;
            if got == 0 {
                break;
            }
            cleaner.push(&raw[..got], &mut self.buffer, |at, len| {
                let at = read + small(at);
                batch.line(LineStart { raw: at, text: small(len) });
                line += 1;
                line_start = start + u64::from(at);
            });
            read += small(got);
        }
        self.len = self.buffer.len();
        self.from = LineStart::default();
        let behind = Open { line, counted, line_start, cleaner };
        let redrawn = memchr(b'\r', &self.buffer).is_some();
        batch.end = LineStart { raw: read, text: small(self.len) };
        batch.frame(&behind, redrawn, &mut self.frames);
        let last = usize::try_from(line - block.open.line).unwrap_or(usize::MAX);
        let end = start + u64::from(read);
        let (open, begins) = (block.open, block.begins);
        self.extent = Extent { start, open, begins, end, behind, last, redrawn };
        Ok(true)
    }

    /// What of the stream it is.
    pub(super) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// How much text it is, in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The text; what was not filled of it is that of other blocks.
    pub(super) fn text(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// The number of bytes of text that belong to its first line, which must be filled.
    pub(super) fn first_len(&self) -> usize {
        memchr(b'\n', self.text()).unwrap_or(self.len)
    }

    /// Where the text of its last line begins, which must be filled.
    pub(super) fn last_begin(&self) -> usize {
        memrchr(b'\n', self.text()).map_or(0, |end| end + 1)
    }

    /// Asks the index where lines begin, for [`Page::places`]; the other words are those that it was
    /// loaded with. False when the block was dropped meanwhile.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn ask(
        &mut self,
        layout: &Layout,
        index: usize,
        shelf: &mut Shelf,
    ) -> io::Result<bool> {
        let Some(block) = layout.block(index) else { return Ok(false) };
        let Some(to) = block.to.filter(|_| self.frames.is_empty()) else { return Ok(true) };
        let file = open(&mut shelf.index, layout, block.segment, Part::Index)?;
        let Some(file) = file else { return Ok(false) };
        let (at, len) = to.frames;
        self.frames.resize(len, 0);
        file.read_exact_at(&mut self.frames, at)?;
        Ok(true)
    }

    /// Tells lines by where their text begins; only the first before the index was asked.
    pub(super) fn places(&self) -> Places<'_> {
        Places { walk: Walk::new(&self.frames), from: self.from, extent: &self.extent }
    }
}

/// Tells which line begins where in a page's text, one behind the other.
#[derive(Debug)]
pub(super) struct Places<'a> {
    walk: Walk<'a>,
    from: LineStart,
    extent: &'a Extent,
}

impl Places<'_> {
    /// The line whose text begins at `at`, by its place among the page's, and the offset at which it
    /// begins in the whole stream. None when none begins there.
    pub(super) fn seek(&mut self, at: usize) -> Option<(usize, u64)> {
        if at == 0 {
            return Some((0, self.extent.open.line_start));
        }
        let (line, start) = self.walk.seek(self.from.text + small(at))?;
        Some((line, self.extent.start + u64::from(start.raw.saturating_sub(self.from.raw))))
    }
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Segments are a few MiB: their places fit.
fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
