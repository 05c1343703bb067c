//! `hayward relay`.

use super::compose::{self, Ending};
use super::context::Context;
use super::doctor::{self, Base, Tables};
use super::print::tone::Tone;
use crate::exit::{End, Outcome, chain};
use hayward_relay::{BusAddress, Config, Database, MoveError, Relay};
use hayward_shared::fault::{Code, Fault};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;

/// What to do with the relay.
#[derive(clap::Args)]
pub(crate) struct RelayArgs {
    #[command(subcommand)]
    command: RelayCommand,
}

#[derive(clap::Subcommand)]
enum RelayCommand {
    /// Run a relay in the foreground
    Serve(ServeArgs),
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

    /// A SQLite file, made when it is not there, or postgres://USER:PASSWORD@HOST:PORT/NAME
    /// [default: relay.db in the state folder]
    #[arg(long, value_name = "FILE|URL", env = "HAYWARD_RELAY_DATABASE", hide_env_values = true)]
    database: Option<String>,

    /// Where relays that share a PostgreSQL database meet (NATS): nats://HOST:PORT. Whoever may
    /// publish there may command every daemon: keep it to the relays
    #[arg(long, value_name = "URL", env = "HAYWARD_RELAY_BUS", hide_env_values = true)]
    bus: Option<String>,
}

/// Runs the relay.
pub(crate) async fn run(args: RelayArgs, context: &Context) -> Outcome {
    match args.command {
        RelayCommand::Serve(args) => serve(args, context).await.map(|()| End::Done),
        RelayCommand::Migrate(args) => migrate(args, context).await.map(|()| End::Done),
        RelayCommand::Doctor(args) => doctor(args, context).await,
    }
}

async fn doctor(args: ServeArgs, context: &Context) -> Outcome {
    let listen = args.listen;
    let config = configured(args, context)?;
    let at = match &config.database {
        Database::Sqlite(file) => file.display().to_string(),
        Database::Postgres(at) => at.to_string(),
    };
    let disk = match &config.database {
        Database::Sqlite(file) => file.parent().map(Path::to_owned),
        Database::Postgres(_) => None,
    };
    let (found, served) = tokio::join!(hayward_relay::examine(&config), doctor::answers_at(listen));
    let tables = found.tables.map_err(|error| chain(&error)).map(|tables| Tables {
        version: tables.version,
        own: tables.own,
        took: tables.took,
        ahead_ms: tables.ahead_ms,
    });
    let bus = found.bus.map(|bus| bus.map_err(|error| chain(&error)));
    doctor::relay(&Base { at, tables, bus, served, disk }, context)
}

async fn migrate(args: MigrateArgs, context: &Context) -> Result<(), Fault> {
    let from = database(args.from.as_deref(), context)?;
    let to = database(Some(&args.to), context)?;
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

/// The named database, or the one in the state folder.
fn database(named: Option<&str>, context: &Context) -> Result<Database, Fault> {
    match named {
        Some(name) => name.parse().map_err(|error| Fault::new(Code::Invalid, chain(&error))),
        None => Ok(context.home()?.relay_database().into()),
    }
}

/// What the options say, and where they say nothing, `[relay]` of the configuration.
fn configured(args: ServeArgs, context: &Context) -> Result<Config, Fault> {
    let file = context.config()?;
    let named = args.database.or_else(|| file.relay.database.clone());
    let database = database(named.as_deref(), context)?;
    let (limits, prices) = (compose::limits(&file), compose::prices(&file));
    let mut config = Config { limits, prices, ..Config::new(database, args.listen) };
    let mut bus = args.bus;
    if let Database::Postgres(_) = config.database {
        config.owner_token = Some(context.home()?.root().join("owner.token"));
        if bus.is_none() {
            bus = file.relay.bus;
        }
    }
    let bus = bus.map(|name| name.parse::<BusAddress>());
    config.bus = bus.transpose().map_err(|error| Fault::new(Code::Invalid, chain(&error)))?;
    Ok(config)
}

async fn serve(args: ServeArgs, context: &Context) -> Result<(), Fault> {
    compose::log(context.is_verbose());
    let config = configured(args, context)?;
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
