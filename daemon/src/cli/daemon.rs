//! `hayward daemon`.

use super::context::Context;
use crate::exit::{End, Outcome};
use hayward_shared::fault::{Code, Fault};

/// What to do with the daemon.
#[derive(clap::Args)]
pub(crate) struct DaemonArgs {
    #[command(subcommand)]
    command: DaemonCommand,
}

#[derive(clap::Subcommand)]
enum DaemonCommand {
    /// Run the daemon in the foreground, linked to the configured relay
    Run,
}

/// Runs the daemon.
pub(crate) async fn run(args: DaemonArgs, context: &Context) -> Outcome {
    match args.command {
        DaemonCommand::Run => serve(context).await?,
    }
    Ok(End::Done)
}

async fn serve(_context: &Context) -> Result<(), Fault> {
    Err(Fault::new(Code::Failed, "not in this build"))
}
