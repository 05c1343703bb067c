//! Running the forge's own program, as the user would.

use super::forge::{Forge, Kind, Request, Words, address};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long the program may take: a few requests over a slow line.
const PATIENCE: Duration = Duration::from_secs(60);

/// The variables that either program may see: who the user is, where the keyring is that holds the
/// login, how the network is reached.
const PASSED_ON: [&str; 20] = [
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_AUTH_SOCK",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Those that `gh` documents: a token that the user gave the daemon for it is used, as in a shell.
const OF_GH: [&str; 6] = [
    "GH_HOST",
    "GH_CONFIG_DIR",
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "GH_ENTERPRISE_TOKEN",
    "GITHUB_ENTERPRISE_TOKEN",
];

/// Those that `glab` documents.
const OF_GLAB: [&str; 5] =
    ["GITLAB_HOST", "GLAB_CONFIG_DIR", "GITLAB_TOKEN", "GITLAB_ACCESS_TOKEN", "OAUTH_TOKEN"];

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
    let Some(path) = on_path(name, search_path) else {
        let words = kind.by_hand(forge, request);
        let words = words.iter().map(|word| quoted(word)).collect::<Vec<_>>();
        return Err(OpenError::NoProgram(format!(
            "{name} is not installed; open the pull request at {}, or install {name} and run: \
             {name} {}",
            forge.page(request),
            words.join(" ")
        )));
    };
    let program = Program { kind, path, search_path };
    let find = Words { arguments: kind.find(forge, request), input: String::new() };
    if let Some(url) = kind.found(&program.run(find).await?, forge, request) {
        return Ok(url);
    }
    let output = program.run(kind.open(forge, request)).await?;
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

/// A forge's program as it is installed here.
struct Program<'a> {
    kind: Kind,
    path: PathBuf,
    search_path: &'a str,
}

impl Program<'_> {
    /// Runs it to its end; what it printed.
    async fn run(&self, words: Words) -> Result<String, OpenError> {
        let program = self.kind.program();
        match tokio::time::timeout(PATIENCE, self.converse(words)).await {
            Ok(Ok(output)) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(Ok(output)) => {
                let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(OpenError::Failed { program, stderr })
            }
            Ok(Err(source)) => Err(OpenError::NotRun { program, source }),
            Err(_) => Err(OpenError::TimedOut { program }),
        }
    }

    async fn converse(&self, words: Words) -> std::io::Result<Output> {
        let own: &[&str] = match self.kind {
            Kind::GitHub => &OF_GH,
            Kind::GitLab => &OF_GLAB,
        };
        let names = PASSED_ON.iter().chain(own);
        let environment: Vec<(&str, OsString)> =
            names.filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
        let mut child = Command::new(&self.path)
            .args(words.arguments)
            .env_clear()
            .envs(environment)
            .env("PATH", self.search_path)
            .env("GH_PROMPT_DISABLED", "1")
            .env("NO_PROMPT", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take();
        let feed = async move {
            match input {
                Some(mut pipe) => pipe.write_all(words.input.as_bytes()).await,
                None => Ok(()),
            }
        };
        // one that reads no further says why by its exit code
        let (_, output) = tokio::join!(feed, child.wait_with_output());
        output
    }
}
