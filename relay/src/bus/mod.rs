//! The bus: what relays that share a database say to each other.
//!
//! A daemon's link is at one relay. Another relay that needs the daemon looks in the store who has
//! the link, and speaks to the daemon through that relay, which is a proxy: it hands texts on to its
//! link and what is answered back. In the registry of the asking relay such a daemon is a link like
//! any other, with the bus for its outlet. And each relay tells the others what it stored, so that
//! their listeners look.
//!
//! Nothing that the bus carries is trusted to come, once, or in order: state is in the store, and a
//! hole in what a relay says ends all that was under way with it, in the open. All queues are
//! bounded: what finds them full is refused to whoever asked, and a watch ends. Whoever may publish
//! on the bus is taken for a relay: it is a network of the relays' own.
//!
//! Alone, a relay has nobody to talk to, and nothing here does anything.

mod access;
mod address;
mod error;
mod hall;
mod nats;
mod owed;
mod parcel;
mod presence;
mod words;

pub use address::{BusAddress, BusKeys, NotABus};
pub use error::BusError;
pub(crate) use words::{Message, Word};

use crate::core::Core;
use crate::socket::pipe::Ended;
use crate::store::links::{self, Manners, Place};
use crate::store::{Conn, Store, StoreError};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RelayId, WorkspaceId};
use owed::Owed;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Words and texts that may wait for the bus, up to 1 MiB each: as many as for one link.
const WORDS: usize = 256;

/// Output frames that may wait for the bus, 64 KiB each: those of some hundred watches for an
/// instant.
const FRAMES: usize = 256;

/// To whom something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum To {
    Relay(RelayId),
    All,
}

/// A message on its way to the bus.
#[derive(Debug)]
struct Letter {
    to: To,
    message: Message,
    /// Also while the bus is not yet known to be there: it is how that is found out.
    first: bool,
}

/// What waits for the bus.
struct Post {
    words: mpsc::Receiver<Letter>,
    frames: mpsc::Receiver<Letter>,
}

/// A relay's handle on the bus; shared by all that speak.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bus(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    own: RelayId,
    store: Arc<Store>,
    words: mpsc::Sender<Letter>,
    frames: mpsc::Sender<Letter>,
    up: AtomicBool,
    /// Why it is away, in one word.
    why: Mutex<Option<&'static str>>,
    seen: Mutex<Seen>,
    owed: Mutex<Owed>,
}

/// The other relays, as this one saw them last.
#[derive(Debug, Default)]
struct Seen {
    /// Those that go on saying that they live.
    alive: HashSet<RelayId>,
    /// Those that said so once.
    gone: HashSet<RelayId>,
}

/// The bus is away, and with it every daemon that is linked to another relay.
fn cut_off() -> Fault {
    let text = "the daemon is linked to another relay, and the bus between the relays is away";
    Fault::new(Code::Unavailable, text).with_hint("try again once the bus (NATS) is back")
}

/// What is under way with a relay cannot go on.
fn lost() -> Fault {
    let text = "the connection to the relay that the daemon is linked to was lost";
    Fault::new(Code::Unavailable, text)
}

impl Shared {
    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gone(&self, relay: RelayId) -> bool {
        self.seen().gone.contains(&relay)
    }

    fn why(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a message over if there is room for it. Whoever misses a word so is owed the word of it.
    fn send(&self, to: To, message: Message) -> Result<(), Ended> {
        let queue = if matches!(message, Message::Frame(..)) { &self.frames } else { &self.words };
        queue.try_send(Letter { to, message, first: false }).map_err(|refused| {
            match refused.into_inner().message {
                // that relay finds it out when it compares
                Message::Word(Word::Superseded { .. }) => {}
                Message::Word(_) => self.owed().owe(to),
                // whoever asked is refused, or gives up in time
                Message::Frame(..) | Message::Command(..) | Message::Answer(..) => {}
            }
            Ended
        })
    }

    /// Hands a message over as soon as there is room for it.
    async fn say(&self, to: To, message: Message) -> Result<(), Ended> {
        self.words.send(Letter { to, message, first: false }).await.map_err(|_| Ended)
    }
}

impl Bus {
    /// A handle on a bus that is yet to be opened, and what will wait for it.
    fn shared(own: RelayId, store: Arc<Store>) -> (Self, Post) {
        let (words, word_queue) = mpsc::channel(WORDS);
        let (frames, frame_queue) = mpsc::channel(FRAMES);
        let (up, why) = (AtomicBool::new(false), Mutex::default());
        let (seen, owed) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { own, store, words, frames, up, why, seen, owed });
        (Self(Some(shared)), Post { words: word_queue, frames: frame_queue })
    }

    /// Whether the bus is there; none where there are no other relays.
    pub(crate) fn is_up(&self) -> Option<bool> {
        self.0.as_ref().map(|shared| shared.is_up())
    }

    /// Why the bus is away, in one word; none where it is there, or nobody knows yet.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let shared = self.0.as_ref().filter(|shared| !shared.is_up())?;
        *shared.why()
    }

    /// Whether another relay goes on saying that it lives; none where it never said so.
    pub(crate) fn is_alive(&self, relay: RelayId) -> Option<bool> {
        let seen = self.0.as_ref()?.seen();
        match (seen.alive.contains(&relay), seen.gone.contains(&relay)) {
            (true, _) => Some(true),
            (false, gone) => gone.then_some(false),
        }
    }

    /// Where a daemon that is not linked here is linked; none when it is away.
    ///
    /// # Errors
    /// `unavailable` when the bus does not lead there now, or the store fails.
    pub(crate) async fn place(&self, daemon: DaemonId) -> Result<Option<Place>, Fault> {
        let Some(shared) = &self.0 else { return Ok(None) };
        let failed = |e: StoreError| {
            tracing::error!(error = &e as &dyn std::error::Error, "no link could be looked up");
            e.fault()
        };
        let mut reader = shared.store.read().await.map_err(failed)?;
        let found = links::find(&mut reader, daemon).await.map_err(failed)?;
        match found.filter(|at| at.relay != shared.own && !shared.is_gone(at.relay)) {
            Some(_) if !shared.is_up() => Err(cut_off()),
            place => Ok(place),
        }
    }

    /// The way to a daemon at another relay.
    pub(crate) fn way(&self, daemon: DaemonId, at: Place) -> Way {
        Way { bus: self.clone(), relay: at.relay, daemon, workspace: at.workspace }
    }

    /// Says something to another relay if there is room for it.
    pub(crate) fn tell(&self, relay: RelayId, message: Message) -> Result<(), Ended> {
        self.0.as_ref().map_or(Err(Ended), |shared| shared.send(To::Relay(relay), message))
    }

    /// The daemons of a workspace that are linked to other relays.
    pub(crate) async fn linked(&self, workspace: WorkspaceId) -> Result<Vec<DaemonId>, StoreError> {
        let Some(shared) = &self.0 else { return Ok(Vec::new()) };
        let all = links::of_workspace(&mut *shared.store.read().await?, workspace).await?;
        let elsewhere = |relay: RelayId| relay != shared.own && !shared.is_gone(relay);
        Ok(all.into_iter().filter(|(_, relay)| elsewhere(*relay)).map(|(id, _)| id).collect())
    }

    /// Notes that this relay has a daemon's link. The relay that had an earlier one is told.
    pub(crate) async fn entered(&self, daemon: DaemonId, link: Linked) -> Result<(), StoreError> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let mut tx = shared.store.write().await?;
        let former = links::put(tx.conn(), daemon, link.at(shared.own)).await?;
        tx.commit().await?;
        if let Some(former) = former {
            // where there is no room for it, that relay finds out when it compares
            let told = Message::Word(Word::Superseded { daemon });
            drop(shared.send(To::Relay(former.relay), told));
        }
        Ok(())
    }

    /// Whether a link is still the daemon's present one; if so it is until the change is stored.
    pub(crate) async fn has(
        &self,
        conn: &mut Conn,
        daemon: DaemonId,
        link: u64,
    ) -> Result<bool, StoreError> {
        let Some(shared) = &self.0 else { return Ok(true) };
        let found = links::find(conn, daemon).await?;
        Ok(found.is_some_and(|at| (at.relay, at.link) == (shared.own, link)))
    }

    /// Notes that a link ended; whether the daemon has no later one. A comparison may have forgotten
    /// the link before.
    pub(crate) async fn left(
        &self,
        conn: &mut Conn,
        daemon: DaemonId,
        link: u64,
    ) -> Result<bool, StoreError> {
        let Some(shared) = &self.0 else { return Ok(true) };
        links::remove(conn, daemon, shared.own, link).await?;
        Ok(links::find(conn, daemon).await?.is_none())
    }
}

/// A link of this relay, as others need to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linked {
    pub(crate) link: u64,
    pub(crate) workspace: WorkspaceId,
    pub(crate) manners: Manners,
}

impl Linked {
    fn at(self, relay: RelayId) -> Place {
        let Self { link, workspace, manners } = self;
        Place { relay, link, workspace, manners }
    }
}

/// The way to a daemon that is linked to another relay.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    bus: Bus,
    pub(crate) relay: RelayId,
    daemon: DaemonId,
    workspace: WorkspaceId,
}

impl Way {
    /// Sends a text to the daemon; waits for room.
    pub(crate) async fn text(&self, text: String) -> Result<(), Ended> {
        let Some(shared) = &self.bus.0 else { return Err(Ended) };
        shared.say(To::Relay(self.relay), self.command(text)).await
    }

    /// Sends a text to the daemon if there is room at once.
    pub(crate) fn try_text(&self, text: String) -> Result<(), Ended> {
        self.bus.tell(self.relay, self.command(text))
    }

    fn command(&self, text: String) -> Message {
        Message::Command(self.daemon, self.workspace, text)
    }
}

/// A bus before it is opened.
pub(crate) struct Closed {
    address: BusAddress,
    post: Post,
}

/// A handle on the bus at an address, to be opened with [`open`].
pub(crate) fn prepare(address: &BusAddress, own: RelayId, store: Arc<Store>) -> (Bus, Closed) {
    let (bus, post) = Bus::shared(own, store);
    (bus, Closed { address: address.clone(), post })
}

/// The tasks that serve a relay's end of the bus. They end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Served(Vec<JoinHandle<()>>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Connects, hears what it says itself, and leaves; how long that took to come back.
///
/// # Errors
/// [`BusError`] with what keeps a relay from this bus.
pub(crate) async fn reach(address: &BusAddress) -> Result<Duration, BusError> {
    nats::reach(&address.clone().read()?).await
}

/// Opens the bus for relays of one `deployment`, whose oldest workspace it is. A bus that is away is
/// waited for in the background.
///
/// # Errors
/// [`BusError`] when it cannot even be tried.
pub(crate) async fn open(
    core: &Arc<Core>,
    closed: Closed,
    deployment: WorkspaceId,
) -> Result<Served, BusError> {
    let Some(shared) = core.bus.0.clone() else { return Ok(Served::default()) };
    let Closed { address, post } = closed;
    for path in address.exposed() {
        tracing::warn!("others may read {}, which opens the bus: chmod 600", path.display());
    }
    let line = nats::Line::open(&address.read()?, shared.own, deployment).await?;
    let mut rounds = presence::Rounds::default();
    // before anybody can be linked here, so that nobody takes this relay for gone
    presence::round(core, &shared, &mut rounds).await.map_err(BusError::Store)?;
    Ok(Served(vec![
        tokio::spawn(nats::publish(shared.clone(), line.sender(), post)),
        tokio::spawn(hall::tell(core.clone(), shared.clone())),
        tokio::spawn(presence::watch(core.clone(), shared.clone(), rounds)),
        tokio::spawn(hall::listen(core.clone(), shared, line)),
    ]))
}

/// Takes this relay off the lists of the others.
pub(crate) async fn leave(core: &Core) -> Result<(), StoreError> {
    let Some(shared) = &core.bus.0 else { return Ok(()) };
    let mut tx = core.store.write().await?;
    links::forget(tx.conn(), shared.own).await?;
    tx.commit().await
}
