//! Which lines match: blocks are read and matched by two threads, and handed on in their order.

use super::clean::last_state;
use super::layout::Layout;
use super::page::{Page, Shelf};
use super::pattern::Pattern;
use super::window::is_continued;
use memchr::{memchr, memrchr};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Threads that match beside each other: more would take from agents what a search is not worth.
const THREADS: usize = 2;

/// Blocks that one thread does as quickly as several could be started.
const FEW: usize = 4;

/// Blocks that a thread may be ahead.
const AHEAD: usize = 2;

/// The stretch of lines that is matched between two looks at whether to go on, in bytes: it grows
/// while stretches are quick and shrinks while they are slow.
const STRETCH: Range<usize> = 1 << 10..1 << 20;
const QUICK: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(20);

/// A block that was matched.
pub(super) struct Scanned {
    /// Which one.
    pub(super) index: usize,
    /// Its text; none when it was dropped meanwhile.
    pub(super) page: Option<Arc<Page>>,
    /// Which of its lines match, in their order; the last one was not looked at, for its end may
    /// lie on another page.
    pub(super) hits: Vec<usize>,
    /// Whether all but the last were looked at.
    pub(super) whole: bool,
}

/// What the threads of one scan share.
pub(super) struct Scan<'a> {
    layout: &'a Layout,
    pattern: &'a Pattern,
    /// Set when nothing more is wanted.
    halt: AtomicBool,
    /// Pages whose memory can be used again.
    spare: Mutex<Vec<Page>>,
}

impl<'a> Scan<'a> {
    /// A scan that has not begun.
    pub(super) fn new(layout: &'a Layout, pattern: &'a Pattern) -> Self {
        Self { layout, pattern, halt: AtomicBool::new(false), spare: Mutex::default() }
    }

    /// Ends it as soon as the stretches under way are done.
    pub(super) fn halt(&self) {
        self.halt.store(true, Ordering::Relaxed);
    }

    /// Gives a page back that is not needed any more.
    pub(super) fn give_back(&self, page: Page) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(page);
    }

    /// Begins to scan these blocks; the threads end when the answer is dropped, or with the scope.
    pub(super) fn begin<'s>(&'s self, scope: &'s Scope<'s, '_>, order: Vec<usize>) -> Ordered {
        let threads = if order.len() <= FEW { 1 } else { THREADS };
        let lanes = (0..threads).map(|lane| {
            let (to, from) = sync_channel(AHEAD);
            let own: Vec<usize> = order.iter().copied().skip(lane).step_by(threads).collect();
            scope.spawn(move || self.scan(own, &to));
            from
        });
        Ordered { lanes: lanes.collect(), next: 0 }
    }

    fn scan(&self, blocks: Vec<usize>, to: &SyncSender<io::Result<Scanned>>) {
        let (mut stretch, mut shelf) = (STRETCH.start, Shelf::default());
        for index in blocks {
            if self.halt.load(Ordering::Relaxed) {
                return;
            }
            let scanned = self.block(index, &mut stretch, &mut shelf);
            if to.send(scanned).is_err() {
                return;
            }
        }
    }

    fn block(&self, index: usize, stretch: &mut usize, shelf: &mut Shelf) -> io::Result<Scanned> {
        let mut page = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut page = page.take().unwrap_or_default();
        if !page.load(self.layout, index, shelf)? {
            return Ok(Scanned { index, page: None, hits: Vec::new(), whole: true });
        }
        let mut hits = Vec::new();
        let first = usize::from(is_continued(self.layout, index, &page));
        let begin = if first == 0 { 0 } else { page.first_len() + 1 };
        let whole = match page.last_begin().checked_sub(1) {
            Some(end) if begin <= end => self.lines(&page, first, begin..end, stretch, &mut hits),
            _ => true,
        };
        Ok(Scanned { index, page: Some(Arc::new(page)), hits, whole })
    }

    /// Collects which lines of a stretch of the text match, which begins with `line`; false when
    /// it was halted.
    fn lines(
        &self,
        page: &Page,
        mut line: usize,
        range: Range<usize>,
        stretch: &mut usize,
        hits: &mut Vec<usize>,
    ) -> bool {
        let text = &page.text()[..range.end];
        let mut at = range.start;
        while at <= text.len() {
            if self.halt.load(Ordering::Relaxed) {
                return false;
            }
            let began = Instant::now();
            let aim = text.len().min(at + *stretch);
            let end = memchr(b'\n', &text[aim..]).map_or(text.len(), |end| aim + end);
            each_hit(self.pattern, &text[at..end], page.redrawn(), |begin| {
                line = page.line_of(self.layout, line, at + begin);
                hits.push(line);
            });
            at = end + 1;
            let took = began.elapsed();
            if took < QUICK {
                *stretch = STRETCH.end.min(*stretch * 2);
            } else if took > SLOW {
                *stretch = STRETCH.start.max(*stretch / 2);
            }
        }
        true
    }
}

/// What the threads find, in the order of the blocks.
pub(super) struct Ordered {
    lanes: Vec<Receiver<io::Result<Scanned>>>,
    next: usize,
}

impl Ordered {
    /// The next block; none when all were scanned or the scan was halted. `idle` is asked every few
    /// milliseconds while there is nothing.
    pub(super) fn next(&mut self, mut idle: impl FnMut()) -> io::Result<Option<Scanned>> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        let lane = &self.lanes[self.next];
        self.next = (self.next + 1) % self.lanes.len();
        loop {
            match lane.recv_timeout(Duration::from_millis(5)) {
                Ok(scanned) => return scanned.map(Some),
                Err(Disconnected) => return Ok(None),
                Err(Timeout) => idle(),
            }
        }
    }
}

/// Says where in `lines` those begin that match, in their order. Lines that were written over are
/// matched one by one; all between two of them at once.
fn each_hit(pattern: &Pattern, lines: &[u8], redrawn: bool, mut hit: impl FnMut(usize)) {
    let mut at = 0;
    while at <= lines.len() {
        let there = if redrawn { memchr(b'\r', &lines[at..]) } else { None };
        let redrawn = there.map(|there| at + there).map(|there| {
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
