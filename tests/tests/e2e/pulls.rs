//! Pull requests as users have them set up: forks, rewritten and relative remotes, long texts, a
//! login of the program's own; judged by what the remotes and the program got.

use crate::complete::program;
use hayward_tests::home::{Home, id};
use hayward_tests::process::Process;
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, until_true};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bare repositories that play a forge's, one of the project and one of the user.
struct Forge {
    folder: tempfile::TempDir,
}

impl Forge {
    fn new(repo: &ScratchRepo) -> Self {
        let forge = Self { folder: tempfile::tempdir_in(repo.path().parent().unwrap()).unwrap() };
        for path in ["o/r", "me/r"] {
            fs::create_dir_all(forge.bare(path)).unwrap();
            forge.git(path, &["init", "-q", "--bare", "-b", "main"]);
            repo.git(&["push", "-q", forge.bare(path).to_str().unwrap(), "main"]);
        }
        forge
    }

    fn bare(&self, path: &str) -> PathBuf {
        self.folder.path().join(format!("{path}.git"))
    }

    fn git(&self, path: &str, arguments: &[&str]) -> String {
        let output = git(&self.bare(path)).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn branches(&self, path: &str) -> String {
        self.git(path, &["for-each-ref", "--format=%(refname:short)", "refs/heads/hayward"])
    }

    /// A text in which `{}` is where the repositories are.
    fn placed(&self, text: &str) -> String {
        text.replace("{}", self.folder.path().to_str().unwrap())
    }

    /// The user's configuration, as [`Self::placed`] has it.
    fn configure(&self, home: &Home, text: &str) {
        fs::write(home.user().join(".gitconfig"), self.placed(text)).unwrap();
    }
}

/// A `gh` that keeps what it was given.
fn gh(home: &Home) {
    let script = format!(
        "echo \"$@\" >> {0}/words\nenv > {0}/variables\ncase $2 in\nlist) echo '[]';;\n\
         *) cat > {0}/body; echo https://github.com/o/r/pull/7;;\nesac",
        home.files().display()
    );
    program(home, "gh", &script);
}

/// A `gh` that opens pull requests by this line.
fn gh_that(home: &Home, opens: &str) {
    program(home, "gh", &format!("case $2 in list) echo '[]';; *) {opens};; esac"));
}

/// An `ssh` whose every host has the forge's repositories.
fn ssh(home: &Home, forge: &Forge) {
    program(home, "ssh", &forge.placed("eval \"line=\\${$#}\"\ncd {} && exec sh -c \"$line\""));
}

fn text<'a>(task: &'a Value, field: &str) -> &'a str {
    assert!(task[field].is_string(), "no {field} in {task:#}");
    task[field].as_str().unwrap()
}

const REWRITTEN: &str = "[url \"{}/\"]\n\tinsteadOf = https://github.com/\n";

fn work() -> Script {
    Script::new().write("new", "new\n")
}

#[test]
fn a_text_that_no_argument_holds_reaches_the_program_cut_to_what_the_forge_takes() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    forge.configure(&home, REWRITTEN);
    repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
    gh(&home);
    let api = home.api(&home.up());
    let plan = format!("Begin\n{}", "line of a plan\n".repeat(12_000));
    assert!(plan.len() > 128 * 1024);
    let order = json!({
        "name": "long", "plan": plan, "command": work().command(), "agent": "command",
        "completionAction": "pr", "repositoryUrl": repo.path(), "baseBranch": "main",
    });
    let made = api.post("/api/v1/tasks", &order).json();
    let task = home.reaches(&made, "completed");
    assert_eq!(task["prUrl"], "https://github.com/o/r/pull/7");
    let body = home.read("body");
    assert!((65_000..=65_536).contains(&body.chars().count()), "{}", body.chars().count());
    assert!(body.starts_with("Begin\n"), "{}", &body[..99]);
    assert!(body.ends_with(&format!("Hayward-Task: {}", text(&task, "id"))));
    assert!(home.read("words").contains("--body-file -"));
}

#[test]
fn work_is_pushed_to_the_fork_and_the_pull_request_opened_upstream() {
    for key in ["remote.pushDefault", "branch.main.pushRemote"] {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        let forge = Forge::new(&repo);
        forge.configure(&home, REWRITTEN);
        repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
        repo.git(&["remote", "add", "mine", "https://github.com/me/r.git"]);
        repo.git(&["config", key, "mine"]);
        gh(&home);
        let before = repo.snapshot();
        let task = home.follow(repo.path(), &["--on", "pr"], &work()).expect(0).json();
        let branch = text(&task, "branch");
        assert_eq!(forge.git("me/r", &["rev-parse", branch]), text(&task, "headCommit"));
        assert_eq!(forge.branches("o/r"), "", "{key}");
        let words = home.read("words");
        assert!(words.contains("--repo github.com/o/r --"), "{words}");
        assert!(words.contains(&format!("--head me:{branch} --base main")), "{words}");
        assert_eq!(repo.snapshot(), before);
    }
}

#[test]
fn a_remote_is_where_git_goes_for_it_whatever_is_written() {
    // an address of the user's own for the forge, and another way to push there than to fetch,
    // whose rules lead into each other: git follows one of them, once
    let ways = [
        ("[url \"git@github.com:\"]\n\tinsteadOf = gh:\n", "gh:o/r.git", "o/r"),
        (
            "[url \"git@github.com:\"]\n\tpushInsteadOf = https://github.com/\n\
             [url \"https://github.com/\"]\n\tinsteadOf = git@github.com:\n",
            "https://github.com/o/r.git",
            "o/r",
        ),
        (
            "[url \"{}/me/\"]\n\tpushInsteadOf = {}/o/\n[url \"{}/o/\"]\n\tinsteadOf = {}/me/\n",
            "{}/o/r.git",
            "me/r",
        ),
    ];
    for (own, url, pushed) in ways {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        let forge = Forge::new(&repo);
        forge.configure(&home, own);
        ssh(&home, &forge);
        repo.git(&["remote", "add", "origin", &forge.placed(url)]);
        gh(&home);
        let task = home.follow(repo.path(), &["--on", "pr"], &work());
        let task = task.json();
        let branch = text(&task, "branch");
        assert_eq!(forge.git(pushed, &["rev-parse", branch]), text(&task, "headCommit"), "{url}");
        if pushed == "o/r" {
            assert_eq!(task["prUrl"], "https://github.com/o/r/pull/7", "{task:#}");
            assert!(home.read("words").contains("--repo github.com/o/r"), "{}", home.read("words"));
        } else {
            assert_eq!(forge.branches("o/r"), "", "{task:#}");
        }
    }
    // a folder beside the checkout
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    let name = forge.folder.path().file_name().unwrap().to_str().unwrap();
    repo.git(&["remote", "add", "origin", &format!("../{name}/o/r.git")]);
    let task = home.follow(repo.path(), &["--on", "pr"], &work()).expect(7).json();
    assert_eq!(task["reason"], "pull_request_failed", "{task:#}");
    let branch = text(&task, "branch");
    assert_eq!(forge.git("o/r", &["rev-parse", branch]), text(&task, "headCommit"));
}

#[test]
fn the_program_finds_its_own_login_and_nothing_that_was_not_meant_for_it() {
    let (mut home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    forge.configure(&home, REWRITTEN);
    repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
    gh(&home);
    let meant =
        ["DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "GH_CONFIG_DIR", "GH_HOST", "GH_TOKEN"];
    let others = ["GITLAB_TOKEN", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "HAYWARD_TOKEN_X"];
    for name in meant.iter().chain(&others) {
        home.set(name, "set-by-the-test");
    }
    home.follow(repo.path(), &["--on", "pr"], &work()).expect(0);
    let variables = home.read("variables");
    let has = |name: &str| variables.contains(&format!("{name}=set-by-the-test\n"));
    for name in meant {
        assert!(has(name), "{name} is missing in {variables}");
    }
    for name in others {
        assert!(!has(name), "{name} leaked");
    }
}

#[test]
fn a_rule_for_the_whole_address_of_a_push_stops_it_before_it_goes_elsewhere() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    forge.configure(&home, "[url \"{}/me/r.git\"]\n\tpushInsteadOf = {}/o/r.git\n");
    repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
    repo.git(&["config", "remote.origin.pushurl", &forge.placed("{}/o/r.git")]);
    let task = home.follow(repo.path(), &["--on", "pr"], &work()).expect(7).json();
    assert_eq!(task["reason"], "push_failed", "{task:#}");
    assert!(text(&task, "errorMessage").contains("pushInsteadOf"), "{task:#}");
    assert_eq!(forge.branches("o/r") + &forge.branches("me/r"), "");
}

#[test]
fn a_token_goes_to_the_users_host_and_to_none_that_an_agent_names() {
    let (mut home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    let rules = ["github.corp.test", "github.evil.test"]
        .map(|host| format!("[url \"{{}}/\"]\n\tinsteadOf = https://{host}/\n"));
    forge.configure(&home, &rules.concat());
    repo.git(&["remote", "add", "origin", "https://github.corp.test/o/r.git"]);
    gh(&home);
    home.set("GH_HOST", "github.corp.test");
    let tokens = ["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"];
    for name in tokens {
        home.set(name, "set-by-the-test");
    }
    home.follow(repo.path(), &["--on", "pr"], &work()).expect(0);
    assert!(home.read("words").contains("--repo github.corp.test/o/r"), "{}", home.read("words"));
    let variables = home.read("variables");
    assert_eq!(variables.matches("set-by-the-test").count(), tokens.len(), "{variables}");
    // an agent can change no address for its own run, but for the runs after it
    repo.git(&["config", "remote.origin.url", "https://github.evil.test/o/r.git"]);
    home.run_in(repo.path(), &["run", "--json", "--on", "pr", "--", "sh", "-c", "echo q > q"])
        .expect(0);
    assert!(home.read("words").contains("--repo github.evil.test/o/r"), "{}", home.read("words"));
    let variables = home.read("variables");
    assert!(!variables.contains("set-by-the-test"), "{variables}");
    assert!(variables.contains("GH_HOST=github.corp.test"), "{variables}");
}

#[test]
fn f43_a_push_goes_only_where_it_went_when_the_run_began() {
    for line in [
        "git config remote.origin.url {}/evil/r.git",
        "git config remote.origin.pushurl {}/evil/r.git",
        "git config branch.main.pushRemote mine",
        "git config url.{}/evil/.insteadOf https://github.com/o/",
    ] {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        let forge = Forge::new(&repo);
        forge.configure(&home, REWRITTEN);
        fs::create_dir_all(forge.bare("evil/r")).unwrap();
        forge.git("evil/r", &["init", "-q", "--bare", "-b", "main"]);
        repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
        repo.git(&["remote", "add", "mine", "https://github.com/me/r.git"]);
        gh(&home);
        let config = repo.path().join(".git/config");
        let before = fs::read(&config).unwrap();
        let step = Step::Shell { line: forge.placed(line) };
        let task = home.follow(repo.path(), &["--on", "pr"], &work().then(step)).expect(7).json();
        assert_eq!(task["reason"], "push_failed", "{line}: {task:#}");
        let message = text(&task, "errorMessage");
        for words in ["when the run began", "/o/r.git", "set it back"] {
            assert!(message.contains(words), "{line}: {message}");
        }
        let pushed = ["o/r", "me/r", "evil/r"].map(|path| forge.branches(path)).concat();
        assert_eq!(pushed, "", "{line}");
        fs::write(&config, before).unwrap();
        home.run(&["complete", id(&task), "--action", "pr"]).expect(0);
        assert_eq!(forge.branches("o/r"), text(&task, "branch"), "{line}");
    }
}

#[test]
fn what_a_program_says_is_shown_without_credentials_and_names_a_token_that_it_lacks() {
    let (mut home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    forge.configure(&home, "[url \"{}/\"]\n\tinsteadOf = https://github.corp.test/\n");
    repo.git(&["remote", "add", "origin", "https://github.corp.test/o/r.git"]);
    home.set("GH_ENTERPRISE_TOKEN", "set-by-the-test");
    for (opens, word) in [
        ("echo 'no: https://me:SECRET@github.corp.test/o/r' >&2; exit 1", "GH_HOST=github.corp"),
        ("echo made ssh://me:SECRET@github.corp.test/o/r", "printed no address"),
    ] {
        gh_that(&home, opens);
        let task = home.follow(repo.path(), &["--on", "pr"], &work()).expect(7).json();
        let message = text(&task, "errorMessage");
        assert!(
            message.contains("***@github.corp.test/o/r") && message.contains(word),
            "{message}"
        );
        assert!(!message.contains("SECRET"), "{message}");
    }
}

#[test]
fn a_program_that_leaves_a_child_or_prints_without_end_costs_no_time_and_no_memory() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    forge.configure(&home, REWRITTEN);
    repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
    let pid = home.file("pid");
    let address = "echo https://github.com/o/r/pull/7";
    // one that leaves its group too
    let leave = format!("setsid sh -c 'echo $$ > {}; exec sleep 600' &", pid.display());
    let wait = format!("while ! test -s {}; do :; done", pid.display());
    gh_that(&home, &format!("{leave} {wait}; {address}"));
    let begun = Instant::now();
    let task = home.follow(repo.path(), &["--on", "pr"], &work()).expect(0).json();
    assert_eq!(task["prUrl"], "https://github.com/o/r/pull/7");
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    let child: i32 = home.read("pid").trim().parse().unwrap();
    until_true("the child is gone", LONG, || Process::of(child).is_none());

    let daemon = home.json(&["up", "--detach"])["pid"].as_i64().unwrap();
    let peak = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = peak();
    gh_that(&home, &format!("head -c 200000000 /dev/zero; echo; {address}"));
    let task = home.follow(repo.path(), &["--on", "pr"], &work()).expect(0).json();
    assert_eq!(task["prUrl"], "https://github.com/o/r/pull/7");
    assert!(peak() - before < 100_000, "{before} KiB became {} KiB", peak());
}

#[test]
fn f21_a_pull_request_whose_daemon_was_killed_is_told_in_its_task() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&repo);
    forge.configure(&home, REWRITTEN);
    repo.git(&["remote", "add", "origin", "https://github.com/o/r.git"]);
    let task = home.follow(repo.path(), &[], &work()).expect(0).json();
    let opens = format!(
        "touch {0}/begun; while ! test -e {0}/gate; do sleep 0.05; done; \
         echo https://github.com/o/r/pull/7",
        home.files().display()
    );
    gh_that(&home, &opens);
    let daemon = home.up();
    let mut asked = home.spawn("complete", repo.path(), &["complete", id(&task), "--action", "pr"]);
    until_true("the program runs", LONG, || home.file("begun").exists());
    daemon.process.kill();
    home.open_gate("gate");
    home.up();
    asked.wait().unwrap();
    until_true("the task names its pull request", LONG, || {
        home.task(&task)["prUrl"] == "https://github.com/o/r/pull/7"
    });
    let events = home.events(&task);
    let told: Vec<_> = events.iter().filter(|event| event["type"] == "merge.result").collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["payload"]["success"], true, "{told:#?}");
    assert_eq!(forge.branches("o/r"), text(&home.task(&task), "branch"));
}
