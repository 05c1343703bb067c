//! The keeper: a small detached process that owns one agent's session, so that the agent outlives
//! the daemon.
//!
//! One loop does everything (`session`): it reads the agent's streams into their rings (`output`),
//! reaps, serves clients, types input and runs what the pure `machine` decides about the end. The keeper is the subreaper of its tree, so nothing of it escapes by forking or
//! by a session of its own. Everything a daemon must know is in the run folder (`folder`); the
//! socket (`wire`) is for what only a living keeper can do.

mod agent;
mod client;
mod descriptor;
mod doors;
pub mod fence;
pub mod folder;
mod input;
mod machine;
mod output;
mod pace;
mod session;
mod streams;
mod tree;
pub mod wire;

pub use agent::{BECOME_AGENT, become_agent};
pub use fence::Fence;
pub use folder::{Exit, How, Launch, LaunchFault, Mode, RunFolder};

use crate::process::{self, ProcessId};
use crate::terminal::ring::RingWriter;
use crate::{clock, keeper::agent::Agent};
use doors::Doors;
use fence::Watch;
use folder::{Owner, Record};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use session::Session;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use wire::SOCKET_VERSION;

/// The name of the socket in a run folder.
pub const SOCKET: &str = "socket";

/// How much standard error is kept, in bytes: it is for finding faults, not for reading along.
const STDERR_RING: u64 = 1 << 20;

/// Why a keeper ended without an exit record.
#[derive(Debug, thiserror::Error)]
pub enum KeeperFault {
    /// Somebody else owns the run folder already; nothing was started.
    #[error("the run folder {0} has an owner already; nothing was started")]
    Owned(String),
    /// The launch record is not there.
    #[error("the run folder {0} holds no launch record; nothing was started")]
    NoLaunch(String),
    /// The system refused what a keeper needs.
    #[error("the keeper could not {doing}")]
    System {
        /// What it tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Says what was being done when the system refused.
fn while_doing<F: Into<io::Error>>(doing: &'static str) -> impl Fn(F) -> KeeperFault {
    move |source| KeeperFault::System { doing, source: source.into() }
}

/// Keeps the session of the run folder at `path` until it has ended and its end is on the disk.
/// Must be called first thing in a process of its own: it takes over signals, children and the
/// working folder.
///
/// # Errors
/// The session was not started, or its end could not be recorded.
pub fn run(path: &Path) -> Result<(), KeeperFault> {
    let path = fs::canonicalize(path).map_err(while_doing("find its run folder"))?;
    let folder = RunFolder::new(&path);
    detach(&path)?;
    let record = own(&folder)?;
    let listener = listen()?;
    let rings = Rings::open(&folder, &record.launch)?;
    let fence = record.launch.fenced.then(|| Watch::begin(&folder)).transpose();
    let fence = fence.map_err(while_doing("watch when the session must be over"))?;
    let started = match &fence {
        Some(fence) if fence.is_over() => Err(LaunchFault::Fenced),
        _ => agent::start(&record.launch, &folder),
    };
    let agent = started.as_ref().ok().map(|agent| agent.id);
    let known = Record { agent, ..record.known };
    if let Err(fault) = folder.write(&known) {
        // the agent runs: it is found by its environment if it must be
        eprintln!("the agent's id could not be recorded: {fault}");
    }
    let doors = Doors::open(listener, fence)?;
    let mut session = Session::new(folder.clone(), known.run, known.keeper, doors);
    match started {
        Ok(Agent { id, streams }) => session.attend(id, streams, rings)?,
        Err(cause) => session.never_started(cause),
    }
    if let Err(fault) = folder.forget_environment() {
        eprintln!("the agent's environment could not be taken off the disk: {fault}");
    }
    session.run()
}

/// Leaves the daemon's session, keeps the terminal's and the shell's signals away, and becomes the
/// parent of every orphan below.
fn detach(path: &Path) -> Result<(), KeeperFault> {
    std::env::set_current_dir(path).map_err(while_doing("enter its run folder"))?;
    match nix::unistd::setsid() {
        // a group's leader cannot leave: it was started by hand, and stays in that session
        Ok(_) | Err(Errno::EPERM) => {}
        Err(fault) => return Err(while_doing("leave the daemon's session")(fault)),
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(while_doing("adopt orphans"))?;
    let mut blocked = doors::watched_signals();
    blocked.add(Signal::SIGHUP);
    blocked.add(Signal::SIGINT);
    blocked.thread_block().map_err(while_doing("hold signals back"))
}

/// What is known before the agent starts.
struct Owned {
    launch: Launch,
    known: Record,
}

/// Takes the folder, and records who keeps it before anything can run.
fn own(folder: &RunFolder) -> Result<Owned, KeeperFault> {
    let name = || folder.path().display().to_string();
    let boot = process::boot().map_err(while_doing("learn the boot's name"))?;
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let keeper = ProcessId::of(me).map_err(while_doing("find itself"))?;
    let keeper = keeper.unwrap_or(ProcessId { pid: me, start: 0 });
    let owner = Owner::Keeper { keeper, boot: boot.clone() };
    if !folder.write_first(&owner).map_err(while_doing("take its run folder"))? {
        return Err(KeeperFault::Owned(name()));
    }
    let launch: Option<Launch> = folder.read().map_err(while_doing("read the launch record"))?;
    let launch = launch.ok_or_else(|| KeeperFault::NoLaunch(name()))?;
    let known = Record {
        version: SOCKET_VERSION,
        run: launch.run,
        keeper,
        agent: None,
        boot,
        started_at: clock::now(),
    };
    folder.write(&known).map_err(while_doing("record itself"))?;
    Ok(Owned { launch, known })
}

/// Listens in the working folder: a name relative to it fits any depth of folders.
fn listen() -> Result<UnixListener, KeeperFault> {
    let listener = UnixListener::bind(SOCKET).map_err(while_doing("listen on its socket"))?;
    fs::set_permissions(SOCKET, Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .map_err(while_doing("guard its socket"))?;
    Ok(listener)
}

/// Where the agent's streams go. Standard error's is there in pipe mode only.
struct Rings {
    output: Option<RingWriter>,
    stderr: Option<RingWriter>,
}

impl Rings {
    fn open(folder: &RunFolder, launch: &Launch) -> Result<Self, KeeperFault> {
        let open = |dir: &Path, cap| RingWriter::open(dir, cap).map_err(while_doing("make a ring"));
        let output = Some(open(&folder.ring(), launch.ring_bytes)?);
        let stderr = match launch.mode {
            Mode::Pty { .. } => None,
            Mode::Pipe => Some(open(&folder.stderr(), STDERR_RING)?),
        };
        Ok(Self { output, stderr })
    }
}

/// Every signal that the keeper's loop reads.
fn signal_set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}
