//! The files of a ring: one segment of raw bytes each, named by the offset of its first byte (20
//! digits), and beside it the segment's clean text, the index of that text and its filter, under the
//! same name with an ending.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of one stream that lie in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The offset of its first byte.
    pub(super) start: u64,
    /// How many bytes it holds.
    pub(super) len: u64,
}

impl Segment {
    /// The offset behind its last byte.
    pub(super) fn end(self) -> u64 {
        self.start + self.len
    }
}

/// What a file of a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The bytes as they came: the truth.
    Raw,
    /// Their clean text.
    Text,
    /// Where lines begin in it.
    Index,
    /// What may stand in its lines.
    Filter,
}

impl Part {
    fn ending(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::Text => ".text",
            Self::Index => ".index",
            Self::Filter => ".filter",
        }
    }
}

/// Where a part of the segment that begins at `start` lies.
pub(super) fn path(dir: &Path, start: u64, part: Part) -> PathBuf {
    dir.join(format!("{start:020}{}", part.ending()))
}

/// Removes the raw bytes of a segment, which go first: so what is left over is text without a segment.
///
/// # Errors
/// The disk refused; the segment is still there.
pub(super) fn remove_raw(dir: &Path, start: u64) -> io::Result<()> {
    remove(dir, start, Part::Raw)
}

/// Removes all that there is of a segment but its raw bytes. What the disk does not let go of is
/// left: nobody looks at it.
pub(super) fn remove_text(dir: &Path, start: u64) {
    for part in [Part::Text, Part::Index, Part::Filter] {
        if let Err(fault) = remove(dir, start, part) {
            eprintln!("text of output that was dropped is left: {fault}");
        }
    }
}

/// Removes all of a segment.
#[cfg(test)]
pub(super) fn remove_whole(dir: &Path, start: u64) -> io::Result<()> {
    remove_raw(dir, start)?;
    remove_text(dir, start);
    Ok(())
}

fn remove(dir: &Path, start: u64, part: Part) -> io::Result<()> {
    match fs::remove_file(path(dir, start, part)) {
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
        _ => Ok(()),
    }
}

/// The segments that are there now, oldest first. A folder that is not there holds none.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(fault) => return Err(fault),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name.to_str().filter(|name| name.len() == 20);
        let Some(start) = digits.and_then(|name| name.parse().ok()) else { continue };
        match entry.metadata() {
            Ok(about) => found.push(Segment { start, len: about.len() }),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            Err(fault) => return Err(fault),
        }
    }
    found.sort_unstable_by_key(|one| one.start);
    // one that was the last when it was looked at may have grown up to the next since
    for index in 1..found.len() {
        let (before, next) = (found[index - 1], found[index].start);
        if before.end() != next
            && let Ok(about) = fs::metadata(path(dir, before.start, Part::Raw))
        {
            found[index - 1].len = about.len();
        }
    }
    Ok(found)
}
