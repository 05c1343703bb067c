//! The actor of one daemon's link: reads its messages one by one and stores what they say.
//!
//! The loop only gathers what happened; [`Connection::on`] handles it. Reading waits while a
//! message is stored, so a fast daemon is held back by its own link.

use super::pipe::{Ended, Outlet, Pipe};
use super::reports::Numbered;
use super::{hello, reconcile, size};
use crate::core::Core;
use crate::registry::LinkId;
use crate::store::{StoreError, Tries, daemons};
use axum::extract::ws::{Message, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::SplitStream;
use futures_util::{FutureExt, StreamExt};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RunId, TaskId, TokenId, WorkspaceId};
use hayward_shared::protocol::{
    DecodeError, FromDaemon, MAX_TEXT, Reply, Tagged, Tags, ToDaemon, asked_by, decode, encode,
};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{Instrument, Span};

/// State messages that are stored before an ack must go out, while more of them are at hand.
const ACK_EVERY: u32 = 32;

/// Frames that are taken together when they are at hand: what they tell is stored at once. A change
/// takes some ten statements whatever it stores; with so many events that is little for each. With 31 to
/// 37 µs an event one change is some 4 ms, as long as the writer goes on with others; a group may hold one
/// such change more.
const TOGETHER: usize = 128;

/// Bytes past which no more frames are taken together, so that a thousand links hold little.
const TOGETHER_BYTES: usize = 256 * 1024;

/// Why a link ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The daemon said goodbye.
    #[error("the daemon said goodbye")]
    Farewell,
    /// The socket broke, or was silent for too long.
    #[error("the link broke")]
    Broken,
    /// A newer link of the same daemon took its place, or it was congested.
    #[error("the link was replaced or congested")]
    Replaced,
    /// The relay stops.
    #[error("the relay stops")]
    Stopping,
    /// The daemon broke the rules; it was told.
    #[error("the daemon was refused: {0}")]
    Refused(Fault),
    /// The store failed.
    #[error("a message could not be stored")]
    Store(#[from] StoreError),
}

impl End {
    /// Whether what ended so is to be tried anew.
    pub(super) fn passes(&self, tries: &mut Tries) -> bool {
        matches!(self, Self::Store(e) if tries.again(e))
    }
}

impl From<Ended> for End {
    fn from(_: Ended) -> Self {
        Self::Broken
    }
}

/// Serves a daemon until its link ends. Owns the link.
pub(crate) async fn serve(socket: WebSocket, core: Arc<Core>) {
    let (sink, mut stream) = futures_util::StreamExt::split(socket);
    let pipe = Pipe::open(sink, core.timing.ping);
    let outlet = pipe.outlet();
    // what a link needs while something is done is not kept while nothing is
    let end = match Box::pin(hello::greet(&mut stream, &outlet, &core)).await {
        Ok(connection) => connection.run(stream).await,
        Err(end) => end,
    };
    if let End::Refused(fault) = &end
        && let Ok(text) = encode(&error(fault, None))
    {
        // it may have gone already
        drop(outlet.text(text).await);
    }
    let (code, reason) = match end {
        End::Stopping => (close_code::AWAY, "the relay stops"),
        End::Refused(_) => (close_code::POLICY, "refused"),
        End::Store(_) => (close_code::ERROR, "the relay failed"),
        _ => (close_code::NORMAL, "done"),
    };
    pipe.close(code, reason).await;
}

/// `error`, as a daemon is told it.
pub(super) fn error(fault: &Fault, task_id: Option<TaskId>) -> Tagged<ToDaemon> {
    let (code, message) = (fault.code.name().to_owned(), fault.message.clone());
    ToDaemon::Error { code, message, task_id }.into()
}

/// Who is at the other end.
pub(super) struct Peer {
    pub(super) daemon: DaemonId,
    pub(super) workspace: WorkspaceId,
    pub(super) token: TokenId,
    pub(super) plain: bool,
    pub(super) profile: daemons::Profile,
    /// The one of its link.
    pub(super) span: Span,
}

impl Peer {
    /// The span of what concerns its link.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }
}

/// A link with a daemon that was let in.
pub(super) struct Connection {
    pub(super) core: Arc<Core>,
    pub(super) peer: Peer,
    pub(super) link: LinkId,
    pub(super) outlet: Outlet,
    pub(super) work: Arc<Notify>,
    /// Nothing new is handed out before.
    pub(super) settled_at: Instant,
    /// When it is told of work that another may do better; none when nothing is put off.
    pub(super) told_at: Option<Instant>,
    /// Runs that it should hold but did not name in its hello.
    pub(super) unnamed: Vec<(TaskId, RunId)>,
    /// The last state message that was stored, and how many since the last ack.
    pub(super) stored: (u64, u32),
}

/// What a text was.
enum Taken {
    Numbered(Box<Numbered>),
    Other(Box<Tagged<FromDaemon>>),
    Nothing,
}

enum Event {
    /// One frame, and those that were at hand behind it.
    Frames(Vec<Message>),
    Gone(End),
    /// There may be work; or those who would do better at it had their head start.
    Work,
    Idle,
}

impl Connection {
    async fn run(mut self, mut stream: SplitStream<WebSocket>) -> End {
        let mut stopping = self.core.stopping.clone();
        let mut settled = false;
        let mut heard = Instant::now();
        let end = loop {
            let event = tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => Event::Gone(End::Stopping),
                () = self.outlet.asked_to_end() => Event::Gone(End::Replaced),
                event = next(&mut stream, heard + self.core.timing.dead) => {
                    heard = Instant::now();
                    event
                }
                () = std::future::ready(()), if self.stored.1 > 0 => Event::Idle,
                () = self.work.notified(), if settled => Event::Work,
                () = sleep_until(self.told_at.unwrap_or(heard)), if self.told_at.is_some() => {
                    Event::Work
                }
                () = sleep_until(self.settled_at), if !settled => {
                    settled = true;
                    Event::Work
                }
            };
            // some 12 KiB that an idle link would hold
            if let Err(end) = Box::pin(self.on(event)).await {
                break end;
            }
        };
        Box::pin(self.leave(&end)).instrument(self.peer.span()).await;
        end
    }

    /// What is said of an event bears who it came from. Output opens no span: it would cost more than
    /// to pass the frame on.
    async fn on(&mut self, event: Event) -> Result<(), End> {
        let span = match &event {
            Event::Frames(frames) if frames.iter().all(is_output) => Span::none(),
            _ => self.peer.span(),
        };
        self.handle(event).instrument(span).await
    }

    async fn handle(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Gone(end) => return Err(end),
            Event::Idle => return self.ack().await,
            Event::Work => return self.offer().await,
            Event::Frames(frames) => self.frames(frames).await?,
        }
        if self.stored.1 >= ACK_EVERY { self.ack().await } else { Ok(()) }
    }

    /// Handles frames in their order; state messages that follow one another are stored together.
    async fn frames(&mut self, frames: Vec<Message>) -> Result<(), End> {
        let (mut batch, mut output) = (Vec::new(), Vec::new());
        for frame in frames {
            if !matches!(frame, Message::Binary(_)) {
                self.output(&mut output);
            }
            match frame {
                Message::Text(text) => match self.text(text.as_str()).await? {
                    Taken::Numbered(message) => batch.push(*message),
                    Taken::Other(message) => {
                        self.store(std::mem::take(&mut batch)).await?;
                        self.message(*message).await?;
                    }
                    Taken::Nothing => {}
                },
                Message::Binary(bytes) => output.push(bytes),
                Message::Close(_) => {
                    self.store(batch).await?;
                    return Err(End::Farewell);
                }
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
        if !output.is_empty() {
            self.output(&mut output);
            // who writes it goes on when this task pauses; with much to read that may be late
            yield_now().await;
        }
        self.store(batch).await
    }

    /// Passes output on to those who watch.
    fn output(&self, frames: &mut Vec<Bytes>) {
        if frames.is_empty() {
            return;
        }
        let bytes: usize = frames.iter().map(Bytes::len).sum();
        self.core.metrics.output_bytes.inc_by(bytes as u64);
        self.core.registry.frames(self.peer.daemon, frames);
        frames.clear();
    }

    async fn store(&mut self, batch: Vec<Numbered>) -> Result<(), End> {
        if batch.is_empty() {
            return Ok(());
        }
        if !self.core.registry.is_current(self.peer.daemon, self.link) {
            return Err(End::Replaced);
        }
        self.numbered(batch).await
    }

    async fn text(&mut self, text: &str) -> Result<Taken, End> {
        if !self.core.registry.is_current(self.peer.daemon, self.link) {
            return Err(End::Replaced);
        }
        match decode::<FromDaemon>(text, MAX_TEXT) {
            Ok(message) => Ok(match message.tags.seq {
                Some(seq) => {
                    let Tagged { body, tags } = message;
                    Taken::Numbered(Box::new(Numbered { seq, tags, body: Some(body) }))
                }
                None => Taken::Other(Box::new(message)),
            }),
            Err(e) => self.odd(text, &e).await,
        }
    }

    /// A message without a number.
    async fn message(&mut self, message: Tagged<FromDaemon>) -> Result<(), End> {
        let Tagged { body, tags } = message;
        match body {
            FromDaemon::Heartbeat { active_tasks, beat, vitals } => {
                self.beat(&active_tasks, beat, vitals).await
            }
            FromDaemon::Claim { slots } => {
                self.settle_unnamed(&[]).await?;
                self.claim(slots).await
            }
            answer @ FromDaemon::Reply(_) if tags.request_id.is_some() => {
                self.core.registry.answer(self.peer.daemon, tags.request_id, answer);
                Ok(())
            }
            answer if answer.answered().is_some() => {
                self.core.registry.answer(self.peer.daemon, tags.request_id, answer);
                Ok(())
            }
            FromDaemon::SearchFound(page) => {
                if let Some(request) = tags.request_id {
                    self.core.registry.found(self.peer.daemon, request, page);
                }
                Ok(())
            }
            FromDaemon::Reply(_) => Ok(()),
            FromDaemon::Error { code, message } => {
                tracing::warn!(code, message, "the daemon did not take a message");
                Ok(())
            }
            FromDaemon::Authenticate(_) => {
                let fault = Fault::new(Code::Invalid, "a link is authenticated once");
                self.say(&error(&fault, None)).await
            }
            body => self.unnumbered(tags, body).await,
        }
    }

    /// A message that could not be understood. If it has a number, that is used up: the daemon
    /// would send it again for ever otherwise.
    async fn odd(&mut self, text: &str, e: &DecodeError) -> Result<Taken, End> {
        #[derive(Deserialize)]
        struct Number {
            seq: Option<u64>,
        }
        self.say(&error(&e.fault(), None)).await?;
        if let Some(request) = asked_by(text) {
            // an answer: whoever waits for it need not wait longer
            let refused = FromDaemon::Reply(Reply::refused(e.refusal()));
            self.core.registry.answer(self.peer.daemon, Some(request), refused);
        }
        Ok(match serde_json::from_str::<Number>(text) {
            Ok(Number { seq: Some(seq) }) => {
                Taken::Numbered(Box::new(Numbered { seq, tags: Tags::default(), body: None }))
            }
            _ => Taken::Nothing,
        })
    }

    /// Tells the daemon up to where its messages are stored.
    async fn ack(&mut self) -> Result<(), End> {
        let (seq, _) = self.stored;
        self.stored.1 = 0;
        self.say(&ToDaemon::Ack { seq }.into()).await
    }

    pub(super) async fn say(&self, message: &Tagged<ToDaemon>) -> Result<(), End> {
        let Ok(text) = encode(message) else {
            let fault = Fault::new(Code::Internal, "a message could not be written");
            return Err(End::Refused(fault));
        };
        Ok(self.outlet.text(text).await?)
    }

    /// Takes back what was said of the link, and tells that the daemon went.
    pub(super) async fn leave(&self, end: &End) {
        let Peer { daemon, workspace, .. } = self.peer;
        let now = crate::clock::now();
        // a link that ends before it settled leaves that to the next one
        let broke = matches!(end, End::Broken) || Instant::now() < self.settled_at;
        self.core.field.leave(workspace, daemon, self.link);
        if let End::Store(source) = end {
            tracing::error!(error = source as &dyn std::error::Error, "link ended");
        }
        if !self.core.registry.leave(daemon, self.link, broke, now) {
            return;
        }
        tracing::info!(%workspace, why = %end, "daemon offline");
        if let Err(e) = reconcile::tell_offline(&self.core, &self.peer, self.link, now).await {
            tracing::warn!(error = &e as &dyn std::error::Error, "offline not stored");
        }
    }
}

fn is_output(frame: &Message) -> bool {
    matches!(frame, Message::Binary(_))
}

async fn next(stream: &mut SplitStream<WebSocket>, dead_at: Instant) -> Event {
    let Ok(Some(Ok(first))) = timeout_at(dead_at, stream.next()).await else {
        return Event::Gone(End::Broken);
    };
    let mut bytes = size(&first);
    let mut frames = vec![first];
    // a break behind them is met again when the next frame is waited for
    while frames.len() < TOGETHER
        && bytes < TOGETHER_BYTES
        && let Some(Some(Ok(frame))) = stream.next().now_or_never()
    {
        bytes += size(&frame);
        frames.push(frame);
    }
    Event::Frames(frames)
}
