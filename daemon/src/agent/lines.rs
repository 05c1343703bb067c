//! Framing shared by the drivers that speak in lines: bytes in, whole lines out.

use serde::{Deserialize, Serialize};

/// The longest line that is read. Runtimes put whole files into one line; beyond this it is a
/// fault, and memory matters more.
pub const LINE_BYTES: usize = 16 * 1024 * 1024;

/// Cuts a stream into lines. The line that has not ended is not part of the stored state: a
/// restored one is fed again from [`Lines::offset`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    offset: u64,
    /// Bytes already dropped of a line that is too long; 0 when none is.
    skipped: u64,
    #[serde(skip)]
    partial: Vec<u8>,
}

/// One line without its newline, or the length of one that was too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// At most [`LINE_BYTES`].
    Whole(&'a [u8]),
    /// This many bytes were dropped.
    TooLong(u64),
}

impl Lines {
    /// The absolute offset after the last byte that need not be read again.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at the absolute offset `to`; a line that had begun is dropped. Answers how many
    /// bytes were lost.
    pub fn jump(&mut self, to: u64) -> u64 {
        let lost = to.saturating_sub(self.offset);
        self.partial.clear();
        self.skipped = 0;
        self.offset = to;
        lost
    }

    /// Takes the next bytes and hands each line that they end to `each`.
    pub fn push(&mut self, chunk: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.end_line(&rest[..end], &mut each);
            rest = &rest[end + 1..];
        }
        self.hold(rest);
    }

    fn end_line(&mut self, tail: &[u8], each: &mut impl FnMut(Line<'_>)) {
        let held = self.partial.len() + tail.len();
        self.offset += held as u64 + 1;
        if self.skipped > 0 || held > LINE_BYTES {
            each(Line::TooLong(self.skipped + held as u64));
            self.skipped = 0;
            self.partial = Vec::new();
        } else if self.partial.is_empty() {
            each(Line::Whole(tail));
        } else {
            self.partial.extend_from_slice(tail);
            each(Line::Whole(&self.partial));
            self.partial.clear();
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        let held = self.partial.len() + bytes.len();
        if self.skipped > 0 || held > LINE_BYTES {
            self.skipped += held as u64;
            self.offset += held as u64;
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines_of(chunks: &[&[u8]]) -> (Vec<Result<Vec<u8>, u64>>, Lines) {
        let (mut seen, mut lines) = (Vec::new(), Lines::default());
        for chunk in chunks {
            lines.push(chunk, |line| {
                seen.push(match line {
                    Line::Whole(bytes) => Ok(bytes.to_vec()),
                    Line::TooLong(length) => Err(length),
                });
            });
        }
        (seen, lines)
    }

    #[test]
    fn a_line_beyond_the_bound_is_dropped_and_counted_and_the_next_is_read() {
        let long = vec![b'x'; LINE_BYTES / 2 + 1];
        let (seen, lines) = lines_of(&[b"a\n", &long, &long, b"tail\nb\n"]);
        let length = (LINE_BYTES + 2 + 4) as u64;
        assert_eq!(seen, [Ok(b"a".to_vec()), Err(length), Ok(b"b".to_vec())]);
        assert_eq!(lines.offset(), length + 1 + 4);

        let whole: Vec<u8> = vec![b'y'; LINE_BYTES];
        assert_eq!(lines_of(&[&whole, b"\n"]).0, [Ok(whole.clone())]);
    }

    #[test]
    fn a_state_stored_within_a_long_line_goes_on_to_drop_it() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_BYTES + 1], |_| panic!("no line has ended"));
        let stored = serde_json::to_string(&lines).unwrap();
        let mut restored: Lines = serde_json::from_str(&stored).unwrap();
        assert_eq!(restored.offset(), LINE_BYTES as u64 + 1);
        let mut seen = Vec::new();
        restored.push(b"yz\nnext\n", |line| seen.push(format!("{line:?}")));
        let long = Line::TooLong(LINE_BYTES as u64 + 3);
        assert_eq!(seen, [format!("{long:?}"), format!("{:?}", Line::Whole(b"next"))]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_stream_is_cut(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            cut in 1usize..20,
        ) {
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let (cut_up, lines) = lines_of(&chunks);
            prop_assert_eq!(&cut_up, &lines_of(&[&bytes]).0);
            let ended = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            prop_assert_eq!(lines.offset(), ended as u64);
        }
    }
}
