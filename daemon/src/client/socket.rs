//! One WebSocket to the relay, or to this machine's daemon, which says the same of its own runs.

use super::finder::Place;
use crate::exit::chain;
use bytes::Bytes;
use futures_util::future::Either;
use futures_util::{SinkExt, StreamExt};
use hayward_daemon::home::Home;
use hayward_daemon::line::Line;
use hayward_shared::event::Envelope;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::protocol::{ClientMessage, ClientNotice, MAX_TEXT, READ_AT_ONCE};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_with_config, connect_async_with_config,
};

/// A connection that is not open by then will not be.
const OPEN: Duration = Duration::from_secs(10);

/// Relay and daemon ping every 20 s: one that is silent for longer than two pings is gone.
const SILENCE: Duration = Duration::from_secs(45);

/// A message that cannot be sent by then never will be.
const SEND: Duration = Duration::from_secs(10);

/// What the other end says.
#[derive(Debug)]
pub(super) enum Heard {
    /// Something happened.
    Event(Box<Envelope>),
    /// An answer of the other end itself.
    Notice(ClientNotice),
    /// A frame of output.
    Frame(Bytes),
}

/// To a relay, or to this machine's daemon.
type Stream = Either<WebSocketStream<MaybeTlsStream<TcpStream>>, WebSocketStream<Line>>;

/// An open connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    /// Who is at the other end.
    who: &'static str,
    /// When something came last.
    heard: Instant,
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
        let opening = connect_async_with_config(request, Some(limits()), true);
        match tokio::time::timeout(OPEN, opening).await {
            Ok(Ok((stream, _))) => Ok(Self::over(Either::Left(stream), "relay")),
            Ok(Err(error)) => Err(refused(place, &error)),
            Err(_) => Err(lost("relay", "does not answer in time")),
        }
    }

    /// Connects to the daemon that runs on this state folder.
    pub(super) async fn near(home: &Home) -> Result<Self, Fault> {
        let failed = |why: &dyn std::error::Error| {
            let text = format!("cannot reach this machine's daemon: {}", chain(why));
            Fault::new(Code::Unavailable, text)
        };
        let opening = async {
            let line = Line::connect(&home.socket()).await.map_err(|e| failed(&e))?;
            let url = "ws://daemon/api/v1/ws/client";
            let opened = client_async_with_config(url, line, Some(limits())).await;
            opened.map_err(|e| failed(&e))
        };
        match tokio::time::timeout(OPEN, opening).await {
            Ok(opened) => Ok(Self::over(Either::Right(opened?.0), "daemon")),
            Err(_) => Err(lost("daemon", "does not answer in time")),
        }
    }

    fn over(stream: Stream, who: &'static str) -> Self {
        Self { stream, who, heard: Instant::now() }
    }

    /// Says something.
    pub(super) async fn send(&mut self, message: &ClientMessage) -> Result<(), Fault> {
        let text = serde_json::to_string(message)
            .map_err(|error| Fault::new(Code::Internal, chain(&error)))?;
        match tokio::time::timeout(SEND, self.stream.send(Message::text(text))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken(&error)),
            Err(_) => Err(lost(self.who, "takes no message")),
        }
    }

    /// Hears the next thing. What a newer one says and this version does not know is passed
    /// over. An error means that the connection is gone, or silent for [`SILENCE`], however often this
    /// was dropped while it waited.
    pub(super) async fn hear(&mut self) -> Result<Heard, Fault> {
        loop {
            let silent = self.heard + SILENCE;
            let message = match tokio::time::timeout_at(silent, self.stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(self.broken(&error)),
                Ok(None) => return Err(lost(self.who, "closed the connection")),
                Err(_) => return Err(lost(self.who, "went silent")),
            };
            self.heard = Instant::now();
            match message {
                Message::Text(text) => {
                    if let Some(heard) = read(&text) {
                        return Ok(heard);
                    }
                }
                Message::Binary(frame) => return Ok(Heard::Frame(frame)),
                Message::Close(_) => return Err(lost(self.who, "closed the connection")),
                _ => {}
            }
        }
    }

    fn broken(&self, error: &tungstenite::Error) -> Fault {
        let text = format!("the connection to the {} broke: {}", self.who, chain(error));
        Fault::new(Code::Unavailable, text)
    }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(2 * MAX_TEXT))
        .max_frame_size(Some(2 * MAX_TEXT))
        .read_buffer_size(READ_AT_ONCE)
}

fn read(text: &str) -> Option<Heard> {
    if let Ok(event) = serde_json::from_str(text) {
        return Some(Heard::Event(Box::new(event)));
    }
    serde_json::from_str(text).ok().map(Heard::Notice)
}

fn lost(who: &str, how: &str) -> Fault {
    Fault::new(Code::Unavailable, format!("the {who} {how}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;
    use tokio::time::{pause, timeout};
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn f33_silence_is_counted_from_what_came_last_also_for_who_does_other_things_meanwhile() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let line = Line::over(ours).unwrap();
        let stream = WebSocketStream::from_raw_socket(line, Role::Client, None).await;
        let mut socket = Socket::over(Either::Right(stream), "daemon");
        let mut daemon = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let began = Instant::now();
        daemon.send(Message::Ping(Bytes::new())).await.unwrap();
        timeout(Duration::from_millis(50), socket.hear()).await.unwrap_err();
        pause();
        let silent = loop {
            // as a key would, or the keeper
            if let Ok(heard) = timeout(Duration::from_secs(1), socket.hear()).await {
                break heard.unwrap_err();
            }
            let waited = began.elapsed();
            assert!(waited < SILENCE + Duration::from_secs(5), "it is waited for without end");
        };
        assert!(silent.message.contains("went silent"), "{silent}");
        assert!(began.elapsed() > SILENCE - Duration::from_secs(2));
    }
}
