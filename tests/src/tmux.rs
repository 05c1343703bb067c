//! Real terminals for the commands that need one: tmux, seen through its captures.

use crate::home::Home;
use crate::must;
use crate::program::hayward;
use crate::wait;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}
