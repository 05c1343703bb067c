//! The actor behind a session: owns the connection to its keeper, connects anew when it breaks,
//! and learns of the end.

use super::find::{self, Probe};
use super::link::{FIRST_CALL, Link, link_call};
use super::{ASKS, End, Session, SessionError, screen};
use crate::keeper::wire::{FromKeeper, Request, encode_input};
use crate::keeper::{Launch, RunFolder};
use crate::process::ProcessId;
use bytes::Bytes;
use hayward_shared::id::RunId;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

/// The first and the longest pause between attempts to reach a keeper again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the records of a living keeper may be away: nobody can reach it, or end its agent, meanwhile.
const MOVED_LIMIT: Duration = Duration::from_secs(10);

/// A request on its way to the keeper.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) asked: Asked,
    pub(super) answer: oneshot::Sender<Result<(), SessionError>>,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Asked {
    Request(Request),
    Input { bytes: Bytes, patience: Duration },
}

/// Begins to attend a linked keeper. `child` is the keeper when this process started it; it is
/// reaped here when it ends.
pub(super) fn attend(folder: RunFolder, link: Link, child: Option<Child>) -> Session {
    let (asks, asked) = mpsc::channel(ASKS);
    let (output, output_seen) = watch::channel(0);
    let (model, grown) = watch::channel(());
    let (end, end_seen) = watch::channel(None);
    let (keeper, agent) = (link.keeper, link.agent);
    let launched = folder.read::<Launch>();
    let actor = Actor {
        folder: folder.clone(),
        run: launched.ok().flatten().map(|launch| launch.run),
        keeper,
        agent,
        asked,
        output,
        model,
        end,
        pending: HashMap::new(),
        next_call: FIRST_CALL,
    };
    let told = screen::Told { end: output_seen.clone(), grown };
    let terminal = screen::open(&folder, &asks, told, child.is_none());
    tokio::spawn(actor.run(link, child).in_current_span());
    Session { folder, asks, keeper, agent, output: output_seen, end: end_seen, terminal }
}

struct Actor {
    folder: RunFolder,
    /// Whose session it is, who keeps it and who is kept, should its records go before it ends.
    run: Option<RunId>,
    keeper: ProcessId,
    agent: Option<ProcessId>,
    /// Closes when the last handle goes; the actor ends then.
    asked: mpsc::Receiver<Ask>,
    output: watch::Sender<u64>,
    /// Wakes the model of the terminal after those who show it, so that no second thread has to be
    /// woken before a key's echo is on its way.
    model: watch::Sender<()>,
    end: watch::Sender<Option<End>>,
    /// Calls that the keeper did not answer yet. Bounded: callers give up in bounded time.
    pending: HashMap<u64, oneshot::Sender<Result<(), SessionError>>>,
    next_call: u64,
}

/// Why a connection is over.
enum Over {
    /// The session has ended.
    Ended(End),
    /// The connection broke, the keeper may live.
    Broken,
    /// Nobody holds the session any more.
    Released,
}

impl Actor {
    async fn run(mut self, mut link: Link, child: Option<Child>) {
        let end = loop {
            match self.converse(&mut link).await {
                Over::Ended(end) => break Some(end),
                Over::Released => break None,
                Over::Broken => {}
            }
            self.pending.clear();
            match self.reconnect().await {
                Ok(again) => link = again,
                Err(Over::Ended(end)) => break Some(end),
                Err(_) => break None,
            }
        };
        let Some(end) = end else { return };
        if let End::Exited(exit) = &end {
            self.output.send_replace(exit.output_end);
            self.model.send_replace(());
        }
        self.end.send_replace(Some(end));
        for (_, answer) in self.pending.drain() {
            // whoever stopped waiting needs no answer
            drop(answer.send(Err(SessionError::Ended)));
        }
        self.asked.close();
        if let Some(mut keeper) = child
            && let Err(fault) = keeper.wait().await
        {
            tracing::warn!(%fault, "a keeper could not be reaped");
        }
    }

    async fn converse(&mut self, link: &mut Link) -> Over {
        loop {
            tokio::select! {
                message = link.receive() => match message {
                    Ok(FromKeeper::Exited { exit }) => return Over::Ended(End::Exited(exit)),
                    Ok(message) => self.hear(message).await,
                    Err(_) => return Over::Broken,
                },
                ask = self.asked.recv() => {
                    let Some(ask) = ask else { return Over::Released };
                    if let Err(fault) = self.pass_on(link, ask).await {
                        tracing::debug!(%fault, "the link to a keeper broke");
                        return Over::Broken;
                    }
                }
            }
        }
    }

    async fn hear(&mut self, message: FromKeeper) {
        let (id, result) = match message {
            FromKeeper::Output { end, .. } => {
                self.output.send_replace(end);
                yield_now().await;
                self.model.send_replace(());
                return;
            }
            FromKeeper::Done { id } => (id, Ok(())),
            FromKeeper::Refused { id, fault } => (id, Err(SessionError::Refused(fault))),
            // what is shown is shown to who asked for that
            FromKeeper::Status { .. }
            | FromKeeper::Exited { .. }
            | FromKeeper::Bytes { .. }
            | FromKeeper::Skipped { .. }
            | FromKeeper::Resized { .. } => return,
        };
        if let Some(answer) = self.pending.remove(&id) {
            // whoever stopped waiting needs no answer
            drop(answer.send(result));
        }
    }

    async fn pass_on(&mut self, link: &mut Link, ask: Ask) -> io::Result<()> {
        let id = self.next_call;
        self.next_call += 1;
        self.pending.retain(|_, answer| !answer.is_closed());
        let frame = match ask.asked {
            Asked::Request(request) => link_call(id, request)?,
            Asked::Input { bytes, patience } => {
                let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
                encode_input(id, patience_ms, &bytes).map_err(io::Error::other)?
            }
        };
        self.pending.insert(id, ask.answer);
        link.send(&frame).await
    }

    /// Tries until the keeper answers, the session is known to be over, or nobody cares.
    async fn reconnect(&mut self) -> Result<Link, Over> {
        let (broken, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            match find::probe(&self.folder).await {
                Probe::Live(link) => return Ok(link),
                Probe::Ended(exit) => return Err(Over::Ended(End::Exited(exit))),
                Probe::Dead(record) => {
                    let lost = find::clear(record.as_ref(), &self.folder).await;
                    return Err(Over::Ended(End::Lost(lost)));
                }
                // who moved its folder away may bring it back
                Probe::Unowned | Probe::Barred
                    if self.keeper.alive() && broken.elapsed() < MOVED_LIMIT => {}
                Probe::Unowned | Probe::Barred => {
                    let lost = find::clear_known(self.run, self.keeper, self.agent).await;
                    return Err(Over::Ended(End::Lost(lost)));
                }
                Probe::Foreign(_) | Probe::Unclear(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            // asks wait meanwhile, bounded by their queue and their callers' patience
            if self.asked.is_closed() && self.asked.is_empty() {
                return Err(Over::Released);
            }
        }
    }
}
