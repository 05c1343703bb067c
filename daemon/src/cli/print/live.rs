//! The status line: the last line of a terminal, written again and again.

use super::columns;
use super::tone::{Tone, painted};
use super::width::cut;
use std::io::{self, Write};

/// Goes to the line's beginning and empties it.
const WIPE: &str = "\r\x1b[2K";

/// Columns when the terminal does not tell.
const USUAL_COLUMNS: usize = 80;

/// Owns the last line of stderr. Where stderr is no terminal it shows nothing. Dropping it wipes
/// the line.
#[derive(Debug)]
pub(crate) struct Live {
    on: bool,
    colours: bool,
    shown: Option<String>,
}

impl Live {
    pub(super) fn new(on: bool, colours: bool) -> Self {
        Self { on, colours, shown: None }
    }

    /// Whether anything is shown at all.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Shows this in place of what was there.
    pub(crate) fn show(&mut self, text: &str) {
        if !self.on || self.shown.as_deref() == Some(text) {
            return;
        }
        // the last column stays free: some terminals wrap when it is written
        let room = columns(&io::stderr()).unwrap_or(USUAL_COLUMNS).saturating_sub(1);
        let line = painted(Tone::Dim, &cut(text, room), self.colours);
        self.write(&format!("{WIPE}{line}"));
        self.shown = Some(text.to_owned());
    }

    /// Takes it away, for other lines to be printed.
    pub(crate) fn wipe(&mut self) {
        if self.shown.take().is_some() {
            self.write(WIPE);
        }
    }

    fn write(&self, text: &str) {
        let mut err = io::stderr().lock();
        // a status that cannot be shown is no fault of the command
        drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.wipe();
    }
}
