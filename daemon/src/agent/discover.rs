//! Which agents this machine has: where, which version, and whether they answer.

use super::Runtime;
use super::environment::Variables;
use super::event::clip;
use super::login_shell::{Group, Silent, joined, login_path};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinSet;

/// How long `--version` may take. Node programs on a cold disk take a few seconds.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer to `--version` that is read.
const VERSION_BYTES: usize = 4 * 1024;

/// The longest version that is shown.
const SHOWN_BYTES: usize = 80;

/// The runtimes looked for, the preferred first. `command` needs no looking for.
const KNOWN: [Runtime; 4] = [Runtime::Claude, Runtime::Codex, Runtime::Gemini, Runtime::Opencode];

/// What was found of one runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Which runtime.
    pub name: Runtime,
    /// Where its program was; none for `command`. It is looked for again at each launch.
    pub program: Option<PathBuf>,
    /// What it answered to `--version`.
    pub version: Option<String>,
    /// Whether it answered in time.
    pub healthy: bool,
    /// Why it is not healthy or not driven, for people.
    pub reason: Option<String>,
    /// Whether this version can run it.
    pub driven: bool,
}

/// The search path of agents, and what kept the login shell from adding to it.
#[derive(Debug)]
pub struct SearchPath {
    /// Folders joined by colons, as in `PATH`.
    pub path: String,
    /// Why the login shell was not heard.
    pub silent: Option<Silent>,
}

/// The daemon's search path, then what the login shell has besides. It takes up to `patience`:
/// ask once, keep the answer.
pub async fn search_path(parent: &Variables, patience: Duration) -> SearchPath {
    let own = parent.get("PATH").map_or("", String::as_str);
    match login_path(parent, patience).await {
        Ok(login) => SearchPath { path: joined(own, &login), silent: None },
        Err(silent) => SearchPath { path: joined(own, ""), silent: Some(silent) },
    }
}

/// Looks for every known runtime on `path` and asks all that are there at once for their version,
/// so that one that hangs delays none. Runtimes that are not there are not in the answer. Ordered
/// by preference, `command` last. It takes up to `patience`, [`PROBE_PATIENCE`] outside of tests.
pub async fn discover(path: &str, parent: &Variables, patience: Duration) -> Vec<Found> {
    let mut probes = JoinSet::new();
    for name in KNOWN {
        if let Some(program) = resolve(name.name(), path) {
            let command = probe_command(&program, path, parent);
            probes.spawn(probe(name, program, command, patience));
        }
    }
    let mut found = probes.join_all().await;
    found.push(Found {
        name: Runtime::Command,
        program: None,
        version: None,
        healthy: true,
        reason: None,
        driven: true,
    });
    found.sort_by_key(|found| found.name);
    found
}

/// The program that `word` names: itself when it is a path, else the first executable file of that
/// name on `path`.
#[must_use]
pub fn resolve(word: &str, path: &str) -> Option<PathBuf> {
    if word.contains('/') {
        return Some(PathBuf::from(word)).filter(|program| is_program(program));
    }
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    folders.map(|folder| Path::new(folder).join(word)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn probe_command(program: &Path, path: &str, parent: &Variables) -> Command {
    let mut command = Command::new(program);
    command.arg("--version").env_clear().env("PATH", path).process_group(0);
    let needed = ["HOME", "USER", "LANG", "TMPDIR"];
    command.envs(needed.into_iter().filter_map(|name| Some((name, parent.get(name)?))));
    command
}

async fn probe(name: Runtime, program: PathBuf, command: Command, patience: Duration) -> Found {
    let answer = tokio::time::timeout(patience, version(command)).await;
    let (version, failure) = match answer {
        Ok(Ok(version)) => (Some(version), None),
        Ok(Err(failure)) => (None, Some(failure)),
        Err(_) => {
            let seconds = patience.as_secs();
            (None, Some(format!("did not answer --version within {seconds} s")))
        }
    };
    let driven = name.driver().is_some();
    let healthy = failure.is_none();
    let undriven = (!driven).then(|| "not yet driven by this version".to_owned());
    Found { name, program: Some(program), version, healthy, reason: failure.or(undriven), driven }
}

/// The first line that the program answers.
async fn version(mut command: Command) -> Result<String, String> {
    let mut group =
        Group::start(&mut command).map_err(|error| format!("could not be started: {error}"))?;
    let output = group.output(VERSION_BYTES, |_| false).await;
    if output.len() < VERSION_BYTES && !group.success().await {
        return Err("failed on --version".to_owned());
    }
    let text = String::from_utf8_lossy(&output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let plain = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    line.map(|line| clip(&plain(line), SHOWN_BYTES)).ok_or_else(|| "told no version".to_owned())
}
