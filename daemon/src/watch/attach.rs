//! A watch of a terminal: first what it shows, then its output from there on; and beside that
//! what the viewer types and wants, one thing after the other.

use super::{Body, MAX_BODY, READ_AGAIN, Viewing, Watch, Watches, last_run};
use crate::kept::Kept;
use crate::link::Lane;
use crate::session::{Look, Present, Seat, Session, SessionError, Terminal};
use crate::task::{Board, LiveSession, Shop, chain};
use crate::terminal::ring::Read;
use crate::terminal::screen::{MAX_SIDE, Size};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, WatchId};
use hayward_shared::protocol::output::Shape;
use hayward_shared::protocol::{Reply, TerminalView};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// What one viewer may have waiting; more is refused. Ours waits for each answer.
const HANDS: usize = 64;
/// How long a session may take to be there after its run has begun.
const BEGIN: Duration = Duration::from_secs(5);
/// A viewer that is this far behind is shown the present instead.
pub const FAR: u64 = 4 << 20;

/// What a viewer does.
#[derive(Clone, Debug)]
pub enum Hand {
    /// Types bytes, given in base64.
    Type(String),
    /// Has another size: rows and columns.
    Resize(u16, u16),
    /// Takes the size over.
    Take,
}

/// What a viewer does, and the request that wants to know how it went.
pub(super) type Handed = (Option<RequestId>, Hand);

impl Watches {
    /// Begins a watch of a terminal, which answers `request` itself: `{runId, folder}`, the folder being
    /// the name of the one in which its keeper listens, among those of this daemon's runs.
    ///
    /// # Errors
    /// The size is none, or there are too many watches.
    pub fn attach(
        &mut self,
        request: Option<RequestId>,
        wanted: TerminalView,
    ) -> Result<(), Fault> {
        self.make_room()?;
        let size = size(wanted.rows, wanted.cols)?;
        let (hands, handed) = mpsc::channel(HANDS);
        let (grant, granted) = watch::channel(0);
        let opening = Opening {
            shop: self.shop.clone(),
            board: self.board.clone(),
            lane: self.lane.clone(),
            wanted,
            size,
        };
        let task = Kept::of(tokio::spawn(opening.run(request, handed, grant.clone(), granted)));
        self.live.insert(wanted.watch_id, Watch { grant, hands: Some(hands), task });
        Ok(())
    }

    /// Hands on what a viewer does; its watch answers `request`.
    ///
    /// # Errors
    /// There is no such watch of a terminal, or too much waits.
    pub fn hand(
        &self,
        request: Option<RequestId>,
        watch: WatchId,
        hand: Hand,
    ) -> Result<(), Fault> {
        let hands = self.live.get(&watch).and_then(|watch| watch.hands.as_ref());
        let hands = hands.ok_or_else(|| Fault::not_found("view of a terminal", watch))?;
        hands.try_send((request, hand)).map_err(|_| {
            Fault::new(Code::Unavailable, "too much waits to be typed already, or the agent ended")
        })
    }
}

fn size(rows: u16, cols: u16) -> Result<Size, Fault> {
    Size::new(rows, cols).ok_or_else(|| {
        let text = format!("a terminal has 1 to {MAX_SIDE} rows and columns, not {rows} by {cols}");
        Fault::new(Code::Invalid, text)
    })
}

/// A watch that is about to begin.
struct Opening {
    shop: Arc<Shop>,
    board: Board,
    lane: Lane,
    wanted: TerminalView,
    size: Size,
}

impl Opening {
    async fn run(
        self,
        request: Option<RequestId>,
        handed: mpsc::Receiver<Handed>,
        grant: watch::Sender<u64>,
        granted: watch::Receiver<u64>,
    ) {
        let opened = self.open().await;
        let (opened, told) = match opened {
            Ok((opened, told)) => (Some(opened), Reply::done(told)),
            Err(fault) => (None, Reply::refused(fault)),
        };
        if let Some(request) = request {
            self.lane.reply(request, told).await;
        }
        let Some(Opened { session, live, terminal, look, seat }) = opened else { return };
        let TerminalView { watch_id: watch, task_id: task, read_only, grant: first, .. } =
            self.wanted;
        let viewing = Viewing {
            watch,
            task,
            position: look.offset,
            stop: None,
            ring: session.ring(),
            live: Some(live),
            output: None,
            granted,
            lane: self.lane.clone(),
        };
        let present = terminal.present();
        let (session_, told, is_aside) = (session.clone(), look.present, first == 0);
        let showing = Showing { viewing, session: session_, present, told, terminal, is_aside };
        let hands = Hands {
            lane: self.lane,
            session,
            terminal: showing.terminal.clone(),
            watch,
            read_only,
        };
        tokio::select! {
            () = showing.run(look, first, &grant) => {}
            () = hands.run(handed) => {}
        }
        drop(seat);
    }

    async fn open(&self) -> Result<(Opened, Value), Fault> {
        let task = self.wanted.task_id;
        let absent = || {
            Fault::new(Code::Conflict, format!("no agent of task {} runs here", task.short()))
                .with_hint(format!("what it printed: hayward logs {}", task.short()))
        };
        let run = last_run(&self.shop, task).await?.key.run_id;
        let mut live = self.board.session(task).await.ok_or_else(absent)?;
        let begun = timeout(BEGIN, live.wait_for(Option::is_some)).await;
        let session = begun.ok().and_then(Result::ok).and_then(|session| session.clone());
        let session = session.ok_or_else(absent)?;
        let terminal = session.terminal().cloned().ok_or_else(|| {
            let text =
                format!("the agent of task {} talks over pipes, not in a terminal", task.short());
            Fault::new(Code::Conflict, text)
                .with_hint(format!("follow what it says: hayward logs -f {}", task.short()))
        })?;
        let joined = terminal.join(self.wanted.watch_id, self.size, self.wanted.read_only).await;
        let (look, seat) = joined.ok_or_else(absent)?;
        let folder =
            session.folder().path().file_name().map(|name| name.to_string_lossy().into_owned());
        let told = json!({ "runId": run, "folder": folder });
        Ok((Opened { session, live, terminal, look, seat }, told))
    }
}

struct Opened {
    session: Session,
    live: LiveSession,
    terminal: Terminal,
    look: Look,
    seat: Seat,
}

/// What the viewer is shown.
struct Showing {
    viewing: Viewing,
    session: Session,
    terminal: Terminal,
    present: watch::Receiver<Present>,
    /// How the viewer was told that the terminal stands.
    told: Present,
    /// The viewer granted nothing at first: it has the output from the keeper itself. It is told
    /// where a screen ends, and of another owner at once.
    is_aside: bool,
}

impl Showing {
    /// Ends with the session, or with the lane.
    async fn run(mut self, look: Look, first: u64, grant: &watch::Sender<u64>) {
        let up_to = look.offset.saturating_add(first);
        grant.send_if_modified(|grant| std::mem::replace(grant, up_to.max(*grant)) < up_to);
        if self.show(look).await && self.go_on().await {
            self.viewing.send(Body::End).await;
        }
    }

    /// Shows the terminal as it stands; false when the lane is closed.
    async fn show(&mut self, look: Look) -> bool {
        let until = look.offset;
        if until > self.viewing.position && !self.viewing.send(Body::Gap { until }).await {
            return false;
        }
        self.viewing.position = look.offset;
        self.told = look.present;
        if !self.viewing.send(Body::Screen(self.shape())).await {
            return false;
        }
        for part in look.state.chunks(MAX_BODY) {
            if !self.viewing.send(Body::Paint(part)).await {
                return false;
            }
        }
        !self.is_aside || self.viewing.send(Body::Resized(self.shape())).await
    }

    /// Sends what comes; true when the session ended and all was sent.
    async fn go_on(&mut self) -> bool {
        let mut buffer = vec![0; MAX_BODY];
        let mut changes = true;
        loop {
            let room = tokio::select! {
                // who has room is told of sizes too, in their place among the output
                biased;
                room = self.viewing.room(buffer.len()) => room,
                changed = self.present.changed(), if changes && self.is_aside => {
                    changes = changed.is_ok();
                    if !self.tell_owner().await {
                        return false;
                    }
                    continue;
                }
            };
            let Some(room) = room else { return false };
            let end = *self.session.output().borrow();
            if end.saturating_sub(self.viewing.position) > FAR {
                if !self.look_again().await {
                    return false;
                }
                continue;
            }
            // what was announced was read: a look at the disk would cost more than an echo does
            let is_read = end <= self.viewing.position && self.viewing.live.is_some();
            let read = if is_read {
                Ok(Read::AtEnd)
            } else {
                self.viewing.ring.read(self.viewing.position, &mut buffer[..room])
            };
            let sent = match read {
                Ok(Read::Bytes { len, .. }) => self.send(&buffer[..len]).await,
                Ok(Read::Gap { .. }) => self.look_again().await,
                // a change that was seen without room, of the owner alone, is not news any more
                Ok(Read::AtEnd) if self.tell_size(0).await.is_none() => return false,
                Ok(Read::AtEnd) => tokio::select! {
                    grows = self.viewing.grows() => match grows {
                        true => true,
                        false => return true,
                    },
                    changed = self.present.changed(), if changes => {
                        changes = changed.is_ok();
                        true
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "the output of a terminal cannot be read");
                    tokio::time::sleep(READ_AGAIN).await;
                    true
                }
            };
            if !sent {
                return false;
            }
        }
    }

    /// Sends output, up to where the terminal has another size. Whoever prints at a new size does
    /// so after it was announced: what was read before that is looked at, is told of in order.
    async fn send(&mut self, output: &[u8]) -> bool {
        let Some(len) = self.tell_size(output.len()).await else { return false };
        let sent = self.viewing.send(Body::Bytes(&output[..len])).await;
        self.viewing.position += len as u64;
        sent
    }

    /// What lies between is gone, or nobody would read it any more.
    async fn look_again(&mut self) -> bool {
        match self.terminal.look().await {
            Some(look) => self.show(look).await,
            None => false,
        }
    }

    /// Tells of another size or owner once the output is there; how many bytes, at most `most`,
    /// come before the next change. None when the lane is closed.
    async fn tell_size(&mut self, most: usize) -> Option<usize> {
        let present = *self.present.borrow_and_update();
        let is_new = (present.size, present.owner) != (self.told.size, self.told.owner);
        if !is_new {
            return Some(most);
        }
        if present.since > self.viewing.position {
            let until = present.since - self.viewing.position;
            return Some(usize::try_from(until).unwrap_or(most).min(most));
        }
        self.told = present;
        self.viewing.send(Body::Resized(self.shape())).await.then_some(most)
    }

    /// Tells who has its output elsewhere of another owner; false when the lane is closed.
    async fn tell_owner(&mut self) -> bool {
        let present = *self.present.borrow_and_update();
        if present.owner == self.told.owner {
            return true;
        }
        self.told.owner = present.owner;
        self.viewing.send(Body::Resized(self.shape())).await
    }

    fn shape(&self) -> Shape {
        let Present { size, owner, .. } = self.told;
        let owner = owner == Some(self.viewing.watch);
        Shape { rows: size.rows(), cols: size.cols(), owner }
    }
}

/// What the viewer does.
struct Hands {
    lane: Lane,
    session: Session,
    terminal: Terminal,
    watch: WatchId,
    read_only: bool,
}

impl Hands {
    /// Does one thing after the other, for ever.
    async fn run(self, mut handed: mpsc::Receiver<Handed>) {
        while let Some((request, hand)) = handed.recv().await {
            let done = self.perform(hand).await;
            if let Some(request) = request {
                let reply = done.map_or_else(Reply::refused, |()| Reply::done(Value::Null));
                self.lane.reply(request, reply).await;
            }
        }
        std::future::pending().await
    }

    async fn perform(&self, hand: Hand) -> Result<(), Fault> {
        if self.read_only {
            let text = "this view is for looking only: it cannot type or decide the size";
            return Err(Fault::new(Code::Forbidden, text));
        }
        let done = match hand {
            Hand::Type(data) => {
                let bytes = BASE64_STANDARD.decode(data);
                let bytes = bytes.map_err(|_| Fault::new(Code::Invalid, "data: no base64"))?;
                self.session.input(bytes.into()).await
            }
            Hand::Resize(rows, cols) => self.terminal.resize(self.watch, size(rows, cols)?).await,
            Hand::Take => self.terminal.take(self.watch).await,
        };
        done.map_err(|error| refused(&error))
    }
}

fn refused(error: &SessionError) -> Fault {
    let code = match error {
        SessionError::Refused(_) | SessionError::Ended => Code::Conflict,
        SessionError::TooLarge(_) => Code::TooLarge,
        SessionError::Unknown => Code::Failed,
    };
    Fault::new(code, chain(error))
}
