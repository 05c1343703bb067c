//! Search through filters against search of all there is.

use super::super::pattern::tests::patterns;
use super::super::pattern::{Pattern, Reading};
use super::super::ring::RingWriter;
use super::super::search::{Found, Order, Query, Searched, Sink, search};
use super::super::segment::{path, segments};
use super::*;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Number, whether it is known, and two offsets, of each match.
    places: Vec<(u64, bool, u64, u64)>,
    /// The line and those around it.
    lines: Vec<Vec<Vec<u8>>>,
    most: Option<usize>,
}

impl Sink for Told {
    fn wants(&self) -> bool {
        self.most.is_none_or(|most| self.places.len() < most)
    }

    fn found(&mut self, found: &Found<'_>) {
        self.places.push((found.line, found.counted, found.offset, found.from));
        let around = found.before.iter().chain([&found.content]).chain(found.after);
        self.lines.push(around.map(|line| line.to_vec()).collect());
    }

    fn stop(&mut self) -> bool {
        false
    }
}

/// Searches with the filter and without; the same is told.
fn agree(ring: &Path, pattern: &Pattern, context: u64, most: Option<usize>) {
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let tell = |pattern| -> (Told, Searched) {
            let mut told = Told { most, ..Told::default() };
            let searched = search(ring, &Query { pattern, context, order }, &mut told).unwrap();
            (told, searched)
        };
        assert_eq!(tell(pattern.clone()), tell(pattern.clone().unfiltered()));
    }
}

/// Output in which words are rare, with lines of all lengths, some of them written over.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        60 => "[a-z0-9 ]{0,40}\n",
        10 => "[a-z0-9]{3,9}\r[a-z]{3,9}\r\n",
        10 => "\u{1b}\\[1m[a-zé]{3,9}\u{1b}\\[0m[kKſ ]{0,5}\n",
        5 => "[a-z0-9 ]{200,900}\n",
        5 => "[abksK]{1,30}\n",
        2 => "\u{1b}\\]0;[a-z]{600,900}\u{7}",
    ];
    let part = (prop::collection::vec(line, 1..40), 1usize..60);
    let part = part.prop_map(|(lines, times)| lines.concat().repeat(times).into_bytes());
    let long = ("[a-z]{5,9}", 1000usize..15_000);
    let long = long.prop_map(|(word, times)| word.repeat(times).into_bytes());
    prop::collection::vec(prop_oneof![9 => part, 1 => long], 1..12).prop_map(|parts| parts.concat())
}

/// What became of a filter.
#[derive(Clone, Copy, Debug)]
enum Harm {
    None,
    Missing,
    Short(prop::sample::Index),
    Lost(prop::sample::Index),
    Foreign,
    OtherVersion,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        5 => Just(Harm::None),
        1 => Just(Harm::Missing),
        1 => any::<prop::sample::Index>().prop_map(Harm::Short),
        1 => any::<prop::sample::Index>().prop_map(Harm::Lost),
        1 => Just(Harm::Foreign),
        1 => Just(Harm::OtherVersion),
    ]
}

fn do_harm(ring: &Path, harms: &[Harm]) {
    let all: Vec<_> = segments(ring).unwrap().iter().map(|one| one.start).collect();
    for (start, harm) in all.iter().zip(harms.iter().cycle()) {
        let file = path(ring, *start, Part::Filter);
        let mut bytes = fs::read(&file).unwrap();
        match harm {
            Harm::None => {}
            Harm::Missing => fs::remove_file(&file).unwrap(),
            Harm::Short(at) => fs::write(&file, &bytes[..at.index(bytes.len())]).unwrap(),
            Harm::Lost(page) => {
                // as a machine leaves it that lost power
                let pages = bytes.len().div_ceil(4096);
                bytes.chunks_mut(4096).nth(page.index(pages)).unwrap().fill(0);
                fs::write(&file, &bytes).unwrap();
            }
            Harm::Foreign => {
                let other = all.iter().find(|other| *other != start);
                if let Some(other) = other {
                    fs::copy(path(ring, *other, Part::Filter), &file).ok();
                }
            }
            Harm::OtherVersion => {
                bytes[7] += 1;
                fs::write(&file, &bytes).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn f08_a_filter_changes_nothing_of_what_is_told(
        raw in output(),
        cap in prop::sample::select(vec![128u64 << 10, 1 << 20]),
        chunk in 1usize..20_000,
        anew in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        settled in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        harms in prop::collection::vec(harm(), 1..8),
        words in prop::collection::vec((any::<prop::sample::Index>(), 3usize..9), 4),
        pattern in patterns(),
        ignore_case in any::<bool>(),
        context in 0u64..6,
        most in prop::option::of(0usize..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::open(dir.path(), cap).unwrap();
        let parts = raw.chunks(chunk);
        let is = |all: &[prop::sample::Index], number: usize| {
            all.iter().any(|one| one.index(raw.len() / chunk + 1) == number)
        };
        for (number, part) in parts.enumerate() {
            writer.append(part).unwrap();
            if is(&settled, number) {
                writer.settle();
            }
            if is(&anew, number) {
                drop(writer);
                writer = RingWriter::open(dir.path(), cap).unwrap();
            }
        }
        writer.rest();
        do_harm(dir.path(), &harms);
        if let Ok(pattern) = Pattern::new(&pattern, Reading { literal: false, ignore_case }) {
            agree(dir.path(), &pattern, context, most);
        }
        for (at, len) in words {
            let at = at.index(raw.len());
            let word = String::from_utf8_lossy(&raw[at..raw.len().min(at + len)]).into_owned();
            let word = word.lines().next().unwrap_or_default();
            if let Ok(pattern) = Pattern::new(word, Reading { literal: true, ignore_case }) {
                agree(dir.path(), &pattern, context, most);
            }
        }
    }
}

/// A ring with one word in the midst of two megabytes of others.
fn rare(dir: &Path) -> RingWriter {
    let mut writer = RingWriter::open(dir, 64 << 20).unwrap();
    for line in 0..40_000 {
        writer.append(format!("line {line:>8} says this and that, in all\n").as_bytes()).unwrap();
        if line == 20_000 {
            writer.append(b"and here is a needle\n").unwrap();
        }
    }
    writer.settle();
    writer
}

#[test]
fn a_rare_word_is_read_where_it_stands_and_not_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    rare(dir.path());
    let layout = Layout::read(dir.path()).unwrap();
    let needed = |pattern| Pattern::new(pattern, Reading::default()).unwrap().needed().clone();
    let mut sieve = Sieve::default();
    let word = needed("need(le|s)");
    let asked: Vec<_> =
        (1..layout.count() - 2).map(|index| sieve.ask(&layout, index, &word).unwrap()).collect();
    let full: Vec<_> = asked.iter().filter(|sieved| !sieved.is_empty()).collect();
    assert_eq!((asked.len() > 4, full.len(), full[0].places.len()), (true, 1, 1));
    assert!(full[0].places[0].len() < 2 * GRAIN as usize);
    // what spares nothing is asked for less and less
    let common = needed("this and that");
    let mut all = Sieve::default();
    (0..layout.count()).for_each(|index| assert_eq!(all.ask(&layout, index, &common), None));
    assert_eq!(all.last, MOST_UNASKED);
    assert_eq!(Sieve::default().ask(&layout, 1, &needed("a+b+")), None);
    for pattern in ["needle", "line    20001", "this and that"] {
        agree(dir.path(), &Pattern::new(pattern, Reading::default()).unwrap(), 3, Some(40));
    }
}

/// Cuts what frames and raw bytes a machine may lose with its power, and keeps the filter.
fn lose_power(ring: &Path, keep: usize) {
    let last = segments(ring).unwrap().pop().unwrap().start;
    for part in [Part::Raw, Part::Index, Part::Text] {
        let file = path(ring, last, part);
        let bytes = fs::read(&file).unwrap();
        let keep = if part == Part::Index { bytes.len() / 2 } else { keep.min(bytes.len()) };
        fs::write(&file, &bytes[..keep]).unwrap();
    }
}

#[test]
fn f08_a_filter_that_speaks_of_bytes_that_are_lost_hides_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let words = |line: usize| format!("{line:>6} {}\n", "of no interest ".repeat(line % 60));
    for keep in (20_000..40_000).step_by(1_777) {
        fs::remove_dir_all(dir.path()).unwrap();
        let mut writer = RingWriter::open(dir.path(), 64 << 20).unwrap();
        (0..200).for_each(|line| writer.append(words(line).as_bytes()).unwrap());
        writer.settle();
        lose_power(dir.path(), keep);
        let mut writer = RingWriter::open(dir.path(), 64 << 20).unwrap();
        writer.append(b" the needle\nand a needle\n").unwrap();
        (0..200).for_each(|line| writer.append(words(line).as_bytes()).unwrap());
        writer.settle();
        let pattern = Pattern::new("the needle", Reading::default()).unwrap();
        agree(dir.path(), &pattern, 1, None);
    }
}

#[test]
fn f08_a_filter_of_another_segment_in_the_same_line_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
    // a line that reaches over several segments, with words in that in which it ends
    writer.append(&b"long".repeat(80_000)).unwrap();
    (0..500).for_each(|line| writer.append(format!("\nneedle {line}").as_bytes()).unwrap());
    (0..9_000).for_each(|line| writer.append(format!("\nline {line}").as_bytes()).unwrap());
    writer.rest();
    let layout = Layout::read(dir.path()).unwrap();
    let all = segments(dir.path()).unwrap();
    let begun = |index: &usize| layout.head(*index).is_some_and(|open| open.line == 1);
    let in_line: Vec<_> = (1..all.len()).filter(begun).collect();
    let [.., one, last] = in_line[..] else { panic!("{} segments in it", in_line.len()) };
    let file = |index: usize| path(dir.path(), all[index].start, Part::Filter);
    fs::copy(file(one), file(last)).unwrap();
    let pattern = Pattern::new("needle", Reading::default()).unwrap();
    agree(dir.path(), &pattern, 1, None);
}

#[test]
fn f39_a_filter_that_the_disk_refuses_takes_no_text_with_it() {
    let dir = tempfile::tempdir().unwrap();
    // a folder in its place refuses the file
    fs::create_dir(path(dir.path(), 0, Part::Filter)).unwrap();
    rare(dir.path());
    let layout = Layout::read(dir.path()).unwrap();
    assert!(layout.count() > 4 && layout.block(0).unwrap().to.is_some());
    let pattern = Pattern::new("needle", Reading::default()).unwrap();
    assert_eq!(Sieve::default().ask(&layout, 1, pattern.needed()), None);
    agree(dir.path(), &pattern, 2, None);
}

#[test]
fn f12_a_filter_goes_with_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::open(dir.path(), 128 << 10).unwrap();
    (0..40_000).for_each(|line| writer.append(format!("line {line}\n").as_bytes()).unwrap());
    writer.rest();
    let kept = segments(dir.path()).unwrap();
    assert!(kept[0].start > 0);
    // raw bytes, text, index and filter of each
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), kept.len() * 4);
}
