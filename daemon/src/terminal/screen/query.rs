//! What programs ask of their terminal, and the answers of this one.
//!
//! The kitty keyboard query (`CSI ? u`) is left without an answer on purpose: that is how a
//! terminal says that it has no such protocol, and programs ask `CSI c` behind it to know when to
//! stop waiting.

use super::tokens::Token;
use vt100::{MouseProtocolEncoding, MouseProtocolMode};

/// The answer to a query that came when the screen stood like this; none where it is no query.
pub(super) fn answer(token: Token<'_>, screen: &vt100::Screen) -> Option<Vec<u8>> {
    match token {
        Token::Sequence([0x1b, b'[', body @ .., last]) => control(body, *last, screen),
        Token::Message(b']', body) => colour(body),
        // no termcap entry and no setting is told
        Token::Message(b'P', [b'+', b'q', ..]) => Some(b"\x1bP0+r\x1b\\".to_vec()),
        Token::Message(b'P', [b'$', b'q', ..]) => Some(b"\x1bP0$r\x1b\\".to_vec()),
        _ => None,
    }
}

fn control(body: &[u8], last: u8, screen: &vt100::Screen) -> Option<Vec<u8>> {
    let text = match (body, last) {
        (b"5", b'n') => "\x1b[0n".to_owned(),
        (b"6", b'n') => format!("\x1b[{}R", place(screen)),
        (b"?6", b'n') => format!("\x1b[?{}R", place(screen)),
        // a VT220 with colours
        (b"" | b"0", b'c') => "\x1b[?62;22c".to_owned(),
        // as new as what first reported the mouse in decimal digits, which the model understands
        (b">" | b">0", b'c') => "\x1b[>1;277;0c".to_owned(),
        (b">" | b">0", b'q') => {
            concat!("\x1bP>|hayward ", env!("CARGO_PKG_VERSION"), "\x1b\\").into()
        }
        (b"18", b't') => {
            let (rows, cols) = screen.size();
            format!("\x1b[8;{rows};{cols}t")
        }
        ([b'?', mode @ .., b'$'], b'p') => {
            let mode: u16 = std::str::from_utf8(mode).ok()?.parse().ok()?;
            format!("\x1b[?{mode};{}$y", setting(mode, screen))
        }
        ([mode @ .., b'$'], b'p') => {
            let mode: u16 = std::str::from_utf8(mode).ok()?.parse().ok()?;
            format!("\x1b[{mode};0$y")
        }
        _ => return None,
    };
    Some(text.into_bytes())
}

/// Row and column of the cursor, from 1; one that waits to wrap stands in the last column.
fn place(screen: &vt100::Screen) -> String {
    let (row, col) = screen.cursor_position();
    format!("{};{}", row + 1, (col + 1).min(screen.size().1.get()))
}

/// How a private mode stands: 1 set, 2 reset, 0 unknown.
fn setting(mode: u16, screen: &vt100::Screen) -> u8 {
    let mouse = |wanted| screen.mouse_protocol_mode() == wanted;
    let set = match mode {
        1 => screen.application_cursor(),
        9 => mouse(MouseProtocolMode::Press),
        25 => !screen.hide_cursor(),
        47 | 1047 | 1049 => screen.alternate_screen(),
        66 => screen.application_keypad(),
        1000 => mouse(MouseProtocolMode::PressRelease),
        1002 => mouse(MouseProtocolMode::ButtonMotion),
        1003 => mouse(MouseProtocolMode::AnyMotion),
        1005 => screen.mouse_protocol_encoding() == MouseProtocolEncoding::Utf8,
        1006 => screen.mouse_protocol_encoding() == MouseProtocolEncoding::Sgr,
        2004 => screen.bracketed_paste(),
        _ => return 0,
    };
    if set { 1 } else { 2 }
}

/// Colours as most terminals have them: viewers may differ, and programs ask to know dark from
/// light.
fn colour(body: &[u8]) -> Option<Vec<u8>> {
    let (number, value) = match body {
        b"10;?" | b"12;?" => (&body[..2], "ffff/ffff/ffff"),
        b"11;?" => (&body[..2], "0000/0000/0000"),
        _ => return None,
    };
    let number = std::str::from_utf8(number).unwrap_or_default();
    Some(format!("\x1b]{number};rgb:{value}\x1b\\").into_bytes())
}
