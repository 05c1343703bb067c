//! `hayward up`.

use super::compose::{self, Setting};
use super::context::{Context, homely};
use super::detach;
use super::log::{self, LogArgs};
use super::print::tone::Tone;
use crate::exit::{End, Outcome};
use hayward_daemon::home::{Home, Running};
use hayward_shared::fault::{Code, Fault};
use serde_json::json;
use std::net::SocketAddr;

/// How to start.
#[derive(clap::Args)]
pub(crate) struct UpArgs {
    /// Start in the background, and return once it is ready
    #[arg(long)]
    detach: bool,

    /// Where the embedded relay listens [default: what the configuration says, else a free port]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,

    /// Leave the session of whoever starts it, as `--detach` does
    #[arg(long, hide = true)]
    own_session: bool,

    #[command(flatten)]
    log: LogArgs,
}

/// Takes a detached daemon out of its starter's session, so that no terminal that closes ends it.
/// Called before there are threads.
pub(crate) fn leave_session(args: &UpArgs) -> Result<(), Fault> {
    if !args.own_session {
        return Ok(());
    }
    nix::unistd::setsid()
        .map(drop)
        .map_err(|error| Fault::new(Code::Failed, format!("cannot leave the session: {error}")))
}

/// Starts, here or in the background.
pub(crate) async fn run(args: UpArgs, context: &Context) -> Outcome {
    if args.detach {
        let home = context.home()?;
        let running = detach::start(&home, (args.listen, Some(args.log)), context).await?;
        tell(&running, &home, context)?;
        return Ok(End::Done);
    }
    let logging = log::begin(args.log, "hayward", context);
    let served = serve(args, context).await;
    logging.end().await;
    served.map(|()| End::Done)
}

/// Prints where daemon and relay are.
pub(crate) fn tell(running: &Running, home: &Home, context: &Context) -> Result<(), Fault> {
    let Running { relay, daemon_id, pid, .. } = running;
    if context.out.json() {
        let answer =
            json!({ "relay": relay, "daemonId": daemon_id, "pid": pid, "home": home.root() });
        return context.out.value(&answer);
    }
    let place = homely(home.root());
    context.out.line(Tone::Plain, &format!("hayward runs: relay {relay}, pid {pid}, state {place}"))
}

/// Runs daemon and relay in this process until it is told to stop. When a daemon runs on the state
/// folder already, says where.
async fn serve(args: UpArgs, context: &Context) -> Result<(), Fault> {
    let home = context.home()?;
    if let Some(running) = context.finder()?.running()? {
        return tell(&running, &home, context);
    }
    let config = context.config()?;
    let remote = compose::remote(context, &home, &config)?;
    let setting = Setting { home: home.clone(), config, remote, listen: args.listen };
    compose::serve(setting, |running| tell(running, &home, context)).await
}
