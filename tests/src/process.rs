//! Processes as the kernel shows them, told apart by number and start.

use crate::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub start: u64,
}

impl Process {
    /// Who has this number now; none when nobody has, or only an unreaped dead one.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let (_, tail) = text.rsplit_once(')')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let lives = !matches!(*fields.first()?, "Z" | "X" | "x");
        lives.then_some(Self { pid, start: fields.get(19)?.parse().ok()? })
    }

    /// Whether it runs or is stopped.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends it a signal, if it is still there.
    pub fn signal(self, signal: Signal) {
        if self.alive() {
            // it may end at this very moment, which is no fault
            let _gone = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Ends it at once and waits until it is gone.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        wait::until_true("a killed process is gone", wait::LONG, || !self.alive());
    }

    /// Its command line.
    #[must_use]
    pub fn command_line(self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }

    /// Memory that is its own, its share of what it shares included, in KiB (PSS).
    #[must_use]
    pub fn proportional_kib(self) -> Option<u64> {
        number(&fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?, "Pss:")
    }

    /// Memory that is resident, in KiB (RSS).
    #[must_use]
    pub fn resident_kib(self) -> Option<u64> {
        number(&fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?, "VmRSS:")
    }
}

fn number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Every process of the machine that this user may look at, but this one.
fn all() -> impl Iterator<Item = Process> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let rows = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = rows.filter_map(|row| row.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| *pid != own).filter_map(Process::of)
}

/// The processes whose environment holds `NAME=value` exactly.
#[must_use]
pub fn with_variable(name: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{name}={value}");
    let holds = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    all().filter(holds).collect()
}

/// The processes that have to do with a folder: it is in their command line or environment.
#[must_use]
pub fn of_folder(folder: &Path) -> Vec<Process> {
    let wanted = folder.as_os_str().as_bytes();
    let holds = |process: &Process| {
        ["cmdline", "environ"].iter().any(|file| {
            let bytes = fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
            bytes.windows(wanted.len()).any(|part| part == wanted)
        })
    };
    all().filter(holds).collect()
}

/// The keepers of a state folder.
#[must_use]
pub fn keepers(state: &Path) -> Vec<Process> {
    let state = state.to_string_lossy();
    let is_keeper = |line: &str| line.contains(" keeper ") && line.contains(&*state);
    all().filter(|process| is_keeper(&process.command_line())).collect()
}
