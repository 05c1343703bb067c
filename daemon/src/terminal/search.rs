//! Searches the clean text of a ring: every line that matches, by its absolute number.
//!
//! Works on the files alone, beside their writer, which it never waits for nor holds up. The
//! pattern runs over whole stretches of lines at once, and only over those that may match by their
//! filter; only where it hits are lines told apart. A
//! line that was written over by carriage returns is matched as it says in the end.

use super::clean::last_state;
use super::excerpt::{Excerpt, Hit};
use super::layout::Layout;
use super::pattern::Pattern;
use super::scan::{Ordered, Scan, Scanned};
use super::window::{Line, Window, is_continued, is_headless};
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
    /// Whether that number is known; else it is counted from the oldest line that is kept.
    pub counted: bool,
    /// Whether it and all lines around it are there from their beginning to their end: not where the
    /// beginning of one was dropped, and not of pieces.
    pub whole: bool,
    /// The offset of its first byte in the raw output.
    pub offset: u64,
    /// The offset of what of it matches: another one only where a very long line is taken in pieces.
    pub from: u64,
    /// The line, or that piece of it.
    pub content: &'a [u8],
    /// The lines before it that are kept, in their order.
    pub before: &'a [&'a [u8]],
    /// The lines after it that were printed, in their order.
    pub after: &'a [&'a [u8]],
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
    search_in(&Layout::read(ring)?, query, sink)
}

/// Searches a ring as it was when its layout was read; what was dropped since is passed over.
fn search_in(layout: &Layout, query: &Query, sink: &mut impl Sink) -> io::Result<Searched> {
    let mut order: Vec<usize> = (0..layout.count()).collect();
    if query.order == Order::NewestFirst {
        order.reverse();
    }
    let scan = Scan::new(layout, &query.pattern, order, query.context);
    thread::scope(|scope| {
        if sink.stop() {
            // before a thread could begin
            scan.halt();
        }
        let found = scan.begin(scope);
        let window = Window::new(layout);
        let (searched, next) = (Searched::default(), 0);
        let search = Search { layout, query, scan: &scan, window, sink, searched, next };
        search.run(found)
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
    fn run(mut self, mut found: Ordered<'_>) -> io::Result<Searched> {
        // one block ahead: the next one may hold the end of the last line
        let mut waiting: Option<Scanned> = None;
        loop {
            let scanned = self.next(&mut found)?;
            let ended = scanned.is_none();
            if let Some(Scanned { index, excerpt: Some(excerpt), .. }) = &scanned {
                self.window.hold(*index, Arc::clone(excerpt));
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
        self.searched.left = self.left();
        Ok(self.searched)
    }

    fn next(&mut self, found: &mut Ordered<'_>) -> io::Result<Option<Scanned>> {
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
        let from = self.layout.start(block);
        Some(match self.query.order {
            Order::OldestFirst => from..kept.end,
            Order::NewestFirst => {
                let after = self.layout.block(index + 1).map(|after| self.layout.start(after));
                kept.start..after.unwrap_or(kept.end)
            }
        })
    }

    /// Tells of the lines that match of a block; false when it was not looked at whole.
    fn take(&mut self, scanned: &Scanned) -> io::Result<bool> {
        let Some(excerpt) = scanned.excerpt.as_deref() else {
            self.searched.bytes += scanned.bytes;
            self.next += 1;
            return Ok(true);
        };
        if !scanned.whole && self.query.order == Order::NewestFirst {
            // its newest lines were not looked at: nothing of it counts
            return Ok(false);
        }
        let (index, extent) = (scanned.index, excerpt.extent());
        let first = usize::from(is_continued(self.layout, index, extent));
        let end = match scanned.whole && scanned.ends && first <= extent.last {
            true => self.window.last_line(index, excerpt)?,
            false => None,
        };
        let end = end.as_ref().map(|Line { text, whole }| {
            let (text, whole) = (last_state(text), *whole);
            Line { text, whole }
        });
        let at_end =
            end.filter(|line| self.query.pattern.matches(line.text)).map(|_| excerpt.end());
        self.searched.bytes += scanned.bytes;
        self.searched.total += scanned.total + u64::from(at_end.is_some());
        if self.sink.wants() {
            let hits = excerpt.hits().iter().copied();
            let hits: Vec<Hit> = match self.query.order {
                Order::OldestFirst => hits.chain(at_end).collect(),
                Order::NewestFirst => at_end.into_iter().chain(hits.rev()).collect(),
            };
            self.tell(index, &hits, excerpt, end)?;
        } else {
            self.scan.count();
        }
        self.next += usize::from(scanned.whole);
        Ok(scanned.whole)
    }

    /// Hands on lines that match, all of one block; `end` is all that there is of its last one.
    fn tell(
        &mut self,
        index: usize,
        hits: &[Hit],
        excerpt: &Excerpt,
        end: Option<Line<&[u8]>>,
    ) -> io::Result<()> {
        let (extent, context) = (excerpt.extent(), self.query.context);
        let first = usize::from(is_continued(self.layout, index, extent));
        let headless = is_headless(self.layout, index, extent);
        let numbers = || hits.iter().map(|hit| extent.number(hit.line));
        let (Some(least), Some(most)) = (numbers().min(), numbers().max()) else { return Ok(()) };
        let reach = least.saturating_sub(context).max(1)..most.saturating_add(context + 1);
        let own = extent.number(first)..extent.number(extent.last) + u64::from(end.is_some());
        let others = (reach.start..own.start).chain(own.end..reach.end);
        self.window.gather(reach, others, || self.sink.stop())?;
        let around = Around { window: &self.window, excerpt, own, end, headless };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for hit in hits {
            if !self.sink.wants() || self.sink.stop() {
                break;
            }
            let number = extent.number(hit.line);
            let own = around.line(hit, number);
            let mut whole = own.is_some_and(|own| own.whole);
            let mut near = |number| {
                let line = around.line(hit, number)?;
                whole &= line.whole;
                Some(line.text)
            };
            before.clear();
            let earlier = number.saturating_sub(context).max(1)..number;
            before.extend(earlier.rev().map_while(&mut near));
            before.reverse();
            after.clear();
            let later = number + 1..=number.saturating_add(context);
            after.extend(later.map_while(near));
            self.sink.found(&Found {
                line: number,
                counted: extent.open.counted,
                whole,
                offset: hit.offset,
                // of a line that goes on it is the same once the segment it began in is dropped
                from: if extent.goes_on() { hit.offset } else { hit.offset.max(extent.start) },
                content: own.map(|own| own.text).unwrap_or_default(),
                before: &before,
                after: &after,
            });
        }
        Ok(())
    }
}

/// The lines of a block, and those around it.
struct Around<'a> {
    window: &'a Window<'a>,
    excerpt: &'a Excerpt,
    /// The numbers of the lines that belong to the block.
    own: Range<u64>,
    /// All that there is of its last line.
    end: Option<Line<&'a [u8]>>,
    /// Whether its first line begins before all that belongs to it.
    headless: bool,
}

impl<'a> Around<'a> {
    /// A line by its number, near one that matches, as it says in the end. None when it is not kept,
    /// or not printed yet.
    fn line(&self, hit: &Hit, number: u64) -> Option<Line<&'a [u8]>> {
        if !self.own.contains(&number) {
            return self.window.around(number);
        }
        let extent = self.excerpt.extent();
        let line = usize::try_from(number - extent.open.line).ok()?;
        if line == extent.last {
            return self.end;
        }
        let text = self.excerpt.near(hit, line)?;
        let text = if extent.redrawn { last_state(text) } else { text };
        Some(Line { text, whole: line > 0 || !self.headless })
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "border_tests.rs"]
mod border_tests;
