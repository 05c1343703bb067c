//! `hayward daemon`.

use super::compose::{self, Setting};
use super::context::Context;
use super::doctor;
use super::log::{self, LogArgs};
use super::up;
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
    Run(LogArgs),
    /// Look for what keeps work from going well on this machine; exits 1 when something fails
    Doctor,
}

/// Runs the daemon.
pub(crate) async fn run(args: DaemonArgs, context: &Context) -> Outcome {
    match args.command {
        DaemonCommand::Run(args) => {
            let logging = log::begin(args, "hayward", context);
            let served = serve(context).await;
            logging.end().await;
            served.map(|()| End::Done)
        }
        DaemonCommand::Doctor => doctor::daemon(context).await,
    }
}

async fn serve(context: &Context) -> Result<(), Fault> {
    let (home, config) = (context.home()?, context.config()?);
    let remote = compose::remote(context, &home, &config)?.ok_or_else(|| {
        Fault::new(Code::Usage, "no relay is configured for this daemon").with_hint(
            "give --relay URL, or set [relay] url; `hayward up` brings a relay of its own",
        )
    })?;
    let setting = Setting { home: home.clone(), config, remote: Some(remote), listen: None };
    compose::serve(setting, |running| up::tell(running, &home, context)).await
}
