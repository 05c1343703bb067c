//! What of much plain output need not be printed: lines that are scrolled out by those behind them
//! leave nothing but the colours that they changed.
//!
//! Plain is text, line ends, tabs and backspaces, colours, and what erases in a line. Where no
//! region of the screen scrolls by itself, twice as many line feeds as there are rows take
//! everything away that stood before, whatever the row they begin in.

use super::tokens::MOST;
use memchr::{memrchr, memrchr_iter};
use std::ops::Range;

const ESC: u8 = 0x1b;

/// A stretch that is shorter is printed: looking for more would cost as much.
const LEAST: usize = 2048;

/// The length of the plain output that `bytes` begins with.
pub(super) fn plain(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += text(&bytes[at..]);
        let sequence = &bytes[at..];
        if sequence.first() != Some(&ESC) {
            return at;
        }
        match length(sequence).and_then(|len| sequence.get(len)) {
            Some(b'm' | b'K') => at += length(sequence).map_or(0, |len| len + 1),
            _ => return at,
        }
    }
}

/// How many bytes of `plain`, on a screen of `rows`, need not be printed but for their colours.
pub(super) fn lost(plain: &[u8], rows: u16) -> Option<usize> {
    let feeds = memrchr_iter(b'\n', plain);
    // what is left begins with a whole line end: the line behind that stands in the first column
    let mut ends = feeds.skip(2 * usize::from(rows)).filter(|at| *at > 0 && plain[at - 1] == b'\r');
    ends.next().map(|at| at - 1).filter(|lost| *lost >= LEAST)
}

/// Where in `plain` the colours are changed that count behind it, the last ones first: back to
/// where all are set back.
pub(super) fn colours(plain: &[u8]) -> Vec<Range<usize>> {
    let (mut found, mut rest) = (Vec::new(), plain);
    while let Some(at) = memrchr(ESC, rest) {
        rest = &rest[..at];
        let sequence = &plain[at..];
        let Some(len) = length(sequence).filter(|len| sequence.get(*len) == Some(&b'm')) else {
            continue;
        };
        found.push(at..at + len + 1);
        let first = sequence[2..len].split(|byte| *byte == b';').next().unwrap_or_default();
        if first.iter().all(|byte| *byte == b'0') {
            break;
        }
    }
    found
}

/// How many bytes `ESC [` and its parameters have; none for another or an unfinished sequence, or
/// one that is too long to be looked at.
fn length(sequence: &[u8]) -> Option<usize> {
    let body = sequence.strip_prefix(b"\x1b[")?;
    let digits = body.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':'))?;
    (digits + 3 < MOST).then_some(2 + digits)
}

/// How many bytes of text with its line ends `bytes` begins with. Eight at a time: most of what a
/// busy agent prints passes here and nowhere else.
fn text(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += graphic(&bytes[at..]);
        match bytes.get(at) {
            Some(0x08..=0x0a | b'\r') => at += 1,
            _ => return at,
        }
    }
}

/// The index of the first control character, or the length.
fn graphic(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // the lowest marked byte is one; higher ones may be marked by a borrow
        let marked = word.wrapping_sub(ONES * 0x20) & !word & (ONES << 7);
        if marked != 0 {
            return 8 * index + marked.trailing_zeros() as usize / 8;
        }
    }
    8 * words.len() + rest.iter().position(|byte| *byte < 0x20).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_output_ends_before_what_moves_the_cursor_or_is_cut_off() {
        let plains: [(&[u8], usize); 7] = [
            (b"text\ttabs\r\n\x1b[1;31mred\x1b[m\x08\x1b[2K", 29),
            ("猫\r\n\u{fe0f}🐁".as_bytes(), 12),
            (b"up\x1b[A", 2),
            (b"bell\x07", 4),
            (b"cut\x1b[3", 3),
            (b"cut\x1b", 3),
            (b"mode\x1b[?25l", 4),
        ];
        for (bytes, len) in plains {
            assert_eq!(plain(bytes), len, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn twice_the_rows_are_left_and_the_colours_since_the_last_reset() {
        let lines = b"\x1b[32m0123456789\x1b[0;1mabc\x1b[K\x1b[4m\r\n".repeat(200);
        let lost = lost(&lines, 3).unwrap();
        assert_eq!(lines[lost..].iter().filter(|byte| **byte == b'\n').count(), 7);
        let colours: Vec<&[u8]> =
            colours(&lines[..lost]).into_iter().map(|at| &lines[at]).collect();
        assert_eq!(colours, [&b"\x1b[4m"[..], b"\x1b[0;1m"]);
        assert_eq!(super::lost(&lines, 100), None);
        assert_eq!(super::lost(&lines[..1000], 3), None);
    }
}
