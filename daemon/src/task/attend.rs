//! Attending a session: its output read in order, decoded, and its end waited for.

use super::state::Reading;
use crate::agent::ending::Exit as AgentExit;
use crate::agent::{Decode, Decoder, Step};
use crate::keeper::{How, RunFolder};
use crate::session::{End, Session};
use crate::terminal::ring::{Read, RingReader};
use hayward_shared::time::Timestamp;
use std::io;
use tokio::sync::watch;

/// Bytes read at once: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// A session that is being read.
#[derive(Debug)]
pub(super) struct Attended {
    session: Option<Session>,
    ring: RingReader,
    grown: Option<watch::Receiver<u64>>,
    end: Option<End>,
    position: u64,
    buffer: Vec<u8>,
    decodes: bool,
}

/// What came of waiting.
#[derive(Debug)]
pub(super) enum Seen {
    /// The decoder has something to say or to do.
    Steps(Vec<Step>),
    /// All output was read, and this is the end.
    Over(End),
}

impl Attended {
    /// Attends a live session, from where the decoder stands.
    pub(super) fn live(session: Session, reading: &Reading) -> Self {
        let (ring, grown) = (session.ring(), session.output());
        Self::new(ring, Some(session), Some(grown), None, reading)
    }

    /// Reads what an ended session left.
    pub(super) fn past(folder: &RunFolder, end: End, reading: &Reading) -> Self {
        Self::new(RingReader::open(&folder.ring()), None, None, Some(end), reading)
    }

    fn new(
        ring: RingReader,
        session: Option<Session>,
        grown: Option<watch::Receiver<u64>>,
        end: Option<End>,
        reading: &Reading,
    ) -> Self {
        let position = reading.decoder.as_ref().map_or(0, Decode::offset);
        let decodes = !matches!(reading.decoder, None | Some(Decoder::Command(_)));
        Self { session, ring, grown, end, position, buffer: vec![0; CHUNK], decodes }
    }

    /// The session, while it lives.
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Reads no more of the output; the end is seen all the same.
    pub(super) fn stop_decoding(&mut self) {
        self.decodes = false;
    }

    /// Waits for something to happen. Safe to drop and call again: nothing is lost.
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub(super) async fn next(
        &mut self,
        reading: &mut Reading,
        now: impl Fn() -> Timestamp,
    ) -> io::Result<Seen> {
        loop {
            if self.decodes
                && let Some(steps) = self.decode(reading, now())?
            {
                return Ok(Seen::Steps(steps));
            }
            if let Some(end) = &self.end {
                return Ok(Seen::Over(end.clone()));
            }
            self.wait().await;
        }
    }

    /// Decodes what is there; none when all of it was read and nothing is to be said.
    fn decode(&mut self, reading: &mut Reading, now: Timestamp) -> io::Result<Option<Vec<Step>>> {
        let Some(decoder) = &mut reading.decoder else { return Ok(None) };
        loop {
            let steps = match self.ring.read(self.position, &mut self.buffer)? {
                Read::Bytes { len, .. } => {
                    self.position += len as u64;
                    decoder.decode(&self.buffer[..len], now)
                }
                Read::Gap { to, .. } => {
                    self.position = to;
                    decoder.gap(to)
                }
                Read::AtEnd => return Ok(None),
            };
            if !steps.is_empty() {
                return Ok(Some(steps));
            }
        }
    }

    async fn wait(&mut self) {
        let (Some(session), Some(grown)) = (&self.session, &mut self.grown) else {
            return std::future::pending().await;
        };
        let decodes = self.decodes;
        let growth = async {
            if decodes && grown.changed().await.is_ok() {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = growth => {}
            end = session.exited() => self.end = end,
        }
    }
}

/// The end of a process in the words of its driver; none when its keeper left no record.
pub(super) fn agent_exit(end: &End) -> Option<AgentExit> {
    match end {
        End::Exited(exit) => Some(match &exit.how {
            How::Exited { code } => AgentExit::Code(*code),
            How::Signalled { signal } => AgentExit::Signal(*signal),
            How::NotStarted { cause } => AgentExit::NotStarted(cause.to_string()),
        }),
        End::Lost(_) => None,
    }
}
