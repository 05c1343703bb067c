//! The two WebSockets: daemons' and clients'.

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

/// Bytes that a message carries.
fn size(frame: &Message) -> usize {
    match frame {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) => bytes.len(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => 0,
    }
}
