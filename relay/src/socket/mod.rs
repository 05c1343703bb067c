//! The two WebSockets: daemons' and clients'.

pub(crate) mod ahead;
mod backlog;
pub(crate) mod client;
pub(crate) mod connection;
mod dispatch;
pub(crate) mod handshake;
mod hello;
pub(crate) mod pipe;
mod reconcile;
mod reports;

use axum::extract::ws::Message;

/// The largest frame that is read at all. Somewhat over the limit of a message, so that what is
/// too large can be told so on a link that lives on; what is over this ends the link.
pub(crate) const MAX_FRAME: usize = 2 * hayward_shared::protocol::MAX_TEXT;

/// Bytes of a link that are read at once. The room for them stays as long as the link lives, and an
/// idle link has 20 KiB in all: with twice as much it would have 27.
pub(crate) const READ_AT_ONCE: usize = 8 * 1024;

/// Bytes that a message carries.
fn size(frame: &Message) -> usize {
    match frame {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) => bytes.len(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => 0,
    }
}
