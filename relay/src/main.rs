//! `hayward-relay`: a relay of its own, for a team.

use clap::{Parser, Subcommand};
use hayward_edge::log::{self, Format, Logging, Setting};
use hayward_relay::{BusAddress, BusKeys, Config, Database, Relay};
use std::error::Error;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Hayward's relay: authenticates, routes, keeps tasks and redacted events.
#[derive(Parser)]
#[command(name = "hayward-relay", version)]
struct Arguments {
    /// How the log on stderr looks: text, or json for one object a line. What is in it says HAYWARD_LOG,
    /// else RUST_LOG.
    #[arg(long, global = true, value_name = "FORMAT", env = "HAYWARD_LOG_FORMAT", default_value_t)]
    log_format: Format,
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
        /// The database: a SQLite file, made when it is absent, or postgres://USER:PASSWORD@HOST/NAME.
        #[arg(
            long,
            env = "HAYWARD_RELAY_DATABASE",
            default_value = "relay.db",
            hide_env_values = true
        )]
        database: String,
        /// The bus (NATS) of relays that share a PostgreSQL database: nats://HOST:PORT or tls://HOST:PORT, several
        /// put apart by commas; one tls:// counts for all. Who may publish there may command every daemon: keep
        /// it to the relays.
        #[arg(long, env = "HAYWARD_RELAY_BUS", hide_env_values = true)]
        bus: Option<String>,
        #[command(flatten)]
        keys: Box<BusKeys>,
        /// Where a new database's first token is written [default: owner.token beside the file].
        #[arg(long, value_name = "FILE")]
        owner_token: Option<PathBuf>,
        /// An origin whose web pages may call; may be repeated.
        #[arg(long = "allow-origin")]
        origins: Vec<String>,
        /// The name that a proxy on this machine calls the relay by.
        #[arg(long)]
        public_name: Option<String>,
        /// What each workspace may have at once: workspace=N, agent:NAME=N, provider:NAME=N, depth=N
        /// or tree=N; may be repeated.
        #[arg(long = "limit", value_name = "WHAT=N")]
        limits: Vec<String>,
        /// What a model costs, or all whose names begin so: MODEL=INPUT,OUTPUT,CACHE_READ,CACHE_WRITE in
        /// US dollars for a million tokens; may be repeated.
        #[arg(long = "price", value_name = "MODEL=USD,...")]
        prices: Vec<String>,
    },
    /// Moves all data of a stopped relay from its SQLite file into an empty PostgreSQL database.
    Migrate {
        /// Where it is: sqlite:FILE.
        #[arg(long)]
        from: String,
        /// Where it goes: postgres://USER:PASSWORD@HOST/NAME.
        #[arg(long, env = "HAYWARD_RELAY_DATABASE", hide_env_values = true)]
        to: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // it is there already only where something installed it before
    drop(rustls::crypto::ring::default_provider().install_default());
    let Arguments { log_format, command } = Arguments::parse();
    let logging = logging(log_format);
    let code = match run(command).await {
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
    };
    logging.end().await;
    code
}

fn logging(format: Format) -> Logging {
    let usual = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    log::begin(Setting {
        service: "hayward-relay",
        // the client of the bus repeats each failed try; the relay tells why, once
        usual: usual.unwrap_or_else(|| "info,async_nats=off".to_owned()),
        format,
        colours: std::io::stderr().is_terminal(),
    })
}

async fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let config = match command {
        Command::Serve {
            listen,
            database,
            bus,
            keys,
            owner_token,
            origins,
            public_name,
            limits,
            prices,
        } => {
            let database: Database = database.parse()?;
            let mut config = Config::new(database, listen);
            let bus = bus.as_deref().map(str::parse::<BusAddress>).transpose()?;
            config.bus = bus.map(|bus| bus.opened_with(*keys));
            limits.iter().try_for_each(|text| config.limits.set(text))?;
            prices.iter().try_for_each(|text| config.prices.set(text))?;
            Config { owner_token, allowed_origins: origins, public_name, ..config }
        }
        Command::Migrate { from, to } => {
            let moved = hayward_relay::migrate(&from.parse()?, &to.parse()?).await?;
            for (table, rows) in moved.tables {
                writeln!(std::io::stdout(), "{table} {rows}")?;
            }
            return Ok(());
        }
    };
    let relay = Relay::start(config).await?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    relay.stop().await;
    Ok(())
}
