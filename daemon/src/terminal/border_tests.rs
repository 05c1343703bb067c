//! Search where lines are not whole: beginnings that were dropped, before or meanwhile; numbers that are
//! not known; pieces of a line that grows.

use super::super::ring::RingWriter;
use super::super::segment::{self, Part, Segment, path, segments};
use super::tests::{CAP, Collect, LARGE, Match, count_up, find, query};
use super::*;
use std::fs;

/// The smallest segments.
const SEGMENT: u64 = CAP / 2;

const ORDERS: [Order; 2] = [Order::OldestFirst, Order::NewestFirst];

fn collect(ring: &Path, query: &Query) -> Collect {
    let mut sink = Collect::default();
    search(ring, query, &mut sink).unwrap();
    sink
}

/// Makes as if the disk had refused the index of a segment.
fn refuse_index(ring: &Path, segment: Segment) {
    fs::remove_file(path(ring, segment.start, Part::Index)).unwrap();
}

/// A ring of counted lines whose oldest segments were dropped; those that are kept.
fn dropped(ring: &Path) -> Vec<Segment> {
    let mut writer = RingWriter::open(ring, CAP).unwrap();
    count_up(&mut writer, 5 * SEGMENT / 2);
    let kept = segments(ring).unwrap();
    assert!(kept[0].start > 0 && kept.len() == 2);
    kept
}

#[test]
fn f12_the_end_of_a_line_of_which_nobody_knows_the_beginning_is_searched_and_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), CAP).unwrap();
    count_up(&mut writer, 16 << 10);
    writer.append(&vec![b'x'; 130 << 10]).unwrap();
    writer.append(b" needle\nand a needle behind it\n").unwrap();
    writer.rest();
    let kept = segments(dir.path()).unwrap();
    assert_eq!((kept[0].start, kept.len()), (SEGMENT, 2));
    // no line feed is in the first segment: all of it is of that line
    refuse_index(dir.path(), kept[0]);
    for order in ORDERS {
        let mut sink = collect(dir.path(), &query("needle", 1, order));
        if order == Order::NewestFirst {
            sink.matches.reverse();
            sink.whole.reverse();
        }
        let [line, behind] = &sink.matches[..] else { panic!("{}", sink.matches.len()) };
        let number = (16 << 10) / 16 + 1;
        assert_eq!((line.line.number, line.line.offset), (number, 16 << 10));
        assert_eq!(line.line.text.len() as u64, (146 << 10) - SEGMENT + 7);
        assert_eq!(
            (behind.line.number, &behind.before),
            (number + 1, &vec![line.line.text.clone()])
        );
        assert!(sink.places.iter().all(|(counted, _)| *counted));
        // the second one shows the first one beside it
        assert_eq!(sink.whole, [false, false]);
    }
    // with no index at all it is a line all the same
    refuse_index(dir.path(), kept[1]);
    let sink = collect(dir.path(), &query("needle", 0, Order::OldestFirst));
    let numbers: Vec<_> = sink.matches.iter().map(|one| one.line.number).collect();
    assert_eq!((numbers, sink.whole), (vec![1, 2], vec![false, true]));
    assert!(sink.places.iter().all(|(counted, _)| !*counted));
}

#[test]
fn f39_numbers_are_told_back_and_lines_around_cross_from_those_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dropped(dir.path());
    for order in ORDERS {
        let all = query("line", 3, order);
        let before = collect(dir.path(), &all);
        let index = path(dir.path(), kept[0].start, Part::Index);
        let bytes = fs::read(&index).unwrap();
        refuse_index(dir.path(), kept[0]);
        let after = collect(dir.path(), &all);
        fs::write(&index, bytes).unwrap();
        assert_eq!((&after.matches, &after.places), (&before.matches, &before.places));
        // the oldest line may be the end of one, for all that is known
        let shown = after.whole.iter().filter(|whole| !**whole).count();
        assert_eq!((shown, before.whole.iter().all(|whole| *whole)), (4, true));
    }
}

#[test]
fn f39_lines_around_do_not_cross_lost_bytes_where_numbers_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let ring = dir.path().join("ring");
    let mut writer = RingWriter::open(&ring, CAP).unwrap();
    count_up(&mut writer, 2 * SEGMENT);
    writer.rest();
    fs::rename(&ring, dir.path().join("away")).unwrap();
    writer.append(&vec![b'\n'; 4096]).unwrap_err();
    fs::rename(dir.path().join("away"), &ring).unwrap();
    let resumes = writer.end();
    count_up(&mut writer, resumes + 4096);
    writer.rest();
    let kept = segments(&ring).unwrap();
    assert!(kept[0].start > 0 && kept[0].end() < resumes, "{kept:?}");
    kept[..kept.len() - 1].iter().for_each(|one| refuse_index(&ring, *one));
    let sink = collect(&ring, &query("line", 2, Order::OldestFirst));
    let border = sink.matches.iter().position(|one| one.line.offset == resumes).unwrap();
    assert!(sink.places.iter().enumerate().all(|(at, (counted, _))| *counted == (at >= border)));
    let [last, first] = &sink.matches[border - 1..=border] else { panic!("no border") };
    assert_eq!((last.after.len(), last.before.len()), (0, 2));
    assert_eq!((first.before.len(), first.after.len()), (0, 2));
}

/// Drops the oldest segment at a match.
struct Dropping<'a> {
    ring: &'a Path,
    at: usize,
    collect: Collect,
}

impl Sink for Dropping<'_> {
    fn wants(&self) -> bool {
        true
    }

    fn found(&mut self, found: &Found<'_>) {
        self.collect.found(found);
        if self.collect.matches.len() == self.at {
            let oldest = segments(self.ring).unwrap()[0];
            segment::remove_whole(self.ring, oldest.start).unwrap();
        }
    }

    fn stop(&mut self) -> bool {
        false
    }
}

/// Lines of 1,000 bytes: one in 65 lies in two segments.
fn write_long(ring: &Path) {
    let mut writer = RingWriter::open(ring, 1 << 20).unwrap();
    for line in 1..=400 {
        writer.append(format!("line {line:>994}\n").as_bytes()).unwrap();
    }
    writer.settle();
}

fn is_right(found: &Match) -> bool {
    let text = |number: u64| format!("line {number:>994}").into_bytes();
    let Match { line, before, after } = found;
    let first = line.number - before.len() as u64;
    line.offset == (line.number - 1) * 1_000
        && line.text == text(line.number)
        && before.iter().zip(first..).all(|(line, number)| *line == text(number))
        && after.iter().zip(line.number + 1..).all(|(line, number)| *line == text(number))
}

#[test]
fn f12_what_is_dropped_while_it_is_searched_is_passed_over_and_no_half_is_told_as_whole() {
    let all = |order| query("line", 2, order);
    for order in ORDERS {
        for at in [0, 1, 30, 63, 64, 65, 66, 200, 398] {
            let dir = tempfile::tempdir().unwrap();
            write_long(dir.path());
            let layout = Layout::read(dir.path()).unwrap();
            let oldest = segments(dir.path()).unwrap()[0];
            if at == 0 {
                segment::remove_whole(dir.path(), oldest.start).unwrap();
            }
            let mut sink = Dropping { ring: dir.path(), at, collect: Collect::default() };
            let searched = search_in(&layout, &all(order), &mut sink).unwrap();
            let Collect { matches, whole, .. } = sink.collect;
            assert_eq!((searched.total, searched.left), (matches.len() as u64, None));
            assert!(matches.len() as u64 >= 400 - oldest.len / 1_000 - 1, "{order:?} {at}");
            for (found, whole) in matches.iter().zip(whole) {
                assert!(!whole || is_right(found), "{order:?} {at}: line {}", found.line.number);
            }
        }
    }
    // whoever begins afterwards is told the end of the line, and that it is one
    let dir = tempfile::tempdir().unwrap();
    write_long(dir.path());
    let oldest = segments(dir.path()).unwrap()[0];
    segment::remove_whole(dir.path(), oldest.start).unwrap();
    let sink = collect(dir.path(), &query(r"\d$", 0, Order::OldestFirst));
    let first = &sink.matches[0].line;
    assert_eq!((first.number, first.offset), (66, 65_000));
    assert!(first.text.len() < 999 && !sink.whole[0] && sink.whole[1..].iter().all(|one| *one));
}

#[test]
fn f12_pieces_of_a_line_that_grows_begin_where_they_began() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), LARGE).unwrap();
    let part = b"0123456789abcde ".repeat(1 << 16);
    (0..9).for_each(|_| writer.append(&part).unwrap());
    let all = query("abc", 0, Order::OldestFirst);
    let mut told: Vec<u64> = Vec::new();
    for grown in [1 << 10, 3 << 10, 1 << 10, 9 << 10, 60 << 10, 1, 5 << 20] {
        writer.settle();
        // behind what is written of its text
        writer.append(&b"0123456789abcde ".repeat(grown / 16 + 1)).unwrap();
        let sink = collect(dir.path(), &all);
        let begins: Vec<u64> = sink.places.iter().map(|(_, from)| *from).collect();
        assert!(begins.starts_with(&told), "{told:?} and {begins:?}");
        // none of its bytes is in none of them
        let bytes: u64 = sink.matches.iter().map(|one| one.line.text.len() as u64).sum();
        assert_eq!(bytes, writer.end());
        told = begins;
    }
    assert!(told.len() > 100);
}

#[test]
fn f39_numbers_that_are_not_known_stay_so_and_the_same_for_a_writer_that_opens_the_ring_anew() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dropped(dir.path());
    kept.iter().for_each(|one| refuse_index(dir.path(), *one));
    let all = query("line", 0, Order::OldestFirst);
    let (before, _) = find(dir.path(), &all);
    for rounds in 1..6 {
        let mut writer = RingWriter::open(dir.path(), CAP).unwrap();
        let end = writer.end();
        count_up(&mut writer, end + SEGMENT / 2);
        drop(writer);
        let sink = collect(dir.path(), &all);
        assert!(sink.places.iter().all(|(counted, _)| !*counted), "{rounds}");
        let start = segments(dir.path()).unwrap()[0].start;
        let same = before.iter().filter(|one| one.line.offset >= start);
        assert!(same.zip(&sink.matches).all(|(before, now)| before == now), "{rounds}");
        let numbers: Vec<_> = sink.matches.iter().map(|one| one.line.number).collect();
        let first = (start - kept[0].start) / 16 + 1;
        assert!(numbers.into_iter().eq(first..first + sink.matches.len() as u64), "{rounds}");
    }
}
