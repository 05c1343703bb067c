//! The search path as the user's login shell has it.
//!
//! A service starts with a bare PATH, while version managers put agents on it in files that only
//! an interactive shell reads. So that shell is asked, once, and not for long.

use super::environment::Variables;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use portable_pty::CommandBuilder;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// How long the shell may take. Slow ones take two seconds; what takes more than this hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The longest output that is read: greetings, then a PATH.
const OUTPUT_BYTES: usize = 256 * 1024;

/// What a shell needs to start as the user's. No secret of the daemon is for the user's files.
const NEEDED: [&str; 7] = ["HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "TMPDIR"];

/// Why the login shell told no path.
#[derive(Debug, thiserror::Error)]
pub enum Silent {
    /// It could not be started.
    #[error("the login shell '{shell}' could not be started")]
    NotStarted {
        /// Its program.
        shell: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long and was ended.
    #[error("the login shell '{shell}' said nothing for {} s: does it wait for input?", patience.as_secs())]
    Hangs {
        /// Its program.
        shell: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It ended without telling a path.
    #[error("the login shell '{shell}' ended without telling its PATH")]
    NoPath {
        /// Its program.
        shell: String,
    },
}

/// Asks the user's shell for its PATH, as a login shell and as a mere interactive one: bash reads
/// other files for each. Both are ended, with all they started, after `patience`. `parent` is the
/// daemon's environment.
///
/// # Errors
/// [`Silent`] says why nothing was learnt; the daemon's own PATH then has to do.
pub async fn login_path(parent: &Variables, patience: Duration) -> Result<String, Silent> {
    let login = ask(parent, &["-l", "-i", "-c"], patience);
    let interactive = ask(parent, &["-i", "-c"], patience);
    match tokio::join!(login, interactive) {
        (Ok(login), Ok(interactive)) => Ok(joined(&login, &interactive)),
        (Ok(path), Err(_)) | (Err(_), Ok(path)) => Ok(path),
        (Err(silent), Err(_)) => Err(silent),
    }
}

async fn ask(parent: &Variables, flags: &[&str], patience: Duration) -> Result<String, Silent> {
    let shell = shell_of(parent);
    let mark = uuid::Uuid::new_v4().simple().to_string();
    // printenv, because shells differ in how they spell and join $PATH
    let script = format!("printf '%s\\n' {mark}; printenv PATH; printf '%s\\n' {mark}");
    let mut command = detached(&shell);
    command.args(flags).arg(&script).env_clear().env("TERM", "dumb");
    command.envs(NEEDED.iter().filter_map(|name| Some((*name, parent.get(*name)?))));
    command.env("SHELL", &shell);
    let mut group = Group::start(&mut command)
        .map_err(|source| Silent::NotStarted { shell: shell.clone(), source })?;
    let told = |output: &[u8]| between(output, &mark).is_some();
    match tokio::time::timeout(patience, group.output(OUTPUT_BYTES, told)).await {
        Ok(output) => between(&output, &mark).ok_or(Silent::NoPath { shell }),
        Err(_) => Err(Silent::Hangs { shell, patience }),
    }
}

/// The daemon's search path, then what the login shell has besides.
#[must_use]
pub fn joined(own: &str, login: &str) -> String {
    let mut folders: Vec<&str> = Vec::new();
    for folder in own.split(':').chain(login.split(':')) {
        if !folder.is_empty() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.join(":")
}

/// `SHELL`, else the one that the user database names.
fn shell_of(parent: &Variables) -> String {
    let mut builder = CommandBuilder::new_default_prog();
    match parent.get("SHELL").filter(|shell| Path::new(shell).is_absolute()) {
        Some(shell) => builder.env("SHELL", shell),
        None => builder.env_remove("SHELL"),
    }
    builder.get_shell()
}

fn between(output: &[u8], mark: &str) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let (_, rest) = text.split_once(mark)?;
    let (path, _) = rest.split_once(mark)?;
    let path = path.trim();
    (!path.is_empty()).then(|| path.to_owned())
}

/// A command without our terminal: an interactive shell in the background of one would be stopped
/// by it. Where no `setsid` program exists, a process group of its own has to do.
fn detached(program: &str) -> Command {
    const SETSID: &str = "/usr/bin/setsid";
    if Path::new(SETSID).exists() {
        let mut command = Command::new(SETSID);
        command.arg(program);
        command
    } else {
        let mut command = Command::new(program);
        command.process_group(0);
        command
    }
}

/// A process that leads a group of its own, and the only owner of that group: dropped, it is killed,
/// and what it started is told that its terminal hung up and to end, so that it may put back what it
/// holds: a version manager that is killed leaves a lock that slows every later shell. It stands
/// still while it is told: what it would start at the first word, to put things back, would be ended
/// by the second. What left the group by itself, or takes no such word, is not followed.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    pid: Option<Pid>,
}

impl Group {
    /// Starts `command` with no input and its output read by [`Group::output`]; standard error is
    /// dropped. It must lead its group.
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        Ok(Self { child, pid })
    }

    /// Its output until it ends, `limit` is reached, or `enough` says so. A child of it that keeps
    /// the output open is not waited for longer than the process itself.
    pub(super) async fn output(&mut self, limit: usize, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut output = Vec::new();
        let Some(mut stdout) = self.child.stdout.take() else { return output };
        let read = read_until(&mut stdout, &mut output, limit, &enough);
        let ended = tokio::select! {
            () = read => false,
            _ = self.child.wait() => true,
        };
        if ended {
            // What it wrote before it ended is in the pipe already.
            let rest = read_until(&mut stdout, &mut output, limit, &enough);
            drop(tokio::time::timeout(Duration::from_millis(200), rest).await);
        }
        output
    }

    /// Waits for its end.
    pub(super) async fn success(&mut self) -> bool {
        self.child.wait().await.is_ok_and(|status| status.success())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // Gone already is the usual case. Who ignores that a terminal hung up, as a daemon under
            // nohup hands that on, hears the next.
            let words = [Signal::SIGSTOP, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGCONT];
            for signal in words {
                killpg(pid, signal).unwrap_or_default();
            }
        }
    }
}

async fn read_until(
    from: &mut (impl AsyncRead + Unpin),
    output: &mut Vec<u8>,
    limit: usize,
    enough: &impl Fn(&[u8]) -> bool,
) {
    let mut chunk = [0; 4096];
    while output.len() < limit && !enough(output) {
        let room = chunk.len().min(limit - output.len());
        match from.read(&mut chunk[..room]).await {
            Ok(0) | Err(_) => return,
            Ok(count) => output.extend_from_slice(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_shells_folders_come_after_the_daemons_own() {
        assert_eq!(joined("/a:/b", "/b:/c::/a"), "/a:/b:/c");
        assert_eq!(joined("", "/c"), "/c");
        assert_eq!(joined("/a", ""), "/a");
    }

    #[test]
    fn greetings_around_the_path_are_passed_over() {
        assert_eq!(between(b"hello M\n/a:/b\nM\nbye", "M").as_deref(), Some("/a:/b"));
        assert_eq!(between(b"hello M\n/a:/b", "M"), None);
        assert_eq!(between(b"M\nM\n", "M"), None);
    }
}
