//! Starting the agent, in two steps, so that neither needs `unsafe`: the keeper starts its own
//! program again with the agent's streams and environment ([`start`]); that process takes the
//! terminal as its own, enters the folder and becomes the agent ([`become_agent`]). Its pid and
//! start time stay the same throughout.

use super::folder::{Launch, LaunchFault, MAX_SIDE, Mode, RUN_VARIABLE, RunFolder};
use crate::process::ProcessId;
use nix::sys::signal::{SigSet, Signal};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tokio::signal::unix::SignalKind;

/// The word by which the program is told to become the agent of a run folder.
pub const BECOME_AGENT: &str = "become-agent";

/// A started agent and the keeper's ends of its streams.
pub(super) struct Agent {
    pub(super) id: ProcessId,
    pub(super) streams: Streams,
}

/// The keeper's ends of the agent's streams.
pub(super) enum Streams {
    /// `held` is the agent's end. While the keeper holds it too, the output cannot end early when
    /// the agent closes its own for a moment.
    Terminal { master: OwnedFd, held: OwnedFd },
    /// Standard input, output and error.
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
}

/// Starts the agent of `folder`.
pub(super) fn start(launch: &Launch, folder: &RunFolder) -> Result<Agent, LaunchFault> {
    check(launch)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("hayward").arg(BECOME_AGENT).arg(folder.path());
    command.env_clear().envs(&launch.env);
    let streams = match launch.mode {
        Mode::Pty { rows, cols } => terminal(&mut command, rows, cols),
        Mode::Pipe => pipes(&mut command),
    };
    let streams = streams.map_err(no_resources)?;
    let child = command.spawn().map_err(no_resources)?;
    // dropped without waiting: the keeper's loop reaps all that ends
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let id = ProcessId::of(pid).ok().flatten().unwrap_or(ProcessId { pid, start: 0 });
    Ok(Agent { id, streams })
}

fn check(launch: &Launch) -> Result<(), LaunchFault> {
    let detail = match launch.mode {
        _ if launch.argv.is_empty() => "it names no program".to_owned(),
        _ if !launch.cwd.is_absolute() => format!("{} is not absolute", launch.cwd.display()),
        _ if launch.env.get(RUN_VARIABLE) != Some(&launch.run.to_string()) => {
            format!("its environment does not hold {RUN_VARIABLE}={}", launch.run)
        }
        Mode::Pty { rows, cols } if !is_size(rows, cols) => {
            format!("a terminal cannot be {rows} by {cols}")
        }
        _ => return Ok(()),
    };
    Err(LaunchFault::BadLaunch { detail })
}

/// Whether a terminal can have this size.
pub(super) fn is_size(rows: u16, cols: u16) -> bool {
    (1..=MAX_SIDE).contains(&rows) && (1..=MAX_SIDE).contains(&cols)
}

/// Sets a terminal's size by either of its ends.
pub(super) fn resize(terminal: &OwnedFd, rows: u16, cols: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

fn terminal(command: &mut Command, rows: u16, cols: u16) -> io::Result<Streams> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let held = ioctl_tiocgptpeer(&master, flags)?;
    resize(&held, rows, cols)?;
    command.stdin(held.try_clone()?).stdout(held.try_clone()?).stderr(held.try_clone()?);
    Ok(Streams::Terminal { master, held })
}

fn pipes(command: &mut Command) -> io::Result<Streams> {
    let (their_input, stdin) = io::pipe()?;
    let (stdout, their_output) = io::pipe()?;
    let (stderr, their_error) = io::pipe()?;
    command.stdin(their_input).stdout(their_output).stderr(their_error);
    Ok(Streams::Pipes { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() })
}

fn no_resources(fault: io::Error) -> LaunchFault {
    LaunchFault::NoResources { detail: fault.to_string() }
}

/// Turns this process, started by the keeper of `folder`, into its agent. Returns only when that
/// failed, after the reason was recorded in the folder.
pub fn become_agent(folder: &Path) -> LaunchFault {
    let folder = RunFolder::new(folder);
    let fault = try_become(&folder);
    if let Err(unwritten) = folder.write(&fault) {
        eprintln!("the reason could not be recorded: {unwritten}");
    }
    fault
}

fn try_become(folder: &RunFolder) -> LaunchFault {
    let launch = match folder.read::<Launch>() {
        Ok(Some(launch)) => launch,
        Ok(None) => return LaunchFault::BadLaunch { detail: "it is missing".to_owned() },
        Err(fault) => return LaunchFault::BadLaunch { detail: fault.to_string() },
    };
    let Some((program, arguments)) = launch.argv.split_first() else {
        return LaunchFault::BadLaunch { detail: "it names no program".to_owned() };
    };
    if let Err(fault) = take_session(launch.mode) {
        return no_resources(fault);
    }
    let defaults = match default_signals() {
        Ok(defaults) => defaults,
        Err(fault) => return no_resources(fault),
    };
    if let Err(fault) = std::env::set_current_dir(&launch.cwd) {
        return LaunchFault::NoFolder { path: launch.cwd, detail: fault.to_string() };
    }
    let fault = Command::new(program).args(arguments).exec();
    drop(defaults);
    match fault.kind() {
        io::ErrorKind::NotFound => LaunchFault::NoProgram { program: program.clone() },
        _ => LaunchFault::NotExecutable { program: program.clone(), detail: fault.to_string() },
    }
}

/// A session of its own, and with it the terminal.
fn take_session(mode: Mode) -> io::Result<()> {
    nix::unistd::setsid()?;
    if let Mode::Pty { .. } = mode {
        rustix::process::ioctl_tiocsctty(io::stdin())?;
    }
    Ok(())
}

/// Gives the agent every signal as a fresh login has it: none blocked, none ignored.
///
/// A program started in the background by a shell script ignores interrupts, and so would all that
/// it starts. What is ignored stays so across exec, what has a handler becomes the default: so a
/// handler is set for each, and must stand until exec.
fn default_signals() -> io::Result<Option<tokio::runtime::Runtime>> {
    SigSet::empty().thread_set_mask()?;
    let ignored = ignored_signals(&fs::read_to_string("/proc/self/status")?);
    if ignored.is_empty() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    for signal in ignored {
        drop(tokio::signal::unix::signal(SignalKind::from_raw(signal))?);
    }
    drop(guard);
    Ok(Some(runtime))
}

/// The ordinary signals that `/proc/self/status` shows as ignored, save the broken pipe, which the
/// standard library ignores here and resets on exec itself.
fn ignored_signals(status: &str) -> Vec<i32> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    Signal::iterator()
        .map(|signal| signal as i32)
        .filter(|signal| *signal != Signal::SIGPIPE as i32 && mask >> (signal - 1) & 1 == 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\tffff\nSigIgn:\t0000000000001003\nSigCgt:\t0\n";
        assert_eq!(ignored_signals(status), [1, 2]);
        assert!(ignored_signals("").is_empty());
    }
}
