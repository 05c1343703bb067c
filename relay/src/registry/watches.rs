//! Watches: which client sees which daemon's output, and how far it may be sent.

use super::{ClientId, Inner, Registry, Waiter, command, notice, offline};
use crate::socket::pipe::Outlet;
use bytes::Bytes;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RequestId, WatchId};
use hayward_shared::protocol::output::{Body, Frame, watch_of};
use hayward_shared::protocol::{ClientNotice, Reply, ToDaemon};
use tokio::time::Instant;

/// Watches that one client may have at once.
const MAX_WATCHES: usize = 32;

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) daemon: DaemonId,
    pub(super) client: ClientId,
    pub(super) outlet: Outlet,
    /// Whether it is of a terminal, and its client may do more than look.
    pub(super) types: bool,
    /// Until when the daemon must have answered; absent once it has.
    answer_by: Option<Instant>,
}

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
    /// Asks a daemon that can be reached for output. The answer and all that follows go to the client
    /// by themselves.
    pub(crate) fn watch(&self, new: NewWatch, answer_by: Instant) -> Result<(), Fault> {
        let mut inner = self.lock();
        if inner.watches.contains_key(&new.watch) || inner.guests.contains_key(&new.watch) {
            return Err(Fault::new(Code::Conflict, "that watch id is in use"));
        }
        if inner.watches_of(new.client).len() >= MAX_WATCHES {
            let most = format!("a client may have {MAX_WATCHES} watches at once");
            return Err(Fault::new(Code::RateLimited, most));
        }
        let request = RequestId::fresh();
        let link = inner.link_mut(new.daemon).ok_or_else(offline)?;
        let (can, types) = match &new.body {
            ToDaemon::AttachTerminal(view) => (link.terminals, !view.read_only),
            _ => (true, false),
        };
        if !can || !link.replies {
            return Err(Fault::new(Code::Unavailable, "the task's daemon cannot show its output"));
        }
        link.way
            .try_text(command(new.body, Some(request))?)
            .map_err(|_| Fault::new(Code::Unavailable, "the daemon's link is congested"))?;
        link.open.insert(request, Waiter::Watch(new.watch));
        let (daemon, client, outlet) = (new.daemon, new.client, new.outlet);
        let watch = Watch { daemon, client, outlet, types, answer_by: Some(answer_by) };
        inner.watches.insert(new.watch, watch);
        Ok(())
    }

    /// Lets a daemon send more of a watch; of a foreign or absent watch nothing is said.
    pub(crate) fn grant(
        &self,
        client: ClientId,
        watch_id: WatchId,
        up_to: u64,
    ) -> Result<(), Fault> {
        let mut inner = self.lock();
        let absent = || Fault::not_found("watch", watch_id);
        let watch =
            inner.watches.get(&watch_id).filter(|w| w.client == client).ok_or_else(absent)?;
        let daemon = watch.daemon;
        let text = command(ToDaemon::GrantOutput { watch_id, up_to }, None)?;
        let sent = inner.link(daemon).is_some_and(|link| link.way.try_text(text).is_ok());
        if !sent {
            // a grant that is lost would stop the watch for ever
            inner.fail(watch_id, Fault::new(Code::Unavailable, "the daemon's link is congested"));
        }
        Ok(())
    }

    /// Ends a watch of a client.
    pub(crate) fn unwatch(&self, client: ClientId, watch_id: WatchId) -> Result<(), Fault> {
        let mut inner = self.lock();
        if inner.watches.get(&watch_id).is_none_or(|w| w.client != client) {
            return Err(Fault::not_found("watch", watch_id));
        }
        inner.unwatch(watch_id);
        Ok(())
    }

    /// Fails the watches of a client that no daemon answered by `now`.
    pub(crate) fn expire(&self, client: ClientId, now: Instant) {
        let mut inner = self.lock();
        let late: Vec<_> = inner
            .watches
            .iter()
            .filter(|(_, w)| w.client == client && w.answer_by.is_some_and(|by| by <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            let fault = Fault::new(Code::Unavailable, "the daemon did not answer in time");
            inner.fail(id, fault);
        }
    }

    /// Takes a daemon's output frames, in their order, to the clients whose watches they name. What
    /// is left in their places is empty.
    pub(crate) fn frames(&self, daemon: DaemonId, frames: &mut [Bytes]) {
        let mut inner = self.lock();
        for frames in frames.chunk_by_mut(|one, next| watch_of(one) == watch_of(next)) {
            inner.frames(daemon, frames);
        }
    }
}

impl Inner {
    /// Frames of one watch.
    fn frames(&mut self, daemon: DaemonId, frames: &mut [Bytes]) {
        let Some(id) = frames.first().and_then(|first| watch_of(first)) else { return };
        let Some(watch) = self.watches.get(&id).filter(|w| w.daemon == daemon) else {
            for bytes in frames {
                if !self.guest_frame(daemon, id, bytes) {
                    // its end crossed these frames, or was lost: say it (again)
                    return self.tell_unwatch(daemon, id);
                }
            }
            return;
        };
        let (mut end, mut bad) = (false, None);
        let good = frames.iter_mut().map_while(|bytes| match Frame::decode(bytes) {
            Ok(frame) if !end => {
                end = frame.body == Body::End;
                Some(std::mem::take(bytes))
            }
            Ok(_) => None,
            Err(e) => {
                bad = Some(e);
                None
            }
        });
        if watch.outlet.frames(good).is_err() {
            self.fail(id, Fault::new(Code::RateLimited, "the client takes output too slowly"));
        } else if let Some(e) = bad {
            self.fail(id, Fault::new(Code::Failed, format!("the daemon sent {e}")));
        } else if end {
            self.watches.remove(&id);
        }
    }

    pub(super) fn watches_of(&self, client: ClientId) -> Vec<WatchId> {
        self.watches.iter().filter(|(_, w)| w.client == client).map(|(id, _)| *id).collect()
    }

    pub(super) fn watch_answered(&mut self, id: WatchId, reply: Reply) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        watch.answer_by = None;
        match reply.into_result() {
            Ok(payload) => {
                let started = ClientNotice::WatchStarted { watch_id: id, payload };
                watch.outlet.urgent(notice(&started));
            }
            Err(error) => {
                let failed = ClientNotice::WatchFailed { watch_id: id, error };
                watch.outlet.urgent(notice(&failed));
                self.watches.remove(&id);
            }
        }
    }

    /// Ends a watch and tells both sides.
    pub(super) fn fail(&mut self, id: WatchId, error: Fault) {
        let Some(watch) = self.watches.remove(&id) else { return };
        watch.outlet.urgent(notice(&ClientNotice::WatchFailed { watch_id: id, error }));
        self.tell_unwatch(watch.daemon, id);
    }

    /// Ends a watch and tells its daemon.
    pub(super) fn unwatch(&mut self, id: WatchId) {
        if let Some(watch) = self.watches.remove(&id) {
            self.tell_unwatch(watch.daemon, id);
        }
    }

    pub(super) fn tell_unwatch(&self, daemon: DaemonId, watch_id: WatchId) {
        let Some(link) = self.link(daemon) else { return };
        if let Ok(text) = command(ToDaemon::UnwatchOutput { watch_id }, None) {
            // where there is no room, the daemon's next frame makes us say it again
            drop(link.way.try_text(text));
        }
    }

    pub(super) fn fail_watches_of(&mut self, daemon: DaemonId, error: &Fault) {
        let ids: Vec<_> =
            self.watches.iter().filter(|(_, w)| w.daemon == daemon).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(watch) = self.watches.remove(&id) {
                let failed = ClientNotice::WatchFailed { watch_id: id, error: error.clone() };
                watch.outlet.urgent(notice(&failed));
            }
        }
    }
}
