//! Shows the terminal of a task's live session over any number of connections: after each break
//! what it shows by then, then its output.

use super::reach::Reach;
use super::socket::{Heard, Socket};
use super::ways::Next;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{TaskId, WatchId};
use hayward_shared::protocol::output::{Body, Frame, HEADER, Shape};
use hayward_shared::protocol::{ClientMessage, ClientNotice, TerminalView};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes of output that may be under way.
const WINDOW: u64 = 512 * 1024;

/// News that wait for the reader. Full means that the relay waits.
const QUEUE: usize = 64;

/// Whose terminal is shown, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The task.
    pub(crate) task: TaskId,
    /// How large the viewer is: rows and columns.
    pub(crate) size: (u16, u16),
    /// Only look.
    pub(crate) read_only: bool,
    /// Own the size from the beginning, whoever owned it before.
    pub(crate) take: bool,
}

/// What a viewer does.
#[derive(Debug)]
pub(crate) enum Say {
    /// Types; answered by [`Seen::Typed`] or [`Seen::Refused`] with this number.
    Type(u64, Vec<u8>),
    /// Has another size: rows and columns.
    Resize(u16, u16),
}

/// What a viewer sees, in order.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The terminal is this large, and empty.
    Screen(Shape),
    /// Print this to it.
    Print(Bytes),
    /// The terminal is this large from here on.
    Resized(Shape),
    /// What was typed under this number has arrived.
    Typed(u64),
    /// What was typed under this number, or else a wish about the size, has not.
    Refused(Option<u64>, Fault),
    /// The connection broke; another is being tried.
    Lost(Fault),
    /// The connection stands, and goes another way than the last.
    Moved(&'static str),
    /// The session has ended.
    End,
}

/// What is seen; a fault is the last.
type Told = Result<Seen, Fault>;

/// The handle. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Viewer {
    say: mpsc::Sender<Say>,
    seen: mpsc::Receiver<Told>,
    _actor: JoinSet<()>,
}

impl Viewer {
    /// Begins to show.
    pub(crate) fn start(reach: Reach, view: View) -> Self {
        let (say, said) = mpsc::channel(QUEUE);
        let (tell, seen) = mpsc::channel(QUEUE);
        let mut actor = JoinSet::new();
        actor.spawn(Actor { reach, view, said, tell, shown: false, waiting: Vec::new() }.run());
        Self { say, seen, _actor: actor }
    }

    /// Does something; waits while much is under way.
    pub(crate) async fn say(&self, say: Say) {
        // an actor that ended has told why
        drop(self.say.send(say).await);
    }

    /// The next thing to see. An error means that no other connection will do either. May be
    /// dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Seen, Fault> {
        let gone = || Err(Fault::new(Code::Internal, "the viewer ended"));
        self.seen.recv().await.unwrap_or_else(gone)
    }
}

/// Owns the connection.
struct Actor {
    reach: Reach,
    view: View,
    said: mpsc::Receiver<Say>,
    tell: mpsc::Sender<Told>,
    /// Whether a screen was told of.
    shown: bool,
    /// What was typed and not answered.
    waiting: Vec<u64>,
}

/// Why a connection is over.
enum Over {
    /// The session ended, or nobody looks.
    Done,
    /// It failed.
    Fault(Fault),
}

/// How far the output of one connection is.
struct Reading {
    watch: WatchId,
    /// None before the first screen.
    offset: Option<u64>,
    granted: u64,
}

impl Actor {
    async fn run(mut self) {
        loop {
            let fault = match self.connection().await {
                Over::Done => return,
                Over::Fault(fault) => fault,
            };
            for seq in std::mem::take(&mut self.waiting) {
                let text = "the connection broke: whether it was typed is not known";
                let fault = Fault::new(Code::Unavailable, text);
                drop(self.tell.send(Ok(Seen::Refused(Some(seq), fault))).await);
            }
            let lost = fault.clone();
            let (pause, fault) = match self.reach.failed(fault) {
                Next::Other => {
                    // what is tried next may take its time
                    if self.shown && self.tell.send(Ok(Seen::Lost(lost))).await.is_err() {
                        return;
                    }
                    continue;
                }
                Next::Later { pause, fault, .. } => (pause, fault),
                Next::Never(fault) => {
                    drop(self.tell.send(Err(fault)).await);
                    return;
                }
            };
            if self.tell.send(Ok(Seen::Lost(fault))).await.is_err() {
                return;
            }
            let mut pause = std::pin::pin!(tokio::time::sleep(pause));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    said = self.said.recv() => match said {
                        Some(said) => self.cannot(said).await,
                        None => return,
                    },
                }
            }
        }
    }

    /// Something was done while there is no connection.
    async fn cannot(&mut self, said: Say) {
        match said {
            Say::Resize(rows, cols) => self.view.size = (rows, cols),
            Say::Type(seq, _) => {
                let fault = Fault::new(Code::Unavailable, "there is no connection now");
                drop(self.tell.send(Ok(Seen::Refused(Some(seq), fault))).await);
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> Over {
        let mut reading = Reading { watch: WatchId::fresh(), offset: None, granted: 0 };
        let watch_id = reading.watch;
        let mut socket = match self.begin(watch_id).await {
            Ok(socket) => socket,
            Err(over) => return over,
        };
        loop {
            let done = tokio::select! {
                heard = socket.hear() => match heard {
                    Ok(heard) => self.hear(heard, &mut reading).await,
                    Err(fault) => Err(fault),
                },
                said = self.said.recv() => match said {
                    Some(said) => self.pass_on(said, watch_id, &mut socket).await,
                    None => return Over::Done,
                },
            };
            let fault = match done {
                Ok(true) => return Over::Done,
                Ok(false) => match reading.grant() {
                    None => continue,
                    Some(up_to) => {
                        let grant = ClientMessage::Grant { watch_id, up_to };
                        match socket.send(&grant).await {
                            Ok(()) => continue,
                            Err(fault) => fault,
                        }
                    }
                },
                Err(fault) => fault,
            };
            return Over::Fault(fault);
        }
    }

    /// Opens a connection; what is typed meanwhile is refused, as there is none yet.
    async fn begin(&mut self, watch_id: WatchId) -> Result<Socket, Over> {
        let (reach, wanted) = (self.reach.clone(), self.view);
        let mut opening = std::pin::pin!(open(&reach, wanted, watch_id));
        let mut socket = loop {
            tokio::select! {
                opened = &mut opening => break opened.map_err(Over::Fault)?,
                said = self.said.recv() => match said {
                    Some(said) => self.cannot(said).await,
                    None => return Err(Over::Done),
                },
            }
        };
        let (rows, cols) = self.view.size;
        if (rows, cols) != wanted.size {
            let resize = ClientMessage::ResizeTerminal { watch_id, rows, cols };
            socket.send(&resize).await.map_err(Over::Fault)?;
        }
        Ok(socket)
    }

    async fn pass_on(
        &mut self,
        said: Say,
        watch_id: WatchId,
        socket: &mut Socket,
    ) -> Result<bool, Fault> {
        let message = match said {
            Say::Type(seq, bytes) => {
                self.waiting.push(seq);
                let data = BASE64_STANDARD.encode(bytes);
                ClientMessage::TypeTerminal { watch_id, seq, data }
            }
            Say::Resize(rows, cols) => {
                self.view.size = (rows, cols);
                ClientMessage::ResizeTerminal { watch_id, rows, cols }
            }
        };
        socket.send(&message).await.map(|()| false)
    }

    /// Takes what the other end says; true when nothing follows.
    async fn hear(&mut self, heard: Heard, reading: &mut Reading) -> Result<bool, Fault> {
        let seen = match heard {
            Heard::Frame(frame) => reading.take(&frame)?,
            Heard::Notice(ClientNotice::TerminalTyped { seq, .. }) => {
                self.waiting.retain(|waiting| *waiting != seq);
                Some(Seen::Typed(seq))
            }
            Heard::Notice(ClientNotice::TerminalRefused { seq, error, .. }) => {
                self.waiting.retain(|waiting| Some(*waiting) != seq);
                Some(Seen::Refused(seq, error))
            }
            Heard::Notice(
                ClientNotice::WatchFailed { error, .. } | ClientNotice::Error { error },
            ) => return Err(error),
            Heard::Notice(_) | Heard::Event(_) => None,
        };
        let Some(seen) = seen else { return Ok(false) };
        let ends = matches!(seen, Seen::End);
        Ok(self.show(seen).await.is_err() || ends)
    }

    /// Tells what is seen; with a screen also that the way is another one. The first screen comes
    /// behind that: by then the user's terminal is still their own, and words on it stay.
    async fn show(&mut self, seen: Seen) -> Result<(), mpsc::error::SendError<Told>> {
        if !matches!(seen, Seen::Screen(_)) {
            return self.tell.send(Ok(seen)).await;
        }
        // whoever takes the size from here on keeps it when this connection breaks
        self.view.take = false;
        self.reach.served();
        let moved = self.reach.moved().map(Seen::Moved);
        let is_first = !std::mem::replace(&mut self.shown, true);
        let order = if is_first { [moved, Some(seen)] } else { [Some(seen), moved] };
        for seen in order.into_iter().flatten() {
            self.tell.send(Ok(seen)).await?;
        }
        Ok(())
    }
}

/// Opens a connection and wishes for the view.
async fn open(reach: &Reach, view: View, watch_id: WatchId) -> Result<Socket, Fault> {
    let mut socket = reach.open().await?;
    let View { task: task_id, size: (rows, cols), read_only, take } = view;
    let wanted = TerminalView { watch_id, task_id, rows, cols, read_only, grant: WINDOW };
    socket.send(&ClientMessage::AttachTerminal(wanted)).await?;
    if take {
        socket.send(&ClientMessage::TakeTerminal { watch_id }).await?;
    }
    Ok(socket)
}

impl Reading {
    fn take(&mut self, bytes: &Bytes) -> Result<Option<Seen>, Fault> {
        let frame =
            Frame::decode(bytes).map_err(|bad| Fault::new(Code::Incompatible, bad.to_string()))?;
        if frame.watch != self.watch {
            return Ok(None);
        }
        Ok(match frame.body {
            Body::Screen(shape) => {
                if self.offset.is_none() {
                    self.granted = frame.offset.saturating_add(WINDOW);
                }
                self.offset = Some(frame.offset);
                Some(Seen::Screen(shape))
            }
            Body::Paint(_) => Some(Seen::Print(bytes.slice(HEADER..))),
            Body::Bytes(output) => {
                if self.offset != Some(frame.offset) {
                    return Err(Fault::new(Code::Unavailable, "output is missing"));
                }
                self.offset = Some(frame.offset + output.len() as u64);
                Some(Seen::Print(bytes.slice(HEADER..)))
            }
            Body::Resized(shape) => Some(Seen::Resized(shape)),
            // what it shows by then follows
            Body::Gap { .. } => None,
            Body::End => Some(Seen::End),
        })
    }

    /// The next grant, once half of the last one is used up.
    fn grant(&mut self) -> Option<u64> {
        let offset = self.offset?;
        if self.granted.saturating_sub(offset) > WINDOW / 2 {
            return None;
        }
        self.granted = offset + WINDOW;
        Some(self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(reading: &mut Reading, offset: u64, body: Body<'_>) -> Result<Option<Seen>, Fault> {
        reading.take(&Frame { watch: reading.watch, offset, body }.encode().into())
    }

    #[test]
    fn f32_output_is_taken_in_order_after_a_screen_and_a_hole_is_no_output() {
        let mut reading = Reading { watch: WatchId::fresh(), offset: None, granted: 0 };
        take(&mut reading, 0, Body::Bytes(b"x")).unwrap_err();
        let shape = Shape { rows: 24, cols: 80, owner: true };
        take(&mut reading, 100, Body::Screen(shape)).unwrap();
        take(&mut reading, 100, Body::Paint(b"drawn")).unwrap();
        assert!(reading.grant().is_none());
        let seen = take(&mut reading, 100, Body::Bytes(b"abc")).unwrap();
        assert!(matches!(seen, Some(Seen::Print(bytes)) if bytes == "abc"));
        take(&mut reading, 104, Body::Bytes(b"e")).unwrap_err();
        assert!(take(&mut reading, 103, Body::Gap { until: 900_000 }).unwrap().is_none());
        take(&mut reading, 900_000, Body::Screen(shape)).unwrap();
        assert_eq!(reading.grant(), Some(900_000 + WINDOW));
    }
}
