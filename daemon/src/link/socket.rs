//! One WebSocket to the relay: a task that reads, a task that writes, and bounded queues between
//! them and the link.

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hayward_edge::net;
use hayward_shared::id::RequestId;
use hayward_shared::protocol::{
    DecodeError, FromDaemon, MAX_TEXT, READ_AT_ONCE, Reply, Tagged, Tags, ToDaemon, asked_by,
    decode,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

/// State messages that wait for the socket. A full queue holds the sender up: none is dropped.
const STATE_QUEUE: usize = 64;

/// Output frames that wait: 16 of at most 64 KiB, so that a megabyte is under way at the most.
const OUTPUT_QUEUE: usize = 16;

/// A write that takes longer means a dead peer.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// A connection that is not open after this long will not be.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What a socket tells the link.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Something came: the peer lives.
    Heard,
    /// A message.
    Message(Tagged<ToDaemon>),
    /// A text frame that is no message: what the peer is told, under its request where it has one.
    Malformed(Tagged<FromDaemon>),
    /// The socket is gone.
    Closed,
}

/// An open socket. Dropping it closes the connection and ends its tasks.
#[derive(Debug)]
pub(super) struct Socket {
    /// State messages, as text.
    pub(super) state: mpsc::Sender<String>,
    /// Output frames.
    pub(super) output: mpsc::Sender<Bytes>,
    /// What comes in.
    pub(super) incoming: mpsc::Receiver<Incoming>,
    _tasks: JoinSet<()>,
}

type Stream = WebSocketStream<MaybeTlsStream<net::Stream>>;

impl Socket {
    /// Connects to the relay's daemon endpoint.
    pub(super) async fn open(relay: &str) -> Result<Self, tungstenite::Error> {
        let url =
            format!("{}/api/v1/ws/daemon", relay.trim_end_matches('/').replacen("http", "ws", 1));
        let config = WebSocketConfig::default()
            .max_message_size(Some(2 * MAX_TEXT))
            .max_frame_size(Some(2 * MAX_TEXT))
            .read_buffer_size(READ_AT_ONCE)
            .write_buffer_size(0);
        let stream = tokio::time::timeout(CONNECT_LIMIT, connect(url, config))
            .await
            .map_err(|_| tungstenite::Error::Io(std::io::ErrorKind::TimedOut.into()))??;
        let (writer, reader) = stream.split();
        let (state, states) = mpsc::channel(STATE_QUEUE);
        let (output, outputs) = mpsc::channel(OUTPUT_QUEUE);
        let (heard, incoming) = mpsc::channel(STATE_QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(read(reader, heard));
        tasks.spawn(write(writer, states, outputs));
        Ok(Self { state, output, incoming, _tasks: tasks })
    }
}

async fn connect(url: String, config: WebSocketConfig) -> Result<Stream, tungstenite::Error> {
    let request = url.into_client_request()?;
    let uri = request.uri();
    let host = uri.host().ok_or(tungstenite::error::UrlError::NoHostName)?;
    // an IPv6 address stands in brackets in a URL alone
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("wss") { 443 } else { 80 });
    let dialled = net::dial(host, port).await?;
    Ok(client_async_tls_with_config(request, dialled, Some(config), None).await?.0)
}

fn complaint(error: &DecodeError, request: Option<RequestId>) -> Tagged<FromDaemon> {
    let fault = error.fault();
    tracing::warn!(%fault, "the relay sent what this daemon cannot read");
    let body = if request.is_some() {
        FromDaemon::Reply(Reply::refused(error.refusal()))
    } else {
        FromDaemon::Error { code: fault.code.name().to_owned(), message: fault.message }
    };
    Tagged { body, tags: Tags { request_id: request, ..Tags::default() } }
}

async fn read(mut reader: SplitStream<Stream>, heard: mpsc::Sender<Incoming>) {
    while let Some(Ok(message)) = reader.next().await {
        let incoming = match message {
            Message::Text(text) => match decode::<ToDaemon>(&text, MAX_TEXT) {
                Ok(message) => Incoming::Message(message),
                Err(error) => Incoming::Malformed(complaint(&error, asked_by(&text))),
            },
            Message::Close(_) => break,
            _ => Incoming::Heard,
        };
        if heard.send(incoming).await.is_err() {
            return;
        }
    }
    drop(heard.send(Incoming::Closed).await);
}

/// State goes before output, always: output may wait, state may not.
async fn write(
    mut writer: SplitSink<Stream, Message>,
    mut states: mpsc::Receiver<String>,
    mut outputs: mpsc::Receiver<Bytes>,
) {
    loop {
        let message = tokio::select! {
            biased;
            state = states.recv() => match state {
                Some(text) => Message::text(text),
                None => break,
            },
            Some(frame) = outputs.recv() => Message::binary(frame),
        };
        match tokio::time::timeout(WRITE_LIMIT, writer.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    drop(tokio::time::timeout(Duration::from_secs(1), writer.close()).await);
}
