//! Sessions as the daemon holds them. A keeper owns the session; here it is started, found again
//! after a restart, and spoken to.

mod actor;
pub mod adopt;
#[cfg(feature = "simulation")]
mod apart;
mod find;
mod link;
mod screen;
mod viewers;

#[cfg(feature = "simulation")]
pub use apart::Apart;
pub use find::{Doubt, Found, clear_unrecorded, find};
pub use link::{LinkFault, WRITE_LIMIT, connect};
pub use screen::{Look, Present, Seat, Terminal};

use crate::keeper::wire::{Fault, MAX_INPUT, Request, Target};
use crate::keeper::{Exit, Launch, RunFolder};
use crate::process::ProcessId;
use crate::terminal::ring::RingReader;
use actor::{Ask, Asked};
use bytes::Bytes;
use nix::sys::signal::Signal;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

/// How long a keeper may take to be there: a few ms, unless the machine is out of breath.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked for meanwhile.
const START_LOOK: Duration = Duration::from_millis(5);
/// How many requests may wait for the actor; more make their callers wait.
const ASKS: usize = 64;
/// How long the agent may take nothing before an input fails: the promise is five seconds.
pub const PATIENCE: Duration = Duration::from_millis(4500);
/// How long the keeper may take to answer: its patience with an agent, twice, since inputs wait
/// for each other, and some breath.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// A running or ended session. Cheap to clone; when the last clone goes, the daemon lets go of the
/// session, and neither keeper nor agent notices.
#[derive(Clone, Debug)]
pub struct Session {
    folder: RunFolder,
    asks: mpsc::Sender<Ask>,
    keeper: ProcessId,
    agent: Option<ProcessId>,
    output: watch::Receiver<u64>,
    end: watch::Receiver<Option<End>>,
    terminal: Option<Terminal>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its keeper recorded it.
    Exited(Exit),
    /// Its keeper died without a record.
    Lost(Lost),
}

/// What was found of a session whose keeper died without a record. Its output is kept up to where
/// the keeper read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many of its processes still lived and were ended.
    pub ended: usize,
    /// How many could not be ended in time; zero but for what hangs inside the kernel.
    pub left: usize,
}

/// Why a session could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The run folder could not be written.
    #[error("the run folder {folder} cannot be written; is the disk full?")]
    Folder {
        /// The folder.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The keeper's program could not be started.
    #[error("the keeper {program} cannot be started")]
    Keeper {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The keeper ended at once, and started nothing. Its log in the run folder says why.
    #[error("the keeper ended before it started the agent; see {log}")]
    Refused {
        /// Where its log is.
        log: String,
    },
    /// The keeper runs but does not answer. The agent may run: find the session later.
    #[error("the keeper did not answer within {} s; it is left alone", START_LIMIT.as_secs())]
    Silent,
}

/// Why a session did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The keeper refused; says why.
    #[error("the session refused")]
    Refused(#[source] Fault),
    /// More than one call may carry; nothing was typed.
    #[error("{0} bytes are more than the {MAX_INPUT} that one input may have; nothing was typed")]
    TooLarge(usize),
    /// The session is over.
    #[error("the session has ended")]
    Ended,
    /// The keeper could not be reached or did not answer; whether it acted is not known.
    #[error("the keeper did not answer; whether it acted is not known")]
    Unknown,
}

/// Starts a keeper, and by it the agent. `folder` must not have held a session before; it is made
/// when missing. An agent that could not be started is no error here: it is how the session ended.
///
/// # Errors
/// No keeper was started, or none answers.
pub async fn start(
    folder: &RunFolder,
    launch: &Launch,
    keeper_program: &Path,
) -> Result<Session, StartError> {
    let failed =
        |source| StartError::Folder { folder: folder.path().display().to_string(), source };
    folder.create().and_then(|()| folder.write(launch)).map_err(failed)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.log())
        .map_err(failed)?;
    let program = || keeper_program.display().to_string();
    let mut child = Command::new(keeper_program)
        .arg("keeper")
        .arg(folder.path())
        .env_clear()
        // each arena would cost the small keeper its own pages
        .env("MALLOC_ARENA_MAX", "1")
        // or the terminal crate searches the user database, which loads code and may be remote
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(false)
        .spawn()
        .map_err(|source| StartError::Keeper { program: program(), source })?;
    let deadline = Instant::now() + START_LIMIT;
    while Instant::now() < deadline {
        let gone = child.try_wait().map_err(failed)?.is_some();
        match find::probe(folder).await {
            find::Probe::Live(link) => return Ok(actor::attend(folder.clone(), link, Some(child))),
            find::Probe::Ended(exit) => return Ok(Session::over(folder, &exit, Some(child))),
            find::Probe::Dead(record) if gone => {
                // it may have started the agent before it died
                find::clear(record.as_ref(), folder).await;
                forget(folder);
                return Err(StartError::Refused { log: folder.log().display().to_string() });
            }
            _ if gone => {
                forget(folder);
                return Err(StartError::Refused { log: folder.log().display().to_string() });
            }
            _ => sleep(START_LOOK).await,
        }
    }
    Err(StartError::Silent)
}

/// Nothing reads the environment any more, and there may be secrets in it.
fn forget(folder: &RunFolder) {
    if let Err(fault) = folder.forget_environment() {
        tracing::warn!(%fault, "an agent's environment is left in its run folder");
    }
}

impl Session {
    /// A session that ended before it was spoken to.
    fn over(folder: &RunFolder, exit: &Exit, keeper: Option<Child>) -> Self {
        let record = folder.read::<crate::keeper::folder::Record>().ok().flatten();
        let nobody = ProcessId { pid: 0, start: 0 };
        let (asks, _) = mpsc::channel(1);
        if let Some(mut child) = keeper {
            tokio::spawn(async move { child.wait().await });
        }
        Self {
            folder: folder.clone(),
            asks,
            keeper: record.as_ref().map_or(nobody, |record| record.keeper),
            agent: record.and_then(|record| record.agent),
            output: watch::channel(exit.output_end).1,
            end: watch::channel(Some(End::Exited(exit.clone()))).1,
            terminal: None,
        }
    }

    /// Types `bytes` to the agent, all of them or an error that says how many were taken. At most
    /// 1 MiB. Inputs are taken in the order of their calls.
    ///
    /// # Errors
    /// The agent did not read for 4.5 s, a line is too long for its terminal, or it has ended.
    pub async fn input(&self, bytes: Bytes) -> Result<(), SessionError> {
        self.input_within(bytes, PATIENCE).await
    }

    /// As [`Session::input`], for an agent that may take up to `patience` before it reads.
    ///
    /// # Errors
    /// As [`Session::input`].
    pub async fn input_within(&self, bytes: Bytes, patience: Duration) -> Result<(), SessionError> {
        if bytes.len() > MAX_INPUT {
            return Err(SessionError::TooLarge(bytes.len()));
        }
        self.ask(Asked::Input { bytes, patience }).await
    }

    /// Ends the agent's standard input, after all that was typed before. Pipe mode only.
    ///
    /// # Errors
    /// The session has a terminal, or has ended.
    pub async fn close_input(&self) -> Result<(), SessionError> {
        self.request(Request::CloseInput).await
    }

    /// Changes the terminal's size, 1 to 1000 characters each way.
    ///
    /// # Errors
    /// The size is none, there is no terminal, or the session has ended.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), SessionError> {
        self.request(Request::Resize { rows, cols }).await
    }

    /// Stops everything that the agent runs, and the agent.
    ///
    /// # Errors
    /// The session has ended, or the keeper does not answer.
    pub async fn pause(&self) -> Result<(), SessionError> {
        self.request(Request::Pause).await
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// The session has ended, or the keeper does not answer.
    pub async fn resume(&self) -> Result<(), SessionError> {
        self.request(Request::Resume).await
    }

    /// Interrupts what is in the terminal's foreground, as Ctrl-C does; with pipes, the agent's
    /// own group.
    ///
    /// # Errors
    /// The session has ended, or the keeper does not answer.
    pub async fn interrupt(&self) -> Result<(), SessionError> {
        let signal = Signal::SIGINT as i32;
        self.request(Request::Signal { signal, to: Target::Foreground }).await
    }

    /// Asks everything to end, and makes it after `grace`. Returns at once: wait for
    /// [`Session::exited`].
    ///
    /// # Errors
    /// The session has ended, or the keeper does not answer.
    pub async fn end(&self, grace: Duration) -> Result<(), SessionError> {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        self.request(Request::End { grace_ms }).await
    }

    /// The agent, whether it still runs or not; `None` when it could not be started.
    #[must_use]
    pub fn agent_pid(&self) -> Option<ProcessId> {
        self.agent
    }

    /// The keeper, whether it still runs or not.
    #[must_use]
    pub fn keeper_pid(&self) -> ProcessId {
        self.keeper
    }

    /// The offset behind the last byte of output, told every 20 ms at most. It has its last value
    /// before [`Session::exited`] has one.
    #[must_use]
    pub fn output(&self) -> watch::Receiver<u64> {
        self.output.clone()
    }

    /// Waits for the end: nothing of the session runs any more, and all its output is in the ring.
    /// `None` only while the runtime shuts down.
    pub async fn exited(&self) -> Option<End> {
        let mut end = self.end.clone();
        end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone())
    }

    /// The output, from any offset.
    #[must_use]
    pub fn ring(&self) -> RingReader {
        RingReader::open(&self.folder.ring())
    }

    /// Standard error, from any offset; empty with a terminal.
    #[must_use]
    pub fn stderr(&self) -> RingReader {
        RingReader::open(&self.folder.stderr())
    }

    /// Its terminal; none where the agent talks over pipes, or had ended before it was spoken to.
    #[must_use]
    pub fn terminal(&self) -> Option<&Terminal> {
        self.terminal.as_ref()
    }

    /// Where its records and rings are.
    #[must_use]
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    async fn request(&self, request: Request) -> Result<(), SessionError> {
        self.ask(Asked::Request(request)).await
    }

    async fn ask(&self, asked: Asked) -> Result<(), SessionError> {
        let limit = match &asked {
            Asked::Input { patience, .. } => ANSWER_LIMIT + *patience,
            Asked::Request(_) => ANSWER_LIMIT,
        };
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.asks.send(Ask { asked, answer }).await.map_err(|_| SessionError::Ended)?;
            answered.await.unwrap_or(Err(SessionError::Unknown))
        };
        tokio::time::timeout(limit, asking).await.unwrap_or(Err(SessionError::Unknown))
    }
}
