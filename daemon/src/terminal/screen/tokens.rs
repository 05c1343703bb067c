//! Terminal output cut into what belongs together, whatever the chunks it comes in.
//!
//! What has begun and not ended is held, bounded; it has had no effect yet. So the state of a
//! terminal between two chunks is its screen and what is held.

use memchr::memchr3;

const ESC: u8 = 0x1b;
const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

/// The longest sequence or control string that is understood: longer ones are passed over whole.
pub(super) const MOST: usize = 1024;

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Characters and controls other than escape and the two shifts; no character is split.
    Text(&'a [u8]),
    /// A control by itself: a shift, or one that came inside a sequence and takes effect at once.
    Control(u8),
    /// A whole escape or control sequence, its ESC included.
    Sequence(&'a [u8]),
    /// A whole control string: the byte after ESC, and what it says.
    Message(u8, &'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    Control,
    Message,
    MessageEscape,
}

/// Cuts. Holds at most one unfinished token.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    state: State,
    held: Vec<u8>,
}

impl Tokens {
    /// Nothing held.
    pub(super) fn new() -> Self {
        Self { state: State::Ground, held: Vec::new() }
    }

    /// What has begun and not ended. Given to new [`Tokens`], it makes them equal to these.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Cuts `bytes`; each token is told with how many of them it ends behind.
    pub(super) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Token<'_>, usize)) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.state == State::Ground {
                at = self.ground(bytes, at, &mut take);
            } else if self.inside(*byte, at + 1, &mut take) {
                at += 1;
            }
        }
    }

    fn ground(
        &mut self,
        bytes: &[u8],
        at: usize,
        take: &mut impl FnMut(Token<'_>, usize),
    ) -> usize {
        let rest = &bytes[at..];
        let len = memchr3(ESC, SHIFT_OUT, SHIFT_IN, rest).unwrap_or(rest.len());
        let is_cut = len == rest.len();
        let run = &rest[..len];
        if self.held.is_empty() {
            let whole = if is_cut { len - unfinished(run) } else { len };
            if whole > 0 {
                take(Token::Text(&run[..whole]), at + whole);
            }
            self.held.extend_from_slice(&run[whole..]);
        } else {
            self.held.extend_from_slice(run);
            let kept = if is_cut { unfinished(&self.held) } else { 0 };
            let whole = self.held.len() - kept;
            if whole > 0 {
                take(Token::Text(&self.held[..whole]), at + len - kept.min(len));
            }
            self.held.drain(..whole);
        }
        let Some(byte) = rest.get(len) else { return bytes.len() };
        if *byte == ESC {
            self.begin();
        } else {
            take(Token::Control(*byte), at + len + 1);
        }
        at + len + 1
    }

    fn begin(&mut self) {
        self.held.clear();
        self.held.push(ESC);
        self.state = State::Escape;
    }

    fn abandon(&mut self) {
        self.held.clear();
        self.state = State::Ground;
    }

    fn push(&mut self, byte: u8) {
        if self.held.len() < MOST {
            self.held.push(byte);
        }
    }

    /// Takes a byte inside a token; false when it is to be looked at again.
    fn inside(&mut self, byte: u8, end: usize, take: &mut impl FnMut(Token<'_>, usize)) -> bool {
        let is_first = self.held.len() == 1;
        match (self.state, byte) {
            (_, CAN | SUB) => self.abandon(),
            (State::Message, ESC) => {
                self.held.push(ESC);
                self.state = State::MessageEscape;
            }
            (State::Message, BEL) if self.held.get(1) == Some(&b']') => self.message(end, take),
            (State::Message, _) => self.push(byte),
            (State::MessageEscape, b'\\') => {
                self.held.pop();
                self.message(end, take);
            }
            (State::MessageEscape, _) => {
                self.begin();
                return false;
            }
            (_, ESC) => self.begin(),
            (_, 0..=0x1f) => take(Token::Control(byte), end),
            (_, 0x7f) => {}
            (_, 0x80..) => {
                self.abandon();
                return false;
            }
            (State::Escape, b'[') if is_first => {
                self.push(byte);
                self.state = State::Control;
            }
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') if is_first => {
                self.push(byte);
                self.state = State::Message;
            }
            (State::Escape, b' '..=b'/') | (State::Control, b' '..=b'?') => self.push(byte),
            _ => {
                self.push(byte);
                self.finish(end, take, |held| Token::Sequence(held));
            }
        }
        true
    }

    fn message(&mut self, end: usize, take: &mut impl FnMut(Token<'_>, usize)) {
        let kind = self.held.get(1).copied().unwrap_or_default();
        self.finish(end, take, |held| Token::Message(kind, &held[2..]));
    }

    fn finish(
        &mut self,
        end: usize,
        take: &mut impl FnMut(Token<'_>, usize),
        token: impl for<'a> FnOnce(&'a [u8]) -> Token<'a>,
    ) {
        // what filled its bound may be incomplete
        if self.held.len() < MOST {
            take(token(&self.held), end);
        }
        self.abandon();
    }
}

/// How many bytes at the end begin a character that is not whole.
fn unfinished(text: &[u8]) -> usize {
    for back in 1..=text.len().min(3) {
        let needed = match text[text.len() - back] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needed > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(chunks: &[&[u8]]) -> (Vec<String>, Tokens) {
        let mut tokens = Tokens::new();
        let (mut seen, mut text): (Vec<String>, Vec<u8>) = (Vec::new(), Vec::new());
        let flush = |text: &mut Vec<u8>, seen: &mut Vec<String>| {
            if !text.is_empty() {
                seen.push(format!("text {:?}", std::mem::take(text)));
            }
        };
        for chunk in chunks {
            tokens.feed(chunk, |token, end| {
                assert!(end <= chunk.len());
                if let Token::Text(run) = token {
                    text.extend_from_slice(run);
                } else {
                    flush(&mut text, &mut seen);
                    seen.push(format!("{token:?}"));
                }
            });
        }
        flush(&mut text, &mut seen);
        (seen, tokens)
    }

    #[test]
    fn sequences_and_messages_come_whole() {
        let (seen, tokens) =
            cut(&[b"a\x1b[3", b"1mb\x1b]11;?\x1b", b"\\\x1b(0\x0eq\x1b[\n6nz\xe7\x8c"]);
        let expected = [
            "text [97]",
            "Sequence([27, 91, 51, 49, 109])",
            "text [98]",
            "Message(93, [49, 49, 59, 63])",
            "Sequence([27, 40, 48])",
            "Control(14)",
            "text [113]",
            "Control(10)",
            "Sequence([27, 91, 54, 110])",
            "text [122]",
        ];
        assert_eq!(seen, expected);
        assert_eq!(tokens.held(), b"\xe7\x8c");
    }

    #[test]
    fn what_has_no_end_is_bounded_and_what_follows_is_seen() {
        let long = vec![b'9'; 5 * MOST];
        for begin in ["\x1b[", "\x1b]0;", "\x1bP"] {
            let end = if begin == "\x1b[" { "m" } else { "\x1b\\" };
            let (seen, tokens) = cut(&[begin.as_bytes(), &long, end.as_bytes(), b"after"]);
            assert_eq!(seen, [format!("text {:?}", b"after")]);
            assert!(tokens.held().is_empty());
        }
        assert!(cut(&[b"\x1b]0;", &long]).1.held().len() <= MOST);
        assert_eq!(cut(&[b"\x1b]0;x\x18a"]).0, ["text [97]"]);
    }

    /// Bytes that are rich in what begins and ends sequences.
    pub(super) fn nasty() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::sample::select(vec![
                "\x1b",
                "\x1b[",
                "\x1b]",
                "\x1bP",
                "\x1b\\",
                "\x07",
                "\x18",
                "31m",
                "6n",
                "?25h",
                "猫",
                "🐁",
                "\x0e",
                "\x0f",
                "\x1b(0",
                "11;?",
                "text",
                "\r\n",
                ";",
                "\x1b[?1049h",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn f08_any_chunking_gives_the_same_tokens(
            bytes in nasty(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<_> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (seen, tokens) = cut(&chunks);
            let (whole, same) = cut(&[&bytes]);
            prop_assert_eq!(seen, whole);
            prop_assert_eq!((tokens.state, tokens.held()), (same.state, same.held()));
        }

        #[test]
        fn what_is_held_makes_new_ones_equal(bytes in nasty()) {
            let (_, tokens) = cut(&[&bytes]);
            let (seen, again) = cut(&[tokens.held()]);
            prop_assert!(seen.is_empty());
            prop_assert_eq!((tokens.state, tokens.held()), (again.state, again.held()));
        }
    }
}
