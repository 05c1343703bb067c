//! A connection that is read ahead while much comes over it.
//!
//! A link has little room to read into, so that thousands of idle ones take little. Over a busy one
//! the system would then be asked for every few frames. So once a read fills all the room that it
//! was given, the next ones take as much as is there, until nothing is.

use super::READ_AT_ONCE;
use bytes::BytesMut;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Bytes that are read ahead at the most: past this a call's share of each is nothing. A link has
/// the room only while more comes than it reads at once.
const AHEAD: usize = 8 * READ_AT_ONCE;

/// A connection, and what was read of it ahead.
#[derive(Debug)]
pub(crate) struct Ahead<S> {
    stream: S,
    /// What was not handed on yet; none while nothing is read ahead.
    room: Option<BytesMut>,
}

impl<S> Ahead<S> {
    /// Nothing was read of `stream`.
    pub(crate) fn of(stream: S) -> Self {
        Self { stream, room: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, room } = self.get_mut();
        let Some(ahead) = room else {
            ready!(Pin::new(stream).poll_read(cx, into))?;
            if into.remaining() == 0 && into.capacity() >= READ_AT_ONCE / 2 {
                *room = Some(BytesMut::new());
            }
            return Poll::Ready(Ok(()));
        };
        if ahead.is_empty() {
            ahead.reserve(AHEAD);
            match pin!(stream.read_buf(ahead)).poll(cx) {
                Poll::Ready(read) => drop(read?),
                Poll::Pending => {
                    *room = None;
                    return Poll::Pending;
                }
            }
        }
        let more = ahead.len().min(into.remaining());
        into.put_slice(&ahead.split_to(more));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn all_bytes_come_in_their_order_and_the_room_goes_once_nothing_comes() {
        let (mut peer, stream) = duplex(3 * AHEAD);
        let mut ahead = Ahead::of(stream);
        let sent: Vec<u8> =
            (0..2 * AHEAD + READ_AT_ONCE / 3).map(|nth| (nth % 251) as u8).collect();
        let mut heard = Vec::new();
        for _ in 0..2 {
            peer.write_all(&sent).await.unwrap();
            heard.clear();
            while heard.len() < sent.len() {
                let mut into = [0; READ_AT_ONCE];
                let read = ahead.read(&mut into).await.unwrap();
                heard.extend_from_slice(&into[..read]);
            }
            assert!(heard == sent);
            assert!(ahead.room.is_some(), "nothing was read ahead");
            let mut into = [0; READ_AT_ONCE];
            let mut idle = std::pin::pin!(ahead.read(&mut into));
            assert!(futures_util::FutureExt::now_or_never(&mut idle).is_none());
            assert!(ahead.room.is_none(), "an idle link keeps room");
        }
        drop(peer);
        assert_eq!(ahead.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
