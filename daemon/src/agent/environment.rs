//! The environment of an agent: what is allowed, what its configuration names, what its run is,
//! and nothing else. The daemon's own secrets and those of the shell that started it stay out.

use super::Agent;
use hayward_shared::id::{RunId, TaskId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Variables, by name. Names or values that are not UTF-8 do not enter.
pub type Variables = BTreeMap<String, String>;

/// A variable that an agent's documentation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name. On Unix names differ by case; proxies are also let through in lower case.
    pub name: &'static str,
    /// Why the agent gets it.
    pub why: &'static str,
}

/// What every agent gets, where the daemon has it.
const BASE: [&str; 10] = [
    // who and where the user is, and which shell the agent's commands use
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    // how text and times look
    "LANG",
    "TZ",
    // what the terminal can do
    "TERM",
    "COLORTERM",
    // where temporary files go
    "TMPDIR",
    // lets git sign and push as the user; a socket's path, not a secret
    "SSH_AUTH_SOCK",
];

/// Whole families that every agent gets: locale, and where configuration and caches are.
const BASE_PREFIXES: [&str; 2] = ["LC_", "XDG_"];

/// Ours. Only what [`RunFacts`] tells is set under this prefix, whoever asks.
const OURS: &str = "HAYWARD_";

/// The terminal that our own screens emulate.
const TERMINAL: &str = "xterm-256color";

/// What a run tells its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFacts {
    /// `HAYWARD_TASK_ID`.
    pub task: TaskId,
    /// `HAYWARD_RUN_ID`.
    pub run: RunId,
    /// `HAYWARD_WORKTREE`.
    pub worktree: PathBuf,
    /// `HAYWARD_BASE_COMMIT`.
    pub base_commit: String,
    /// `PATH`: the daemon's, then what the login shell has besides.
    pub search_path: String,
    /// `HOME`, where the daemon itself was started without one.
    pub home: Option<PathBuf>,
    /// `HAYWARD_PORT` and `HAYWARD_PORT_COUNT`: the first port that is the run's own, and how many
    /// there are from it.
    pub ports: Option<(u16, u16)>,
    /// Whether the agent runs in a terminal.
    pub terminal: bool,
}

/// The whole environment of an agent. `parent` is the daemon's, `launch` what the driver's plan
/// sets, `config` what `[agents.NAME]` sets; each later one wins, the facts of the run over all.
#[must_use]
pub fn environment(
    parent: &Variables,
    driver: &dyn Agent,
    launch: &Variables,
    config: &Variables,
    facts: &RunFacts,
) -> Variables {
    let mut all = Variables::new();
    if let Some(home) = &facts.home {
        all.insert("HOME".to_owned(), text(home));
    }
    let allowed = parent.iter().filter(|(name, _)| is_allowed(driver, name));
    all.extend(allowed.map(|(name, value)| (name.clone(), value.clone())));
    all.insert("PATH".to_owned(), facts.search_path.clone());
    if facts.terminal {
        all.insert("TERM".to_owned(), TERMINAL.to_owned());
    }
    let named = launch.iter().chain(config).filter(|(name, _)| !name.starts_with(OURS));
    all.extend(named.map(|(name, value)| (name.clone(), value.clone())));
    all.extend([
        ("HAYWARD_TASK_ID".to_owned(), facts.task.to_string()),
        ("HAYWARD_RUN_ID".to_owned(), facts.run.to_string()),
        ("HAYWARD_WORKTREE".to_owned(), text(&facts.worktree)),
        ("HAYWARD_BASE_COMMIT".to_owned(), facts.base_commit.clone()),
        // containers of one run never meet those of another
        ("COMPOSE_PROJECT_NAME".to_owned(), format!("hayward-{}", facts.task.short())),
    ]);
    if let Some((first, count)) = facts.ports {
        all.insert("HAYWARD_PORT".to_owned(), first.to_string());
        all.insert("HAYWARD_PORT_COUNT".to_owned(), count.to_string());
    }
    all
}

fn is_allowed(driver: &dyn Agent, name: &str) -> bool {
    let documented = driver.variables().iter().any(|variable| {
        let proxy = variable.name.ends_with("_PROXY") && variable.name.eq_ignore_ascii_case(name);
        variable.name == name || proxy
    });
    documented
        || BASE.contains(&name)
        || BASE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Runtime;
    use super::*;

    /// What daemons were seen to leak: their own tokens, another account, a first shell's secrets.
    const CANARIES: [&str; 20] = [
        "HAYWARD_TOKEN",
        "HAYWARD_HOME",
        "HAYWARD_RELAY",
        "HAYWARD_TASK_ID_OLD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "GITHUB_TOKEN",
        "GH_TOKEN",
        "NPM_TOKEN",
        "OPENAI_API_KEY",
        "GEMINI_API_KEY",
        "GROQ_API_KEY",
        "DATABASE_URL",
        "GIT_DIR",
        "GIT_CONFIG_PARAMETERS",
        "LD_PRELOAD",
        "NODE_OPTIONS",
        "CLAUDECODE",
        "CLAUDE_CODE_ENTRYPOINT",
        "ANTHROPIC_ADMIN_KEY",
    ];

    fn map(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn facts(terminal: bool) -> RunFacts {
        RunFacts {
            task: TaskId::fresh(),
            run: RunId::fresh(),
            worktree: "/w".into(),
            base_commit: "abc".into(),
            search_path: "/bin:/login".into(),
            home: Some("/home/passwd".into()),
            ports: Some((20_000, 20)),
            terminal,
        }
    }

    fn names(all: &Variables) -> Vec<&str> {
        all.keys().map(String::as_str).collect()
    }

    #[test]
    fn f45_of_20_canaries_none_reaches_an_agent_and_the_rest_is_the_allow_list() {
        let mut parent = map(&[
            ("PATH", "/bin"),
            ("HOME", "/home/u"),
            ("LANG", "C"),
            ("LC_TIME", "C"),
            ("XDG_CONFIG_HOME", "/x"),
            ("SSH_AUTH_SOCK", "/s"),
            ("TERM", "dumb"),
            ("ANTHROPIC_API_KEY", "key"),
            ("https_proxy", "http://p"),
        ]);
        parent.extend(CANARIES.map(|name| (name.to_owned(), format!("canary {name}"))));
        let none = Variables::new();
        let ours = [
            "COMPOSE_PROJECT_NAME",
            "HAYWARD_BASE_COMMIT",
            "HAYWARD_PORT",
            "HAYWARD_PORT_COUNT",
            "HAYWARD_RUN_ID",
            "HAYWARD_TASK_ID",
            "HAYWARD_WORKTREE",
        ];
        let base = ["HOME", "LANG", "LC_TIME", "PATH", "SSH_AUTH_SOCK", "TERM", "XDG_CONFIG_HOME"];

        let command = Runtime::Command.driver().unwrap();
        let seen = environment(&parent, command, &none, &none, &facts(true));
        assert_eq!(names(&seen), [&ours[..], &base[..]].concat());
        assert_eq!((seen["TERM"].as_str(), seen["HOME"].as_str()), (TERMINAL, "/home/u"));
        assert_eq!(seen["PATH"], "/bin:/login");

        let claude = Runtime::Claude.driver().unwrap();
        let seen = environment(&parent, claude, &none, &none, &facts(false));
        let expected = [&["ANTHROPIC_API_KEY"], &ours[..], &base[..], &["https_proxy"]].concat();
        assert_eq!(names(&seen), expected);
        assert_eq!(seen["TERM"], "dumb");
        assert!(!seen.values().any(|value| value.starts_with("canary")));
    }

    #[test]
    fn f45_configuration_adds_what_it_names_and_cannot_forge_the_run() {
        let config = map(&[("OPENAI_API_KEY", "mine"), ("HAYWARD_TOKEN", "t"), ("LANG", "fr")]);
        let launch = map(&[("DISABLE_AUTOUPDATER", "1"), ("LANG", "en")]);
        let command = Runtime::Command.driver().unwrap();
        let seen = environment(&Variables::new(), command, &launch, &config, &facts(false));
        assert_eq!(seen["OPENAI_API_KEY"], "mine");
        assert_eq!((seen["LANG"].as_str(), seen["DISABLE_AUTOUPDATER"].as_str()), ("fr", "1"));
        assert_eq!(seen["HOME"], "/home/passwd");
        assert!(!seen.contains_key("HAYWARD_TOKEN"));
    }
}
