//! The composition root: a daemon, and a relay in the same process where none is configured.

use super::context::Context;
use super::serve::{self, Ground};
use crate::exit::chain as causes;
use hayward_daemon::config::{Config, PriceSection};
use hayward_daemon::home::{Held, Home, HomeError, Running, read_if_there, write_private};
use hayward_daemon::process::ProcessId;
use hayward_daemon::service::{Daemon, StartError};
use hayward_relay::{
    Config as RelayConfig, Limits, Price, Prices, Relay, Secret, StartError as RelayError,
    StoreError,
};
use hayward_shared::api::TokenKind;
use hayward_shared::fault::{Code, Fault};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long a killed daemon may take to vanish: a write to a slow disk that nothing can cut off.
const DYING: Duration = Duration::from_secs(10);

/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// How long a daemon waits for its first welcome before it says that it is there: an embedded
/// relay answers in milliseconds, one that is away must not keep the daemon from its work.
const FIRST_LINK: Duration = Duration::from_secs(3);

/// What a daemon is started with.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The state folder.
    pub(crate) home: Home,
    /// Its configuration.
    pub(crate) config: Config,
    /// A relay elsewhere, with the daemon's token for it; none: embed one.
    pub(crate) remote: Option<Remote>,
    /// Where an embedded relay listens; none: where it did last time, else anywhere on loopback.
    pub(crate) listen: Option<SocketAddr>,
}

/// A relay elsewhere.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Where it is.
    pub(crate) url: String,
    /// The daemon's token.
    pub(crate) token: String,
}

/// The relay elsewhere that the options or the configuration name, if any. A user's token among
/// the options is not the daemon's, and is passed over.
pub(crate) fn remote(
    context: &Context,
    home: &Home,
    config: &Config,
) -> Result<Option<Remote>, Fault> {
    let Some(url) = context.relay().or(config.relay.url.as_deref()) else { return Ok(None) };
    let given = context.token().filter(|token| token.starts_with(TokenKind::Daemon.prefix()));
    let token = match given {
        Some(token) => token.to_owned(),
        None => read_if_there(&home.daemon_token()).map_err(home_fault)?.ok_or_else(|| {
            Fault::new(Code::Unauthorized, format!("there is no daemon's token for {url}"))
                .with_hint("make one with `hayward token create --kind daemon`, and give --token")
        })?,
    };
    Ok(Some(Remote { url: url.to_owned(), token }))
}

/// Takes the state folder. A daemon that was killed a moment ago may still be on its way out: the
/// kernel frees its folder only once its last write has ended.
async fn hold(home: &Home) -> Result<Held, HomeError> {
    let patience = Instant::now() + DYING;
    loop {
        match home.hold() {
            Err(HomeError::InUse { pid, .. }) if !lives(pid) && Instant::now() < patience => {
                tokio::time::sleep(LOOK).await;
            }
            held => return held,
        }
    }
}

fn lives(pid: u32) -> bool {
    let found = i32::try_from(pid).map(ProcessId::of);
    !matches!(found, Ok(Ok(None)))
}

/// Serves until the process is told to end. `ready` is told once, when the daemon does its work.
///
/// # Errors
/// [`Fault`] when something cannot be started; nothing is left running then.
pub(crate) async fn serve(
    setting: Setting,
    ready: impl FnOnce(&Running) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let Setting { home, config, remote, listen } = setting;
    let held = hold(&home).await.map_err(home_fault)?;
    let (relay, remote) = match remote {
        Some(remote) => (None, remote),
        None => {
            let wanted = listen.or(configured(&config)?);
            let (relay, remote) = embed(&home, wanted, &config).await?;
            (Some(relay), remote)
        }
    };
    let result = run(&home, config, remote, ready).await;
    home.retract();
    if let Some(relay) = relay {
        relay.stop().await;
    }
    drop::<Held>(held);
    result
}

async fn run(
    home: &Home,
    config: Config,
    remote: Remote,
    ready: impl FnOnce(&Running) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let relay = remote.url.clone();
    let daemon =
        Daemon::start(home.clone(), config, remote.url, remote.token).await.map_err(start_fault)?;
    let mut end = Ending::new()?;
    let linked = tokio::select! {
        linked = daemon.linked(FIRST_LINK) => linked,
        () = end.wait() => return Ok(()),
    };
    let own = own_process()?;
    let running = Running {
        pid: std::process::id(),
        started: own.start,
        relay,
        daemon_id: linked.map(|id| id.to_string()).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    home.announce(&running).map_err(home_fault)?;
    ready(&running)?;
    if linked.is_none() {
        tracing::warn!(relay = running.relay, "the relay is away; trying on");
        tokio::select! {
            Some(id) = daemon.linked(Duration::MAX) => {
                let running = Running { daemon_id: id.to_string(), ..running };
                home.announce(&running).map_err(home_fault)?;
            }
            () = end.wait() => return Ok(()),
        }
    }
    end.wait().await;
    tracing::info!("ending; agents live on");
    Ok(())
}

fn own_process() -> Result<ProcessId, Fault> {
    let pid = nix::unistd::getpid().as_raw();
    let found =
        ProcessId::of(pid).map_err(|error| internal("read this process's start", &error))?;
    found.ok_or_else(|| Fault::new(Code::Failed, "this process is not in /proc"))
}

/// What is logged of both sides at a level, and of all else warnings. The client of the bus repeats each
/// failed try; the relay tells why, once.
pub(crate) fn usual_log(level: &str) -> String {
    let ours = ["hayward", "hayward_daemon", "hayward_relay", "hayward_edge"];
    ours.iter().fold("warn,async_nats=off".to_owned(), |all, room| format!("{all},{room}={level}"))
}

/// The wish that this process end.
pub(crate) struct Ending {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Ending {
    pub(crate) fn new() -> Result<Self, Fault> {
        let listen = |kind| signal(kind).map_err(|error| internal("listen for signals", &error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Starts the embedded relay, and sees to it that user and daemon have tokens for it.
async fn embed(
    home: &Home,
    listen: Option<SocketAddr>,
    config: &Config,
) -> Result<(Relay, Remote), Fault> {
    let relay = start_relay(home, listen, config).await?;
    let address = relay.address();
    write_private(&port_file(home), &address.to_string()).map_err(home_fault)?;
    let untold = |error: StoreError| internal("make a token", &error);
    let user = read_if_there(&home.user_token()).map_err(home_fault)?;
    let user = match relay.bootstrap() {
        Some(first) => Some(first.token.clone()),
        None if is_of(&relay, user.as_deref()).await.map_err(untold)? => None,
        // another relay founded it; whoever serves a database may do all that its owner may
        None => relay.issue_owner_token().await.map_err(untold)?,
    };
    if let Some(token) = user {
        write_private(&home.user_token(), token.expose()).map_err(home_fault)?;
    }
    let known = read_if_there(&home.daemon_token()).map_err(home_fault)?;
    let token = match known {
        Some(token) if is_of(&relay, Some(&token)).await.map_err(untold)? => token,
        _ => {
            let token = issue(&relay).await.map_err(untold)?;
            write_private(&home.daemon_token(), token.expose()).map_err(home_fault)?;
            token.expose().to_owned()
        }
    };
    Ok((relay, Remote { url: format!("http://{address}"), token }))
}

/// Whether a token of the state folder is one of this relay's database. It may have been another's
/// before; one that was revoked stays what it is.
async fn is_of(relay: &Relay, token: Option<&str>) -> Result<bool, StoreError> {
    match token {
        Some(token) => relay.knows(token).await,
        None => Ok(false),
    }
}

async fn issue(relay: &Relay) -> Result<Secret, StoreError> {
    let workspace = match relay.bootstrap() {
        Some(first) => Some(first.workspace),
        None => relay.first_workspace().await?,
    };
    relay.issue_daemon_token(workspace.unwrap_or_else(hayward_shared::id::WorkspaceId::fresh)).await
}

/// Where it listened last time, so that whoever follows finds it again after a restart; anywhere
/// when that place is taken now.
async fn start_relay(
    home: &Home,
    listen: Option<SocketAddr>,
    config: &Config,
) -> Result<Relay, Fault> {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let usual = serve::configured(Ground::default(), anywhere, home, config)?;
    let at = |listen| Relay::start(RelayConfig { listen, ..usual.clone() });
    if let Some(wanted) = listen {
        return at(wanted).await.map_err(relay_fault);
    }
    let last = read_if_there(&port_file(home)).map_err(home_fault)?;
    if let Some(last) = last.and_then(|last| last.parse().ok()) {
        match at(last).await {
            Err(RelayError::Listen { .. }) => {}
            started => return started.map_err(relay_fault),
        }
    }
    at(anywhere).await.map_err(relay_fault)
}

fn relay_fault(error: RelayError) -> Fault {
    let fault = internal("start the embedded relay", &error);
    match error {
        RelayError::Store { .. } | RelayError::Bus(_) => fault.with_hint(
            "`hayward relay doctor` looks at its database and its bus, which `database` and `bus` \
             under [relay] of config.toml name",
        ),
        RelayError::Taken { .. } => fault.with_hint("`bus` under [relay] of config.toml names one"),
        _ => fault,
    }
}

/// What a relay that is served from this configuration lets each workspace have at once.
pub(crate) fn limits(config: &Config) -> Limits {
    let usual = Limits::default();
    let section = &config.limits;
    let agents = config.agents.iter().filter_map(|(name, agent)| {
        let most = agent.limits.concurrent?;
        Some((name.clone(), most.get()))
    });
    let providers = section.providers.iter().map(|(name, most)| (name.clone(), most.get()));
    Limits {
        workspace: section.workspace.map(NonZeroU32::get),
        agents: agents.collect(),
        providers: providers.collect(),
        depth: section.depth.map_or(usual.depth, NonZeroU32::get),
        tree: section.tree.map_or(usual.tree, NonZeroU32::get),
    }
}

/// What the models cost a relay that is served from this configuration.
pub(crate) fn prices(config: &Config) -> Prices {
    let mut all = Prices::default();
    for (model, told) in &config.prices {
        let PriceSection { input, output, cache_read, cache_write } = *told;
        let (cache_read, cache_write) = (cache_read.unwrap_or(input), cache_write.unwrap_or(input));
        all.insert(model, Price { input, output, cache_read, cache_write });
    }
    all
}

fn port_file(home: &Home) -> std::path::PathBuf {
    home.root().join("relay.address")
}

fn configured(config: &Config) -> Result<Option<SocketAddr>, Fault> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            Fault::new(Code::Usage, format!("[relay] listen = '{text}' is no address"))
                .with_hint("give ADDRESS:PORT, as 127.0.0.1:7420")
        })
    };
    config.relay.listen.as_deref().map(parse).transpose()
}

fn home_fault(error: HomeError) -> Fault {
    match &error {
        HomeError::InUse { .. } => Fault::new(Code::Conflict, error.to_string())
            .with_hint("one daemon works on a state folder; stop that one with `hayward down`"),
        _ => internal("use the state folder", &error),
    }
}

fn start_fault(error: StartError) -> Fault {
    match error {
        StartError::Home(error) => home_fault(error),
        _ => internal("start the daemon", &error),
    }
}

fn internal(doing: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(Code::Failed, format!("cannot {doing}: {}", causes(error)))
}
