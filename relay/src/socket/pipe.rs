//! The writing half of a link: one task that owns the sink, and bounded queues into it.
//!
//! State goes through `text` and waits for room. Notices go through `urgent`, output through
//! `frames`; neither waits: who finds them full ends the link, or the watch, in the open. What is at
//! hand together is written together.

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    output: Arc<Output>,
    ended: Arc<Notify>,
}

/// Output that waits to be written. It comes and goes by many frames at once.
#[derive(Debug, Default)]
struct Output {
    backlog: Mutex<Backlog>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Backlog {
    frames: VecDeque<Bytes>,
    /// Bytes of these frames, and of those that the writer took and has not written.
    bytes: usize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds frames as long as there is room.
    fn add(&self, frames: impl Iterator<Item = Bytes>) -> Result<(), Ended> {
        let mut backlog = self.lock();
        for frame in frames {
            let bytes = backlog.bytes + frame.len();
            if bytes > FRAME_BYTES || backlog.frames.len() == FRAMES {
                return Err(Ended);
            }
            backlog.bytes = bytes;
            backlog.frames.push_back(frame);
        }
        drop(backlog);
        self.came.notify_one();
        Ok(())
    }

    /// Makes room for as many bytes as were written, and takes all that waits.
    fn take(&self, written: usize) -> VecDeque<Bytes> {
        let mut backlog = self.lock();
        backlog.bytes -= written;
        std::mem::take(&mut backlog.frames)
    }
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

    /// Sends output frames if there is room; of those that find none, and of all behind, none is sent.
    pub(crate) fn frames(&self, frames: impl Iterator<Item = Bytes>) -> Result<(), Ended> {
        self.output.add(frames)
    }

    /// One that has room for so many state messages, and what goes into it.
    #[cfg(test)]
    pub(crate) fn narrow(texts: usize) -> (Self, mpsc::Receiver<Message>) {
        let (text, queue) = mpsc::channel(texts);
        let (output, ended) = (Arc::default(), Arc::default());
        (Self { urgent: text.clone(), text, output, ended }, queue)
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
        let (output, ended) = (Arc::default(), Arc::default());
        let outlet = Outlet { urgent, text, output, ended };
        let queues = Queues {
            urgent: urgent_queue,
            text: text_queue,
            output: outlet.output.clone(),
            taken: VecDeque::new(),
            written: 0,
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
    output: Arc<Output>,
    /// Frames that are written next.
    taken: VecDeque<Bytes>,
    /// Bytes that were written of those that were taken, and still count as waiting.
    written: usize,
}

impl Queues {
    /// The next text that waits.
    fn text(&mut self) -> Option<Message> {
        self.urgent.try_recv().or_else(|_| self.text.try_recv()).ok()
    }

    /// The next output frame that waits.
    fn frame(&mut self) -> Option<Bytes> {
        if self.taken.is_empty() {
            self.taken = self.output.take(std::mem::take(&mut self.written));
        }
        let frame = self.taken.pop_front()?;
        self.written += frame.len();
        Some(frame)
    }
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut queues: Queues, ping: Duration) {
    let mut pings = interval(ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let more = !queues.taken.is_empty();
        let first = tokio::select! {
            biased;
            Some(message) = queues.urgent.recv() => Some(message),
            Some(message) = queues.text.recv() => Some(message),
            _ = pings.tick() => Some(Message::Ping(Bytes::new())),
            () = std::future::ready(()), if more => None,
            () = queues.output.came.notified() => None,
        };
        let written = timeout(WRITE, together(&mut sink, &mut queues, first)).await;
        if !matches!(written, Ok(Ok(false))) {
            return;
        }
    }
}

/// Writes a message and what waits behind it, output last; whether the link is closed by it.
async fn together(
    sink: &mut SplitSink<WebSocket, Message>,
    queues: &mut Queues,
    first: Option<Message>,
) -> Result<bool, axum::Error> {
    let (mut next, mut bytes) = (first, 0);
    while let Some(message) = next.take() {
        let closes = matches!(message, Message::Close(_));
        bytes += super::size(&message);
        sink.feed(message).await?;
        if closes {
            sink.flush().await?;
            return Ok(true);
        }
        if bytes < TOGETHER {
            next = queues.text();
        }
    }
    while bytes < TOGETHER
        && let Some(frame) = queues.frame()
    {
        bytes += frame.len();
        sink.feed(Message::Binary(frame)).await?;
    }
    sink.flush().await?;
    Ok(false)
}
