//! The filter of a segment's clean text, as bytes: a head, then a record for each 4 KiB of text,
//! which says what its lines may hold. Pure.
//!
//! A record belongs to the lines that end in its stretch of text, whole, wherever they began, also in
//! segments before: so a line that matches is in one record with all of it. The head is that of the
//! segment's index but for its name, and where the segment begins: several may begin in one line, and
//! their indexes alike. Each record says first up to where the lines reach that ended by
//! then, and in the end once more, each bit the other way: what was not written whole, and what a
//! machine that lost power left empty, counts as none. Text without a record may hold anything.

use super::grams::{Grams, SET};
use super::index::{self, Open};
use super::needed::Needed;
use memchr::memrchr;
use std::ops::Range;

/// Names what the bytes are, and the version of their form: another grain, another width or spread of
/// a set, or other letters that are alike need another one, or lines are taken not to match that do.
const MAGIC: [u8; 8] = *b"hwgram02";

/// The bytes before the first record.
pub(super) const HEAD: usize = index::HEAD + 8;

/// Text of a record, in bytes: forty lines or so, so that a word in one of three hundred lines leaves
/// most of the text unread. Tests take so little that lines of any length lie across its ends.
pub(super) const GRAIN: u32 = if cfg!(test) { 256 } else { 4 << 10 };

/// The bytes of a record.
pub(super) const RECORD: usize = 4 + SET + 4;

/// The head of the filter of the segment that begins at this offset, where this is open.
pub(super) fn head(start: u64, open: &Open) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..index::HEAD].copy_from_slice(&open.head());
    head[..8].copy_from_slice(&MAGIC);
    head[index::HEAD..].copy_from_slice(&start.to_le_bytes());
    head
}

/// Makes the records of a text, grain by grain.
#[derive(Debug)]
pub(super) struct Grains {
    /// What stands in the lines that ended in this grain, and in the open one.
    grams: Grams,
    /// The segment's text so far, and that of it up to where the last line ended.
    len: u32,
    to: u32,
    /// Whether a line ended in this grain of this segment; then what stands behind it in `tail`.
    ended: bool,
    tail: Vec<u8>,
    /// The records that are whole.
    records: Vec<u8>,
}

impl Grains {
    /// Begins where nothing came before.
    pub(super) fn at_beginning() -> Self {
        let mut grains = Self::behind_unknown();
        grains.grams.clear();
        grains
    }

    /// Begins behind text that nobody knows, in the midst of a line.
    pub(super) fn behind_unknown() -> Self {
        let (ended, tail, records) = (false, Vec::new(), Vec::new());
        Self { grams: Grams::full(), len: 0, to: 0, ended, tail, records }
    }

    /// A segment begins; its first record speaks as well of what has none in the one before.
    pub(super) fn begin(&mut self) {
        (self.len, self.to, self.ended) = (0, 0, false);
        self.tail.clear();
        self.records.clear();
    }

    /// The segment's text goes on with `text`.
    pub(super) fn add(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let room = (GRAIN - self.len % GRAIN) as usize;
            let (part, rest) = text.split_at(room.min(text.len()));
            text = rest;
            self.grams.add(part);
            if let Some(end) = memrchr(b'\n', part) {
                let behind = &part[end + 1..];
                self.ended = true;
                self.tail.clear();
                self.tail.extend_from_slice(behind);
                self.to = self.len + (end + 1) as u32;
            } else if self.ended {
                self.tail.extend_from_slice(part);
            }
            self.len += part.len() as u32;
            if self.len.is_multiple_of(GRAIN) {
                self.record();
            }
        }
    }

    fn record(&mut self) {
        self.records.extend_from_slice(&self.to.to_le_bytes());
        self.grams.write(&mut self.records);
        self.records.extend_from_slice(&(!self.to).to_le_bytes());
        if std::mem::take(&mut self.ended) {
            self.grams.clear();
            self.grams.add(&self.tail);
            self.tail.clear();
        }
    }

    /// The records since the last call of [`Grains::written`].
    pub(super) fn records(&self) -> &[u8] {
        &self.records
    }

    /// Those records need not be kept.
    pub(super) fn written(&mut self) {
        self.records.clear();
    }
}

/// Which lines of a stretch of text may match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sifted {
    /// Where they are; only the first and last of these places may hold a part of a line.
    pub(super) places: Vec<Range<u32>>,
    /// Whether the line may match that is open at the end, or begins there.
    pub(super) ends: bool,
    at: u32,
    end: u32,
    known: bool,
    /// The grain whose record comes next.
    grain: u32,
}

impl Sifted {
    /// Looks at the text of a segment in `text`, by its records from that of grain `text.start /
    /// GRAIN` on.
    pub(super) fn by(records: &[u8], needed: &Needed, text: Range<u32>) -> Self {
        let Range { start: at, end } = text;
        let (places, grain) = (Vec::new(), at / GRAIN);
        let mut sifted = Self { places, ends: true, at, end, known: false, grain };
        for record in records.chunks_exact(RECORD) {
            let Some((to, set)) = read(record) else { break };
            let within = u64::from(to) <= u64::from(sifted.grain + 1) * u64::from(GRAIN);
            if sifted.known || !within {
                break;
            }
            sifted.grain += 1;
            if to > sifted.at {
                sifted.take(to, needed.may_be_in(set));
            }
        }
        sifted
    }

    /// Takes the lines that end up to `to`.
    fn take(&mut self, to: u32, may_match: bool) {
        let until = to.min(self.end);
        if may_match && until > self.at {
            match self.places.last_mut() {
                Some(last) if last.end == self.at => last.end = until,
                _ => self.places.push(self.at..until),
            }
        }
        self.at = until;
        if to > self.end {
            (self.ends, self.known) = (may_match, true);
        }
    }

    /// Takes no record's word for the line that is open at the end.
    pub(super) fn doubt_end(&mut self) {
        self.ends |= self.known;
    }

    /// Whether nothing but the text of the last grain, which is not whole, has no record.
    pub(super) fn lacks_last(&self) -> bool {
        !self.known && self.grain == self.end / GRAIN
    }

    /// Says of the lines that no record spoke of whether they may match.
    pub(super) fn close(&mut self, may_match: bool) {
        if !self.known {
            self.take(u32::MAX, may_match);
        }
    }

    /// How many bytes of text may match.
    pub(super) fn len(&self) -> usize {
        self.places.iter().map(|place| place.len()).sum()
    }
}

/// What the first record of a segment says of all lines that end in it; none when it says nothing.
pub(super) fn first(records: &[u8], needed: &Needed) -> Option<bool> {
    let (to, set) = read(records.get(..RECORD)?)?;
    (1..=GRAIN).contains(&to).then(|| needed.may_be_in(set))
}

/// Up to where the lines of a record reach, and its set.
fn read(record: &[u8]) -> Option<(u32, &[u8])> {
    let (to, rest) = record.split_first_chunk::<4>()?;
    let (set, again) = rest.split_last_chunk::<4>()?;
    let to = u32::from_le_bytes(*to);
    (to == !u32::from_le_bytes(*again)).then_some((to, set))
}

#[cfg(test)]
mod tests {
    use super::super::grams::Gram;
    use super::super::pattern::tests::lines;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn f08_a_record_holds_all_of_the_lines_that_end_in_it(
            text in prop::collection::vec(lines(), 0..30),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            begun in any::<bool>(),
        ) {
            let text = text.concat();
            let mut grains = Grains::behind_unknown();
            if begun {
                grains.add(&[b'x'; GRAIN as usize]);
                grains.add(b"\n");
                grains.begin();
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            cuts.windows(2).for_each(|pair| grains.add(&text[pair[0]..pair[1]]));
            let mut at = 0;
            for (grain, record) in grains.records().chunks(RECORD).enumerate() {
                let (to, set) = read(record).unwrap();
                let end = (grain + 1) * GRAIN as usize;
                let wanted = memrchr(b'\n', &text[..end]).map_or(0, |end| end + 1);
                prop_assert_eq!(to as usize, wanted);
                for line in text[at..wanted].split(|byte| *byte == b'\n') {
                    prop_assert!(Gram::all(line).all(|gram| gram.is_in(set)));
                }
                at = wanted;
            }
            prop_assert_eq!(grains.records().len() / RECORD, text.len() / GRAIN as usize);
        }

        #[test]
        fn no_bytes_break_a_reader(
            mut bytes in prop::collection::vec(any::<u8>(), 0..4 * RECORD),
            signed in any::<bool>(),
            text in (0..3 * GRAIN, 0..2 * GRAIN),
        ) {
            if signed {
                for record in bytes.chunks_exact_mut(RECORD) {
                    record[1..4].fill(0);
                    let to: Vec<u8> = record[..4].iter().map(|byte| !byte).collect();
                    record[RECORD - 4..].copy_from_slice(&to);
                }
            }
            let needed = Needed::Grams(Gram::all(b"abcd").collect());
            let text = text.0..text.0 + text.1;
            let mut sifted = Sifted::by(&bytes, &needed, text.clone());
            sifted.close(true);
            let within = |place: &Range<u32>| place.start >= text.start && place.end <= text.end;
            prop_assert!(sifted.places.iter().all(within));
            prop_assert!(sifted.places.is_sorted_by(|a, b| a.end < b.start));
        }
    }

    #[test]
    fn lines_that_no_record_speaks_of_may_match() {
        let mut grains = Grains::behind_unknown();
        let grain = GRAIN as usize;
        // the first record may hold anything, the second one ends in the midst of a line
        grains.add(&[&b"here\n".repeat(grain / 5)[..], &b"here\n"[..grain % 5]].concat());
        grains.add(&[&vec![b'.'; grain - 10][..], b"\nhere and "].concat());
        let needed = |word: &[u8]| Needed::Grams(Gram::all(word).collect());
        let sifted = |word: &[u8], text: Range<u32>| {
            let mut sifted = Sifted::by(grains.records(), &needed(word), text);
            let lacks = sifted.lacks_last();
            sifted.close(true);
            (sifted.places, sifted.ends, lacks)
        };
        let (end, to) = (2 * GRAIN, 2 * GRAIN - 9);
        assert_eq!(grains.records().len(), 2 * RECORD);
        let first = 0..GRAIN - GRAIN % 5;
        assert_eq!(sifted(b"there", 0..end), (vec![first.clone(), to..end], true, true));
        let all = 0..end;
        assert_eq!(sifted(b"....", all.clone()), (vec![all], true, true));
        assert_eq!(sifted(b"there", 0..GRAIN), (vec![first], false, false));
        assert_eq!(sifted(b"....", GRAIN..end + 100).0, vec![GRAIN..end + 100]);
        assert!(!Sifted::by(&grains.records()[..RECORD], &needed(b"a"), 0..end).lacks_last());
    }
}
