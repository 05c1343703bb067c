//! Watches as they begin.

use super::{ClientId, Registry, Waiter, Watch, command, offline};
use crate::socket::pipe::Outlet;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RequestId, WatchId};
use hayward_shared::protocol::ToDaemon;
use tokio::time::Instant;

/// Watches that one client may have at once.
const MAX_WATCHES: usize = 32;

/// What a client wants to see of a task's output.
pub(crate) struct NewWatch {
    pub(crate) client: ClientId,
    pub(crate) outlet: Outlet,
    pub(crate) daemon: DaemonId,
    pub(crate) watch: WatchId,
    /// `watchOutput` or `attachTerminal`.
    pub(crate) body: ToDaemon,
}

impl Registry {
    /// Asks a daemon for output. The answer and all that follows go to the client by themselves.
    pub(crate) fn watch(&self, new: NewWatch, answer_by: Instant) -> Result<(), Fault> {
        let mut inner = self.lock();
        if inner.watches.contains_key(&new.watch) {
            return Err(Fault::new(Code::Conflict, "that watch id is in use"));
        }
        if inner.watches_of(new.client).len() >= MAX_WATCHES {
            let most = format!("a client may have {MAX_WATCHES} watches at once");
            return Err(Fault::new(Code::RateLimited, most));
        }
        let request = RequestId::fresh();
        let link = inner.links.get_mut(&new.daemon).ok_or_else(offline)?;
        let (can, types) = match &new.body {
            ToDaemon::AttachTerminal { read_only, .. } => (link.terminals, !read_only),
            _ => (true, false),
        };
        if !can || !link.replies {
            return Err(Fault::new(Code::Unavailable, "the task's daemon cannot show its output"));
        }
        link.outlet
            .try_text(command(new.body, Some(request))?)
            .map_err(|_| Fault::new(Code::Unavailable, "the daemon's link is congested"))?;
        link.open.insert(request, Waiter::Watch(new.watch));
        let (daemon, client, outlet) = (new.daemon, new.client, new.outlet);
        let watch = Watch { daemon, client, outlet, types, answer_by: Some(answer_by) };
        inner.watches.insert(new.watch, watch);
        Ok(())
    }
}
