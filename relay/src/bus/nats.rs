//! NATS beneath the bus: the connection, its subjects, and the one task that publishes.
//!
//! Below `hayward.DEPLOYMENT`, which is the oldest workspace of the database that the relays share:
//! `relay.ID` for one relay, `live` for all. What goes to one relay asks for an answer under
//! `relay.SENDER.cut.ID`: the server answers there by itself when nobody listens.

use super::access::{enter, refusal};
use super::{BusAddress, BusError, Letter, Message, Post, Shared, To, Word, parcel};
use async_nats::{Client, ConnectOptions, Event, Subscriber};
use futures_util::StreamExt;
use hayward_shared::backoff::full_jitter_ms;
use hayward_shared::id::RelayId;
use hayward_shared::id::WorkspaceId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use uuid::Uuid;

/// A server that answers nothing for twice this long is gone.
const PING: Duration = Duration::from_secs(5);

/// A connection has this long to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// The bound of the first wait between two tries to connect.
const SOON_MS: i64 = 50;

/// And of the later ones: as often as a look costs nobody anything.
const AGAIN_MS: i64 = 2_000;

/// Messages that may wait to be handled here, per subject. What comes beyond is lost, and told.
const UNHEARD: usize = 4096;

/// Messages that may wait in the client; they go out as fast as the server takes them.
const UNSENT: usize = 256;

/// Changes of the connection that may wait to be handled.
const EVENTS: usize = 64;

/// The server takes a parcel within this, or the bus is as good as away.
const PUBLISH: Duration = Duration::from_secs(5);

/// Who was not told something is told so at the latest after this, also where nothing else is said.
const OWED: Duration = Duration::from_secs(1);

/// The most bytes of a parcel: half of what servers usually take.
const PARCEL: usize = 512 * 1024;

/// And the least: one that takes less than a page is no server for this.
const LEAST: usize = 4096;

/// The names under which the relays of a deployment hear.
#[derive(Clone, Debug)]
struct Subjects {
    root: String,
    own: RelayId,
}

impl Subjects {
    fn of(&self, to: To) -> String {
        match to {
            To::Relay(relay) => format!("{}.relay.{relay}", self.root),
            To::All => format!("{}.live", self.root),
        }
    }

    fn cut(&self, from: &str) -> String {
        format!("{}.relay.{}.cut.{from}", self.root, self.own)
    }
}

/// What the connection brings.
pub(super) enum Heard {
    /// It is there (again).
    Connected,
    /// It is gone.
    Disconnected,
    /// It could not be made.
    Failed,
    /// Something that came was lost, as it was not handled in time.
    Lost,
    /// Somebody said something to this relay, or to all.
    Said(To, bytes::Bytes),
    /// Nobody hears what is said to that relay.
    Deaf(RelayId),
}

/// What the client says of the connection, on its way to who listens.
struct Ear {
    tell: mpsc::Sender<Event>,
    lost: Arc<Notify>,
}

impl Ear {
    fn on(&self, event: Event) {
        match event {
            // it comes for each message that is lost, and one is as bad as many
            Event::SlowConsumer(_) => self.lost.notify_one(),
            // one that finds no room is one of many like it
            event => drop(self.tell.try_send(event)),
        }
    }
}

/// A connection to the bus. Owned by who listens.
pub(super) struct Line {
    address: BusAddress,
    client: Client,
    subjects: Subjects,
    to_us: Subscriber,
    to_all: Subscriber,
    cut: Subscriber,
    events: mpsc::Receiver<Event>,
    /// Told when something that came was lost, once for all since it was asked.
    lost: Arc<Notify>,
}

/// The sending half of a connection.
pub(super) struct Sender {
    client: Client,
    subjects: Subjects,
}

impl Line {
    /// Begins to connect to an address that was read, and to hear.
    pub(super) async fn open(
        address: &BusAddress,
        own: RelayId,
        deployment: WorkspaceId,
    ) -> Result<Self, BusError> {
        let (tell, events) = mpsc::channel(EVENTS);
        let lost = Arc::new(Notify::new());
        let ear = Ear { tell, lost: lost.clone() };
        let failed = |source| BusError::Nats { at: address.to_string(), source };
        let options = ConnectOptions::new()
            .name("hayward-relay")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(pause)
            .connection_timeout(CONNECT)
            .ping_interval(PING)
            .subscription_capacity(UNHEARD)
            .client_capacity(UNSENT)
            .event_callback(move |event| {
                ear.on(event);
                std::future::ready(())
            });
        let connected = enter(options, address)?.connect(address.servers()).await;
        let client = connected.map_err(|e| refusal(address, e))?;
        let subjects = Subjects { root: format!("hayward.{}", deployment.0.simple()), own };
        let hear = |subject: String| client.subscribe(subject);
        let to_us = hear(subjects.of(To::Relay(own))).await.map_err(|e| failed(e.into()))?;
        let to_all = hear(subjects.of(To::All)).await.map_err(|e| failed(e.into()))?;
        let cut = hear(subjects.cut("*")).await.map_err(|e| failed(e.into()))?;
        let address = address.clone();
        Ok(Self { address, client, subjects, to_us, to_all, cut, events, lost })
    }

    /// Where it leads.
    pub(super) fn address(&self) -> &BusAddress {
        &self.address
    }

    /// Its sending half.
    pub(super) fn sender(&self) -> Sender {
        Sender { client: self.client.clone(), subjects: self.subjects.clone() }
    }

    /// What it brings next; none once it has ended for good.
    pub(super) async fn hear(&mut self) -> Option<Heard> {
        loop {
            let own = To::Relay(self.subjects.own);
            return Some(tokio::select! {
                biased;
                event = self.events.recv() => match event? {
                    Event::Connected => Heard::Connected,
                    Event::Disconnected => Heard::Disconnected,
                    // what failed is not told: whoever wants to know tries it
                    Event::ClientError(_) => Heard::Failed,
                    other => {
                        tracing::warn!("the bus says: {other}");
                        continue;
                    }
                },
                () = self.lost.notified() => Heard::Lost,
                Some(message) = self.cut.next() => {
                    let from = message.subject.rsplit('.').next().unwrap_or_default();
                    match Uuid::try_parse(from) {
                        Ok(relay) => Heard::Deaf(RelayId(relay)),
                        Err(_) => continue,
                    }
                }
                Some(message) = self.to_us.next() => Heard::Said(own, message.payload),
                Some(message) = self.to_all.next() => Heard::Said(To::All, message.payload),
            });
        }
    }
}

fn pause(tries: usize) -> Duration {
    let tries = u32::try_from(tries).unwrap_or(u32::MAX);
    let wait = full_jitter_ms(SOON_MS, AGAIN_MS, tries, crate::clock::roll());
    Duration::from_millis(wait.unsigned_abs())
}

/// Connects to an address that was read, hears what it says itself, and leaves; how long that took to
/// come back.
pub(super) async fn reach(address: &BusAddress) -> Result<Duration, BusError> {
    let failed = |source| BusError::Nats { at: address.to_string(), source };
    // each of the cluster gets its chance
    let servers = u32::try_from(address.servers().len()).unwrap_or(u32::MAX).max(1);
    let options = ConnectOptions::new().name("hayward-relay").connection_timeout(CONNECT / servers);
    let options = enter(options, address)?;
    let reached = timeout(CONNECT, async {
        let client = options.connect(address.servers()).await.map_err(|e| refusal(address, e))?;
        let subject = format!("hayward.look.{}", Uuid::now_v7().simple());
        let mut own = client.subscribe(subject.clone()).await.map_err(|e| failed(e.into()))?;
        let begun = Instant::now();
        let said = client.publish(subject, bytes::Bytes::new());
        said.await.map_err(|e| failed(e.into()))?;
        own.next().await.ok_or_else(|| failed("the connection ended".into()))?;
        Ok(begun.elapsed())
    });
    reached.await.unwrap_or_else(|e| Err(failed(e.into())))
}

/// Publishes what waits, words before frames. While the bus is away all of it is dropped: who waits
/// for an answer has been told. Ends when it is aborted.
pub(super) async fn publish(shared: Arc<Shared>, sender: Sender, mut post: Post) {
    let mut press = Press { shared, sender, numbers: HashMap::new() };
    let mut ticks = interval(OWED);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let letter = tokio::select! {
            biased;
            _ = ticks.tick() => None,
            Some(letter) = post.words.recv() => Some(letter),
            Some(letter) = post.frames.recv() => Some(letter),
        };
        press.pay().await;
        if let Some(Letter { to, message, first }) = letter
            && (first || press.shared.is_up())
            && !press.print(to, &message).await
            && !first
        {
            press.shared.owed().owe(to);
        }
    }
}

/// What publishes. Owned by the task that does.
struct Press {
    shared: Arc<Shared>,
    sender: Sender,
    /// Of the next parcel under each subject.
    numbers: HashMap<To, u64>,
}

impl Press {
    /// Tells those that were not told something that it is so. Left out is a number: whoever heard
    /// the one before it sees the hole, and both ends void what was under way.
    async fn pay(&mut self) {
        if self.shared.owed().is_empty() {
            return;
        }
        let alive = self.shared.seen().alive.clone();
        let all = self.shared.owed().take(&alive);
        let mut still = true;
        for to in all {
            // once the bus is back, all are told
            if !self.shared.is_up() {
                return;
            }
            let word = if to == To::All { Word::Missed {} } else { Word::Void {} };
            *self.numbers.entry(to).or_default() += 1;
            still = still && self.print(to, &Message::Word(word)).await;
            if !still {
                self.shared.owed().owe(to);
            }
        }
    }

    /// Publishes a message; whether the server took all of it.
    async fn print(&mut self, to: To, message: &Message) -> bool {
        let Self { shared, sender, numbers } = self;
        let takes = sender.client.server_info().max_payload.clamp(LEAST, PARCEL);
        let number = numbers.entry(to).or_default();
        let mut taken = true;
        for part in parcel::pack(shared.own, number, &message.write(), takes) {
            let subject = sender.subjects.of(to);
            let published = async {
                match to {
                    To::Relay(relay) => {
                        let cut = sender.subjects.cut(&relay.to_string());
                        sender.client.publish_with_reply(subject, cut, part).await
                    }
                    To::All => sender.client.publish(subject, part).await,
                }
            };
            match timeout(PUBLISH, published).await {
                Ok(Ok(())) => continue,
                Ok(Err(e)) => tracing::warn!(error = &e as &dyn std::error::Error, "not published"),
                Err(_) => tracing::warn!("the bus takes nothing"),
            }
            taken = false;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn however_much_is_lost_is_told_once_and_hides_no_change_of_the_connection() {
        let (tell, mut events) = mpsc::channel(EVENTS);
        let ear = Ear { tell, lost: Arc::default() };
        for _ in 0..2 * EVENTS {
            ear.on(Event::SlowConsumer(1));
        }
        ear.on(Event::Disconnected);
        assert_eq!(events.try_recv(), Ok(Event::Disconnected));
        assert!(ear.lost.notified().now_or_never().is_some());
        assert!(ear.lost.notified().now_or_never().is_none());
    }

    #[test]
    fn tries_to_connect_are_spread_and_bounded() {
        for tries in [0, 1, 5, 63, usize::MAX] {
            assert!(pause(tries).as_millis() <= 2_000, "{tries}");
        }
    }

    #[test]
    fn each_relay_has_a_subject_of_its_own_below_that_of_the_deployment() {
        let text = "01939d3a-7c00-7000-8000-0000deadbeef";
        let own = RelayId(text.parse().unwrap());
        let subjects = Subjects { root: "hayward.x".into(), own };
        assert_eq!(subjects.of(To::Relay(own)), format!("hayward.x.relay.{text}"));
        assert_eq!(subjects.of(To::All), "hayward.x.live");
        assert_eq!(subjects.cut("*"), format!("hayward.x.relay.{text}.cut.*"));
    }
}
