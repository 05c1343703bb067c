//! A state folder with nothing of this machine in it, and what runs on it.

use crate::http::Api;
use crate::must;
use crate::process::{self, Process};
use crate::program::{Ran, fault_program, hayward, run};
use crate::script::{Script, Step};
use crate::wait;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A state folder, a user's home and an environment of their own. Whatever was started on it is
/// ended, each process by its id, when this goes.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    variables: BTreeMap<String, String>,
    program: PathBuf,
}

impl Home {
    /// A new one, in which nothing runs.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("hw-").tempdir();
        let folder = must("make a folder", folder);
        let home = Self { folder, variables: BTreeMap::new(), program: hayward() };
        for folder in [home.state(), home.user(), home.files(), home.bin()] {
            must("make a folder", fs::create_dir_all(folder));
        }
        home
    }

    /// A new one whose programs suffer `fault` (`NAME[:N]` to be killed at a point, `NAME=fail` to
    /// fail there), a kill once only; none, and said so, without the build that has fault points.
    #[must_use]
    pub fn armed(test: &str, fault: &str) -> Option<Self> {
        let Some(program) = fault_program() else {
            crate::skip(test, "HAYWARD_FAULT_BIN names no build with fault points");
            return None;
        };
        let mut home = Self::new();
        home.program = program;
        home.set("HAYWARD_FAULT", fault);
        let marker = home.file("fault-hit").to_string_lossy().into_owned();
        home.set("HAYWARD_FAULT_ONCE", &marker);
        Some(home)
    }

    /// Whether the point of [`Self::armed`] was reached.
    #[must_use]
    pub fn was_hit(&self) -> bool {
        self.file("fault-hit").exists()
    }

    /// The state folder, `HAYWARD_HOME`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The user's home, `HOME`.
    #[must_use]
    pub fn user(&self) -> PathBuf {
        self.folder.path().join("user")
    }

    /// Where scripted agents leave what they tell the test, and find what it tells them.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// A file of [`Self::files`].
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.files().join(name)
    }

    /// A folder on the PATH, first.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// Makes a file that scripted agents may wait for.
    pub fn open_gate(&self, name: &str) {
        must("open a gate", fs::write(self.file(name), "open"));
    }

    /// The text of a file of [`Self::files`]; empty when it is not there.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// How many agents signed a ledger.
    #[must_use]
    pub fn starts(&self, ledger: &str) -> usize {
        self.read(ledger).lines().filter(|line| line.starts_with("start ")).count()
    }

    /// The agents that signed a ledger.
    #[must_use]
    pub fn signed(&self, ledger: &str) -> Vec<Process> {
        let text = self.read(ledger);
        let rows = text.lines().filter_map(|line| line.strip_prefix("start "));
        let read = |row: &str| {
            let (pid, start) = row.split_once(' ')?;
            Some(Process { pid: pid.parse().ok()?, start: start.parse().ok()? })
        };
        rows.filter_map(read).collect()
    }

    /// Writes `config.toml`.
    pub fn configure(&self, text: &str) {
        must("write the configuration", fs::write(self.state().join("config.toml"), text));
    }

    /// Sets a variable for everything that is started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Takes it back.
    pub fn unset(&mut self, name: &str) {
        self.variables.remove(name);
    }

    /// The binary under test, with an environment that holds nothing but what is said here.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.bin().display());
        command.env("PATH", path).env("HOME", self.user()).env("SHELL", "/bin/sh");
        command.env("LANG", "C.UTF-8").env("HAYWARD_HOME", self.state());
        command.envs(&self.variables).current_dir(self.user()).args(arguments);
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Runs it in a folder to its end.
    #[track_caller]
    pub fn run_in(&self, folder: &Path, arguments: &[&str]) -> Ran {
        run(self.command(arguments).current_dir(folder))
    }

    /// Runs it with `--json`; it must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[&["--json"], arguments].concat()).expect(0).json()
    }

    /// Starts daemon and relay.
    #[track_caller]
    pub fn up(&self) -> Daemon {
        let told = self.json(&["up", "--detach"]);
        let pid = told["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let process = Process::of(pid);
        let process = must("find the daemon that `up` named", process.ok_or(told.to_string()));
        Daemon { process, told }
    }

    /// The user's token.
    #[must_use]
    pub fn token(&self) -> String {
        let text = fs::read_to_string(self.state().join("token")).unwrap_or_default();
        text.trim().to_owned()
    }

    /// The relay's HTTP interface, for the user.
    #[must_use]
    pub fn api(&self, daemon: &Daemon) -> Api {
        Api::new(daemon.told["relay"].as_str().unwrap_or_default(), &self.token())
    }

    /// Submits a scripted agent and does not wait; the new task.
    #[track_caller]
    pub fn submit(&self, folder: &Path, options: &[&str], script: &Script) -> Value {
        self.submit_command(folder, options, &script.command())
    }

    /// Submits a command and does not wait; the new task.
    #[track_caller]
    pub fn submit_command(&self, folder: &Path, options: &[&str], command: &[String]) -> Value {
        let words = words(&["--json", "run", "--detach"], options, command);
        self.run_in(folder, &borrowed(&words)).expect(0).json()
    }

    /// Submits an agent that prints until the file `gate` is there, and keeps what it printed in the
    /// file `printed`; the task once it is running.
    #[track_caller]
    pub fn stream(&self, folder: &Path) -> Value {
        let script = Script::new()
            .then(Step::Raw)
            .then(Step::Stream { ledger: self.file("printed"), until: self.file("gate") });
        self.reaches(&self.submit(folder, &["--on", "none"], &script), "running")
    }

    /// Runs a scripted agent to its end.
    #[track_caller]
    pub fn follow(&self, folder: &Path, options: &[&str], script: &Script) -> Ran {
        let words = words(&["--json", "run"], options, &script.command());
        self.run_in(folder, &borrowed(&words))
    }

    /// Starts a command whose end the caller awaits; it reads nothing, and what it says goes to
    /// files `NAME.out` and `NAME.err`.
    #[track_caller]
    pub fn spawn(&self, name: &str, folder: &Path, arguments: &[&str]) -> Child {
        let file = |ending: &str| {
            must("make a file", fs::File::create(self.file(&format!("{name}.{ending}"))))
        };
        let mut command = self.command(arguments);
        command.current_dir(folder).stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        must("start a command", command.spawn())
    }

    /// The task as it stands.
    #[track_caller]
    pub fn task(&self, task: &Value) -> Value {
        self.json(&["task", "show", id(task)])
    }

    /// Waits until the task has this status; the task then.
    #[track_caller]
    pub fn reaches(&self, task: &Value, status: &str) -> Value {
        let mut last = Value::Null;
        let begin = std::time::Instant::now();
        loop {
            let shown = self.run(&["--json", "task", "show", id(task)]);
            if shown.code == 0 {
                last = shown.json();
            }
            if last["status"] == status {
                return last;
            }
            let is_final = ["completed", "failed", "cancelled", "timed_out"]
                .contains(&last["status"].as_str().unwrap_or_default());
            assert!(
                !is_final && begin.elapsed() < wait::LONG * 2,
                "the task does not become {status}: {last:#}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All its events, in order.
    #[track_caller]
    pub fn events(&self, task: &Value) -> Vec<Value> {
        let ran = self.run(&["--json", "task", "events", id(task)]).expect(0);
        let text = ran.text();
        text.lines().map(|line| must("read an event", serde_json::from_str(line))).collect()
    }

    /// The statuses that its events tell, in order.
    #[track_caller]
    pub fn statuses(&self, task: &Value) -> Vec<String> {
        let events = self.events(task);
        let changes = events.iter().filter(|event| event["type"] == "task.status_changed");
        let new = |event: &Value| event["payload"]["newStatus"].as_str().map(str::to_owned);
        changes.filter_map(new).collect()
    }

    /// The exact bytes that its agent printed.
    #[track_caller]
    pub fn output(&self, task: &Value) -> Vec<u8> {
        self.run(&["logs", id(task), "--raw"]).expect(0).stdout
    }

    /// The end of the daemon's log, for a failing test.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.state().join("logs/daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // the daemon first, lest it start anything anew; a keeper ends its tree when it is asked,
        // but what is asked here is that nothing stays
        for _ in 0..3 {
            let left = process::of_folder(self.folder.path());
            for process in &left {
                process.signal(Signal::SIGKILL);
            }
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

/// A daemon that `up` started in the background.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Its process.
    pub process: Process,
    /// What `up` printed.
    pub told: Value,
}

impl Daemon {
    /// Ends it as a crash does.
    pub fn crash(&self) {
        self.process.kill();
    }
}

/// A task's id.
#[track_caller]
#[must_use]
pub fn id(task: &Value) -> &str {
    must("find the id of a task", task["id"].as_str().ok_or(task))
}

fn words(before: &[&str], options: &[&str], command: &[String]) -> Vec<String> {
    let own = before.iter().chain(options).chain(&["--"]).map(|word| (*word).to_owned());
    own.chain(command.iter().cloned()).collect()
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
