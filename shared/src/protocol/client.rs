//! What a client (command line, dashboard) and the relay say over `/api/v1/ws/client`.
//!
//! Events come as bare envelopes ([`crate::event::Envelope`]), everything else as
//! [`ClientNotice`]; an envelope is told by its `v`. Output comes in binary frames.

use super::view::{OutputView, TerminalView};
use crate::fault::Fault;
use crate::id::WatchId;
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
    Watch(OutputView),
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
    /// Show the terminal of a task's live session. Grant and unwatch as with any watch.
    AttachTerminal(TerminalView),
    /// Type into the terminal. In order; answered once, by `terminal.typed` or `terminal.refused`.
    TypeTerminal {
        /// The watch.
        watch_id: WatchId,
        /// Comes back with the answer.
        seq: u64,
        /// The bytes, in base64.
        data: String,
    },
    /// The client has another size now.
    ResizeTerminal {
        /// The watch.
        watch_id: WatchId,
        /// Its height in characters.
        rows: u16,
        /// Its width in characters.
        cols: u16,
    },
    /// From now on the size of this client counts.
    TakeTerminal {
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
    /// The agent's terminal took what was typed.
    #[serde(rename = "terminal.typed")]
    TerminalTyped {
        /// The watch.
        watch_id: WatchId,
        /// What the client named it.
        seq: u64,
    },
    /// What was typed, or a wish about the size, was refused; the watch goes on.
    #[serde(rename = "terminal.refused")]
    TerminalRefused {
        /// The watch.
        watch_id: WatchId,
        /// What was typed; absent: it was about the size.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
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
        for text in [
            r#"{"type":"attachTerminal","watchId":"01939d3a-7c00-7000-8000-0000deadbeef","taskId":"01939d3a-7c00-7000-8000-0000deadbeef","rows":24,"cols":80,"readOnly":false,"grant":65536}"#,
            r#"{"type":"typeTerminal","watchId":"01939d3a-7c00-7000-8000-0000deadbeef","seq":1,"data":"bHMN"}"#,
            r#"{"type":"resizeTerminal","watchId":"01939d3a-7c00-7000-8000-0000deadbeef","rows":50,"cols":200}"#,
            r#"{"type":"takeTerminal","watchId":"01939d3a-7c00-7000-8000-0000deadbeef"}"#,
        ] {
            let message: ClientMessage = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&message).unwrap(), text);
        }
        let text =
            r#"{"type":"terminal.typed","watchId":"01939d3a-7c00-7000-8000-0000deadbeef","seq":1}"#;
        let notice: ClientNotice = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&notice).unwrap(), text);
        let text = r#"{"type":"subscribed","stream":"task:1","nextSeq":5}"#;
        let notice: ClientNotice = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&notice).unwrap(), text);
    }
}
