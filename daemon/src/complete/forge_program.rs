//! Running the forge's own program, as the user would.

use super::forge::{Forge, Request, address};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long the program may take: a few requests over a slow line.
const PATIENCE: Duration = Duration::from_secs(60);

/// The variables that the program may see: where its own login is, and tokens meant for it.
const PASSED_ON: [&str; 14] = [
    "HOME",
    "USER",
    "LANG",
    "XDG_CONFIG_HOME",
    "SSH_AUTH_SOCK",
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "GH_ENTERPRISE_TOKEN",
    "GH_CONFIG_DIR",
    "GH_HOST",
    "GITLAB_TOKEN",
    "GITLAB_HOST",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// A pull request that could not be opened by a program.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// There is no program for it here.
    #[error("{0}")]
    NoProgram(String),
    /// The program could not be run.
    #[error("{program} could not be run")]
    NotRun {
        program: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The program refused.
    #[error("{program} failed: {stderr}")]
    Failed { program: &'static str, stderr: String },
    /// It did not end.
    #[error("{program} did not answer within {} s; is it logged in?", PATIENCE.as_secs())]
    TimedOut { program: &'static str },
    /// It printed no address.
    #[error("{program} printed no address: {output}")]
    NoAddress { program: &'static str, output: String },
}

/// The pull request of the branch: the one that is open, else a new one.
pub(super) async fn open(
    forge: &Forge,
    request: &Request<'_>,
    search_path: &str,
) -> Result<String, OpenError> {
    let Some(kind) = forge.kind else {
        return Err(OpenError::NoProgram(format!(
            "no program for {} is known; open the pull request at {}",
            forge.host,
            forge.page(request)
        )));
    };
    let name = kind.program();
    let Some(program) = on_path(name, search_path) else {
        let words = kind.open(forge, request).iter().map(|word| quoted(word)).collect::<Vec<_>>();
        return Err(OpenError::NoProgram(format!(
            "{name} is not installed; open the pull request at {}, or install {name} and run: \
             {name} {}",
            forge.page(request),
            words.join(" ")
        )));
    };
    let run = |words: Vec<String>| run(name, program.clone(), words, search_path);
    if let Some(url) = kind.found(&run(kind.find(forge, request)).await?) {
        return Ok(url);
    }
    let output = run(kind.open(forge, request)).await?;
    address(&output).ok_or(OpenError::NoAddress { program: name, output })
}

fn on_path(name: &str, search_path: &str) -> Option<PathBuf> {
    std::env::split_paths(search_path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

async fn run(
    name: &'static str,
    program: PathBuf,
    words: Vec<String>,
    search_path: &str,
) -> Result<String, OpenError> {
    let mine = PASSED_ON.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let environment: Vec<(&str, OsString)> = mine.collect();
    let ran = Command::new(program)
        .args(words)
        .env_clear()
        .envs(environment)
        .env("PATH", search_path)
        .env("GH_PROMPT_DISABLED", "1")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, ran).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(OpenError::NotRun { program: name, source }),
        Err(_) => return Err(OpenError::TimedOut { program: name }),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(OpenError::Failed { program: name, stderr })
}
