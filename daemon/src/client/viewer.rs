//! Shows the terminal of a task's live session over any number of connections: after each break
//! what it shows by then, then its output.

use super::direct::{self, Direct};
use super::reach::Reach;
use super::reading::{Reading, WINDOW};
use super::socket::{Heard, Socket};
use super::ways::Next;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hayward_daemon::keeper::RunFolder;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{TaskId, WatchId};
use hayward_shared::protocol::output::Shape;
use hayward_shared::protocol::{ClientMessage, ClientNotice, TerminalView};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

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
        let shape = Shape { rows: view.size.0, cols: view.size.1, owner: false };
        let (waiting, place, folder) = (Vec::new(), Place::Daemon, None);
        let shower = Actor { reach, view, said, tell, shown: false, waiting, place, folder, shape };
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
    /// What was typed and not answered.
    waiting: Vec<u64>,
    place: Place,
    /// Where the keeper listens, as this connection was told.
    folder: Option<RunFolder>,
    /// How the terminal was last said to stand.
    shape: Shape,
}

/// Who shows the output and takes the keys.
enum Place {
    /// Whoever is at the other end of the connection.
    Daemon,
    /// The keeper; a connection that breaks does not end that.
    Keeper(Direct),
}

impl Place {
    /// What the keeper says next; nothing ever where it does not serve.
    async fn next(&mut self) -> direct::Heard {
        match self {
            Self::Daemon => std::future::pending().await,
            Self::Keeper(direct) => direct.next().await,
        }
    }
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
            self.go_on_alone().await;
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
            if self.meanwhile(tokio::time::sleep(pause)).await.is_err() {
                return;
            }
        }
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

    /// There is no connection that could show the present: the keeper goes on where it was, if it
    /// served.
    async fn go_on_alone(&mut self) {
        let done = match &mut self.place {
            Place::Daemon => Err(()),
            Place::Keeper(direct) if direct.is_held() => {
                direct.go_on(direct.offset(), true).await.map_err(drop)
            }
            Place::Keeper(_) => Ok(()),
        };
        if done.is_err() {
            self.leave_keeper().await;
        }
    }

    /// Something is done that is the keeper's, or while there is no connection.
    async fn alone(&mut self, said: Say) {
        match (said, &mut self.place) {
            (Say::Resize(rows, cols), _) => self.view.size = (rows, cols),
            (Say::Type(seq, bytes), Place::Keeper(direct)) => {
                self.waiting.push(seq);
                if direct.type_in(seq, &bytes).await.is_err() {
                    self.leave_keeper().await;
                }
            }
            (Say::Type(seq, _), Place::Daemon) => {
                let fault = Fault::new(Code::Unavailable, "there is no connection now");
                drop(self.tell.send(Ok(Seen::Refused(Some(seq), fault))).await);
            }
        }
    }

    /// The keeper does not serve, or no more: who is at the other end of a connection does. Whether
    /// what was typed has arrived is not known.
    async fn leave_keeper(&mut self) {
        self.place = Place::Daemon;
        for seq in std::mem::take(&mut self.waiting) {
            let text = "the connection broke: whether it was typed is not known";
            let fault = Fault::new(Code::Unavailable, text);
            drop(self.tell.send(Ok(Seen::Refused(Some(seq), fault))).await);
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
                Ok(false) => match self.grant(&mut reading) {
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

    /// The next grant; none while the keeper serves, or will from the end of a screen that comes. A
    /// daemon that may go on far behind shows the present.
    fn grant(&self, reading: &mut Reading) -> Option<u64> {
        let serves = match &self.place {
            Place::Daemon => reading.is_painted && self.folder.is_some(),
            Place::Keeper(direct) => reading.is_painted || !direct.is_held(),
        };
        if serves { None } else { reading.grant() }
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
            said @ Say::Type(..) if matches!(self.place, Place::Keeper(_)) => {
                self.alone(said).await;
                return Ok(false);
            }
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

    /// Takes what the keeper says; true when nothing follows.
    async fn hear_keeper(&mut self, heard: direct::Heard) -> Result<bool, Over> {
        let seen = match heard {
            direct::Heard::Output(bytes, _) => Seen::Print(bytes),
            direct::Heard::Sized(rows, cols) => {
                let shape = Shape { rows, cols, ..self.shape };
                if std::mem::replace(&mut self.shape, shape) == shape {
                    return Ok(false);
                }
                Seen::Resized(shape)
            }
            direct::Heard::Typed(seq) => self.answered(seq, Seen::Typed(seq)),
            direct::Heard::Refused(seq, fault) => {
                self.answered(seq, Seen::Refused(Some(seq), fault))
            }
            direct::Heard::Ended => Seen::End,
            direct::Heard::Far => return Ok(false),
            direct::Heard::Gone => {
                self.leave_keeper().await;
                return Ok(false);
            }
        };
        let ends = matches!(seen, Seen::End);
        self.tell.send(Ok(seen)).await.map_err(|_| Over::Done).map(|()| ends)
    }

    fn answered(&mut self, seq: u64, seen: Seen) -> Seen {
        self.waiting.retain(|waiting| *waiting != seq);
        seen
    }

    /// Takes what the other end says; true when nothing follows.
    async fn hear(&mut self, heard: Heard, reading: &mut Reading) -> Result<bool, Fault> {
        let seen = match heard {
            Heard::Frame(frame) => match reading.take(&frame)? {
                Some(seen) => self.take(seen, reading).await,
                None => None,
            },
            Heard::Notice(ClientNotice::WatchStarted { payload, .. }) => {
                let folder = payload.get("folder").and_then(serde_json::Value::as_str);
                self.folder = folder.and_then(|name| self.reach.run_folder(name));
                None
            }
            Heard::Notice(ClientNotice::TerminalTyped { seq, .. }) => {
                Some(self.answered(seq, Seen::Typed(seq)))
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

    /// What is to be shown of what the other end shows beside the keeper. Where a screen ends the
    /// keeper goes on.
    async fn take(&mut self, seen: Seen, reading: &mut Reading) -> Option<Seen> {
        match (&seen, &mut self.place) {
            (Seen::Screen(shape), place) => {
                self.shape = *shape;
                match place {
                    Place::Keeper(direct) if self.folder.is_some() => direct.hold(),
                    Place::Keeper(_) => self.leave_keeper().await,
                    Place::Daemon => {}
                }
                Some(seen)
            }
            (Seen::Resized(shape), _) if reading.is_painted => {
                self.shape = *shape;
                reading.is_painted = false;
                self.begin_directly(reading.shown).await;
                Some(seen)
            }
            (Seen::Resized(shape), Place::Keeper(_)) => {
                // the keeper tells of the size, where the output has it
                self.shape.owner = shape.owner;
                Some(Seen::Resized(self.shape))
            }
            (Seen::Print(_), Place::Keeper(_)) if !reading.is_painted => None,
            (Seen::Print(_), _) => {
                reading.shown = reading.offset.unwrap_or(reading.shown);
                Some(seen)
            }
            _ => Some(seen),
        }
    }

    /// Lets the keeper show what comes behind `from`, if it can be reached.
    async fn begin_directly(&mut self, from: u64) {
        let Some(folder) = &self.folder else { return };
        let done = match &mut self.place {
            Place::Keeper(direct) => direct.go_on(from, false).await,
            Place::Daemon => Direct::open(folder, from).await.map(|direct| {
                self.place = Place::Keeper(direct);
            }),
        };
        if done.is_err() && matches!(self.place, Place::Keeper(_)) {
            self.leave_keeper().await;
        }
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
