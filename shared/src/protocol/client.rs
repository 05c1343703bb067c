//! What a client (command line, dashboard) and the relay say over `/api/v1/ws/client`.
//!
//! Events come as bare envelopes ([`crate::event::Envelope`]), everything else as
//! [`ClientNotice`]; an envelope is told by its `v`. Output comes in binary frames.

use crate::fault::Fault;
use crate::id::{TaskId, WatchId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A message of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ClientMessage {
    /// Send the events of a stream: those that are stored, then each new one.
    Subscribe {
        /// The stream, as `task:<id>`.
        stream: String,
        /// The last event that the client has; absent: it has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// Enough of that stream.
    Unsubscribe {
        /// The stream.
        stream: String,
    },
    /// Send the output of a task's last run.
    Watch {
        /// The client's own name for it.
        watch_id: WatchId,
        /// The task.
        task_id: TaskId,
        /// The first byte to send.
        from: u64,
        /// Whether to go on until the session ends.
        follow: bool,
        /// Send no byte at or past this offset until a grant moves it.
        grant: u64,
    },
    /// The client can take more.
    Grant {
        /// The watch.
        watch_id: WatchId,
        /// Send no byte at or past this offset.
        up_to: u64,
    },
    /// Enough of that output.
    Unwatch {
        /// The watch.
        watch_id: WatchId,
    },
}

/// A message to a client that is no event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum ClientNotice {
    /// The stored events of the stream have been sent; live ones follow.
    #[serde(rename = "subscribed")]
    Subscribed {
        /// The stream.
        stream: String,
        /// The number that its next event will have.
        next_seq: u64,
    },
    /// A watch began. Payload: `{runId, start, end}`.
    #[serde(rename = "watch.started")]
    WatchStarted {
        /// The watch.
        watch_id: WatchId,
        /// What the daemon said of it.
        payload: Value,
    },
    /// A watch ended before its `End` frame; it may be begun again at the offset that was reached.
    #[serde(rename = "watch.failed")]
    WatchFailed {
        /// The watch.
        watch_id: WatchId,
        /// Why.
        error: Fault,
    },
    /// A message of the client was not taken.
    #[serde(rename = "error")]
    Error {
        /// Why.
        error: Fault,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_client_lane_are_fixed() {
        let text = r#"{"type":"subscribe","stream":"task:1","since":4}"#;
        let message: ClientMessage = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        let text = r#"{"type":"watch","watchId":"01939d3a-7c00-7000-8000-0000deadbeef","taskId":"01939d3a-7c00-7000-8000-0000deadbeef","from":0,"follow":true,"grant":65536}"#;
        let message: ClientMessage = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        let text = r#"{"type":"subscribed","stream":"task:1","nextSeq":5}"#;
        let notice: ClientNotice = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&notice).unwrap(), text);
    }
}
