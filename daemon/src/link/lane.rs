//! The way out for those who watch: answers one by one, and frames of output beside them.

use bytes::Bytes;
use hayward_shared::id::RequestId;
use hayward_shared::protocol::{FromDaemon, Reply, Tagged, Tags};
use tokio::sync::{mpsc, watch};

/// Answers and frames that wait at a lane of a viewer's own. Full means that the watch waits.
const QUEUE: usize = 8;

/// Where answers and frames go: over the relay's link, or to a viewer on this machine.
#[derive(Clone, Debug)]
pub struct Lane {
    say: mpsc::Sender<Tagged<FromDaemon>>,
    output: watch::Receiver<Option<mpsc::Sender<Bytes>>>,
}

/// The other end of a lane that leads to one viewer. Dropping it closes the lane.
#[derive(Debug)]
pub struct LaneEnd {
    /// Answers, in order.
    pub answers: mpsc::Receiver<Tagged<FromDaemon>>,
    /// Frames, in order.
    pub frames: mpsc::Receiver<Bytes>,
}

impl Lane {
    pub(super) fn new(
        say: mpsc::Sender<Tagged<FromDaemon>>,
        output: watch::Receiver<Option<mpsc::Sender<Bytes>>>,
    ) -> Self {
        Self { say, output }
    }

    /// A lane that does not lead to the relay, and its other end.
    #[must_use]
    pub fn apart() -> (Self, LaneEnd) {
        let (say, answers) = mpsc::channel(QUEUE);
        let (lane, frames) = mpsc::channel(QUEUE);
        let (_, output) = watch::channel(Some(lane));
        (Self { say, output }, LaneEnd { answers, frames })
    }

    /// Answers a request by a `reply`. Lost when the lane closes before it is sent.
    pub async fn reply(&self, request: RequestId, reply: Reply) {
        self.answer(Some(request), FromDaemon::Reply(reply)).await;
    }

    /// Answers a request by a message of its own type; one that carried no `requestId` too. Lost
    /// like a reply.
    pub async fn answer(&self, request: Option<RequestId>, body: FromDaemon) {
        let tags = Tags { request_id: request, ..Tags::default() };
        drop(self.say.send(Tagged { body, tags }).await);
    }

    /// Sends an output frame, waiting while the other end is busy. False when there is none.
    pub async fn output(&self, frame: Bytes) -> bool {
        let lane = self.output.borrow().clone();
        match lane {
            Some(lane) => lane.send(frame).await.is_ok(),
            None => false,
        }
    }
}
