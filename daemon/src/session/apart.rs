//! A session without a keeper: its other end is the simulation's.

use super::actor::{Ask, Asked};
use super::{ASKS, End, Session};
use crate::keeper::RunFolder;
use crate::keeper::wire::Request;
use crate::process::ProcessId;
use tokio::sync::{mpsc, watch};

/// The other end of a session. Dropping it breaks the session off: it never ends.
#[derive(Debug)]
pub struct Apart {
    asked: mpsc::Receiver<Ask>,
    end: watch::Sender<Option<End>>,
    _output: watch::Sender<u64>,
}

impl Session {
    /// A session whose agent is `agent`, and its other end.
    #[must_use]
    pub fn apart(folder: RunFolder, agent: ProcessId) -> (Self, Apart) {
        let (asks, asked) = mpsc::channel(ASKS);
        let (output_in, output) = watch::channel(0);
        let (end_in, end) = watch::channel(None);
        let (keeper, agent, terminal) = (ProcessId { pid: 0, start: 0 }, Some(agent), None);
        let session = Self { folder, asks, keeper, agent, output, end, terminal };
        (session, Apart { asked, end: end_in, _output: output_in })
    }
}

impl Apart {
    /// Waits until the agent is asked to end, and agrees to everything on the way. Never over once
    /// nobody holds the session any more.
    pub async fn asked_to_end(&mut self) {
        while let Some(Ask { asked, answer }) = self.asked.recv().await {
            let ends = matches!(asked, Asked::Request(Request::End { .. }));
            // whoever stopped waiting needs no answer
            drop(answer.send(Ok(())));
            if ends {
                return;
            }
        }
        std::future::pending().await
    }

    /// The session has ended.
    pub fn over(&self, end: End) {
        self.end.send_replace(Some(end));
    }
}
