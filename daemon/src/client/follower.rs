//! Follows the events of streams over any number of connections: each event once, in order.

use super::finder::Finder;
use super::socket::{Heard, Socket};
use super::{may_pass, pause};
use hayward_shared::event::{Envelope, Kind};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::protocol::{ClientMessage, ClientNotice};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Events that wait for the reader. Full means that the relay waits.
const QUEUE: usize = 64;

/// What a follower tells.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The next event of a stream.
    Event(Box<Envelope>),
    /// The connection broke; another is being tried.
    Lost(Fault),
    /// It stands again; what was missed follows.
    Back,
}

/// The handle. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Follower {
    heard: mpsc::Receiver<Result<Followed, Fault>>,
    _actor: JoinSet<()>,
}

impl Follower {
    /// Follows these streams, each after the event that is already known of it.
    pub(crate) fn start(finder: Finder, streams: BTreeMap<String, Option<u64>>) -> Self {
        let (tell, heard) = mpsc::channel(QUEUE);
        let mut actor = JoinSet::new();
        actor.spawn(Actor { finder, tell, known: Known(streams) }.run());
        Self { heard, _actor: actor }
    }

    /// The next piece of news. An error means that no other connection will do either. May be
    /// dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Followed, Fault> {
        let gone = || Err(Fault::new(Code::Internal, "the follower ended"));
        self.heard.recv().await.unwrap_or_else(gone)
    }
}

/// The last event that was told of each stream.
#[derive(Debug)]
struct Known(BTreeMap<String, Option<u64>>);

/// What an event is to a reader.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The next one.
    Next,
    /// Told before, or of no stream of ours.
    Old,
    /// One before it is missing.
    Ahead,
}

impl Known {
    /// Places an event, and remembers it if it is the next one.
    fn place(&mut self, event: &Envelope) -> Place {
        let Some(last) = self.0.get_mut(&event.stream) else { return Place::Old };
        let next = last.map_or(0, |last| last + 1);
        if event.seq < next {
            return Place::Old;
        }
        if event.seq > next && event.kind != Kind::StreamReset {
            return Place::Ahead;
        }
        *last = Some(event.seq);
        Place::Next
    }
}

/// Owns the connection.
struct Actor {
    finder: Finder,
    tell: mpsc::Sender<Result<Followed, Fault>>,
    known: Known,
}

/// Why a connection is no longer listened to.
enum Break {
    /// Nobody listens to us.
    Unwanted,
    /// It failed, after it had stood or before.
    Fault { fault: Fault, stood: bool },
}

impl Actor {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let (fault, stood) = match self.listen(failures > 0).await {
                Break::Unwanted => return,
                Break::Fault { fault, stood } => (fault, stood),
            };
            if !may_pass(&fault.code) {
                // the reader may have gone meanwhile
                drop(self.tell.send(Err(fault)).await);
                return;
            }
            if stood {
                failures = 0;
            }
            if failures == 0 && self.tell.send(Ok(Followed::Lost(fault))).await.is_err() {
                return;
            }
            tokio::time::sleep(pause(failures)).await;
            failures += 1;
        }
    }

    /// One connection, from its beginning to its end.
    async fn listen(&mut self, again: bool) -> Break {
        let mut socket = match self.subscribe().await {
            Ok(socket) => socket,
            Err(fault) => return Break::Fault { fault, stood: false },
        };
        if again && self.tell.send(Ok(Followed::Back)).await.is_err() {
            return Break::Unwanted;
        }
        loop {
            let heard = tokio::select! {
                heard = socket.hear() => heard,
                () = self.tell.closed() => return Break::Unwanted,
            };
            let event = match heard {
                Ok(Heard::Event(event)) => event,
                Ok(Heard::Notice(ClientNotice::Error { error })) | Err(error) => {
                    return Break::Fault { fault: error, stood: true };
                }
                Ok(Heard::Notice(_) | Heard::Frame(_)) => continue,
            };
            match self.known.place(&event) {
                Place::Old => {}
                Place::Ahead => {
                    let fault = Fault::new(Code::Unavailable, "an event is missing");
                    return Break::Fault { fault, stood: true };
                }
                Place::Next => {
                    if self.tell.send(Ok(Followed::Event(event))).await.is_err() {
                        return Break::Unwanted;
                    }
                }
            }
        }
    }

    async fn subscribe(&self) -> Result<Socket, Fault> {
        let mut socket = Socket::open(&self.finder.place()?).await?;
        for (stream, since) in &self.known.0 {
            let message = ClientMessage::Subscribe { stream: stream.clone(), since: *since };
            socket.send(&message).await?;
        }
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn each_event_is_told_once_and_in_order() {
        let mut known = Known([("task:1".to_owned(), None)].into());
        let event =
            |seq| Envelope { stream: "task:1".into(), ..sample::event(seq, Kind::TaskUpdated) };
        assert_eq!(known.place(&event(1)), Place::Ahead);
        assert_eq!(known.place(&event(0)), Place::Next);
        assert_eq!(known.place(&event(0)), Place::Old);
        assert_eq!(known.place(&event(1)), Place::Next);
        assert_eq!(known.place(&sample::event(2, Kind::TaskUpdated)), Place::Old);
        let reset = Envelope { kind: Kind::StreamReset, ..event(9) };
        assert_eq!(known.place(&reset), Place::Next);
        assert_eq!(known.place(&event(10)), Place::Next);
    }
}
