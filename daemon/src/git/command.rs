//! The one place that starts git: a hermetic command, bounded in time and output.
//!
//! Only this file may name the git program. A repository's configuration can name programs to run
//! (hooks, fsmonitor, filters, merge drivers, ssh commands); agents can write that configuration,
//! so every command overrides all of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// The variables of our own environment that git may see. None of them is git's.
const PASSED_ON: [&str; 8] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK"];

/// How long a command may take: a checkout of 90,000 files took 30 s where we measured.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// How often a command that writes objects is tried: a gc does not meet it four times.
pub(super) const OBJECT_TRIES: u32 = 4;

/// The most standard output kept: a status of half a million long paths fits.
const MAX_STDOUT: u64 = 64 * 1024 * 1024;

/// The most of standard error kept, from its end: git's reason stands last.
const STDERR_TAIL: usize = 8 * 1024;

/// Configuration that overrides whatever the machine, the user or the repository set.
const OVERRIDES: [(&str, &str); 21] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "keep"),
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

/// A git command that did not do what it was asked.
#[derive(Debug)]
pub struct CommandError {
    /// The command as people may see it: credentials in addresses are blotted out.
    pub command: String,
    /// The folder in which it ran.
    pub folder: PathBuf,
    /// What went wrong.
    pub fault: Fault,
}

/// What went wrong with a git command.
#[derive(Debug)]
pub enum Fault {
    /// It could not be started; [`io::ErrorKind::NotFound`] means that git is not installed or
    /// that the folder is gone.
    NotStarted(io::Error),
    /// It ran longer than allowed and was killed with all that it had started.
    TimedOut(Duration),
    /// It ended with an exit code that is no success; no code when a signal ended it.
    Failed {
        /// The exit code.
        code: Option<i32>,
        /// The end of its standard error.
        stderr: String,
    },
    /// It wrote more than we keep.
    TooMuchOutput,
    /// Talking to it failed.
    Broken(io::Error),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, folder) = (&self.command, self.folder.display());
        match &self.fault {
            Fault::NotStarted(cause) if cause.kind() == io::ErrorKind::NotFound => {
                write!(
                    f,
                    "`{command}` could not start: install git, and check that {folder} exists"
                )
            }
            Fault::NotStarted(_) => write!(f, "`{command}` could not start in {folder}"),
            Fault::TimedOut(limit) => {
                write!(f, "`{command}` in {folder} took over {} s and was ended", limit.as_secs())
            }
            Fault::Failed { code: Some(code), stderr } => {
                write!(f, "`{command}` in {folder} failed with code {code}: {}", stderr.trim())
            }
            Fault::Failed { code: None, stderr } => {
                write!(f, "`{command}` in {folder} was killed: {}", stderr.trim())
            }
            Fault::TooMuchOutput => {
                write!(f, "`{command}` in {folder} wrote over {} MiB", MAX_STDOUT >> 20)
            }
            Fault::Broken(_) => write!(f, "`{command}` in {folder} broke off"),
        }
    }
}

impl std::error::Error for CommandError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::NotStarted(cause) | Fault::Broken(cause) => Some(cause),
            Fault::TimedOut(_) | Fault::Failed { .. } | Fault::TooMuchOutput => None,
        }
    }
}

impl CommandError {
    /// What git said before it failed, empty when it said nothing.
    #[must_use]
    pub fn stderr(&self) -> &str {
        match &self.fault {
            Fault::Failed { stderr, .. } => stderr,
            _ => "",
        }
    }

    /// Whether a disk or quota was full: the C library's words, which `LC_ALL=C` holds still.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        ["No space left on device", "Disk quota exceeded"]
            .iter()
            .any(|words| self.stderr().contains(words))
    }
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

    /// Runs the command again, a few times at the most, when git gives up (code 128): only for one
    /// that writes objects and may be repeated. A gc of the user's removes the folders of the object
    /// store that are empty just then, and git fails when that meets a write twice.
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
                Err(CommandError { fault: Fault::Failed { code: Some(128), stderr }, .. })
                    if self.tries > 0 =>
                {
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
        .map_err(|cause| self.failed(Fault::Broken(io::Error::other(cause))))?;
        let mut child = self
            .assemble(named)
            .spawn()
            .map(Group)
            .map_err(|cause| self.failed(Fault::NotStarted(cause)))?;
        let ended = tokio::time::timeout(self.timeout, converse(&mut child.0, &self.stdin)).await;
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
            code => Err(self.failed(Fault::Failed { code, stderr })),
        }
    }

    fn assemble(&self, named: BTreeMap<String, String>) -> Command {
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
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let all = named.into_iter().chain(fixed).chain(self.config.iter().cloned());
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
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
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

/// A child that leads a process group; dropping it kills the group unless the child was reaped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok())
            && let Err(cause) = killpg(Pid::from_raw(pid), Signal::SIGKILL)
        {
            tracing::debug!(pid, %cause, "a git process group was gone before it was killed");
        }
    }
}

/// Feeds the child, reads it to its end, and reaps it last, so that its group id stays its own.
async fn converse(
    child: &mut Child,
    input: &[u8],
) -> io::Result<(Vec<u8>, String, std::process::ExitStatus)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        match stdin {
            Some(mut pipe) => match pipe.write_all(input).await {
                // a command that reads no further says why by its exit code
                Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(cause),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    };
    let read = async {
        let mut bytes = Vec::new();
        if let Some(pipe) = stdout {
            pipe.take(MAX_STDOUT + 1).read_to_end(&mut bytes).await?;
        }
        Ok(bytes)
    };
    let listen = async {
        match stderr {
            Some(pipe) => tail(pipe).await,
            None => Ok(String::new()),
        }
    };
    let ((), stdout, stderr) = tokio::try_join!(feed, read, listen)?;
    Ok((stdout, stderr, child.wait().await?))
}

async fn tail(mut pipe: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        let count = pipe.read(&mut chunk).await?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(&chunk[..count]);
        let surplus = kept.len().saturating_sub(STDERR_TAIL);
        kept.drain(..surplus);
    }
}

/// Every program that the configuration seen from `folder` names for filters and merges, with
/// what disarms it. A file that cannot be read names nothing: git itself will then refuse it.
fn named_programs(folder: &Path) -> BTreeMap<String, String> {
    let mut disarmed = BTreeMap::new();
    let Ok(repository) = git2::Repository::open(folder) else { return disarmed };
    let mut configs = Vec::from_iter(repository.config());
    for folder in [repository.commondir(), repository.path()] {
        configs.extend(git2::Config::open(&folder.join("config.worktree")));
    }
    for config in &configs {
        let Ok(mut entries) = config.entries(None) else { continue };
        while let Some(Ok(entry)) = entries.next() {
            if let Ok(name) = entry.name() {
                disarm(name, &mut disarmed);
            }
        }
    }
    disarmed
}

fn disarm(key: &str, disarmed: &mut BTreeMap<String, String>) {
    let (Some((section, rest)), Some((driver, setting))) =
        (key.split_once('.'), key.rsplit_once('.'))
    else {
        return;
    };
    let Some(name) = driver.strip_prefix(section).and_then(|name| name.strip_prefix('.')) else {
        return;
    };
    match (section, setting) {
        ("filter", _) if !rest.is_empty() => {
            for (setting, value) in
                [("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")]
            {
                disarmed.insert(format!("filter.{name}.{setting}"), value.to_owned());
            }
        }
        // an empty driver would take our side silently: `false` reports a conflict instead
        ("merge", "driver") => {
            disarmed.insert(key.to_owned(), "false".to_owned());
        }
        ("credential", "helper") => {
            disarmed.insert(key.to_owned(), String::new());
        }
        _ => {}
    }
}

/// The address without what may be a credential: what stands between `://` and `@`, and whatever
/// follows a `?` or `#`.
#[must_use]
pub fn redacted(arg: &str) -> String {
    let Some((scheme, rest)) = arg.split_once("://") else { return arg.to_owned() };
    let plain = rest.find(['?', '#']).map_or(rest, |at| &rest[..at]);
    let more = if plain.len() < rest.len() { "?***" } else { "" };
    let authority = plain.split('/').next().unwrap_or(plain);
    match authority.rfind('@') {
        Some(at) => format!("{scheme}://***{}{more}", &plain[at..]),
        None => format!("{scheme}://{plain}{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_addresses_are_blotted_out() {
        assert_eq!(redacted("https://me:token@host/a@b"), "https://***@host/a@b");
        assert_eq!(redacted("https://host/a@b"), "https://host/a@b");
        assert_eq!(redacted("https://host/r?private_token=x"), "https://host/r?***");
        assert_eq!(redacted("plain"), "plain");
    }

    #[test]
    fn f43_every_named_program_is_disarmed() {
        let mut disarmed = BTreeMap::new();
        for key in ["filter.a.b=c.clean", "merge.npm.driver", "merge.tool", "core.bare"] {
            disarm(key, &mut disarmed);
        }
        let keys: Vec<_> = disarmed.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "filter.a.b=c.clean",
                "filter.a.b=c.process",
                "filter.a.b=c.required",
                "filter.a.b=c.smudge",
                "merge.npm.driver",
            ]
        );
    }

    #[tokio::test]
    async fn a_command_past_its_time_is_killed_with_its_children() {
        let scratch = tempfile::tempdir().unwrap();
        let marker = scratch.path().join("pid");
        let alias = format!("!sleep 60 & echo $! > {}; wait", marker.display());
        let failure = Git::in_worktree(scratch.path())
            .config("alias.linger", &alias)
            .arg("linger")
            .timeout(Duration::from_millis(700))
            .run()
            .await
            .unwrap_err();
        assert!(matches!(failure.fault, Fault::TimedOut(_)), "{failure}");
        let pid: i32 = std::fs::read_to_string(&marker).unwrap().trim().parse().unwrap();
        let gone = || nix::sys::signal::kill(Pid::from_raw(pid), None).is_err() || is_zombie(pid);
        for _ in 0..100 {
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
    async fn a_failure_names_command_folder_and_reason() {
        let scratch = tempfile::tempdir().unwrap();
        let failure =
            Git::in_worktree(scratch.path()).args(["rev-parse", "HEAD"]).run().await.unwrap_err();
        let said = failure.to_string();
        assert!(said.contains("git rev-parse HEAD"), "{said}");
        assert!(said.contains("not a git repository"), "{said}");
    }
}
