//! Clean text: what an agent printed, without what only drives a terminal.
//!
//! The rule, which search and its line numbers rest on:
//! - Escape sequences print nothing. One that carries text (OSC, DCS and their like) ends at BEL, at
//!   ST or any other escape, at CAN or SUB, and after 1 MiB at the latest.
//! - Control characters print nothing but tab, line feed and carriage return.
//! - A line ends at its line feed; carriage returns right before it are no part of it.
//! - A carriage return that text follows begins its line anew. It stands in clean text as one `\r`,
//!   so that the text is only ever appended to; [`last_state`] is what such a line says in the end.
//! - All other bytes pass as they are, UTF-8 or not.
//!
//! Pure: the text depends on the bytes alone, never on where they were split.

use memchr::memrchr;

/// After so many bytes a sequence that carries text is over: pictures are that large, and no more
/// than that may vanish.
const MOST_SWALLOWED: u32 = 1 << 20;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const DEL: u8 = 0x7f;

/// Where in an escape sequence the cleaner is. The numbers are those of [`Cleaner::save`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In none.
    #[default]
    Ground = 0,
    /// After ESC.
    Escape = 1,
    /// After ESC and an intermediate byte.
    Intermediate = 2,
    /// In a control sequence.
    Control = 3,
    /// In a sequence that carries text.
    Text = 4,
    /// After ESC in such a sequence.
    TextEscape = 5,
}

/// Turns bytes into clean text, chunk by chunk; holds what is open between two chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cleaner {
    state: State,
    swallowed: u32,
    /// A carriage return came, and no text since.
    returned: bool,
}

impl Cleaner {
    /// Appends the clean text of `raw` to `clean`. For each line that ends in it, `line` is told
    /// how many bytes of `raw` were read by then, its line feed with them, and how long `clean` is.
    pub(super) fn push(
        &mut self,
        raw: &[u8],
        clean: &mut Vec<u8>,
        mut line: impl FnMut(usize, usize),
    ) {
        let mut at = 0;
        while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Ground => {
                    let plain = plain(rest);
                    if plain > 0 {
                        if std::mem::take(&mut self.returned) {
                            clean.push(b'\r');
                        }
                        clean.extend_from_slice(&rest[..plain]);
                        plain
                    } else if self.control(rest[0], clean) {
                        line(at + 1, clean.len());
                        1
                    } else {
                        1
                    }
                }
                State::Text => self.swallow(rest),
                _ => {
                    let (taken, ended) = self.step(rest[0], clean);
                    if ended {
                        line(at + 1, clean.len());
                    }
                    taken
                }
            };
        }
    }

    /// A byte that is no text; true when it ends the line.
    fn control(&mut self, byte: u8, clean: &mut Vec<u8>) -> bool {
        match byte {
            b'\n' => {
                self.returned = false;
                clean.push(b'\n');
                return true;
            }
            b'\r' => self.returned = true,
            ESC => self.state = State::Escape,
            _ => {}
        }
        false
    }

    /// A byte within a sequence: how many were taken, and whether a line ended.
    fn step(&mut self, byte: u8, clean: &mut Vec<u8>) -> (usize, bool) {
        let state = self.state;
        self.state = match (state, byte) {
            (_, CAN | SUB) => State::Ground,
            (_, ESC) => State::Escape,
            (State::Control, b' '..=b'?') => State::Control,
            (State::Control, b'@'..=b'~') => State::Ground,
            // terminals obey controls inside a sequence and go on with it
            (State::Control, 0..=0x1f | DEL) => {
                let ended = self.control(byte, clean);
                return (1, ended);
            }
            (State::TextEscape, b'\\') => State::Ground,
            (State::Escape | State::TextEscape, b'[') => State::Control,
            (State::Escape | State::TextEscape, b']' | b'P' | b'X' | b'^' | b'_') => {
                self.swallowed = 0;
                State::Text
            }
            (_, b' '..=b'/') => State::Intermediate,
            (_, b'0'..=b'~') => State::Ground,
            // no sequence goes on like that: the byte is one of the ground
            _ => {
                self.state = State::Ground;
                return (0, false);
            }
        };
        (1, false)
    }

    /// How many bytes the sequence that carries text takes of `rest`.
    fn swallow(&mut self, rest: &[u8]) -> usize {
        let left = usize::try_from(MOST_SWALLOWED - self.swallowed).unwrap_or(usize::MAX);
        let reach = &rest[..left.min(rest.len())];
        let end = reach.iter().position(|byte| matches!(*byte, BEL | CAN | SUB | ESC));
        if let Some(end) = end {
            self.state = if reach[end] == ESC { State::TextEscape } else { State::Ground };
            return end + 1;
        }
        if reach.len() == left {
            self.state = State::Ground;
        } else {
            self.swallowed += u32::try_from(reach.len()).unwrap_or(MOST_SWALLOWED);
        }
        reach.len()
    }

    /// What is open, in eight bytes; [`Cleaner::restore`] takes them.
    pub(super) fn save(self) -> [u8; 8] {
        let [a, b, c, d] = self.swallowed.to_le_bytes();
        [self.state as u8, self.returned.into(), 0, 0, a, b, c, d]
    }

    /// The cleaner that was saved; none for bytes that are of no version known here.
    pub(super) fn restore(saved: [u8; 8]) -> Option<Self> {
        let [state, returned, 0, 0, a, b, c, d] = saved else { return None };
        let state = match state {
            0 => State::Ground,
            1 => State::Escape,
            2 => State::Intermediate,
            3 => State::Control,
            4 => State::Text,
            5 => State::TextEscape,
            _ => return None,
        };
        let swallowed = u32::from_le_bytes([a, b, c, d]);
        (swallowed <= MOST_SWALLOWED && returned < 2).then_some(Self {
            state,
            swallowed,
            returned: returned == 1,
        })
    }
}

/// What a line of clean text, given without its line feed, says in the end: the text behind its
/// last carriage return.
pub(super) fn last_state(line: &[u8]) -> &[u8] {
    memrchr(b'\r', line).map_or(line, |at| &line[at + 1..])
}

/// How many bytes of text `bytes` begins with. Eight at a time: this is where a session's output
/// passes as fast as memory gives it.
fn plain(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let found = at + first_control(&bytes[at..]);
        if bytes.get(found) != Some(&b'\t') {
            return found;
        }
        at = found + 1;
    }
}

/// The index of the first control character, or the length.
fn first_control(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    let mut words = bytes.chunks_exact(8);
    let mut at = 0;
    for word in &mut words {
        let word = word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        // the lowest marked byte is one; higher ones may be marked by a borrow
        let low = word.wrapping_sub(ONES * 0x20) & !word;
        let flipped = word ^ (ONES * u64::from(DEL));
        let deleted = flipped.wrapping_sub(ONES) & !flipped;
        let marked = (low | deleted) & HIGHS;
        if marked != 0 {
            return at + marked.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = words.remainder();
    at + rest.iter().position(u8::is_ascii_control).unwrap_or(rest.len())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(raw: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        Cleaner::default().push(raw, &mut text, |_, _| {});
        text
    }

    #[test]
    fn sequences_and_controls_print_nothing() {
        for (raw, text) in [
            (&b"\x1b[31mred\x1b[0m\tplain\x07\x08\0\x7f."[..], &b"red\tplain."[..]),
            (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\c", b"abc"),
            (b"\x1bPq#0;2\n~~\x1b\\picture", b"picture"),
            (b"\x1b(B\x1b7\x1b=x", b"x"),
            (b"a\x1b[1\x18b\x1b]c\x1ad", b"abd"),
            (b"\x1b[1\nAb", b"\nb"),
            (b"\x1b\xe2\x82\xac", b"\xe2\x82\xac"),
            (b"\x1b]x\x1b[1mbold", b"bold"),
            (b"not utf-8 \xff\xfe", b"not utf-8 \xff\xfe"),
        ] {
            assert_eq!(clean(raw), text, "{raw:?}");
        }
    }

    #[test]
    fn a_carriage_return_begins_the_line_anew_unless_nothing_follows() {
        assert_eq!(clean(b"a\r\nb\r\r\n"), b"a\nb\n");
        assert_eq!(clean(b" 1%\r 2%\r\x1b[K 3%\r\n"), b" 1%\r 2%\r 3%\n");
        assert_eq!(last_state(b" 1%\r 2%\r 3%"), b" 3%");
        assert_eq!(last_state(b"whole"), b"whole");
    }

    #[test]
    fn a_text_without_an_end_vanishes_up_to_its_bound_only() {
        let mut raw = b"\x1b]".to_vec();
        raw.resize(2 + MOST_SWALLOWED as usize, b'x');
        raw.extend_from_slice(b"after");
        assert_eq!(clean(&raw), b"after");
        let mut cleaner = Cleaner::default();
        let mut text = Vec::new();
        raw.chunks(1000).for_each(|part| cleaner.push(part, &mut text, |_, _| {}));
        assert_eq!(text, b"after");
    }

    #[test]
    fn every_byte_is_told_as_the_slow_way_tells_it() {
        for byte in 0..=255u8 {
            for place in 0..24 {
                let mut bytes = vec![b'a'; 24];
                bytes[place] = byte;
                let expected = if byte.is_ascii_control() { place } else { 24 };
                assert_eq!(first_control(&bytes), expected, "{byte} at {place}");
            }
        }
    }

    pub(in super::super) fn terminal_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[a-z 猫🐁é]{0,12}".prop_map(String::into_bytes),
            2 => Just(b"\n".to_vec()),
            1 => Just(b"\r\n".to_vec()),
            1 => Just(b"\r".to_vec()),
            1 => "\u{1b}\\[[0-9;]{0,5}[mKHJ]".prop_map(String::into_bytes),
            1 => "\u{1b}\\][0-9];[a-z]{0,9}(\u{7}|\u{1b}\\\\)".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..80).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn f08_any_chunking_gives_the_same_text_and_lines(
            raw in terminal_bytes(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut whole = (Vec::new(), Vec::new());
            Cleaner::default().push(&raw, &mut whole.0, |at, len| whole.1.push((at, len)));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(raw.len() + 1)).collect();
            cuts.extend([0, raw.len()]);
            cuts.sort_unstable();
            let (mut text, mut lines) = (Vec::new(), Vec::new());
            let mut cleaner = Cleaner::default();
            for pair in cuts.windows(2) {
                cleaner = Cleaner::restore(cleaner.save()).unwrap();
                let part = &raw[pair[0]..pair[1]];
                cleaner.push(part, &mut text, |at, len| lines.push((pair[0] + at, len)));
            }
            prop_assert_eq!((text, lines), whole);
        }

        #[test]
        fn what_is_clean_stays_as_it_is(raw in terminal_bytes()) {
            let once = clean(&raw);
            prop_assert_eq!(clean(&once), once);
        }
    }
}
