//! Who a process is: its number and the moment it started, so that a number used again by a
//! stranger is never taken for the process that had it before.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;

mod group;

pub(crate) use group::{Group, end_marked};

/// One process of this boot, told apart from any later one that gets the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number, as the kernel shows it in this process's namespace.
    pub pid: i32,
    /// When it started, in clock ticks since the machine booted.
    pub start: u64,
}

impl ProcessId {
    /// Who has the number `pid` now; `None` when nobody has, or only an unreaped dead one.
    ///
    /// # Errors
    /// The process table could not be read.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        Ok(row(pid)?.filter(Row::lives).map(|row| row.id))
    }

    /// Whether this very process still runs (or is stopped). An unreaped dead one does not, and
    /// one whose row cannot be read counts as living: it must not be replaced.
    #[must_use]
    pub fn alive(&self) -> bool {
        Self::of(self.pid).map_or(true, |found| found == Some(*self))
    }

    /// Sends a signal to this very process; `false` when it is gone. No other process can get the
    /// signal: the number is pinned before its start time is compared.
    ///
    /// # Errors
    /// The process is there, but belongs to somebody else, or the table could not be read.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let (Some(pid), Some(number)) = (
            rustix::process::Pid::from_raw(self.pid),
            rustix::process::Signal::from_named_raw(signal as i32),
        ) else {
            return Ok(false);
        };
        let pinned = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pinned) => Some(pinned),
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            // a kernel or sandbox without pidfd: comparing just before is the best there is
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => None,
            Err(fault) => return Err(fault.into()),
        };
        if Self::of(self.pid)? != Some(*self) {
            return Ok(false);
        }
        let sent = match &pinned {
            Some(pinned) => pidfd_send_signal(pinned, number).map_err(io::Error::from),
            None => nix::sys::signal::kill(Pid::from_raw(self.pid), signal).map_err(Into::into),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(fault) if fault.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// What the kernel's table says about one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who it is.
    pub id: ProcessId,
    /// The number of its parent.
    pub parent: i32,
    /// The number of its process group.
    pub group: i32,
    /// The number of its session.
    pub session: i32,
    /// The letter of its state, `Z` for dead and not yet reaped.
    pub state: u8,
}

impl Row {
    /// Whether it has not died yet.
    #[must_use]
    pub fn lives(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Reads the text of `/proc/PID/stat`; the name in it may hold spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let pid = head.split_once(' ')?.0.parse().ok()?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        Some(Self {
            // field 22 of the whole line; the two before the state are not in `fields`
            id: ProcessId { pid, start: fields.get(19)?.parse().ok()? },
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            state: *fields.first()?.as_bytes().first()?,
        })
    }
}

fn row(pid: i32) -> io::Result<Option<Row>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(bytes) => Ok(Row::parse(&String::from_utf8_lossy(&bytes))),
        Err(fault) if is_gone(&fault) => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn is_gone(fault: &io::Error) -> bool {
    fault.kind() == io::ErrorKind::NotFound || fault.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// All processes that are there now, dead and unreaped ones too, in no order.
///
/// # Errors
/// The process table could not be listed.
pub fn table() -> io::Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(256);
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(row) = pid.and_then(|pid| row(pid).ok().flatten()) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The living processes of `table` that descend from one of `roots`, the roots themselves left out.
#[must_use]
pub fn below(table: &[Row], roots: &[i32]) -> Vec<Row> {
    let mut known: BTreeSet<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = known.len();
        for row in table {
            if known.contains(&row.parent) && known.insert(row.id.pid) && row.lives() {
                found.push(*row);
            }
        }
        if known.len() == before {
            return found;
        }
    }
}

/// The living processes whose environment holds exactly `entry` (`NAME=value`) and that started
/// no earlier than `since` ticks after boot; never the caller. What belongs to other users is not
/// seen.
///
/// # Errors
/// The process table could not be listed.
pub fn with_environment(entry: &str, since: u64) -> io::Result<Vec<Row>> {
    let found = in_environments(since, |one| (one == entry.as_bytes()).then_some(()))?;
    Ok(found.into_iter().map(|(row, ())| row).collect())
}

/// The living processes whose environment names `variable`, each with its value; never the caller.
/// What belongs to other users is not seen, nor what is no text.
///
/// # Errors
/// The process table could not be listed.
pub fn naming(variable: &str) -> io::Result<Vec<(Row, String)>> {
    in_environments(0, |one| {
        let value = one.strip_prefix(variable.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    })
}

/// The living others that started no earlier than `since`, each with what is picked of its environment.
fn in_environments<T>(since: u64, pick: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<(Row, T)>> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let picked = |row: Row| {
        let all = fs::read(format!("/proc/{}/environ", row.id.pid)).ok()?;
        Some((row, all.split(|byte| *byte == 0).find_map(&pick)?))
    };
    let is_meant = |row: &Row| row.lives() && row.id.pid != me && row.id.start >= since;
    Ok(table()?.into_iter().filter(is_meant).filter_map(picked).collect())
}

/// The name that the kernel gave this boot: process ids of another boot mean nothing.
///
/// # Errors
/// The kernel does not tell it.
pub fn boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn me() -> ProcessId {
        ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn a_row_is_read_whatever_its_name_holds() {
        let tail = "S 7 8 9 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        for name in ["sh", "a b", "a) R 1 1", "((", ""] {
            let row = Row::parse(&format!("31 ({name}) {tail}")).unwrap();
            assert_eq!(row.id, ProcessId { pid: 31, start: 4242 });
            assert_eq!((row.parent, row.group, row.state), (7, 8, b'S'));
        }
        for text in ["", "31", "31 (sh)", "31 (sh) S 7 8", "x (sh) S 7 8"] {
            assert_eq!(Row::parse(text), None, "{text}");
        }
    }

    #[test]
    fn f03_a_number_with_another_start_is_another_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let real = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap().unwrap();
        let stale = ProcessId { start: real.start - 1, ..real };
        assert!(me().alive() && real.alive() && !stale.alive());
        assert!(!stale.signal(Signal::SIGKILL).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        assert!(real.signal(Signal::SIGKILL).unwrap());
        child.wait().unwrap();
        assert!(!real.alive() && !real.signal(Signal::SIGKILL).unwrap());
    }

    #[test]
    fn the_tree_is_walked_through_the_dead() {
        let row = |pid, parent, state| Row {
            id: ProcessId { pid, start: 1 },
            parent,
            group: pid,
            session: pid,
            state,
        };
        let table = [row(5, 4, b'R'), row(4, 3, b'Z'), row(3, 2, b'S'), row(9, 1, b'S')];
        let pids: Vec<i32> = below(&table, &[2]).iter().map(|row| row.id.pid).collect();
        assert_eq!(pids.len(), 2);
        assert!(pids.contains(&3) && pids.contains(&5));
    }
}
