//! Real terminals for the commands that need one: tmux, seen through its captures.

use crate::home::Home;
use crate::must;
use crate::program::hayward;
use crate::wait;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::Chars;

/// A tmux server of its own, with terminals of any size; ended when this goes.
#[derive(Debug)]
pub struct Tmux {
    name: String,
    environment: Vec<(String, String)>,
    /// Where its shells begin: nothing of theirs is left anywhere else.
    folder: PathBuf,
}

impl Tmux {
    /// A server whose terminals have the environment of `home`'s commands; none, said by name,
    /// where tmux or one of `programs` is missing.
    #[must_use]
    pub fn start(test: &str, home: &Home, programs: &[&str]) -> Option<Self> {
        for program in programs.iter().chain(&["tmux"]) {
            let found = ["/usr/local/bin", "/usr/bin", "/bin"]
                .iter()
                .any(|folder| Path::new(folder).join(program).exists());
            if !found {
                crate::skip(test, &format!("no {program} on this machine"));
                return None;
            }
        }
        let command = home.command(&[]);
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let environment = command
            .get_envs()
            .filter_map(|(name, value)| Some((text(name), text(value?))))
            .collect();
        Some(Self { name: format!("hw-{:x}", crate::unique()), environment, folder: home.files() })
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.env_clear().envs(self.environment.clone()).env("TERM", "xterm-256color");
        command.args(["-L", &self.name, "-f", "/dev/null"]).args(arguments);
        command.current_dir(&self.folder);
        must("run tmux", command.output())
    }

    fn say(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Opens a terminal with a shell in it.
    pub fn open(&self, terminal: &str, cols: u16, rows: u16) {
        let (cols, rows) = (cols.to_string(), rows.to_string());
        self.say(&["new-session", "-d", "-s", terminal, "-x", &cols, "-y", &rows, "sh"]);
        self.say(&["set-option", "-t", terminal, "status", "off"]);
        self.say(&["resize-window", "-t", terminal, "-x", &cols, "-y", &rows]);
        let keep = format!("exec cat >> '{}'", self.kept(terminal).display());
        self.say(&["pipe-pane", "-t", terminal, &keep]);
    }

    /// Where all that is written to a terminal is kept.
    fn kept(&self, terminal: &str) -> PathBuf {
        self.folder.join(format!("{terminal}.written"))
    }

    /// How much was written to a terminal until now.
    #[must_use]
    pub fn written(&self, terminal: &str) -> usize {
        std::fs::read(self.kept(terminal)).map_or(0, |bytes| bytes.len())
    }

    /// Types a command line of the binary under test into a shell.
    pub fn hayward(&self, terminal: &str, arguments: &str) {
        let line = format!("clear; {} {arguments}; echo code=$?", hayward().display());
        self.keys(terminal, &[&line, "Enter"]);
    }

    /// Presses keys, by tmux's names or as text.
    pub fn keys(&self, terminal: &str, keys: &[&str]) {
        self.say(&[&["send-keys", "-t", terminal], keys].concat());
    }

    /// Pastes a file, as a terminal does.
    pub fn paste(&self, terminal: &str, file: &Path) {
        self.say(&["load-buffer", "-b", "paste", &file.to_string_lossy()]);
        self.say(&["paste-buffer", "-p", "-r", "-b", "paste", "-t", terminal]);
    }

    /// Changes a terminal's size.
    pub fn resize(&self, terminal: &str, cols: u16, rows: u16) {
        let (cols, rows) = (cols.to_string(), rows.to_string());
        self.say(&["resize-window", "-t", terminal, "-x", &cols, "-y", &rows]);
    }

    /// What a terminal shows, row by row, without the blanks at the right.
    #[must_use]
    pub fn text(&self, terminal: &str) -> String {
        self.say(&["capture-pane", "-p", "-t", terminal])
    }

    /// What tmux knows of a terminal, in its format language.
    #[must_use]
    pub fn tell(&self, terminal: &str, format: &str) -> String {
        self.say(&["display-message", "-p", "-t", terminal, format]).trim_end().to_owned()
    }

    /// Waits until what a terminal shows satisfies; what it shows then.
    #[track_caller]
    pub fn shows(&self, terminal: &str, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let begin = std::time::Instant::now();
        loop {
            let text = self.text(terminal);
            if is_so(&text) {
                return text;
            }
            assert!(begin.elapsed() < wait::LONG, "{terminal} never shows {what}:\n{text}");
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }

    /// Waits until a row of a terminal has these words, or had them since so much was written to it:
    /// for what stays a moment only, in which nobody may have looked.
    #[track_caller]
    pub fn showed(&self, terminal: &str, since: usize, words: &str) {
        wait::until_true(&format!("{terminal} shows '{words}'"), wait::LONG, || {
            let bytes = std::fs::read(self.kept(terminal)).unwrap_or_default();
            let (before, after) = bytes.split_at(since.min(bytes.len()));
            let mut rows = Rows::default();
            rows.take(&String::from_utf8_lossy(before), words);
            rows.take(&String::from_utf8_lossy(after), words)
        });
    }
}

/// What a terminal shows, as far as it takes to find words on it that were written piece by piece.
#[derive(Default)]
struct Rows {
    rows: BTreeMap<usize, Vec<char>>,
    row: usize,
    col: usize,
}

impl Rows {
    /// Takes what was written; whether a row had these words at any moment of it.
    fn take(&mut self, written: &str, words: &str) -> bool {
        let (mut had, mut chars) = (false, written.chars());
        while let Some(c) = chars.next() {
            if c.is_control() {
                had |= self.has(words);
            }
            match c {
                '\x1b' => self.obey(&mut chars),
                '\r' => self.col = 0,
                '\n' => self.row += 1,
                _ if c.is_control() => {}
                _ => self.put(c),
            }
        }
        had || self.has(words)
    }

    fn has(&self, words: &str) -> bool {
        let row = self.rows.get(&self.row);
        row.is_some_and(|row| row.iter().collect::<String>().contains(words))
    }

    fn put(&mut self, c: char) {
        let row = self.rows.entry(self.row).or_default();
        row.resize(row.len().max(self.col + 1), ' ');
        row[self.col] = c;
        self.col += 1;
    }

    /// Takes the rest of a sequence that began with an escape.
    fn obey(&mut self, chars: &mut Chars<'_>) {
        match chars.next() {
            Some('[') => {
                let mut numbers = String::new();
                let end = chars.find(|c| {
                    let is_end = ('@'..='~').contains(c);
                    numbers.extend((!is_end).then_some(*c));
                    is_end
                });
                let place = numbers.split_once(';').unwrap_or_default();
                let number = |text: &str| text.parse::<usize>().unwrap_or(1).saturating_sub(1);
                match end {
                    Some('H') => (self.row, self.col) = (number(place.0), number(place.1)),
                    Some('J') => self.rows.clear(),
                    _ => {}
                }
            }
            // what is left of its end is no word that is looked for
            Some(']') => drop(chars.find(|c| ['\x07', '\x1b'].contains(c))),
            Some('(' | ')') => drop(chars.next()),
            _ => {}
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[cfg(test)]
mod tests {
    use super::Rows;

    #[test]
    fn words_that_were_written_piece_by_piece_are_found_also_once_they_are_gone() {
        let mut rows = Rows::default();
        assert!(!rows.take("one\x1b]0;words\x07\r\n\x1b[2;1H\x1b[7m more", "words"));
        assert!(rows.take("\x1b[2;2Hw\x1b[2;5Hds\x1b[m\x1b[2;1H       ", "words"));
        assert!(!rows.take("\x1b[1;1Htwo", "words"));
    }
}
