//! Who is connected: the one owner of links, open requests and watches.
//!
//! All of it is volatile and can be made anew from what peers say. Locks are short and never held
//! across an await.

mod guests;
mod searches;
mod terminal;
mod watches;
mod way;

pub(crate) use guests::Held;
pub(crate) use searches::Search;
pub(crate) use watches::NewWatch;

use crate::bus::Bus;
use crate::origin;
use crate::socket::pipe::Outlet;
use crate::store::StoreError;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RelayId, RequestId, TaskId, WatchId, WorkspaceId};
use hayward_shared::protocol::{ClientNotice, FromDaemon, Reply, ToDaemon, encode};
use hayward_shared::time::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use watches::Watch;
use way::Way;

/// A link that broke is remembered this long: a machine that flaps does so within the hour.
const REMEMBER_MS: i64 = 3_600_000;

/// One link of a daemon; of two links of the same daemon the higher is the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

impl LinkId {
    /// Its number among the links of this relay.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// One connected client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientId(u64);

/// Who is connected.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    bus: Bus,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// By id, so that who is told of work first is no chance.
    links: BTreeMap<DaemonId, Link>,
    /// Links of other relays that were used here, each with its relay; kept as long as they are good.
    afar: HashMap<DaemonId, (RelayId, Link)>,
    watches: HashMap<WatchId, Watch>,
    /// Watches of other relays at links of this one.
    guests: HashMap<WatchId, guests::Guest>,
    bus: Bus,
    broken: HashMap<DaemonId, Timestamp>,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    /// Whether it was noted in the store, where others find it.
    entered: bool,
    /// Whether it was welcomed: nothing is said to a daemon before.
    greeted: bool,
    workspace: WorkspaceId,
    replies: bool,
    terminals: bool,
    streams: bool,
    way: Way,
    work: Arc<Notify>,
    open: HashMap<RequestId, Waiter>,
    /// Commands to a peer that echoes no request id, oldest first.
    untagged: VecDeque<Untagged>,
}

impl Link {
    /// Whether it is told of a request that is given up; `call_off` where that ends the work at it.
    /// The relay that has the link keeps what it was asked for until it hears of it again.
    fn hears_call_off(&self, call_off: bool) -> bool {
        self.way.is_afar() || call_off && self.streams
    }
}

/// A command whose answer is told by its task and its type alone.
#[derive(Debug)]
struct Untagged {
    request: RequestId,
    task: TaskId,
    kind: &'static str,
    waiter: Waiter,
}

#[derive(Debug)]
enum Waiter {
    Command(oneshot::Sender<FromDaemon>),
    Watch(WatchId),
    /// A search, whose pages come before its answer.
    Search(mpsc::Sender<searches::Said>),
    /// What a client wants of a terminal that it watches, by the number it gave to that.
    Terminal(WatchId, Option<u64>),
    /// Another relay, and the watch that it asked for, if it did.
    Guest {
        relay: RelayId,
        watch: Option<WatchId>,
    },
}

/// A place among the links.
pub(crate) struct Joined {
    pub(crate) link: LinkId,
    /// Told when there may be work.
    pub(crate) work: Arc<Notify>,
    /// Whether the link follows one that broke without a farewell.
    pub(crate) after_break: bool,
}

/// A link to be registered.
pub(crate) struct NewLink {
    pub(crate) daemon: DaemonId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) replies: bool,
    pub(crate) terminals: bool,
    pub(crate) streams: bool,
    pub(crate) outlet: Outlet,
}

fn offline() -> Fault {
    Fault::new(Code::DaemonOffline, "the task's daemon is away")
}

fn late() -> Fault {
    Fault::new(Code::Unavailable, "the task's daemon did not answer in time")
}

/// An answer of a kind that nobody asked for.
pub(crate) fn unexpected(answer: &FromDaemon) -> Fault {
    let text =
        format!("the daemon answered with '{}', which was not asked for", answer.type_name());
    Fault::new(Code::Incompatible, text)
}

fn command(body: ToDaemon, request: Option<RequestId>) -> Result<String, Fault> {
    let message = match request {
        Some(request) => origin::command(body, request),
        None => body.into(),
    };
    encode(&message).map_err(|_| Fault::new(Code::Internal, "a command could not be written"))
}

/// The text of a notice; the types of the wire can always be written.
pub(crate) fn notice(notice: &ClientNotice) -> String {
    serde_json::to_string(notice).unwrap_or_default()
}

impl Registry {
    /// Nobody is connected yet; other relays are reached over `bus`.
    pub(crate) fn new(bus: Bus) -> Self {
        let inner = Inner { bus: bus.clone(), ..Inner::default() };
        Self { inner: Mutex::new(inner), bus }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a link; an older one of the same daemon is told to end.
    pub(crate) fn join(&self, new: NewLink, now: Timestamp) -> Joined {
        let mut inner = self.lock();
        inner.broken.retain(|_, at| now.since(*at) < REMEMBER_MS);
        let after_break = inner.broken.remove(&new.daemon).is_some();
        inner.next += 1;
        let (id, work) = (LinkId(inner.next), Arc::new(Notify::new()));
        let link = Link {
            id,
            entered: false,
            greeted: false,
            workspace: new.workspace,
            replies: new.replies,
            terminals: new.terminals,
            streams: new.streams,
            way: Way::Here(new.outlet),
            work: work.clone(),
            open: HashMap::new(),
            untagged: VecDeque::new(),
        };
        let old = inner.links.insert(new.daemon, link);
        let replaced = old.is_some();
        inner.drop_afar(new.daemon, &offline());
        if let Some(old) = old {
            old.way.end();
            inner.tell_guests(new.daemon, &old);
            inner.fail_watches_of(new.daemon, &offline());
        }
        Joined { link: id, work, after_break: after_break || replaced }
    }

    /// Whether this is the present link of the daemon.
    pub(crate) fn is_current(&self, daemon: DaemonId, link: LinkId) -> bool {
        self.lock().links.get(&daemon).is_some_and(|l| l.id == link)
    }

    /// Forgets a link that ended; `broke` when without a farewell. Whether it was the present one.
    pub(crate) fn leave(
        &self,
        daemon: DaemonId,
        link: LinkId,
        broke: bool,
        now: Timestamp,
    ) -> bool {
        let mut inner = self.lock();
        if inner.links.get(&daemon).is_none_or(|l| l.id != link) {
            return false;
        }
        if let Some(ended) = inner.links.remove(&daemon) {
            inner.tell_guests(daemon, &ended);
        }
        if broke {
            inner.broken.insert(daemon, now);
        }
        inner.fail_watches_of(daemon, &offline());
        true
    }

    /// The daemons of a workspace whose link is up, at this relay or another one.
    pub(crate) async fn online_in(
        &self,
        workspace: WorkspaceId,
    ) -> Result<HashSet<DaemonId>, StoreError> {
        let mut online: HashSet<_> = self.bus.linked(workspace).await?.into_iter().collect();
        let inner = self.lock();
        let here = inner.links.iter().filter(|(_, link)| link.workspace == workspace);
        online.extend(here.map(|(daemon, _)| *daemon));
        Ok(online)
    }

    /// How many daemons are linked to this relay.
    pub(crate) fn online(&self) -> usize {
        self.lock().links.len()
    }

    /// How many daemons of a workspace are linked to this relay.
    pub(crate) fn linked_here(&self, workspace: WorkspaceId) -> usize {
        self.lock().links.values().filter(|link| link.workspace == workspace).count()
    }

    /// Tells the daemons of a workspace that there may be work.
    pub(crate) fn hint(&self, workspace: WorkspaceId) {
        for link in self.lock().links.values().filter(|l| l.workspace == workspace) {
            link.work.notify_one();
        }
    }

    /// Tells a link that there may be work, if it is the daemon's present one.
    pub(crate) fn wake(&self, daemon: DaemonId, link: LinkId) {
        if let Some(found) = self.lock().links.get(&daemon).filter(|found| found.id == link) {
            found.work.notify_one();
        }
    }

    /// Tells every daemon that there may be work.
    pub(crate) fn hint_all(&self) {
        self.lock().links.values().for_each(|link| link.work.notify_one());
    }

    /// Sends a command that needs no answer; an absent daemon learns of it when it returns.
    pub(crate) async fn tell(&self, daemon: DaemonId, body: ToDaemon) -> Result<(), Fault> {
        self.reach(daemon).await?;
        let way = self.lock().link(daemon).map(|link| link.way.clone()).ok_or_else(offline)?;
        way.text(command(body, None)?).await.map_err(|_| offline())
    }

    /// Sends a command and waits for its `reply`; a plain peer answers nothing.
    pub(crate) async fn ask(
        &self,
        daemon: DaemonId,
        body: ToDaemon,
        within: Duration,
    ) -> Result<Value, Fault> {
        match self.exchange(daemon, body, within).await? {
            None => Ok(Value::Null),
            Some(FromDaemon::Reply(reply)) => reply.into_result(),
            Some(other) => Err(unexpected(&other)),
        }
    }

    /// Sends a command that is answered by a message of a type of its own, and waits for it. A
    /// refusal inside that message is the caller's to see; one by `reply` is an error.
    pub(crate) async fn ask_typed(
        &self,
        daemon: DaemonId,
        body: ToDaemon,
        within: Duration,
    ) -> Result<FromDaemon, Fault> {
        let wanted = body.answer().map(|(_, kind)| kind);
        match self.exchange(daemon, body, within).await? {
            Some(FromDaemon::Reply(Reply { ok: false, error: Some(fault), .. })) => Err(fault),
            Some(answer) if Some(answer.type_name()) == wanted => Ok(answer),
            Some(other) => Err(unexpected(&other)),
            None => Err(Fault::new(Code::Unavailable, "the task's daemon cannot do that")),
        }
    }

    /// Sends a command and waits for its answer: by its request id, or from a peer that echoes none
    /// by task and type, of several the oldest. None where a peer gives no answer at all.
    async fn exchange(
        &self,
        daemon: DaemonId,
        body: ToDaemon,
        within: Duration,
    ) -> Result<Option<FromDaemon>, Fault> {
        let request = RequestId::fresh();
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter::Command(answer);
        self.reach(daemon).await?;
        let (way, is_answered, echoes) = {
            let mut inner = self.lock();
            let link = inner.link_mut(daemon).ok_or_else(offline)?;
            let answers = body.answer();
            // the relay that has the link knows answers without ids for what they are
            let echoes = link.replies || link.way.is_afar() && answers.is_some();
            if echoes {
                link.open.insert(request, waiter);
            } else if let Some((task, kind)) = answers {
                link.untagged.push_back(Untagged { request, task, kind, waiter });
            }
            (link.way.clone(), link.replies || answers.is_some(), echoes)
        };
        let call_off = body.may_be_called_off();
        let _open = Open { registry: self, daemon, request, call_off };
        let exchange = async {
            way.text(command(body, echoes.then_some(request))?).await.map_err(|_| offline())?;
            if !is_answered {
                return Ok(None);
            }
            answered.await.map(Some).map_err(|_| offline())
        };
        timeout(within, exchange).await.unwrap_or_else(|_| Err(late()))
    }

    /// Whether a daemon echoes request ids; none when it is away, or cannot be reached.
    pub(crate) async fn replies(&self, daemon: DaemonId) -> Option<bool> {
        self.reach(daemon).await.ok()?;
        self.lock().link(daemon).map(|link| link.replies)
    }

    /// Takes a daemon's answer to whoever waits for it; an answer to nothing is dropped.
    pub(crate) fn answer(&self, daemon: DaemonId, request: Option<RequestId>, answer: FromDaemon) {
        let mut inner = self.lock();
        let Some(link) = inner.link_mut(daemon) else { return };
        let (request, waiter) = match request {
            Some(request) => (request, link.open.remove(&request)),
            None => {
                let (task, kind) = (answer.answered(), answer.type_name());
                let awaited = |one: &Untagged| Some(one.task) == task && one.kind == kind;
                let place = link.untagged.iter().position(awaited);
                let one = place.and_then(|place| link.untagged.remove(place));
                let Some(Untagged { request, waiter, .. }) = one else { return };
                (request, Some(waiter))
            }
        };
        match (waiter, answer) {
            // whoever asked may have gone meanwhile
            (Some(Waiter::Command(waiter)), answer) => drop(waiter.send(answer)),
            (Some(Waiter::Guest { relay, watch }), answer) => {
                inner.guest_answered(watch, &answer);
                inner.answer_guest(relay, daemon, (request, answer));
            }
            // there is room for it behind the pages
            (Some(Waiter::Search(waiter)), answer) => drop(waiter.try_send(searches::said(answer))),
            (Some(Waiter::Watch(id)), FromDaemon::Reply(reply)) => inner.watch_answered(id, reply),
            (Some(Waiter::Watch(id)), other) => inner.fail(id, unexpected(&other)),
            (Some(Waiter::Terminal(id, seq)), FromDaemon::Reply(reply)) => {
                inner.terminal_answered(id, seq, reply);
            }
            (Some(Waiter::Terminal(id, _)), other) => inner.fail(id, unexpected(&other)),
            (None, _) => {}
        }
    }

    /// A place among the clients.
    pub(crate) fn join_client(&self) -> ClientId {
        let mut inner = self.lock();
        inner.next += 1;
        ClientId(inner.next)
    }

    /// Forgets a client and ends its watches.
    pub(crate) fn leave_client(&self, client: ClientId) {
        let mut inner = self.lock();
        let gone: Vec<_> = inner.watches_of(client);
        for id in gone {
            inner.unwatch(id);
        }
    }
}

impl Inner {
    /// The link of a daemon, here or at another relay; one that was not welcomed yet counts as away.
    fn link(&self, daemon: DaemonId) -> Option<&Link> {
        match self.links.get(&daemon) {
            Some(link) => Some(link).filter(|link| link.greeted),
            None => self.afar.get(&daemon).map(|(_, link)| link),
        }
    }

    fn link_mut(&mut self, daemon: DaemonId) -> Option<&mut Link> {
        match self.links.get_mut(&daemon) {
            Some(link) => Some(link).filter(|link| link.greeted),
            None => self.afar.get_mut(&daemon).map(|(_, link)| link),
        }
    }
}

/// An open request; forgotten when whoever asked gives up, and called off where that ends it.
struct Open<'a> {
    registry: &'a Registry,
    daemon: DaemonId,
    request: RequestId,
    call_off: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.registry.give_up(self.daemon, self.request, self.call_off);
    }
}
