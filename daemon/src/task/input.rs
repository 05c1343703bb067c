//! What is said to an agent: kept until it is written, written in order, aside from the actor, so
//! that an agent that does not read keeps no cancel waiting.

use super::actor::{Actor, Done, answer};
use super::machine::Event;
use super::prepare::chain;
use super::state::Unwritten;
use crate::agent::Decoder;
use crate::keeper::wire::Fault as KeeperFault;
use crate::session::{PATIENCE, Session, SessionError};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::run::Failure;
use hayward_shared::task::Reason;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a driver's agent may take before it reads: a cold start of a large program on a busy
/// machine takes several seconds.
const DRIVEN_PATIENCE: Duration = Duration::from_secs(60);

/// A keeper that did not answer is written to again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Who waits for what is being written.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Whether something is being written now.
    busy: bool,
    /// Those whose words are among what waits, with how many pieces lie before their end.
    waiting: Vec<(usize, oneshot::Sender<Result<(), Fault>>)>,
}

/// How far a writing went.
#[derive(Debug)]
pub(super) struct Wrote {
    /// Pieces that the agent has.
    count: usize,
    /// Why the next one is not with it.
    error: Option<SessionError>,
}

impl Actor {
    /// Writes what waits, if nothing is being written.
    pub(super) fn write_on(&mut self) {
        let Some(session) = self.session().cloned() else { return };
        let reading = self.machine.reading();
        if self.input.busy || reading.unwritten.is_empty() {
            return;
        }
        let typed = matches!(reading.decoder, None | Some(Decoder::Command(_)));
        let patience = if typed { PATIENCE } else { DRIVEN_PATIENCE };
        let pieces = reading.unwritten.clone();
        self.input.busy = true;
        self.aside(async move { Done::Wrote(write(&session, pieces, patience).await) });
    }

    /// Writes what waits, and answers when its last piece is written or refused.
    pub(super) fn write_and_answer(&mut self, reply: oneshot::Sender<Result<(), Fault>>) {
        let pieces = self.machine.reading().unwritten.len();
        self.input.waiting.push((pieces, reply));
        self.write_on();
    }

    /// What was written is forgotten, on disk too, so that a restarted daemon types nothing twice.
    pub(super) async fn wrote(&mut self, Wrote { count, error }: Wrote) {
        self.input.busy = false;
        let mut gone = count;
        let refused = match error {
            None => None,
            Some(SessionError::Unknown) => {
                tracing::warn!("the keeper did not answer; writing again");
                self.settle_waiting(count, None);
                self.forget(gone).await;
                self.aside(async {
                    tokio::time::sleep(WRITE_AGAIN).await;
                    Done::Wrote(Wrote { count: 0, error: None })
                });
                self.input.busy = true;
                return;
            }
            Some(error) => {
                gone += 1;
                Some(error)
            }
        };
        let driven = !matches!(self.machine.reading().decoder, None | Some(Decoder::Command(_)));
        self.settle_waiting(count, refused.as_ref());
        self.forget(gone).await;
        match refused {
            Some(SessionError::Ended) | None => {}
            Some(error) if driven => {
                // half a message may lie in its pipe: nothing after it would be understood
                let text = format!("the agent did not take its input: {}", chain(&error));
                let failure = Failure::new(Reason::AgentProtocol, text);
                self.take(Event::Failed(failure)).await;
            }
            Some(error) => {
                tracing::warn!(text = chain(&error), "input was refused");
            }
        }
        self.write_on();
    }

    fn settle_waiting(&mut self, count: usize, refused: Option<&SessionError>) {
        let gone = count + usize::from(refused.is_some());
        for (pieces, reply) in std::mem::take(&mut self.input.waiting) {
            if pieces <= count {
                answer(reply, Ok(()));
            } else if let Some(error) = refused
                && pieces <= gone
            {
                answer(reply, Err(fault(error)));
            } else {
                self.input.waiting.push((pieces - gone, reply));
            }
        }
    }

    async fn forget(&mut self, count: usize) {
        if count > 0 {
            let unwritten = &mut self.machine.reading().unwritten;
            unwritten.drain(..count.min(unwritten.len()));
            self.write_down(&[]).await;
        }
    }
}

async fn write(session: &Session, pieces: Vec<Unwritten>, patience: Duration) -> Wrote {
    let mut count = 0;
    for piece in pieces {
        let written = match piece {
            Unwritten::Text(text) => session.input_within(text.into_bytes().into(), patience).await,
            Unwritten::Close => session.close_input().await,
        };
        if let Err(error) = written {
            return Wrote { count, error: Some(error) };
        }
        count += 1;
    }
    Wrote { count, error: None }
}

/// A session's refusal, as the one who asked is told.
pub(super) fn fault(error: &SessionError) -> Fault {
    let code = match error {
        SessionError::Ended => Code::Conflict,
        SessionError::TooLarge(_) => Code::TooLarge,
        SessionError::Unknown => Code::Unavailable,
        SessionError::Refused(KeeperFault::Ended) => Code::Conflict,
        SessionError::Refused(_) => Code::Failed,
    };
    Fault::new(code, chain(error))
}

/// JSON lines and typed text are UTF-8; anything else could not have come from a driver.
pub(super) fn text(bytes: Vec<u8>) -> Unwritten {
    Unwritten::Text(String::from_utf8_lossy(&bytes).into_owned())
}
