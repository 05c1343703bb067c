//! The bare forwarder: what comes in by the first link goes out by the second, flushed once for all
//! frames that are at hand. The library is left as it comes.

use futures_util::{FutureExt, SinkExt, StreamExt};
use std::io::Write;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;

/// Serves two links; prints its port.
#[tokio::main]
pub async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
    let (mut from, mut to) = (link(&listener).await, link(&listener).await);
    while let Some(Ok(frame)) = from.next().await {
        to.feed(frame).await.unwrap();
        while let Some(Some(Ok(frame))) = from.next().now_or_never() {
            to.feed(frame).await.unwrap();
        }
        to.flush().await.unwrap();
    }
}

async fn link(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    tokio_tungstenite::accept_async(stream).await.unwrap()
}
