//! Orders to a live run, and how they are carried out.

use super::actor::{Actor, answer};
use super::machine::Event;
use super::prepare::chain;
use crate::agent::{Decode, Message};
use crate::session::{Session, SessionError};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::task::Status;
use tokio::sync::oneshot;
use uuid::Uuid;

/// What a run is told to do.
#[derive(Debug)]
pub(super) struct RunOrder {
    pub(super) what: What,
    /// Told when it is done or refused.
    pub(super) reply: oneshot::Sender<Result<(), Fault>>,
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
            What::Pause => answer(reply, self.pause().await),
            What::Resume => answer(reply, self.resume().await),
            What::Interrupt { graceful } => answer(reply, self.interrupt(graceful).await),
            What::Message { id, text } => answer(reply, self.message(id, text).await),
        }
    }

    async fn pause(&mut self) -> Result<(), Fault> {
        let session = self.live("paused")?;
        session.pause().await.map_err(|error| refused(&error))?;
        self.take(Event::Paused).await;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), Fault> {
        let session = self.live("resumed")?;
        session.resume().await.map_err(|error| refused(&error))?;
        self.take(Event::Resumed).await;
        Ok(())
    }

    async fn interrupt(&mut self, graceful: bool) -> Result<(), Fault> {
        let session = self.live("interrupted")?;
        if !graceful {
            return session.interrupt().await.map_err(|error| refused(&error));
        }
        let asked = self.machine.reading().decoder.as_mut().map(Decode::interrupt);
        match asked {
            Some(Ok(steps)) => {
                self.steps(steps).await;
                Ok(())
            }
            Some(Err(error)) => Err(Fault::new(Code::Conflict, error.to_string())),
            None => session.interrupt().await.map_err(|error| refused(&error)),
        }
    }

    /// The message is in the journal before the agent has it, and goes to the agent once.
    async fn message(&mut self, id: Uuid, text: String) -> Result<(), Fault> {
        self.live("told anything")?;
        let Some(decoder) = &mut self.machine.reading().decoder else {
            return Err(Fault::new(Code::Conflict, "the agent is not ready to be told anything"));
        };
        let steps = decoder
            .message(&Message { id, text })
            .map_err(|error| Fault::new(Code::Conflict, error.to_string()))?;
        self.note(steps).await;
        self.try_write_to_agent().await.map_err(|error| refused(&error))
    }

    fn live(&self, done: &str) -> Result<Session, Fault> {
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

fn refused(error: &SessionError) -> Fault {
    let code = match error {
        SessionError::Ended => Code::Conflict,
        SessionError::TooLarge(_) => Code::TooLarge,
        SessionError::Unknown => Code::Unavailable,
        SessionError::Refused(_) => Code::Failed,
    };
    Fault::new(code, chain(error))
}
