//! `config.toml` of the state folder.
//!
//! Every key is known: a misspelt one is an error that names the nearest, never silently passed
//! over.

use hayward_shared::budget::{Usd, named, named_or_none};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs at once when nothing is said: what a laptop carries.
const DEFAULT_CAPACITY: u32 = 4;

/// Free bytes below which nothing new is begun when nothing is said: a run's journal, output and
/// commit fit in it, so that those under way can end well.
const DEFAULT_FLOOR: u64 = 256 * 1024 * 1024;

/// Output kept of each session when nothing is said.
const DEFAULT_RING: u64 = 64 * 1024 * 1024;

/// What installing a large project's dependencies takes on a slow line.
const DEFAULT_SETUP_SECONDS: u64 = 600;
/// Ready worktrees of each hot repository when nothing is said: a second task need not wait for
/// the refill after the first.
const DEFAULT_POOL: u32 = 2;

/// Bytes of worktrees when nothing is said: a few dozen of a large repository.
const DEFAULT_QUOTA: u64 = 50 * 1024 * 1024 * 1024;

/// Days that a finished task's worktree is kept when nothing is said.
const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Days that the output of a run is kept when nothing is said: it is small, and asked for longer.
const DEFAULT_OUTPUT_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Bytes of ended runs' output when nothing is said: a few hundred that filled their ring.
const DEFAULT_OUTPUT_QUOTA: u64 = 20 * 1024 * 1024 * 1024;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[daemon]`
    pub daemon: DaemonSection,
    /// `[relay]`
    pub relay: RelaySection,
    /// `[terminal]`
    pub terminal: TerminalSection,
    /// `[worktree]`
    pub worktree: WorktreeSection,
    /// `[agents.NAME]`
    pub agents: BTreeMap<String, AgentSection>,
    /// `[repositories."FOLDER or URL"]`
    pub repositories: BTreeMap<String, RepositorySection>,
    /// `[limits]`
    pub limits: LimitsSection,
    /// `[prices."MODEL"]`, by the names of models or their beginnings
    pub prices: BTreeMap<String, PriceSection>,
}

/// `[prices."MODEL"]`: what a model costs a relay that is served from this configuration, in US
/// dollars for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSection {
    /// Tokens read anew.
    #[serde(deserialize_with = "named")]
    pub input: Usd,
    /// Tokens written by the model.
    #[serde(deserialize_with = "named")]
    pub output: Usd,
    /// Tokens read from the cache; absent: as those read anew.
    #[serde(default, deserialize_with = "named_or_none")]
    pub cache_read: Option<Usd>,
    /// Tokens written into the cache; absent: as those read anew.
    #[serde(default, deserialize_with = "named_or_none")]
    pub cache_write: Option<Usd>,
}

/// `[limits]`: what each workspace of a relay that is served from this configuration may have at
/// once. What is absent is not bounded, or as the relay has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Runs of a workspace.
    pub workspace: Option<NonZeroU32>,
    /// Runs of all agents that ask this provider, by its name.
    pub providers: BTreeMap<String, NonZeroU32>,
    /// How deep parts of tasks go.
    pub depth: Option<NonZeroU32>,
    /// Tasks of one tree, the first one included.
    pub tree: Option<NonZeroU32>,
}

/// `[agents.NAME] limits`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentLimits {
    /// Runs of it in a workspace, at a relay that is served from this configuration.
    pub concurrent: Option<NonZeroU32>,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonSection {
    /// Runs at once, at least 1.
    pub max_concurrent_tasks: u32,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// The shell whose PATH agents also get; absent: the user's login shell.
    pub login_shell: Option<PathBuf>,
    /// Whether agents are told when a sibling changes the same lines.
    pub sibling_notes: bool,
    /// Below so many free bytes on the disk of the state folder no task is claimed.
    pub min_free_bytes: u64,
}

impl Default for DaemonSection {
    fn default() -> Self {
        Self {
            max_concurrent_tasks: DEFAULT_CAPACITY,
            labels: BTreeMap::new(),
            login_shell: None,
            sibling_notes: true,
            min_free_bytes: DEFAULT_FLOOR,
        }
    }
}

/// `[relay]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelaySection {
    /// A relay elsewhere; absent: `up` embeds one.
    pub url: Option<String>,
    /// Where the embedded relay listens: `ADDRESS:PORT`.
    pub listen: Option<String>,
    /// What the relay of `up` and of `relay serve` keeps its data in, as `--database` of the latter;
    /// absent: a file in the state folder.
    pub database: Option<String>,
    /// Where relays that share that database meet: `nats://HOST:PORT` or `tls://HOST:PORT`, as
    /// `--bus` of `relay serve`. The files that open it are looked for from the state folder on.
    pub bus: Option<String>,
    /// Credentials for the bus, as `nsc` writes them.
    pub bus_credentials: Option<PathBuf>,
    /// The authorities that issue certificates of the bus; absent: those that the system knows.
    pub bus_ca: Option<PathBuf>,
    /// The certificate that is shown to the bus.
    pub bus_certificate: Option<PathBuf>,
    /// Its key.
    pub bus_key: Option<PathBuf>,
}

/// `[terminal]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TerminalSection {
    /// Bytes of output kept of each session, at least 1 MiB.
    pub ring_bytes: u64,
    /// How long the output of an ended run is kept, and the logs of its setup.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
    /// The most bytes that the output of ended runs takes on the disk; the oldest goes first.
    pub quota_bytes: u64,
}

impl Default for TerminalSection {
    fn default() -> Self {
        Self {
            ring_bytes: DEFAULT_RING,
            retention: DEFAULT_OUTPUT_RETENTION,
            quota_bytes: DEFAULT_OUTPUT_QUOTA,
        }
    }
}

/// `[worktree]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorktreeSection {
    /// Ready worktrees of each repository that had a task; 0 turns the pool off.
    pub pool: u32,
    /// The most bytes that worktrees take on the disk. The ready ones take at most half of it.
    pub quota_bytes: u64,
    /// How long the worktree of a finished task is kept: a number and `s`, `m`, `h`, `d` or `w`,
    /// as `"7d"`.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
}

impl Default for WorktreeSection {
    fn default() -> Self {
        Self { pool: DEFAULT_POOL, quota_bytes: DEFAULT_QUOTA, retention: DEFAULT_RETENTION }
    }
}

/// A whole number and its unit.
fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "'{text}' is no duration: write a number and s, m, h, d or w, as \"7d\""
        ))
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let at = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        "w" => 7 * 24 * 60 * 60,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

/// `[agents.NAME]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSection {
    /// Which runtime it is: `claude` and so on; absent: the one called NAME.
    pub runtime: Option<String>,
    /// The program to run in place of the one on the PATH.
    pub command: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// Variables of its environment.
    pub env: BTreeMap<String, String>,
    /// Told to it before each plan.
    pub instructions: Option<String>,
    /// Whose models it asks; absent: that of its runtime. Agents with accounts of their own may
    /// have a provider each.
    pub provider: Option<String>,
    /// How much of it runs at once.
    pub limits: AgentLimits,
}

/// `[repositories."FOLDER or URL"]`: how the worktrees of one repository are furnished. It is the
/// user's word, on the user's machine: nothing in a repository can set it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositorySection {
    /// Run by `sh -c` in each new worktree before its agent; a failure fails the task.
    pub setup: Option<String>,
    /// Run by `sh -c` in the worktree once its run has ended, however it ended.
    pub teardown: Option<String>,
    /// Seconds that each of them may take.
    pub setup_timeout_seconds: u64,
    /// Ignored files that each worktree needs; a missing one fails the task.
    pub copy_files: Vec<String>,
    /// Whether the repository's commit hooks run when an agent's work is committed.
    pub hooks: HookPolicy,
    /// Whether Hayward's commits are signed as the user's are.
    pub sign: bool,
    /// Whether a task shares the repository's `.git` or has a clone of its own.
    pub isolation: Isolation,
}

impl Default for RepositorySection {
    fn default() -> Self {
        Self {
            setup: None,
            teardown: None,
            setup_timeout_seconds: DEFAULT_SETUP_SECONDS,
            copy_files: Vec::new(),
            hooks: HookPolicy::default(),
            sign: false,
            isolation: Isolation::default(),
        }
    }
}

/// Whether commit hooks of a repository run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookPolicy {
    /// They do not; the task says which would have.
    #[default]
    Inert,
    /// They do; one that fails blocks the commit, and the task fails with what it said.
    Run,
}

/// How a task is kept apart from the user's repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A worktree: objects, refs and configuration are shared.
    #[default]
    Worktree,
    /// A clone that borrows the objects: refs and configuration are its own.
    Clone,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or a key or value of it means nothing.
    #[error("{}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What, where, and what was perhaps meant.
        message: String,
    },
}

impl Config {
    /// Reads the file; one that is not there is an empty one.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the line and the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        Self::parse(&text).map_err(|message| ConfigError::Wrong { path: path.to_owned(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| explain(&error, text))?;
        if config.daemon.max_concurrent_tasks == 0 {
            return Err("daemon.max_concurrent_tasks must be at least 1".into());
        }
        if config.terminal.ring_bytes < 1024 * 1024 {
            return Err("terminal.ring_bytes must be at least 1048576 (1 MiB)".into());
        }
        if let Some((name, _)) =
            config.repositories.iter().find(|(_, r)| r.setup_timeout_seconds == 0)
        {
            return Err(format!(
                "repositories.\"{name}\".setup_timeout_seconds must be at least 1"
            ));
        }
        Ok(config)
    }

    /// What is said of a repository under any of its names: its folder, its `.git`, its URL.
    #[must_use]
    pub fn repository(&self, names: &[&str]) -> RepositorySection {
        let plain = |name: &str| name.trim_end_matches('/').trim_end_matches(".git").to_owned();
        let plain = |name: &str| plain(name).trim_end_matches('/').to_owned();
        let known = |key: &str| names.iter().any(|name| plain(name) == plain(key));
        self.repositories
            .iter()
            .find(|(key, _)| known(key))
            .map(|(_, section)| section.clone())
            .unwrap_or_default()
    }
}

/// One line: where it is, what is wrong, and for a misspelt key the nearest known one.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map_or(1, |span| {
        text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1)
    });
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let hint = match (message.starts_with("unknown field"), quoted.next()) {
        (true, Some(wrong)) => nearest(wrong, quoted)
            .map_or_else(String::new, |known| format!("; did you mean `{known}`?")),
        _ => String::new(),
    };
    format!("line {line}: {message}{hint}")
}

/// The candidate that is fewest edits away.
#[must_use]
pub fn nearest<'a>(word: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    among.min_by_key(|known| edits(word, known))
}

/// How many letters must be put in, left out or changed to make one word of the other.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_named_with_the_nearest_known_one() {
        let error = Config::parse("[daemon]\nmax_concurent_tasks = 3\n").unwrap_err();
        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("did you mean `max_concurrent_tasks`?"), "{error}");
        let error = Config::parse("[agents.claude]\nenvironment = {}\n").unwrap_err();
        assert!(error.contains("did you mean"), "{error}");
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config =
            Config::parse("[agents.mine]\nruntime = \"claude\"\nenv = { A = \"1\" }").unwrap();
        assert_eq!(config.daemon.max_concurrent_tasks, DEFAULT_CAPACITY);
        assert_eq!(config.agents["mine"].env["A"], "1");
        assert!(Config::parse("[daemon]\nmax_concurrent_tasks = 0").is_err());
        assert!(Config::parse("[terminal]\nring_bytes = 10").is_err());
    }

    #[test]
    fn limits_are_whole_numbers_of_known_names() {
        let text = "[limits]\nworkspace = 9\ntree = 50\n[limits.providers]\nanthropic = 3\n\
                    [agents.claude]\nprovider = \"team\"\nlimits = { concurrent = 2 }\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.limits.workspace, NonZeroU32::new(9));
        assert_eq!(config.limits.providers["anthropic"].get(), 3);
        assert_eq!(config.agents["claude"].limits.concurrent, NonZeroU32::new(2));
        assert_eq!(config.agents["claude"].provider.as_deref(), Some("team"));
        for wrong in ["[limits]\nworkspace = 0", "[limits]\nworkspaces = 1"] {
            assert!(Config::parse(wrong).unwrap_err().contains("line 2"), "{wrong}");
        }
        let text = "[prices.\"claude-\"]\ninput = 3\noutput = 15.5\ncache_read = 0.3\n";
        let price = Config::parse(text).unwrap().prices["claude-"];
        assert_eq!((price.output, price.cache_write), (Usd::from_dollars(15.5).unwrap(), None));
        for wrong in [
            "input = 1",
            "input = -1\noutput = 1",
            "input = 1\noutput = 2000000",
            "input = 1\noutput = 1\ncache_read = 2000000",
            "input = 1\noutput = 1\ncache = 1",
        ] {
            assert!(Config::parse(&format!("[prices.m]\n{wrong}")).is_err(), "{wrong}");
        }
        let error = Config::parse("[agents.a]\nlimits = { concurent = 1 }").unwrap_err();
        assert!(error.contains("did you mean `concurrent`?"), "{error}");
    }

    #[test]
    fn a_repository_is_known_by_folder_or_url() {
        let text = "[repositories.\"/src/app/\"]\nsetup = \"make\"\n\
                    [repositories.\"https://h.example/o/r.git\"]\nisolation = \"clone\"\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.repository(&["/src/app/.git"]).setup.as_deref(), Some("make"));
        let url = config.repository(&["x", "https://h.example/o/r"]);
        assert_eq!(url.isolation, Isolation::Clone);
        assert_eq!(config.repository(&["/src/other"]), RepositorySection::default());
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        let config = Config::parse("[worktree]\nretention = \"12h\"\npool = 0").unwrap();
        assert_eq!(config.worktree.retention, Duration::from_secs(12 * 60 * 60));
        assert_eq!((config.worktree.pool, config.worktree.quota_bytes), (0, DEFAULT_QUOTA));
        for wrong in ["7", "d", "", "-1d", "1.5h", "7 d", "99999999999999999999d"] {
            let error = Config::parse(&format!("[worktree]\nretention = \"{wrong}\""));
            assert!(error.unwrap_err().contains("is no duration"), "{wrong}");
        }
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }
}
