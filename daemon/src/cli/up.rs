//! `hayward up`.

use super::compose::{self, Remote, Setting};
use super::context::{Context, homely};
use super::detach;
use super::print::tone::Tone;
use crate::exit::{End, OrFault, Outcome};
use hayward_daemon::home::{Home, Running, read_if_there};
use hayward_shared::api::TokenKind;
use hayward_shared::fault::{Code, Fault};
use reqwest::Url;
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
        let running = detach::start(&home, args.listen, context).await?;
        tell(&running, &home, context)?;
        return Ok(End::Done);
    }
    serve(args, context).await?;
    Ok(End::Done)
}

/// Prints where daemon and relay are.
fn tell(running: &Running, home: &Home, context: &Context) -> Result<(), Fault> {
    let Running { relay, daemon_id, pid, .. } = running;
    if context.out.json() {
        let answer =
            json!({ "relay": relay, "daemonId": daemon_id, "pid": pid, "home": home.root() });
        return context.out.value(&answer);
    }
    let place = homely(home.root());
    context.out.line(Tone::Plain, &format!("hayward runs: relay {relay}, pid {pid}, state {place}"))
}

/// Runs daemon and relay in this process until it is told to stop.
async fn serve(args: UpArgs, context: &Context) -> Result<(), Fault> {
    compose::log(context.is_verbose());
    let finder = context.finder()?;
    let home = finder.home.clone();
    if let Some(running) = finder.running()? {
        return tell(&running, &home, context);
    }
    let remote = finder.configured()?.map(|url| remote(&url, &home, context)).transpose()?;
    let setting = Setting { config: context.config()?, home, remote, listen: args.listen };
    let place = setting.home.clone();
    let mut told = Ok(());
    compose::serve(setting, |running| told = tell(running, &place, context)).await?;
    told
}

/// The relay at `url`, with the token that lets this daemon in.
pub(crate) fn remote(url: &Url, home: &Home, context: &Context) -> Result<Remote, Fault> {
    let given = context.token().filter(|token| token.starts_with(TokenKind::Daemon.prefix()));
    let token = match given {
        Some(token) => Some(token.to_owned()),
        None => read_if_there(&home.daemon_token()).or_fault(Code::Failed)?,
    };
    let missing = || {
        Fault::new(Code::Unauthorized, format!("no daemon's token for the relay at {url}"))
            .with_hint("an owner makes one: hayward token create --kind daemon; give it as --token")
    };
    let url = url.as_str().trim_end_matches('/').to_owned();
    token.map(|token| Remote { url, token }).ok_or_else(missing)
}
