//! The actor of one client's link: streams of events, and watches of output.
//!
//! A subscription first listens, then reads the store, then passes on what comes live: each event
//! once, in order, without a hole. What comes live is taken only if it is the very next one;
//! otherwise the store is read again.

mod terminal;

use super::pipe::{Ended, Outlet, Pipe};
use crate::auth::{Caller, Who};
use crate::core::Core;
use crate::registry::{ClientId, NewWatch, notice};
use crate::store::events::{self, Stream};
use crate::store::{Heard, StoreError, daemons, tasks, tokens};
use axum::extract::ws::{Message, WebSocket, close_code};
use futures_util::StreamExt;
use hayward_shared::event::Envelope;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, TaskId, WatchId, WorkspaceId};
use hayward_shared::protocol::{ClientMessage, ClientNotice, MAX_TEXT, ToDaemon};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Streams that one client may follow at once.
const MAX_STREAMS: usize = 256;

/// Events that are read from the store together.
const PAGE: u32 = 200;

/// How often watches without an answer are looked for, and the token looked at.
const TICK: Duration = Duration::from_secs(1);

/// Why a link ends.
enum End {
    /// The client is gone.
    Gone,
    /// The relay stops.
    Stopping,
    /// The client's token is no longer good.
    Refused,
    /// The store failed.
    Store(StoreError),
}

impl From<Ended> for End {
    fn from(_: Ended) -> Self {
        Self::Gone
    }
}

impl From<StoreError> for End {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// What was asked for could not be had: it is told, or the link ends.
enum Failed {
    Fault(Fault),
    End(End),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<T: Into<End>> From<T> for Failed {
    fn from(end: T) -> Self {
        Self::End(end.into())
    }
}

/// Serves a client until its link ends. Owns the link.
pub(crate) async fn serve(socket: WebSocket, core: Arc<Core>, caller: Caller) {
    let (sink, stream) = socket.split();
    let pipe = Pipe::open(sink, core.timing.ping);
    let id = core.registry.join_client();
    let outlet = pipe.outlet();
    let client = Client { core: core.clone(), caller, id, outlet, next: HashMap::new() };
    let end = client.run(stream).await;
    core.registry.leave_client(id);
    let (code, reason) = match end {
        End::Gone => (close_code::NORMAL, "done"),
        End::Stopping => (close_code::AWAY, "the relay stops"),
        End::Refused => (close_code::POLICY, "the token is no longer valid"),
        End::Store(e) => {
            tracing::error!(error = &e as &dyn std::error::Error, "a client's link failed");
            (close_code::ERROR, "the relay failed")
        }
    };
    pipe.close(code, reason).await;
}

struct Client {
    core: Arc<Core>,
    caller: Caller,
    id: ClientId,
    outlet: Outlet,
    /// The number of the event that each stream must send next.
    next: HashMap<Stream, u64>,
}

enum Event {
    Frame(Message),
    Live(Heard),
    /// Live events were missed.
    Missed,
    Tick,
    Over(End),
}

impl Client {
    async fn run(mut self, mut stream: futures_util::stream::SplitStream<WebSocket>) -> End {
        let mut live = self.core.store.listen();
        let mut stopping = self.core.stopping.clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dead_at = Instant::now() + self.core.timing.dead;
        loop {
            let event = tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => Event::Over(End::Stopping),
                () = self.outlet.asked_to_end() => Event::Over(End::Gone),
                frame = timeout_at(dead_at, stream.next()) => match frame {
                    Ok(Some(Ok(message))) => {
                        dead_at = Instant::now() + self.core.timing.dead;
                        Event::Frame(message)
                    }
                    _ => Event::Over(End::Gone),
                },
                event = live.recv() => match event {
                    Ok(Heard::Missed) | Err(RecvError::Lagged(_)) => Event::Missed,
                    Ok(event) => Event::Live(event),
                    Err(RecvError::Closed) => Event::Over(End::Stopping),
                },
                _ = ticks.tick() => Event::Tick,
            };
            if let Err(end) = self.on(event).await {
                return end;
            }
        }
    }

    async fn on(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Over(end) => Err(end),
            Event::Live(Heard::Event(event)) => self.live(&event).await,
            Event::Live(Heard::Look(workspace, stream)) => self.look(workspace, &stream).await,
            Event::Live(Heard::Missed) | Event::Missed => {
                let streams: Vec<_> = self.next.keys().copied().collect();
                for stream in streams {
                    self.replay(stream).await?;
                }
                Ok(())
            }
            Event::Tick => {
                self.core.registry.expire(self.id, Instant::now());
                let now = crate::clock::now();
                let mut reader = self.core.store.read().await?;
                let good = tokens::is_good(&mut reader, self.caller.token, now).await?;
                good.then_some(()).ok_or(End::Refused)
            }
            Event::Frame(Message::Text(text)) => {
                let told = self.text(text.as_str()).await;
                match told {
                    Ok(()) => Ok(()),
                    Err(Failed::End(end)) => Err(end),
                    Err(Failed::Fault(error)) => self.say(&ClientNotice::Error { error }).await,
                }
            }
            Event::Frame(Message::Close(_)) => Err(End::Gone),
            Event::Frame(Message::Binary(_)) => {
                let error = Fault::new(Code::Invalid, "clients send no binary frames");
                self.say(&ClientNotice::Error { error }).await
            }
            Event::Frame(Message::Ping(_) | Message::Pong(_)) => Ok(()),
        }
    }

    async fn say(&self, told: &ClientNotice) -> Result<(), End> {
        Ok(self.outlet.text(notice(told)).await?)
    }

    async fn text(&mut self, text: &str) -> Result<(), Failed> {
        if text.len() > MAX_TEXT {
            return Err(Fault::new(Code::TooLarge, "a message may have 1 MiB at the most").into());
        }
        let message: ClientMessage = serde_json::from_str(text)
            .map_err(|e| Fault::new(Code::Invalid, format!("the message cannot be read: {e}")))?;
        match message {
            ClientMessage::Subscribe { stream, since } => self.subscribe(&stream, since).await,
            ClientMessage::Unsubscribe { stream } => {
                if let Some(stream) = Stream::parse(&stream) {
                    self.next.remove(&stream);
                }
                Ok(())
            }
            ClientMessage::Watch(view) => {
                self.watch(view.watch_id, view.task_id, ToDaemon::WatchOutput(view)).await
            }
            ClientMessage::Grant { watch_id, up_to } => {
                Ok(self.core.registry.grant(self.id, watch_id, up_to)?)
            }
            ClientMessage::Unwatch { watch_id } => {
                Ok(self.core.registry.unwatch(self.id, watch_id)?)
            }
            message @ (ClientMessage::AttachTerminal { .. }
            | ClientMessage::TypeTerminal { .. }
            | ClientMessage::ResizeTerminal { .. }
            | ClientMessage::TakeTerminal { .. }) => self.terminal(message).await,
        }
    }

    /// Asks the daemon that holds a task for frames, in these words.
    async fn watch(
        &self,
        watch_id: WatchId,
        task_id: TaskId,
        body: ToDaemon,
    ) -> Result<(), Failed> {
        let daemon = match self.holder(task_id).await {
            Ok(daemon) => daemon,
            Err(failed) => return self.no_watch(watch_id, failed).await,
        };
        let outlet = self.outlet.clone();
        let new = NewWatch { client: self.id, outlet, daemon, watch: watch_id, body };
        let answer_by = Instant::now() + self.core.timing.reply;
        let registry = &self.core.registry;
        let reached = registry.reach(daemon).await;
        match reached.and_then(|()| registry.watch(new, answer_by)) {
            Ok(()) => Ok(()),
            Err(fault) => self.no_watch(watch_id, fault.into()).await,
        }
    }

    async fn no_watch(&self, watch_id: WatchId, failed: Failed) -> Result<(), Failed> {
        match failed {
            Failed::Fault(error) => {
                Ok(self.say(&ClientNotice::WatchFailed { watch_id, error }).await?)
            }
            end @ Failed::End(_) => Err(end),
        }
    }

    /// The daemon that has the output of a task which the caller may read.
    async fn holder(&self, id: TaskId) -> Result<DaemonId, Failed> {
        let absent = || Fault::not_found("task", id);
        if !self.may_read(Stream::Task(id)).await? {
            return Err(absent().into());
        }
        let mut reader = self.core.store.read().await?;
        let row = tasks::find(&mut reader, self.caller.workspace, id).await?.ok_or_else(absent)?;
        let holder = row.task.holding.daemon_id;
        Ok(holder.ok_or_else(|| Fault::new(Code::Conflict, "no daemon has run the task yet"))?)
    }

    /// Whether a stream is there for the caller.
    async fn may_read(&self, stream: Stream) -> Result<bool, StoreError> {
        let mut reader = self.core.store.read().await?;
        let workspace = self.caller.workspace;
        match (stream, self.caller.who) {
            (Stream::Daemon(id), Who::User(_)) => {
                Ok(daemons::find(&mut reader, workspace, id).await?.is_some())
            }
            (Stream::Daemon(_), _) | (_, Who::Daemon) => Ok(false),
            (Stream::Task(id), Who::User(_)) => {
                Ok(tasks::find(&mut reader, workspace, id).await?.is_some())
            }
            (Stream::Task(id), Who::Task(own)) => {
                let mut at = Some(id);
                while let Some(id) = at.take() {
                    let row = tasks::find(&mut reader, workspace, id).await?;
                    match row {
                        Some(row) if row.task.id == own => return Ok(true),
                        Some(row) => at = row.task.order.parent_task_id,
                        None => {}
                    }
                }
                Ok(false)
            }
        }
    }

    async fn subscribe(&mut self, name: &str, since: Option<u64>) -> Result<(), Failed> {
        let absent = || Fault::not_found("stream", hayward_shared::event::bounded(name, 80).0);
        let stream = Stream::parse(name).ok_or_else(absent)?;
        if !self.may_read(stream).await? {
            return Err(absent().into());
        }
        if self.next.len() >= MAX_STREAMS && !self.next.contains_key(&stream) {
            let most = format!("a client may follow {MAX_STREAMS} streams at once");
            return Err(Fault::new(Code::RateLimited, most).into());
        }
        self.next.insert(stream, since.map_or(0, |seq| seq.saturating_add(1)));
        self.replay(stream).await?;
        let next_seq = self.next.get(&stream).copied().unwrap_or(0);
        Ok(self.say(&ClientNotice::Subscribed { stream: stream.name(), next_seq }).await?)
    }

    /// Sends what is stored of a stream from its next number on.
    async fn replay(&mut self, stream: Stream) -> Result<(), End> {
        let name = stream.name();
        while let Some(from) = self.next.get(&stream).copied() {
            let mut reader = self.core.store.read().await?;
            let page = events::read(&mut reader, self.caller.workspace, &name, from, PAGE).await?;
            drop(reader);
            let last = u32::try_from(page.len()).is_ok_and(|n| n < PAGE);
            for event in page {
                self.send(stream, &event).await?;
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    async fn live(&mut self, event: &Envelope) -> Result<(), End> {
        if event.workspace_id != self.caller.workspace || self.next.is_empty() {
            return Ok(());
        }
        let Some(stream) = Stream::parse(&event.stream) else { return Ok(()) };
        match self.next.get(&stream) {
            Some(next) if event.seq == *next => self.send(stream, event).await,
            Some(next) if event.seq > *next => self.replay(stream).await,
            _ => Ok(()),
        }
    }

    /// What may have been stored of a stream is looked for, where the client follows it.
    async fn look(&mut self, workspace: WorkspaceId, stream: &str) -> Result<(), End> {
        let followed = Stream::parse(stream).filter(|stream| self.next.contains_key(stream));
        match followed {
            Some(stream) if workspace == self.caller.workspace => self.replay(stream).await,
            _ => Ok(()),
        }
    }

    async fn send(&mut self, stream: Stream, event: &Envelope) -> Result<(), End> {
        let text = serde_json::to_string(event).unwrap_or_default();
        self.outlet.text(text).await?;
        self.next.insert(stream, event.seq + 1);
        Ok(())
    }
}
