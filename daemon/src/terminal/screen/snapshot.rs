//! A screen as the bytes that make it.
//!
//! The crate tells what is visible. What is not (the screen behind the alternate one, the saved
//! cursor, the scroll region, origin mode) is asked of copies, as a program would find it out.

use super::style::Style;
use vt100::{Parser, Screen};

/// The bytes that put an empty terminal of the same size into this state.
pub(super) fn of(screen: &Screen) -> Vec<u8> {
    let mut out = Vec::new();
    if screen.alternate_screen() {
        grid(&after(screen, b"\x1b[?47l"), &mut out);
        out.extend_from_slice(b"\x1b[?6l\x1b[?47h");
    }
    grid(screen, &mut out);
    out.extend_from_slice(if screen.hide_cursor() { b"\x1b[?25l" } else { b"\x1b[?25h" });
    out.extend_from_slice(screen.input_mode_formatted().as_bytes());
    out
}

/// A copy to which this was printed.
fn after(screen: &Screen, printed: &[u8]) -> Screen {
    let (rows, cols) = screen.size();
    let mut copy = Parser::new(rows, cols, 0);
    *copy.screen_mut() = screen.clone();
    copy.process(printed);
    copy.screen().clone()
}

/// The screen that is in front, and its cursor.
fn grid(screen: &Screen, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\x1b[m");
    out.extend_from_slice(screen.contents_formatted().as_bytes());
    let (rows, cols) = screen.size();
    let top = after(screen, b"\x1b[?6h").cursor_position().0;
    let bottom = after(screen, b"\x1b[?6h\x1b[9999B").cursor_position().0;
    if (top, bottom) != (0, rows.get() - 1) {
        out.extend_from_slice(format!("\x1b[{};{}r", top + 1, bottom + 1).as_bytes());
    }
    let saved = after(screen, b"\x1b8");
    place(&saved, out);
    out.extend_from_slice(saved.attributes_formatted().as_bytes());
    out.extend_from_slice(b"\x1b7");
    place(screen, out);
    let (row, col) = screen.cursor_position();
    if col >= cols.get() {
        wrap_waiting(screen, row, out);
    }
    out.extend_from_slice(screen.attributes_formatted().as_bytes());
}

/// Sets or resets origin mode and moves the cursor: by line and by column, as these reach what a
/// cursor in origin mode can have been left at outside the region.
fn place(screen: &Screen, out: &mut Vec<u8>) {
    let (rows, cols) = screen.size();
    // in a region that begins below the first row, the first row of origin mode is another one
    let has_origin = rows.get() > 2 && after(screen, b"\x1b[2;3r\x1b[H").cursor_position().0 == 1;
    let (row, col) = screen.cursor_position();
    let (mode, col) = (if has_origin { 'h' } else { 'l' }, col.min(cols.get() - 1));
    out.extend_from_slice(format!("\x1b[?6{mode}\x1b[{}d\x1b[{}G", row + 1, col + 1).as_bytes());
}

/// Draws the last character of the row again: only that lets the cursor wait behind it.
fn wrap_waiting(screen: &Screen, row: u16, out: &mut Vec<u8>) {
    let last = screen.size().1.get() - 1;
    let is_second = screen.cell(row, last).is_some_and(vt100::Cell::is_wide_continuation);
    let col = if is_second { last - 1 } else { last };
    let Some(cell) = screen.cell(row, col).filter(|cell| cell.has_contents()) else { return };
    if is_second {
        out.push(0x08);
    }
    Style::of(cell).write(out);
    out.extend_from_slice(cell.contents().as_bytes());
}
