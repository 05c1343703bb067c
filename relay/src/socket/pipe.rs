//! The writing half of a link: one task that owns the sink, and bounded queues into it.
//!
//! State goes through `text` and waits for room. Notices go through `urgent`, output through
//! `frames`; neither waits: who finds them full ends the link, or the watch, in the open. What is at
//! hand together is written together.

use super::backlog::{Amount, Backlog};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{Sink, SinkExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// State messages that may wait for a slow reader; then their senders wait too.
const TEXT: usize = 256;

/// Notices that may wait: one for each watch that a client may have.
const URGENT: usize = 64;

/// Bytes that are written together: past this a call's share of each is nothing, and a state message
/// does not wait long behind output.
pub(super) const TOGETHER: usize = 64 * 1024;

/// A peer that takes nothing for this long is gone.
const WRITE: Duration = Duration::from_secs(20);

/// A closing link has this long to send what is queued.
const CLOSING: Duration = Duration::from_secs(2);

/// The queues of a link. Whoever holds one may send; [`Outlet::end`] asks the link to end.
#[derive(Clone, Debug)]
pub(crate) struct Outlet {
    urgent: mpsc::Sender<Message>,
    text: mpsc::Sender<Message>,
    output: Arc<Backlog>,
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
        let (outlet, queues) = queues();
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

/// The ends of the queues: who writes has the other.
struct Queues {
    urgent: mpsc::Receiver<Message>,
    text: mpsc::Receiver<Message>,
    output: Arc<Backlog>,
    /// Frames that are written next.
    taken: VecDeque<Bytes>,
}

fn queues() -> (Outlet, Queues) {
    let (urgent, urgent_queue) = mpsc::channel(URGENT);
    let (text, text_queue) = mpsc::channel(TEXT);
    let (output, ended) = (Arc::<Backlog>::default(), Arc::default());
    let queues = Queues {
        urgent: urgent_queue,
        text: text_queue,
        output: output.clone(),
        taken: VecDeque::new(),
    };
    (Outlet { urgent, text, output, ended }, queues)
}

impl Queues {
    /// The next text that waits.
    fn text(&mut self) -> Option<Message> {
        self.urgent.try_recv().or_else(|_| self.text.try_recv()).ok()
    }
}

async fn write(mut sink: impl Sink<Message> + Unpin, mut queues: Queues, ping: Duration) {
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
            () = queues.output.came() => None,
        };
        let written = timeout(WRITE, together(&mut sink, &mut queues, first)).await;
        if !matches!(written, Ok(Ok(false))) {
            return;
        }
    }
}

/// Writes a message and what waits behind it, output last; whether the link is closed by it.
async fn together<S: Sink<Message> + Unpin>(
    sink: &mut S,
    queues: &mut Queues,
    first: Option<Message>,
) -> Result<bool, S::Error> {
    if queues.taken.is_empty() {
        // before the notices are: the one that tells of a watch was queued before its first frame,
        // and is written before it
        queues.taken = queues.output.take();
    }
    let (mut next, mut bytes) = (first.or_else(|| queues.text()), 0);
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
    let mut sent = Amount::default();
    while bytes < TOGETHER
        && let Some(frame) = queues.taken.pop_front()
    {
        bytes += frame.len();
        sent = sent.and(&frame);
        sink.feed(Message::Binary(frame)).await?;
    }
    sink.flush().await?;
    queues.output.sent(sent);
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::sink::unfold;
    use hayward_shared::id::WatchId;
    use hayward_shared::protocol::output::{Body, Frame, MAX_BODY};
    use std::iter::once;
    use uuid::Uuid;

    /// What a viewer of ours lets come of one watch before it grants more.
    const WINDOW: usize = 1024 * 1024;

    const PING: Duration = Duration::from_secs(3600);

    fn frame(size: usize) -> Bytes {
        let (watch, body) = (WatchId(Uuid::now_v7()), vec![b'x'; size]);
        Frame { watch, offset: 0, body: Body::Bytes(&body) }.encode().into()
    }

    #[tokio::test]
    async fn a_viewer_that_is_slow_and_never_stops_keeps_two_watches() {
        for size in [64, 1000, MAX_BODY] {
            let (outlet, queues) = queues();
            let (socket, mut viewer) = mpsc::channel(1);
            let sink = unfold(socket, |socket, message| async {
                socket.send(message).await.map(|()| socket)
            });
            let writer = tokio::spawn(write(Box::pin(sink), queues, PING));
            let (frame, granted) = (frame(size), 2 * WINDOW / size);
            for nth in 0..2 * granted {
                if nth >= granted {
                    while !matches!(viewer.recv().await.unwrap(), Message::Binary(_)) {}
                }
                let sent = outlet.frames(once(frame.clone()));
                assert!(sent.is_ok(), "frame {nth} of {size} bytes was refused");
            }
            writer.abort();
        }
    }

    #[tokio::test]
    async fn output_does_not_overtake_the_notice_that_its_watch_began() {
        let (outlet, mut queues) = queues();
        let (mut seen, begin) = (Vec::new(), outlet.clone());
        let (old, new) = (frame(1), frame(2));
        outlet.frames([old.clone(), old.clone()].into_iter()).unwrap();
        let began = new.clone();
        let sink = unfold(&mut seen, |seen, message| {
            // the watch begins while the first frame is written
            if seen.is_empty() {
                begin.urgent("began".to_owned());
                begin.frames(once(began.clone())).unwrap();
            }
            seen.push(message);
            async { Ok::<_, Ended>(seen) }
        });
        let mut sink = Box::pin(sink);
        for _ in 0..2 {
            assert!(!together(&mut sink, &mut queues, None).await.unwrap());
        }
        drop(sink);
        let [old, new] = [old, new].map(Message::Binary);
        assert_eq!(seen, [old.clone(), old, Message::text("began"), new]);
    }
}
