//! What is kept of a block that was searched: the lines that match, those around them, and those at
//! its ends, which neighbours need. The block's own memory goes on to the next one.

use super::page::{Extent, Page};
use memchr::{memchr, memrchr};
use std::ops::Range;

/// A line that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    /// Its place among the lines that are kept.
    kept: usize,
    /// Its place among the lines of the block.
    pub(super) line: usize,
    /// The offset at which it begins in the whole stream.
    pub(super) offset: u64,
}

/// What is kept of a line: all that the block has of it.
#[derive(Clone, Debug)]
struct Kept {
    line: usize,
    /// Where it is in the excerpt's text.
    place: Range<usize>,
}

/// Some of the lines of a block, the first and the last always among them.
#[derive(Debug)]
pub(super) struct Excerpt {
    extent: Extent,
    text: Vec<u8>,
    lines: Vec<Kept>,
    hits: Vec<Hit>,
}

impl Excerpt {
    /// Takes from a page the lines that begin at `hits` of its text, in their order, and so many
    /// around these and at either end. Where there are any, the page's index must have been asked.
    pub(super) fn of(page: &Page, hits: &[usize], context: usize) -> Self {
        let (extent, text) = (*page.extent(), page.text());
        let mut places = page.places();
        let mut cut = Cut::new(text);
        cut.around((0, 0), context);
        let mut found = Vec::with_capacity(hits.len());
        for at in hits {
            // an index that does not tell of a line of the text is no index of it
            let Some((line, offset)) = places.seek(*at) else { break };
            cut.around((line, *at), context);
            let kept = cut.kept.len().saturating_sub(cut.next.0 - line);
            found.push(Hit { kept, line, offset });
        }
        cut.around((extent.last, page.last_begin()), context);
        Self { extent, text: cut.copy, lines: cut.kept, hits: found }
    }

    /// All of a page.
    pub(super) fn whole(page: &Page) -> Self {
        Self::of(page, &[], usize::MAX)
    }

    /// What of the stream the block is.
    pub(super) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// What it takes in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.text.capacity()
            + self.lines.capacity() * size_of::<Kept>()
            + self.hits.capacity() * size_of::<Hit>()
    }

    /// The lines that match, in their order; the block's last one is not among them.
    pub(super) fn hits(&self) -> &[Hit] {
        &self.hits
    }

    /// The block's last line as one that matches.
    pub(super) fn end(&self) -> Hit {
        let offset = self.extent.behind.line_start;
        Hit { kept: self.lines.len() - 1, line: self.extent.last, offset }
    }

    /// What the block has of its first line, and of its last.
    pub(super) fn edges(&self) -> (&[u8], &[u8]) {
        (self.text(self.lines.first()), self.text(self.lines.last()))
    }

    /// What the block has of a line near one that matches, if it is kept.
    pub(super) fn near(&self, hit: &Hit, line: usize) -> Option<&[u8]> {
        let kept = self.lines.get((hit.kept + line).checked_sub(hit.line)?)?;
        (kept.line == line).then(|| self.text(Some(kept)))
    }

    /// What the block has of a line, if it is kept.
    pub(super) fn line(&self, line: usize) -> Option<&[u8]> {
        let kept = self.lines.binary_search_by_key(&line, |kept| kept.line).ok()?;
        Some(self.text(self.lines.get(kept)))
    }

    fn text(&self, kept: Option<&Kept>) -> &[u8] {
        kept.and_then(|kept| self.text.get(kept.place.clone())).unwrap_or_default()
    }
}

/// Copies lines out of a text, from its beginning on.
struct Cut<'a> {
    text: &'a [u8],
    copy: Vec<u8>,
    kept: Vec<Kept>,
    /// The line behind the last one that was kept, and where it begins.
    next: (usize, usize),
}

impl<'a> Cut<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, copy: Vec::new(), kept: Vec::new(), next: (0, 0) }
    }

    /// Keeps a line, which begins at `at`, and so many before and behind it.
    fn around(&mut self, (line, at): (usize, usize), context: usize) {
        let (mut from, mut begin) = self.next;
        if line > from {
            let least = from.max(line.saturating_sub(context));
            (from, begin) = (line, at);
            while from > least {
                let Some(end) = begin.checked_sub(1) else { break };
                begin = memrchr(b'\n', &self.text[..end]).map_or(0, |before| before + 1);
                from -= 1;
            }
        }
        let last = line.saturating_add(context);
        let (run, base) = (begin, self.copy.len());
        while from <= last && begin <= self.text.len() {
            let end = memchr(b'\n', &self.text[begin..]).map_or(self.text.len(), |len| begin + len);
            self.kept.push(Kept { line: from, place: base + begin - run..base + end - run });
            (from, begin) = (from + 1, end + 1);
        }
        let run = self.text.get(run..begin.min(self.text.len()));
        self.copy.extend_from_slice(run.unwrap_or_default());
        self.next = (from, begin);
    }
}
