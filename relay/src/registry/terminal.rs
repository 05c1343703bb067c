//! What clients want of terminals that they watch: handed to the daemon, its answer handed back.

use super::{ClientId, Inner, Registry, Waiter, command, notice, offline};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, WatchId};
use hayward_shared::protocol::{ClientNotice, Reply, ToDaemon};

/// What one client may have waiting at one terminal. Ours waits for each answer.
const MOST_WAITING: usize = 32;

impl Registry {
    /// Sends what a client wants of a terminal; the answer goes to it by itself, under `seq`.
    pub(crate) fn terminal(
        &self,
        client: ClientId,
        watch_id: WatchId,
        seq: Option<u64>,
        body: ToDaemon,
    ) -> Result<(), Fault> {
        let mut inner = self.lock();
        let Inner { links, afar, watches, .. } = &mut *inner;
        let own = watches.get(&watch_id).filter(|watch| watch.client == client);
        let watch = own.ok_or_else(|| Fault::not_found("watch", watch_id))?;
        if !watch.types {
            let text = "this view is for looking only: it cannot type or decide the size";
            return Err(Fault::new(Code::Forbidden, text));
        }
        let link = match links.get_mut(&watch.daemon) {
            Some(link) => link,
            None => afar.get_mut(&watch.daemon).map(|(_, link)| link).ok_or_else(offline)?,
        };
        // what was asked by those who are gone gets no answer
        link.open.retain(|_, waiter| match waiter {
            Waiter::Terminal(id, _) => watches.contains_key(id),
            Waiter::Command(_) | Waiter::Watch(_) | Waiter::Search(_) | Waiter::Guest { .. } => {
                true
            }
        });
        let waits = |waiter: &&Waiter| matches!(waiter, Waiter::Terminal(id, _) if *id == watch_id);
        if link.open.values().filter(waits).count() >= MOST_WAITING {
            let text = format!("{MOST_WAITING} inputs wait for the agent already");
            return Err(Fault::new(Code::RateLimited, text));
        }
        let request = RequestId::fresh();
        link.way
            .try_text(command(body, Some(request))?)
            .map_err(|_| Fault::new(Code::Unavailable, "the daemon's link is congested"))?;
        link.open.insert(request, Waiter::Terminal(watch_id, seq));
        Ok(())
    }
}

impl Inner {
    /// Tells a client what became of its wish. Where it concerns the size, only a refusal.
    pub(super) fn terminal_answered(&self, watch_id: WatchId, seq: Option<u64>, reply: Reply) {
        let Some(watch) = self.watches.get(&watch_id) else { return };
        let told = match (reply.into_result(), seq) {
            (Ok(_), None) => return,
            (Ok(_), Some(seq)) => ClientNotice::TerminalTyped { watch_id, seq },
            (Err(error), seq) => ClientNotice::TerminalRefused { watch_id, seq, error },
        };
        watch.outlet.urgent(notice(&told));
    }
}
