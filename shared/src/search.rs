//! Search of what agents printed: the question and the answer, over HTTP and the wire alike.

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
}

/// A match by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchPlace {
    /// The run.
    pub run_id: RunId,
    /// The line.
    pub line: u64,
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
    /// The offset of the line's first byte in the run's raw output.
    pub offset: u64,
    /// The line without escapes, as it said in the end; whole up to [`MAX_CONTENT`].
    pub content: String,
    /// The lines before it that are kept, in their order.
    pub context_before: Vec<String>,
    /// The lines after it, in their order.
    pub context_after: Vec<String>,
    /// Whether a line of it was cut.
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
