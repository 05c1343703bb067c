//! Searches that stream, and requests that nobody waits for any more.

use super::{Inner, Registry, Waiter, command, offline};
use crate::core::Core;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RequestId};
use hayward_shared::protocol::{FromDaemon, ToDaemon};
use hayward_shared::search::{PAGES_AHEAD, SearchPage, SearchQuery};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What one daemon finds, as it finds it. Dropping it before the end calls the search off.
pub(crate) struct Search {
    core: Arc<Core>,
    daemon: DaemonId,
    request: RequestId,
    said: mpsc::Receiver<FromDaemon>,
}

impl Search {
    /// Asks a daemon; none when it cannot send what it finds before it has found all.
    pub(crate) fn begin(
        core: &Arc<Core>,
        daemon: DaemonId,
        query: SearchQuery,
    ) -> Result<Option<Self>, Fault> {
        let request = RequestId::fresh();
        // the reply follows the pages
        let (tell, said) = mpsc::channel(PAGES_AHEAD + 1);
        let mut inner = core.registry.lock();
        let link = inner.links.get_mut(&daemon).ok_or_else(offline)?;
        if !link.streams {
            return Ok(None);
        }
        let body = ToDaemon::Search(Box::new(SearchQuery { stream: true, ..query }));
        link.outlet
            .try_text(command(body, Some(request))?)
            .map_err(|_| Fault::new(Code::Unavailable, "the daemon's link is congested"))?;
        link.open.insert(request, Waiter::Search(tell));
        drop(inner);
        Ok(Some(Self { core: core.clone(), daemon, request, said }))
    }

    /// What it says next: a page, or the `reply` that ends it.
    pub(crate) async fn next(&mut self, within: Duration) -> Result<FromDaemon, Fault> {
        let said = timeout(within, self.said.recv()).await;
        said.map_err(|_| super::late())?.ok_or_else(offline)
    }

    /// Lets it send one page more. Nothing is said where the link has no room: then it has two
    /// pages ahead no more, and comes to a stop at the latest when its time is over.
    pub(crate) fn more(&self) {
        self.core.registry.lock().say(self.daemon, ToDaemon::SearchMore { asked: self.request });
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.core.registry.give_up(self.daemon, self.request, true);
    }
}

impl Registry {
    /// Takes a page of what a daemon finds to whoever asked. One that sends more than it was
    /// allowed to is not listened to any further.
    pub(crate) fn found(&self, daemon: DaemonId, request: RequestId, page: SearchPage) {
        let mut inner = self.lock();
        let Some(link) = inner.links.get_mut(&daemon) else { return };
        if let Some(Waiter::Search(tell)) = link.open.get(&request)
            && tell.try_send(FromDaemon::SearchFound(page)).is_err()
        {
            link.open.remove(&request);
            inner.say(daemon, ToDaemon::CallOff { asked: request });
        }
    }

    /// Forgets a request; the daemon that still works at it is told so where that ends it.
    pub(super) fn give_up(&self, daemon: DaemonId, request: RequestId, call_off: bool) {
        let mut inner = self.lock();
        let Some(link) = inner.links.get_mut(&daemon) else { return };
        link.untagged.retain(|one| one.request != request);
        if link.open.remove(&request).is_some() && link.streams && call_off {
            inner.say(daemon, ToDaemon::CallOff { asked: request });
        }
    }
}

impl Inner {
    /// Says what needs no answer, if the link has room for it.
    fn say(&self, daemon: DaemonId, body: ToDaemon) {
        let Some(link) = self.links.get(&daemon) else { return };
        if let Ok(text) = command(body, None) {
            // where there is no room, the time of what was asked ends it
            drop(link.outlet.try_text(text));
        }
    }
}
