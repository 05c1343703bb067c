//! Orders to a live run, and how they are carried out.

use super::actor::{Actor, Done, answer};
use super::inform::Notice;
use super::input::fault;
use super::machine::Event;
use crate::agent::{Decode, Message};
use crate::session::{Session, SessionError};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::task::Status;
use tokio::sync::oneshot;
use uuid::Uuid;

type Reply = oneshot::Sender<Result<(), Fault>>;

/// What a run is told to do.
#[derive(Debug)]
pub(super) struct RunOrder {
    pub(super) what: What,
    /// Told when it is done or refused.
    pub(super) reply: Reply,
}

/// The orders.
#[derive(Debug)]
pub(super) enum What {
    /// Freeze the agent and all it started.
    Pause,
    /// Let it go on.
    Resume,
    /// Stop what the agent does now; not graceful: by a signal.
    Interrupt {
        /// Ask the agent.
        graceful: bool,
    },
    /// Tell the agent something, once for each id.
    Message {
        /// Names the message.
        id: Uuid,
        /// The words.
        text: String,
    },
    /// Tell of something that is no order.
    Inform(Notice),
    /// End the agent; its worktree stays.
    Cancel,
    /// End the agent; another daemon has the task.
    Fence,
}

impl Actor {
    pub(super) async fn obey(&mut self, order: RunOrder) {
        let RunOrder { what, reply } = order;
        match what {
            What::Cancel => {
                self.take(Event::Cancel).await;
                answer(reply, Ok(()));
            }
            What::Fence => {
                self.take(Event::Fence).await;
                answer(reply, Ok(()));
            }
            What::Pause => {
                let ask = |session: Session| async move { session.pause().await };
                self.ask(reply, "paused", Some(Event::Paused), ask);
            }
            What::Resume => {
                let ask = |session: Session| async move { session.resume().await };
                self.ask(reply, "resumed", Some(Event::Resumed), ask);
            }
            What::Interrupt { graceful } => self.interrupt(graceful, reply).await,
            What::Message { id, text } => self.message(id, text, reply).await,
            What::Inform(notice) => self.inform(notice, reply).await,
        }
    }

    /// Asks the session aside; what follows from its consent happens when it is there.
    fn ask<F>(
        &mut self,
        reply: Reply,
        done: &str,
        event: Option<Event>,
        what: impl FnOnce(Session) -> F,
    ) where
        F: Future<Output = Result<(), SessionError>> + Send + 'static,
    {
        match self.live(done) {
            Err(fault) => answer(reply, Err(fault)),
            Ok(session) => {
                let asked = what(session);
                self.aside(async move {
                    Done::Asked(event, reply, asked.await.map_err(|error| fault(&error)))
                });
            }
        }
    }

    async fn interrupt(&mut self, graceful: bool, reply: Reply) {
        if let Err(fault) = self.live("interrupted") {
            answer(reply, Err(fault));
            return;
        }
        let decoder = self.machine.reading().decoder.as_mut().filter(|_| graceful);
        match decoder.map(Decode::interrupt) {
            Some(Ok(steps)) => {
                self.note(steps).await;
                self.write_and_answer(reply);
            }
            Some(Err(error)) => answer(reply, Err(Fault::new(Code::Conflict, error.to_string()))),
            None => {
                let ask = |session: Session| async move { session.interrupt().await };
                self.ask(reply, "interrupted", None, ask);
            }
        }
    }

    /// The message is in the journal before the agent has it, and goes to the agent once.
    async fn message(&mut self, id: Uuid, text: String, reply: Reply) {
        if let Err(fault) = self.live("told anything") {
            answer(reply, Err(fault));
            return;
        }
        let decoder = self.machine.reading().decoder.as_mut();
        match decoder.map(|decoder| decoder.message(&Message { id, text })) {
            Some(Ok(steps)) => {
                self.note(steps).await;
                self.write_and_answer(reply);
            }
            Some(Err(error)) => answer(reply, Err(Fault::new(Code::Conflict, error.to_string()))),
            None => {
                let text = "the agent is not ready to be told anything";
                answer(reply, Err(Fault::new(Code::Conflict, text)));
            }
        }
    }

    pub(super) fn live(&self, done: &str) -> Result<Session, Fault> {
        let status = self.machine.state().status;
        match self.session() {
            Some(session) if matches!(status, Status::Running | Status::Paused) => {
                Ok(session.clone())
            }
            _ => Err(Fault::new(
                Code::Conflict,
                format!("the task is {status} and has no live agent that could be {done}"),
            )),
        }
    }
}
