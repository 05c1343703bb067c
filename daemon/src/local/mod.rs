//! The daemon's own HTTP interface, on a Unix socket in the state folder: for the user whom the
//! folder belongs to, and nobody else, whether the relay is there or not.

mod faults;
mod link;
mod search;
mod socket;
mod tasks;
mod viewers;

use crate::kept::Kept;
use crate::link::Standing;
use crate::search::Finder;
use crate::task::{Board, Shop};
use axum::Router;
use axum::extract::FromRef;
use axum::routing::get;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// What is served of the daemon.
#[derive(Clone, Debug)]
struct Rooms {
    shop: Arc<Shop>,
    board: Board,
    finder: Finder,
    /// How the link to the relay stands.
    standing: watch::Receiver<Standing>,
    /// Free places for viewers.
    viewers: Arc<Semaphore>,
    /// Its sender is dropped when this interface ends; viewers end with it.
    serving: watch::Receiver<()>,
}

impl FromRef<Rooms> for Finder {
    fn from_ref(rooms: &Rooms) -> Self {
        rooms.finder.clone()
    }
}

impl FromRef<Rooms> for Arc<Shop> {
    fn from_ref(rooms: &Rooms) -> Self {
        rooms.shop.clone()
    }
}

impl FromRef<Rooms> for watch::Receiver<Standing> {
    fn from_ref(rooms: &Rooms) -> Self {
        rooms.standing.clone()
    }
}

/// Serves the daemon of `shop`, whose state folder the caller holds, while the answer is held.
/// None, and told in the log, when the socket cannot be made: the daemon does all else without.
#[must_use]
pub fn serve(
    shop: Arc<Shop>,
    board: Board,
    finder: Finder,
    standing: watch::Receiver<Standing>,
) -> Option<Kept> {
    let listener = match socket::listen(&shop.home.socket()) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the daemon's own interface cannot be served");
            return None;
        }
    };
    let (served, serving) = watch::channel(());
    let viewers = Arc::new(Semaphore::new(viewers::MOST));
    let routes = Router::new()
        .route("/api/v1/search", get(search::all))
        .route("/api/v1/tasks", get(tasks::list))
        .route("/api/v1/tasks/{id}", get(tasks::show))
        .route("/api/v1/link", get(link::show))
        .route("/api/v1/ws/client", get(viewers::open))
        .route("/api/term/sessions/{task}/panes/{run}/search", get(search::pane))
        .fallback(faults::unknown_route)
        .with_state(Rooms { shop, board, finder, standing, viewers, serving });
    Some(Kept::of(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the daemon's own interface is not served any more");
        }
        drop(served);
    })))
}
