//! How one task is reached: through the relay, or straight through this machine's daemon while
//! the relay is away, or first where that is asked for.

use super::finder::Finder;
use super::http::{Client, Doc};
use super::socket::Socket;
use super::ways::{Next, Way, Ways};
use hayward_daemon::keeper::RunFolder;
use hayward_shared::api::TokenKind;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, TaskId};
use hayward_shared::task::Task;
use std::ffi::OsStr;
use std::path::{Component, Path};

/// Rounds of asking for a task, before nobody can be reached: about 15 s.
const TRIES: u32 = 6;

/// A task that was found, and the ways to it.
#[derive(Clone)]
pub(crate) struct Reach {
    finder: Finder,
    ways: Ways,
}

impl Reach {
    /// Finds a task by its id or a part of it: of the relay, or while that is away of this
    /// machine's daemon. The relay's fault comes along in that case, for the user to know.
    ///
    /// # Errors
    /// There is no such task; the relay's fault where it is away and this machine has none either.
    pub(crate) async fn find(
        finder: Finder,
        id: &str,
    ) -> Result<(Self, Doc<Task>, Option<Fault>), Fault> {
        let asked = match finder.place().and_then(Client::new) {
            Ok(client) => client.task(id).await,
            Err(fault) => Err(fault),
        };
        let away = match asked {
            Err(fault) if fault.code == Code::Unavailable => fault,
            found => {
                let task = found?;
                let near = may_be_near(&finder, task.body.holding.daemon_id);
                return Ok((Self { finder, ways: Ways::new(Way::Relay, near) }, task, None));
            }
        };
        match near(&finder, &away, async |daemon| daemon.task(id).await).await {
            Ok(task) => Ok((Self { finder, ways: Ways::new(Way::Near, true) }, task, Some(away))),
            Err(own) if own.code == Code::NotFound => {
                let text = format!("{away}; and this machine's daemon has no run of task '{id}'");
                let hint = "without the relay, only what ran on this machine can be reached";
                Err(Fault::new(Code::Unavailable, text).with_hint(hint))
            }
            Err(own) => Err(own),
        }
    }

    /// What is reached by this way, or else by the other.
    #[cfg(test)]
    pub(super) fn by(finder: Finder, way: Way) -> Self {
        Self { finder, ways: Ways::new(way, true) }
    }

    /// The task as it stands by now, from whoever knows it.
    ///
    /// # Errors
    /// It is gone, or nobody could be reached for a while.
    pub(crate) async fn task(&mut self, id: TaskId) -> Result<Doc<Task>, Fault> {
        let id = id.to_string();
        loop {
            let asked = match self.client() {
                Ok(client) => client.task(&id).await,
                Err(fault) => Err(fault),
            };
            let fault = match asked {
                Ok(task) => {
                    self.ways.served();
                    // a queued task goes to a machine later
                    if may_be_near(&self.finder, task.body.holding.daemon_id) {
                        self.ways.come_near();
                    }
                    return Ok(task);
                }
                Err(fault) => fault,
            };
            match self.ways.failed(fault) {
                Next::Other => {}
                Next::Later { pause, failures, .. } if failures + 1 < TRIES => {
                    tokio::time::sleep(pause).await;
                }
                Next::Later { fault, .. } | Next::Never(fault) => return Err(fault),
            }
        }
    }

    /// The task as this machine's daemon knows it, where it may be the one that holds it.
    pub(crate) async fn own_word(&self, id: TaskId) -> Option<Task> {
        if !self.ways.are_near() {
            return None;
        }
        let daemon = Client::of_daemon(&self.finder.home).ok()?;
        Some(daemon.task(&id.to_string()).await.ok()?.body)
    }

    fn client(&self) -> Result<Client, Fault> {
        match self.ways.way() {
            Way::Relay => Client::new(self.finder.place()?),
            Way::Near => Client::of_daemon(&self.finder.home),
        }
    }

    /// Goes straight to this machine's daemon where the run may be here, unless the user has named a
    /// relay or a token for this command: what that relay allows to that token is then asked there.
    pub(crate) fn straight_first(mut self) -> Self {
        if self.finder.relay.is_none() && self.finder.token.is_none() {
            self.ways.straight_first();
        }
        self
    }

    /// Opens a connection by the way whose turn it is. Whether it serves is told by
    /// [`Reach::served`] or [`Reach::failed`].
    pub(super) async fn open(&self) -> Result<Socket, Fault> {
        match self.ways.way() {
            Way::Relay => Socket::open(&self.finder.place()?).await,
            Way::Near => Socket::near(&self.finder.home).await,
        }
    }

    /// Whether connections go straight to this machine's daemon now.
    pub(super) fn is_near(&self) -> bool {
        self.ways.way() == Way::Near
    }

    /// The folder of a run of this machine's daemon, by its name; none while connections go another
    /// way, where whoever is at the other end decides who may see it.
    pub(super) fn run_folder(&self, name: &str) -> Option<RunFolder> {
        let is_name = Path::new(name).components().eq([Component::Normal(OsStr::new(name))]);
        (self.is_near() && is_name).then(|| RunFolder::new(self.finder.home.runs().join(name)))
    }

    /// A connection served.
    pub(super) fn served(&mut self) {
        self.ways.served();
    }

    /// What a user may want to know of a connection that stands, and goes another way than before.
    pub(super) fn moved(&mut self) -> Option<&'static str> {
        self.ways.moved().map(|way| match way {
            Way::Near => "going on with this machine's daemon, without the relay",
            Way::Relay => "going on through the relay",
        })
    }

    /// A connection failed, before it served or after.
    pub(super) fn failed(&mut self, fault: Fault) -> Next {
        self.ways.failed(fault)
    }

    /// A connection failed beside a keeper, which goes on to show the run.
    pub(super) fn failed_beside_keeper(&mut self, fault: Fault) -> Next {
        self.ways.failed_beside_keeper(fault)
    }
}

/// Asks this machine's daemon in place of a relay that is away; the relay's fault when it is away
/// too, or cannot tell. A task's own token opens no more than the relay would.
pub(crate) async fn near<T>(
    finder: &Finder,
    away: &Fault,
    ask: impl AsyncFnOnce(Client) -> Result<T, Fault>,
) -> Result<T, Fault> {
    if finder.token.as_ref().is_some_and(|token| token.starts_with(TokenKind::Task.prefix())) {
        return Err(away.clone());
    }
    match ask(Client::of_daemon(&finder.home)?).await {
        Err(own) if own.code == Code::Unavailable => Err(away.clone()),
        Err(own) if matches!(own.code, Code::Internal | Code::Incompatible) => {
            let text = format!("{away}; and of this machine's daemon: {own}");
            Err(Fault::new(Code::Unavailable, text))
        }
        answer => answer,
    }
}

/// Whether this machine's daemon may be the one that holds a run. It does not know its own name
/// before it was linked once.
fn may_be_near(finder: &Finder, holder: Option<DaemonId>) -> bool {
    let Ok(Some(running)) = finder.running() else { return false };
    let own = running.daemon_id;
    own.is_empty() || holder.is_some_and(|holder| holder.to_string() == own)
}
