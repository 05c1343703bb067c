//! What goes over the bus: links of other relays that are used here, and requests and watches of
//! other relays at links of this one, which are guests.

use super::{Inner, Link, LinkId, Registry, Untagged, Waiter, Way, command, offline, searches};
use crate::bus::{Linked, Message, Word};
use crate::store::links::Manners;
use bytes::Bytes;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RelayId, RequestId, WatchId, WorkspaceId};
use hayward_shared::protocol::output::{Body, Frame};
use hayward_shared::protocol::{
    FromDaemon, MAX_TEXT, Reply, Tagged, Tags, ToDaemon, asked_by, decode, encode,
};
use std::collections::HashSet;

/// Requests of other relays that one link may have open: far more than a daemon works at.
const MOST_REQUESTS: usize = 1024;

/// Watches of other relays at all links of this one.
const MOST_WATCHES: usize = 8192;

/// Links of other relays that are kept while nobody uses them: each is a look in the store.
const MOST_AFAR: usize = 4096;

/// A link of this relay, as other relays know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) daemon: DaemonId,
    pub(crate) link: Linked,
}

/// Whose watch it is that goes out over the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guest {
    relay: RelayId,
    daemon: DaemonId,
}

/// A command that came over the bus is not handed on.
enum Declined {
    /// Whoever asked is told.
    Fault(Fault),
    /// It is nothing that relays may send.
    Odd(&'static str),
}

impl From<Fault> for Declined {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

fn congested() -> Fault {
    Fault::new(Code::Unavailable, "the daemon's link is congested")
}

fn held(daemon: DaemonId, link: &Link) -> Held {
    let Link { replies, terminals, streams, workspace, id, .. } = *link;
    let manners = Manners { replies, terminals, streams };
    Held { daemon, link: Linked { link: id.0, workspace, manners } }
}

impl Registry {
    /// Finds the way to a daemon that is not linked here, if there is one.
    ///
    /// # Errors
    /// `unavailable` when it is linked to another relay that cannot be reached now.
    pub(crate) async fn reach(&self, daemon: DaemonId) -> Result<(), Fault> {
        if self.lock().links.contains_key(&daemon) {
            return Ok(());
        }
        let place = self.bus.place(daemon).await?;
        let mut inner = self.lock();
        let known = inner.afar.get(&daemon).map(|(id, link)| (*id, link.id));
        if known == place.map(|at| (at.relay, LinkId(at.link))) {
            return Ok(());
        }
        inner.drop_afar(daemon, &offline());
        if let Some(at) = place {
            let Manners { replies, terminals, streams } = at.manners;
            let link = Link {
                id: LinkId(at.link),
                entered: true,
                greeted: true,
                workspace: at.workspace,
                replies,
                terminals,
                streams,
                way: Way::Afar(self.bus.way(daemon, at)),
                work: Default::default(),
                open: Default::default(),
                untagged: Default::default(),
            };
            if inner.afar.len() >= MOST_AFAR {
                let watched: HashSet<_> = inner.watches.values().map(|one| one.daemon).collect();
                inner.afar.retain(|id, (_, link)| !link.open.is_empty() || watched.contains(id));
            }
            inner.afar.insert(daemon, (at.relay, link));
        }
        Ok(())
    }

    /// Notes that a link is in the store: from now on others may compare it with what is there.
    pub(crate) fn entered(&self, daemon: DaemonId, id: LinkId) {
        if let Some(link) = self.lock().links.get_mut(&daemon).filter(|link| link.id == id) {
            link.entered = true;
        }
    }

    /// Notes that a link was welcomed: from now on the daemon may be asked for anything.
    pub(crate) fn greeted(&self, daemon: DaemonId, id: LinkId) {
        if let Some(link) = self.lock().links.get_mut(&daemon).filter(|link| link.id == id) {
            link.greeted = true;
        }
    }

    /// The links of this relay that were noted in the store.
    pub(crate) fn held(&self) -> Vec<Held> {
        let inner = self.lock();
        let entered = inner.links.iter().filter(|(_, link)| link.entered);
        entered.map(|(daemon, link)| held(*daemon, link)).collect()
    }

    /// A daemon's link, if it is one of this relay and was noted in the store.
    pub(crate) fn held_of(&self, daemon: DaemonId) -> Option<Held> {
        let inner = self.lock();
        inner.links.get(&daemon).filter(|link| link.entered).map(|link| held(daemon, link))
    }

    /// Asks a link of this relay to end.
    pub(crate) fn end(&self, daemon: DaemonId, link: u64) {
        if let Some(found) = self.lock().links.get(&daemon).filter(|found| found.id.0 == link) {
            found.way.end();
        }
    }

    /// Hands on what another relay says to a daemon that is linked here.
    pub(crate) fn hand_on(
        &self,
        from: RelayId,
        (daemon, workspace): (DaemonId, WorkspaceId),
        text: String,
    ) {
        let Tagged { body, tags } = match decode::<ToDaemon>(&text, MAX_TEXT) {
            Ok(message) => message,
            Err(e) => {
                tracing::warn!(%from, %daemon, error = %e, "another relay's command is dropped");
                if let Some(request) = asked_by(&text) {
                    let refused = FromDaemon::Reply(Reply::refused(e.refusal()));
                    self.lock().answer_guest(from, daemon, (request, refused));
                }
                return;
            }
        };
        let watch = watch_of(&body);
        let mut inner = self.lock();
        match inner.hand_on(from, (daemon, workspace), (body, tags.request_id), text) {
            Ok(()) => {}
            Err(Declined::Odd(why)) => {
                tracing::warn!(%from, %daemon, why, "another relay's command is dropped");
            }
            Err(Declined::Fault(fault)) => match (tags.request_id, watch) {
                (Some(request), _) => {
                    let refused = FromDaemon::Reply(Reply::refused(fault));
                    inner.answer_guest(from, daemon, (request, refused));
                }
                (None, Some(watch)) => inner.tell(from, Word::WatchLost { daemon, watch, fault }),
                (None, None) => tracing::info!(%from, %daemon, %fault, "not handed on"),
            },
        }
    }

    /// Takes what a daemon at another relay answered to whoever waits for it here.
    pub(crate) fn answered_afar(&self, from: RelayId, daemon: DaemonId, text: &str) {
        // that relay bounded it, and what it wrote anew may be a little longer
        let message = match decode::<FromDaemon>(text, usize::MAX) {
            Ok(message) => message,
            Err(e) => {
                tracing::warn!(%from, %daemon, error = %e, "another relay's answer is dropped");
                return;
            }
        };
        let Some(request) = message.tags.request_id.filter(|_| self.is_afar(daemon, from)) else {
            return;
        };
        match message.body {
            FromDaemon::SearchFound(page) => self.found(daemon, request, page),
            answer => self.answer(daemon, Some(request), answer),
        }
    }

    /// Takes an output frame of a daemon at another relay to whoever watches here.
    pub(crate) fn frame_afar(&self, from: RelayId, daemon: DaemonId, bytes: Bytes) {
        if self.is_afar(daemon, from) {
            self.frames(daemon, &mut [bytes]);
        }
    }

    /// Another relay cannot go on with a watch.
    pub(crate) fn watch_lost(&self, from: RelayId, daemon: DaemonId, watch: WatchId, fault: Fault) {
        let mut inner = self.lock();
        let known = inner.afar.get(&daemon).is_some_and(|(relay, _)| *relay == from);
        if known && inner.watches.get(&watch).is_some_and(|one| one.daemon == daemon) {
            inner.fail(watch, fault);
        }
    }

    /// Another relay has lost a daemon's link.
    pub(crate) fn left_afar(&self, from: RelayId, daemon: DaemonId) {
        let mut inner = self.lock();
        if inner.afar.get(&daemon).is_some_and(|(relay, _)| *relay == from) {
            inner.drop_afar(daemon, &offline());
        }
    }

    /// Ends all that is under way with another relay, or with all of them.
    pub(crate) fn void(&self, relay: Option<RelayId>, fault: &Fault) {
        let mut inner = self.lock();
        let is = |other: RelayId| relay.is_none_or(|relay| relay == other);
        let links: Vec<_> =
            inner.afar.iter().filter(|(_, (of, _))| is(*of)).map(|(id, _)| *id).collect();
        for daemon in links {
            inner.drop_afar(daemon, fault);
        }
        let guests: Vec<_> = inner
            .guests
            .iter()
            .filter(|(_, one)| is(one.relay))
            .map(|(id, one)| (*id, *one))
            .collect();
        for (watch, guest) in guests {
            inner.guests.remove(&watch);
            inner.tell_unwatch(guest.daemon, watch);
        }
        let mut called_off = Vec::new();
        for (daemon, link) in &mut inner.links {
            let ended = link.open.extract_if(
                |_, waiter| matches!(waiter, Waiter::Guest { relay, .. } if is(*relay)),
            );
            called_off
                .extend(ended.filter(|_| link.streams).map(|(request, _)| (*daemon, request)));
            link.untagged
                .retain(|one| !matches!(&one.waiter, Waiter::Guest { relay, .. } if is(*relay)));
        }
        for (daemon, asked) in called_off {
            inner.say(daemon, ToDaemon::CallOff { asked });
        }
    }

    fn is_afar(&self, daemon: DaemonId, relay: RelayId) -> bool {
        self.lock().afar.get(&daemon).is_some_and(|(of, _)| *of == relay)
    }
}

/// The watch that a command is about.
fn watch_of(body: &ToDaemon) -> Option<WatchId> {
    match body {
        ToDaemon::WatchOutput(view) => Some(view.watch_id),
        ToDaemon::AttachTerminal(view) => Some(view.watch_id),
        ToDaemon::GrantOutput { watch_id, .. }
        | ToDaemon::UnwatchOutput { watch_id }
        | ToDaemon::TypeTerminal { watch_id, .. }
        | ToDaemon::ResizeTerminal { watch_id, .. }
        | ToDaemon::TakeTerminal { watch_id } => Some(*watch_id),
        _ => None,
    }
}

/// Whether a relay may only say it to daemons that are linked to itself.
fn is_of_the_link(body: &ToDaemon) -> bool {
    matches!(
        body,
        ToDaemon::Authenticated(_)
            | ToDaemon::SpawnTask(_)
            | ToDaemon::Error { .. }
            | ToDaemon::Ack { .. }
            | ToDaemon::HeartbeatAck { .. }
            | ToDaemon::WorkAvailable {}
    )
}

impl Inner {
    fn hand_on(
        &mut self,
        from: RelayId,
        (daemon, workspace): (DaemonId, WorkspaceId),
        (body, request): (ToDaemon, Option<RequestId>),
        text: String,
    ) -> Result<(), Declined> {
        if is_of_the_link(&body) {
            return Err(Declined::Odd("it is for the link's own relay to say"));
        }
        let guest = Guest { relay: from, daemon };
        let watch = watch_of(&body);
        let link = self.links.get_mut(&daemon).filter(|link| link.greeted).ok_or_else(offline)?;
        if link.workspace != workspace {
            return Err(Declined::Odd("the daemon is of another workspace"));
        }
        let begins = matches!(body, ToDaemon::WatchOutput(_) | ToDaemon::AttachTerminal(_));
        match watch {
            Some(id) if begins => {
                if self.watches.contains_key(&id) || self.guests.contains_key(&id) {
                    return Err(Fault::new(Code::Conflict, "that watch id is in use").into());
                }
                if self.guests.len() >= MOST_WATCHES {
                    return Err(congested().into());
                }
            }
            Some(_) if matches!(body, ToDaemon::UnwatchOutput { .. }) => {}
            Some(id) if self.guests.get(&id) != Some(&guest) => {
                return Err(Fault::not_found("watch", id).into());
            }
            _ => {}
        }
        if request.is_some_and(|request| link.open.contains_key(&request)) {
            return Err(Declined::Odd("it was asked already"));
        }
        if link.open.len() + link.untagged.len() >= MOST_REQUESTS && request.is_some() {
            return Err(congested().into());
        }
        if let ToDaemon::CallOff { asked } = &body {
            link.open.remove(asked);
            link.untagged.retain(|one| one.request != *asked);
            if !link.streams {
                return Ok(());
            }
        }
        let text = match request {
            Some(_) if !link.replies => command(body.clone(), None)?,
            _ => text,
        };
        link.way.try_text(text).map_err(|_| congested())?;
        let waiter = Waiter::Guest { relay: from, watch: watch.filter(|_| begins) };
        match (request, body.answer()) {
            (Some(request), _) if link.replies => drop(link.open.insert(request, waiter)),
            (Some(request), Some((task, kind))) => {
                link.untagged.push_back(Untagged { request, task, kind, waiter });
            }
            _ => {}
        }
        let ends = matches!(body, ToDaemon::UnwatchOutput { .. });
        match watch {
            Some(id) if begins => drop(self.guests.insert(id, guest)),
            // of a watch that is another's, only the daemon is told, and knows it not
            Some(id) if ends && self.guests.get(&id) == Some(&guest) => {
                self.guests.remove(&id);
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells another relay what a daemon answered to it; whether there was room for it.
    pub(super) fn answer_guest(
        &mut self,
        relay: RelayId,
        daemon: DaemonId,
        (request, body): (RequestId, FromDaemon),
    ) -> bool {
        let tags = Tags { request_id: Some(request), ..Tags::default() };
        let Ok(text) = encode(&Tagged { body, tags }) else { return false };
        let sent = self.bus.tell(relay, Message::Answer(daemon, text)).is_ok();
        if !sent {
            // whoever waits there gives up in time
            tracing::warn!(%relay, %daemon, "the way to the bus is full: an answer was dropped");
        }
        sent
    }

    /// A watch of another relay was answered; one that was refused has ended.
    pub(super) fn guest_answered(&mut self, watch: Option<WatchId>, answer: &FromDaemon) {
        if let (Some(watch), FromDaemon::Reply(Reply { ok: false, .. })) = (watch, answer) {
            self.guests.remove(&watch);
        }
    }

    /// Takes an output frame to the relay whose watch it names; whether it is one.
    pub(super) fn guest_frame(&mut self, daemon: DaemonId, id: WatchId, bytes: &Bytes) -> bool {
        let Some(guest) = self.guests.get(&id).copied().filter(|one| one.daemon == daemon) else {
            return false;
        };
        let end = Frame::decode(bytes).map_or(true, |frame| frame.body == Body::End);
        if self.bus.tell(guest.relay, Message::Frame(daemon, bytes.clone())).is_err() {
            self.guests.remove(&id);
            self.tell_unwatch(daemon, id);
            let fault = Fault::new(Code::RateLimited, "the bus takes output too slowly");
            self.tell(guest.relay, Word::WatchLost { daemon, watch: id, fault });
        } else if end {
            self.guests.remove(&id);
        }
        true
    }

    /// Tells the relays that used a link of this one that it has ended.
    pub(super) fn tell_guests(&mut self, daemon: DaemonId, link: &Link) {
        let waiters = link.open.values().chain(link.untagged.iter().map(|one| &one.waiter));
        let mut relays: HashSet<_> = waiters
            .filter_map(|waiter| match waiter {
                Waiter::Guest { relay, .. } => Some(*relay),
                _ => None,
            })
            .collect();
        let gone = self.guests.extract_if(|_, guest| guest.daemon == daemon);
        relays.extend(gone.map(|(_, guest)| guest.relay));
        for relay in relays {
            self.tell(relay, Word::Left { daemon });
        }
    }

    /// Forgets the way to a daemon at another relay; who waits for it hears why.
    pub(super) fn drop_afar(&mut self, daemon: DaemonId, fault: &Fault) {
        let Some((_, link)) = self.afar.remove(&daemon) else { return };
        for waiter in link.open.into_values().chain(link.untagged.into_iter().map(|u| u.waiter)) {
            let answer = FromDaemon::Reply(Reply::refused(fault.clone()));
            match waiter {
                // whoever waited may have gone
                Waiter::Command(waiter) => drop(waiter.send(answer)),
                Waiter::Search(waiter) => drop(waiter.try_send(searches::said(answer))),
                Waiter::Watch(_) | Waiter::Terminal(..) | Waiter::Guest { .. } => {}
            }
        }
        self.fail_watches_of(daemon, fault);
    }

    fn tell(&self, relay: RelayId, word: Word) {
        if self.bus.tell(relay, Message::Word(word)).is_err() {
            tracing::warn!(%relay, "the way to the bus is full: a word was dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::registry::NewLink;
    use crate::socket::pipe::Outlet;
    use crate::store::links::Place;
    use hayward_shared::id::TaskId;
    use hayward_shared::time::Timestamp;

    #[tokio::test]
    async fn nothing_is_said_to_a_daemon_before_its_welcome() {
        let registry = Registry::default();
        let (daemon, workspace) = (DaemonId::fresh(), WorkspaceId::fresh());
        let (outlet, queue) = Outlet::narrow(2);
        let (replies, terminals, streams) = (true, true, true);
        let new = NewLink { daemon, workspace, replies, terminals, streams, outlet };
        let joined = registry.join(new, Timestamp::from_millis(0));
        let pause = || ToDaemon::PauseTask { task_id: TaskId::fresh() };
        let early = registry.tell(daemon, pause()).await.unwrap_err();
        registry.hand_on(RelayId::fresh(), (daemon, workspace), command(pause(), None).unwrap());
        assert_eq!((early.code, queue.len()), (Code::DaemonOffline, 0));
        registry.greeted(daemon, joined.link);
        registry.tell(daemon, pause()).await.unwrap();
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn what_other_relays_ask_of_a_plain_peer_is_bounded_and_can_be_called_off() {
        let registry = Registry::default();
        let (daemon, workspace) = (DaemonId::fresh(), WorkspaceId::fresh());
        let (outlet, mut queue) = Outlet::narrow(2 * MOST_REQUESTS);
        let (replies, terminals, streams) = (false, false, false);
        let new = NewLink { daemon, workspace, replies, terminals, streams, outlet };
        let joined = registry.join(new, Timestamp::from_millis(0));
        registry.greeted(daemon, joined.link);
        let from = RelayId::fresh();
        let body = ToDaemon::MergeStatus { task_id: TaskId::fresh() };
        let ask = |request| {
            registry.hand_on(
                from,
                (daemon, workspace),
                command(body.clone(), Some(request)).unwrap(),
            );
        };
        let waiting = || registry.lock().links[&daemon].untagged.len();
        let first = RequestId::fresh();
        ask(first);
        for _ in 0..MOST_REQUESTS {
            ask(RequestId::fresh());
        }
        assert_eq!((waiting(), queue.len()), (MOST_REQUESTS, MOST_REQUESTS));
        let text = command(ToDaemon::CallOff { asked: first }, None).unwrap();
        registry.hand_on(from, (daemon, workspace), text);
        assert_eq!((waiting(), queue.len()), (MOST_REQUESTS - 1, MOST_REQUESTS));
        ask(RequestId::fresh());
        assert_eq!(waiting(), MOST_REQUESTS);
        while let Ok(message) = queue.try_recv() {
            assert!(!message.to_text().unwrap().contains("callOff"));
        }
    }

    #[test]
    fn a_request_that_is_given_up_is_called_off_where_somebody_keeps_it() {
        let registry = Registry::default();
        let (daemon, workspace) = (DaemonId::fresh(), WorkspaceId::fresh());
        let hears = |replies, streams, afar, call_off| {
            let (outlet, _queue) = Outlet::narrow(1);
            let new = NewLink { daemon, workspace, replies, terminals: false, streams, outlet };
            let joined = registry.join(new, Timestamp::from_millis(0));
            registry.greeted(daemon, joined.link);
            let mut link = registry.lock().links.remove(&daemon).unwrap();
            if afar {
                let manners = Manners { replies, terminals: false, streams };
                let at = Place { relay: RelayId::fresh(), link: 1, workspace, manners };
                link.way = Way::Afar(Bus::default().way(daemon, at));
            }
            link.hears_call_off(call_off)
        };
        assert!(hears(true, true, false, true) && hears(true, true, true, true));
        assert!(!hears(true, true, false, false) && !hears(false, false, false, false));
        // the relay that has the link keeps the request till it is told
        assert!(hears(true, true, true, false) && hears(false, false, true, false));
    }

    #[test]
    fn a_link_is_held_once_it_is_noted_and_one_that_was_replaced_is_not() {
        let registry = Registry::default();
        let (daemon, workspace) = (DaemonId::fresh(), WorkspaceId::fresh());
        let join = || {
            let (outlet, _queue) = Outlet::narrow(1);
            let (replies, terminals, streams) = (true, true, true);
            let new = NewLink { daemon, workspace, replies, terminals, streams, outlet };
            registry.join(new, Timestamp::from_millis(0)).link
        };
        let former = join();
        assert!(registry.held().is_empty() && registry.held_of(daemon).is_none());
        registry.entered(daemon, former);
        assert_eq!(registry.held_of(daemon).unwrap().link.link, former.number());
        let later = join();
        registry.entered(daemon, former);
        assert!(registry.held().is_empty() && registry.held_of(daemon).is_none());
        registry.entered(daemon, later);
        assert_eq!(registry.held().len(), 1);
    }
}
