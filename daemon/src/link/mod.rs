//! The link to the relay: one actor that owns the machine, the socket and the way to the outbox.
//!
//! [`Link`] is the handle. Commands of the relay come out of [`Commands`], in order.

mod lane;
mod machine;
mod socket;

pub use lane::{Lane, LaneEnd};
pub use machine::Standing;

use crate::clock::{self, roll};
use crate::journal::{Journal, JournalError};
use crate::kept::Kept;
use crate::lease::{Leases, Renewal};
use bytes::Bytes;
use hayward_edge::log;
use hayward_shared::api::{Runtime, Vitals};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{MachineId, RequestId, TaskId};
use hayward_shared::protocol::{
    Authenticate, FromDaemon, MAX_TEXT, OURS, PROTOCOL_VERSION, Reply, Resume, Tagged, Tags,
    ToDaemon, encode,
};
use machine::{Effect, Event, Machine};
use socket::{Incoming, Socket};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Beats whose acknowledgement may be awaited at once. A relay that answers none of so many is cut
/// off for its silence first.
const UNHEARD: usize = 8;

/// Messages of the outbox that are read at once.
const BATCH: u32 = 128;

/// Commands that wait for the dispatcher, and replies that wait for the link. Full means wait.
const QUEUE: usize = 64;

/// What the daemon tells of itself in its hello.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where the relay is: `http://…` or `https://…`.
    pub relay: String,
    /// The daemon's token.
    pub token: String,
    /// Its machine.
    pub machine: MachineId,
    /// The machine's name.
    pub hostname: String,
    /// Runs that it takes at once.
    pub capacity: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its folders, reported after each welcome.
    pub directories: hayward_shared::api::Directories,
}

/// What the link watches of the rest of the daemon.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Free places.
    pub room: watch::Receiver<u32>,
    /// Tasks whose runs live here.
    pub active: watch::Receiver<Vec<TaskId>>,
    /// What can be run.
    pub runtimes: watch::Receiver<Vec<Runtime>>,
    /// How the machine stands.
    pub vitals: watch::Receiver<Vitals>,
}

impl Facts {
    /// Places that may be claimed: none while the disk is nearly full.
    fn claimable(&mut self) -> u32 {
        let room = *self.room.borrow_and_update();
        if self.vitals.borrow_and_update().is_short() { 0 } else { room }
    }
}

/// Something that the relay wants, or the news that it is gone.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages, moved once")]
pub enum Command {
    /// A message.
    Message(Tagged<ToDaemon>),
    /// The link broke: whoever watched through it is gone.
    LinkLost,
}

/// Commands of the relay, in order.
pub type Commands = mpsc::Receiver<Command>;

/// The handle. The link ends when its last handle and the answer of [`start`] are dropped.
#[derive(Clone, Debug)]
pub struct Link {
    lane: Lane,
    standing: watch::Receiver<Standing>,
}

impl Link {
    /// Answers a command by a `reply`. Lost when the link breaks before it is sent: the relay asks
    /// again.
    pub async fn reply(&self, request: RequestId, reply: Reply) {
        self.lane.reply(request, reply).await;
    }

    /// Answers a command by a message of its own type; one that carried no `requestId` too. Lost
    /// like a reply.
    pub async fn answer(&self, request: Option<RequestId>, body: FromDaemon) {
        self.lane.answer(request, body).await;
    }

    /// The way over the link for those who watch.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane.clone()
    }

    /// How the link stands.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}

/// Starts the link. It tries for as long as it lives; dropping the second part ends it.
///
/// # Errors
/// [`JournalError`] when the outbox cannot be read.
pub async fn start(
    identity: Identity,
    journal: Journal,
    facts: Facts,
    leases: Leases,
) -> Result<(Link, Kept, Commands), JournalError> {
    let (say, said) = mpsc::channel(QUEUE);
    let (commands_in, commands) = mpsc::channel(QUEUE);
    let (standing_in, standing) = watch::channel(Standing::Down);
    let (output_in, output) = watch::channel(None);
    // listened to before it is read, so that nothing falls between
    let grown = journal.grown();
    let outbox = journal.next_seq().await?.saturating_sub(1);
    let actor = Actor {
        machine: Machine::new(outbox),
        identity,
        journal,
        facts,
        leases,
        beats: VecDeque::new(),
        beat: 0,
        socket: None,
        commands: commands_in,
        standing: standing_in,
        output: output_in,
        alarm: None,
        origin: Instant::now(),
        short: false,
    };
    let kept = Kept::of(tokio::spawn(actor.run(said, grown)));
    Ok((Link { lane: Lane::new(say, output), standing }, kept, commands))
}

struct Actor {
    machine: Machine,
    identity: Identity,
    journal: Journal,
    facts: Facts,
    leases: Leases,
    /// The last beats of this link, and when each was sent.
    beats: VecDeque<(u64, u64)>,
    /// The number of the last beat.
    beat: u64,
    socket: Option<Socket>,
    commands: mpsc::Sender<Command>,
    standing: watch::Sender<Standing>,
    output: watch::Sender<Option<mpsc::Sender<Bytes>>>,
    alarm: Option<(u64, Instant)>,
    origin: Instant,
    /// Whether the disk was too full for work when that was looked at last.
    short: bool,
}

/// What the actor woke up for.
enum Woken {
    Event(Event),
    /// A place became free or taken; the end that freed it is in the outbox already.
    Room,
    /// The disk became too full for work, or has room again.
    Disk,
    Say(Tagged<FromDaemon>),
    Runtimes,
    Over,
}

impl Actor {
    async fn run(
        mut self,
        mut said: mpsc::Receiver<Tagged<FromDaemon>>,
        mut grown: watch::Receiver<u64>,
    ) {
        let mut next = vec![Event::Room(self.facts.claimable()), Event::Start];
        loop {
            for event in std::mem::take(&mut next) {
                self.handle(event, &mut next).await;
            }
            if !next.is_empty() {
                self.hear_what_waits(&mut next).await;
                continue;
            }
            match self.gather(&mut said, &mut grown).await {
                Woken::Event(event) => next.push(event),
                Woken::Room => {
                    next.push(Event::OutboxGrew(*grown.borrow_and_update()));
                    next.push(Event::Room(self.facts.claimable()));
                }
                Woken::Disk => {
                    next.push(Event::Room(self.facts.claimable()));
                    // the relay says why nothing is claimed
                    next.push(Event::BeatWanted);
                }
                Woken::Say(message) => self.send(message).await,
                Woken::Runtimes => {
                    let runtimes = self.facts.runtimes.borrow_and_update().clone();
                    self.send(FromDaemon::Runtimes { runtimes }.into()).await;
                }
                Woken::Over => return,
            }
        }
    }

    /// What came meanwhile goes before more of our own: a long outbox must not keep a cancel
    /// waiting.
    async fn hear_what_waits(&mut self, next: &mut Vec<Event>) {
        let mut heard = Vec::new();
        while let Some(Ok(incoming)) = self.socket.as_mut().map(|s| s.incoming.try_recv()) {
            match woken_by(incoming) {
                Woken::Event(event) => heard.push(event),
                Woken::Say(complaint) => self.send(complaint).await,
                _ => {}
            }
        }
        if let Some((id, _)) = self.alarm.filter(|(_, at)| *at <= Instant::now()) {
            heard.push(Event::Due(id));
        }
        // nothing is understood before the socket is known to be open
        let opened = next.iter().position(|event| matches!(event, Event::Opened));
        let place = opened.map_or(0, |place| place + 1);
        next.splice(place..place, heard);
    }

    async fn gather(
        &mut self,
        said: &mut mpsc::Receiver<Tagged<FromDaemon>>,
        grown: &mut watch::Receiver<u64>,
    ) -> Woken {
        let alarm = self.alarm;
        let due = async {
            match alarm {
                Some((id, at)) => {
                    tokio::time::sleep_until(at).await;
                    id
                }
                None => std::future::pending().await,
            }
        };
        let incoming = async {
            match &mut self.socket {
                Some(socket) => socket.incoming.recv().await.unwrap_or(Incoming::Closed),
                None => std::future::pending().await,
            }
        };
        // a beat is never late; what the relay says goes before more of our own
        tokio::select! {
            biased;
            id = due => Woken::Event(Event::Due(id)),
            incoming = incoming => woken_by(incoming),
            Ok(()) = grown.changed() => {
                Woken::Event(Event::OutboxGrew(*grown.borrow_and_update()))
            }
            () = self.leases.wanted() => Woken::Event(Event::BeatWanted),
            Ok(()) = self.facts.room.changed() => Woken::Room,
            Ok(short) = turned(&mut self.facts.vitals, self.short) => {
                self.short = short;
                Woken::Disk
            }
            Ok(()) = self.facts.runtimes.changed() => Woken::Runtimes,
            message = said.recv() => message.map_or(Woken::Over, Woken::Say),
        }
    }

    async fn handle(&mut self, event: Event, next: &mut Vec<Event>) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        if matches!(event, Event::Received(_)) {
            self.machine.on(Event::Heard, now, 0.0);
        }
        if matches!(event, Event::Due(_)) {
            self.alarm = None;
        }
        for effect in self.machine.on(event, now, roll()) {
            if let Err(error) = self.perform(effect, next).await {
                tracing::error!(error = &error as &dyn std::error::Error, "the link cannot go on");
                next.push(Event::Lost);
                return;
            }
        }
    }

    async fn perform(&mut self, effect: Effect, next: &mut Vec<Event>) -> Result<(), JournalError> {
        match effect {
            Effect::Connect => match Socket::open(&self.identity.relay).await {
                Ok(socket) => {
                    self.socket = Some(socket);
                    next.push(Event::Opened);
                }
                Err(error) => {
                    tracing::debug!(%error, relay = self.identity.relay, "no relay");
                    next.push(Event::Lost);
                }
            },
            Effect::Close => {
                self.socket = None;
                self.beats.clear();
                self.output.send_replace(None);
                drop(self.commands.send(Command::LinkLost).await);
            }
            Effect::Greet => {
                let hello = self.hello().await?;
                let last = hello.resume.as_ref().map_or(0, |r| r.next_seq.saturating_sub(1));
                next.push(Event::OutboxGrew(last));
                self.send(FromDaemon::Authenticate(hello).into()).await;
            }
            Effect::Acked(seq) => self.acked(seq).await?,
            Effect::Transmit { after } => {
                next.push(Event::Transmitted(self.transmit(after).await?))
            }
            Effect::Beat => {
                self.beat += 1;
                if self.beats.len() == UNHEARD {
                    self.beats.pop_front();
                }
                // before it is sent: the relay cannot hear it earlier
                self.beats.push_back((self.beat, clock::since_boot()));
                let active_tasks = self.facts.active.borrow().clone();
                let beat = Some(self.beat);
                let vitals = Some(self.facts.vitals.borrow().clone());
                self.send(FromDaemon::Heartbeat { active_tasks, beat, vitals }.into()).await;
            }
            Effect::Renewed(beat, tasks) => {
                let sent = self.beats.iter().find(|(number, _)| *number == beat);
                if let Some((_, sent_ms)) = sent.copied() {
                    self.leases.renew(Renewal { sent_ms, tasks });
                }
            }
            Effect::Claim(slots) => self.send(FromDaemon::Claim { slots }.into()).await,
            Effect::Command(message) => {
                drop(self.commands.send(Command::Message(message)).await);
            }
            Effect::Arm { id, ms } => {
                self.alarm = Some((id, Instant::now() + Duration::from_millis(ms)));
            }
            Effect::Report(standing) => self.report(standing).await,
        }
        Ok(())
    }

    /// Trimming can wait, on a full disk for one; only a number that the relay has and this disk
    /// lost must be on disk before the next is given.
    async fn acked(&self, seq: u64) -> Result<(), JournalError> {
        match self.journal.acked(seq).await {
            Err(error) if seq < self.journal.next_seq().await? => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the outbox is not trimmed"
                );
                Ok(())
            }
            done => done,
        }
    }

    async fn report(&mut self, standing: Standing) {
        match &standing {
            Standing::Up(id) => {
                log::name_daemon("hayward_daemon", id.to_string());
                tracing::info!(relay = self.identity.relay, "linked");
                self.output.send_replace(self.socket.as_ref().map(|socket| socket.output.clone()));
                let folders = self.identity.directories.clone();
                self.send(
                    FromDaemon::DaemonDirectories {
                        working_directory: folders.working_directory,
                        home_directory: folders.home_directory,
                        worktrees_directory: folders.worktrees_directory,
                    }
                    .into(),
                )
                .await;
            }
            Standing::Refused(fault) => {
                let hint = fault.hint.as_deref();
                tracing::error!(%fault, hint, "the link is refused");
            }
            Standing::Down => {}
        }
        self.standing.send_replace(standing);
    }

    async fn hello(&mut self) -> Result<Authenticate, JournalError> {
        let runtimes = self.facts.runtimes.borrow_and_update().clone();
        // the runs first: one that ends in between is named, and its end is counted
        let runs = self.journal.live_keys().await?;
        let next_seq = self.journal.next_seq().await?;
        let identity = &self.identity;
        Ok(Authenticate {
            api_key: identity.token.clone(),
            machine_id: identity.machine,
            hostname: identity.hostname.clone(),
            max_concurrent_tasks: identity.capacity,
            protocol_version: Some(PROTOCOL_VERSION),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            capabilities: OURS.to_vec(),
            runtimes,
            labels: identity.labels.clone(),
            resume: Some(Resume { next_seq, runs }),
        })
    }

    /// Sends the next messages of the outbox; answers the last number that is on its way.
    async fn transmit(&mut self, after: u64) -> Result<u64, JournalError> {
        let batch = self.journal.outgoing(after, BATCH).await?;
        let Some(last) = batch.last().map(|message| message.seq) else {
            return Ok(self.journal.next_seq().await?.saturating_sub(1));
        };
        if let Some(socket) = &self.socket {
            for message in batch {
                if socket.state.send(message.text).await.is_err() {
                    break;
                }
            }
        }
        Ok(last)
    }

    /// Sends a message that is not numbered. Without a link it is dropped: such messages say how
    /// things stand, and are said anew on the next link.
    async fn send(&mut self, message: Tagged<FromDaemon>) {
        let text = match encode(&message) {
            Ok(text) if text.len() > MAX_TEXT => too_large(text.len(), message.tags),
            text => text,
        };
        match (text, &self.socket) {
            (Ok(text), Some(socket)) => drop(socket.state.send(text).await),
            (Ok(_), None) => {}
            (Err(error), _) => tracing::error!(%error, "a message cannot be written"),
        }
    }
}

/// Waits until the disk is not any more as `short` says.
async fn turned(
    vitals: &mut watch::Receiver<Vitals>,
    short: bool,
) -> Result<bool, watch::error::RecvError> {
    vitals.wait_for(|vitals| vitals.is_short() != short).await.map(|vitals| vitals.is_short())
}

/// What goes out in place of an answer that no frame takes.
fn too_large(size: usize, tags: Tags) -> Result<String, serde_json::Error> {
    let text = format!("the answer of {size} bytes is over the limit of {MAX_TEXT}");
    let reply = Reply::refused(Fault::new(Code::TooLarge, text));
    encode(&Tagged { body: FromDaemon::Reply(reply), tags })
}

fn woken_by(incoming: Incoming) -> Woken {
    match incoming {
        Incoming::Heard => Woken::Event(Event::Heard),
        Incoming::Message(message) => Woken::Event(Event::Received(message)),
        Incoming::Malformed(complaint) => Woken::Say(complaint),
        Incoming::Closed => Woken::Event(Event::Lost),
    }
}
