//! Pull requests as users have them set up: forks, rewritten and relative remotes, long texts, a
//! login of the program's own; judged by what the remotes and the program got.

use hayward_tests::home::Home;
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::script::Script;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

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

    /// The user's configuration, `{}` being where the repositories are.
    fn configure(&self, home: &Home, text: &str) {
        let text = text.replace("{}", self.folder.path().to_str().unwrap());
        fs::write(home.user().join(".gitconfig"), text).unwrap();
    }
}

/// A `gh` that keeps what it was given.
fn gh(home: &Home) {
    let path = home.bin().join("gh");
    let files = home.files();
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}/words\nenv > {0}/variables\ncase $2 in\nlist) echo '[]';;\n\
         *) cat > {0}/body; echo https://github.com/o/r/pull/7;;\nesac\n",
        files.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
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
    // an address of the user's own for the forge, and another way to push there
    let ways = [
        ("[url \"https://github.com/\"]\n\tinsteadOf = gh:\n", "gh:o/r.git", "o/r"),
        ("[url \"https://github.com/me/\"]\n\tpushInsteadOf = gh:o/\n", "gh:o/r.git", "me/r"),
    ];
    for (own, url, pushed) in ways {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        let forge = Forge::new(&repo);
        forge.configure(&home, &format!("{REWRITTEN}{own}"));
        repo.git(&["remote", "add", "origin", url]);
        gh(&home);
        let task = home.follow(repo.path(), &["--on", "pr"], &work());
        let task = task.json();
        let branch = text(&task, "branch");
        assert_eq!(forge.git(pushed, &["rev-parse", branch]), text(&task, "headCommit"));
        if pushed == "o/r" {
            assert_eq!(task["prUrl"], "https://github.com/o/r/pull/7", "{task:#}");
            assert!(home.read("words").contains("--repo github.com/o/r"), "{}", home.read("words"));
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
