//! The clean text of one block in memory.

use super::index::{LineStart, Open};
use super::layout::{Block, Layout};
use super::segment::Part;
use memchr::{memchr, memrchr};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// A line longer than this, in raw bytes, is taken in pieces, one a block: so much is held in
/// memory for one line at the most, and the block in which it ends.
const LONGEST_LINE: u64 = 8 << 20;

/// What is read of raw bytes at once when they are cleaned again.
const READ: usize = 64 << 10;

/// The text that was read from last, open for the next block of the same segment.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    open: Option<(usize, File)>,
}

impl Shelf {
    fn text(&mut self, layout: &Layout, segment: usize) -> io::Result<Option<&File>> {
        if self.open.as_ref().is_none_or(|(known, _)| *known != segment) {
            self.open = layout.open(segment, Part::Text)?.map(|file| (segment, file));
        }
        Ok(self.open.as_ref().map(|(_, file)| file))
    }
}

/// A block's text, and which lines it is.
#[derive(Debug)]
pub(super) struct Page {
    /// The offset of the block's first raw byte, and what is open there.
    start: u64,
    open: Open,
    /// The offset behind its last raw byte.
    end: u64,
    /// Memory for the text, of which the first `len` bytes are it.
    buffer: Vec<u8>,
    len: usize,
    /// How many lines it has a part of.
    count: usize,
    /// Whether a line of it was written over.
    redrawn: bool,
    /// What is open at its end.
    behind: Open,
    /// Where its lines begin, but for the first: in raw bytes and in the text, from the page's
    /// beginning. Only what hits asks.
    lines: OnceLock<Vec<LineStart>>,
    block: Option<Block>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            start: 0,
            open: Open::at(1, 0),
            end: 0,
            buffer: Vec::new(),
            len: 0,
            count: 1,
            redrawn: false,
            behind: Open::at(1, 0),
            lines: OnceLock::new(),
            block: None,
        }
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
        self.start = layout.start(&block);
        self.open = block.open;
        self.block = Some(block);
        self.lines = OnceLock::new();
        let Some(to) = block.to else { return self.clean(layout, &block) };
        let Some(file) = shelf.text(layout, block.segment)? else { return Ok(false) };
        self.len = (to.end.text - block.from.text) as usize;
        if self.buffer.len() < self.len {
            self.buffer.resize(self.len, 0);
        }
        file.read_exact_at(&mut self.buffer[..self.len], block.from.text.into())?;
        self.end = self.start + u64::from(to.end.raw - block.from.raw);
        self.count = to.count + 1;
        self.redrawn = to.redrawn;
        self.behind = to.open;
        Ok(true)
    }

    /// Makes the text of raw bytes that have none yet.
    fn clean(&mut self, layout: &Layout, block: &Block) -> io::Result<bool> {
        let Some(file) = layout.open(block.segment, Part::Raw)? else { return Ok(false) };
        self.buffer.clear();
        let (mut lines, mut cleaner) = (Vec::new(), block.open.cleaner);
        let mut raw = vec![0; READ];
        let mut read = 0;
        loop {
            let got = read_at(&file, &mut raw, u64::from(block.from.raw + read))?;
            if got == 0 {
                break;
            }
            cleaner.push(&raw[..got], &mut self.buffer, |at, len| {
                lines.push(LineStart { raw: read + small(at), text: small(len) });
            });
            read += small(got);
        }
        self.len = self.buffer.len();
        self.end = self.start + u64::from(read);
        self.count = lines.len() + 1;
        self.redrawn = memchr(b'\r', &self.buffer).is_some();
        let line_start = lines.last().map(|last| self.start + u64::from(last.raw));
        self.behind = Open {
            line: self.open.line + lines.len() as u64,
            line_start: line_start.unwrap_or(self.open.line_start),
            cleaner,
        };
        self.lines = OnceLock::from(lines);
        Ok(true)
    }

    /// What is open behind its last byte.
    pub(super) fn open_behind(&self) -> Open {
        self.behind
    }

    /// The text.
    pub(super) fn text(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// The offset of its first raw byte.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The offset behind its last raw byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The last of its lines, by its place among them; the first is 0.
    pub(super) fn last(&self) -> usize {
        self.count - 1
    }

    /// Whether a line of it was written over.
    pub(super) fn redrawn(&self) -> bool {
        self.redrawn
    }

    /// The number that a line has in the whole stream.
    pub(super) fn number(&self, line: usize) -> u64 {
        self.open.line + line as u64
    }

    /// The number of bytes of text that belong to its first line.
    pub(super) fn first_len(&self) -> usize {
        memchr(b'\n', self.text()).unwrap_or(self.len)
    }

    /// Where the text of its last line begins.
    pub(super) fn last_begin(&self) -> usize {
        memrchr(b'\n', self.text()).map_or(0, |end| end + 1)
    }

    /// Whether its first line began before it, and still belongs there.
    pub(super) fn goes_on(&self) -> bool {
        let began = self.open.line_start;
        began < self.start && self.start - began < LONGEST_LINE
    }

    /// The offset at which its first line began, which may be before it.
    pub(super) fn first_offset(&self) -> u64 {
        self.open.line_start
    }

    fn lines(&self, layout: &Layout) -> &[LineStart] {
        self.lines.get_or_init(|| {
            let mut lines = Vec::with_capacity(self.count);
            let Some(block) = self.block else { return lines };
            layout.lines(&block, &mut lines);
            for line in &mut lines {
                line.raw = line.raw.saturating_sub(block.from.raw);
                line.text = line.text.saturating_sub(block.from.text);
            }
            lines
        })
    }

    /// The line that holds the byte of the text at `at`; `from` is one at or before it.
    pub(super) fn line_of(&self, layout: &Layout, from: usize, at: usize) -> usize {
        let lines = self.lines(layout);
        let later = lines.get(from..).unwrap_or_default();
        from + later.partition_point(|start| start.text as usize <= at)
    }

    /// What it has of a line.
    pub(super) fn piece(&self, layout: &Layout, line: usize) -> &[u8] {
        let lines = self.lines(layout);
        let begin = |line: usize| match line.checked_sub(1) {
            Some(before) => lines.get(before).map(|start| start.text as usize),
            None => Some(0),
        };
        let end = begin(line + 1).map_or(self.len, |next| next - 1);
        begin(line).and_then(|begin| self.text().get(begin..end)).unwrap_or_default()
    }

    /// The offset at which a line begins in the whole stream.
    pub(super) fn offset(&self, layout: &Layout, line: usize) -> u64 {
        let start = line.checked_sub(1).and_then(|before| self.lines(layout).get(before));
        start.map_or(self.open.line_start, |start| self.start + u64::from(start.raw))
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
