//! Keeps what agents print from driving the user's terminal.
//!
//! Text of an agent or a task may hold escape sequences that move the cursor, set the clipboard or
//! rewrite what was shown. Nothing of them passes [`Filter`] but, where it is asked for, colours
//! (SGR). It is fed in chunks: where they are split makes no difference.

/// A sequence that carries text (OSC, DCS and their like) ends at the latest after so many
/// characters: pictures are that large, and no more than that may vanish.
const MOST_SWALLOWED: usize = 1024 * 1024;

/// Parameters of a colour. The longest of use, two colours in full, take 40.
const MOST_PARAMS: usize = 64;

/// Where in an escape sequence the filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In none.
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate character.
    Intermediate,
    /// In a control sequence; `colour` while it can still become one.
    Control { colour: bool },
    /// In a sequence that carries text.
    Text { swallowed: usize },
    /// After ESC in such a sequence.
    TextEscape,
}

/// Takes out escape sequences and control characters, chunk by chunk. Owns the state between them.
#[derive(Debug)]
pub(crate) struct Filter {
    colours: bool,
    state: State,
    /// The beginning of a character whose end has not come yet.
    partial: Vec<u8>,
    params: String,
    /// A carriage return came, and nothing that shows since.
    returned: bool,
    /// A colour passed that was not reset since.
    coloured: bool,
}

impl Filter {
    /// A filter that lets colours pass, or not.
    pub(crate) fn new(colours: bool) -> Self {
        Self {
            colours,
            state: State::Ground,
            partial: Vec::new(),
            params: String::new(),
            returned: false,
            coloured: false,
        }
    }

    /// Filters the next bytes into `out`. Bytes that are no UTF-8 become U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        let mut joined = std::mem::take(&mut self.partial);
        let mut rest = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        while !rest.is_empty() {
            let (good, bad) = match std::str::from_utf8(rest) {
                Ok(text) => (text, None),
                Err(error) => {
                    let good = rest.get(..error.valid_up_to()).unwrap_or_default();
                    (std::str::from_utf8(good).unwrap_or_default(), Some(error.error_len()))
                }
            };
            good.chars().for_each(|c| self.take(c, out));
            let after = rest.get(good.len()..).unwrap_or_default();
            rest = match bad {
                None => &[],
                Some(Some(length)) => {
                    self.take(char::REPLACEMENT_CHARACTER, out);
                    after.get(length..).unwrap_or_default()
                }
                Some(None) => {
                    self.partial = after.to_vec();
                    &[]
                }
            };
        }
    }

    /// Ends the text: an open colour is reset, half a character becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.partial).is_empty() {
            self.take(char::REPLACEMENT_CHARACTER, out);
        }
        if std::mem::take(&mut self.coloured) {
            out.push_str("\x1b[0m");
        }
        self.state = State::Ground;
        self.returned = false;
    }

    fn take(&mut self, c: char, out: &mut String) {
        self.state = match (self.state, c) {
            // the two that abort any sequence
            (_, '\x18' | '\x1a') => State::Ground,
            (State::Text { .. }, '\x1b') => State::TextEscape,
            (_, '\x1b') => State::Escape,
            (State::Text { .. } | State::TextEscape, '\u{9c}') => State::Ground,
            (State::Text { swallowed }, c) => swallow(swallowed, c),
            (State::TextEscape, '\\') => State::Ground,
            (_, '\u{80}'..='\u{9f}') => self.open(c, out),
            (State::Escape | State::TextEscape, '\u{40}'..='\u{5f}') => {
                self.open(char::from_u32(c as u32 + 0x40).unwrap_or(c), out)
            }
            (State::Escape | State::TextEscape | State::Intermediate, ' '..='/') => {
                State::Intermediate
            }
            (State::Escape | State::TextEscape | State::Intermediate, '0'..='~') => State::Ground,
            (State::Control { colour }, c) => self.control(colour, c, out),
            (_, c) => self.show(c, out),
        };
    }

    /// Begins what this C1 control begins, whether it came as one character or as ESC and one.
    fn open(&mut self, control: char, out: &mut String) -> State {
        match control {
            '\u{9b}' => {
                self.params.clear();
                State::Control { colour: true }
            }
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => State::Text { swallowed: 0 },
            // next line
            '\u{85}' => self.show('\n', out),
            _ => State::Ground,
        }
    }

    fn control(&mut self, colour: bool, c: char, out: &mut String) -> State {
        match c {
            '0'..='9' | ';' | ':' if self.params.len() < MOST_PARAMS => {
                self.params.push(c);
                State::Control { colour }
            }
            ' '..='?' => State::Control { colour: false },
            '@'..='~' => {
                if c == 'm' && colour && self.colours {
                    self.coloured = !matches!(self.params.as_str(), "" | "0" | "00");
                    out.push_str("\x1b[");
                    out.push_str(&self.params);
                    out.push('m');
                }
                State::Ground
            }
            // terminals obey controls inside a sequence and go on with it
            '\0'..='\x1f' | '\x7f' => {
                self.show(c, out);
                State::Control { colour }
            }
            _ => self.show(c, out),
        }
    }

    fn show(&mut self, c: char, out: &mut String) -> State {
        match c {
            '\n' => {
                self.returned = false;
                out.push('\n');
            }
            '\r' => self.returned = true,
            c if c != '\t' && hidden(c) => {}
            c => {
                // a line that is written over again becomes a line more: nothing shown is lost
                if std::mem::take(&mut self.returned) {
                    out.push('\n');
                }
                out.push(c);
            }
        }
        State::Ground
    }
}

fn swallow(swallowed: usize, c: char) -> State {
    if c == '\x07' || swallowed >= MOST_SWALLOWED {
        return State::Ground;
    }
    State::Text { swallowed: swallowed + 1 }
}

/// Control characters, and those that turn the direction of text so that it reads otherwise than
/// it is.
fn hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name, title or message of an agent or task as one line without any escape.
pub(crate) fn line(text: &str) -> String {
    let joined: Vec<_> = lines(text).iter().map(|line| line.trim().to_owned()).collect();
    joined.join(" ").trim().to_owned()
}

/// A text of an agent as lines without any escape; empty ones at the end are left out.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let mut clean = String::with_capacity(text.len());
    let mut filter = Filter::new(false);
    filter.push(text.as_bytes(), &mut clean);
    filter.finish(&mut clean);
    clean.trim_end().lines().map(|line| line.replace('\t', "    ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filtered(colours: bool, chunks: &[&[u8]]) -> String {
        let mut out = String::new();
        let mut filter = Filter::new(colours);
        for chunk in chunks {
            filter.push(chunk, &mut out);
        }
        filter.finish(&mut out);
        out
    }

    /// Whether nothing is left that could drive a terminal.
    fn is_harmless(text: &str) -> bool {
        let colour = regex::Regex::new("\x1b\\[[0-9;:]*m").unwrap();
        colour.replace_all(text, "").chars().all(|c| c == '\n' || c == '\t' || !hidden(c))
    }

    #[test]
    fn f49_clipboard_title_link_cursor_and_report_sequences_vanish() {
        let cases: [(&str, &str); 14] = [
            ("a\x1b]52;c;ZXZpbA==\x07b", "ab"),
            ("a\x1b]0;title\x1b\\b", "ab"),
            ("a\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
            ("a\x1b[2J\x1b[H\x1b[6nb", "ab"),
            ("a\x1bP+q544e\x1b\\b", "ab"),
            ("a\u{9d}52;c;eA==\u{9c}b", "ab"),
            ("a\u{9b}2Jb", "ab"),
            ("a\x1b[>4;2mb", "ab"),
            ("a\x1b[31 mb", "ab"),
            ("a\x1bcb\x1b(0c", "abc"),
            ("a\x08\x07\x00b\x7f", "ab"),
            ("one\r\r\ntwo\r\n", "one\ntwo\n"),
            ("10%\r20%\r\x1b[Kdone\n", "10%\n20%\ndone\n"),
            ("x\u{202e}gnp.exe", "xgnp.exe"),
        ];
        for (text, expected) in cases {
            assert_eq!(filtered(true, &[text.as_bytes()]), expected, "{text:?}");
        }
    }

    #[test]
    fn f49_colours_pass_where_they_are_asked_for_and_are_reset() {
        let text = b"\x1b[1;38;2;1;2;3mred\x1b[K";
        assert_eq!(filtered(true, &[text]), "\x1b[1;38;2;1;2;3mred\x1b[0m");
        assert_eq!(filtered(false, &[text]), "red");
        assert_eq!(filtered(true, &[b"\x1b[31mx\x1b[m"]), "\x1b[31mx\x1b[m");
        let endless = format!("\x1b[{}mx", "1;".repeat(100));
        assert_eq!(filtered(true, &[endless.as_bytes()]), "x");
    }

    #[test]
    fn an_open_sequence_swallows_a_bounded_part() {
        let text = format!("\x1b]52;{}tail", "x".repeat(MOST_SWALLOWED));
        assert!(filtered(true, &[text.as_bytes()]).ends_with("tail"));
        assert_eq!(filtered(true, &[b"\x1b]0;a\x18b"]), "b");
    }

    #[test]
    fn broken_utf8_is_marked() {
        assert_eq!(filtered(true, &[b"a\xffb\xe2\x82"]), "a\u{fffd}b\u{fffd}");
        assert_eq!(filtered(true, &[b"\xe2\x82", b"\xac"]), "€");
        assert_eq!(filtered(true, &[b"\x9b2J"]), "\u{fffd}2J");
    }

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(line(" a\nb\t\x1b[31mc\x1b]0;x\x07 \n"), "a b    c");
        assert_eq!(lines("a\n\n b\n\n"), ["a", "", " b"]);
    }

    /// Bytes that are rich in what begins and ends sequences.
    fn nasty() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::sample::select(vec![
                &b"\x1b"[..],
                b"\x1b[",
                b"\x1b]",
                b"\x1bP",
                b"\x1b\\",
                b"\x07",
                b"\xc2\x9b",
                b"\xc2\x9d",
                b"\xc2\x9c",
                b"\xe2\x82\xac",
                b"\xf0\x9f",
                b"31m",
                b"m",
                b"\r",
                b"\n",
                b"\x18",
                b";",
                b"?25l",
                b"text",
            ])
            .prop_map(<[u8]>::to_vec),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn f49_nothing_but_colours_passes(bytes in nasty(), colours: bool) {
            let out = filtered(colours, &[&bytes]);
            prop_assert!(is_harmless(&out), "{out:?}");
            prop_assert!(colours || !out.contains('\x1b'));
        }

        #[test]
        fn f49_where_chunks_are_split_makes_no_difference(
            bytes in nasty(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<_> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(filtered(true, &chunks), filtered(true, &[&bytes]));
        }

        #[test]
        fn plain_text_is_left_alone(text in "[a-zA-Z0-9 \n\tä日🦀]*") {
            prop_assert_eq!(filtered(true, &[text.as_bytes()]), text);
        }
    }
}
