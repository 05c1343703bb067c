//! Which agents are found, and what they are given.

use hayward_tests::home::{Home, id};
use hayward_tests::program;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, at_best, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What daemons were seen to hand on: their own tokens, another account's, a shell's secrets.
const CANARIES: [&str; 20] = [
    "HAYWARD_TOKEN",
    "HAYWARD_SECRET",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "GROQ_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "NPM_TOKEN",
    "DATABASE_URL",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_CONFIG_PARAMETERS",
    "LD_AUDIT",
    "NODE_OPTIONS",
    "CLAUDECODE",
    "SOME_PASSWORD",
];

#[test]
fn f45_of_20_canaries_in_the_daemon_none_reaches_an_agent() {
    let (mut home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[agents.command]\nenv = { NAMED = \"by the configuration\" }\n");
    for name in CANARIES {
        home.set(name, &format!("canary-{name}"));
    }
    home.up();
    for name in CANARIES {
        home.unset(name);
    }
    let script = Script::new().then(Step::Environment { file: home.file("environment") });
    let task = home.follow(repo.path(), &["--on", "none"], &script).expect(0).json();
    let seen: BTreeMap<String, String> = serde_json::from_str(&home.read("environment")).unwrap();
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    let ours = [
        "COMPOSE_PROJECT_NAME",
        "HAYWARD_BASE_COMMIT",
        "HAYWARD_PORT",
        "HAYWARD_PORT_COUNT",
        "HAYWARD_RUN_ID",
        "HAYWARD_TASK_ID",
        "HAYWARD_WORKTREE",
    ];
    let base = ["HOME", "LANG", "NAMED", "PATH", "SHELL", "TERM"];
    assert_eq!(names, [&ours[..], &base[..]].concat());
    assert!(!seen.values().any(|value| value.contains("canary")), "{seen:?}");
    assert!(!seen.values().any(|value| value.contains(&home.token())), "{seen:?}");
    assert_eq!(seen["HAYWARD_TASK_ID"], id(&task));
    assert_eq!(seen["HAYWARD_RUN_ID"], task["runId"].as_str().unwrap());
    assert_eq!(seen["HAYWARD_BASE_COMMIT"], task["baseCommit"].as_str().unwrap());
    assert!(seen["HAYWARD_WORKTREE"].starts_with(home.state().to_str().unwrap()));
    assert_eq!(seen["HOME"], home.user().to_str().unwrap());
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// After how long a program that hangs is named; the longest there is when others waited for it.
fn f54_named() -> Duration {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    program(&home.bin().join("claude"), "#!/bin/sh\nsleep 600\n");
    program(&home.bin().join("codex"), "#!/bin/sh\necho codex-cli 9.9.9\n");
    let begin = Instant::now();
    home.up();
    // nobody waits for the one that hangs
    home.follow(repo.path(), &[], &Script::new().write("a", "a\n")).expect(0);
    let named = || {
        let status = home.json(&["status"]);
        let runtimes = status["daemons"][0]["runtimes"].as_array().cloned().unwrap_or_default();
        runtimes.iter().any(|one| one["name"] == "claude").then_some(runtimes)
    };
    let is_waited_for = begin.elapsed() >= Duration::from_secs(5) && named().is_some();
    let runtimes = until("the hanging one is named", LONG, named);
    let took = if is_waited_for { Duration::MAX } else { begin.elapsed() };
    let find = |name: &str| runtimes.iter().find(|one| one["name"] == name).cloned().unwrap();
    assert_eq!(find("claude")["healthy"], false);
    assert!(find("claude")["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_eq!(find("command")["healthy"], true);
    assert_eq!(find("codex")["version"], "codex-cli 9.9.9");
    // an unusable agent that is asked for by name says so, and starts nothing
    let ran = home.run_in(repo.path(), &["--json", "agent", "check", "claude"]);
    assert_eq!(ran.code, 1, "{}", ran.text());
    took
}

#[test]
fn f54_a_cli_that_hangs_delays_nothing_and_is_named_within_15_s() {
    at_best("the name of what hangs", Duration::from_secs(15), f54_named);
}

#[test]
fn f54_a_program_that_moved_is_found_by_the_next_task() {
    let (mut home, repo) = (Home::new(), ScratchRepo::new());
    let (old, new) = (home.bin().join("mover"), home.user().join("mover"));
    let path = format!("{}:{}:/usr/bin:/bin", home.bin().display(), home.user().display());
    home.set("PATH", &path);
    home.up();
    fs::copy(program::fake_agent(), &old).unwrap();
    let script = Script::new().write("a", "a\n").command();
    let words = ["run", "--json", "--", "mover", &script[1]];
    home.run_in(repo.path(), &words).expect(0);
    fs::rename(&old, &new).unwrap();
    home.run_in(repo.path(), &words).expect(0);
    fs::remove_file(&new).unwrap();
    let gone = home.run_in(repo.path(), &words).expect(7).json();
    assert_eq!((&gone["status"], &gone["reason"]), (&"failed".into(), &"agent_not_found".into()));
    assert_eq!(gone["exitCode"], Value::Null);
}
