//! What the daemon has to tell about a run besides what its agent does: to the relay always, to the
//! agent where its driver takes messages.

use super::actor::{Actor, answer};
use super::places::LivePlace;
use crate::agent::{Decode, Decoder, Message, Step};
use crate::clock;
use hayward_shared::event::{Channel, Kind};
use hayward_shared::fault::Fault;
use hayward_shared::protocol::{FromDaemon, TaskEvent};
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The event's kind.
    pub kind: Kind,
    /// The event's payload, an object. With words for the agent it gets `delivered`.
    pub payload: Value,
    /// Words for the agent.
    pub words: Option<Words>,
}

/// Words for an agent that are information: they must say so themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Names the message: the same one is told once.
    pub id: Uuid,
    /// The text.
    pub text: String,
}

impl Actor {
    /// Makes the worktree known once there is one.
    pub(super) fn show_place(&mut self) {
        if self.present.is_none()
            && let Some(place) = self.machine.state().place.clone()
        {
            let live = LivePlace { key: self.key, name: self.order.name.clone(), place };
            self.present = Some(self.shop.places.enter(live));
        }
    }

    /// Tells of it. An agent that cannot be told is no failure: the event says so.
    pub(super) async fn inform(
        &mut self,
        notice: Notice,
        reply: oneshot::Sender<Result<(), Fault>>,
    ) {
        let Notice { kind, mut payload, words } = notice;
        if let Some(words) = words {
            let steps = self.offer(words);
            payload["delivered"] = steps.is_some().into();
            self.note(steps.unwrap_or_default()).await;
        }
        let event = FromDaemon::TaskEvent(TaskEvent {
            task_id: self.key.task_id,
            run_id: self.key.run_id,
            event: kind,
            at: clock::now(),
            channel: Some(Channel::Status),
            payload,
        });
        self.write_down(&[event]).await;
        self.write_on();
        answer(reply, Ok(()));
    }

    /// How to tell the agent; none where its driver takes no messages. A command in a terminal
    /// never has text typed into it that nobody typed.
    fn offer(&mut self, words: Words) -> Option<Vec<Step>> {
        self.live("told anything").ok()?;
        let Words { id, text } = words;
        match self.machine.reading().decoder.as_mut()? {
            Decoder::Command(_) => None,
            decoder => decoder.message(&Message { id, text }).ok(),
        }
    }
}
