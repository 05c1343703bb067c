//! The `hayward` program.

mod cli;
mod client;
mod exit;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // these two are processes of their own that must touch as little as possible
    if let [_, word, folder] = arguments.as_slice() {
        if word == "keeper" {
            return keep(Path::new(folder));
        }
        if word == hayward_daemon::keeper::BECOME_AGENT {
            let fault = hayward_daemon::keeper::become_agent(Path::new(folder));
            eprintln!("hayward: {fault}");
            return ExitCode::from(127);
        }
    }
    ExitCode::from(cli::main(arguments))
}

fn keep(folder: &Path) -> ExitCode {
    match hayward_daemon::keeper::run(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("hayward keeper: {}", exit::chain(&fault));
            ExitCode::FAILURE
        }
    }
}
