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
    began: Instant,
    deadline: Instant,
    /// Microseconds in which it could not go on, for nobody took what it had found.
    lent: AtomicU64,
    /// Since when that is so once more: microseconds behind its beginning, and one; 0 while it is not.
    waits: AtomicU64,
    ended: AtomicBool,
}

impl Time {
    pub(super) fn until(deadline: Instant) -> Self {
        let (lent, waits) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { began: Instant::now(), deadline, lent, waits, ended: AtomicBool::new(false) }
    }

    /// When it is over, as it stands by now.
    pub(super) fn deadline(&self) -> Instant {
        // in this order, for what ends in between is then lent twice, not at all else
        let waits = self.waits.load(Ordering::SeqCst);
        let waited = self.since_began().saturating_sub(waits);
        let lent = self.lent.load(Ordering::SeqCst) + if waits > 0 { waited } else { 0 };
        self.deadline + Duration::from_micros(lent)
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || Instant::now() >= self.deadline()
    }

    /// Ends the search.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// It cannot go on until [`Time::goes_on`]: that takes nothing of its time.
    fn stands_still(&self) {
        self.waits.store(self.since_began() + 1, Ordering::SeqCst);
    }

    /// It can go on; says for how long it could not.
    fn goes_on(&self) -> Duration {
        let waited = self.since_began().saturating_sub(self.waits.load(Ordering::SeqCst));
        self.lent.fetch_add(waited, Ordering::SeqCst);
        self.waits.store(0, Ordering::SeqCst);
        Duration::from_micros(waited)
    }

    fn since_began(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
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
        let count = matches.len();
        self.time.stands_still();
        let sending = self.pages.send(SearchPage { matches, reached });
        let taken = self.runtime.block_on(async { timeout(self.patience, sending).await });
        self.patience = self.patience.saturating_sub(self.time.goes_on());
        if !matches!(taken, Ok(Ok(()))) {
            self.time.end();
            return false;
        }
        self.sent += count;
        if count > 0 {
            self.size = self.size.saturating_mul(2);
        }
        self.due = Instant::now() + SLICE;
        self.reached = reached;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Answer;
    use super::*;
    use crate::terminal::pattern::{Pattern, Reading};
    use crate::terminal::ring::RingWriter;
    use crate::terminal::search::{Order, Query, search};
    use hayward_shared::id::TaskId;
    use hayward_shared::run::RunKey;
    use hayward_shared::search::{SearchReport, SearchWords};
    use std::path::Path;
    use std::thread;
    use tokio::runtime::Builder;

    const LINES: u64 = 20_000;

    /// Output of so many lines that match.
    fn ring() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::open(dir.path(), 64 << 20).unwrap();
        let text: String = (1..=LINES).map(|line| format!("needle {line}\n")).collect();
        writer.append(text.as_bytes()).unwrap();
        dir
    }

    fn hunt(ring: &Path, newest: bool, flow: Flow<'_>) -> SearchReport {
        let words = [("pattern", "needle"), ("limit", "100000")];
        let asked = SearchWords::read(words.into_iter()).unwrap().query;
        let pattern = Pattern::new(&asked.pattern, Reading::default()).unwrap();
        let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
        let time = flow.time;
        let mut answer = Answer::new(&asked, || time.is_over()).through(Some(flow));
        answer.begin(RunKey { task_id: TaskId::fresh(), run_id: RunId::fresh(), lease_epoch: 1 });
        let searched = search(ring, &Query { pattern, context: 0, order }, &mut answer).unwrap();
        answer.end(searched);
        answer.report(Duration::ZERO)
    }

    #[test]
    fn pages_are_short_at_first_and_together_all_that_matches_in_its_order() {
        let (ring, runtime) = (ring(), Builder::new_multi_thread().enable_all().build().unwrap());
        for newest in [false, true] {
            let time = Time::until(Instant::now() + Duration::from_secs(60));
            let (page, mut pages) = mpsc::channel(1);
            let flow = Flow::new(page, runtime.handle().clone(), &time);
            let (pages, report) = thread::scope(|scope| {
                let hunt = scope.spawn(|| hunt(ring.path(), newest, flow));
                let pages: Vec<_> = std::iter::from_fn(|| pages.blocking_recv()).collect();
                (pages, hunt.join().unwrap())
            });
            assert!(pages.len() > 3 && pages[0].matches.len() <= FIRST);
            assert_eq!((report.total, report.truncated, report.next), (LINES, false, None));
            let all = pages.into_iter().flat_map(|page| page.matches).chain(report.matches);
            let lines: Vec<u64> = all.map(|found| found.line).collect();
            match newest {
                false => assert!(lines.into_iter().eq(1..=LINES)),
                true => assert!(lines.into_iter().eq((1..=LINES).rev())),
            }
        }
    }

    #[test]
    fn f41_time_in_which_nobody_takes_what_was_found_is_not_spent_however_long_that_lasts() {
        let span = Duration::from_millis(60);
        let deadline = Instant::now() + span;
        let time = Time::until(deadline);
        time.stands_still();
        thread::sleep(2 * span);
        assert!(!time.is_over(), "it cannot go on yet");
        let waited = time.goes_on();
        assert!(waited > span);
        assert_eq!(time.deadline(), deadline + waited);
        thread::sleep(2 * span);
        assert!(time.is_over());
    }

    #[test]
    fn f41_who_takes_nothing_gets_time_for_it_and_then_ends_the_search() {
        let (ring, runtime) = (ring(), Builder::new_multi_thread().enable_all().build().unwrap());
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(60);
        let (time, patience) = (Time::until(deadline), Duration::from_millis(80));
        let (page, mut pages) = mpsc::channel(1);
        let flow = Flow { patience, ..Flow::new(page, runtime.handle().clone(), &time) };
        let report = hunt(ring.path(), false, flow);
        assert!(time.is_over() && begun.elapsed() < Duration::from_secs(30));
        assert!(time.deadline() >= deadline + patience);
        // what was not taken is told of as not searched
        let reasons: Vec<_> =
            report.unsearched.iter().filter_map(|left| left.reason.as_deref()).collect();
        assert_eq!(
            (report.truncated, reasons),
            (true, vec!["what was found of it was not taken in time"])
        );
        assert!(pages.blocking_recv().unwrap().matches.len() <= FIRST);
        // or is there no more
        let time = Time::until(deadline);
        let (page, gone) = mpsc::channel(1);
        drop(gone);
        let report = hunt(ring.path(), false, Flow::new(page, runtime.handle().clone(), &time));
        assert!(time.is_over() && report.truncated);
    }
}
