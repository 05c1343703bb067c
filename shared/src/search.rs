//! Search of what agents printed: the question and the answer, over HTTP and the wire alike.

mod lines;
mod merge;

pub use lines::{LINES, SearchEnd, SearchLine, wants_lines};
pub use merge::Merge;

use crate::id::{DaemonId, RunId, TaskId};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;

/// Matches that one question may ask for.
pub const MAX_LIMIT: u32 = 100_000;

/// Matches when nobody says how many.
pub const USUAL_LIMIT: u32 = 500;

/// Lines of context, each way.
pub const MAX_CONTEXT: u32 = 50;

/// The longest pattern, in bytes: longer than anyone types, and short enough to be compiled in a
/// few milliseconds.
pub const MAX_PATTERN: usize = 16 << 10;

/// Bytes of a line that an answer holds whole.
pub const MAX_CONTENT: usize = 256 << 10;

/// The time that a search takes at most when nobody says otherwise, in milliseconds: what it has
/// by then is the answer, well within a second.
pub const USUAL_BUDGET_MS: u32 = 900;

/// The most time that may be given: the relay waits ten seconds for a daemon.
pub const MAX_BUDGET_MS: u32 = 8_000;

/// Pages of a stream that a daemon sends before the first of them is said to be taken: one more is
/// found while one is on its way.
pub const PAGES_AHEAD: usize = 2;

/// What sending may take beyond the time of the question, in milliseconds: the lines were found by
/// then, and are only fetched.
pub const FETCH_MS: u64 = 5_000;

/// What is searched for, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchQuery {
    /// The pattern, in the syntax of Rust's `regex`.
    pub pattern: String,
    /// Its characters stand for themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub literal: bool,
    /// Small and large letters are the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
    /// How many matches are wanted, from 1 to [`MAX_LIMIT`].
    pub limit: u32,
    /// How many lines before and after each, up to [`MAX_CONTEXT`].
    pub context: u32,
    /// The last run first, and of each the last line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub newest_first: bool,
    /// How long it may take, in milliseconds, up to [`MAX_BUDGET_MS`].
    pub budget_ms: u32,
    /// Only the runs of these tasks; of all where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub task_ids: Vec<TaskId>,
    /// Go on behind this match, as [`SearchReport::next`] said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<SearchPlace>,
    /// Send what is found page by page before the report; asked only of those that can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// A match by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchPlace {
    /// The run.
    pub run_id: RunId,
    /// The line.
    pub line: u64,
    /// The offset of what of the line matches, which tells pieces of a very long line apart. Those
    /// that do not know of pieces leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// A line that matches. Text that is no UTF-8 is shown with U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchMatch {
    /// Whose output it is.
    pub task_id: TaskId,
    /// Of which run.
    pub run_id: RunId,
    /// On which daemon; said by the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_id: Option<DaemonId>,
    /// The number of the line; the first one that the run ever printed is 1.
    pub line: u64,
    /// Whether that is counted from the oldest line that is kept: how many came before is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncounted: bool,
    /// The offset of the line's first byte in the run's raw output.
    pub offset: u64,
    /// The line without escapes, as it said in the end; whole up to [`MAX_CONTENT`].
    pub content: String,
    /// The lines before it that are kept, in their order.
    pub context_before: Vec<String>,
    /// The lines after it, in their order.
    pub context_after: Vec<String>,
    /// Whether a line of it was cut, or lost its beginning when that was dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// How much was searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchedSum {
    /// Runs, those without any output among them.
    pub runs: u64,
    /// Bytes of clean text.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// Output of a run that was not searched, because the time was over or it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchLeft {
    /// Whose output.
    pub task_id: TaskId,
    /// Of which run.
    pub run_id: RunId,
    /// From this raw offset on; the whole run where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Up to this one, without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// Why, where it is not for want of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a daemon found since it told last, while it searches still.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchPage {
    /// The next matches, in the order that was asked for.
    pub matches: Vec<SearchMatch>,
    /// All that follows is of this run, or of one behind it in the order that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<RunId>,
}

/// What one daemon found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchReport {
    /// The matches, in the order that was asked for.
    pub matches: Vec<SearchMatch>,
    /// How many lines match in all that was searched; 0 to a question that goes on behind a match.
    pub total: u64,
    /// Whether there may be more than these.
    pub truncated: bool,
    /// How much was searched.
    pub searched: SearchedSum,
    /// What was not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsearched: Vec<SearchLeft>,
    /// Where to go on: the answer was full before the limit was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<SearchPlace>,
}

/// A daemon that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unanswered {
    /// The daemon.
    pub daemon_id: DaemonId,
    /// Its host.
    pub hostname: String,
    /// Why.
    pub reason: String,
}

/// What all daemons found, as `GET /api/v1/search` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchAnswer {
    /// The matches, in the order that was asked for.
    pub matches: Vec<SearchMatch>,
    /// All else.
    #[serde(flatten)]
    pub end: SearchEnd,
}

impl SearchReport {
    /// Adds what another daemon found.
    pub fn join(&mut self, other: Self) {
        self.matches.extend(other.matches);
        self.total += other.total;
        self.truncated |= other.truncated;
        self.searched.runs += other.searched.runs;
        self.searched.bytes += other.searched.bytes;
        self.unsearched.extend(other.unsearched);
    }

    /// The answer that this is, with those that gave none.
    #[must_use]
    pub fn answer(mut self, unanswered: Vec<Unanswered>) -> SearchAnswer {
        let matches = std::mem::take(&mut self.matches);
        SearchAnswer { matches, end: self.end(unanswered) }
    }
}

/// Gathers the answers of one daemon to one question: each fits a message, and all of them what
/// may be held in memory.
#[derive(Debug)]
pub struct Pages {
    /// What is to be asked next.
    query: SearchQuery,
    limit: u32,
    budget_ms: u64,
    weight: usize,
    sum: Option<SearchReport>,
}

impl Pages {
    /// Memory that the matches of one daemon may take, in bytes.
    pub const MOST: usize = 64 << 20;

    /// The least time for an answer after the first, in milliseconds.
    const LEAST_MS: u64 = 500;

    /// Nothing was asked yet.
    #[must_use]
    pub fn new(query: SearchQuery) -> Self {
        let (limit, budget_ms) = (query.limit, query.budget_ms.into());
        Self { query, limit, budget_ms, weight: 0, sum: None }
    }

    /// What to ask.
    #[must_use]
    pub fn query(&self) -> &SearchQuery {
        &self.query
    }

    /// Takes an answer, so many milliseconds after the first question was asked; whether to ask
    /// again.
    pub fn take(&mut self, mut page: SearchReport, elapsed_ms: u64) -> bool {
        let (found, next) = (page.matches.len(), page.next.take());
        self.weight += page.matches.iter().map(weight).sum::<usize>();
        let sum = match &mut self.sum {
            None => self.sum.insert(page),
            Some(sum) => {
                sum.matches.extend(page.matches);
                // what could not be read is behind where a later page begins
                sum.unsearched.retain(|left| left.reason.is_some());
                for left in page.unsearched {
                    if !sum.unsearched.contains(&left) {
                        sum.unsearched.push(left);
                    }
                }
                sum
            }
        };
        let known = u32::try_from(sum.matches.len()).unwrap_or(u32::MAX);
        sum.total = sum.total.max(known.into());
        let room = self.limit.saturating_sub(known);
        let may = found > 0
            && room > 0
            && self.weight < Self::MOST
            && elapsed_ms < self.budget_ms + FETCH_MS;
        sum.truncated =
            sum.total > known.into() || !sum.unsearched.is_empty() || (next.is_some() && !may);
        let Some(next) = next.filter(|_| may) else { return false };
        let left = self.budget_ms.saturating_sub(elapsed_ms).max(Self::LEAST_MS);
        self.query.limit = room;
        self.query.after = Some(next);
        self.query.budget_ms = u32::try_from(left).unwrap_or(MAX_BUDGET_MS).min(MAX_BUDGET_MS);
        true
    }

    /// All that was found.
    #[must_use]
    pub fn end(self) -> SearchReport {
        self.sum.unwrap_or_default()
    }
}

/// The memory that a match takes, about.
fn weight(found: &SearchMatch) -> usize {
    /// What a text takes beside its bytes.
    const TEXT: usize = 48;
    let around = found.context_before.iter().chain(&found.context_after);
    let around: usize = around.map(|line| line.len() + TEXT).sum();
    found.content.len() + around + 3 * TEXT
}

/// A question as it is asked in an address: what is searched for, and the names of where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchWords {
    /// The question, which names no task yet.
    pub query: SearchQuery,
    /// Tasks, as they were typed.
    pub tasks: Vec<String>,
    /// Daemons, as they were typed.
    pub daemons: Vec<String>,
}

impl SearchWords {
    /// Reads the pairs of an address's query: `pattern`, `limit`, `context`, `ignoreCase`,
    /// `literal`, `order` (`oldest`, `newest`), `budgetMs`, and `task` and `daemon` as often as one
    /// likes. Others are passed over; of one that is there twice, the last one counts.
    ///
    /// # Errors
    /// What cannot be read, or is out of bounds, and why.
    pub fn read<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        fn number<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, String> {
            value.parse().map_err(|error| format!("{name}: {error}"))
        }
        let query = SearchQuery {
            pattern: String::new(),
            literal: false,
            ignore_case: false,
            limit: USUAL_LIMIT,
            context: 0,
            newest_first: false,
            budget_ms: USUAL_BUDGET_MS,
            task_ids: Vec::new(),
            after: None,
            stream: false,
        };
        let mut words = Self { query, tasks: Vec::new(), daemons: Vec::new() };
        let query = &mut words.query;
        for (name, value) in pairs {
            match name {
                "pattern" => value.clone_into(&mut query.pattern),
                "literal" => query.literal = number(name, value)?,
                "ignoreCase" => query.ignore_case = number(name, value)?,
                "limit" => query.limit = number(name, value)?,
                "context" => query.context = number(name, value)?,
                "budgetMs" => query.budget_ms = number(name, value)?,
                "task" => words.tasks.push(value.to_owned()),
                "daemon" => words.daemons.push(value.to_owned()),
                "order" => match value {
                    "oldest" => query.newest_first = false,
                    "newest" => query.newest_first = true,
                    _ => return Err("order: oldest or newest".to_owned()),
                },
                _ => {}
            }
        }
        query.check()?;
        Ok(words)
    }
}

impl SearchQuery {
    /// Whether all its numbers are within their bounds; the pattern is judged by who compiles it.
    ///
    /// # Errors
    /// What is out of bounds, and the bounds.
    pub fn check(&self) -> Result<(), String> {
        let bad = |name: &str, from: u64, to: u64| Err(format!("{name}: from {from} to {to}"));
        if !(1..=MAX_PATTERN).contains(&self.pattern.len()) {
            return bad("pattern: bytes", 1, MAX_PATTERN as u64);
        }
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            return bad("limit", 1, MAX_LIMIT.into());
        }
        if self.context > MAX_CONTEXT {
            return bad("context", 0, MAX_CONTEXT.into());
        }
        if !(1..=MAX_BUDGET_MS).contains(&self.budget_ms) {
            return bad("budgetMs", 1, MAX_BUDGET_MS.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lines: std::ops::Range<u64>, total: u64, goes_on: bool) -> SearchReport {
        let run_id = RunId::fresh();
        let row = |line| SearchMatch {
            task_id: TaskId::fresh(),
            run_id,
            daemon_id: None,
            line,
            uncounted: false,
            offset: 0,
            content: String::new(),
            context_before: Vec::new(),
            context_after: Vec::new(),
            cut: false,
        };
        let next = goes_on.then_some(SearchPlace { run_id, line: lines.end - 1, offset: None });
        let matches = lines.map(row).collect();
        SearchReport { matches, total, truncated: goes_on, next, ..SearchReport::default() }
    }

    fn pages(limit: u32) -> Pages {
        let words = [("pattern", "x"), ("budgetMs", "900")];
        let words = SearchWords::read(words.into_iter()).unwrap();
        Pages::new(SearchQuery { limit, ..words.query })
    }

    #[test]
    fn answers_are_gathered_until_all_is_there_or_enough() {
        let mut whole = pages(100);
        assert!(whole.take(page(1..5, 7, true), 100));
        let query = whole.query();
        assert_eq!((query.limit, query.after.unwrap().line, query.budget_ms), (96, 4, 800));
        assert!(!whole.take(page(5..8, 0, false), 1000));
        let all = whole.end();
        assert_eq!((all.matches.len(), all.total, all.truncated), (7, 7, false));
        let mut enough = pages(4);
        assert!(!enough.take(page(1..5, 7, true), 100));
        assert!(enough.end().truncated);
        let mut late = pages(100);
        assert!(late.take(page(1..5, 7, true), 5_000));
        assert_eq!(late.query().budget_ms, 500);
        assert!(!late.take(page(5..6, 0, true), 6_000));
        assert!(late.end().truncated);
    }

    #[test]
    fn what_was_not_searched_is_what_the_last_answer_names() {
        let task_id = TaskId::fresh();
        let left = |run_id| SearchLeft { task_id, run_id, from: None, to: None, reason: None };
        let (mut pages, mut again) = (pages(100), pages(100));
        let first = page(1..5, 4, true);
        let run_id = first.matches[0].run_id;
        assert!(pages.take(SearchReport { unsearched: vec![left(run_id)], ..first }, 0));
        assert!(!pages.take(page(5..9, 0, false), 0));
        let all = pages.end();
        assert_eq!((all.total, all.truncated, all.unsearched.len()), (8, false, 0));

        // what cannot be read is told by the first alone
        let broken = SearchLeft { reason: Some("it cannot be read".into()), ..left(run_id) };
        let first = page(1..5, 4, true);
        assert!(again.take(SearchReport { unsearched: vec![broken.clone()], ..first }, 0));
        let second = page(5..9, 0, false);
        assert!(!again.take(SearchReport { unsearched: vec![left(run_id)], ..second }, 0));
        let all = again.end();
        assert_eq!((all.truncated, all.unsearched), (true, vec![broken, left(run_id)]));
    }

    #[test]
    fn words_of_an_address_are_read_or_refused() {
        let read =
            |pairs: &[(&'static str, &'static str)]| SearchWords::read(pairs.iter().copied());
        let words = read(&[("pattern", "a"), ("order", "newest"), ("task", "x"), ("task", "y")]);
        let words = words.unwrap();
        assert_eq!((words.query.newest_first, words.tasks.len()), (true, 2));
        for bad in [
            &[][..],
            &[("pattern", "a"), ("limit", "0")],
            &[("pattern", "a"), ("limit", "many")],
            &[("pattern", "a"), ("context", "51")],
            &[("pattern", "a"), ("order", "up")],
            &[("pattern", "a"), ("budgetMs", "8001")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
