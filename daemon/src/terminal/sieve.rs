//! Tells from the filters beside the text which lines of a block need be read.
//!
//! Nothing rests on a filter: where there is none, or none that can be read, all may match.

use super::filter::{self, GRAIN, HEAD, RECORD, Sifted};
use super::layout::Layout;
use super::needed::Needed;
use super::segment::Part;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Blocks that are read without asking, at the most, after filters spared little: then one answer in
/// sixteen is for nothing.
const MOST_UNASKED: u32 = 15;

/// Asks filters for one block after the other. Owned by one thread of a search.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    /// The segment that was asked last, and its filter.
    open: Option<(usize, Option<File>)>,
    records: Vec<u8>,
    /// How many blocks are not asked for any more, and how many were not the last time.
    unasked: u32,
    last: u32,
}

/// What of a block's text may match.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sieved {
    /// Lines that may, by where they are in the text: whole lines, but for those that lie in other
    /// blocks as well.
    pub(super) places: Vec<Range<usize>>,
    /// Whether the line may match that is open at the end, or begins there.
    pub(super) ends: bool,
    /// How much text there is, in bytes.
    pub(super) text: u64,
}

impl Sieved {
    /// Whether no line of the block can match.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && !self.ends
    }
}

impl Sieve {
    /// What of a block may hold what is needed; none when it is better read whole.
    pub(super) fn ask(&mut self, layout: &Layout, index: usize, needed: &Needed) -> Option<Sieved> {
        if *needed == Needed::Anything {
            return None;
        }
        if let Some(left) = self.unasked.checked_sub(1) {
            self.unasked = left;
            return None;
        }
        let sifted = self.sift(layout, index, needed)?;
        let block = layout.block(index)?;
        let from = block.from.text;
        let text = u64::from(block.to?.end.text - from);
        if sifted.len() as u64 * 4 > text * 3 {
            self.last = MOST_UNASKED.min(self.last * 2 + 1);
            self.unasked = self.last;
            return None;
        }
        self.last = 0;
        let place = |place: &Range<u32>| (place.start - from) as usize..(place.end - from) as usize;
        let places = sifted.places.iter().map(place).collect();
        Some(Sieved { places, ends: sifted.ends, text })
    }

    fn sift(&mut self, layout: &Layout, index: usize, needed: &Needed) -> Option<Sifted> {
        let block = layout.block(index)?;
        let text = block.from.text..block.to?.end.text;
        // one more than it has: the line that is open at its end is likely to end there
        let grains = text.start / GRAIN..text.end / GRAIN + 1;
        self.read(layout, block.segment, grains)?;
        let mut sifted = Sifted::by(&self.records, needed, text);
        let next = layout.block(index + 1);
        if !next.is_some_and(|next| next.segment == block.segment && next.to.is_some()) {
            // what a record says of text that no frame speaks of may be of bytes that are lost
            sifted.doubt_end();
        }
        let beyond = match next {
            Some(next) if next.segment != block.segment && sifted.lacks_last() => {
                let joins = layout.joins(index + 1) && next.to.is_some();
                let read = joins.then(|| self.read(layout, next.segment, 0..1)).flatten();
                read.and_then(|()| filter::first(&self.records, needed))
            }
            _ => None,
        };
        sifted.close(beyond.unwrap_or(true));
        Some(sifted)
    }

    /// Reads the records of these grains, as many as there are.
    fn read(&mut self, layout: &Layout, segment: usize, grains: Range<u32>) -> Option<()> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            self.open = Some((segment, open(layout, segment)));
        }
        let (_, file) = self.open.as_ref()?;
        let file = file.as_ref()?;
        self.records.resize(grains.len() * RECORD, 0);
        let at = HEAD as u64 + u64::from(grains.start) * RECORD as u64;
        let mut len = 0;
        while len < self.records.len() {
            match file.read_at(&mut self.records[len..], at + len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(fault) if fault.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        self.records.truncate(len);
        Some(())
    }
}

/// Opens the filter of a segment; none when it is not that of its text.
fn open(layout: &Layout, segment: usize) -> Option<File> {
    let file = layout.open(segment, Part::Filter).ok()??;
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0).ok()?;
    (head == filter::head(layout.begin(segment)?, layout.head(segment)?)).then_some(file)
}

#[cfg(test)]
#[path = "sieve_tests.rs"]
mod tests;
