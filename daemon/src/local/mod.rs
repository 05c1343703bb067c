//! The daemon's own HTTP interface, on a Unix socket in the state folder: for the user whom the
//! folder belongs to, and nobody else, whether the relay is there or not.

mod faults;
mod search;

use crate::home::Home;
use crate::kept::Kept;
use crate::search::Finder;
use axum::Router;
use axum::routing::get;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Serves the daemon of `home`, which the caller holds, while the answer is held. None, and told in
/// the log, when the socket cannot be made: the daemon does all else without.
#[must_use]
pub fn serve(home: &Home, finder: Finder) -> Option<Kept> {
    let listener = match listen(&home.socket()) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the daemon's own interface cannot be served");
            return None;
        }
    };
    let routes = Router::new()
        .route("/api/v1/search", get(search::all))
        .route("/api/term/sessions/{task}/panes/{run}/search", get(search::pane))
        .fallback(faults::unknown_route)
        .with_state(finder);
    Some(Kept::of(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the daemon's own interface is not served any more");
        }
    })))
}

/// Listens in the folder of `socket`; one that a daemon left there is of nobody.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (short, _folder) = short(socket)?;
    let listener = UnixListener::bind(short)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A name for the socket that the system takes however deep its folder is, good while the folder
/// is held open.
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
