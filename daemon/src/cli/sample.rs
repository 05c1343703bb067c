//! Tasks and events for tests.

use hayward_shared::event::{Actor, ActorKind, ENVELOPE_VERSION, Envelope, Kind, Subject};
use hayward_shared::id::{EventId, TaskId, WorkspaceId};
use hayward_shared::task::{Holding, Order, Results, Status, Task};
use hayward_shared::time::Timestamp;
use serde_json::Value;

/// The task of all samples.
pub(crate) fn id() -> TaskId {
    "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap()
}

/// A task that stands there.
pub(crate) fn task(status: Status) -> Task {
    Task {
        id: id(),
        workspace_id: WorkspaceId::fresh(),
        status,
        reason: None,
        depth: 0,
        order: Order { name: "fix it".into(), ..Order::default() },
        holding: Holding::default(),
        results: Results::default(),
        created_at: Timestamp::from_millis(0),
        started_at: None,
        completed_at: None,
        version: 1,
    }
}

/// An event without a payload.
pub(crate) fn event(seq: u64, kind: Kind) -> Envelope {
    Envelope {
        v: ENVELOPE_VERSION,
        id: EventId::fresh(),
        stream: hayward_shared::event::task_stream(id()),
        seq,
        kind,
        at: Timestamp::from_millis(1_000),
        workspace_id: WorkspaceId::fresh(),
        actor: Actor { kind: ActorKind::System, id: String::new() },
        subject: Subject { kind: "task".into(), id: id().to_string() },
        request_id: None,
        lease_epoch: None,
        channel: None,
        payload: Value::Null,
    }
}

/// An event with a payload.
pub(crate) fn told(kind: Kind, payload: Value) -> Envelope {
    Envelope { payload, ..event(0, kind) }
}
