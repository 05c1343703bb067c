//! Where what other relays say is heard, and where they are told what was stored here.

use super::nats::{self, Heard as Brought, Line};
use super::parcel::{Inbox, Parcel};
use super::presence;
use super::words::Told;
use super::{BusAddress, BusError, Letter, Message, Shared, To, Word, cut_off, lost};
use crate::core::Core;
use crate::store::Heard;
use bytes::Bytes;
use hayward_shared::id::RelayId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Events that are told together at the most: with the largest payload each that is well below what
/// a message may have.
const TOGETHER: usize = 32;

/// Relays that are heard at once: more than a database has connections for.
const MOST_RELAYS: usize = 64;

/// While the bus is not known to be there it is tried so often: a try that was lost costs no more.
const AGAIN: Duration = Duration::from_secs(1);

/// As long as no connection comes about, it is tried so often why not.
const ASKED: Duration = Duration::from_secs(5);

/// After so many messages others have their turn, those among them who write what was brought.
const BREATH: u32 = 16;

/// Tells the other relays what this one stored. Ends when it is aborted.
pub(super) async fn tell(core: Arc<Core>, shared: Arc<Shared>) {
    let mut own = core.store.listen_to_own();
    loop {
        let mut told = Vec::new();
        let mut missed = false;
        match own.recv().await {
            Ok(heard) => told.extend(to_tell(heard)),
            Err(RecvError::Lagged(_)) => missed = true,
            Err(RecvError::Closed) => return,
        }
        while told.len() < TOGETHER && !missed {
            match own.try_recv() {
                Ok(heard) => told.extend(to_tell(heard)),
                Err(TryRecvError::Lagged(_)) => missed = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if !shared.is_up() {
            // once it is back, all are told that they missed something
            continue;
        }
        let word = if missed { Word::Missed {} } else { Word::Live { told } };
        if shared.say(To::All, Message::Word(word)).await.is_err() {
            return;
        }
    }
}

fn to_tell(heard: Heard) -> Option<Told> {
    match heard {
        Heard::Event(event) => Some(Told::Event(Box::new(event.as_ref().clone()))),
        Heard::Look(workspace, stream) => {
            Some(Told::Look { workspace, stream: stream.as_ref().to_owned() })
        }
        Heard::Missed => None,
    }
}

/// Hears what the bus brings. Ends when it is aborted.
pub(super) async fn listen(core: Arc<Core>, shared: Arc<Shared>, mut line: Line) {
    let (inboxes, asking) = (HashMap::new(), JoinSet::new());
    let mut hall = Hall { core, shared, connections: 0, is_connected: false, inboxes, asking };
    let mut heard = 0_u32;
    let mut ticks = interval(AGAIN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let brought = tokio::select! {
            brought = line.hear() => brought,
            _ = ticks.tick() => {
                hall.again();
                continue;
            }
        };
        let Some(brought) = brought else { break };
        hall.on(brought, line.address());
        heard = heard.wrapping_add(1);
        if heard.is_multiple_of(BREATH) {
            tokio::task::yield_now().await;
        }
    }
    tracing::error!("the bus has ended");
    hall.away();
}

/// One relay's end of the bus. Owned by the task that listens.
struct Hall {
    core: Arc<Core>,
    shared: Arc<Shared>,
    /// How often it was connected.
    connections: u64,
    is_connected: bool,
    inboxes: HashMap<(RelayId, To), Inbox>,
    /// Whoever looks why there is no connection: one at a time.
    asking: JoinSet<()>,
}

/// Why the bus is away: told once in full, and kept as a word. The next one asks a while later.
async fn look(shared: Arc<Shared>, address: BusAddress) {
    let why = nats::reach(&address).await.err();
    let word = why.as_ref().map(BusError::word);
    let is_news = std::mem::replace(&mut *shared.why(), word) != word;
    if let Some(why) = why.filter(|_| is_news) {
        tracing::error!(error = &why as &dyn std::error::Error, "there is no bus");
    }
    sleep(ASKED).await;
}

impl Hall {
    fn on(&mut self, brought: Brought, address: &BusAddress) {
        match brought {
            Brought::Failed if self.is_connected => {}
            Brought::Failed => {
                while self.asking.try_join_next().is_some() {}
                if self.asking.is_empty() {
                    self.asking.spawn(look(self.shared.clone(), address.clone()));
                }
            }
            Brought::Connected => self.connected(),
            Brought::Disconnected => {
                tracing::warn!("the bus is away: daemons of other relays cannot be reached");
                self.away();
            }
            Brought::Lost => {
                tracing::warn!("what the bus brought came faster than it could be heard");
                self.anew();
            }
            // it would not hear that either
            Brought::Deaf(relay) => self.core.registry.void(Some(relay), &lost()),
            Brought::Said(to, bytes) => self.said(to, &bytes),
        }
    }

    fn connected(&mut self) {
        self.connections += 1;
        self.is_connected = true;
        self.mark();
    }

    /// Tries again whether the bus is there: what was said to that end may have been lost.
    fn again(&self) {
        if self.is_connected && !self.shared.is_up() {
            self.mark();
        }
    }

    /// What this relay says to itself now comes back once all its ears are open.
    fn mark(&self) {
        let message = Message::Word(Word::Mark { nth: self.connections });
        let mark = Letter { to: To::Relay(self.shared.own), message, first: true };
        if self.shared.words.try_send(mark).is_err() {
            tracing::warn!("the bus is back, and is tried again in a second");
        }
    }

    fn away(&mut self) {
        self.is_connected = false;
        *self.shared.why() = None;
        self.shared.up.store(false, Ordering::Release);
        self.inboxes.clear();
        self.core.registry.void(None, &cut_off());
    }

    /// Something was lost, nobody knows what: all that is under way ends, and all who listen look.
    fn anew(&self) {
        self.core.metrics.bus_holes.inc();
        self.core.registry.void(None, &lost());
        self.core.store.overhear(Heard::Missed);
        self.tell(To::All, Word::Void {});
    }

    /// All that is under way with a relay ends here, and there as well.
    fn void(&self, relay: RelayId) {
        self.core.registry.void(Some(relay), &lost());
        self.tell(To::Relay(relay), Word::Void {});
    }

    fn tell(&self, to: To, word: Word) {
        if self.shared.send(to, Message::Word(word)).is_err() {
            tracing::warn!("the way to the bus is full: a word to other relays was dropped");
        }
    }

    fn said(&mut self, to: To, bytes: &Bytes) {
        let Some(parcel) = Parcel::read(bytes) else {
            // also the server's own answers, which have no bytes
            if !bytes.is_empty() {
                tracing::warn!(bytes = bytes.len(), "the bus brought what is no relay's");
            }
            return;
        };
        let from = parcel.from;
        if from == self.shared.own && to == To::All {
            return;
        }
        let Some(inbox) = self.inbox(from, to) else { return };
        let taken = inbox.take(parcel);
        if taken.hole {
            self.core.metrics.bus_holes.inc();
            tracing::warn!(%from, "something that another relay said was lost");
            match to {
                To::All => self.core.store.overhear(Heard::Missed),
                To::Relay(_) => self.void(from),
            }
        }
        let Some(message) = taken.message else { return };
        match Message::read(&message) {
            Ok(message) => self.message(from, to, message),
            Err(e) => {
                tracing::warn!(%from, error = &e as &dyn std::error::Error, "a message is dropped");
            }
        }
    }

    fn inbox(&mut self, from: RelayId, to: To) -> Option<&mut Inbox> {
        if !self.inboxes.contains_key(&(from, to)) && self.inboxes.len() >= 2 * MOST_RELAYS {
            let alive = self.shared.seen().alive.clone();
            self.inboxes.retain(|(relay, _), _| alive.contains(relay));
            if self.inboxes.len() >= 2 * MOST_RELAYS {
                tracing::warn!(%from, "more relays speak than can be heard");
                return None;
            }
        }
        Some(self.inboxes.entry((from, to)).or_default())
    }

    fn message(&mut self, from: RelayId, to: To, message: Message) {
        let registry = &self.core.registry;
        match (to, message) {
            (To::All, Message::Word(word)) => self.told(from, word),
            (To::Relay(_), Message::Word(word)) => self.word(from, word),
            (To::Relay(_), Message::Command(daemon, workspace, text)) => {
                registry.hand_on(from, (daemon, workspace), text);
            }
            (To::Relay(_), Message::Answer(daemon, text)) => {
                registry.answered_afar(from, daemon, &text);
            }
            (To::Relay(_), Message::Frame(daemon, bytes)) => {
                registry.frame_afar(from, daemon, bytes);
            }
            (To::All, _) => tracing::warn!(%from, "a message to all that is for one is dropped"),
        }
    }

    fn told(&self, from: RelayId, word: Word) {
        match word {
            Word::Live { told } => {
                for one in told {
                    self.core.store.overhear(match one {
                        Told::Event(event) => Heard::Event(Arc::new(*event)),
                        Told::Look { workspace, stream } => Heard::Look(workspace, stream.into()),
                    });
                }
            }
            Word::Missed {} => self.core.store.overhear(Heard::Missed),
            Word::Void {} => {
                self.core.registry.void(Some(from), &lost());
                self.core.store.overhear(Heard::Missed);
            }
            word => tracing::warn!(%from, ?word, "a word to all that is for one is dropped"),
        }
    }

    /// Whether it is the first word of this connection to come back.
    fn is_awaited(&self, nth: u64) -> bool {
        self.is_connected && !self.shared.is_up() && nth == self.connections
    }

    fn word(&mut self, from: RelayId, word: Word) {
        let registry = &self.core.registry;
        match word {
            Word::WatchLost { daemon, watch, fault } => {
                registry.watch_lost(from, daemon, watch, fault);
            }
            Word::Left { daemon } => registry.left_afar(from, daemon),
            Word::Superseded { daemon } => {
                let Some(held) = registry.held_of(daemon) else { return };
                let (core, shared) = (self.core.clone(), self.shared.clone());
                self.core.links.run(async move { presence::look(&core, &shared, held).await });
            }
            Word::Mark { nth } if from == self.shared.own && self.is_awaited(nth) => {
                self.asking.abort_all();
                *self.shared.why() = None;
                self.shared.up.store(true, Ordering::Release);
                tracing::info!(relay = %self.shared.own, "the bus is there");
                // what was said while nobody heard it
                self.core.store.overhear(Heard::Missed);
                self.tell(To::All, Word::Void {});
            }
            Word::Mark { .. } => {}
            Word::Void {} => registry.void(Some(from), &lost()),
            word @ (Word::Live { .. } | Word::Missed {}) => {
                tracing::warn!(%from, ?word, "a word to one that is for all is dropped");
            }
        }
    }
}
