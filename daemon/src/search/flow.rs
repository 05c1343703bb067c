//! The way of what is found to whoever waits for it, while the search goes on: pages, short at
//! first, and how long all of it may take.

use hayward_shared::id::RunId;
use hayward_shared::search::{FETCH_MS, SearchMatch, SearchPage};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Matches of the first page: a screen, so that there is something to read. Each page may have
/// twice as many as the one before, up to what a message holds.
const FIRST: usize = 50;

/// What was found goes out after this long, however little it is.
const SLICE: Duration = Duration::from_millis(100);

/// How long a search may take, and whether it shall go on. Its thread and whoever waits for it look
/// at the same one.
#[derive(Debug)]
pub(super) struct Time {
    deadline: Instant,
    /// Microseconds in which it could not go on, for nobody took what it had found.
    lent: AtomicU64,
    ended: AtomicBool,
}

impl Time {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, lent: AtomicU64::new(0), ended: AtomicBool::new(false) }
    }

    /// When it is over, as it stands by now.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline + Duration::from_micros(self.lent.load(Ordering::Relaxed))
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || Instant::now() >= self.deadline()
    }

    /// Ends the search.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn lend(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.lent.fetch_add(micros, Ordering::Relaxed);
    }
}

/// Sends pages. Of the thread that searches.
pub(super) struct Flow<'a> {
    pages: mpsc::Sender<SearchPage>,
    runtime: Handle,
    time: &'a Time,
    /// What is left of the time in which it may wait for those who take pages.
    patience: Duration,
    /// Matches of the next page.
    size: usize,
    due: Instant,
    reached: Option<RunId>,
    /// Matches that were sent.
    sent: usize,
}

impl<'a> Flow<'a> {
    pub(super) fn new(pages: mpsc::Sender<SearchPage>, runtime: Handle, time: &'a Time) -> Self {
        let (patience, due) = (Duration::from_millis(FETCH_MS), Instant::now() + SLICE);
        Self { pages, runtime, time, patience, size: FIRST, due, reached: None, sent: 0 }
    }

    /// Matches that were sent.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Whether so many matches are to be sent, or that the search has come to this run.
    pub(super) fn is_due(&self, matches: usize, run: Option<RunId>) -> bool {
        let is_news = matches > 0 || run != self.reached;
        matches >= self.size || (is_news && Instant::now() >= self.due)
    }

    /// Sends a page, waiting until there is room for it; that takes nothing of the search's time.
    /// False when nobody took it for too long, or is there any more: then the search ends.
    pub(super) fn send(&mut self, matches: Vec<SearchMatch>, reached: Option<RunId>) -> bool {
        let (began, count) = (Instant::now(), matches.len());
        let sending = self.pages.send(SearchPage { matches, reached });
        let taken = self.runtime.block_on(async { timeout(self.patience, sending).await });
        let waited = began.elapsed();
        self.time.lend(waited);
        self.patience = self.patience.saturating_sub(waited);
        if !matches!(taken, Ok(Ok(()))) {
            self.time.end();
            return false;
        }
        self.sent += count;
        self.size = self.size.saturating_mul(2);
        self.due = Instant::now() + SLICE;
        self.reached = reached;
        true
    }
}
