//! The one place that starts git: a hermetic command, bounded in time and output.
//!
//! Only this file may name the git program. A repository's configuration can name programs to run
//! (hooks, fsmonitor, filters, merge drivers, ssh commands); agents can write that configuration,
//! so every command overrides all of it.

mod disarm;
mod error;
mod orphans;
mod redact;
mod talk;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::hidden::tells_case;
use crate::process::Group;
use disarm::{Disarmed, named_programs};
use error::{DISK_FULL, is_full};
use orphans::{STARTER, starter};
use talk::{MAX_STDOUT, converse};

pub use error::{CommandError, Fault};
pub use orphans::orphans_ended;
pub use redact::{redacted, redacted_words};

/// The variables of our own environment that git may see. None of them is git's.
const PASSED_ON: [&str; 8] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK"];

/// How long a command may take: a checkout of 90,000 files took 30 s where we measured.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// How often a command that writes objects is tried: a gc does not meet it four times.
pub(super) const OBJECT_TRIES: u32 = 4;

/// Configuration that overrides whatever the machine, the user or the repository set.
const OVERRIDES: [(&str, &str); 23] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "keep"),
    // whoever has git ignore changes would lose an agent's work
    ("core.ignoreStat", "false"),
    // libgit2 reads no index in parts
    ("core.splitIndex", "false"),
    ("core.sshCommand", "ssh"),
    ("core.askPass", ""),
    ("core.alternateRefsCommand", "true"),
    ("core.pager", "cat"),
    ("core.safecrlf", "false"),
    ("core.quotePath", "false"),
    ("credential.helper", ""),
    ("credential.interactive", "false"),
    ("diff.external", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("commit.gpgSign", "false"),
    ("tag.gpgSign", "false"),
    ("protocol.ext.allow", "never"),
    ("submodule.recurse", "false"),
    // libgit2 refuses a repository whose worktrees are recorded by relative paths
    ("worktree.useRelativePaths", "false"),
    ("worktree.guessRemote", "false"),
    ("branch.autoSetupMerge", "false"),
];

/// A git command being put together. [`Git::run`] starts it.
#[derive(Clone, Debug)]
pub struct Git {
    folder: PathBuf,
    git_dir: Option<PathBuf>,
    args: Vec<OsString>,
    config: Vec<(String, String)>,
    environment: Vec<(&'static str, OsString)>,
    stdin: Vec<u8>,
    timeout: Duration,
    accepted: &'static [i32],
    hooks: bool,
    tries: u32,
}

/// What a command that ended as expected wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, one of those accepted.
    pub code: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error, at most 8 KiB.
    pub stderr: String,
}

impl Git {
    /// A command on the repository whose common (or bare) folder is `git_dir`.
    #[must_use]
    pub fn on_repository(git_dir: &Path) -> Self {
        Self { git_dir: Some(git_dir.to_owned()), ..Self::bare(git_dir) }
    }

    /// A command in the worktree at `path`. Git never looks for a repository above it, so a
    /// worktree that lost its `.git` file fails instead of acting on an outer checkout.
    #[must_use]
    pub fn in_worktree(path: &Path) -> Self {
        let mut git = Self::bare(path);
        if let Some(parent) = path.parent() {
            git.environment.push(("GIT_CEILING_DIRECTORIES", parent.as_os_str().to_owned()));
        }
        git
    }

    fn bare(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            git_dir: None,
            args: Vec::new(),
            config: Vec::new(),
            environment: Vec::new(),
            stdin: Vec::new(),
            timeout: TIMEOUT,
            accepted: &[0],
            hooks: false,
            tries: 1,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one configuration value for this command, after all that the builder sets.
    #[must_use]
    pub fn config(mut self, key: &str, value: &str) -> Self {
        self.config.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Who stands in the reflog, and in a commit, as its committer.
    #[must_use]
    pub fn committer(mut self, name: &str, email: &str) -> Self {
        self.environment.push(("GIT_COMMITTER_NAME", name.into()));
        self.environment.push(("GIT_COMMITTER_EMAIL", email.into()));
        self
    }

    /// When a commit says that it was written, in seconds since 1970, in UTC.
    #[must_use]
    pub fn dated(mut self, at: i64) -> Self {
        for name in ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"] {
            self.environment.push((name, format!("@{at} +0000").into()));
        }
        self
    }

    /// Bytes for its standard input; without them it reads nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = bytes;
        self
    }

    /// Another time limit than [`TIMEOUT`].
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// The exit codes that are no failure; 0 alone unless told.
    #[must_use]
    pub fn accept(mut self, codes: &'static [i32]) -> Self {
        self.accepted = codes;
        self
    }

    /// Lets the repository's hooks run: only for an operation that the user asked for as such.
    #[must_use]
    pub fn with_hooks(mut self) -> Self {
        self.hooks = true;
        self
    }

    /// Runs the command again, a few times at the most, when git gives up (code 128, or 1): only for
    /// one that writes objects and may be repeated. A gc of the user's removes the folders of the
    /// object store that are empty just then, and git fails when that meets a write twice.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.tries = OBJECT_TRIES;
        self
    }

    /// Runs the command to its end. Dropping the future kills its whole process group.
    ///
    /// # Errors
    /// [`CommandError`] when it cannot start, times out, writes too much, or ends with an exit
    /// code that was not accepted.
    pub async fn run(mut self) -> Result<Output, CommandError> {
        loop {
            self.tries -= 1;
            match self.run_once().await {
                Err(CommandError {
                    fault: Fault::Failed { code: Some(1 | 128), stderr }, ..
                }) if self.tries > 0 => {
                    tracing::debug!(stderr, "git gave up and is asked again");
                }
                ended => return ended,
            }
        }
    }

    async fn run_once(&self) -> Result<Output, CommandError> {
        let (folder, git_dir) = (self.folder.clone(), self.git_dir.clone());
        let named = tokio::task::spawn_blocking(move || {
            named_programs(git_dir.as_deref().unwrap_or(&folder))
        })
        .await
        .map_err(|cause| self.failed(Fault::Broken(io::Error::other(cause))))?
        .map_err(|cause| self.failed(Fault::Unsafe(Box::new(cause))))?;
        let mut group = Group::spawn(&mut self.assemble(named))
            .map_err(|cause| self.failed(Fault::NotStarted(cause)))?;
        let talk = converse(group.child(), &self.stdin);
        let ended = tokio::time::timeout(self.timeout, talk).await;
        let (stdout, stderr, status) = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(cause)) => return Err(self.failed(Fault::Broken(cause))),
            Err(_) => return Err(self.failed(Fault::TimedOut(self.timeout))),
        };
        if stdout.len() as u64 > MAX_STDOUT {
            return Err(self.failed(Fault::TooMuchOutput));
        }
        match status.code() {
            Some(code) if self.accepted.contains(&code) => Ok(Output { code, stdout, stderr }),
            code => {
                let mut stderr = stderr;
                if is_full(&self.folder, &stderr) {
                    stderr.push_str(&format!("{DISK_FULL} at {}", self.folder.display()));
                }
                Err(self.failed(Fault::Failed { code, stderr }))
            }
        }
    }

    fn assemble(&self, named: Disarmed) -> Command {
        let mut command = Command::new("git");
        command.args(["--no-pager", "--no-optional-locks", "--literal-pathspecs"]);
        if let Some(git_dir) = &self.git_dir {
            command.arg("--git-dir").arg(git_dir);
        }
        command.args(&self.args).current_dir(&self.folder).env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env(STARTER, starter())
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_EDITOR", "true")
            .env("GIT_SEQUENCE_EDITOR", "true")
            .env("GIT_PAGER", "cat")
            // empty: no program between git and the network
            .env("GIT_PROXY_COMMAND", "")
            .envs(self.environment.iter().map(|(name, value)| (*name, value)));
        let fixed = OVERRIDES
            .iter()
            .filter(|(key, _)| !(self.hooks && *key == "core.hooksPath"))
            .map(|(key, value)| (OsString::from(key), OsString::from(value)));
        let named = named.into_iter().map(|(key, value)| (key, value.into()));
        let own = self.config.iter().map(|(key, value)| (key.into(), value.into()));
        let case = tells_case(&self.folder).then(|| ("core.ignoreCase".into(), "false".into()));
        let all = named.chain(fixed).chain(case).chain(own);
        let mut count = 0_usize;
        for (key, value) in all {
            command.env(format!("GIT_CONFIG_KEY_{count}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command
            .env("GIT_CONFIG_COUNT", count.to_string())
            .stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn failed(&self, fault: Fault) -> CommandError {
        let mut command = String::from("git");
        for arg in &self.args {
            command.push(' ');
            command.push_str(&redacted(&arg.to_string_lossy()));
        }
        CommandError { command, folder: self.folder.clone(), fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    #[tokio::test]
    async fn a_command_past_its_time_is_killed_with_its_children() {
        let scratch = tempfile::tempdir().unwrap();
        let marker = scratch.path().join("pid");
        let alias = format!("!sleep 600 & echo $! > {}; wait", marker.display());
        let mut child: Option<i32> = None;
        // on a machine that stands still for a moment the first may be over before git runs
        for limit in [700, 5_000, 30_000] {
            let failure = Git::in_worktree(scratch.path())
                .config("alias.linger", &alias)
                .arg("linger")
                .timeout(Duration::from_millis(limit))
                .run()
                .await
                .unwrap_err();
            assert!(matches!(failure.fault, Fault::TimedOut(_)), "{failure}");
            child = std::fs::read_to_string(&marker).ok().and_then(|text| text.trim().parse().ok());
            if child.is_some() {
                break;
            }
        }
        let pid = child.unwrap();
        let gone = || nix::sys::signal::kill(Pid::from_raw(pid), None).is_err() || is_zombie(pid);
        for _ in 0..3_000 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the child of a killed git lives on");
    }

    fn is_zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[tokio::test]
    async fn f22_what_writes_objects_is_run_again_whichever_way_git_gives_up() {
        for code in [1, 128] {
            let scratch = tempfile::tempdir().unwrap();
            let alias = format!("!echo run >> runs; test $(wc -l < runs) -ge 3 || exit {code}");
            let git =
                || Git::in_worktree(scratch.path()).config("alias.flaky", &alias).arg("flaky");
            assert!(git().run().await.is_err(), "{code}");
            git().again().run().await.unwrap();
            let runs = std::fs::read_to_string(scratch.path().join("runs")).unwrap();
            assert_eq!(runs.lines().count(), 3, "{code}");
        }
    }

    #[tokio::test]
    async fn a_failure_names_command_folder_and_reason() {
        let scratch = tempfile::tempdir().unwrap();
        let failure =
            Git::in_worktree(scratch.path()).args(["rev-parse", "HEAD"]).run().await.unwrap_err();
        let said = failure.to_string();
        assert!(said.contains("git rev-parse HEAD"), "{said}");
        assert!(said.contains("not a git repository"), "{said}");
    }
}
