//! One WebSocket to the relay.

use super::finder::Place;
use crate::exit::chain;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hayward_shared::event::Envelope;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::protocol::{ClientMessage, ClientNotice, MAX_TEXT};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// A connection that is not open by then will not be.
const OPEN: Duration = Duration::from_secs(10);

/// The relay pings every 20 s: one that is silent for longer than two pings is gone.
const SILENCE: Duration = Duration::from_secs(45);

/// A message that cannot be sent by then never will be.
const SEND: Duration = Duration::from_secs(10);

/// What the relay says.
#[derive(Debug)]
pub(super) enum Heard {
    /// Something happened.
    Event(Box<Envelope>),
    /// An answer of the relay itself.
    Notice(ClientNotice),
    /// A frame of output.
    Frame(Bytes),
}

/// An open connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Connects to the relay's client endpoint.
    pub(super) async fn open(place: &Place) -> Result<Self, Fault> {
        let base = place.shown().replacen("http", "ws", 1);
        let mut request = format!("{base}/api/v1/ws/client")
            .into_client_request()
            .map_err(|error| refused(place, &error))?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", place.token))
            .map_err(|_| Fault::new(Code::Unauthorized, "the token holds odd characters"))?;
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let limits = WebSocketConfig::default()
            .max_message_size(Some(2 * MAX_TEXT))
            .max_frame_size(Some(2 * MAX_TEXT));
        let opening = connect_async_with_config(request, Some(limits), true);
        match tokio::time::timeout(OPEN, opening).await {
            Ok(Ok((stream, _))) => Ok(Self { stream }),
            Ok(Err(error)) => Err(refused(place, &error)),
            Err(_) => Err(lost("does not answer in time")),
        }
    }

    /// Says something.
    pub(super) async fn send(&mut self, message: &ClientMessage) -> Result<(), Fault> {
        let text = serde_json::to_string(message)
            .map_err(|error| Fault::new(Code::Internal, chain(&error)))?;
        match tokio::time::timeout(SEND, self.stream.send(Message::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(lost("takes no message")),
        }
    }

    /// Hears the next thing. What a newer relay says and this version does not know is passed
    /// over. An error means that the connection is gone.
    pub(super) async fn hear(&mut self) -> Result<Heard, Fault> {
        loop {
            let message = match tokio::time::timeout(SILENCE, self.stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(broken(&error)),
                Ok(None) => return Err(lost("closed the connection")),
                Err(_) => return Err(lost("went silent")),
            };
            match message {
                Message::Text(text) => {
                    if let Some(heard) = read(&text) {
                        return Ok(heard);
                    }
                }
                Message::Binary(frame) => return Ok(Heard::Frame(frame)),
                Message::Close(_) => return Err(lost("closed the connection")),
                _ => {}
            }
        }
    }
}

fn read(text: &str) -> Option<Heard> {
    if let Ok(event) = serde_json::from_str(text) {
        return Some(Heard::Event(Box::new(event)));
    }
    serde_json::from_str(text).ok().map(Heard::Notice)
}

fn lost(how: &str) -> Fault {
    Fault::new(Code::Unavailable, format!("the relay {how}"))
}

fn broken(error: &tungstenite::Error) -> Fault {
    Fault::new(Code::Unavailable, format!("the connection to the relay broke: {}", chain(error)))
}

fn refused(place: &Place, error: &tungstenite::Error) -> Fault {
    let url = place.shown();
    let code = match error {
        tungstenite::Error::Http(answer) => match answer.status().as_u16() {
            401 => Code::Unauthorized,
            403 => Code::Forbidden,
            404 => Code::NotFound,
            _ => Code::Unavailable,
        },
        _ => Code::Unavailable,
    };
    Fault::new(code, format!("cannot listen to the relay at {url}: {}", chain(error)))
}
