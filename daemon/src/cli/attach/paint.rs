//! The model of an agent's screen drawn on the user's terminal: differences only, clipped to what
//! fits. Pure. Nothing that the agent printed gets through but characters and their looks.

use hayward_daemon::terminal::screen::{Cell, Screen, Size, Style};

/// What the user's terminal shows.
pub(super) struct Canvas {
    size: Size,
    /// Row by row; none: nothing is known of it.
    shown: Vec<Option<Cell>>,
    cursor: Option<(u16, u16)>,
    /// Which part is shown, while nothing lies over it.
    window: Option<Window>,
    modes: String,
    /// Where nothing is shown.
    blank: Screen,
}

/// Which part of a screen is seen: the one with the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    top: u16,
    left: u16,
}

impl Window {
    fn of(screen: &Screen, size: Size) -> Self {
        let (row, col) = screen.cursor().unwrap_or_default();
        let beyond = |place: u16, side: u16| (place + 1).saturating_sub(side);
        Self { top: beyond(row, size.rows()), left: beyond(col, size.cols()) }
    }
}

impl Canvas {
    /// A terminal of this size that shows anything.
    pub(super) fn new(size: Size) -> Self {
        let cells = usize::from(size.rows()) * usize::from(size.cols());
        Self {
            size,
            shown: vec![None; cells],
            cursor: None,
            window: None,
            modes: String::new(),
            blank: Screen::new(size),
        }
    }

    /// How large the user's terminal is.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// The user's terminal has this size now, and shows anything.
    pub(super) fn resize(&mut self, size: Size) {
        let modes = std::mem::take(&mut self.modes);
        *self = Self { modes, ..Self::new(size) };
    }

    /// What to write so that it shows `screen`, under a notice in the last row. `only` is the one
    /// row of it that changed since, where there is no more.
    pub(super) fn draw(
        &mut self,
        screen: &Screen,
        notice: Option<&str>,
        only: Option<u16>,
    ) -> Vec<u8> {
        let window = Window::of(screen, self.size);
        let is_known = notice.is_none() && self.window == Some(window);
        self.window = notice.is_none().then_some(window);
        let only = only.filter(|_| is_known).map(|row| row.saturating_sub(window.top));
        let rows = only.map_or(0..self.size.rows(), |row| row..(row + 1).min(self.size.rows()));
        let notice = notice.map(|text| line(text, self.size));
        let last = self.size.rows() - 1;
        let mut pen = Pen::default();
        for row in rows {
            for col in 0..self.size.cols() {
                let cell = match &notice {
                    Some(notice) if row == last => notice.cell(0, col),
                    _ => screen.cell(window.top + row, window.left + col),
                };
                // half of a wide character is none
                let is_cut = cell.is_some_and(|cell| {
                    (cell.is_wide() && col + 1 == self.size.cols())
                        || (cell.is_wide_continuation() && col == 0)
                });
                let cell = cell.filter(|_| !is_cut).or_else(|| self.blank.cell(row, col));
                let place = usize::from(row) * usize::from(self.size.cols()) + usize::from(col);
                let (Some(cell), Some(shown)) = (cell, self.shown.get_mut(place)) else {
                    continue;
                };
                if shown.as_ref() != Some(cell) {
                    pen.put(row, col, cell);
                    *shown = Some(cell.clone());
                }
            }
        }
        let cursor = screen.cursor().map(|(row, col)| (row - window.top, col - window.left));
        self.finish(pen, cursor)
    }

    /// Adds what makes the terminal send keys as the agent's modes say.
    pub(super) fn follow_modes(&mut self, screen: &Screen, out: &mut Vec<u8>) {
        /// Back to the first state: the model tells only of what is on.
        const OFF: &str = "\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[0 q";
        let modes = screen.modes();
        if modes != self.modes {
            out.extend_from_slice(OFF.as_bytes());
            out.extend_from_slice(modes.as_bytes());
            self.modes = modes;
        }
    }

    fn finish(&mut self, pen: Pen, cursor: Option<(u16, u16)>) -> Vec<u8> {
        if pen.out.is_empty() && cursor == self.cursor {
            return Vec::new();
        }
        self.cursor = cursor;
        let mut out = b"\x1b[?25l".to_vec();
        out.extend(pen.out);
        out.extend_from_slice(b"\x1b[m");
        if let Some((row, col)) = cursor {
            out.extend_from_slice(format!("\x1b[{};{}H\x1b[?25h", row + 1, col + 1).as_bytes());
        }
        out
    }
}

/// Writes cells, and remembers where it is and how it writes.
#[derive(Default)]
struct Pen {
    out: Vec<u8>,
    /// Where the next character goes; none where terminals may differ.
    at: Option<(u16, u16)>,
    style: Option<Style>,
}

impl Pen {
    fn put(&mut self, row: u16, col: u16, cell: &Cell) {
        if cell.is_wide_continuation() {
            return;
        }
        if self.at != Some((row, col)) {
            self.out.extend_from_slice(format!("\x1b[{};{}H", row + 1, col + 1).as_bytes());
        }
        let style = Style::of(cell);
        if self.style != Some(style) {
            style.write(&mut self.out);
            self.style = Some(style);
        }
        let before = self.out.len();
        for c in cell.contents().chars().filter(|c| !drives(*c)) {
            self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if self.out.len() == before {
            self.out.push(b' ');
        }
        let is_plain = self.out[before..].is_ascii() && !cell.is_wide();
        self.at = is_plain.then_some((row, col + 1));
    }
}

/// Whether a character does something to a terminal, or turns the direction of text so that it
/// reads otherwise than it is.
fn drives(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A notice as a screen of one row.
fn line(text: &str, size: Size) -> Screen {
    let mut line = Screen::new(Size::new(1, size.cols()).unwrap_or(size));
    let short: String = text.chars().take(usize::from(size.cols()).saturating_sub(2)).collect();
    line.feed(format!("\x1b[7m {short} ").as_bytes());
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(rows: u16, cols: u16) -> Size {
        Size::new(rows, cols).unwrap()
    }

    fn screen(rows: u16, cols: u16, text: &str) -> Screen {
        let mut screen = Screen::new(size(rows, cols));
        screen.feed(text.as_bytes());
        screen
    }

    /// A user's terminal to which this was written.
    fn terminal(canvas: &Canvas, written: &[&[u8]]) -> Screen {
        let mut terminal = Screen::new(canvas.size());
        for bytes in written {
            terminal.feed(bytes);
        }
        terminal
    }

    /// What a screen shows, without the blanks that were drawn behind it.
    fn rows(screen: &Screen) -> String {
        let rows: Vec<_> = screen.text().lines().map(|row| row.trim_end().to_owned()).collect();
        rows.join("\n").trim_end().to_owned()
    }

    #[test]
    fn what_fits_is_shown_and_changes_alone_are_written() {
        let mut canvas = Canvas::new(size(3, 20));
        let mut agent = screen(3, 20, "one\r\n\x1b[31mtwo");
        let first = canvas.draw(&agent, None, None);
        assert_eq!(rows(&terminal(&canvas, &[&first])), "one\ntwo");
        assert!(canvas.draw(&agent, None, None).is_empty());
        agent.feed(b"!");
        let second = canvas.draw(&agent, None, None);
        assert!(second.len() < 60, "{:?}", String::from_utf8_lossy(&second));
        let shown = terminal(&canvas, &[&first, &second]);
        assert_eq!((rows(&shown), shown.cursor()), (rows(&agent), agent.cursor()));
    }

    #[test]
    fn a_smaller_terminal_sees_the_part_with_the_cursor() {
        let agent = screen(4, 10, "1234567890\r\nabcdefghij\r\nABC猫\r\nlast");
        let mut canvas = Canvas::new(size(2, 5));
        let first = canvas.draw(&agent, None, None);
        assert_eq!(rows(&terminal(&canvas, &[&first])), "ABC猫\nlast");
        let mut canvas = Canvas::new(size(2, 4));
        let agent = screen(4, 10, "ABC猫\r\nabcd\x1b[H");
        let first = canvas.draw(&agent, None, None);
        assert_eq!(rows(&terminal(&canvas, &[&first])), "ABC\nabcd");
        let mut canvas = Canvas::new(size(6, 20));
        let first = canvas.draw(&screen(2, 5, "small"), None, None);
        assert_eq!(rows(&terminal(&canvas, &[&first])), "small");
    }

    #[test]
    fn a_notice_lies_over_the_last_row_and_goes() {
        let agent = screen(2, 20, "one\r\ntwo");
        let mut canvas = Canvas::new(size(2, 20));
        let first = canvas.draw(&agent, Some("read-only"), None);
        assert_eq!(rows(&terminal(&canvas, &[&first])), "one\n read-only");
        let second = canvas.draw(&agent, None, None);
        assert_eq!(rows(&terminal(&canvas, &[&first, &second])), "one\ntwo");
    }

    #[test]
    fn modes_are_followed_when_they_change() {
        let mut canvas = Canvas::new(size(2, 20));
        let mut agent = screen(2, 20, "\x1b[?2004h\x1b[?1h\x1b[?1000h\x1b[?1006h");
        let mut out = Vec::new();
        canvas.follow_modes(&agent, &mut out);
        assert_eq!(terminal(&canvas, &[&out]).modes(), agent.modes());
        agent.feed(b"\x1b[?1000l\x1b[?2004l");
        canvas.follow_modes(&agent, &mut out);
        assert_eq!(terminal(&canvas, &[&out]).modes(), agent.modes());
        let before = out.len();
        canvas.follow_modes(&agent, &mut out);
        assert_eq!(out.len(), before);
    }

    /// Whether only cursor moves, looks and characters are in it.
    fn is_harmless(written: &[u8]) -> bool {
        let text = String::from_utf8(written.to_vec()).unwrap();
        let known = regex::Regex::new("\x1b\\[([0-9;]*[mH]|\\?25[hl])").unwrap();
        known.replace_all(&text, "").chars().all(|c| !drives(c))
    }

    #[test]
    fn f49_clipboard_title_links_and_queries_reach_no_terminal() {
        let payload = "a\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x1b\\\x1b]8;;http://evil\x1b\\b\x1b[6n\x1b[c\
            \x1b[>c\x1bP+q544e\x1b\\\u{9d}52;c;eA==\u{9c}\u{9b}2J\x1b[21t\x1b[?1004h\x07x\u{202e}gnp.exe";
        let mut canvas = Canvas::new(size(3, 60));
        let written = canvas.draw(&screen(3, 60, payload), None, None);
        assert!(is_harmless(&written), "{:?}", String::from_utf8_lossy(&written));
    }

    proptest! {
        #[test]
        fn f49_whatever_is_printed_only_looks_and_moves_are_written(
            pieces in prop::collection::vec(prop_oneof![
                prop::sample::select(vec![
                    "\x1b", "\x1b[", "\x1b]", "\x07", "\x1b\\", "31m", "猫", "e\u{301}", "\u{9b}", "\u{202e}",
                    "52;c;eA==", "6n", "\r\n", "text", "\x1b[7m", "\x1b[3;3H",
                ]).prop_map(|text| text.as_bytes().to_vec()),
                any::<u8>().prop_map(|byte| vec![byte]),
            ], 0..60),
            (rows, cols) in (1u16..6, 1u16..14),
        ) {
            let mut agent = Screen::new(size(5, 12));
            let mut canvas = Canvas::new(size(rows, cols));
            let mut written = Vec::new();
            for piece in pieces {
                agent.feed(&piece);
                written.extend(canvas.draw(&agent, None, None));
            }
            prop_assert!(is_harmless(&written), "{:?}", String::from_utf8_lossy(&written));
        }

        #[test]
        fn one_row_drawn_shows_what_all_rows_drawn_show(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "a", "bc", "猫", "e\u{301}", "\r", "\x08", "\t", "\r\n", "\x1b[K", "\x1b[7m", "\x1b[m",
                "\x1b[2;3H", "\x1b[", "text and more", "❤\u{fe0f}", "\x1b[A",
            ]), 0..60),
            (rows, cols) in (1u16..6, 1u16..14),
        ) {
            let mut agent = Screen::new(size(5, 12));
            let (mut all, mut one) = (Canvas::new(size(rows, cols)), Canvas::new(size(rows, cols)));
            for piece in pieces {
                let only = agent.only_row(piece.as_bytes());
                agent.feed(piece.as_bytes());
                all.draw(&agent, None, None);
                one.draw(&agent, None, only);
                prop_assert_eq!(&all.shown, &one.shown, "{:?}", piece);
                prop_assert_eq!(all.cursor, one.cursor);
            }
        }
    }
}
