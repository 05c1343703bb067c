//! The output of one stream on disk: bounded bytes under absolute offsets that never restart.
//!
//! A ring is a folder of segments (`segment`). The writer appends to the last one and removes the
//! oldest when the sum exceeds the cap, so the first name says what was dropped and nothing else
//! needs recording. Bytes that the disk refused are skipped: the next segment begins behind them,
//! and readers are told of the gap. One writer owns a ring; any number of readers keep their own
//! offsets. Beside the raw bytes, which the cap counts, lies their clean text (`text`): never
//! more than they are, two bytes a line or so for its index, and a sixteenth of it for its filter.

use super::layout::Layout;
use super::scribe::Scribe;
use super::segment::{self, Part, Segment, path, segments};
use super::text::TextWriter;
use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The smallest segment: below this, files outnumber what they hold.
const MIN_SEGMENT: u64 = 64 << 10;
/// The largest segment: what is dropped at once, at most.
const MAX_SEGMENT: u64 = 4 << 20;
/// A ring is dropped by sixteenths, so that at least 15/16 of the cap is kept.
const SEGMENTS: u64 = 16;
/// How often a reader looks again when the segment it wanted was dropped under it.
const LOOKS: u32 = 64;

/// The only writer of a ring. Every append reaches the kernel before it returns, and nothing is
/// synced: a killed process loses nothing, a machine that loses power may lose the last seconds.
#[derive(Debug)]
pub struct RingWriter {
    dir: PathBuf,
    cap: u64,
    segment: u64,
    /// Whole segments and the current one, oldest first.
    kept: VecDeque<Segment>,
    /// The last of `kept`, when it can take more.
    current: Option<File>,
    /// Whether bytes right before that one were lost.
    lost: bool,
    end: u64,
    text: Scribe,
}

impl RingWriter {
    /// Opens the ring in `dir`, made with mode 0700 when missing, and goes on behind its last
    /// byte. It keeps `cap` bytes, 128 KiB at least.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(dir: &Path, cap: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let kept: VecDeque<Segment> = segments(dir)?.into();
        let end = kept.back().map_or(0, |last| last.end());
        let cap = cap.max(2 * MIN_SEGMENT);
        let segment = (cap / SEGMENTS).clamp(MIN_SEGMENT, MAX_SEGMENT);
        let text = Scribe::new(TextWriter::new(dir, Layout::read(dir)?.end()?), segment);
        Ok(Self { dir: dir.to_owned(), cap, segment, kept, current: None, lost: false, end, text })
    }

    /// The offset that the next byte gets.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Takes `bytes`; the end moves by their number in any case.
    ///
    /// # Errors
    /// The disk refused some: they are lost and read as a gap. The next append tries anew.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let step = match self.append_some(bytes) {
                Ok(step) => step,
                Err(fault) => {
                    self.current = None;
                    self.end += bytes.len() as u64;
                    self.drop_empty();
                    return Err(fault);
                }
            };
            bytes = &bytes[step..];
        }
        Ok(())
    }

    /// Writes at most what the current segment has room for; says how much that was.
    fn append_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let full = self.kept.back().is_none_or(|last| last.len >= self.segment);
        if full || self.current.is_none() {
            self.roll()?;
        }
        let (Some(file), Some(last)) = (&mut self.current, self.kept.back_mut()) else {
            return Err(io::Error::other("a ring without a segment"));
        };
        let room = usize::try_from(self.segment - last.len).unwrap_or(usize::MAX);
        let wanted = &bytes[..room.min(bytes.len())];
        let taken = loop {
            match file.write(wanted) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => break taken,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        };
        if last.len == 0 {
            self.text.begin(last.start, self.lost);
        }
        last.len += taken as u64;
        self.text.take(&wanted[..taken]);
        self.end += taken as u64;
        self.drop_oldest();
        Ok(taken)
    }

    /// Writes the clean text that is held back; the raw bytes are written already. Worth it when
    /// nothing more comes: readers need not clean the end again.
    pub fn settle(&mut self) {
        self.text.settle();
    }

    /// Waits until the text is written that is not held back.
    #[cfg(test)]
    pub(super) fn rest(&mut self) {
        self.text.end();
    }

    fn roll(&mut self) -> io::Result<()> {
        let start = self.end;
        let name = path(&self.dir, start, Part::Raw);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(name)?;
        self.lost = start > 0 && self.kept.back().is_none_or(|last| last.end() != start);
        if self.kept.back().is_none_or(|last| last.start != start) {
            self.kept.push_back(Segment { start, len: 0 });
        }
        self.current = Some(file);
        Ok(())
    }

    /// Removes the newest segment if it took nothing: a disk that is full would fill with them.
    fn drop_empty(&mut self) {
        if let Some(Segment { start, len: 0 }) = self.kept.back().copied()
            && segment::remove_raw(&self.dir, start).is_ok()
        {
            self.kept.pop_back();
        }
    }

    /// Removes the oldest segments beyond the cap. One that the disk does not let go of is tried
    /// again at the next byte.
    fn drop_oldest(&mut self) {
        let mut total: u64 = self.kept.iter().map(|one| one.len).sum();
        while total > self.cap
            && self.kept.len() > 1
            && let Some(oldest) = self.kept.front().copied()
            && segment::remove_raw(&self.dir, oldest.start).is_ok()
        {
            self.text.remove(oldest.start);
            total -= oldest.len;
            self.kept.pop_front();
        }
    }
}

/// What a ring holds at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The first `len` bytes of the buffer are the output from `offset` on.
    Bytes {
        /// The offset that was asked for.
        offset: u64,
        /// How many bytes came: at least one, fewer than asked for at the end of a segment.
        len: usize,
    },
    /// The bytes from `from` up to, without, `to` are gone; go on at `to`.
    Gap {
        /// The offset that was asked for.
        from: u64,
        /// The next offset that may still be there.
        to: u64,
    },
    /// Nothing was written there yet.
    AtEnd,
}

/// One reader. Segments may be dropped under it at any moment; it then sees a gap, never an error.
#[derive(Debug)]
pub struct RingReader {
    dir: PathBuf,
    /// The segment read last, by its start; it stays readable when it is dropped.
    open: Option<(u64, File)>,
}

impl RingReader {
    /// A reader of the ring in `dir`, which need not be there yet.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    /// The offset of the oldest byte that is kept.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn start(&self) -> io::Result<u64> {
        Ok(segments(&self.dir)?.first().map_or(0, |first| first.start))
    }

    /// The offset behind the newest byte.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn end(&self) -> io::Result<u64> {
        Ok(segments(&self.dir)?.last().map_or(0, |last| last.end()))
    }

    /// Reads from `offset` into `buffer`, which must not be empty.
    ///
    /// # Errors
    /// The disk failed, or the writer dropped segments faster than they could be opened.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<Read> {
        if let Some(len) = self.read_open(offset, buffer)? {
            return Ok(Read::Bytes { offset, len });
        }
        for _ in 0..LOOKS {
            let kept = segments(&self.dir)?;
            let after = kept.partition_point(|one| one.start <= offset);
            let next = kept.get(after).map(|one| one.start);
            let Some(here) = after.checked_sub(1).map(|index| kept[index].start) else {
                return Ok(next.map_or(Read::AtEnd, |to| Read::Gap { from: offset, to }));
            };
            match File::open(path(&self.dir, here, Part::Raw)) {
                Ok(file) => self.open = Some((here, file)),
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => continue,
                Err(fault) => return Err(fault),
            }
            if let Some(len) = self.read_open(offset, buffer)? {
                return Ok(Read::Bytes { offset, len });
            }
            // a later segment was there before this one was read to its end: it is complete
            return Ok(next.map_or(Read::AtEnd, |to| Read::Gap { from: offset, to }));
        }
        Err(io::Error::other("the ring's segments are dropped faster than they can be opened"))
    }

    fn read_open(&self, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match &self.open {
            Some((start, file)) if *start <= offset => {
                let len = file.read_at(buffer, offset - start)?;
                Ok((len > 0).then_some(len))
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    /// Everything a fresh reader sees from `offset` on: bytes by offset, and the gaps.
    fn replay(dir: &Path, mut offset: u64, step: usize) -> (Vec<u8>, Vec<(u64, u64)>) {
        let mut reader = RingReader::open(dir);
        let (mut bytes, mut gaps, mut buffer) = (Vec::new(), Vec::new(), vec![0; step]);
        loop {
            match reader.read(offset, &mut buffer).unwrap() {
                Read::Bytes { offset: at, len } => {
                    assert_eq!(at, offset);
                    bytes.extend_from_slice(&buffer[..len]);
                    offset += len as u64;
                }
                Read::Gap { from, to } => {
                    assert!(from == offset && to > from);
                    gaps.push((from, to));
                    offset = to;
                }
                Read::AtEnd => return (bytes, gaps),
            }
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        let alphabet = "猫とネズミ🐁👩‍👩‍👧‍👦\u{1b}[31mred\u{1b}[0m\r\nplain ".as_bytes();
        alphabet.iter().copied().cycle().take(len).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn f08_any_chunking_gives_the_same_bytes_from_any_offset(
            cuts in prop::collection::vec(1usize..9000, 1..60),
            from in any::<prop::sample::Index>(),
            step in 1usize..100_000,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let all = noise(cuts.iter().sum());
            let mut writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
            let mut rest = &all[..];
            for cut in cuts {
                writer.append(&rest[..cut]).unwrap();
                rest = &rest[cut..];
            }
            let from = from.index(all.len() + 1);
            let (bytes, gaps) = replay(dir.path(), from as u64, step);
            prop_assert!(gaps.is_empty());
            prop_assert_eq!(&bytes[..], &all[from..]);
        }

        #[test]
        fn f12_a_ring_stays_within_its_cap_and_names_the_gap_exactly(
            total in 200_000usize..900_000,
            chunk in 1000usize..200_000,
            reopen in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let all = noise(total);
            let cap = 128 << 10;
            let mut writer = RingWriter::open(dir.path(), cap).unwrap();
            for part in all.chunks(chunk) {
                if reopen {
                    writer = RingWriter::open(dir.path(), cap).unwrap();
                }
                writer.append(part).unwrap();
                let held: u64 = segments(dir.path()).unwrap().iter().map(|one| one.len).sum();
                prop_assert!(held <= cap);
            }
            prop_assert_eq!(writer.end(), total as u64);
            let reader = RingReader::open(dir.path());
            let start = reader.start().unwrap();
            prop_assert_eq!(reader.end().unwrap(), total as u64);
            let (bytes, gaps) = replay(dir.path(), 0, 4096);
            prop_assert_eq!(gaps, vec![(0, start)]);
            prop_assert_eq!(&bytes[..], &all[usize::try_from(start).unwrap()..]);
        }
    }

    #[test]
    fn f39_what_the_disk_refused_is_a_gap_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let ring = dir.path().join("ring");
        let mut writer = RingWriter::open(&ring, 1 << 20).unwrap();
        writer.append(b"before").unwrap();
        fs::rename(&ring, dir.path().join("away")).unwrap();
        writer.append(&vec![b'x'; 70_000]).unwrap_err();
        fs::rename(dir.path().join("away"), &ring).unwrap();
        writer.append(b"after").unwrap();
        let (bytes, gaps) = replay(&ring, 0, 100_000);
        let lost: u64 = gaps.iter().map(|(from, to)| to - from).sum();
        assert!(bytes.ends_with(b"after") && gaps.len() == 1);
        assert_eq!(bytes.len() as u64 + lost, writer.end());
    }

    #[test]
    fn f39_a_disk_that_is_full_holds_no_segment_without_a_byte_and_loses_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::open(dir.path(), 1 << 20).unwrap();
        for refused in 0..5 {
            let segment = path(dir.path(), writer.end(), Part::Raw);
            std::os::unix::fs::symlink("/dev/full", &segment).unwrap();
            writer.append(b"refused\n").unwrap_err();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{refused}");
        }
        writer.append(b"kept\n").unwrap();
        writer.settle();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
        let open = Layout::read(dir.path()).unwrap().end().unwrap();
        assert_eq!((open.line, open.counted, open.line_start), (3, true, 45));
    }

    #[test]
    fn a_reader_outlives_the_segments_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::open(dir.path(), 1).unwrap();
        writer.append(b"first").unwrap();
        let mut reader = RingReader::open(dir.path());
        let mut buffer = [0; 3];
        reader.read(0, &mut buffer).unwrap();
        for _ in 0..8 {
            writer.append(&vec![0; 60_000]).unwrap();
        }
        assert_eq!(reader.read(2, &mut buffer).unwrap(), Read::Bytes { offset: 2, len: 3 });
        let to = RingReader::open(dir.path()).start().unwrap();
        let gap = Read::Gap { from: 2, to };
        assert_eq!(RingReader::open(dir.path()).read(2, &mut buffer).unwrap(), gap);
    }

    #[test]
    fn an_absent_ring_is_empty() {
        let mut reader = RingReader::open(Path::new("/nonexistent/ring"));
        assert_eq!(reader.end().unwrap(), 0);
        assert_eq!(reader.read(0, &mut [0]).unwrap(), Read::AtEnd);
    }
}
