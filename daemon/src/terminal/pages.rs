//! The clean text of a ring in memory, a segment at a time.

use super::clean::last_state;
use super::index::{Index, LineStart, Open};
use super::segment::{Part, Segment, path, segments};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Pages in memory at once: the one that is searched and its neighbours. Each is as large as a
/// segment's text, 4 MiB at most.
const HELD: usize = 3;

/// A line longer than this, in raw bytes, is taken in pieces, one a segment: so much is held in
/// memory for one line at the most, and the segment in which it ends.
pub(super) const LONGEST_LINE: u64 = 8 << 20;

/// The clean text of one segment.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The offset of the segment's first raw byte.
    start: u64,
    /// The number of the line that is open there, and the offset at which it began.
    first: u64,
    first_start: u64,
    text: Vec<u8>,
    /// Where lines begin in the text; the first one is what the line that was open goes on with.
    lines: Vec<LineStart>,
    /// What is open where the segment ends.
    end: Option<Open>,
    /// Bytes of the raw segment that were read or stand behind the text.
    raw: u64,
}

impl Page {
    /// How many lines it has a part of: one at least.
    pub(super) fn count(&self) -> usize {
        self.lines.len()
    }

    /// The text from the beginning of one line up to that of another, the last line feed left out.
    pub(super) fn between(&self, from: usize, to: usize) -> &[u8] {
        let end = self.lines.get(to).map_or(self.text.len(), |next| next.text as usize - 1);
        self.text.get(self.begin(from)..end).unwrap_or_default()
    }

    /// What it has of a line.
    pub(super) fn piece(&self, index: usize) -> &[u8] {
        self.between(index, index + 1)
    }

    /// Where the text of a line begins.
    pub(super) fn begin(&self, index: usize) -> usize {
        self.lines.get(index).map_or(self.text.len(), |start| start.text as usize)
    }

    /// The line that holds the byte of the text at `at`, which is of `from` or a later one.
    pub(super) fn line_of(&self, from: usize, at: usize) -> usize {
        from + self.lines[from..].partition_point(|start| start.text as usize <= at) - 1
    }

    /// The number that a line has in the whole stream.
    pub(super) fn number(&self, index: usize) -> u64 {
        self.first + index as u64
    }

    /// The offset at which a line begins in the whole stream.
    pub(super) fn offset(&self, index: usize) -> u64 {
        match (index, self.lines.get(index)) {
            (0, _) | (_, None) => self.first_start,
            (_, Some(start)) => self.start + u64::from(start.raw),
        }
    }

    /// The offset behind the segment's last raw byte.
    pub(super) fn end(&self) -> u64 {
        self.start + self.raw
    }

    /// The offset of the segment's first raw byte.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes its text has.
    pub(super) fn text_len(&self) -> u64 {
        self.text.len() as u64
    }

    /// Whether its first line began before it, and still belongs there.
    fn goes_on(&self) -> bool {
        self.first_start < self.start && self.start - self.first_start < LONGEST_LINE
    }

    /// Fills it with a segment; false when that was dropped meanwhile. `before` is what is open
    /// where the segment begins, for one whose index does not say so.
    fn load(
        &mut self,
        dir: &Path,
        start: u64,
        before: impl FnOnce() -> io::Result<Open>,
    ) -> io::Result<bool> {
        let Some(raw) = open(dir, start, Part::Raw)? else { return Ok(false) };
        self.text.clear();
        let index = match open(dir, start, Part::Index)? {
            Some(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Index::read(&bytes)
            }
            None => None,
        };
        let text = match &index {
            Some(_) => open(dir, start, Part::Text)?,
            None => None,
        };
        let mut index = match (index, &text) {
            (Some(mut index), Some(file)) => {
                let wanted = u64::from(index.end.text);
                file.take(wanted).read_to_end(&mut self.text)?;
                if self.text.len() as u64 != wanted {
                    self.text.clear();
                    index = Index::empty(index.open);
                }
                index
            }
            (Some(index), None) => Index::empty(index.open),
            (None, _) => Index::empty(before()?),
        };
        self.start = start;
        self.first = index.open.line;
        self.first_start = index.open.line_start;
        self.clean_rest(&raw, &mut index)?;
        self.lines.clear();
        self.lines.push(LineStart::default());
        self.lines.append(&mut index.lines);
        let last = self.lines.len() - 1;
        self.raw = u64::from(index.end.raw);
        self.end = Some(Open {
            line: self.number(last),
            line_start: self.offset(last),
            cleaner: index.cleaner,
        });
        Ok(true)
    }

    /// Cleans what the index does not cover yet.
    fn clean_rest(&mut self, raw: &File, index: &mut Index) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            // the index is behind by one batch at most, unless the disk refused it
            buffer.resize(64 << 10, 0);
            let from = index.end.raw;
            let got = raw.read_at(&mut buffer, from.into())?;
            if got == 0 {
                return Ok(());
            }
            let (lines, cleaner) = (&mut index.lines, &mut index.cleaner);
            cleaner.push(&buffer[..got], &mut self.text, |read, len| {
                lines.push(LineStart { raw: from + small(read), text: small(len) });
            });
            index.end = LineStart { raw: from + small(got), text: small(self.text.len()) };
        }
    }
}

/// Segments are a few MiB: their places fit.
fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn open(dir: &Path, start: u64, part: Part) -> io::Result<Option<File>> {
    match File::open(path(dir, start, part)) {
        Ok(file) => Ok(Some(file)),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// The pages of a ring as it was when this was opened; what is dropped later is found missing. The
/// last one may have grown when it is read.
#[derive(Debug)]
pub(super) struct Pages {
    dir: PathBuf,
    segments: Vec<Segment>,
    held: VecDeque<(usize, Rc<Page>)>,
    /// One that is not used any more: its memory serves the next.
    spare: Page,
}

impl Pages {
    /// Looks at the ring in `dir`, which need not be there.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let segments = segments(dir)?;
        Ok(Self { dir: dir.to_owned(), segments, held: VecDeque::new(), spare: Page::default() })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.segments.len()
    }

    /// The raw bytes that were kept.
    pub(super) fn kept(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |first| first.start);
        start..self.segments.last().map_or(start, |last| last.end())
    }

    /// What is open behind the last byte.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn end(&mut self) -> io::Result<Open> {
        match self.segments.len().checked_sub(1) {
            Some(last) => self.open_behind(last),
            None => Ok(Open::at(1, 0)),
        }
    }

    /// A page; none when its segment was dropped.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn page(&mut self, index: usize) -> io::Result<Option<Rc<Page>>> {
        if let Some((_, page)) = self.held.iter().find(|(one, _)| *one == index) {
            return Ok(Some(Rc::clone(page)));
        }
        let Some(segment) = self.segments.get(index).copied() else { return Ok(None) };
        let mut page = std::mem::take(&mut self.spare);
        let dir = self.dir.clone();
        if !page.load(&dir, segment.start, || self.open_before(index))? {
            self.spare = page;
            return Ok(None);
        }
        while self.held.len() >= HELD {
            if let Some(page) = self.held.pop_front().and_then(|(_, page)| Rc::into_inner(page)) {
                self.spare = page;
            }
        }
        let page = Rc::new(page);
        self.held.push_back((index, Rc::clone(&page)));
        Ok(Some(page))
    }

    /// What is open where a segment begins, told from those before it.
    fn open_before(&mut self, index: usize) -> io::Result<Open> {
        let start = self.segments[index].start;
        let Some(before) = index.checked_sub(1) else { return Ok(Open::at(1, start)) };
        let open = self.open_behind(before)?;
        let whole = self.segments[before].end() == start;
        Ok(if whole { open } else { Open::at(open.line + 1, start) })
    }

    fn open_behind(&mut self, index: usize) -> io::Result<Open> {
        let end = self.page(index)?.and_then(|page| page.end);
        Ok(end.unwrap_or_else(|| Open::at(1, self.segments[index].end())))
    }

    /// The first line that belongs to a page: the one that is open where it begins does not, while
    /// what it began with is kept.
    pub(super) fn first_owned(&self, index: usize, page: &Page) -> usize {
        let before = index.checked_sub(1).and_then(|before| self.segments.get(before));
        usize::from(page.goes_on() && before.is_some_and(|before| before.end() == page.start))
    }

    /// The whole of the last line of a page, with what later pages have of it. None when no line is
    /// there: nothing was printed behind the last line feed.
    pub(super) fn last_line(&mut self, index: usize, page: &Page) -> io::Result<Option<Vec<u8>>> {
        let last = page.count() - 1;
        let began = page.offset(last);
        let mut line = page.piece(last).to_vec();
        let mut behind = page.end();
        for later in index + 1..self.segments.len() {
            let Some(next) = self.page(later)? else { break };
            if next.start != behind || next.first_start != began {
                // bytes were lost, and the line ends with them
                break;
            }
            if !next.goes_on() {
                // it begins with that page, or is taken in pieces from there on
                return Ok((began < next.start).then_some(line));
            }
            line.extend_from_slice(next.piece(0));
            if next.count() > 1 {
                return Ok(Some(line));
            }
            behind = next.end();
        }
        Ok((!line.is_empty()).then_some(line))
    }

    /// A line by its number, as it says in the end; looked for in the page at `near` and on from
    /// there towards it. None when it is not kept.
    pub(super) fn line(&mut self, near: usize, number: u64) -> io::Result<Option<Vec<u8>>> {
        let mut index = near;
        let mut turned = None;
        loop {
            let Some(page) = self.page(index)? else { return Ok(None) };
            let (first, last) = (self.first_owned(index, &page), page.count() - 1);
            let back = number < page.number(first);
            if !back && number < page.number(last) {
                let at = usize::try_from(number - page.number(0)).unwrap_or(usize::MAX);
                return Ok(Some(last_state(page.piece(at)).to_vec()));
            }
            if !back && number == page.number(last) {
                let line = self.last_line(index, &page)?;
                return Ok(line.map(|line| last_state(&line).to_vec()));
            }
            let next = if back { index.checked_sub(1) } else { Some(index + 1) };
            match next {
                Some(next) if *turned.get_or_insert(back) == back => index = next,
                _ => return Ok(None),
            }
        }
    }
}
