//! Connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// A listener that the system refuses a connection (it has no descriptor left) tries again after
/// this long.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// One end of a connection. Small messages go out at once.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    #[cfg(feature = "simulation")]
    Wire(Box<dyn crate::Wire>),
}

/// Connects to `host`, a name or an address.
///
/// # Errors
/// What the system says.
pub async fn dial(host: &str, port: u16) -> io::Result<Stream> {
    #[cfg(feature = "simulation")]
    if let Some(dialled) = crate::world::present().map(|world| world.dial(host, port)) {
        return Ok(Stream(Inner::Wire(dialled.await?)));
    }
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(Stream(Inner::Tcp(stream)))
}

/// Something that takes connections.
#[derive(Debug)]
pub struct Listener(Ear);

#[derive(Debug)]
enum Ear {
    Tcp(TcpListener),
    #[cfg(feature = "simulation")]
    Door(Box<dyn crate::Door>, SocketAddr),
}

impl Listener {
    /// Listens at an address; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(at: SocketAddr) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(world) = crate::world::present() {
            return Ok(Self(Ear::Door(world.listen(at)?, at)));
        }
        Ok(Self(Ear::Tcp(TcpListener::bind(at).await?)))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Ear::Tcp(listener) => listener.local_addr(),
            #[cfg(feature = "simulation")]
            Ear::Door(_, at) => Ok(*at),
        }
    }

    /// The next connection. One that broke before it was taken is passed over; where the system
    /// has no room, it is asked again every second.
    pub async fn accept(&mut self) -> (Stream, SocketAddr) {
        match &mut self.0 {
            Ear::Tcp(listener) => loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        // without it small messages wait for the peer's delayed ack; a stream that
                        // refuses it is slower, not broken
                        drop(stream.set_nodelay(true));
                        return (Stream(Inner::Tcp(stream)), from);
                    }
                    Err(fault) if is_of_one(&fault) => {}
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                }
            },
            #[cfg(feature = "simulation")]
            Ear::Door(door, _) => {
                let (wire, from) = door.accept().await;
                (Stream(Inner::Wire(wire)), from)
            }
        }
    }
}

/// Whether a fault is of one connection alone.
fn is_of_one(fault: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(fault.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

macro_rules! each {
    ($of:expr, $stream:ident => $do:expr) => {
        match &mut $of.get_mut().0 {
            Inner::Tcp($stream) => $do,
            #[cfg(feature = "simulation")]
            Inner::Wire($stream) => $do,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(feature = "simulation")]
            Inner::Wire(stream) => stream.is_write_vectored(),
        }
    }
}
