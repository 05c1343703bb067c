//! How a character looks, as the sequence that makes it look so.

use std::io::Write;
use vt100::{Cell, Color};

/// The attributes of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    foreground: Color,
    background: Color,
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
    inverse: bool,
}

impl Style {
    /// That of a cell.
    #[must_use]
    pub fn of(cell: &Cell) -> Self {
        Self {
            foreground: cell.fgcolor(),
            background: cell.bgcolor(),
            bold: cell.bold(),
            dim: cell.dim(),
            italic: cell.italic(),
            underline: cell.underline(),
            inverse: cell.inverse(),
        }
    }

    /// Writes the one SGR sequence that sets all of it, whatever was set before.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\x1b[0");
        let flags = [
            (self.bold, 1),
            (self.dim, 2),
            (self.italic, 3),
            (self.underline, 4),
            (self.inverse, 7),
        ];
        for (_, code) in flags.iter().filter(|(is_set, _)| *is_set) {
            out.extend_from_slice(format!(";{code}").as_bytes());
        }
        for (colour, plain, bright, extended) in
            [(self.foreground, 30, 90, 38), (self.background, 40, 100, 48)]
        {
            let code = match colour {
                Color::Default => continue,
                Color::Idx(index @ 0..=7) => format!(";{}", plain + u16::from(index)),
                Color::Idx(index @ 8..=15) => format!(";{}", bright + u16::from(index) - 8),
                Color::Idx(index) => format!(";{extended};5;{index}"),
                Color::Rgb(red, green, blue) => format!(";{extended};2;{red};{green};{blue}"),
            };
            // writing to memory cannot fail
            drop(out.write_all(code.as_bytes()));
        }
        out.push(b'm');
    }
}
