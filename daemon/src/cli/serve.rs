//! `hayward relay`.

use super::compose::{self, Ending};
use super::context::Context;
use super::print::tone::Tone;
use crate::exit::{End, Outcome, chain};
use hayward_relay::{Config, Database, Relay};
use hayward_shared::fault::{Code, Fault};
use serde_json::json;
use std::net::SocketAddr;

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
}

/// Where the relay listens and keeps its data.
#[derive(clap::Args)]
struct ServeArgs {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7420")]
    listen: SocketAddr,

    /// A SQLite file, made when it is not there, or postgres://USER:PASSWORD@HOST:PORT/NAME
    /// [default: relay.db in the state folder]
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "HAYWARD_RELAY_DATABASE",
        hide_env_values = true
    )]
    database: Option<String>,
}

/// Runs the relay.
pub(crate) async fn run(args: RelayArgs, context: &Context) -> Outcome {
    match args.command {
        RelayCommand::Serve(args) => serve(args, context).await?,
    }
    Ok(End::Done)
}

/// The named database, or the one in the state folder.
fn database(named: Option<&str>, context: &Context) -> Result<Database, Fault> {
    match named {
        Some(name) => name.parse().map_err(|error| Fault::new(Code::Invalid, chain(&error))),
        None => Ok(context.home()?.relay_database().into()),
    }
}

async fn serve(args: ServeArgs, context: &Context) -> Result<(), Fault> {
    compose::log(context.is_verbose());
    let database = database(args.database.as_deref(), context)?;
    let mut config = Config::new(database, args.listen);
    if let Database::Postgres(_) = config.database {
        config.owner_token = Some(context.home()?.root().join("owner.token"));
    }
    let mut ending = Ending::new()?;
    let relay = Relay::start(config)
        .await
        .map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
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
