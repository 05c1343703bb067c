//! Bad input and bad ground: a clear error each, and nothing is changed by it.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::{ScratchRepo, Snapshot, git};
use hayward_tests::script::Script;
use hayward_tests::skip;
use hayward_tests::wait::{LONG, until_true};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All that a refused command might have touched.
#[derive(Debug, PartialEq)]
struct Ground {
    checkout: Snapshot,
    refs: String,
    status: String,
    worktrees: String,
    folders: Vec<String>,
}

fn ground(home: &Home, repo: &ScratchRepo) -> Ground {
    Ground {
        checkout: repo.snapshot(),
        refs: repo.git(&["for-each-ref"]),
        status: repo.git(&["status", "--porcelain", "--ignored"]),
        worktrees: repo.git(&["worktree", "list", "--porcelain"]),
        folders: folders(home),
    }
}

/// What stands in the folder of worktrees, Hayward's own folders aside.
fn folders(home: &Home) -> Vec<String> {
    let all = fs::read_dir(home.state().join("worktrees")).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// A daemon that makes no worktrees on its own, and a repository.
fn still() -> (Home, ScratchRepo) {
    let home = Home::new();
    home.configure("[worktree]\npool = 0\n");
    (home, ScratchRepo::new())
}

/// The command fails with this code and says each of `words`; nothing is changed.
#[track_caller]
fn refused(home: &Home, repo: &ScratchRepo, arguments: &[&str], code: i32, words: &[&str]) {
    let before = ground(home, repo);
    let ran = home.run_in(repo.path(), &[&["--json"], arguments].concat());
    assert_eq!(ran.code, code, "{arguments:?}: {}\n{}", ran.text(), ran.stderr);
    let told = ran.json();
    let error = &told["error"]["message"];
    let text = error.as_str().or_else(|| told["errorMessage"].as_str()).unwrap_or_default();
    for word in words {
        assert!(text.contains(word), "{arguments:?}: '{word}' is not in: {told:#}");
    }
    assert_eq!(ground(home, repo), before, "{arguments:?}");
}

/// The order is taken, and its task fails for this reason and says each of `words`.
#[track_caller]
fn fails(home: &Home, repo: &ScratchRepo, order: &Value, reason: &str, words: &[&str]) {
    let before = ground(home, repo);
    let daemon = home.up();
    let made = home.api(&daemon).post("/api/v1/tasks", order);
    assert_eq!(made.status, 201, "{}", made.json());
    let task = home.reaches(&made.json(), "failed");
    assert_eq!(task["reason"], reason, "{task:#}");
    let text = task["errorMessage"].as_str().unwrap_or_default();
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
    assert_eq!(ground(home, repo), before, "{order:#}");
}

fn order(repo: &Path, more: &Value) -> Value {
    let mut order = json!({
        "name": "bad", "plan": "x", "command": ["sh", "-c", "echo x > x"],
        "repositoryUrl": repo, "completionAction": "branch",
    });
    let fields = more.as_object().unwrap().clone();
    order.as_object_mut().unwrap().extend(fields);
    order
}

const TRUE: [&str; 2] = ["--", "true"];

#[test]
fn a_base_that_does_not_exist() {
    let (home, repo) = still();
    repo.in_use();
    home.up();
    let gone = "0123456789012345678901234567890123456789";
    for base in ["mian", "refs/heads/none", gone, "HEAD~99", "main:README", "../main", ""] {
        refused(&home, &repo, &[&["run", "--base", base], &TRUE[..]].concat(), 3, &[]);
    }
    refused(&home, &repo, &["run", "--base", "mian", "--", "true"], 3, &["mian"]);
    let of = |more: Value| order(repo.path(), &more);
    fails(&home, &repo, &of(json!({ "baseBranch": "mian" })), "base_not_found", &["mian"]);
    fails(&home, &repo, &of(json!({ "baseCommit": gone })), "base_not_found", &[&gone[..10]]);
}

#[test]
fn branch_names_that_git_refuses() {
    let (home, repo) = still();
    repo.in_use();
    home.up();
    for name in
        ["a..b", "-x", "a b", "a~1", "x.lock", "@{-1}", "/a", "a/", "refs/heads/../x", "\u{1}"]
    {
        let of = |more: Value| order(repo.path(), &more);
        fails(&home, &repo, &of(json!({ "baseBranch": name })), "base_not_found", &[]);
    }
    // the work stands on its branch, and nothing else moved
    for name in ["a..b", "-x", "x.lock", "a/"] {
        let before = (repo.snapshot(), repo.git(&["worktree", "list"]).lines().count());
        let target = format!("--target={name}");
        let words = ["run", "--json", "--on", "merge", &target, "--", "sh", "-c", "echo x > x"];
        let task = home.run_in(repo.path(), &words);
        assert_eq!(task.code, 7, "{name}: {}{}", task.text(), task.stderr);
        let task = task.json();
        assert_eq!(task["reason"], "target_not_found", "{task:#}");
        assert!(task["errorMessage"].as_str().unwrap().contains(name), "{task:#}");
        assert_eq!(repo.snapshot(), before.0, "{name}");
    }
}

#[test]
fn files_to_copy_that_lie_outside() {
    let (home, repo) = still();
    let daemon = home.up();
    fs::write(home.file("secret"), "secret\n").unwrap();
    let absolute = home.file("secret").display().to_string();
    for bad in ["../x", "a/../../x", "/etc/passwd", &absolute, ".git/config", "", "."] {
        let words = ["run", "--copy", bad, "--", "true"];
        refused(&home, &repo, &words, 2, &["inside the repository"]);
        let wrong = order(repo.path(), &json!({ "copyFiles": [bad] }));
        let reply = home.api(&daemon).post("/api/v1/tasks", &wrong);
        assert_eq!(reply.status, 400, "{bad}: {}", reply.json());
        assert!(reply.json().to_string().contains("inside the repository"), "{}", reply.json());
    }
    // by a link that lies on the way
    std::os::unix::fs::symlink(home.files(), repo.path().join("way")).unwrap();
    let through = order(repo.path(), &json!({ "copyFiles": ["way/secret"] }));
    fails(&home, &repo, &through, "files_missing", &["way/secret"]);
}

#[test]
fn a_target_inside_another_worktree() {
    let (home, repo) = still();
    let script = Script::new().write("a", "a\n");
    let first = home.follow(repo.path(), &[], &script).expect(0).json();
    let second = home.follow(repo.path(), &[], &script).expect(0).json();
    let told = home.json(&["worktree", "path", id(&second)]);
    let other = PathBuf::from(told["path"].as_str().unwrap());
    for place in [other.join("in"), other.join(".git/in"), repo.path().join("in")] {
        let target = place.to_str().unwrap();
        let ran = home.run(&["--json", "worktree", "clone", id(&first), target]);
        assert!([2, 4, 5].contains(&ran.code), "{target}: {} {}", ran.code, ran.text());
        refused(&home, &repo, &["worktree", "clone", id(&first), target], ran.code, &[]);
        assert!(!place.exists());
    }
    assert_eq!(git(&other).args(["status", "--porcelain"]).output().unwrap().stdout, b"");
}

#[test]
fn a_repository_without_commits() {
    let (home, repo) = still();
    let empty = home.files().join("empty");
    hayward_tests::program::run(git(&home.files()).args(["init", "-q", "empty"])).expect(0);
    let place = empty.to_str().unwrap();
    refused(&home, &repo, &["run", "--repo", place, "--", "true"], 2, &["no commit"]);
    let before = git(&empty).args(["for-each-ref"]).output().unwrap().stdout;
    for more in [json!({}), json!({ "baseBranch": "main" })] {
        fails(&home, &repo, &order(&empty, &more), "repository_unavailable", &["no commits"]);
    }
    assert_eq!(git(&empty).args(["for-each-ref"]).output().unwrap().stdout, before);
    let listed = git(&empty).args(["worktree", "list"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&listed).lines().count(), 1);
}

#[test]
fn a_bare_repository_serves_like_any_other() {
    let (home, repo) = still();
    let bare = home.files().join("bare.git");
    let words = ["clone", "-q", "--bare", repo.path().to_str().unwrap(), bare.to_str().unwrap()];
    hayward_tests::program::run(git(&home.files()).args(words)).expect(0);
    let show = |args: &[&str]| {
        let out = hayward_tests::program::run(git(&bare).args(args)).expect(0);
        out.text().trim().to_owned()
    };
    let before = (show(&["for-each-ref"]), fs::read(bare.join("config")).unwrap());
    let place = bare.to_str().unwrap();
    let words = ["run", "--json", "--repo", place, "--", "sh", "-c", "echo x > x"];
    let task = home.run(&words).expect(0).json();
    assert_eq!(show(&["show", &format!("{}:x", task["branch"].as_str().unwrap())]), "x");
    let theirs: Vec<_> = show(&["for-each-ref"]).lines().map(str::to_owned).collect();
    let theirs: Vec<_> =
        theirs.into_iter().filter(|line| !line.contains("refs/heads/hayward/")).collect();
    assert_eq!((theirs.join("\n"), fs::read(bare.join("config")).unwrap()), before);
    // what only a checkout has cannot be copied from it, and that is said
    let order = order(&bare, &json!({ "copyFiles": ["a"] }));
    fails(&home, &repo, &order, "files_missing", &["'a'", "bare.git"]);
}

#[test]
fn a_file_where_a_folder_is_expected() {
    let (home, repo) = still();
    let file = home.file("file");
    fs::write(&file, "not a folder\n").unwrap();
    let place = file.to_str().unwrap();
    for wrong in [place.to_owned(), format!("{place}/in")] {
        let ran = home.run(&["--json", "run", "--repo", &wrong, "--", "true"]);
        assert!([1, 2].contains(&ran.code), "{}: {}", ran.code, ran.text());
        refused(&home, &repo, &["run", "--repo", &wrong, "--", "true"], ran.code, &[]);
        let words = &["file"];
        fails(&home, &repo, &order(Path::new(&wrong), &json!({})), "repository_unavailable", words);
    }
    let other = Home::new();
    let state = other.file("state");
    fs::write(&state, "not a folder\n").unwrap();
    let mut up = other.command(&["--json", "up", "--detach"]);
    let ran = hayward_tests::program::run(up.env("HAYWARD_HOME", &state));
    assert!(ran.code != 0 && ran.json().to_string().contains("state"), "{}", ran.text());
    assert_eq!(fs::read_to_string(&state).unwrap(), "not a folder\n");
}

#[test]
fn a_password_in_an_address_is_refused_by_every_way_in() {
    let (home, repo) = still();
    let daemon = home.up();
    let url = "https://me:hunter2@example.com/a.git";
    refused(&home, &repo, &["run", "--repo", url, "--", "true"], 2, &["password"]);
    let reply = home.api(&daemon).post("/api/v1/tasks", &order(Path::new(url), &json!({})));
    let told = reply.json().to_string();
    assert_eq!((reply.status, told.contains("password")), (400, true), "{told}");
    assert!(!told.contains("hunter2") && !home.log().contains("hunter2"), "{told}");
    assert_eq!(home.json(&["task", "ls"])["tasks"].as_array().map(Vec::len), Some(0));
}

/// A small file system at a folder, gone with this.
struct Small(PathBuf);

impl Small {
    fn mount(test: &str, at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        match mount.args(["-t", "tmpfs", "-o", &size, "hayward-test"]).arg(&at).output() {
            Ok(output) if output.status.success() => Some(Self(at)),
            Ok(output) => {
                skip(test, &format!("no tmpfs: {}", String::from_utf8_lossy(&output.stderr)));
                None
            }
            Err(cause) => {
                skip(test, &format!("no mount: {cause}"));
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(gone.is_ok_and(|status| status.success()), "{} is still mounted", self.0.display());
    }
}

#[test]
fn a_full_disk() {
    let (home, repo) = still();
    let worktrees = home.state().join("worktrees");
    let Some(_small) = Small::mount("a_full_disk", worktrees.clone(), "3m") else { return };
    let fits = repo.git(&["rev-parse", "HEAD"]);
    for n in 0..6_u8 {
        fs::write(repo.path().join(format!("big{n}")), vec![n; 1 << 20]).unwrap();
    }
    repo.commit("more than fits");
    let script = Script::new().sign(home.file("starts")).write("a", "a\n");
    let before = ground(&home, &repo);
    let task = home.follow(repo.path(), &[], &script);
    assert_eq!(task.code, 7, "{}{}", task.text(), task.stderr);
    let task = task.json();
    assert_eq!(task["reason"], "disk_full", "{task:#}");
    let text = task["errorMessage"].as_str().unwrap();
    assert!(text.contains("disk is full"), "{text}");
    assert!(text.contains(worktrees.to_str().unwrap()), "{text}");
    assert_eq!(home.starts("starts"), 0, "an agent was started");
    assert_eq!(ground(&home, &repo), before);
    // nothing half left: the next one that fits has the room
    let trash = || fs::read_dir(worktrees.join(".trash")).into_iter().flatten().count();
    until_true("what was written is cleared away", LONG, || trash() == 0);
    let script = Script::new().write("a", "a\n");
    let task = home.follow(repo.path(), &["--base", &fits], &script).expect(0).json();
    assert_eq!(repo.git(&["show", &format!("{}:a", task["branch"].as_str().unwrap())]), "a");
    repo.git(&["fsck", "--strict"]);
}
