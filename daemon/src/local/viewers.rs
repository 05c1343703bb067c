//! Viewers on this machine: the relay's client endpoint, as far as output and terminals go. The
//! same words and frames; nobody between the viewer and its watches.

use super::Rooms;
use super::faults::Refusal;
use crate::link::{Lane, LaneEnd};
use crate::watch::{Hand, Watches};
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, WatchId};
use hayward_shared::protocol::{
    ClientMessage, ClientNotice, FromDaemon, MAX_TEXT, OutputView, READ_AT_ONCE, Reply, Tagged,
    TerminalView,
};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Viewers at once; more are refused.
pub(super) const MOST: usize = 64;

/// Watches of one viewer, as the relay allows them; more are refused.
const WATCHES: usize = 32;

/// Wishes of one viewer that wait for an answer; more are refused. Ours waits for each.
const WISHES: usize = 1024;

/// Notices that may wait for a slow viewer; then nothing more of it is read.
const NOTICES: usize = 64;

/// A viewer hears something at least so often, as from the relay: one that hears nothing for 45 s
/// gives up.
const PING: Duration = Duration::from_secs(20);

/// A viewer that takes nothing for this long is gone.
const WRITE: Duration = Duration::from_secs(20);

/// As `/api/v1/ws/client` of the relay, without events.
pub(super) async fn open(
    State(rooms): State<Rooms>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let place = rooms.viewers.clone().try_acquire_owned().map_err(|_| {
        Fault::new(Code::RateLimited, format!("{MOST} viewers are served on this machine already"))
    })?;
    let upgrade = upgrade.max_message_size(MAX_TEXT).max_frame_size(MAX_TEXT);
    let upgrade = upgrade.read_buffer_size(READ_AT_ONCE);
    Ok(upgrade.on_upgrade(async move |socket| {
        serve(socket, rooms).await;
        drop(place);
    }))
}

/// Serves one viewer until it, or the daemon's interface, ends.
async fn serve(socket: WebSocket, rooms: Rooms) {
    let (sink, stream) = socket.split();
    let (lane, LaneEnd { answers, frames }) = Lane::apart();
    let (out, notices) = mpsc::channel(NOTICES);
    let watches = Watches::new(rooms.shop, rooms.board, lane, WATCHES);
    let viewer = Viewer { watches, out, wishes: HashMap::new() };
    let mut serving = rooms.serving;
    tokio::select! {
        biased;
        _gone = viewer.run(stream, answers) => {}
        () = write(sink, notices, frames) => {}
        _ended = serving.changed() => {}
    }
}

/// Notices first, so that what begins a watch is there before its frames; what waits at the same
/// time goes out at once, so that the viewer wakes once for it.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut notices: mpsc::Receiver<ClientNotice>,
    mut frames: mpsc::Receiver<Bytes>,
) {
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut messages = Vec::new();
        let frame = tokio::select! {
            biased;
            Some(notice) = notices.recv() => {
                messages.push(told_as(&notice));
                frames.try_recv().ok()
            }
            _ = pings.tick() => {
                messages.push(Message::Ping(Bytes::new()));
                None
            }
            Some(frame) = frames.recv() => Some(frame),
        };
        if let Some(frame) = frame {
            // what was answered before is told before
            yield_now().await;
            while let Ok(notice) = notices.try_recv() {
                messages.push(told_as(&notice));
            }
            messages.push(Message::Binary(frame));
        }
        let mut messages = stream::iter(messages.into_iter().map(Ok));
        if !matches!(timeout(WRITE, sink.send_all(&mut messages)).await, Ok(Ok(()))) {
            // the viewer is gone
            return;
        }
    }
}

fn told_as(notice: &ClientNotice) -> Message {
    Message::text(serde_json::to_string(notice).unwrap_or_default())
}

/// What a viewer wishes of a watch, while that is answered.
enum Wish {
    /// To begin it.
    Begin,
    /// To type, under its own number.
    Type(u64),
    /// Another size.
    Size,
}

/// One viewer; owns its watches.
struct Viewer {
    watches: Watches,
    wishes: HashMap<RequestId, (WatchId, Wish)>,
    out: mpsc::Sender<ClientNotice>,
}

/// The viewer takes nothing more.
struct Gone;

impl Viewer {
    /// Takes what the viewer says and what its watches answer, until the viewer is gone.
    async fn run(
        mut self,
        mut stream: SplitStream<WebSocket>,
        mut answers: mpsc::Receiver<Tagged<FromDaemon>>,
    ) -> Result<(), Gone> {
        loop {
            tokio::select! {
                Some(answer) = answers.recv() => self.answered(answer).await?,
                message = stream.next() => match message {
                    Some(Ok(Message::Text(text))) => self.text(text.as_str()).await?,
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Gone),
                },
            }
        }
    }

    async fn say(&self, notice: ClientNotice) -> Result<(), Gone> {
        self.out.send(notice).await.map_err(|_| Gone)
    }

    async fn text(&mut self, text: &str) -> Result<(), Gone> {
        match serde_json::from_str(text) {
            Ok(message) => self.message(message).await,
            Err(error) => {
                let text = format!("the message cannot be read: {error}");
                self.say(ClientNotice::Error { error: Fault::new(Code::Invalid, text) }).await
            }
        }
    }

    async fn message(&mut self, message: ClientMessage) -> Result<(), Gone> {
        match message {
            ClientMessage::Watch(OutputView { watch_id, .. })
            | ClientMessage::AttachTerminal(TerminalView { watch_id, .. })
                if self.watches.is_live(watch_id) =>
            {
                let error = Fault::new(Code::Conflict, "that watch id is in use");
                self.say(ClientNotice::WatchFailed { watch_id, error }).await
            }
            ClientMessage::Watch(view) => {
                let OutputView { watch_id, grant, .. } = view;
                match self.watches.begin(OutputView { grant: 0, ..view }).await {
                    Ok(payload) => {
                        self.say(ClientNotice::WatchStarted { watch_id, payload }).await?;
                        self.watches.grant(watch_id, grant);
                        Ok(())
                    }
                    Err(error) => self.say(ClientNotice::WatchFailed { watch_id, error }).await,
                }
            }
            ClientMessage::AttachTerminal(view) => {
                self.wish(view.watch_id, Wish::Begin, |watches, request| {
                    watches.attach(Some(request), view)
                })
                .await
            }
            ClientMessage::TypeTerminal { watch_id, seq, data } => {
                self.hand(watch_id, Wish::Type(seq), Hand::Type(data)).await
            }
            ClientMessage::ResizeTerminal { watch_id, rows, cols } => {
                self.hand(watch_id, Wish::Size, Hand::Resize(rows, cols)).await
            }
            ClientMessage::TakeTerminal { watch_id } => {
                self.hand(watch_id, Wish::Size, Hand::Take).await
            }
            ClientMessage::Grant { watch_id, up_to } => {
                self.watches.grant(watch_id, up_to);
                Ok(())
            }
            ClientMessage::Unwatch { watch_id } => {
                self.watches.end(watch_id);
                self.wishes.retain(|_, (watch, _)| *watch != watch_id);
                Ok(())
            }
            ClientMessage::Subscribe { .. } | ClientMessage::Unsubscribe { .. } => {
                let error = Fault::new(Code::Unavailable, "events are told by the relay alone");
                self.say(ClientNotice::Error { error }).await
            }
        }
    }

    async fn hand(&mut self, watch: WatchId, wish: Wish, hand: Hand) -> Result<(), Gone> {
        self.wish(watch, wish, |watches, request| watches.hand(Some(request), watch, hand)).await
    }

    /// Asks for something that is answered later, or tells at once why it cannot be.
    async fn wish(
        &mut self,
        watch: WatchId,
        wish: Wish,
        ask: impl FnOnce(&mut Watches, RequestId) -> Result<(), Fault>,
    ) -> Result<(), Gone> {
        let request = RequestId::fresh();
        if self.wishes.len() >= WISHES {
            // a watch that ended answers none of them any more
            self.wishes.retain(|_, (watch, _)| self.watches.is_live(*watch));
        }
        let asked = if self.wishes.len() < WISHES {
            ask(&mut self.watches, request)
        } else {
            Err(Fault::new(Code::RateLimited, format!("{WISHES} wishes wait already")))
        };
        match asked {
            Ok(()) => {
                self.wishes.insert(request, (watch, wish));
                Ok(())
            }
            Err(fault) => match told(watch, wish, Reply::refused(fault)) {
                Some(notice) => self.say(notice).await,
                None => Ok(()),
            },
        }
    }

    async fn answered(&mut self, answer: Tagged<FromDaemon>) -> Result<(), Gone> {
        let FromDaemon::Reply(reply) = answer.body else { return Ok(()) };
        let wish = answer.tags.request_id.and_then(|request| self.wishes.remove(&request));
        match wish.and_then(|(watch, wish)| told(watch, wish, reply)) {
            Some(notice) => self.say(notice).await,
            None => Ok(()),
        }
    }
}

/// What a viewer is told of its wish. Where it concerns the size, only a refusal.
fn told(watch_id: WatchId, wish: Wish, reply: Reply) -> Option<ClientNotice> {
    Some(match (reply.into_result(), wish) {
        (Ok(payload), Wish::Begin) => ClientNotice::WatchStarted { watch_id, payload },
        (Err(error), Wish::Begin) => ClientNotice::WatchFailed { watch_id, error },
        (Ok(_), Wish::Type(seq)) => ClientNotice::TerminalTyped { watch_id, seq },
        (Err(error), Wish::Type(seq)) => {
            ClientNotice::TerminalRefused { watch_id, seq: Some(seq), error }
        }
        (Ok(_), Wish::Size) => return None,
        (Err(error), Wish::Size) => ClientNotice::TerminalRefused { watch_id, seq: None, error },
    })
}
