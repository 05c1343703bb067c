//! `hayward relay`.

use super::compose::{self, Ending};
use super::context::Context;
use super::doctor::{self, Base, Tables};
use super::log::{self, LogArgs};
use super::print::tone::Tone;
use crate::exit::{End, Outcome, chain};
use hayward_daemon::config::Config as File;
use hayward_daemon::home::Home;
use hayward_relay::{BusAddress, BusKeys, Config, Database, MoveError, Relay};
use hayward_shared::fault::{Code, Fault};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What to do with the relay.
#[derive(clap::Args)]
pub(crate) struct RelayArgs {
    #[command(subcommand)]
    command: RelayCommand,
}

#[derive(clap::Subcommand)]
enum RelayCommand {
    /// Run a relay in the foreground
    Serve {
        #[command(flatten)]
        at: ServeArgs,
        #[command(flatten)]
        log: LogArgs,
    },
    /// Move all data of a stopped relay from its SQLite file into an empty PostgreSQL database
    Migrate(MigrateArgs),
    /// Look at the database and the bus of a relay; exits 1 when something fails
    Doctor(ServeArgs),
}

/// From where to where.
#[derive(clap::Args)]
struct MigrateArgs {
    /// Where it is [default: relay.db in the state folder]
    #[arg(long, value_name = "sqlite:FILE")]
    from: Option<String>,

    /// Where it goes: postgres://USER:PASSWORD@HOST:PORT/NAME
    #[arg(long, value_name = "URL", env = "HAYWARD_RELAY_DATABASE", hide_env_values = true)]
    to: String,
}

/// Where the relay listens and keeps its data.
#[derive(clap::Args)]
struct ServeArgs {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7420")]
    listen: SocketAddr,

    #[command(flatten)]
    ground: Ground,
}

/// What a relay works on, as options name it.
#[derive(clap::Args, Default)]
pub(super) struct Ground {
    /// A SQLite file, made when it is not there, or postgres://USER:PASSWORD@HOST:PORT/NAME
    /// [default: relay.db in the state folder]
    #[arg(long, value_name = "FILE|URL", env = "HAYWARD_RELAY_DATABASE", hide_env_values = true)]
    database: Option<String>,

    /// Where relays that share a PostgreSQL database meet (NATS): nats://HOST:PORT or
    /// tls://HOST:PORT, several put apart by commas; one tls:// counts for all. Whoever may publish
    /// there may command every daemon: keep it to the relays
    #[arg(long, value_name = "URL", env = "HAYWARD_RELAY_BUS", hide_env_values = true)]
    bus: Option<String>,

    #[command(flatten)]
    keys: BusKeys,
}

/// Runs the relay.
pub(crate) async fn run(args: RelayArgs, context: &Context) -> Outcome {
    match args.command {
        RelayCommand::Serve { at, log } => {
            let logging = log::begin(log, "hayward-relay", context);
            let served = serve(at, context).await;
            logging.end().await;
            served.map(|()| End::Done)
        }
        RelayCommand::Migrate(args) => migrate(args, context).await.map(|()| End::Done),
        RelayCommand::Doctor(args) => doctor(args, context).await,
    }
}

async fn doctor(args: ServeArgs, context: &Context) -> Outcome {
    let listen = args.listen;
    let config = configured(args.ground, listen, &context.home()?, &context.config()?)?;
    let at = match &config.database {
        Database::Sqlite(file) => file.display().to_string(),
        Database::Postgres(at) => at.to_string(),
    };
    let disk = match &config.database {
        Database::Sqlite(file) => file.parent().map(Path::to_owned),
        Database::Postgres(_) => None,
    };
    let exposed = found_open(&config);
    let (found, served) = tokio::join!(hayward_relay::examine(&config), doctor::answers_at(listen));
    let tables = found.tables.map_err(|error| chain(&error)).map(|tables| Tables {
        version: tables.version,
        own: tables.own,
        took: tables.took,
        ahead_ms: tables.ahead_ms,
    });
    let bus = found.bus.map(|bus| bus.map_err(|error| chain(&error)));
    doctor::relay(&Base { at, tables, bus, exposed, served, disk }, context)
}

/// The secret files that others may read.
fn found_open(config: &Config) -> Vec<PathBuf> {
    config.bus.as_ref().map(BusAddress::exposed).unwrap_or_default()
}

async fn migrate(args: MigrateArgs, context: &Context) -> Result<(), Fault> {
    let from = match &args.from {
        Some(name) => database(name)?,
        None => context.home()?.relay_database().into(),
    };
    let to = database(&args.to)?;
    let moved = hayward_relay::migrate(&from, &to).await.map_err(|error| {
        let code = match error {
            MoveError::Kinds => Code::Invalid,
            MoveError::Absent(_) => Code::NotFound,
            MoveError::NotEmpty { .. } => Code::Conflict,
            _ => Code::Failed,
        };
        Fault::new(code, chain(&error))
    })?;
    if context.out.json() {
        let tables: serde_json::Map<_, _> =
            moved.tables.iter().map(|(name, rows)| ((*name).to_owned(), (*rows).into())).collect();
        context.out.value(&json!({ "moved": tables }))?;
    } else {
        for (name, rows) in moved.tables {
            context.out.line(Tone::Plain, &format!("{name}: {rows}"))?;
        }
    }
    Ok(())
}

fn database(name: &str) -> Result<Database, Fault> {
    name.parse().map_err(|error| Fault::new(Code::Invalid, chain(&error)))
}

/// What the options say, and where they say nothing, `[relay]` of the configuration. What that names
/// is looked for from the state folder on.
pub(super) fn configured(
    ground: Ground,
    listen: SocketAddr,
    home: &Home,
    file: &File,
) -> Result<Config, Fault> {
    let section = &file.relay;
    let database = match (&ground.database, &section.database) {
        (Some(name), _) => database(name)?,
        (None, Some(name)) => match database(name)? {
            Database::Sqlite(file) => home.root().join(file).into(),
            server @ Database::Postgres(_) => server,
        },
        (None, None) => home.relay_database().into(),
    };
    let (limits, prices) = (compose::limits(file), compose::prices(file));
    let mut config = Config { limits, prices, ..Config::new(database, listen) };
    let keys = keys(&ground.keys, home, file);
    let mut bus = ground.bus;
    if let Database::Postgres(_) = config.database {
        config.owner_token = Some(home.root().join("owner.token"));
        bus = bus.or_else(|| section.bus.clone());
    }
    if let Some(name) = bus {
        let bus = name.parse::<BusAddress>();
        let bus = bus.map_err(|error| Fault::new(Code::Invalid, chain(&error)))?;
        config.bus = Some(bus.opened_with(keys));
    }
    Ok(config)
}

/// The files that open the bus.
fn keys(named: &BusKeys, home: &Home, file: &File) -> BusKeys {
    let section = &file.relay;
    let either = |option: &Option<PathBuf>, configured: &Option<PathBuf>| {
        option.clone().or_else(|| configured.as_ref().map(|path| home.root().join(path)))
    };
    BusKeys {
        credentials: either(&named.credentials, &section.bus_credentials),
        ca: either(&named.ca, &section.bus_ca),
        certificate: either(&named.certificate, &section.bus_certificate),
        key: either(&named.key, &section.bus_key),
    }
}

async fn serve(args: ServeArgs, context: &Context) -> Result<(), Fault> {
    let config = configured(args.ground, args.listen, &context.home()?, &context.config()?)?;
    let mut ending = Ending::new()?;
    let relay =
        Relay::start(config).await.map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
    let url = format!("http://{}", relay.address());
    if context.out.json() {
        context.out.value(&json!({ "relay": url, "pid": std::process::id() }))?;
    } else {
        context.out.line(Tone::Plain, &format!("the relay serves at {url}"))?;
    }
    ending.wait().await;
    relay.stop().await;
    Ok(())
}
