//! `hayward relay`.

use super::compose::{self, Ending};
use super::context::Context;
use super::print::tone::Tone;
use crate::exit::{End, Outcome, chain};
use hayward_relay::{Config, Relay};
use hayward_shared::fault::{Code, Fault};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;

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

    /// The database; made when it is not there [default: relay.db in the state folder]
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
}

/// Runs the relay.
pub(crate) async fn run(args: RelayArgs, context: &Context) -> Outcome {
    match args.command {
        RelayCommand::Serve(args) => serve(args, context).await?,
    }
    Ok(End::Done)
}

async fn serve(args: ServeArgs, context: &Context) -> Result<(), Fault> {
    compose::log(context.is_verbose());
    let database = match args.database {
        Some(file) => file,
        None => context.home()?.relay_database(),
    };
    let mut ending = Ending::new()?;
    let relay = Relay::start(Config::new(database, args.listen))
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
