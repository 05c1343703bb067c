//! Which lines match: blocks are read and matched by two threads, one of them the asker's own, and
//! handed on in their order.

use super::clean::last_state;
use super::excerpt::Excerpt;
use super::layout::Layout;
use super::page::{Page, Shelf};
use super::pattern::Pattern;
use super::sieve::{Sieve, Sieved};
use super::window::is_continued;
use crate::beside::beside;
use memchr::{memchr, memrchr};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// Blocks that one thread does as quickly as another could be started.
const FEW: usize = 4;

/// So long the asker waits for the other thread to begin: that does within a tenth of it, unless agents
/// have the processors; then the asker goes on alone for the time.
const BEGINS: Duration = Duration::from_millis(1);

/// Blocks that may be begun before the one that is awaited is done: one thread goes on while the
/// other waits for a processor, some milliseconds where agents are busy.
const AHEAD: usize = 64;

/// Where there is a match in fewer bytes than this, all of the block is read at once: looking for the
/// lines around each of them would take longer.
const DENSE: usize = 1 << 10;

/// What the blocks ahead may take in memory before no more are begun: where most lines match it is
/// more than their text, and what is found in 64 blocks of blank lines would take a gigabyte.
const MOST_HELD: usize = 16 << 20;

/// The stretch of lines that is matched between two looks at whether to go on, in bytes: it grows
/// while stretches are quick and shrinks while they are slow.
const STRETCH: Range<usize> = 1 << 10..512 << 10;
const QUICK: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(20);

/// A block that was matched.
pub(super) struct Scanned {
    /// Which one.
    pub(super) index: usize,
    /// What is kept of it; none when it was dropped meanwhile, or no line of it can match.
    pub(super) excerpt: Option<Arc<Excerpt>>,
    /// How much text it has, in bytes; 0 when it was dropped.
    pub(super) bytes: u64,
    /// How many of its lines match; the last one was not looked at, for its end may lie in another
    /// block.
    pub(super) total: u64,
    /// Whether that last one may match.
    pub(super) ends: bool,
    /// Whether all but the last were looked at.
    pub(super) whole: bool,
}

/// What the threads of one scan share.
pub(super) struct Scan<'a> {
    layout: &'a Layout,
    pattern: &'a Pattern,
    /// Which blocks, in which order.
    order: Vec<usize>,
    /// How many lines around each that matches are kept.
    context: usize,
    /// Set when matches are only counted.
    counting: AtomicBool,
    /// Set when nothing more is wanted.
    halt: AtomicBool,
    progress: Mutex<Progress>,
    came: Condvar,
}

/// How far a scan is.
#[derive(Debug, Default)]
struct Progress {
    /// How many blocks were begun.
    begun: usize,
    /// How many were awaited and came.
    came: usize,
    /// What is held of those that are done and not awaited yet, in bytes.
    held: usize,
}

impl Progress {
    /// Whether another block may be begun: the awaited one always.
    fn has_room(&self) -> bool {
        let ahead = self.begun - self.came;
        ahead == 0 || (ahead < AHEAD && self.held < MOST_HELD)
    }
}

impl<'a> Scan<'a> {
    /// A scan that has not begun.
    pub(super) fn new(
        layout: &'a Layout,
        pattern: &'a Pattern,
        order: Vec<usize>,
        context: u64,
    ) -> Self {
        Self {
            layout,
            pattern,
            order,
            context: usize::try_from(context).unwrap_or(usize::MAX),
            counting: AtomicBool::new(false),
            halt: AtomicBool::new(false),
            progress: Mutex::default(),
            came: Condvar::new(),
        }
    }

    /// Ends it as soon as the stretches under way are done.
    pub(super) fn halt(&self) {
        self.halt.store(true, Ordering::Relaxed);
        // under the lock: or it goes by whoever is just about to wait
        drop(self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.came.notify_all();
    }

    /// From here on matches are only counted.
    pub(super) fn count(&self) {
        self.counting.store(true, Ordering::Relaxed);
    }

    /// Begins it, with a thread beside the asker's: more would take from agents what a search is not
    /// worth. That thread ends when the answer is dropped, or with the scope.
    pub(super) fn begin<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Ordered<'s> {
        let (to, from) = channel();
        if self.order.len() > FEW {
            let work = beside(BEGINS, |beside| {
                thread::Builder::new().spawn_scoped(scope, move || {
                    beside.begin();
                    self.work(&to);
                })
            });
            if let Err(error) = work {
                tracing::debug!(%error, "a search goes on with one thread");
            }
        }
        Ordered { scan: self, from, desk: Desk::default(), early: BTreeMap::new(), next: 0 }
    }

    /// Does one block after the other, in the same memory.
    fn work(&self, to: &Sender<(usize, io::Result<Scanned>)>) {
        let mut desk = Desk::default();
        while let Some((turn, index)) = self.turn(true) {
            let scanned = self.block(index, &mut desk, &mut || {});
            self.done(&scanned);
            if to.send((turn, scanned)).is_err() {
                return;
            }
        }
    }

    /// The next block and its place in the order. None when no more are to be begun: all were, or the
    /// scan was halted, or, unless one `waits`, too many are ahead already.
    fn turn(&self, waits: bool) -> Option<(usize, usize)> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let turn = progress.begun;
            let index = *self.order.get(turn)?;
            if self.halt.load(Ordering::Relaxed) {
                return None;
            }
            if progress.has_room() {
                progress.begun += 1;
                return Some((turn, index));
            }
            if !waits {
                return None;
            }
            progress = self.came.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A block is done, and held until it is awaited.
    fn done(&self, scanned: &io::Result<Scanned>) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).held += weight(scanned);
    }

    /// The block that was awaited came.
    fn advance(&self, scanned: &io::Result<Scanned>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.came += 1;
        progress.held -= weight(scanned);
        drop(progress);
        self.came.notify_all();
    }

    /// Matches a block; `look` is called between stretches.
    fn block(&self, index: usize, desk: &mut Desk, look: &mut dyn FnMut()) -> io::Result<Scanned> {
        let without =
            Scanned { index, excerpt: None, bytes: 0, total: 0, ends: false, whole: true };
        desk.hits.clear();
        let sieved = desk.sieve.ask(self.layout, index, self.pattern.needed());
        if let Some(sieved) = sieved.as_ref().filter(|sieved| sieved.is_empty()) {
            return Ok(Scanned { bytes: sieved.text, ..without });
        }
        let Desk { page, shelf, .. } = desk;
        let there = match &sieved {
            None => page.load(self.layout, index, shelf)?,
            Some(sieved) => {
                page.begin(self.layout, index, shelf)? && {
                    sieved.places.iter().try_for_each(|place| page.fill(place.clone(), shelf))?;
                    page.reach(0, self.context, shelf)?;
                    page.reach(page.len(), self.context, shelf)?;
                    true
                }
            }
        };
        if !there {
            return Ok(without);
        }
        let whole = self.places(desk, index, sieved.as_ref(), look);
        let Desk { page, shelf, hits, .. } = desk;
        let total = hits.len() as u64;
        let context = match self.counting.load(Ordering::Relaxed) {
            true => {
                hits.clear();
                0
            }
            false => self.context,
        };
        if !hits.is_empty() && !page.ask(self.layout, index, shelf)? {
            return Ok(without);
        }
        if hits.len() > page.len() / DENSE {
            page.fill(0..page.len(), shelf)?;
        } else {
            hits.iter().try_for_each(|hit| page.reach(*hit, context, shelf))?;
        }
        let excerpt = Some(Arc::new(Excerpt::of(page, hits, context)));
        let ends = sieved.is_none_or(|sieved| sieved.ends);
        Ok(Scanned { index, excerpt, bytes: page.len() as u64, total, ends, whole })
    }

    /// Collects where lines begin that match, of what may match; false when it was halted.
    fn places(
        &self,
        desk: &mut Desk,
        index: usize,
        sieved: Option<&Sieved>,
        look: &mut dyn FnMut(),
    ) -> bool {
        let page = &desk.page;
        let begin = match is_continued(self.layout, index, page.extent()) {
            true => page.first_len() + 1,
            false => 0,
        };
        let (last, all) = (page.last_begin(), 0..page.len());
        let places = sieved.map_or(slice::from_ref(&all), |sieved| &sieved.places);
        places.iter().all(|place| {
            let lines = begin.max(place.start)..last.min(place.end);
            lines.is_empty() || self.lines(desk, lines.start..lines.end - 1, look)
        })
    }

    /// Collects where lines begin that match, of a stretch of the text; false when it was halted.
    fn lines(&self, desk: &mut Desk, range: Range<usize>, look: &mut dyn FnMut()) -> bool {
        let Desk { page, stretch, hits, .. } = desk;
        let (text, redrawn) = (&page.text()[..range.end], page.extent().redrawn);
        let mut at = range.start;
        while at <= text.len() {
            look();
            if self.halt.load(Ordering::Relaxed) {
                return false;
            }
            let began = Instant::now();
            let aim = text.len().min(at + *stretch);
            let end = memchr(b'\n', &text[aim..]).map_or(text.len(), |end| aim + end);
            each_hit(self.pattern, &text[at..end], redrawn, |begin| hits.push(at + begin));
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

/// What one thread uses again for each block.
struct Desk {
    page: Page,
    shelf: Shelf,
    sieve: Sieve,
    /// How much is matched at once.
    stretch: usize,
    /// Where lines begin that match.
    hits: Vec<usize>,
}

impl Default for Desk {
    fn default() -> Self {
        let (page, shelf, sieve) = (Page::default(), Shelf::default(), Sieve::default());
        Self { page, shelf, sieve, stretch: STRETCH.start, hits: Vec::new() }
    }
}

/// What is found, in the order of the blocks; its owner matches blocks as well while it waits.
pub(super) struct Ordered<'s> {
    scan: &'s Scan<'s>,
    from: Receiver<(usize, io::Result<Scanned>)>,
    desk: Desk,
    /// What came before its turn.
    early: BTreeMap<usize, io::Result<Scanned>>,
    next: usize,
}

/// Nobody is to go on for one who left.
impl Drop for Ordered<'_> {
    fn drop(&mut self) {
        self.scan.halt();
    }
}

impl Ordered<'_> {
    /// The next block; none when all were scanned or the scan was halted. `idle` is called every few
    /// milliseconds meanwhile, but not within one step of the pattern.
    pub(super) fn next(&mut self, mut idle: impl FnMut()) -> io::Result<Option<Scanned>> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        loop {
            self.early.extend(self.from.try_iter());
            if let Some(scanned) = self.early.remove(&self.next) {
                self.next += 1;
                self.scan.advance(&scanned);
                return scanned.map(Some);
            }
            if let Some((turn, index)) = self.scan.turn(false) {
                let scanned = self.scan.block(index, &mut self.desk, &mut idle);
                self.scan.done(&scanned);
                self.early.insert(turn, scanned);
                continue;
            }
            match self.from.recv_timeout(Duration::from_millis(5)) {
                Ok((turn, scanned)) => drop(self.early.insert(turn, scanned)),
                Err(Disconnected) => return Ok(None),
                Err(Timeout) => idle(),
            }
        }
    }
}

/// What a block that is done takes in memory, in bytes.
fn weight(scanned: &io::Result<Scanned>) -> usize {
    let excerpt = scanned.as_ref().ok().and_then(|scanned| scanned.excerpt.as_ref());
    excerpt.map_or(0, |excerpt| excerpt.weight())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f08_blocks_ahead_are_bounded_by_number_and_by_weight() {
        let of = |begun, came, held| Progress { begun, came, held };
        assert!(of(0, 0, 0).has_room() && of(63, 0, 1).has_room());
        assert!(!of(64, 0, 1).has_room() && of(65, 2, 1).has_room());
        assert!(!of(3, 0, MOST_HELD).has_room() && of(3, 0, MOST_HELD - 1).has_room());
        // or the scan would wait for itself
        assert!(of(5, 5, 2 * MOST_HELD).has_room());
    }
}
