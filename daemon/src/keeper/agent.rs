//! Starting the agent, in two steps, so that neither needs `unsafe`: the keeper starts its own
//! program again with the agent's streams and environment ([`start`]); that process sets right
//! what is not yet as a fresh login has it, enters the folder and becomes the agent
//! ([`become_agent`]). Its pid and start time stay the same throughout.
//!
//! With a terminal, the terminal crate makes the session and gives it the terminal; with pipes,
//! the second step makes the session.

use super::descriptor;
use super::folder::{Launch, LaunchFault, MAX_SIDE, Mode, RUN_VARIABLE, Record, RunFolder};
use crate::process::ProcessId;
use nix::sys::signal::{SigSet, Signal};
use portable_pty::{CommandBuilder, PtySize, SlavePty, native_pty_system};
use rustix::termios::{Winsize, tcsetwinsize};
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tokio::signal::unix::SignalKind;

/// The word by which the program is told to become the agent of a run folder.
pub const BECOME_AGENT: &str = "become-agent";

/// Our own program, also when its file was replaced since.
const OURSELVES: &str = "/proc/self/exe";
/// Stands for an agent's environment that names no shell. The terminal crate adds the user's where
/// none is named, after a search of the user database: any program spares that, and this one is
/// nobody's shell. The second step takes it away.
const NO_SHELL: &str = OURSELVES;
/// The variable that names the user's shell.
const SHELL: &str = "SHELL";

/// The longest variable, `NAME=value`, in bytes: what Linux passes on, less the end's mark.
const MAX_VARIABLE: usize = (128 << 10) - 1;
/// The largest environment, in bytes: half of what Linux passes on with its usual stack limit, the
/// other half being for arguments. What exceeds either is refused here, because the terminal crate
/// hides that a program could not be started at all.
const MAX_ENVIRONMENT: usize = 1 << 20;

/// A started agent and the keeper's ends of its streams.
pub(super) struct Agent {
    pub(super) id: ProcessId,
    pub(super) streams: Streams,
}

/// The keeper's ends of the agent's streams.
pub(super) enum Streams {
    /// `held` is the agent's end. While the keeper holds it too, the output cannot end early when
    /// the agent closes its own for a moment.
    Terminal { master: OwnedFd, held: Box<dyn SlavePty + Send> },
    /// Standard input, output and error.
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
}

/// Starts the agent of `folder`, and never waits for it: the keeper's loop reaps all that ends.
pub(super) fn start(launch: &Launch, folder: &RunFolder) -> Result<Agent, LaunchFault> {
    check(launch)?;
    let (pid, streams) = match launch.mode {
        Mode::Pty { rows, cols } => in_terminal(launch, folder, rows, cols)?,
        Mode::Pipe => with_pipes(launch, folder).map_err(no_resources)?,
    };
    let pid = i32::try_from(pid).unwrap_or_default();
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
        _ => match excess(&launch.env) {
            Some(excess) => excess,
            None => return Ok(()),
        },
    };
    Err(LaunchFault::BadLaunch { detail })
}

/// What of an environment is more than a process can be started with.
fn excess(env: &BTreeMap<String, String>) -> Option<String> {
    let len = |(name, value): (&String, &String)| name.len() + 1 + value.len();
    if let Some((name, _)) = env.iter().find(|one| len(*one) > MAX_VARIABLE) {
        return Some(format!("its variable {name} is longer than {MAX_VARIABLE} bytes"));
    }
    // each has an end's mark and a pointer besides
    let all: usize = env.iter().map(|one| len(one) + 9).sum();
    (all > MAX_ENVIRONMENT)
        .then(|| format!("its environment has {all} bytes, more than {MAX_ENVIRONMENT}"))
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

fn in_terminal(
    launch: &Launch,
    folder: &RunFolder,
    rows: u16,
    cols: u16,
) -> Result<(u32, Streams), LaunchFault> {
    let refused = |detail: String| LaunchFault::NoResources { detail };
    let size = PtySize { rows, cols, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).map_err(|fault| refused(format!("{fault:#}")))?;
    let number = pair.master.as_raw_fd();
    let number = number.ok_or_else(|| refused("its terminal has no descriptor".to_owned()))?;
    // the first of the two is closed at this function's end
    let master = descriptor::owned(number).map_err(no_resources)?;
    let mut command = CommandBuilder::new(OURSELVES);
    command.args([OsStr::new(BECOME_AGENT), folder.path().as_os_str()]);
    command.cwd(folder.path());
    command.env_clear();
    command.env(SHELL, NO_SHELL);
    for (name, value) in &launch.env {
        command.env(name, value);
    }
    let child = pair.slave.spawn_command(command).map_err(|fault| refused(format!("{fault:#}")))?;
    let pid = child.process_id().ok_or_else(|| refused("the agent has no pid".to_owned()))?;
    Ok((pid, Streams::Terminal { master, held: pair.slave }))
}

fn with_pipes(launch: &Launch, folder: &RunFolder) -> io::Result<(u32, Streams)> {
    let (their_input, stdin) = io::pipe()?;
    let (stdout, their_output) = io::pipe()?;
    let (stderr, their_error) = io::pipe()?;
    let mut command = Command::new(OURSELVES);
    command.arg0("hayward").arg(BECOME_AGENT).arg(folder.path());
    command.env_clear().envs(&launch.env);
    command.stdin(their_input).stdout(their_output).stderr(their_error);
    let pid = command.spawn()?.id();
    let (stdin, stdout, stderr) = (stdin.into(), stdout.into(), stderr.into());
    Ok((pid, Streams::Pipes { stdin, stdout, stderr }))
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
    if launch.mode == Mode::Pipe
        && let Err(fault) = nix::unistd::setsid()
    {
        return no_resources(fault.into());
    }
    if launch.fenced
        && let Err(fault) = die_with_keeper(folder)
    {
        return no_resources(fault);
    }
    let defaults = match default_signals() {
        Ok(defaults) => defaults,
        Err(fault) => return no_resources(fault),
    };
    if let Err(fault) = env::set_current_dir(&launch.cwd) {
        return LaunchFault::NoFolder { path: launch.cwd, detail: fault.to_string() };
    }
    let mut command = Command::new(program);
    if env::var_os(SHELL).is_some_and(|shell| shell == NO_SHELL) {
        command.env_remove(SHELL);
    }
    let fault = command.args(arguments).exec();
    drop(defaults);
    match fault.kind() {
        io::ErrorKind::NotFound => LaunchFault::NoProgram { program: program.clone() },
        _ => LaunchFault::NotExecutable { program: program.clone(), detail: fault.to_string() },
    }
}

/// Lets the agent end at once when its keeper does: nobody else would watch when it must be over.
fn die_with_keeper(folder: &RunFolder) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let keeper = folder.read::<Record>()?.ok_or(io::ErrorKind::NotFound)?.keeper;
    // it may have ended before that was asked for
    if keeper.pid != nix::unistd::getppid().as_raw() {
        return Err(io::Error::other("its keeper is gone"));
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
    fn an_environment_is_measured_as_the_kernel_does() {
        let one = |len| BTreeMap::from([("V".to_owned(), "x".repeat(len))]);
        assert_eq!(excess(&one(MAX_VARIABLE - 2)), None);
        assert!(excess(&one(MAX_VARIABLE - 1)).unwrap().contains("variable V"));
        let many = |count| (10..10 + count).map(|i| (i.to_string(), "x".repeat(65_524))).collect();
        assert_eq!(excess(&many(16)), None);
        assert!(excess(&many(17)).is_some());
    }

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\tffff\nSigIgn:\t0000000000001003\nSigCgt:\t0\n";
        assert_eq!(ignored_signals(status), [1, 2]);
        assert!(ignored_signals("").is_empty());
    }
}
