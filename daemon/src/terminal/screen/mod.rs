//! What a terminal shows after all that was printed to it: a model over the crate `vt100`, which
//! sees whole sequences only (`tokens`).
//!
//! Beyond what the crate does, the line-drawing characters of VT100 terminals, a few sequences
//! that stand for others, and the queries of programs (`query`) are understood here. Bounded
//! whatever comes: by its size, and by the longest sequence that is looked at. Pure.

mod query;
mod skim;
mod snapshot;
mod style;
mod tokens;

pub use style::Style;
pub use vt100::Cell;

use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokens::{Token, Tokens};

/// Between two looks for plain output, where what a program draws comes in small pieces.
const STRIDE: usize = 512;

/// Ends any sequence that lost its end.
pub const CANCEL: &[u8] = b"\x18";

/// The most rows and columns.
pub const MAX_SIDE: u16 = 1000;

/// How large a terminal is, in characters: 1 to [`MAX_SIDE`] each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    rows: NonZeroU16,
    cols: NonZeroU16,
}

impl Size {
    /// A size, if a terminal can have it.
    #[must_use]
    pub fn new(rows: u16, cols: u16) -> Option<Self> {
        let side = |side: u16| NonZeroU16::new(side).filter(|side| side.get() <= MAX_SIDE);
        Some(Self { rows: side(rows)?, cols: side(cols)? })
    }

    /// Its height.
    #[must_use]
    pub fn rows(self) -> u16 {
        self.rows.get()
    }

    /// Its width.
    #[must_use]
    pub fn cols(self) -> u16 {
        self.cols.get()
    }
}

/// A query of a program, with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Behind its last byte, among those that were fed at once.
    pub end: usize,
    /// How many bytes it has; the first ones may have been fed before.
    pub len: usize,
    /// What a terminal in this state types.
    pub answer: Vec<u8>,
}

/// Which characters the letters stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Charsets {
    /// Of the two that can be designated, whether each is line drawing.
    drawing: [bool; 2],
    /// Whether the second one is in use.
    shifted: bool,
}

impl Charsets {
    fn draws(self) -> bool {
        self.drawing[usize::from(self.shifted)]
    }
}

/// The model of one terminal.
pub struct Screen {
    tokens: Tokens,
    terminal: vt100::Parser,
    charsets: Charsets,
    /// Of the first and the second screen, whether a part of it may scroll by itself.
    regions: [bool; 2],
    /// How often the crate broke off and the screen began empty again.
    breaks: u32,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("size", &self.size()).field("breaks", &self.breaks).finish()
    }
}

impl Screen {
    /// An empty terminal.
    #[must_use]
    pub fn new(size: Size) -> Self {
        Self {
            tokens: Tokens::new(),
            terminal: vt100::Parser::new(size.rows, size.cols, 0),
            charsets: Charsets::default(),
            regions: [false; 2],
            breaks: 0,
        }
    }

    /// Prints `bytes`; tells the queries among them, in order. What is scrolled out by plain output
    /// behind it is passed over: of that nothing can be told but what `REP` would repeat.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Query> {
        let (mut queries, mut begin) = (Vec::new(), 0);
        while begin < bytes.len() {
            let rest = &bytes[begin..];
            let is_whole = self.tokens.held().is_empty() && !self.regions[self.grid()];
            let plain = if is_whole { skim::plain(rest) } else { 0 };
            let lost = skim::lost(&rest[..plain], self.size().rows()).unwrap_or(0);
            for colour in skim::colours(&rest[..lost]).into_iter().rev() {
                self.print(&rest[colour]);
            }
            let next = rest.len().min(plain + STRIDE);
            let printed = self.print_all(&rest[lost..next]);
            let base = begin + lost;
            queries.extend(printed.into_iter().map(|it| Query { end: base + it.end, ..it }));
            begin += next;
        }
        queries
    }

    /// Which of the two screens is in use.
    fn grid(&self) -> usize {
        usize::from(self.terminal.screen().alternate_screen())
    }

    fn print_all(&mut self, bytes: &[u8]) -> Vec<Query> {
        let mut queries = Vec::new();
        // the cutter is lent out so that what it cuts may change the rest
        let mut tokens = std::mem::replace(&mut self.tokens, Tokens::new());
        tokens.feed(bytes, |token, end| {
            self.take(token);
            if let Some(answer) = query::answer(token, self.terminal.screen()) {
                let len = match token {
                    Token::Text(text) | Token::Sequence(text) => text.len(),
                    Token::Message(_, text) => text.len() + 2,
                    Token::Control(_) => 1,
                };
                queries.push(Query { end, len, answer });
            }
        });
        self.tokens = tokens;
        queries
    }

    /// The only row that printing `bytes` changes; none where it may change more.
    #[must_use]
    pub fn only_row(&self, bytes: &[u8]) -> Option<u16> {
        let screen = self.terminal.screen();
        let (row, col) = screen.cursor_position();
        let fits = usize::from(col) + bytes.len() < usize::from(screen.size().1.get());
        let moves = |byte: &u8| matches!(byte, b'\n' | b'\t');
        let is_plain = || skim::plain(bytes) == bytes.len() && !bytes.iter().any(moves);
        (fits && self.tokens.held().is_empty() && is_plain()).then_some(row)
    }

    /// How large it is.
    #[must_use]
    pub fn size(&self) -> Size {
        let (rows, cols) = self.terminal.screen().size();
        Size { rows, cols }
    }

    /// Changes its size; what no longer fits is gone.
    pub fn resize(&mut self, size: Size) {
        let is_behind = self.terminal.screen().alternate_screen();
        self.guarded(|terminal| {
            // rows that were scrolled out of the first screen, and are not kept, would return as
            // blank ones on top
            if is_behind {
                terminal.process(b"\x1b[?47l");
            }
            terminal.screen_mut().clear_scrollback();
            if is_behind {
                terminal.process(b"\x1b[?47h");
            }
            terminal.set_size(size.rows, size.cols);
        });
        self.regions = [false; 2];
    }

    /// The bytes that put an empty terminal of this size into this state: both screens, cursor,
    /// attributes, modes, and a sequence that has only begun. Lost are only a saved cursor's
    /// charset and what `REP` would repeat.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = snapshot::of(self.terminal.screen());
        for (slot, name) in [(0, b'('), (1, b')')] {
            if self.charsets.drawing[slot] {
                out.extend_from_slice(&[0x1b, name, b'0']);
            }
        }
        if self.charsets.shifted {
            out.push(0x0e);
        }
        out.extend_from_slice(self.tokens.held());
        out
    }

    /// What is at this place, counted from 0; none beyond its size.
    #[must_use]
    pub fn cell(&self, row: u16, col: u16) -> Option<&Cell> {
        self.terminal.screen().cell(row, col)
    }

    /// Row and column of the cursor, from 0; none while it is hidden.
    #[must_use]
    pub fn cursor(&self) -> Option<(u16, u16)> {
        let screen = self.terminal.screen();
        let (row, col) = screen.cursor_position();
        (!screen.hide_cursor()).then_some((row, col.min(screen.size().1.get() - 1)))
    }

    /// The sequences that make a terminal in its first state send what is typed as this one
    /// would: keypad, cursor keys, paste, mouse; and the cursor's shape.
    #[must_use]
    pub fn modes(&self) -> String {
        self.terminal.screen().input_mode_formatted()
    }

    /// What it shows, as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.terminal.screen().contents()
    }

    /// How often it had to begin anew, empty, on what the model cannot take.
    #[must_use]
    pub fn breaks(&self) -> u32 {
        self.breaks
    }

    fn take(&mut self, token: Token<'_>) {
        match token {
            Token::Text(text) if self.charsets.draws() => self.write(&drawn(text)),
            Token::Text(text) => self.write(text),
            Token::Control(0x0e) => self.charsets.shifted = true,
            Token::Control(0x0f) => self.charsets.shifted = false,
            Token::Control(byte) => self.print(&[byte]),
            Token::Sequence(sequence) => self.sequence(sequence),
            // titles, links and clipboards change nothing that is shown
            Token::Message(..) => {}
        }
    }

    fn sequence(&mut self, sequence: &[u8]) {
        match sequence {
            [0x1b, b'(', set] => self.charsets.drawing[0] = *set == b'0',
            [0x1b, b')', set] => self.charsets.drawing[1] = *set == b'0',
            b"\x1bD" => self.print(b"\n"),
            b"\x1bE" => self.print(b"\r\n"),
            b"\x1bc" => {
                self.charsets = Charsets::default();
                self.regions = [false; 2];
                self.print(sequence);
            }
            b"\x1b[s" | b"\x1b[?1048h" => self.print(b"\x1b7"),
            b"\x1b[u" | b"\x1b[?1048l" => self.print(b"\x1b8"),
            b"\x1b[?1047h" => self.print(b"\x1b[?47h"),
            b"\x1b[?1047l" => self.print(b"\x1b[?47l"),
            [0x1b, b'[', region @ .., b'r'] => {
                let grid = self.grid();
                self.regions[grid] = !is_all(region, self.size().rows());
                self.print(sequence);
            }
            b"\x1b[?1049h" => {
                self.regions[1] = false;
                self.print(sequence);
            }
            [0x1b, b'[', count @ .., b'b'] => self.repeat(count),
            [0x1b, b'[', count @ .., b'Z'] => self.tab_back(count),
            [0x1b, b'[', count @ .., b'a'] => self.print(&[b"\x1b[", count, b"C"].concat()),
            [0x1b, b'[', count @ .., b'e'] => self.print(&[b"\x1b[", count, b"B"].concat()),
            _ => self.print(sequence),
        }
    }

    /// Repeats the last character, within a line at most: a few bytes must not cost minutes.
    fn repeat(&mut self, count: &[u8]) {
        let count = number(count).min(self.size().cols());
        self.print(format!("\x1b[{count}b").as_bytes());
    }

    fn tab_back(&mut self, count: &[u8]) {
        let col = self.terminal.screen().cursor_position().1;
        let stop = col.div_ceil(8).saturating_sub(number(count)) * 8;
        self.print(format!("\x1b[{}G", stop + 1).as_bytes());
    }

    /// Prints text. The character that asks for an emoji's looks makes the one before it two
    /// columns wide; where there is no second column the crate goes wrong, so it is left out.
    fn write(&mut self, text: &[u8]) {
        const WIDEN: &[u8] = "\u{fe0f}".as_bytes();
        let mut begin = 0;
        for at in memchr::memmem::find_iter(text, WIDEN) {
            self.print(&text[begin..at]);
            begin = at;
            let screen = self.terminal.screen();
            if screen.cursor_position().1 >= screen.size().1.get() {
                begin += WIDEN.len();
            }
        }
        self.print(&text[begin..]);
    }

    fn print(&mut self, bytes: &[u8]) {
        self.guarded(|terminal| terminal.process(bytes));
    }

    /// The crate is not ours: if it panics, the screen begins anew, and nothing else breaks.
    fn guarded(&mut self, change: impl FnOnce(&mut vt100::Parser)) {
        let Size { rows, cols } = self.size();
        if catch_unwind(AssertUnwindSafe(|| change(&mut self.terminal))).is_err() {
            self.terminal = vt100::Parser::new(rows, cols, 0);
            self.breaks = self.breaks.saturating_add(1);
        }
    }
}

/// Whether the region of a scrolling sequence is the whole screen: what is missing or 0 is a side.
fn is_all(region: &[u8], rows: u16) -> bool {
    let mut sides = region.split(|byte| *byte == b';').map(|side| match side {
        b"" => Some(0),
        side => std::str::from_utf8(side).ok()?.parse::<u16>().ok(),
    });
    let (top, bottom) = (sides.next().unwrap_or(Some(0)), sides.next().unwrap_or(Some(0)));
    let is_top = matches!(top, Some(0 | 1));
    is_top && bottom.is_some_and(|bottom| bottom == 0 || bottom >= rows) && sides.next().is_none()
}

/// A parameter of a control sequence: 1 where it is missing or odd.
fn number(text: &[u8]) -> u16 {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.unwrap_or(1).max(1)
}

/// Text in the line-drawing set of VT100 terminals.
fn drawn(text: &[u8]) -> Vec<u8> {
    /// What stands for the bytes from 0x60 on.
    const SET: [&str; 31] = [
        "◆", "▒", "␉", "␌", "␍", "␊", "°", "±", "␤", "␋", "┘", "┐", "┌", "└", "┼", "⎺", "⎻", "─",
        "⎼", "⎽", "├", "┤", "┴", "┬", "│", "≤", "≥", "π", "≠", "£", "·",
    ];
    let mut out = Vec::with_capacity(3 * text.len());
    for byte in text {
        match byte.checked_sub(0x60).and_then(|index| SET.get(usize::from(index))) {
            Some(drawn) => out.extend_from_slice(drawn.as_bytes()),
            None => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests;
