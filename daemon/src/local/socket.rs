//! The Unix socket: where it is, and who may come in.

use crate::line::{Line, short};
use nix::unistd::geteuid;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

/// A system that has no descriptor left is asked again after this long.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Takes connections of the daemon's own user, and drops all others unread.
pub(super) struct OwnListener(UnixListener);

/// Listens in the folder of `socket`; one that a daemon left there is of nobody.
pub(super) fn listen(socket: &Path) -> io::Result<OwnListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (short, _folder) = short(socket)?;
    let listener = UnixListener::bind(short)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(OwnListener(listener))
}

impl axum::serve::Listener for OwnListener {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) if !is_own(&stream) => {
                    tracing::warn!("another user tried the daemon's own interface");
                }
                Ok((stream, from)) => match Line::over(stream) {
                    Ok(line) => return (line, from),
                    Err(error) => tracing::warn!(%error, "a caller could not be taken"),
                },
                Err(error) => {
                    tracing::warn!(%error, "the daemon's own interface takes nobody now");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Whether the process at the other end runs as this daemon's user, whatever the file's mode says.
fn is_own(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}
