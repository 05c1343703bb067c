//! Search against the plainest way: all bytes cleaned at once, and each line matched by itself.

use super::super::clean::Cleaner;
use super::super::clean::tests::terminal_bytes;
use super::super::pattern::{Pattern, Reading};
use super::super::ring::RingWriter;
use super::super::segment::{Part, path, segments};
use super::*;
use proptest::prelude::*;
use std::fs;

/// The smallest ring, whose segments are 64 KiB.
pub(super) const CAP: u64 = 128 << 10;
pub(super) const LARGE: u64 = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) text: Vec<u8>,
}

/// Of each match, whether its number is known, and where what matches of it begins.
pub(super) type Place = (bool, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) line: Line,
    pub(super) before: Vec<Vec<u8>>,
    pub(super) after: Vec<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct Collect {
    pub(super) matches: Vec<Match>,
    pub(super) places: Vec<Place>,
    pub(super) whole: Vec<bool>,
    most: Option<usize>,
    looks: Option<usize>,
}

impl Sink for Collect {
    fn wants(&self) -> bool {
        self.most.is_none_or(|most| self.matches.len() < most)
    }

    fn found(&mut self, found: &Found<'_>) {
        let owned = |lines: &[&[u8]]| lines.iter().map(|line| line.to_vec()).collect();
        let text = found.content.to_vec();
        self.places.push((found.counted, found.from));
        self.whole.push(found.whole);
        self.matches.push(Match {
            line: Line { number: found.line, offset: found.offset, text },
            before: owned(found.before),
            after: owned(found.after),
        });
    }

    fn stop(&mut self) -> bool {
        match &mut self.looks {
            Some(0) => true,
            Some(looks) => {
                *looks -= 1;
                false
            }
            None => false,
        }
    }
}

pub(super) fn query(pattern: &str, context: u64, order: Order) -> Query {
    Query { pattern: Pattern::new(pattern, Reading::default()).unwrap(), context, order }
}

pub(super) fn find(ring: &Path, query: &Query) -> (Vec<Match>, Searched) {
    let mut sink = Collect::default();
    let searched = search(ring, query, &mut sink).unwrap();
    (sink.matches, searched)
}

/// All lines, by the rule of `clean`.
pub(super) fn model(raw: &[u8]) -> Vec<Line> {
    let (mut text, mut ends) = (Vec::new(), vec![(0, 0)]);
    Cleaner::default().push(raw, &mut text, |read, len| ends.push((read, len)));
    let mut lines: Vec<Line> = Vec::new();
    for (index, (offset, begin)) in ends.iter().enumerate() {
        let end = ends.get(index + 1).map_or(text.len(), |(_, end)| end - 1);
        let line = &text[*begin..end];
        if line.is_empty() && index + 1 == ends.len() {
            break;
        }
        let (number, text) = (index as u64 + 1, last_state(line).to_vec());
        lines.push(Line { number, offset: *offset as u64, text });
    }
    lines
}

pub(super) fn expected(lines: &[Line], query: &Query) -> Vec<Match> {
    let context = query.context as usize;
    let text = |lines: &[Line]| lines.iter().map(|line| line.text.clone()).collect();
    let hits = lines.iter().enumerate().filter(|(_, line)| query.pattern.matches(&line.text));
    let mut all: Vec<Match> = hits
        .map(|(at, line)| Match {
            line: line.clone(),
            before: text(&lines[at.saturating_sub(context)..at]),
            after: text(&lines[at + 1..lines.len().min(at + 1 + context)]),
        })
        .collect();
    if query.order == Order::NewestFirst {
        all.reverse();
    }
    all
}

const PATTERNS: [&str; 9] =
    ["a", "^$", "^[a-m]", "z$", "猫|é", "(?i)AB", "^.{3,9}$", r"\s\w+\s", "(a+)+$"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn f08_what_is_found_depends_on_the_bytes_alone(
        piece in terminal_bytes(),
        long in 0usize..90_000,
        times in 1usize..200,
        chunk in 1usize..40_000,
        pattern in prop::sample::select(&PATTERNS[..]),
        context in 0u64..4,
        newest in any::<bool>(),
        settled in any::<bool>(),
        bare in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut raw = piece.repeat(times);
        raw.extend(std::iter::repeat_n(b"long line ", long / 10).flatten());
        raw.extend_from_slice(&piece.repeat(times));
        raw.truncate(1 << 20);
        let mut writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
        for (index, part) in raw.chunks(chunk).enumerate() {
            writer.append(part).unwrap();
            if index == 2 {
                // whoever opens it anew goes on where it was
                drop(writer);
                writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
            }
        }
        if settled {
            writer.settle();
        }
        if bare {
            writer.rest();
            for one in segments(dir.path()).unwrap().iter().step_by(2) {
                fs::remove_file(path(dir.path(), one.start, Part::Index)).unwrap();
            }
        }
        let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
        let query = query(pattern, context, order);
        let (found, searched) = find(dir.path(), &query);
        let wanted = expected(&model(&raw), &query);
        prop_assert_eq!(searched.left, None);
        for (found, wanted) in found.iter().zip(&wanted) {
            prop_assert_eq!(found, wanted);
        }
        prop_assert_eq!(found.len(), wanted.len());
        prop_assert_eq!(searched.total, wanted.len() as u64);
    }

    #[test]
    fn f12_numbers_and_offsets_stand_when_the_oldest_lines_are_dropped(
        piece in terminal_bytes().prop_filter("something", |piece| piece.len() > 200),
        pattern in prop::sample::select(&PATTERNS[..]),
        newest in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let raw = piece.repeat(400_000 / piece.len());
        let mut writer = RingWriter::open(dir.path(), CAP).unwrap();
        raw.chunks(4096).for_each(|part| writer.append(part).unwrap());
        let start = segments(dir.path()).unwrap()[0].start;
        prop_assert!(start > 0);
        let order = if newest { Order::NewestFirst } else { Order::OldestFirst };
        let query = query(pattern, 0, order);
        let (mut found, _) = find(dir.path(), &query);
        let mut wanted = expected(&model(&raw), &query);
        // of the line that was open there, only the end is kept
        found.retain(|one| one.line.offset >= start);
        wanted.retain(|one| one.line.offset >= start);
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn a_line_over_several_segments_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
    writer.append(b"one\ntwo begins").unwrap();
    writer.append(&vec![b'x'; 200_000]).unwrap();
    writer.append(b"two ends\nthree\n").unwrap();
    let (found, _) = find(dir.path(), &query("begins.*ends$", 1, Order::NewestFirst));
    assert_eq!((found.len(), found[0].line.number, found[0].line.offset), (1, 2, 4));
    assert_eq!(found[0].line.text.len(), 200_000 + 18);
    assert_eq!(
        (&found[0].before, &found[0].after),
        (&vec![b"one".to_vec()], &vec![b"three".to_vec()])
    );
}

#[test]
fn f12_a_line_without_an_end_is_searched_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), LARGE).unwrap();
    writer.append(b"head\n").unwrap();
    let part = b"0123456789abcde ".repeat(1 << 16);
    for _ in 0..20 {
        writer.append(&part).unwrap();
    }
    writer.append(b"needle\ntail\n").unwrap();
    let (found, _) = find(dir.path(), &query("needle", 1, Order::OldestFirst));
    assert_eq!((found.len(), found[0].line.number, found[0].line.offset), (1, 2, 5));
    let (found, _) = find(dir.path(), &query("tail", 0, Order::OldestFirst));
    assert_eq!(found[0].line.number, 3);
}

#[test]
fn f12_pieces_of_one_line_are_told_apart_by_where_they_begin() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), LARGE).unwrap();
    let part = b"0123456789abcde ".repeat(1 << 16);
    (0..12).for_each(|_| writer.append(&part).unwrap());
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let mut sink = Collect::default();
        search(dir.path(), &query("abc", 0, order), &mut sink).unwrap();
        assert!(sink.places.len() > 4, "{}", sink.places.len());
        let numbers = |one: &Match| (one.line.number, one.line.offset) == (1, 0);
        assert!(sink.matches.iter().all(numbers));
        let rising = |pair: &[Place]| match order {
            Order::OldestFirst => pair[0].1 < pair[1].1,
            Order::NewestFirst => pair[0].1 > pair[1].1,
        };
        assert!(sink.places.windows(2).all(rising), "{:?}", sink.places);
    }
}

/// Writes lines of 16 bytes, counted from 1, up to so many bytes.
pub(super) fn count_up(writer: &mut RingWriter, to: u64) {
    while writer.end() < to {
        let line = format!("line {:>10}\n", writer.end() / 16 + 1);
        writer.append(line.as_bytes()).unwrap();
    }
}

#[test]
fn f39_numbers_go_on_where_the_oldest_index_was_refused_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), CAP).unwrap();
    let segment = CAP / 2;
    // a folder in its place refuses the file
    let index = path(dir.path(), segment, Part::Index);
    fs::create_dir(&index).unwrap();
    count_up(&mut writer, segment * 3 / 2);
    writer.rest();
    fs::remove_dir(&index).unwrap();
    count_up(&mut writer, segment * 2 + 16);
    writer.rest();
    let kept = segments(dir.path()).unwrap();
    assert_eq!(kept[0].start, segment);
    let mut sink = Collect::default();
    search(dir.path(), &query("line", 0, Order::OldestFirst), &mut sink).unwrap();
    assert!(sink.places.iter().all(|(counted, _)| *counted));
    for one in &sink.matches {
        assert_eq!(one.line.text, format!("line {:>10}", one.line.number).into_bytes());
        assert_eq!(one.line.offset, (one.line.number - 1) * 16);
    }
}

#[test]
fn f39_numbers_that_are_not_known_are_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), CAP).unwrap();
    count_up(&mut writer, CAP + CAP / 4);
    writer.rest();
    let kept = segments(dir.path()).unwrap();
    assert!(kept[0].start > 0 && kept.len() > 1);
    let mut sink = Collect::default();
    let all = query("line", 0, Order::OldestFirst);
    search(dir.path(), &all, &mut sink).unwrap();
    assert!(sink.places.iter().all(|(counted, _)| *counted));
    for one in &kept {
        fs::remove_file(path(dir.path(), one.start, Part::Index)).unwrap();
    }
    let mut sink = Collect::default();
    search(dir.path(), &all, &mut sink).unwrap();
    assert!(sink.places.iter().all(|(counted, _)| !*counted));
    assert!(sink.matches.iter().map(|one| one.line.number).eq(1..=sink.matches.len() as u64));
}

#[test]
fn f12_a_line_that_is_written_over_where_a_segment_begins_is_found_with_those_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), CAP).unwrap();
    let segment = CAP / 2;
    count_up(&mut writer, segment - 16);
    // the carriage return is the segment's last byte
    writer.append(b"half of a line.\r").unwrap();
    assert_eq!(writer.end(), segment);
    count_up(&mut writer, segment + 64);
    writer.append(b"end\r").unwrap();
    drop(writer);
    let all = query("^(line|.line|end)", 1, Order::OldestFirst);
    let (found, searched) = find(dir.path(), &all);
    assert_eq!((found.len() as u64, searched.left), (searched.total, None));
    let raw: Vec<u8> = segments(dir.path())
        .unwrap()
        .iter()
        .flat_map(|one| fs::read(path(dir.path(), one.start, Part::Raw)).unwrap())
        .collect();
    assert_eq!(found, expected(&model(&raw), &all));
}

#[test]
fn a_search_that_is_broken_off_says_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
    let raw = b"a line of some length\n".repeat(10_000);
    writer.append(&raw).unwrap();
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let query = query("line", 0, order);
        let mut sink = Collect { looks: Some(0), ..Collect::default() };
        let searched = search(dir.path(), &query, &mut sink).unwrap();
        assert_eq!(searched.left, Some(0..raw.len() as u64));
        let mut sink = Collect { most: Some(3), ..Collect::default() };
        let searched = search(dir.path(), &query, &mut sink).unwrap();
        assert_eq!((sink.matches.len(), searched.total, searched.left), (3, 10_000, None));
        let first = if order == Order::OldestFirst { 1 } else { 10_000 };
        assert_eq!(sink.matches[0].line.number, first);
    }
}

#[test]
fn lost_bytes_end_their_line_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let ring = dir.path().join("ring");
    let mut writer = RingWriter::open(&ring, 1 << 20).unwrap();
    writer.append(b"first\nsecond").unwrap();
    fs::rename(&ring, dir.path().join("away")).unwrap();
    writer.append(&vec![b'x'; 70_000]).unwrap_err();
    fs::rename(dir.path().join("away"), &ring).unwrap();
    writer.append(b"third\nfourth\n").unwrap();
    writer.settle();
    let (found, _) = find(&ring, &query(".", 1, Order::OldestFirst));
    let told: Vec<_> = found.iter().map(|one| (one.line.number, &one.line.text[..])).collect();
    let all: [(u64, &[u8]); 4] = [(1, b"first"), (2, b"second"), (3, b"third"), (4, b"fourth")];
    // what the disk took of the lost bytes belongs to the second line
    assert_eq!(told.len(), 4);
    for (told, wanted) in told.iter().zip(all) {
        assert_eq!(told.0, wanted.0);
        assert!(told.1.starts_with(wanted.1), "{wanted:?}");
    }
}
