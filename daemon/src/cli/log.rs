//! How the commands that serve say what happens, on stderr.

use super::compose;
use super::context::Context;
use hayward_edge::log::{self, Format, Logging, Setting};
use std::io::IsTerminal;

/// How the log looks. What is in it says `HAYWARD_LOG`.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct LogArgs {
    /// How the log on stderr looks: text, or json for one object a line
    #[arg(long, value_name = "FORMAT", env = "HAYWARD_LOG_FORMAT", default_value_t)]
    pub(crate) log_format: Format,
}

/// Begins to log: what `HAYWARD_LOG` asks for, else warnings on a terminal and more in a file.
pub(crate) fn begin(args: LogArgs, service: &'static str, context: &Context) -> Logging {
    let is_terminal = std::io::stderr().is_terminal();
    let level = match (context.is_verbose(), is_terminal) {
        (true, _) => "debug",
        (false, true) => "warn",
        (false, false) => "info",
    };
    let usual = compose::usual_log(level);
    log::begin(Setting { service, usual, format: args.log_format, colours: is_terminal })
}
