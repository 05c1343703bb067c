//! What became of a session, told from its run folder. "I could not find out" is an answer of its
//! own here: it is never read as "nothing runs".

use super::actor;
use super::link::{Link, LinkFault};
use super::{Lost, Session};
use crate::keeper::folder::{Kept, Owner, RUN_VARIABLE, Record};
use crate::keeper::wire::SOCKET_VERSION;
use crate::keeper::{Exit, Launch, RunFolder};
use crate::process::{self, ProcessId, Row};
use hayward_shared::id::RunId;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a living keeper may take to answer. It does nothing slow; a machine that swaps may.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// How often a keeper that is just starting is asked again.
const PROBE_LOOK: Duration = Duration::from_millis(20);
/// How long the processes of a lost session may take to be gone.
const CLEAR_LIMIT: Duration = Duration::from_secs(5);
/// How long they may use to end by themselves.
const CLEAR_GRACE: Duration = Duration::from_millis(500);

/// What became of a session.
#[derive(Debug)]
pub enum Found {
    /// It never ran, and never will: no keeper can take the folder any more.
    Never,
    /// It runs.
    Live(Session),
    /// It ended, as its record says.
    Ended(Exit),
    /// Its keeper died without a record; what it left was ended.
    Lost(Lost),
    /// Its keeper speaks another version of the socket protocol. It was left alone.
    Foreign {
        /// The keeper's version.
        version: u32,
    },
    /// Not to be told now. It was left alone, may well run, and can be asked for again.
    Unknown(Doubt),
}

/// Why it cannot be told what became of a session.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// The keeper lives and does not answer in time.
    #[error("the keeper does not answer")]
    Silent,
    /// The folder's records cannot be read.
    #[error("the records of the session cannot be read")]
    Unreadable(#[source] io::Error),
}

/// Finds out what became of the session of `folder`, in a few seconds at most. Only one caller at
/// a time may ask for a folder.
pub async fn find(folder: &RunFolder) -> Found {
    let found = tell(folder).await;
    let is_over = matches!(found, Found::Never | Found::Ended(_) | Found::Lost(_));
    // its keeper did so after the start, unless it never got that far
    if is_over && let Err(fault) = folder.forget_environment() {
        let folder = folder.path().display();
        tracing::warn!(%folder, %fault, "an agent's environment stays on the disk");
    }
    found
}

async fn tell(folder: &RunFolder) -> Found {
    let deadline = Instant::now() + PROBE_LIMIT;
    loop {
        let probed = timeout(PROBE_LIMIT, probe(folder)).await;
        match probed.unwrap_or(Probe::Unclear(Doubt::Silent)) {
            Probe::Live(link) => return Found::Live(actor::attend(folder.clone(), link, None)),
            Probe::Ended(exit) => return Found::Ended(exit),
            Probe::Barred => return Found::Never,
            Probe::Foreign(version) => return Found::Foreign { version },
            Probe::Dead(record) => return Found::Lost(clear(record.as_ref(), folder).await),
            Probe::Unowned => match folder.write_first(&Owner::Barred) {
                Ok(true) => return Found::Never,
                // a keeper came first: ask it
                Ok(false) => {}
                Err(fault) => return Found::Unknown(Doubt::Unreadable(fault)),
            },
            Probe::Unclear(doubt) if Instant::now() >= deadline => return Found::Unknown(doubt),
            Probe::Unclear(_) => sleep(PROBE_LOOK).await,
        }
    }
}

/// What one look tells.
pub(super) enum Probe {
    /// Its keeper answers.
    Live(Link),
    /// It ended.
    Ended(Exit),
    /// No keeper took the folder yet.
    Unowned,
    /// No keeper ever will.
    Barred,
    /// The keeper is dead and left no end; what it had recorded of itself.
    Dead(Option<Record>),
    /// The keeper speaks this version.
    Foreign(u32),
    /// Not to be told now.
    Unclear(Doubt),
}

/// The part of a keeper's record that every version has.
#[derive(Debug, Serialize, Deserialize)]
struct Versioned {
    version: u32,
}

impl Kept for Versioned {
    const NAME: &'static str = Record::NAME;
}

/// Looks once. Takes as long as the keeper takes to answer, [`PROBE_LIMIT`] at most.
pub(super) async fn probe(folder: &RunFolder) -> Probe {
    look(folder).await.unwrap_or_else(|fault| Probe::Unclear(Doubt::Unreadable(fault)))
}

async fn look(folder: &RunFolder) -> io::Result<Probe> {
    if let Some(exit) = folder.read::<Exit>()? {
        return Ok(Probe::Ended(exit));
    }
    let (keeper, boot) = match folder.read::<Owner>()? {
        None => return Ok(Probe::Unowned),
        Some(Owner::Barred) => return Ok(Probe::Barred),
        Some(Owner::Keeper { keeper, boot }) => (keeper, boot),
    };
    if boot != process::boot()? || !keeper.alive() {
        // it may have recorded the end between the two looks
        return match folder.read::<Exit>()? {
            Some(exit) => Ok(Probe::Ended(exit)),
            None => Ok(Probe::Dead(known(folder)?)),
        };
    }
    match folder.read::<Versioned>()? {
        Some(known) if known.version != SOCKET_VERSION => {
            return Ok(Probe::Foreign(known.version));
        }
        _ => {}
    }
    Ok(match timeout(PROBE_LIMIT, Link::open(folder)).await {
        Ok(Ok(link)) => Probe::Live(link),
        Ok(Err(LinkFault::Foreign(version))) => Probe::Foreign(version),
        // it starts, or ends, or has more clients than it takes
        Ok(Err(LinkFault::Io(fault))) => {
            tracing::debug!(%fault, "a living keeper cannot be reached");
            Probe::Unclear(Doubt::Silent)
        }
        Err(_) => Probe::Unclear(Doubt::Silent),
    })
}

/// What a dead keeper recorded; one of another version may have written what cannot be read.
fn known(folder: &RunFolder) -> io::Result<Option<Record>> {
    match folder.read::<Record>() {
        Err(fault) if fault.kind() == io::ErrorKind::InvalidData => Ok(None),
        read => read,
    }
}

/// Ends everything that a dead keeper left: its agent, all that carries the run's name in its
/// environment and is no older than the keeper, and all below those.
pub(super) async fn clear(record: Option<&Record>, folder: &RunFolder) -> Lost {
    match Remains::of(record, folder) {
        Some(remains) => remains.clear().await,
        None => Lost { ended: 0, left: 0 },
    }
}

/// Ends everything of a run whose session began and has no records any more: all that carries its
/// name in its environment, and all below that.
pub async fn clear_unrecorded(run: RunId) -> Lost {
    Remains { run: Some(run), since: 0, agent: None }.clear().await
}

/// The same, where keeper and agent were known while it ran.
pub(super) async fn clear_known(
    run: Option<RunId>,
    keeper: ProcessId,
    agent: Option<ProcessId>,
) -> Lost {
    Remains { run, since: keeper.start, agent }.clear().await
}

/// How what a dead keeper left is told from everything else.
struct Remains {
    /// None where nobody could read it: the agent and all below it are known even so.
    run: Option<RunId>,
    /// Nothing that started earlier belongs to the run.
    since: u64,
    agent: Option<ProcessId>,
}

impl Remains {
    /// `None` when nothing can be left: the machine was booted since.
    fn of(record: Option<&Record>, folder: &RunFolder) -> Option<Self> {
        let Ok(Some(Owner::Keeper { keeper, boot })) = folder.read() else { return None };
        if process::boot().ok()? != boot {
            return None;
        }
        let launched = || folder.read::<Launch>().ok().flatten().map(|launch| launch.run);
        let run = record.map(|record| record.run).or_else(launched)?;
        let agent = record.and_then(|record| record.agent);
        Some(Self { run: Some(run), since: keeper.start, agent })
    }

    async fn clear(&self) -> Lost {
        let (began, mut met) = (Instant::now(), BTreeSet::new());
        loop {
            let rows = self.living().unwrap_or_else(|fault| {
                tracing::warn!(%fault, "the process table cannot be read");
                Vec::new()
            });
            met.extend(rows.iter().map(|row| row.id));
            if rows.is_empty() || began.elapsed() > CLEAR_LIMIT {
                return Lost { ended: met.len() - rows.len(), left: rows.len() };
            }
            let asked = began.elapsed() < CLEAR_GRACE;
            for row in rows {
                let signals: &[Signal] =
                    if asked { &[Signal::SIGTERM, Signal::SIGCONT] } else { &[Signal::SIGKILL] };
                for signal in signals {
                    if let Err(fault) = row.id.signal(*signal) {
                        tracing::warn!(pid = row.id.pid, %fault, "a lost process cannot be ended");
                    }
                }
            }
            sleep(PROBE_LOOK).await;
        }
    }

    fn living(&self) -> io::Result<Vec<Row>> {
        let named =
            |run: RunId| process::with_environment(&format!("{RUN_VARIABLE}={run}"), self.since);
        let mut found = self.run.map_or(Ok(Vec::new()), named)?;
        let table = process::table()?;
        found.extend(table.iter().filter(|row| row.lives() && Some(row.id) == self.agent));
        let roots: Vec<i32> = found.iter().map(|row| row.id.pid).collect();
        found.extend(process::below(&table, &roots));
        let me = std::process::id();
        found.retain(|row| u32::try_from(row.id.pid) != Ok(me));
        found.sort_unstable_by_key(|row| row.id);
        found.dedup_by_key(|row| row.id);
        Ok(found)
    }
}
