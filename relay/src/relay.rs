//! A running relay: started, asked for credentials by its own process, stopped.

use crate::auth::{self, Secret, Who};
use crate::brakes;
use crate::bus::{self, Bus, BusError};
use crate::config::Config;
use crate::core::{Core, Links};
use crate::database::Database;
use crate::field::Field;
use crate::http;
use crate::http::gate::Gate;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::refusals;
use crate::registry::Registry;
use crate::socket::ahead::Ahead;
use crate::store::relays::Card;
use crate::store::tokens::{self, Issue};
use crate::store::{Store, StoreError, Tx, users};
use crate::sweep;
use hayward_edge::net;
use hayward_shared::api::Role;
use hayward_shared::id::{RelayId, UserId, WorkspaceId};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A stopping relay waits this long for requests and links to end.
const STOPPING: Duration = Duration::from_secs(5);

/// The file that holds the first owner's token.
const OWNER_FILE: &str = "owner.token";

/// The relay could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The database cannot be used.
    #[error("cannot open the database {database}")]
    Store {
        /// Its file, or its address without a password.
        database: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Another relay serves the database, and the two would not reach each other.
    #[error(
        "{other} serves {database} already: several relays share a database only where each has a \
         bus (--bus nats://HOST:PORT); stop that one, or give both a bus"
    )]
    Taken {
        /// The database, without a password.
        database: String,
        /// The other relay.
        other: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: is another relay running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bus cannot be used.
    #[error("cannot join the other relays")]
    Bus(#[source] BusError),
    /// The first owner's token cannot be written down.
    #[error("cannot write the first token to {path}")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The first owner of a workspace. The secret is known nowhere else.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its owner.
    pub user: UserId,
    /// The owner's token (`hwu_`).
    pub token: Secret,
}

/// A running relay. Owns its listener and every task that serves; dropping it cuts all of them
/// off, [`Relay::stop`] lets them end.
pub struct Relay {
    core: Arc<Core>,
    address: SocketAddr,
    bootstrap: Option<Bootstrap>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    loops: [JoinHandle<()>; 6],
    /// Its place among the relays of a PostgreSQL database.
    presence: Option<Presence>,
    /// This relay's end of the bus.
    meeting: bus::Served,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Relay {
    /// Opens the database, listens, and begins to serve.
    ///
    /// A database without a user gets a workspace with one owner, whose token is written to
    /// [`Config::owner_token`] (mode 0600).
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let failed = |source| StartError::Store { database: config.database.to_string(), source };
        if config.bus.is_some() && matches!(config.database, Database::Sqlite(_)) {
            return Err(StartError::Bus(BusError::Lone));
        }
        let store = Arc::new(Store::open(&config.database).await.map_err(failed)?);
        let id = RelayId::fresh();
        let (bus, closed) = match &config.bus {
            Some(address) => {
                let (bus, closed) = bus::prepare(address, id, store.clone());
                (bus, Some(closed))
            }
            None => (Bus::default(), None),
        };
        let refused = |source| StartError::Listen { address: config.listen, source };
        let listener = net::Listener::bind(config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let presence = join(&config, id, address).await?;
        let (stop, stopping) = watch::channel(false);
        let core = Arc::new(Core {
            id,
            address,
            store,
            registry: Registry::new(bus.clone()),
            bus,
            field: Field::default(),
            timing: config.timing,
            limits: config.limits.clone(),
            prices: config.prices.clone(),
            raised: Notify::new(),
            refused: Notify::new(),
            gate: Gate::new(&config, address.ip().is_loopback()),
            metrics: Metrics::default(),
            stopping: stopping.clone(),
            links: Links::default(),
        });
        let bootstrap = found(&core, &config).await?;
        let meeting = meet(&core, closed).await?;
        let (leads, led) = watch::channel(false);
        let loops = [
            tokio::spawn(sweep::keep(core.clone(), leads)),
            tokio::spawn(sweep::run(core.clone(), led.clone())),
            tokio::spawn(brakes::run(core.clone(), led)),
            tokio::spawn(sweep::retry(core.clone())),
            tokio::spawn(sweep::hint(core.clone())),
            tokio::spawn(refusals::run(core.clone())),
        ];
        let server = tokio::spawn(serve(listener, core.clone(), stopping));
        tracing::info!(%address, database = %config.database, "relay started");
        Ok(Self { core, address, bootstrap, stop, server, loops, presence, meeting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first owner, when this start made one.
    #[must_use]
    pub fn bootstrap(&self) -> Option<&Bootstrap> {
        self.bootstrap.as_ref()
    }

    /// The oldest workspace: the one that the first start made.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn first_workspace(&self) -> Result<Option<WorkspaceId>, StoreError> {
        users::first_workspace(&mut *self.core.store.read().await?).await
    }

    /// Adds a workspace with an owner; `None` when a user of that name is there already.
    ///
    /// # Errors
    /// When the store fails; nothing is added then.
    pub async fn add_workspace(
        &self,
        name: &str,
        owner: &str,
    ) -> Result<Option<Bootstrap>, StoreError> {
        let mut tx = self.core.store.write().await?;
        let added = new_workspace(&mut tx, name, owner).await?;
        if added.is_some() {
            tx.commit().await?;
        }
        Ok(added)
    }

    /// A new token for a daemon of a workspace (`hwd_`). It does not expire; earlier ones stay good.
    ///
    /// # Errors
    /// When the store fails, or there is no such workspace.
    pub async fn issue_daemon_token(&self, workspace: WorkspaceId) -> Result<Secret, StoreError> {
        let issue = Issue { workspace, who: Who::Daemon, role: Role::Viewer, expires_at: None };
        let mut tx = self.core.store.write().await?;
        let (secret, _) = tokens::issue(tx.conn(), issue, crate::clock::now()).await?;
        tx.commit().await?;
        Ok(secret)
    }

    /// A new token for the first owner of the oldest workspace (`hwu_`); none where it has no owner.
    /// It does not expire.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn issue_owner_token(&self) -> Result<Option<Secret>, StoreError> {
        let mut tx = self.core.store.write().await?;
        let Some(workspace) = users::first_workspace(tx.conn()).await? else { return Ok(None) };
        let Some(owner) = users::first_owner(tx.conn(), workspace).await? else { return Ok(None) };
        let (who, role) = (Who::User(owner), Role::Owner);
        let issue = Issue { workspace, who, role, expires_at: None };
        let (secret, _) = tokens::issue(tx.conn(), issue, crate::clock::now()).await?;
        tx.commit().await?;
        Ok(Some(secret))
    }

    /// Whether a token was made on this database, be it good still or not.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn knows(&self, token: &str) -> Result<bool, StoreError> {
        let mut reader = self.core.store.read().await?;
        Ok(tokens::find(&mut reader, &auth::hash(token)).await?.is_some())
    }

    /// Stops: takes no new request, ends those under way, says goodbye on every link.
    ///
    /// What has not ended within 5 s is cut off. All that was answered is stored.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async {
            self.core.links.drain(STOPPING).await;
            (&mut self.server).await
        };
        if timeout(STOPPING, ended).await.is_err() {
            tracing::warn!("requests that did not end in time were cut");
        }
        self.loops.iter().for_each(JoinHandle::abort);
        // before it is taken off the list, or it would put itself back
        drop(std::mem::take(&mut self.meeting));
        let left = timeout(STOPPING, bus::leave(&self.core)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::warn!("the other relays find out by themselves that this one ended");
        }
        if let Some(presence) = self.presence.take() {
            presence.leave().await;
        }
        drop(timeout(STOPPING, self.core.store.close()).await);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.server.abort();
        self.loops.iter().for_each(JoinHandle::abort);
    }
}

/// What connections come in by.
struct Door(net::Listener);

impl axum::serve::Listener for Door {
    type Io = Ahead<net::Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, from) = self.0.accept().await;
        (Ahead::of(stream), from)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

async fn serve(listener: net::Listener, core: Arc<Core>, mut stopping: watch::Receiver<bool>) {
    let stop = async move { drop(stopping.wait_for(|stop| *stop).await) };
    let served = axum::serve(Door(listener), http::router(core)).with_graceful_shutdown(stop).await;
    if let Err(e) = served {
        tracing::error!("the listener failed: {e}");
    }
}

/// Meets the other relays of the database, where there is a bus.
async fn meet(core: &Arc<Core>, closed: Option<bus::Closed>) -> Result<bus::Served, StartError> {
    let Some(closed) = closed else { return Ok(bus::Served::default()) };
    let refused = |source| StartError::Bus(BusError::Store(source));
    let mut reader = core.store.read().await.map_err(refused)?;
    let oldest = users::first_workspace(&mut reader).await.map_err(refused)?;
    drop(reader);
    let deployment = oldest.unwrap_or(WorkspaceId(uuid::Uuid::nil()));
    bus::open(core, closed, deployment).await.map_err(StartError::Bus)
}

/// Where the first owner's token goes.
fn owner_file(config: &Config) -> PathBuf {
    config.owner_token.clone().unwrap_or_else(|| match &config.database {
        Database::Sqlite(file) => file.with_file_name(OWNER_FILE),
        Database::Postgres(_) => PathBuf::from(OWNER_FILE),
    })
}

/// Takes this relay's place among those that serve the database.
async fn join(
    config: &Config,
    id: RelayId,
    address: SocketAddr,
) -> Result<Option<Presence>, StartError> {
    let Database::Postgres(at) = &config.database else { return Ok(None) };
    let database = config.database.to_string();
    let card = Card {
        id,
        address: address.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bus: config.bus.is_some(),
    };
    match Presence::take(at, card).await {
        Ok(Ok(presence)) => Ok(Some(presence)),
        Ok(Err(other)) => Err(StartError::Taken { database, other: other.to_string() }),
        Err(source) => Err(StartError::Store { database, source }),
    }
}

/// Founds the first workspace of a database that has no user, once its owner's token is on disk: a
/// start that fails before leaves the database as it was.
async fn found(core: &Core, config: &Config) -> Result<Option<Bootstrap>, StartError> {
    let failed = |source| StartError::Store { database: config.database.to_string(), source };
    let total = async { users::total(&mut *core.store.read().await?).await };
    if total.await.map_err(failed)? > 0 {
        return Ok(None);
    }
    let mut tx = core.store.write().await.map_err(failed)?;
    let first = new_workspace(&mut tx, "default", "owner").await.map_err(failed)?;
    // another relay may have founded it at the same time
    let Some(first) = first else { return Ok(None) };
    let path = owner_file(config);
    write_token(&path, &first.token)
        .map_err(|source| StartError::Token { path: path.clone(), source })?;
    tx.commit().await.map_err(failed)?;
    tracing::info!(path = %path.display(), "the first owner's token was written");
    Ok(Some(first))
}

/// A workspace with its owner; none when a user of that name is there already.
async fn new_workspace(
    tx: &mut Tx,
    name: &str,
    owner: &str,
) -> Result<Option<Bootstrap>, StoreError> {
    let now = crate::clock::now();
    let workspace = users::add_workspace(tx.conn(), name, now).await?;
    let Some(user) = users::add(tx.conn(), workspace, owner, Role::Owner, now).await? else {
        return Ok(None);
    };
    let who = Who::User(user.id);
    let issue = Issue { workspace, who, role: Role::Owner, expires_at: None };
    let (token, _) = tokens::issue(tx.conn(), issue, now).await?;
    Ok(Some(Bootstrap { workspace, user: user.id, token }))
}

/// Writes a secret to a file that its owner alone can read; an older one is replaced.
fn write_token(path: &Path, token: &Secret) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    writeln!(file, "{}", token.expose())?;
    file.sync_all()
}
