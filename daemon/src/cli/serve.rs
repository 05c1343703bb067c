//! `hayward relay`.

use super::context::Context;
use crate::exit::{End, Outcome};
use hayward_shared::fault::{Code, Fault};
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

async fn serve(args: ServeArgs, _context: &Context) -> Result<(), Fault> {
    let ServeArgs { listen: _, database: _ } = args;
    Err(Fault::new(Code::Failed, "not in this build"))
}
