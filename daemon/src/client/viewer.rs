//! Shows the terminal of a task's live session over any number of connections: after each break
//! what it shows by then, then its output.

mod place;

use super::direct;
use super::reach::Reach;
use super::reading::{Reading, Taken, WINDOW};
use super::socket::{Heard, Socket};
use super::view::{Say, Seen, View};
use super::waiting::{By, Waiting};
use super::ways::Next;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hayward_daemon::keeper::RunFolder;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::WatchId;
use hayward_shared::protocol::output::Shape;
use hayward_shared::protocol::{ClientMessage, ClientNotice, TerminalView};
use place::Place;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// News that wait for the reader. Full means that the relay waits.
const QUEUE: usize = 64;

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
        let shape = Shape { rows: view.size.0, cols: view.size.1, owner: false };
        let shower = Actor {
            reach,
            view,
            said,
            tell,
            shown: false,
            waiting: Waiting::default(),
            place: Place::Daemon,
            folder: None,
            refused: None,
            apart: None,
            shape,
        };
        actor.spawn(shower.run());
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
    waiting: Waiting,
    place: Place,
    /// Where the keeper listens, as this connection was told.
    folder: Option<RunFolder>,
    /// Where a keeper did not show its output when it was asked: it is not asked again.
    refused: Option<RunFolder>,
    /// Why there is no connection, as was told once while the keeper goes on without.
    apart: Option<Fault>,
    /// How the terminal was last said to stand.
    shape: Shape,
}

/// Why a connection is over.
enum Over {
    /// The session ended, or nobody looks.
    Done,
    /// It failed.
    Fault(Fault),
}

impl Actor {
    async fn run(mut self) {
        loop {
            let fault = match self.connection().await {
                Over::Done => return,
                Over::Fault(fault) => fault,
            };
            self.lose(By::Daemon).await;
            self.go_on_alone().await;
            let lost = fault.clone();
            let next = if self.is_shown_by_keeper() {
                self.reach.failed_beside_keeper(fault)
            } else {
                self.reach.failed(fault)
            };
            let (pause, fault) = match next {
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
            if self.tell_break(fault).await.is_err() {
                return;
            }
            if self.meanwhile(tokio::time::sleep(pause)).await.is_err() {
                return;
            }
        }
    }

    /// Tells that there is no connection; only once while the keeper goes on without.
    async fn tell_break(&mut self, fault: Fault) -> Result<(), mpsc::error::SendError<Told>> {
        if !self.is_shown_by_keeper() {
            return self.tell.send(Ok(Seen::Lost(fault))).await;
        }
        if self.apart.replace(fault.clone()).is_some() {
            return Ok(());
        }
        self.tell.send(Ok(Seen::Apart(fault))).await
    }

    /// Waits for what needs no connection, and shows and types meanwhile what the keeper alone can;
    /// an error when nothing more is to be done.
    async fn meanwhile<T>(&mut self, doing: impl Future<Output = T>) -> Result<T, Over> {
        let mut doing = std::pin::pin!(doing);
        loop {
            tokio::select! {
                done = &mut doing => return Ok(done),
                heard = self.place.next() => {
                    if self.hear_keeper(heard).await? {
                        return Err(Over::Done);
                    }
                    self.go_on_alone().await;
                }
                said = self.said.recv() => match said {
                    Some(said) => self.alone(said).await,
                    None => return Err(Over::Done),
                },
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> Over {
        // output that comes from the keeper need not come twice
        let mut reading = Reading::new(if self.reach.is_near() { 0 } else { WINDOW });
        let watch_id = reading.watch;
        self.folder = None;
        let mut socket = match self.begin(&reading).await {
            Ok(socket) => socket,
            Err(over) => return over,
        };
        loop {
            let done = tokio::select! {
                heard = socket.hear() => match heard {
                    Ok(heard) => self.hear(heard, &mut reading).await,
                    Err(fault) => Err(fault),
                },
                heard = self.place.next() => {
                    if let direct::Heard::Output(_, end) = heard {
                        reading.shown = end;
                    }
                    match self.hear_keeper(heard).await {
                        Ok(ends) => Ok(ends),
                        Err(over) => return over,
                    }
                }
                said = self.said.recv() => match said {
                    Some(said) => self.pass_on(said, watch_id, &mut socket).await,
                    None => return Over::Done,
                },
            };
            let fault = match done {
                Ok(true) => return Over::Done,
                Ok(false) => match self.keep_up(&mut reading, &mut socket).await {
                    Ok(()) => continue,
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            return Over::Fault(fault);
        }
    }

    /// Lets the other end go on, unless the keeper shows the output, or may from the end of a screen
    /// that comes. A daemon that may go on far behind shows the present.
    async fn keep_up(&mut self, reading: &mut Reading, socket: &mut Socket) -> Result<(), Fault> {
        if reading.is_painted() || self.is_shown_by_keeper() {
            return Ok(());
        }
        if reading.lacks() {
            return missing();
        }
        let Some(up_to) = reading.grant() else { return Ok(()) };
        socket.send(&ClientMessage::Grant { watch_id: reading.watch, up_to }).await
    }

    /// Opens a connection; what is typed meanwhile goes to the keeper, or is refused.
    async fn begin(&mut self, reading: &Reading) -> Result<Socket, Over> {
        let watch_id = reading.watch;
        let (reach, wanted) = (self.reach.clone(), self.view);
        let opening = open(&reach, wanted, (watch_id, reading.first));
        let mut socket = self.meanwhile(opening).await?.map_err(Over::Fault)?;
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
            said @ Say::Type(..)
                if self.view.read_only || matches!(self.place, Place::Keeper(_)) =>
            {
                self.alone(said).await;
                return Ok(false);
            }
            Say::Type(seq, bytes) => {
                self.waiting.given(seq, By::Daemon);
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
            Heard::Frame(frame) => {
                let taken = reading.take(&frame)?;
                self.take(taken, reading).await?
            }
            Heard::Notice(ClientNotice::WatchStarted { payload, .. }) => {
                let folder = payload.get("folder").and_then(serde_json::Value::as_str);
                self.folder = folder.and_then(|name| self.reach.run_folder(name));
                reading.marks_ends = self.folder.is_some();
                // the task may have another run by now: what the former one's keeper says is not its
                if let (Place::Keeper(direct), Some(folder)) = (&self.place, &self.folder)
                    && !direct.is_of(folder)
                {
                    self.leave_keeper().await;
                }
                None
            }
            Heard::Notice(ClientNotice::TerminalTyped { seq, .. }) => {
                Some(self.answered(seq, Seen::Typed(seq)))
            }
            Heard::Notice(ClientNotice::TerminalRefused { seq, error, .. }) => {
                seq.into_iter().for_each(|seq| self.waiting.answered(seq));
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

    /// What is to be shown of what the other end shows beside the keeper.
    async fn take(&mut self, taken: Taken, reading: &mut Reading) -> Result<Option<Seen>, Fault> {
        let is_beside = self.is_shown_by_keeper();
        Ok(match taken {
            Taken::Nothing => None,
            Taken::Whole(shape, screen) => {
                self.shape = shape;
                for seen in screen {
                    // whoever looks no more is noticed by the next that is said
                    drop(self.show(seen).await);
                }
                self.begin_directly(reading.shown).await;
                None
            }
            Taken::Next(Seen::Screen(shape)) => {
                self.shape = shape;
                if matches!(self.place, Place::Keeper(_)) {
                    self.leave_keeper().await;
                }
                Some(Seen::Screen(shape))
            }
            Taken::Next(Seen::Resized(shape)) => {
                // the keeper tells of the size, where the output has it
                let size = if is_beside { self.shape } else { shape };
                self.shape = Shape { owner: shape.owner, ..size };
                Some(Seen::Resized(self.shape))
            }
            Taken::Next(Seen::Print(_)) if is_beside => None,
            Taken::Next(Seen::Print(bytes)) => {
                reading.shown = reading.offset.unwrap_or(reading.shown);
                if let Place::Keeper(direct) = &mut self.place {
                    direct.pass(reading.shown);
                }
                Some(Seen::Print(bytes))
            }
            // the keeper shows the rest, and the end
            Taken::Next(Seen::End) if is_beside && reading.lacks() => return missing(),
            Taken::Next(seen) => Some(seen),
        })
    }

    /// Tells what is seen; with a screen also that the way is another one. The first screen comes
    /// behind that: by then the user's terminal is still their own, and words on it stay.
    async fn show(&mut self, seen: Seen) -> Result<(), mpsc::error::SendError<Told>> {
        if !matches!(seen, Seen::Screen(_)) {
            return self.tell.send(Ok(seen)).await;
        }
        // whoever takes the size from here on keeps it when this connection breaks
        self.view.take = false;
        self.apart = None;
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

/// Output came that nobody has shown: the next connection begins with what the screen shows then.
fn missing<T>() -> Result<T, Fault> {
    Err(Fault::new(Code::Unavailable, "output is missing"))
}

/// Opens a connection and wishes for the view.
async fn open(
    reach: &Reach,
    view: View,
    (watch_id, grant): (WatchId, u64),
) -> Result<Socket, Fault> {
    let mut socket = reach.open().await?;
    let View { task: task_id, size: (rows, cols), read_only, take } = view;
    let wanted = TerminalView { watch_id, task_id, rows, cols, read_only, grant };
    socket.send(&ClientMessage::AttachTerminal(wanted)).await?;
    if take {
        socket.send(&ClientMessage::TakeTerminal { watch_id }).await?;
    }
    Ok(socket)
}

#[cfg(test)]
#[path = "viewer_tests.rs"]
mod tests;
