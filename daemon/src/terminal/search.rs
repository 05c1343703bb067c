//! Searches the clean text of a ring: every line that matches, by its absolute number.
//!
//! Works on the files alone, beside their writer, which it never waits for nor holds up. The
//! pattern runs over whole stretches of lines at once; only where it hits are lines told apart. A
//! line that was written over by carriage returns is matched as it says in the end.

use super::clean::last_state;
use super::pages::{Page, Pages};
use super::pattern::Pattern;
use memchr::{memchr, memrchr};
use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// The stretch of lines that is searched between two looks at the time, in bytes: it grows while
/// stretches are quick and shrinks while they are slow.
const STRETCH: Range<usize> = 1 << 10..4 << 20;
const QUICK: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(20);

/// Which end of the output comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As it was printed.
    #[default]
    OldestFirst,
    /// The last line first.
    NewestFirst,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Query {
    /// What lines must match.
    pub pattern: Pattern,
    /// How many lines before and after each match come with it.
    pub context: u64,
    /// Which matches come first.
    pub order: Order,
}

/// A line that matches. The bytes are those of the clean text, without a line feed.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its number; the first line ever printed is 1.
    pub line: u64,
    /// The offset of its first byte in the raw output.
    pub offset: u64,
    /// The line.
    pub content: &'a [u8],
    /// The lines before it that are kept, in their order.
    pub before: &'a [Cow<'a, [u8]>],
    /// The lines after it that were printed, in their order.
    pub after: &'a [Cow<'a, [u8]>],
}

/// Takes what is found.
pub trait Sink {
    /// Whether matches are wanted still; from the first `false` on they are only counted.
    fn wants(&self) -> bool;

    /// The next match, in the order that was asked for.
    fn found(&mut self, found: &Found<'_>);

    /// Whether to break off. Asked every few milliseconds.
    fn stop(&mut self) -> bool;
}

/// What was searched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    /// How many lines match, those that were only counted among them.
    pub total: u64,
    /// Bytes of clean text that were searched.
    pub bytes: u64,
    /// Raw bytes that were not searched, because the search was broken off.
    pub left: Option<Range<u64>>,
}

/// Searches the ring in `ring`, which need not be there. Blocking.
///
/// # Errors
/// The disk failed.
pub fn search(ring: &Path, query: &Query, sink: &mut impl Sink) -> io::Result<Searched> {
    let mut pages = Pages::open(ring)?;
    let count = pages.count();
    let mut search = Search { query, sink, searched: Searched::default(), stretch: STRETCH.start };
    for step in 0..count {
        let index = match query.order {
            Order::OldestFirst => step,
            Order::NewestFirst => count - 1 - step,
        };
        let Some(page) = pages.page(index)? else { continue };
        if !search.page(&mut pages, index, &page)? {
            let kept = pages.kept();
            search.searched.left = Some(match query.order {
                Order::OldestFirst => page.start()..kept.end,
                Order::NewestFirst => kept.start..page.end(),
            });
            break;
        }
    }
    Ok(search.searched)
}

struct Search<'a, S> {
    query: &'a Query,
    sink: &'a mut S,
    searched: Searched,
    stretch: usize,
}

impl<S: Sink> Search<'_, S> {
    /// Searches the lines that belong to a page; false when it was broken off.
    fn page(&mut self, pages: &mut Pages, index: usize, page: &Page) -> io::Result<bool> {
        let (first, last) = (pages.first_owned(index, page), page.count() - 1);
        let mut hits = Vec::new();
        let mut whole = true;
        if first < last {
            whole = self.lines(page, first, last, &mut hits);
        }
        let end = match whole && first <= last {
            true => pages.last_line(index, page)?,
            false => None,
        };
        if let Some(line) = &end
            && self.query.pattern.matches(last_state(line))
        {
            hits.push(last);
        }
        self.searched.bytes += page.text_len();
        self.searched.total += hits.len() as u64;
        if self.query.order == Order::NewestFirst {
            hits.reverse();
        }
        let mut around = Around::new(pages, index, page, end.as_deref().map(last_state));
        for hit in hits {
            if !self.sink.wants() {
                break;
            }
            around.tell(hit, self.query.context, self.sink)?;
        }
        Ok(whole)
    }

    /// Collects which of the lines from `first` on, before `last`, match; false when it was broken
    /// off.
    fn lines(&mut self, page: &Page, first: usize, last: usize, hits: &mut Vec<usize>) -> bool {
        let (base, text) = (page.begin(first), page.between(first, last));
        let (mut at, mut line) = (0, first);
        while at <= text.len() {
            if self.sink.stop() {
                return false;
            }
            let began = Instant::now();
            let aim = text.len().min(at + self.stretch);
            let end = memchr(b'\n', &text[aim..]).map_or(text.len(), |end| aim + end);
            each_hit(&self.query.pattern, &text[at..end], |begin| {
                line = page.line_of(line, base + at + begin);
                hits.push(line);
            });
            at = end + 1;
            let took = began.elapsed();
            if took < QUICK {
                self.stretch = STRETCH.end.min(self.stretch * 2);
            } else if took > SLOW {
                self.stretch = STRETCH.start.max(self.stretch / 2);
            }
        }
        true
    }
}

/// Says where in `lines` those begin that match, in their order. Lines that were written over are
/// matched one by one; all between two of them at once.
fn each_hit(pattern: &Pattern, lines: &[u8], mut hit: impl FnMut(usize)) {
    let mut at = 0;
    while at <= lines.len() {
        let redrawn = memchr(b'\r', &lines[at..]).map(|there| at + there).map(|there| {
            let begin = memrchr(b'\n', &lines[at..there]).map_or(at, |end| at + end + 1);
            begin..memchr(b'\n', &lines[there..]).map_or(lines.len(), |end| there + end)
        });
        let calm = match &redrawn {
            Some(line) if line.start == at => None,
            Some(line) => Some(&lines[..line.start - 1]),
            None => Some(lines),
        };
        while let Some((begin, end)) = calm.and_then(|calm| pattern.find(calm, at)) {
            hit(begin);
            at = end + 1;
        }
        let Some(line) = redrawn else { return };
        if pattern.matches(last_state(&lines[line.clone()])) {
            hit(line.start);
        }
        at = line.end + 1;
    }
}

/// The lines of a page, and those around it.
struct Around<'a> {
    pages: &'a mut Pages,
    index: usize,
    page: &'a Page,
    /// The first line that belongs to the page.
    first: usize,
    /// The whole of its last one, if there is any.
    end: Option<&'a [u8]>,
    before: Vec<Cow<'a, [u8]>>,
    after: Vec<Cow<'a, [u8]>>,
}

impl<'a> Around<'a> {
    fn new(pages: &'a mut Pages, index: usize, page: &'a Page, end: Option<&'a [u8]>) -> Self {
        let first = pages.first_owned(index, page);
        Self { pages, index, page, first, end, before: Vec::new(), after: Vec::new() }
    }

    fn tell(&mut self, hit: usize, context: u64, sink: &mut impl Sink) -> io::Result<()> {
        let number = self.page.number(hit);
        self.before.clear();
        for other in number.saturating_sub(context).max(1)..number {
            if let Some(line) = self.line(other)? {
                self.before.push(line);
            }
        }
        self.after.clear();
        for other in number + 1..=number.saturating_add(context) {
            let Some(line) = self.line(other)? else { break };
            self.after.push(line);
        }
        let content = self.line(number)?.unwrap_or_default();
        sink.found(&Found {
            line: number,
            offset: self.page.offset(hit),
            content: &content,
            before: &self.before,
            after: &self.after,
        });
        Ok(())
    }

    /// A line by its number, as it says in the end. None when it is not kept, or not printed yet.
    fn line(&mut self, number: u64) -> io::Result<Option<Cow<'a, [u8]>>> {
        let last = self.page.count() - 1;
        if number == self.page.number(last) && self.first <= last {
            return Ok(self.end.map(Cow::Borrowed));
        }
        if number < self.page.number(self.first) || number > self.page.number(last) {
            return Ok(self.pages.line(self.index, number)?.map(Cow::Owned));
        }
        let index = usize::try_from(number - self.page.number(0)).unwrap_or(usize::MAX);
        Ok(Some(Cow::Borrowed(last_state(self.page.piece(index)))))
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
