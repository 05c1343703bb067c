//! Running the forge's own program, as the user would.

use super::forge::{Forge, Kind, Request, Words, address};
use crate::git::command::redacted_words;
use crate::process::Group;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};
use uuid::Uuid;

/// How long the program may take: a few requests over a slow line.
const PATIENCE: Duration = Duration::from_secs(60);

/// Marks the processes of one call of a program.
const MARK: &str = "HAYWARD_FORGE";

/// How long what it wrote may take to be read once it ended: what left its group may keep a pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is kept of each of its streams, from the end: GitLab tells 5 KiB of each merge request.
const MOST_KEPT: usize = 256 * 1024;

/// What an error shows of them, from the end: a screen of it.
const SHOWN: usize = 2 * 1024;

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

/// The settings that a program documents, the host that is the user's own first.
const fn settings(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::GitHub => ["GH_HOST", "GH_CONFIG_DIR"],
        Kind::GitLab => ["GITLAB_HOST", "GLAB_CONFIG_DIR"],
    }
}

/// The tokens that it documents: one that the user gave the daemon for it is used, as in a shell.
const fn tokens(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::GitHub => {
            &["GH_TOKEN", "GITHUB_TOKEN", "GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"]
        }
        Kind::GitLab => &["GITLAB_TOKEN", "GITLAB_ACCESS_TOKEN", "OAUTH_TOKEN"],
    }
}

/// Those of its tokens that are for `host`. An agent can change the repository's remote, and the
/// program hands a token to whatever host it is told: so a token goes to the host that the user named
/// in the daemon's environment, `own`, or to the program's own.
fn meant_for(kind: Kind, host: &str, own: Option<&str>) -> &'static [&'static str] {
    let own = own.filter(|own| !own.is_empty()).map(|own| {
        let named = own.split_once("://").map_or(own, |(_, rest)| rest);
        named.split(['/', ':']).next().unwrap_or(named)
    });
    let is_own = own.is_some_and(|own| own.eq_ignore_ascii_case(host));
    match (kind, host) {
        _ if is_own => tokens(kind),
        // gh gives the other two to no host but an enterprise's
        (Kind::GitHub, "github.com") => &["GH_TOKEN", "GITHUB_TOKEN"],
        (Kind::GitLab, "gitlab.com") if own.is_none() => tokens(kind),
        _ => &[],
    }
}

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
    let program = Program { kind, path, search_path, host: &forge.host };
    let find = Words { arguments: kind.find(forge, request), input: String::new() };
    if let Some(url) = kind.found(&program.run(find).await?, forge, request) {
        return Ok(url);
    }
    let output = program.run(kind.open(forge, request)).await?;
    address(&output)
        .ok_or_else(|| OpenError::NoAddress { program: name, output: shown(output.as_bytes()) })
}

/// What people may see of what a program said: its end, in one line, without credentials.
fn shown(said: &[u8]) -> String {
    let words = redacted_words(&String::from_utf8_lossy(said));
    let from = words.len().saturating_sub(SHOWN);
    (from..words.len()).find_map(|at| words.get(at..)).unwrap_or_default().to_owned()
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
    /// The host that it is told to go to.
    host: &'a str,
}

/// How it ended, and the end of what it wrote.
struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl Program<'_> {
    /// Runs it to its end; what it printed.
    async fn run(&self, words: Words) -> Result<String, OpenError> {
        let program = self.kind.program();
        match tokio::time::timeout(PATIENCE, self.converse(words)).await {
            Ok(Ok(ended)) if ended.status.success() => {
                Ok(String::from_utf8_lossy(&ended.output).into_owned())
            }
            Ok(Ok(ended)) => {
                Err(OpenError::Failed { program, stderr: shown(&ended.errors) + &self.hint() })
            }
            Ok(Err(source)) => Err(OpenError::NotRun { program, source }),
            Err(_) => Err(OpenError::TimedOut { program }),
        }
    }

    fn meant(&self) -> &'static [&'static str] {
        let own = std::env::var(settings(self.kind)[0]).ok();
        meant_for(self.kind, self.host, own.as_deref())
    }

    /// What a user must know whose token was not given to the program.
    fn hint(&self) -> String {
        let (own, host) = (settings(self.kind)[0], self.host);
        let mut set = tokens(self.kind).iter().filter(|name| std::env::var_os(name).is_some());
        match set.next().filter(|_| self.meant().is_empty()) {
            Some(name) => format!(
                "; {name} was not given to it: if {host} is yours, start the daemon with {own}={host}"
            ),
            None => String::new(),
        }
    }

    fn command(&self, arguments: &[String]) -> Command {
        let own = settings(self.kind);
        let names = PASSED_ON.iter().chain(&own).chain(self.meant());
        let environment: Vec<(&str, OsString)> =
            names.filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .env_clear()
            .envs(environment)
            .env("PATH", self.search_path)
            .env("GH_PROMPT_DISABLED", "1")
            .env("NO_PROMPT", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, and ends what it left running, wherever that went.
    async fn converse(&self, words: Words) -> io::Result<Ended> {
        let mark = Uuid::now_v7().to_string();
        let mut command = self.command(&words.arguments);
        let mut group = Group::spawn_marked(&mut command, MARK, &mark)?;
        let child = group.child();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let status = {
            let mut talk = pin!(async {
                // one that reads no further says why by its exit code
                let (_, told, complained) = tokio::join!(
                    feed(stdin, &words.input),
                    keep_end(stdout, &mut output),
                    keep_end(stderr, &mut errors)
                );
                told.and(complained)
            });
            let mut end = pin!(group.ended());
            tokio::select! {
                heard = &mut talk => {
                    heard?;
                    end.await?
                }
                status = &mut end => {
                    if let Ok(heard) = tokio::time::timeout(LAST_WORDS, talk).await {
                        heard?;
                    }
                    status?
                }
            }
        };
        Ok(Ended { status, output, errors })
    }
}

async fn feed(pipe: Option<ChildStdin>, text: &str) -> io::Result<()> {
    match pipe {
        Some(mut pipe) => pipe.write_all(text.as_bytes()).await,
        None => Ok(()),
    }
}

/// Reads all, and keeps at least the last [`MOST_KEPT`] bytes, at the most twice that.
async fn keep_end(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = [0_u8; 4096];
    loop {
        let count = pipe.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        kept.extend(chunk.iter().take(count));
        if kept.len() > 2 * MOST_KEPT {
            kept.drain(..kept.len() - MOST_KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_the_host_of_the_user_or_of_the_program_alone() {
        let github = |host, own| meant_for(Kind::GitHub, host, own);
        assert_eq!(github("github.com", None), ["GH_TOKEN", "GITHUB_TOKEN"]);
        assert_eq!(github("github.com", Some("ghe.corp")), ["GH_TOKEN", "GITHUB_TOKEN"]);
        assert_eq!(github("github.corp", Some("GitHub.corp")), tokens(Kind::GitHub));
        for host in ["github.evil", "github.com.evil", "github.corp.evil", "evil-github.corp"] {
            assert!(github(host, None).is_empty() && github(host, Some("github.corp")).is_empty());
        }
        let gitlab = |host, own| meant_for(Kind::GitLab, host, own);
        assert_eq!(gitlab("gitlab.com", None), tokens(Kind::GitLab));
        for own in ["gitlab.corp", "https://gitlab.corp/", "gitlab.corp:8443"] {
            assert_eq!(gitlab("gitlab.corp", Some(own)), tokens(Kind::GitLab), "{own}");
            assert!(gitlab("gitlab.com", Some(own)).is_empty());
            assert!(gitlab("gitlab.evil", Some(own)).is_empty());
        }
        assert!(gitlab("gitlab.evil", None).is_empty());
    }

    #[test]
    fn what_is_shown_is_short_and_holds_no_credential() {
        assert_eq!(shown("no\n  https://u:t@h/r é".as_bytes()), "no https://***@h/r é");
        assert!(shown("é".repeat(SHOWN).as_bytes()).len() <= SHOWN);
        assert_eq!(shown(b""), "");
    }
}
