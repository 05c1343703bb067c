//! `hayward daemon`.

use super::compose::{self, Setting};
use super::context::Context;
use super::up::remote;
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

async fn serve(context: &Context) -> Result<(), Fault> {
    compose::log(context.is_verbose());
    let finder = context.finder()?;
    let url = finder.configured()?.ok_or_else(|| {
        Fault::new(Code::Usage, "no relay is configured for this daemon")
            .with_hint("give --relay, or start one within the daemon: hayward up")
    })?;
    let home = finder.home;
    let remote = Some(remote(&url, &home, context)?);
    let setting = Setting { home, config: context.config()?, remote, listen: None };
    compose::serve(setting, |running| {
        tracing::info!(relay = running.relay, pid = running.pid, "ready");
    })
    .await
}
