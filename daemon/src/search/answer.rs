//! One daemon's answer to a search, as full as one message of the wire may be; or in pages that go
//! out while it is searched on.

use super::flow::Flow;
use crate::terminal::search::{Found, Searched, Sink};
use hayward_shared::protocol::MAX_TEXT;
use hayward_shared::run::RunKey;
use hayward_shared::search::{
    MAX_CONTENT, Pages, SearchLeft, SearchMatch, SearchPlace, SearchQuery, SearchReport,
};
use std::time::Duration;

/// What the matches of one answer may take as JSON: a message, less what else is in it.
const MOST: usize = MAX_TEXT - (128 << 10);

/// What one line may take as JSON beside the line that matches: so a match always fits.
const MOST_CONTEXT_LINE: usize = 4 << 10;

/// Runs that an answer names as not searched; there may be more.
const MOST_LEFT: usize = 100;

/// The answer while the search goes on.
pub(super) struct Answer<'a, F> {
    query: &'a SearchQuery,
    stop: F,
    report: SearchReport,
    /// What of [`MOST`] is free still.
    room: usize,
    full: bool,
    /// What all pages take, as JSON.
    given: usize,
    run: Option<RunKey>,
    /// The last match that it holds.
    last: Option<SearchPlace>,
    /// Where pages go, if they do.
    flow: Option<Flow<'a>>,
}

impl<'a, F: FnMut() -> bool> Answer<'a, F> {
    /// Nothing was found yet; `stop` says when to break off.
    pub(super) fn new(query: &'a SearchQuery, stop: F) -> Self {
        let report = SearchReport::default();
        let (run, last, flow) = (None, None, None);
        Self { query, stop, report, room: MOST, full: false, given: 0, run, last, flow }
    }

    /// The same, but what is found goes out page by page, until the last one.
    pub(super) fn through(self, flow: Option<Flow<'a>>) -> Self {
        Self { flow, ..self }
    }

    /// From here on, the output is that of this run.
    pub(super) fn begin(&mut self, run: RunKey) {
        self.run = Some(run);
    }

    /// A run was searched.
    pub(super) fn end(&mut self, searched: Searched) {
        self.report.searched.runs += 1;
        self.report.searched.bytes += searched.bytes;
        self.report.total += searched.total;
        if let (Some(left), Some(RunKey { task_id, run_id, .. })) = (searched.left, self.run) {
            let (from, to) = (Some(left.start), Some(left.end));
            self.leave(SearchLeft { task_id, run_id, from, to, reason: None });
        }
    }

    /// This was not searched.
    pub(super) fn leave(&mut self, left: SearchLeft) {
        if self.report.unsearched.len() < MOST_LEFT {
            self.report.unsearched.push(left);
        }
    }

    /// Whether it is time to break off.
    pub(super) fn stopped(&mut self) -> bool {
        self.send_if_due();
        // who goes on behind a match knows the sum already
        (self.query.after.is_some() && !self.wants()) || (self.stop)()
    }

    /// The whole of it.
    pub(super) fn report(mut self, took: Duration) -> SearchReport {
        if self.query.after.is_some() {
            // the sum was told with the first matches
            self.report.total = 0;
        }
        if self.full {
            self.report.next = self.last;
        }
        if self.query.after.is_some() && !self.wants() {
            // broken off because it was full, not for want of time
            self.report.unsearched.retain(|left| left.reason.is_some());
        }
        let found = self.found_so_far() as u64;
        self.report.truncated =
            self.full || self.report.total > found || !self.report.unsearched.is_empty();
        self.report.searched.ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.report
    }

    fn found_so_far(&self) -> usize {
        self.flow.as_ref().map_or(0, Flow::sent) + self.report.matches.len()
    }

    fn send_if_due(&mut self) {
        let run = self.run.map(|run| run.run_id);
        if self.flow.as_ref().is_some_and(|flow| flow.is_due(self.report.matches.len(), run)) {
            self.send();
        }
    }

    /// Sends what is held as a page; what nobody takes is not searched, as far as one can tell.
    fn send(&mut self) {
        let Some(flow) = &mut self.flow else { return };
        let matches = std::mem::take(&mut self.report.matches);
        self.room = MOST;
        let sent = flow.send(matches, self.run.map(|run| run.run_id));
        if let (false, Some(RunKey { task_id, run_id, .. })) = (sent, self.run) {
            let reason = Some("what was found of it was not taken in time".to_owned());
            self.leave(SearchLeft { task_id, run_id, from: None, to: None, reason });
        }
    }

    /// Whether an earlier answer held it.
    fn is_known(&self, run: RunKey, found: &Found<'_>) -> bool {
        let Some(after) = self.query.after.filter(|after| after.run_id == run.run_id) else {
            return false;
        };
        let order = match after.offset {
            Some(offset) => found.from.cmp(&offset),
            None => found.line.cmp(&after.line),
        };
        if self.query.newest_first { order.is_ge() } else { order.is_le() }
    }
}

impl<F: FnMut() -> bool> Sink for Answer<'_, F> {
    fn wants(&self) -> bool {
        let is_bounded = self.flow.is_none() || self.given < Pages::MOST;
        !self.full && is_bounded && self.found_so_far() < self.query.limit as usize
    }

    fn found(&mut self, found: &Found<'_>) {
        let Some(run) = self.run.filter(|run| !self.is_known(*run, found)) else { return };
        let row = row(run, found);
        let size = size(&row);
        if size > self.room && !self.report.matches.is_empty() {
            if self.flow.is_none() {
                self.full = true;
                return;
            }
            self.send();
        }
        self.room = self.room.saturating_sub(size);
        self.given = self.given.saturating_add(size);
        let (run_id, line, offset) = (run.run_id, found.line, Some(found.from));
        self.last = Some(SearchPlace { run_id, line, offset });
        self.report.matches.push(row);
        self.send_if_due();
    }

    fn stop(&mut self) -> bool {
        self.stopped()
    }
}

fn row(run: RunKey, found: &Found<'_>) -> SearchMatch {
    let mut cut = !found.whole;
    let mut text = |bytes: &[u8], most: usize| {
        let text = String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes)).into_owned();
        cut |= bytes.len() > most;
        text
    };
    let mut row = SearchMatch {
        task_id: run.task_id,
        run_id: run.run_id,
        daemon_id: None,
        line: found.line,
        uncounted: !found.counted,
        offset: found.offset,
        content: text(found.content, MAX_CONTENT),
        context_before: found.before.iter().map(|line| text(line, MAX_CONTENT)).collect(),
        context_after: found.after.iter().map(|line| text(line, MAX_CONTENT)).collect(),
        cut,
    };
    if size(&row) > MOST {
        // its lines cannot all be whole in one message: the one that matches goes first
        row.cut = true;
        let around = row.context_before.iter_mut().chain(&mut row.context_after);
        around.for_each(|line| shorten(line, MOST_CONTEXT_LINE));
        if size(&row) > MOST {
            shorten(&mut row.content, MAX_CONTENT / 4);
        }
    }
    row
}

fn shorten(line: &mut String, most: usize) {
    line.truncate(line.floor_char_boundary(most));
}

/// What a match takes as JSON.
fn size(row: &SearchMatch) -> usize {
    serde_json::to_vec(row).map_or(0, |text| text.len() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::pattern::{Pattern, Reading};
    use crate::terminal::ring::RingWriter;
    use crate::terminal::search::{Order, Query, search};
    use hayward_shared::id::{RunId, TaskId};
    use hayward_shared::search::{Pages, SearchWords};
    use std::fs;
    use std::path::Path;

    /// Asks until all is there; how many answers that took, and each match with its content. `between`
    /// is called between two answers.
    fn gathered(ring: &Path, newest: bool, mut between: impl FnMut()) -> (usize, Vec<SearchMatch>) {
        let order = if newest { "newest" } else { "oldest" };
        let words = [("pattern", "needle"), ("order", order), ("limit", "100000")];
        let asked = SearchWords::read(words.into_iter()).unwrap().query;
        let pattern = Pattern::new(&asked.pattern, Reading::default()).unwrap();
        let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
        let query = Query { pattern, context: 0, order };
        let run = RunKey { task_id: TaskId::fresh(), run_id: RunId::fresh(), lease_epoch: 1 };
        let (mut pages, mut answers) = (Pages::new(asked), 0);
        loop {
            answers += 1;
            let mut answer = Answer::new(pages.query(), || false);
            answer.begin(run);
            let searched = search(ring, &query, &mut answer).unwrap();
            answer.end(searched);
            let report = answer.report(Duration::ZERO);
            if !pages.take(report, 0) {
                return (answers, pages.end().matches);
            }
            between();
        }
    }

    #[test]
    fn f12_answers_within_one_very_long_line_skip_nothing_and_give_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::open(dir.path(), 64 << 20).unwrap();
        for part in 0..13 << 10 {
            let part = format!("{part:>8} needle {}", "x".repeat(1024 - 16));
            writer.append(part.as_bytes()).unwrap();
        }
        let (answers, oldest) = gathered(dir.path(), false, || {});
        assert!(answers > 2, "{answers}");
        let mut all: Vec<_> = oldest.iter().map(|one| one.content.clone()).collect();
        assert!(oldest.iter().all(|one| one.line == 1) && all.len() > 8);
        let (_, mut newest) = gathered(dir.path(), true, || {});
        newest.reverse();
        assert_eq!(
            newest.iter().map(|one| &one.content).collect::<Vec<_>>(),
            all.iter().collect::<Vec<_>>()
        );
        all.dedup();
        assert_eq!(all.len(), oldest.len());
    }

    /// Makes as if the disk had refused every index, and the oldest segment was dropped.
    fn forget_numbers(ring: &Path) {
        for file in fs::read_dir(ring).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with(&"0".repeat(20)) || name.ends_with(".index") {
                fs::remove_file(path).unwrap();
            }
        }
    }

    #[test]
    fn f39_numbers_that_become_known_between_two_answers_lose_no_match_and_repeat_none() {
        const SEGMENT: u64 = 1 << 20;
        for newest in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = RingWriter::open(dir.path(), 16 * SEGMENT).unwrap();
            let mut write = |to: u64| {
                while writer.end() < to {
                    writer.append(format!("needle {:>1016}\n", writer.end()).as_bytes()).unwrap();
                }
                writer.settle();
            };
            let end = 3 * SEGMENT + SEGMENT / 2;
            write(end);
            forget_numbers(dir.path());
            // the next segment has its index
            let (answers, mut all) = gathered(dir.path(), newest, || write(4 * SEGMENT + 10_240));
            assert!(answers > 2, "{answers}");
            if newest {
                all.reverse();
            }
            let told = all.iter().map(|one| one.offset).take_while(|offset| *offset < end);
            assert!(told.eq((SEGMENT..end).step_by(1024)), "newest first: {newest}");
            let (known, others): (Vec<_>, Vec<_>) = all.iter().partition(|one| !one.uncounted);
            assert!(known.iter().all(|one| one.line == one.offset / 1024 + 1));
            assert!(others.iter().all(|one| one.line == (one.offset - SEGMENT) / 1024 + 1));
            assert!(!known.is_empty() && !others.is_empty());
        }
    }
}
