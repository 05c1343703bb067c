//! Everything that descends from the keeper, which is also where orphans of its tree end up.

use crate::process::{self, Row};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::io;

/// How often a tree that forks while it is stopped is looked at again.
const ROUNDS: usize = 5;

/// The living processes below the keeper.
pub(super) fn living() -> io::Result<Vec<Row>> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    Ok(process::below(&process::table()?, &[me]))
}

/// How many processes of the tree live. Zero only when the kernel agrees that no child is left:
/// the table is not read in one moment, and what forks quickly can slip through.
pub(super) fn count() -> usize {
    let seen = living().map_or(1, |rows| rows.len());
    if seen > 0 || !has_children() { seen } else { 1 }
}

fn has_children() -> bool {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::WEXITED;
    nix::sys::wait::waitid(nix::sys::wait::Id::All, flags) != Err(Errno::ECHILD)
}

/// Sends a signal to every process of the tree that `chosen` picks; how many got it.
pub(super) fn signal(signal: Signal, chosen: impl Fn(&Row) -> bool) -> io::Result<usize> {
    let mut reached = 0;
    for row in living()?.iter().filter(|row| chosen(row)) {
        match row.id.signal(signal) {
            Ok(true) => reached += 1,
            Ok(false) => {}
            Err(fault) => eprintln!("{signal} did not reach process {}: {fault}", row.id.pid),
        }
    }
    Ok(reached)
}

/// Stops the whole tree, also what is forked meanwhile.
pub(super) fn stop() -> io::Result<()> {
    for _ in 0..ROUNDS {
        if signal(Signal::SIGSTOP, |row| !matches!(row.state, b'T' | b't'))? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reaps all children that have ended.
pub(super) fn reap() -> Vec<WaitStatus> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(status) => ended.push(status),
            Err(Errno::EINTR) => {}
            Err(fault) => {
                eprintln!("children cannot be reaped: {fault}");
                return ended;
            }
        }
    }
}
