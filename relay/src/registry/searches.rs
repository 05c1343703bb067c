//! Searches that stream, and requests that nobody waits for any more.

use super::way::Way;
use super::{Inner, Registry, Waiter, command, late, offline};
use crate::core::Core;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RequestId};
use hayward_shared::protocol::{FromDaemon, ToDaemon};
use hayward_shared::search::{PAGES_AHEAD, SearchPage, SearchQuery};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// What a daemon says of a search, and when that came.
pub(super) type Said = (Instant, FromDaemon);

/// It comes now.
pub(super) fn said(what: FromDaemon) -> Said {
    (Instant::now(), what)
}

/// What one daemon finds, as it finds it. Dropping it before the end calls the search off.
pub(crate) struct Search {
    core: Arc<Core>,
    daemon: DaemonId,
    request: RequestId,
    way: Way,
    said: mpsc::Receiver<Said>,
    /// How long the daemon may be waited for, all in all: one that always says a little just in time
    /// would keep its asker for ever.
    patience: Duration,
}

impl Search {
    /// Asks a daemon; none when it cannot send what it finds before it has found all. It may take the
    /// time of the question, and that of an answer.
    pub(crate) async fn begin(
        core: &Arc<Core>,
        daemon: DaemonId,
        query: SearchQuery,
    ) -> Result<Option<Self>, Fault> {
        let request = RequestId::fresh();
        // the reply follows the pages
        let (tell, said) = mpsc::channel(PAGES_AHEAD + 1);
        let patience = Duration::from_millis(query.budget_ms.into()) + core.timing.reply;
        let body = ToDaemon::Search(Box::new(SearchQuery { stream: true, ..query }));
        let text = command(body, Some(request))?;
        core.registry.reach(daemon).await?;
        let way = {
            let mut inner = core.registry.lock();
            let link = inner.link_mut(daemon).ok_or_else(offline)?;
            if !link.streams {
                return Ok(None);
            }
            link.open.insert(request, Waiter::Search(tell));
            link.way.clone()
        };
        let mut search = Self { core: core.clone(), daemon, request, way, said, patience };
        search.send(text).await?;
        Ok(Some(search))
    }

    /// What it says next: a page, or the `reply` that ends it.
    pub(crate) async fn next(&mut self) -> Result<FromDaemon, Fault> {
        let began = Instant::now();
        let silence = self.patience.min(self.core.timing.reply);
        let said = timeout(silence, self.said.recv()).await.map_err(|_| self.late())?;
        let (came, what) = said.ok_or_else(offline)?;
        // not for how long nobody took it
        self.patience = self.patience.saturating_sub(came.saturating_duration_since(began));
        Ok(what)
    }

    /// Lets it send one page more.
    pub(crate) async fn more(&mut self) -> Result<(), Fault> {
        self.send(command(ToDaemon::SearchMore { asked: self.request }, None)?).await
    }

    /// Says something as soon as the link has room for it: also while nobody takes what is found,
    /// or a place in the link would be held for as long as they do not.
    async fn send(&mut self, text: String) -> Result<(), Fault> {
        let (way, patience) = (self.way.clone(), self.patience);
        let mut sending = JoinSet::new();
        sending.spawn(async move {
            let began = Instant::now();
            let sent = timeout(patience, way.text(text)).await;
            (sent, began.elapsed())
        });
        let Some(Ok((sent, took))) = sending.join_next().await else { return Err(offline()) };
        self.patience = patience.saturating_sub(took);
        sent.map_err(|_| late())?.map_err(|_| offline())
    }

    /// It let its asker wait too long, once or all in all.
    fn late(&self) -> Fault {
        if self.patience >= self.core.timing.reply {
            return late();
        }
        Fault::new(Code::Unavailable, "it did not come to an end in time")
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.core.registry.give_up(self.daemon, self.request, true);
    }
}

impl Registry {
    /// Takes a page of what a daemon finds to whoever asked. One that sends more than it was
    /// allowed to, or than the bus takes, is not listened to any further: a page would be missing.
    pub(crate) fn found(&self, daemon: DaemonId, request: RequestId, page: SearchPage) {
        let mut inner = self.lock();
        let Some(link) = inner.link_mut(daemon) else { return };
        let page = FromDaemon::SearchFound(page);
        let taken = match link.open.get(&request) {
            Some(Waiter::Search(tell)) => tell.try_send(said(page)).is_ok(),
            // whoever asked there takes the silence for what it is
            Some(&Waiter::Guest { relay, .. }) => {
                inner.answer_guest(relay, daemon, (request, page))
            }
            _ => return,
        };
        if !taken {
            if let Some(link) = inner.link_mut(daemon) {
                link.open.remove(&request);
            }
            inner.say(daemon, ToDaemon::CallOff { asked: request });
        }
    }

    /// Forgets a request; the daemon that still works at it is told so where that ends it.
    pub(super) fn give_up(&self, daemon: DaemonId, request: RequestId, call_off: bool) {
        let mut inner = self.lock();
        let Some(link) = inner.link_mut(daemon) else { return };
        link.untagged.retain(|one| one.request != request);
        if link.open.remove(&request).is_some() && link.hears_call_off(call_off) {
            inner.say(daemon, ToDaemon::CallOff { asked: request });
        }
    }
}

impl Inner {
    /// Says what needs no answer, if the link has room for it.
    pub(super) fn say(&self, daemon: DaemonId, body: ToDaemon) {
        let Some(link) = self.link(daemon) else { return };
        if let Ok(text) = command(body, None) {
            // where there is no room, the time of what was asked ends it
            drop(link.way.try_text(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NewLink;
    use super::*;
    use crate::bus::{self, Bus, Message as Carried, Word};
    use crate::config::Timing;
    use crate::core::tests::core;
    use crate::socket::pipe::Outlet;
    use axum::extract::ws::Message;
    use hayward_shared::id::{RelayId, WorkspaceId};
    use hayward_shared::search::SearchWords;
    use hayward_shared::time::Timestamp;

    fn hasty() -> Timing {
        Timing { reply: Duration::from_millis(300), ..Timing::default() }
    }

    fn join(core: &Core) -> (DaemonId, mpsc::Receiver<Message>) {
        let daemon = DaemonId::fresh();
        let (outlet, queue) = Outlet::narrow(1);
        let (replies, terminals, streams) = (true, true, true);
        let workspace = WorkspaceId::fresh();
        let new = NewLink { daemon, workspace, replies, terminals, streams, outlet };
        let joined = core.registry.join(new, Timestamp::from_millis(0));
        core.registry.greeted(daemon, joined.link);
        (daemon, queue)
    }

    fn open(core: &Core, daemon: DaemonId) -> usize {
        core.registry.lock().links[&daemon].open.len()
    }

    fn kind(message: &Message) -> String {
        let text: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        text["type"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn f41_a_link_that_is_full_for_a_moment_is_waited_for_and_one_that_stays_so_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let core = core(folder.path(), hasty(), Bus::default()).await;
        let (daemon, mut queue) = join(&core);
        let words = [("pattern", "x"), ("budgetMs", "1")].into_iter();
        let query = SearchWords::read(words).unwrap().query;
        let fill = || {
            core.registry.lock().say(daemon, ToDaemon::CallOff { asked: RequestId::fresh() });
        };
        fill();
        let asked = tokio::spawn({
            let (core, query) = (core.clone(), query.clone());
            async move { Search::begin(&core, daemon, query).await }
        });
        while open(&core, daemon) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(kind(&queue.recv().await.unwrap()), "callOff");
        let mut search = asked.await.unwrap().unwrap().unwrap();
        // and so is the word that one more page may come
        let (more, said) = tokio::join!(search.more(), async {
            [kind(&queue.recv().await.unwrap()), kind(&queue.recv().await.unwrap())]
        });
        assert_eq!((more.is_ok(), said), (true, ["search".to_owned(), "searchMore".to_owned()]));
        drop(search);
        assert_eq!(kind(&queue.recv().await.unwrap()), "callOff");

        fill();
        let refused = Search::begin(&core, daemon, query).await.map(|_| ()).unwrap_err();
        assert_eq!((refused.code, open(&core, daemon)), (Code::Unavailable, 0));
    }
    #[tokio::test]
    async fn a_page_that_the_bus_does_not_take_ends_the_search_that_would_miss_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = core(folder.path(), hasty(), Bus::default()).await.store.clone();
        let (bus, _closed) =
            bus::prepare(&"nats://127.0.0.1:1".parse().unwrap(), RelayId::fresh(), store);
        let other = tempfile::tempdir().unwrap();
        let core = core(other.path(), hasty(), bus.clone()).await;
        let (daemon, mut queue) = join(&core);
        let (relay, request) = (RelayId::fresh(), RequestId::fresh());
        let guest = Waiter::Guest { relay, watch: None };
        core.registry.lock().links.get_mut(&daemon).unwrap().open.insert(request, guest);
        core.registry.found(daemon, request, SearchPage::default());
        assert!(open(&core, daemon) == 1 && queue.is_empty(), "it goes on");
        while bus.tell(relay, Carried::Word(Word::Void {})).is_ok() {}
        core.registry.found(daemon, request, SearchPage::default());
        assert_eq!(open(&core, daemon), 0);
        assert_eq!(kind(&queue.recv().await.unwrap()), "callOff");
    }
}
