//! Who shows the output of a viewer and takes its keys; and the keeper, where that is the one.

use super::super::direct::{self, Direct};
use super::super::view::{Say, Seen};
use super::super::waiting::By;
use super::{Actor, Over};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::protocol::output::Shape;
use std::io::ErrorKind;

/// Who shows the output and takes the keys.
pub(super) enum Place {
    /// Whoever is at the other end of the connection.
    Daemon,
    /// The keeper; a connection that breaks does not end that. While it is held, it takes the keys
    /// alone.
    Keeper(Box<Direct>),
}

impl Place {
    /// What the keeper says next; nothing ever where it does not serve.
    pub(super) async fn next(&mut self) -> direct::Heard {
        match self {
            Self::Daemon => std::future::pending().await,
            Self::Keeper(direct) => direct.next().await,
        }
    }
}

impl Actor {
    /// There is no connection that could show the present: the keeper goes on where it was, if it
    /// served.
    pub(super) async fn go_on_alone(&mut self) {
        if let Place::Keeper(direct) = &mut self.place
            && direct.is_held()
            && direct.go_on(direct.offset(), true).await.is_err()
        {
            self.leave_keeper().await;
        }
    }

    /// Something is done that is the keeper's or nobody's, or while there is no connection.
    pub(super) async fn alone(&mut self, said: Say) {
        match (said, &mut self.place) {
            (Say::Type(seq, _), _) if self.view.read_only => {
                let text = "this view is for looking only: it cannot type";
                let fault = Fault::new(Code::Forbidden, text);
                drop(self.tell.send(Ok(Seen::Refused(Some(seq), fault))).await);
            }
            (Say::Resize(rows, cols), _) => self.view.size = (rows, cols),
            (Say::Type(seq, bytes), Place::Keeper(direct)) => {
                self.waiting.given(seq, By::Keeper);
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

    /// The keeper serves no more: who is at the other end of a connection does.
    pub(super) async fn leave_keeper(&mut self) {
        self.place = Place::Daemon;
        self.lose(By::Keeper).await;
        if let Some(fault) = self.apart.take() {
            drop(self.tell.send(Ok(Seen::Lost(fault))).await);
        }
    }

    /// One of the two is gone: whether what it was given has arrived is not known.
    pub(super) async fn lose(&mut self, gone: By) {
        for seq in self.waiting.lost(gone) {
            let text = "the connection broke: whether it was typed is not known";
            let fault = Fault::new(Code::Unavailable, text);
            drop(self.tell.send(Ok(Seen::Refused(Some(seq), fault))).await);
        }
    }

    pub(super) fn is_shown_by_keeper(&self) -> bool {
        matches!(&self.place, Place::Keeper(direct) if !direct.is_held())
    }

    /// Takes what the keeper says; true when nothing follows.
    pub(super) async fn hear_keeper(&mut self, heard: direct::Heard) -> Result<bool, Over> {
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

    pub(super) fn answered(&mut self, seq: u64, seen: Seen) -> Seen {
        self.waiting.answered(seq);
        seen
    }

    /// Lets the keeper show what comes behind `from`, if it does that.
    pub(super) async fn begin_directly(&mut self, from: u64) {
        let Some(folder) = self.folder.clone() else { return };
        match &mut self.place {
            Place::Keeper(direct) => {
                if direct.go_on(from, false).await.is_err() {
                    self.leave_keeper().await;
                }
            }
            Place::Daemon if self.refused.as_ref() == Some(&folder) => {}
            Place::Daemon => match Direct::open(&folder, from).await {
                Ok(direct) => self.place = Place::Keeper(Box::new(direct)),
                // one that is silent may be stopped
                Err(fault) if fault.kind() == ErrorKind::TimedOut => {}
                Err(_) => self.refused = Some(folder),
            },
        }
    }
}
