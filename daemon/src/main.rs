//! The `hayward` program.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [word, folder] if word == "keeper" => {
            match hayward_daemon::keeper::run(Path::new(folder)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(fault) => {
                    eprintln!("hayward keeper: {fault}{}", cause(&fault));
                    ExitCode::FAILURE
                }
            }
        }
        [word, folder] if word == hayward_daemon::keeper::BECOME_AGENT => {
            let fault = hayward_daemon::keeper::become_agent(Path::new(folder));
            eprintln!("hayward: {fault}");
            ExitCode::from(127)
        }
        _ => ExitCode::FAILURE,
    }
}

fn cause(fault: &dyn Error) -> String {
    fault.source().map(|source| format!(": {source}")).unwrap_or_default()
}
