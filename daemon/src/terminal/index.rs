//! The index of a segment's clean text, as bytes: a head, then frames that are only ever appended.
//!
//! The head says which line is open where the segment begins. Each frame says up to where text and
//! index hold by then, and where the lines begin that began since the last one: for each, how many
//! raw bytes its predecessor took and how many of those are no text, seven bits a byte. A frame that
//! was not written whole counts as none: the raw bytes that it would have covered are cleaned
//! again. The other numbers are little-endian. Pure.

use super::clean::Cleaner;

/// Names what the bytes are, and the version of their form.
const MAGIC: [u8; 8] = *b"hwtext01";

const HEAD: usize = 32;
const FRAME: usize = 24;

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
    /// The offset of the line's first raw byte in the whole stream.
    pub(super) line_start: u64,
    /// The cleaner at that place.
    pub(super) cleaner: Cleaner,
}

impl Open {
    /// Where the whole stream begins, or begins anew behind bytes that were lost.
    pub(super) fn at(line: u64, offset: u64) -> Self {
        Self { line, line_start: offset, cleaner: Cleaner::default() }
    }

    /// The head of the segment that begins here.
    pub(super) fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&self.line.to_le_bytes());
        head[16..24].copy_from_slice(&self.line_start.to_le_bytes());
        head[24..].copy_from_slice(&self.cleaner.save());
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
    lines: Vec<u8>,
    count: u32,
}

impl Batch {
    /// A line begins here, behind all that began before it.
    pub(super) fn line(&mut self, start: LineStart) {
        let raw = start.raw - self.last.raw;
        put(raw, &mut self.lines);
        put(raw.saturating_sub(start.text - self.last.text), &mut self.lines);
        self.last = start;
        self.count += 1;
    }

    /// The frame for all of it, in `bytes`; the batch is empty then.
    pub(super) fn frame(&mut self, cleaner: Cleaner, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend_from_slice(&self.end.raw.to_le_bytes());
        bytes.extend_from_slice(&self.end.text.to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        let length = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&cleaner.save());
        bytes.append(&mut self.lines);
        self.count = 0;
    }
}

/// An index that was read.
#[derive(Debug)]
pub(super) struct Index {
    /// What is open where the segment begins.
    pub(super) open: Open,
    /// Where lines begin, in order, but for the first one of the segment.
    pub(super) lines: Vec<LineStart>,
    /// Up to where it holds.
    pub(super) end: LineStart,
    /// The cleaner there.
    pub(super) cleaner: Cleaner,
}

impl Index {
    /// The index of a segment that has no text yet.
    pub(super) fn empty(open: Open) -> Self {
        let end = LineStart::default();
        Self { open, lines: Vec::new(), end, cleaner: open.cleaner }
    }

    /// Reads what is whole of an index. None when not even its head is, or it is of another
    /// version.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(HEAD)?;
        if head[..8] != MAGIC {
            return None;
        }
        let open = Open {
            line: u64::from_le_bytes(array(&head[8..16])?),
            line_start: u64::from_le_bytes(array(&head[16..24])?),
            cleaner: Cleaner::restore(array(&head[24..])?)?,
        };
        let mut index = Self::empty(open);
        index.lines.reserve(rest.len() / 2);
        while let Some(after) = index.take(rest) {
            rest = after;
        }
        Some(index)
    }

    /// Takes the next frame; what is behind it. None when it is not whole, or none that was written
    /// here: nothing of it was taken then.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (frame, rest) = bytes.split_at_checked(FRAME)?;
        let number = |at: usize| frame.get(at..at + 4).and_then(array).map(u32::from_le_bytes);
        let end = LineStart { raw: number(0)?, text: number(4)? };
        let (count, length) = (number(8)?, number(12)?);
        let (lines, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let cleaner = Cleaner::restore(array(&frame[16..])?)?;
        if end.raw < self.end.raw || end.text < self.end.text {
            return None;
        }
        let known = self.lines.len();
        if self.add(lines, count).is_none() {
            self.lines.truncate(known);
            return None;
        }
        (self.end, self.cleaner) = (end, cleaner);
        Some(rest)
    }

    fn add(&mut self, mut bytes: &[u8], count: u32) -> Option<()> {
        let mut last = self.lines.last().copied().unwrap_or_default();
        for _ in 0..count {
            let raw = get(&mut bytes)?;
            let hidden = get(&mut bytes)?;
            last.raw = last.raw.checked_add(raw)?;
            last.text = last.text.checked_add(raw.checked_sub(hidden)?)?;
            self.lines.push(last);
        }
        bytes.is_empty().then_some(())
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
        let open = Open { line: 7, line_start: 900, cleaner: Cleaner::default() };
        let mut bytes = open.head().to_vec();
        let mut batch = Batch::default();
        let mut frame = Vec::new();
        for n in 1..=2u32 {
            batch.line(LineStart { raw: n * 10, text: n * 9 });
            batch.end = LineStart { raw: n * 10 + 3, text: n * 9 + 3 };
            batch.frame(Cleaner::default(), &mut frame);
            bytes.extend_from_slice(&frame);
        }
        let whole = Index::read(&bytes).unwrap();
        assert_eq!((whole.open, whole.lines.len()), (open, 2));
        assert_eq!(whole.end, LineStart { raw: 23, text: 21 });
        let frame = (bytes.len() - HEAD) / 2;
        for cut in HEAD..bytes.len() {
            let index = Index::read(&bytes[..cut]).unwrap();
            let frames = (cut - HEAD) / frame;
            assert_eq!((index.lines.len(), index.end.raw), (frames, [0, 13, 23][frames]), "{cut}");
        }
        assert!(Index::read(&bytes[..HEAD - 1]).is_none());
        bytes[0] = 0;
        assert!(Index::read(&bytes).is_none());
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
        fn no_bytes_break_a_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut index = Open::at(1, 0).head().to_vec();
            index.extend_from_slice(&bytes);
            prop_assert!(Index::read(&index).is_some());
        }
    }
}
