//! A connection on a Unix socket whose owner is woken for what comes, and not each time the other
//! end has taken something: a key and its echo would wake each process twice.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as Plain;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// An open connection; dropping it closes it.
#[derive(Debug)]
pub struct Line {
    /// Waited on for reading alone.
    coming: pipe::Receiver,
    going: Plain,
    /// Waited on for writing: there while the other end has no room.
    full: Option<pipe::Sender>,
}

impl Line {
    /// Connects to the socket at `path`, however deep that is.
    ///
    /// # Errors
    /// Nobody listens there, or the system refuses.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let (short, _folder) = short(path)?;
        Self::over(UnixStream::connect(short).await?)
    }

    /// Takes over an open connection.
    ///
    /// # Errors
    /// The system refuses another descriptor.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        let going = stream.into_std()?;
        let coming = pipe::Receiver::from_owned_fd_unchecked(going.try_clone()?.into())?;
        Ok(Self { coming, going, full: None })
    }
}

/// A name for the socket that the system takes however deep its folder is (it has room for 107 bytes),
/// good while the folder is held open.
///
/// # Errors
/// The folder cannot be opened.
pub fn short(socket: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Ok((socket.to_owned(), None));
    };
    if cfg!(not(target_os = "linux")) {
        return Ok((socket.to_owned(), None));
    }
    let folder = File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((short, Some(folder)))
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().coming).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { going, full, .. } = self.get_mut();
        if full.is_none() {
            match going.write(bytes) {
                Err(fault) if fault.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        let waits = match full {
            Some(waits) => waits,
            None => {
                let same = going.try_clone()?;
                full.insert(pipe::Sender::from_owned_fd_unchecked(same.into())?)
            }
        };
        let done = ready!(Pin::new(waits).poll_write(context, bytes));
        *full = None;
        Poll::Ready(done)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.going.shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    fn pair() -> (Line, Line) {
        let (one, other) = UnixStream::pair().unwrap();
        (Line::over(one).unwrap(), Line::over(other).unwrap())
    }

    #[tokio::test]
    async fn f07_what_is_more_than_fits_waits_for_the_reader_and_comes_whole() {
        let (mut one, mut other) = pair();
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
        let writing = async {
            for part in sent.chunks(700_000) {
                one.write_all(part).await.unwrap();
            }
            one.shutdown().await.unwrap();
            assert!(one.full.is_none());
        };
        let mut got = Vec::new();
        let both = async { tokio::join!(writing, other.read_to_end(&mut got)).1.unwrap() };
        timeout(Duration::from_secs(20), both).await.unwrap();
        assert!(got == sent);
    }

    #[tokio::test]
    async fn a_socket_is_reached_however_deep_its_folder_is() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x".repeat(100)).join("y".repeat(100));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("socket");
        Line::connect(&socket).await.unwrap_err();
        let (name, _held) = short(&socket).unwrap();
        let listener = tokio::net::UnixListener::bind(name).unwrap();
        Line::connect(&socket).await.unwrap();
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn whoever_waits_for_room_or_for_words_learns_that_the_other_end_is_gone() {
        let (mut one, other) = pair();
        let part = vec![0; 1 << 20];
        timeout(Duration::from_millis(50), one.write_all(&part)).await.unwrap_err();
        assert!(one.full.is_some());
        let gone = async {
            drop(other);
            one.write_all(&part).await.unwrap_err();
            one.read(&mut [0; 8]).await
        };
        let read = timeout(Duration::from_secs(20), gone).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}
