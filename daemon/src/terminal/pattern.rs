//! What is searched for: a regular expression over bytes, matched in linear time, line by line.

use super::needed::Needed;
use grep_matcher::{LineMatchKind, Matcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use hayward_shared::search::MAX_PATTERN;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::Hir;
use std::borrow::Cow;

/// How deep groups may be nested: deeper ones would exhaust the stack of a thread.
const DEEPEST: u32 = 100;

/// What a compiled pattern may take, in bytes: those of use take a few hundred KiB, and the larger
/// it is the longer each byte may take.
const MOST: usize = 2 << 20;

/// What the states that matching makes may take, in bytes: few patterns need as many, and those
/// that need more are matched slowly.
const MOST_STATES: usize = 8 << 20;

/// How a pattern is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Its characters stand for themselves.
    pub literal: bool,
    /// Small and large letters are the same.
    pub ignore_case: bool,
}

/// Why a pattern is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", place(*at))]
pub struct BadPattern {
    /// What is wrong with it.
    pub what: String,
    /// The byte of the pattern where that is, where it can be told.
    pub at: Option<usize>,
}

fn place(at: Option<usize>) -> String {
    at.map_or_else(String::new, |at| format!(" (at byte {at} of the pattern)"))
}

/// A pattern that was compiled. It never matches across lines, nor a line feed.
#[derive(Clone, Debug)]
pub struct Pattern {
    matcher: RegexMatcher,
    needed: Needed,
}

impl Pattern {
    /// Compiles `pattern`, in the syntax of Rust's `regex`.
    ///
    /// # Errors
    /// It is empty, too long or too large, or no regular expression.
    pub fn new(pattern: &str, reading: Reading) -> Result<Self, BadPattern> {
        let bad = |what: &str| BadPattern { what: what.to_owned(), at: None };
        if pattern.is_empty() {
            return Err(bad("the pattern is empty"));
        }
        if pattern.len() > MAX_PATTERN {
            return Err(bad(&format!("the pattern is longer than {MAX_PATTERN} bytes")));
        }
        let needed = Needed::of(&parse(pattern, reading)?);
        let matcher = RegexMatcherBuilder::new()
            .fixed_strings(reading.literal)
            .case_insensitive(reading.ignore_case)
            .multi_line(true)
            .line_terminator(Some(b'\n'))
            .nest_limit(DEEPEST)
            .size_limit(MOST)
            .dfa_size_limit(MOST_STATES)
            .build(pattern);
        let matcher = matcher.map_err(|error| bad(&error.to_string()))?;
        Ok(Self { matcher, needed })
    }

    /// What every line holds that matches.
    pub(super) fn needed(&self) -> &Needed {
        &self.needed
    }

    /// The same, matched against every line that there is.
    #[cfg(test)]
    pub(super) fn unfiltered(self) -> Self {
        Self { needed: Needed::Anything, ..self }
    }

    /// The first line of `lines` at or behind `at` that matches: where it begins and ends, without
    /// its line feed. `at` must be where a line begins.
    pub(super) fn find(&self, lines: &[u8], at: usize) -> Option<(usize, usize)> {
        let mut from = at;
        while let Some(rest) = lines.get(from..) {
            let Ok(Some(found)) = self.matcher.find_candidate_line(rest) else { return None };
            let (place, sure) = match found {
                LineMatchKind::Confirmed(place) => (place, true),
                LineMatchKind::Candidate(place) => (place, false),
            };
            let begin = memchr::memrchr(b'\n', &rest[..place]).map_or(0, |end| end + 1);
            let end = memchr::memchr(b'\n', &rest[place..]).map_or(rest.len(), |end| place + end);
            if sure || self.matches(&rest[begin..end]) {
                return Some((from + begin, from + end));
            }
            from += end + 1;
        }
        None
    }

    /// Whether one line, given without its line feed, matches.
    pub(super) fn matches(&self, line: &[u8]) -> bool {
        self.matcher.is_match(line).unwrap_or(false)
    }
}

/// Reads a pattern as the builder does; says where it goes wrong, which that only draws.
fn parse(pattern: &str, reading: Reading) -> Result<Hir, BadPattern> {
    let pattern = match reading.literal {
        true => Cow::Owned(regex_syntax::escape(pattern)),
        false => Cow::Borrowed(pattern),
    };
    let mut parser = ParserBuilder::new();
    parser.utf8(false).multi_line(true).case_insensitive(reading.ignore_case).nest_limit(DEEPEST);
    let (what, span) = match parser.build().parse(&pattern) {
        Ok(read) if read.properties().look_set().contains_anchor_haystack() => {
            let what = "it asks for where all text begins or ends (\\A, \\z, ^ and $ without the \
                flag m): lines are looked at one by one, so ask for ^ and $";
            return Err(BadPattern { what: what.to_owned(), at: None });
        }
        Ok(read) => return Ok(read),
        Err(regex_syntax::Error::Parse(error)) => (error.kind().to_string(), *error.span()),
        Err(regex_syntax::Error::Translate(error)) => (error.kind().to_string(), *error.span()),
        Err(error) => return Err(BadPattern { what: error.to_string(), at: None }),
    };
    Err(BadPattern { what, at: Some(span.start.offset) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Patterns over few letters, so that lines of [`lines`] match often.
    pub(in super::super) fn patterns() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            6 => "[abkKsé]{1,6}",
            2 => "\\[[abkKsSé]{1,3}\\]",
            1 => prop::sample::select(vec![".", r"\w", r"\b", "^", "$", "[^a]", r"\.", r"\xff"])
                .prop_map(str::to_owned),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let row = |inner: &BoxedStrategy<String>| prop::collection::vec(inner.clone(), 1..4);
            let inner = inner.boxed();
            let times = prop::sample::select(vec!["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}"]);
            prop_oneof![
                3 => row(&inner).prop_map(|all| all.concat()),
                2 => row(&inner).prop_map(|all| format!("({})", all.join("|"))),
                1 => (inner.clone(), times).prop_map(|(one, times)| format!("(?:{one}){times}")),
                1 => inner.prop_map(|one| format!("(?i:{one})")),
            ]
        })
    }

    /// Lines of the letters of [`patterns`].
    pub(in super::super) fn lines() -> impl Strategy<Value = Vec<u8>> {
        let letters = prop::sample::select(vec![
            "a", "b", "k", "K", "s", "S", "é", "É", "ſ", "\u{212a}", "\n", ".",
        ]);
        prop::collection::vec(letters, 0..60).prop_map(|all| all.concat().into_bytes())
    }

    fn bad(pattern: &str) -> BadPattern {
        Pattern::new(pattern, Reading::default()).unwrap_err()
    }

    #[test]
    fn f41_a_bad_pattern_is_told_with_its_place() {
        assert_eq!(bad("ab(c").at, Some(2));
        assert_eq!(bad("a{3,1}").at, Some(1));
        assert_eq!(bad(r"x\p{Nonsense}").at, Some(1));
        assert_eq!(bad("").at, None);
        assert!(bad(&"x".repeat(MAX_PATTERN + 1)).what.contains("longer"));
        assert!(bad(r"a\nb").what.contains("not allowed"), "{}", bad(r"a\nb"));
        for pattern in [r"\Aa", r"z\z", "(?-m)^a", "(?-m:a$)"] {
            assert!(bad(pattern).what.contains("one by one"), "{}", bad(pattern));
        }
        bad(&format!("{}x{}", "(".repeat(3000), ")".repeat(3000)));
        bad("(((a{99}){99}){99}){99}");
        Pattern::new("a(", Reading { literal: true, ignore_case: false }).unwrap();
    }

    #[test]
    fn a_match_stays_within_its_line() {
        let pattern = Pattern::new(r"a\s*b|^c[^x]*$", Reading::default()).unwrap();
        let lines = b"a\nb\nc\n  a b\n";
        assert_eq!(pattern.find(lines, 0), Some((4, 5)));
        assert_eq!(pattern.find(lines, 6), Some((6, 11)));
        assert_eq!(pattern.find(lines, 12), None);
    }
}
