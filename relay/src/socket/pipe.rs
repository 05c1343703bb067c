//! The writing half of a link: one task that owns the sink, and bounded queues into it.
//!
//! State goes through `text` and waits for room. Notices go through `urgent`, output through
//! `frames`; neither waits: who finds them full ends the link, or the watch, in the open. What is at
//! hand together is written together.

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// State messages that may wait for a slow reader; then their senders wait too.
const TEXT: usize = 256;

/// Notices that may wait: one for each watch that a client may have.
const URGENT: usize = 64;

/// Bytes of output that may wait: two windows of a viewer of ours, who has at most one under way
/// for each watch.
const FRAME_BYTES: usize = 2 * 1024 * 1024;

/// Output frames that may wait: a window of them even where an agent prints a line of 64 bytes at a
/// time.
const FRAMES: usize = 16 * 1024;

/// Bytes that are written together: past this a call's share of each is nothing, and a state message
/// does not wait long behind output.
const TOGETHER: usize = 64 * 1024;

/// A peer that takes nothing for this long is gone.
const WRITE: Duration = Duration::from_secs(20);

/// A closing link has this long to send what is queued.
const CLOSING: Duration = Duration::from_secs(2);

/// The queues of a link. Whoever holds one may send; [`Outlet::end`] asks the link to end.
#[derive(Clone, Debug)]
pub(crate) struct Outlet {
    urgent: mpsc::Sender<Message>,
    text: mpsc::Sender<Message>,
    frames: mpsc::Sender<Message>,
    /// Bytes in `frames`.
    waiting: Arc<AtomicUsize>,
    ended: Arc<Notify>,
}

/// The link takes nothing more.
#[derive(Debug, thiserror::Error)]
#[error("the link has ended")]
pub(crate) struct Ended;

impl Outlet {
    /// Sends a state message; waits for room.
    pub(crate) async fn text(&self, text: String) -> Result<(), Ended> {
        self.text.send(Message::text(text)).await.map_err(|_| Ended)
    }

    /// Sends a state message if there is room at once.
    pub(crate) fn try_text(&self, text: String) -> Result<(), Ended> {
        self.text.try_send(Message::text(text)).map_err(|_| Ended)
    }

    /// Sends a notice before all else; a link that has no room even for it is ended.
    pub(crate) fn urgent(&self, text: String) {
        if self.urgent.try_send(Message::text(text)).is_err() {
            self.end();
        }
    }

    /// Sends an output frame if there is room.
    pub(crate) fn frame(&self, frame: bytes::Bytes) -> Result<(), Ended> {
        let size = frame.len();
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        let fits = before + size <= FRAME_BYTES;
        if fits && self.frames.try_send(Message::Binary(frame)).is_ok() {
            return Ok(());
        }
        self.waiting.fetch_sub(size, Ordering::Relaxed);
        Err(Ended)
    }

    /// One that has room for so many state messages, and what goes into it.
    #[cfg(test)]
    pub(crate) fn narrow(texts: usize) -> (Self, mpsc::Receiver<Message>) {
        let (text, queue) = mpsc::channel(texts);
        let (urgent, frames) = (text.clone(), text.clone());
        let (waiting, ended) = (Arc::default(), Arc::default());
        (Self { urgent, text, frames, waiting, ended }, queue)
    }

    /// Asks the link to end.
    pub(crate) fn end(&self) {
        self.ended.notify_one();
    }

    /// Resolves once the link was asked to end.
    pub(crate) async fn asked_to_end(&self) {
        self.ended.notified().await;
    }
}

/// The writer of a link; owned by the link, ends with it.
pub(crate) struct Pipe {
    outlet: Outlet,
    writer: JoinHandle<()>,
}

impl Pipe {
    /// Begins to write to `sink`, and to ping it.
    pub(crate) fn open(sink: SplitSink<WebSocket, Message>, ping: Duration) -> Self {
        let (urgent, urgent_queue) = mpsc::channel(URGENT);
        let (text, text_queue) = mpsc::channel(TEXT);
        let (frames, frame_queue) = mpsc::channel(FRAMES);
        let (waiting, ended) = (Arc::default(), Arc::default());
        let outlet = Outlet { urgent, text, frames, waiting, ended };
        let queues = Queues {
            urgent: urgent_queue,
            text: text_queue,
            frames: frame_queue,
            waiting: outlet.waiting.clone(),
        };
        Self { outlet, writer: tokio::spawn(write(sink, queues, ping)) }
    }

    /// The queues into it.
    pub(crate) fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// Sends what is queued, then a close frame.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let end = async {
            if self.outlet.text.send(frame).await.is_ok() {
                drop((&mut self.writer).await);
            }
        };
        // a peer that reads no more is left; dropping the writer ends it
        drop(timeout(CLOSING, end).await);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

struct Queues {
    urgent: mpsc::Receiver<Message>,
    text: mpsc::Receiver<Message>,
    frames: mpsc::Receiver<Message>,
    /// Bytes in `frames`.
    waiting: Arc<AtomicUsize>,
}

impl Queues {
    /// The next message that waits already.
    fn at_hand(&mut self) -> Option<Message> {
        let queues = [&mut self.urgent, &mut self.text, &mut self.frames];
        queues.into_iter().find_map(|queue| queue.try_recv().ok())
    }

    /// Makes room for others once a message was taken out; how many bytes it has.
    fn taken(&self, message: &Message) -> usize {
        match message {
            Message::Binary(frame) => {
                self.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
                frame.len()
            }
            Message::Text(text) => text.len(),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => 0,
        }
    }
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut queues: Queues, ping: Duration) {
    let mut pings = interval(ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let first = tokio::select! {
            biased;
            Some(message) = queues.urgent.recv() => message,
            Some(message) = queues.text.recv() => message,
            _ = pings.tick() => Message::Ping(bytes::Bytes::new()),
            Some(message) = queues.frames.recv() => message,
        };
        let written = timeout(WRITE, together(&mut sink, &mut queues, first)).await;
        if !matches!(written, Ok(Ok(false))) {
            return;
        }
    }
}

/// Writes a message and those that wait behind it; whether the last of them closes the link.
async fn together(
    sink: &mut SplitSink<WebSocket, Message>,
    queues: &mut Queues,
    first: Message,
) -> Result<bool, axum::Error> {
    let (mut next, mut bytes, mut closes) = (Some(first), 0, false);
    while let Some(message) = next.take() {
        bytes += queues.taken(&message);
        closes = matches!(message, Message::Close(_));
        sink.feed(message).await?;
        if bytes < TOGETHER && !closes {
            next = queues.at_hand();
        }
    }
    sink.flush().await?;
    Ok(closes)
}
