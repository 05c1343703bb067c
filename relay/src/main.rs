//! `hayward-relay`: a relay of its own, for a team.

use clap::{Parser, Subcommand};
use hayward_relay::{Config, Relay};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Hayward's relay: authenticates, routes, keeps tasks and redacted events.
#[derive(Parser)]
#[command(name = "hayward-relay", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves until it is told to stop (SIGTERM, SIGINT).
    Serve {
        /// The address to listen on.
        #[arg(long, env = "HAYWARD_RELAY_LISTEN", default_value = "127.0.0.1:7420")]
        listen: SocketAddr,
        /// The database file; made when it is absent.
        #[arg(long, env = "HAYWARD_RELAY_DATABASE", default_value = "relay.db")]
        database: PathBuf,
        /// An origin whose web pages may call; may be repeated.
        #[arg(long = "allow-origin")]
        origins: Vec<String>,
        /// The name that a proxy on this machine calls the relay by.
        #[arg(long)]
        public_name: Option<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let mut text = format!("error: {e}");
            let mut source = e.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            tracing::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let Command::Serve { listen, database, origins, public_name } = command;
    let config = Config { allowed_origins: origins, public_name, ..Config::new(database, listen) };
    let relay = Relay::start(config).await?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    relay.stop().await;
    Ok(())
}
