//! The wire, version 1: what daemon and relay, and relay and client, say to each other.
//!
//! Two lanes share a WebSocket. The **state lane** is JSON text, one message a frame, tagged by
//! `type`; [`Tagged`] adds the request, the outbox number and the fence to any message. The
//! **output lane** is binary frames, see [`output`]. The first message of a daemon is
//! `authenticate`; nothing else is served before it.
//!
//! A reader passes over unknown fields. An unknown `type` is answered with
//! `error{code:"unknown_type"}` and the link lives on. What a peer can do is told by its
//! capabilities, never by its version.

mod client;
mod codec;
mod from_daemon;
mod hello;
pub mod output;
mod to_daemon;
mod version;
mod view;

pub use client::{ClientMessage, ClientNotice};
pub use codec::{
    DecodeError, MAX_PREAUTH, MAX_TEXT, READ_AT_ONCE, Tagged, Tags, asked_by, decode, encode,
};
pub use from_daemon::{
    BranchInfo, Details, FROM_DAEMON_TYPES, FromDaemon, Reply, StatusReport, TaskEvent,
};
pub use hello::{Authenticate, Authenticated, Resume};
pub use to_daemon::{RunOrder, SpawnTask, TO_DAEMON_TYPES, ToDaemon};
pub use version::{Capability, OURS, PROTOCOL_VERSION, missing, worded};
pub use view::{OutputView, TerminalView};
