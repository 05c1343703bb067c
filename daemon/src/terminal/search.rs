//! Searches the clean text of a ring: every line that matches, by its absolute number.
//!
//! Works on the files alone, beside their writer, which it never waits for nor holds up. The
//! pattern runs over whole stretches of lines at once; only where it hits are lines told apart. A
//! line that was written over by carriage returns is matched as it says in the end.

use super::clean::last_state;
use super::layout::Layout;
use super::page::Page;
use super::pattern::Pattern;
use super::scan::{Ordered, Scan, Scanned};
use super::window::{Window, is_continued};
use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;

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
    let layout = Layout::read(ring)?;
    let mut order: Vec<usize> = (0..layout.count()).collect();
    if query.order == Order::NewestFirst {
        order.reverse();
    }
    let scan = Scan::new(&layout, &query.pattern);
    thread::scope(|scope| {
        let found = scan.begin(scope, order);
        let window = Window::new(&layout);
        let (searched, next) = (Searched::default(), 0);
        let search = Search { layout: &layout, query, scan: &scan, window, sink, searched, next };
        let done = search.run(found);
        // the threads must not go on for nobody
        scan.halt();
        done
    })
}

struct Search<'a, S> {
    layout: &'a Layout,
    query: &'a Query,
    scan: &'a Scan<'a>,
    window: Window<'a>,
    sink: &'a mut S,
    searched: Searched,
    /// How many blocks are done.
    next: usize,
}

impl<S: Sink> Search<'_, S> {
    fn run(mut self, mut found: Ordered) -> io::Result<Searched> {
        // one page ahead: the next one may hold the end of the last line
        let mut waiting: Option<Scanned> = None;
        loop {
            let scanned = self.next(&mut found)?;
            let ended = scanned.is_none();
            if let Some(page) =
                scanned.as_ref().and_then(|one| one.page.as_ref().map(|page| (one.index, page)))
            {
                let old = self.window.hold(page.0, Arc::clone(page.1));
                old.into_iter().for_each(|old| self.scan.give_back(old));
            }
            if let Some(one) = std::mem::replace(&mut waiting, scanned)
                && !self.take(&one)?
            {
                break;
            }
            if ended {
                break;
            }
        }
        drop(found);
        self.searched.left = self.left();
        Ok(self.searched)
    }

    fn next(&mut self, found: &mut Ordered) -> io::Result<Option<Scanned>> {
        let (scan, sink) = (self.scan, &mut *self.sink);
        if sink.stop() {
            scan.halt();
        }
        found.next(|| {
            if sink.stop() {
                scan.halt();
            }
        })
    }

    /// What was not searched, when it was broken off.
    fn left(&self) -> Option<Range<u64>> {
        let kept = self.layout.kept();
        let index = match self.query.order {
            Order::OldestFirst => self.next,
            Order::NewestFirst => self.layout.count().checked_sub(self.next + 1)?,
        };
        let block = self.layout.block(index)?;
        let from = self.layout.start(&block);
        Some(match self.query.order {
            Order::OldestFirst => from..kept.end,
            Order::NewestFirst => {
                let after = self.layout.block(index + 1).map(|after| self.layout.start(&after));
                kept.start..after.unwrap_or(kept.end)
            }
        })
    }

    /// Tells of the lines that match of a block; false when it was not looked at whole.
    fn take(&mut self, scanned: &Scanned) -> io::Result<bool> {
        let Some(page) = scanned.page.as_deref() else {
            self.next += 1;
            return Ok(true);
        };
        let (index, last) = (scanned.index, page.last());
        let first = usize::from(is_continued(self.layout, index, page));
        let end = match scanned.whole && first <= last {
            true => self.window.last_line(index, page)?,
            false => None,
        };
        let end = end.as_deref().map(last_state);
        let at_end = end.filter(|line| self.query.pattern.matches(line)).map(|_| last);
        self.searched.bytes += page.text().len() as u64;
        self.searched.total += (scanned.hits.len() + usize::from(at_end.is_some())) as u64;
        let hits = scanned.hits.iter().copied();
        let around = Around::new(self.layout, &mut self.window, index, page, end);
        match self.query.order {
            Order::OldestFirst => around.tell(hits.chain(at_end), self.query.context, self.sink)?,
            Order::NewestFirst => {
                around.tell(at_end.into_iter().chain(hits.rev()), self.query.context, self.sink)?;
            }
        }
        self.next += usize::from(scanned.whole);
        Ok(scanned.whole)
    }
}

/// The lines of a page, and those around it.
struct Around<'a, 'w> {
    layout: &'a Layout,
    window: &'a mut Window<'w>,
    index: usize,
    page: &'a Page,
    /// The first line that belongs to the page.
    first: usize,
    /// The whole of its last one, if there is any.
    end: Option<&'a [u8]>,
    before: Vec<Cow<'a, [u8]>>,
    after: Vec<Cow<'a, [u8]>>,
}

impl<'a, 'w> Around<'a, 'w> {
    fn new(
        layout: &'a Layout,
        window: &'a mut Window<'w>,
        index: usize,
        page: &'a Page,
        end: Option<&'a [u8]>,
    ) -> Self {
        let first = usize::from(is_continued(layout, index, page));
        Self { layout, window, index, page, first, end, before: Vec::new(), after: Vec::new() }
    }

    fn tell(
        mut self,
        hits: impl Iterator<Item = usize>,
        context: u64,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        for hit in hits {
            if !sink.wants() {
                break;
            }
            self.tell_one(hit, context, sink)?;
        }
        Ok(())
    }

    fn tell_one(&mut self, hit: usize, context: u64, sink: &mut impl Sink) -> io::Result<()> {
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
            offset: self.page.offset(self.layout, hit),
            content: &content,
            before: &self.before,
            after: &self.after,
        });
        Ok(())
    }

    /// A line by its number, as it says in the end. None when it is not kept, or not printed yet.
    fn line(&mut self, number: u64) -> io::Result<Option<Cow<'a, [u8]>>> {
        let last = self.page.last();
        if number == self.page.number(last)
            && let Some(end) = self.end
        {
            return Ok(Some(Cow::Borrowed(end)));
        }
        if number < self.page.number(self.first) || number >= self.page.number(last) {
            return Ok(self.window.line(self.index, number)?.map(Cow::Owned));
        }
        let line = usize::try_from(number - self.page.number(0)).unwrap_or(usize::MAX);
        Ok(Some(Cow::Borrowed(last_state(self.page.piece(self.layout, line)))))
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
