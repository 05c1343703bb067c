//! A search that is answered while it goes on: one JSON object a line.

use super::{SearchLeft, SearchMatch, SearchReport, SearchedSum, Unanswered};
use crate::fault::Fault;
use serde::{Deserialize, Serialize};

/// The media type of an answer by lines: who accepts it gets one.
pub const LINES: &str = "application/x-ndjson";

/// All of an answer but its matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SearchEnd {
    /// How many lines match in all that was searched.
    pub total: u64,
    /// Whether there may be more than these in what the daemons that answered hold.
    pub truncated: bool,
    /// How much was searched.
    pub searched: SearchedSum,
    /// What was not, on daemons that answered.
    pub unsearched: Vec<SearchLeft>,
    /// Who did not answer.
    pub unanswered: Vec<Unanswered>,
    /// Where it was found: always `ring`.
    pub source: String,
}

/// One line of an answer by lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SearchLine {
    /// The next match, in the order that was asked for.
    Match(SearchMatch),
    /// The last line: all else that the answer says.
    End(SearchEnd),
    /// The last line, where the search broke off.
    Fault(Fault),
}

impl SearchLine {
    /// Adds the line to a text, with its line feed.
    pub fn write(&self, text: &mut Vec<u8>) {
        let begin = text.len();
        match serde_json::to_writer(&mut *text, self) {
            Ok(()) => text.push(b'\n'),
            // the types of the wire can always be written
            Err(_) => text.truncate(begin),
        }
    }
}

impl SearchReport {
    /// What it says besides its matches, with those that gave no answer.
    #[must_use]
    pub fn end(self, unanswered: Vec<Unanswered>) -> SearchEnd {
        let Self { matches: _, total, truncated, searched, unsearched, next: _ } = self;
        let source = "ring".to_owned();
        SearchEnd { total, truncated, searched, unsearched, unanswered, source }
    }
}

/// Whether a request's `Accept` asks for an answer by lines.
#[must_use]
pub fn wants_lines(accept: &str) -> bool {
    let kinds = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.into_iter().any(|kind| kind.eq_ignore_ascii_case(LINES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Code;

    #[test]
    fn each_line_is_one_object_under_its_name() {
        let mut text = Vec::new();
        let report = SearchReport { total: 3, truncated: true, ..SearchReport::default() };
        SearchLine::End(report.end(Vec::new())).write(&mut text);
        SearchLine::Fault(Fault::new(Code::Internal, "two\nlines")).write(&mut text);
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"end":{"total":3,"truncated":true,"searched":{"runs":0,"bytes":0,"ms":0},"unsearched":[],"unanswered":[],"source":"ring"}}"#
        );
        assert!(lines[1].starts_with(r#"{"fault":{"code":"internal""#) && lines.len() == 2);
    }

    #[test]
    fn only_who_names_the_media_type_gets_lines() {
        for accept in [LINES, "text/html, Application/X-NDJSON;q=0.9"] {
            assert!(wants_lines(accept), "{accept}");
        }
        for accept in ["", "*/*", "application/json", "application/x-ndjson2"] {
            assert!(!wants_lines(accept), "{accept}");
        }
    }
}
