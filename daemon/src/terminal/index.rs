//! The index of a segment's clean text, as bytes: a head, then frames that are only ever appended.
//!
//! The head says which line is open where the segment begins. Each frame says up to where text and
//! index hold by then, what is open there, and where the lines begin that began since the last one:
//! for each, how many raw bytes its predecessor took and how many of those are no text, seven bits a
//! byte. A frame that was not written whole counts as none: the raw bytes that it would have covered
//! are cleaned again. The other numbers are little-endian. Pure.

use super::clean::Cleaner;

/// Names what the bytes are, and the version of their form.
const MAGIC: [u8; 8] = *b"hwtext02";

/// The bytes before the first frame.
pub(super) const HEAD: usize = 32;
const FRAME: usize = 40;

/// Where a line begins: in the raw bytes and in the text of its segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LineStart {
    /// Bytes from the segment's first one.
    pub(super) raw: u32,
    /// Bytes from the text's first one.
    pub(super) text: u32,
}

/// The line that is open at some place, and what of a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// The number of the line; the first one ever printed is 1.
    pub(super) line: u64,
    /// Whether that number is known; else lines are counted from the oldest one that was kept when
    /// counting began.
    pub(super) counted: bool,
    /// The offset of the line's first raw byte in the whole stream.
    pub(super) line_start: u64,
    /// The cleaner at that place.
    pub(super) cleaner: Cleaner,
}

impl Open {
    /// Where the whole stream begins, or begins anew behind bytes that were lost.
    pub(super) fn at(line: u64, offset: u64) -> Self {
        Self { line, counted: true, line_start: offset, cleaner: Cleaner::default() }
    }

    /// The head of the segment that begins here.
    pub(super) fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&self.line.to_le_bytes());
        head[16..24].copy_from_slice(&self.line_start.to_le_bytes());
        head[24..].copy_from_slice(&self.cleaner.save());
        head[24 + UNCOUNTED] = (!self.counted).into();
        head
    }
}

/// What was added to a segment since its last frame.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Where the segment's text and raw bytes end with it, from the segment's beginning.
    pub(super) end: LineStart,
    /// Where the last line began.
    last: LineStart,
    /// Where the lines of this frame are counted from.
    base: LineStart,
    lines: Vec<u8>,
    count: u32,
}

impl Batch {
    /// A line begins here, behind all that began before it.
    pub(super) fn line(&mut self, start: LineStart) {
        let raw = start.raw - self.last.raw;
        put(raw, &mut self.lines);
        // one less than none where a carriage return from before the segment stands in its text
        put(raw.wrapping_sub(start.text - self.last.text), &mut self.lines);
        self.last = start;
        self.count += 1;
    }

    /// The frame for all of it, in `bytes`; the batch is empty then. `redrawn` says whether a line
    /// of its text was written over.
    pub(super) fn frame(&mut self, open: &Open, redrawn: bool, bytes: &mut Vec<u8>) {
        bytes.clear();
        let length = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        let numbers =
            [self.end.raw, self.end.text, self.base.raw, self.base.text, self.count, length];
        numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(&open.line_start.to_le_bytes());
        let mut cleaner = open.cleaner.save();
        cleaner[REDRAWN] = redrawn.into();
        bytes.extend_from_slice(&cleaner);
        bytes.append(&mut self.lines);
        (self.count, self.base) = (0, self.last);
    }
}

/// The bytes of a saved cleaner that it leaves free: where a frame says whether its text was redrawn,
/// and a head whether the number of its line is not known.
const REDRAWN: usize = 2;
const UNCOUNTED: usize = 3;

/// One frame of an index, its lines not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Where the segment's text and raw bytes end with it.
    pub(super) end: LineStart,
    /// What is open there.
    pub(super) open: Open,
    /// How many lines begin in it.
    pub(super) count: u32,
    /// Whether a line of its text was written over.
    pub(super) redrawn: bool,
    base: LineStart,
    lines: &'a [u8],
}

/// Finds lines in frames that follow each other, each behind the one that was found before.
#[derive(Clone, Debug)]
pub(super) struct Walk<'a> {
    frames: Frames<'a>,
    /// What was not read yet of the frame that is looked at, and where that frame's text ends.
    rest: &'a [u8],
    end: u32,
    /// The last line that was read, and how many begin up to it and up to the frame's end.
    at: LineStart,
    line: usize,
    whole: usize,
}

impl<'a> Walk<'a> {
    /// Begins at the first of these frames.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let (at, frames) = (LineStart::default(), frames(bytes));
        Self { frames, rest: &[], end: 0, at, line: 0, whole: 0 }
    }

    /// The line whose text begins at `text`, which is behind what was found before: the how many-th
    /// it is of these frames, counted from 1, and where it begins. None when there is none.
    pub(super) fn seek(&mut self, text: u32) -> Option<(usize, LineStart)> {
        while self.end < text {
            let frame = self.frames.next()?;
            (self.rest, self.end, self.at) = (frame.lines, frame.end.text, frame.base);
            self.line = self.whole;
            self.whole += frame.count as usize;
        }
        while let Some((raw, hidden)) = self.rest.first_chunk().and_then(four_short)
            && let next = self.at.text.saturating_add(raw.saturating_sub(hidden))
            && next < text
        {
            self.rest = &self.rest[8..];
            self.at = LineStart { raw: self.at.raw.saturating_add(raw), text: next };
            self.line += 4;
        }
        while self.at.text < text {
            let (raw, hidden) = match *self.rest {
                // most lines are that short
                [raw @ ..0x80, hidden @ ..0x80, ..] => {
                    self.rest = &self.rest[2..];
                    (raw.into(), hidden.into())
                }
                _ => (get(&mut self.rest)?, get(&mut self.rest)?),
            };
            self.at.raw = self.at.raw.saturating_add(raw);
            self.at.text = self.at.text.wrapping_add(raw.wrapping_sub(hidden));
            self.line += 1;
        }
        (self.at.text == text).then_some((self.line, self.at))
    }
}

/// The bytes of four lines that take less than 128 each, and how many of those are no text.
fn four_short(bytes: &[u8; 8]) -> Option<(u32, u32)> {
    let lines = u64::from_le_bytes(*bytes);
    // of the four even bytes
    let sum = |lines: u64| {
        ((lines & 0x00ff_00ff_00ff_00ff).wrapping_mul(0x0001_0001_0001_0001) >> 48) as u32
    };
    (lines & 0x8080_8080_8080_8080 == 0).then(|| (sum(lines), sum(lines >> 8)))
}

/// Reads an index from its front. The frames are those that are whole.
#[derive(Clone, Debug)]
pub(super) struct Frames<'a> {
    rest: &'a [u8],
    end: LineStart,
    line: u64,
    counted: bool,
}

/// Reads the head of an index: what is open where the segment begins, and the frames behind it.
/// None when it is not whole, or of another version.
pub(super) fn read(bytes: &[u8]) -> Option<(Open, Frames<'_>)> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    if head[..8] != MAGIC {
        return None;
    }
    let mut saved: [u8; 8] = array(&head[24..])?;
    let open = Open {
        line: u64::from_le_bytes(array(&head[8..16])?),
        counted: std::mem::take(&mut saved[UNCOUNTED]) == 0,
        line_start: u64::from_le_bytes(array(&head[16..24])?),
        cleaner: Cleaner::restore(saved)?,
    };
    Some((open, Frames { rest, counted: open.counted, line: open.line, ..frames(&[]) }))
}

/// Reads frames that follow each other; the numbers of their lines are counted from 0.
pub(super) fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames { rest: bytes, end: LineStart::default(), line: 0, counted: true }
}

impl Frames<'_> {
    /// How many bytes were not read yet.
    pub(super) fn rest(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let (frame, rest) = self.rest.split_at_checked(FRAME)?;
        let number = |at: usize| frame.get(at..at + 4).and_then(array).map(u32::from_le_bytes);
        let end = LineStart { raw: number(0)?, text: number(4)? };
        let base = LineStart { raw: number(8)?, text: number(12)? };
        let (count, length) = (number(16)?, number(20)?);
        let (lines, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let mut saved: [u8; 8] = array(&frame[32..])?;
        let redrawn = std::mem::take(&mut saved[REDRAWN]) != 0;
        let (cleaner, line_start) =
            (Cleaner::restore(saved)?, u64::from_le_bytes(array(&frame[24..32])?));
        let onward = end.raw >= self.end.raw && end.text >= self.end.text;
        // two numbers a line, of a byte at least
        if !onward || u64::from(count) * 2 > u64::from(length) {
            self.rest = &[];
            return None;
        }
        (self.rest, self.end) = (rest, end);
        self.line += u64::from(count);
        let open = Open { line: self.line, counted: self.counted, line_start, cleaner };
        Some(Frame { end, open, count, redrawn, base, lines })
    }
}

/// Appends a number, the low seven bits first; the high bit says that more follow.
fn put(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the front. None when there is no whole one, or none that fits.
fn get(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0;
    for shift in (0..u32::BITS).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_reads_back_up_to_its_last_whole_frame() {
        let open = Open { line: 7, ..Open::at(1, 900) };
        let mut bytes = open.head().to_vec();
        let mut batch = Batch::default();
        let mut frame = Vec::new();
        for n in 1..=2u32 {
            batch.line(LineStart { raw: n * 10, text: n * 9 });
            batch.end = LineStart { raw: n * 10 + 3, text: n * 9 + 3 };
            let open = Open { line: 7 + u64::from(n), line_start: 910, ..open };
            batch.frame(&open, n == 2, &mut frame);
            bytes.extend_from_slice(&frame);
        }
        let (head, frames) = read(&bytes).unwrap();
        let frames: Vec<_> = frames.collect();
        assert_eq!((head, frames.len()), (open, 2));
        assert_eq!((frames[0].redrawn, frames[1].redrawn), (false, true));
        assert_eq!((frames[1].open.line, frames[1].open.line_start), (9, 910));
        let mut walk = Walk::new(&bytes[HEAD..]);
        assert_eq!(walk.seek(9), Some((1, LineStart { raw: 10, text: 9 })));
        assert_eq!(walk.clone().seek(10), None);
        assert_eq!(walk.seek(18), Some((2, LineStart { raw: 20, text: 18 })));
        assert_eq!(walk.seek(22), None);
        let frame = (bytes.len() - HEAD) / 2;
        for cut in HEAD..bytes.len() {
            let (_, whole) = read(&bytes[..cut]).unwrap();
            assert_eq!(whole.count(), (cut - HEAD) / frame, "{cut}");
        }
        assert!(read(&bytes[..HEAD - 1]).is_none());
        let uncounted = Open { counted: false, ..open };
        let other = [&uncounted.head(), &bytes[HEAD..]].concat();
        let (head, mut frames) = read(&other).unwrap();
        assert_eq!((head, frames.next().unwrap().open.counted), (uncounted, false));
        bytes[0] = 0;
        assert!(read(&bytes).is_none());
    }

    proptest! {
        #[test]
        fn numbers_read_back(numbers in prop::collection::vec(any::<u32>(), 0..20)) {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|number| put(*number, &mut bytes));
            let mut rest = &bytes[..];
            for number in numbers {
                prop_assert_eq!(get(&mut rest), Some(number));
            }
            prop_assert_eq!(get(&mut rest), None);
        }

        #[test]
        fn lines_are_found_however_long_they_are(
            lengths in prop::collection::vec(prop_oneof![1u32..127, 100u32..40_000], 1..60),
            wanted in prop::collection::vec(any::<bool>(), 61),
        ) {
            let (mut batch, mut frame, mut at) = (Batch::default(), Vec::new(), LineStart::default());
            let mut starts = Vec::new();
            for length in lengths {
                at = LineStart { raw: at.raw + length, text: at.text + length - length / 3 };
                batch.line(at);
                starts.push(at);
            }
            // text that begins with what stood before it
            at = LineStart { raw: at.raw + 5, text: at.text + 6 };
            batch.line(at);
            starts.push(at);
            batch.end = at;
            batch.frame(&Open::at(1, 0), false, &mut frame);
            let mut walk = Walk::new(&frame);
            for (line, start) in starts.iter().enumerate().filter(|(line, _)| wanted[*line]) {
                prop_assert_eq!(walk.seek(start.text), Some((line + 1, *start)));
            }
        }

        #[test]
        fn no_bytes_break_a_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut index = Open::at(1, 0).head().to_vec();
            index.extend_from_slice(&bytes);
            let mut walk = Walk::new(&bytes);
            let mut text = 0;
            while let Some((line, at)) = (1..=bytes.len() as u32).find_map(|step| {
                walk.clone().seek(text + step)
            }) {
                prop_assert!(line <= bytes.len() && at.text > text);
                text = at.text;
                walk.seek(text);
            }
            prop_assert!(read(&index).unwrap().1.count() <= bytes.len());
        }
    }
}
