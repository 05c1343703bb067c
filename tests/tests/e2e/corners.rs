//! Work that lies beside the repository's own commits: in submodules, and in a repository of the
//! task's own. It is told of, not published half, and not lost.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

fn isolated(home: &Home, repo: &ScratchRepo, more: &str) {
    let folder = repo.path().display();
    home.configure(&format!("[repositories.\"{folder}\"]\nisolation = \"clone\"\n{more}"));
}

fn lent(home: &Home) -> Vec<PathBuf> {
    let all = fs::read_dir(home.state().join("repos/lent")).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).collect()
}

fn borrowed(repo: &ScratchRepo) -> String {
    repo.git(&["for-each-ref", "refs/hayward/lent"])
}

fn salvages(repo: &ScratchRepo) -> Vec<String> {
    let named = repo.git(&["for-each-ref", "--format=%(refname)", "refs/hayward/salvage"]);
    named.lines().map(str::to_owned).collect()
}

fn sh(home: &Home, repo: &ScratchRepo, options: &[&str], line: &str) -> Value {
    let words = [&["run", "--json"], options, &["--", "sh", "-c", line]].concat();
    let ran = home.run_in(repo.path(), &words);
    assert!([0, 7].contains(&ran.code), "{}{}", ran.text(), ran.stderr);
    ran.json()
}

#[test]
fn f13_a_repository_of_the_tasks_own_goes_with_its_worktree_and_loses_nothing() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    isolated(&home, &repo, "");
    let before = repo.snapshot();
    let branch = sh(&home, &repo, &[], "echo b > b");
    let loose = sh(&home, &repo, &["--on", "none"], "echo dirty > dirty");
    let aside = sh(
        &home,
        &repo,
        &[],
        "git checkout -q -b aside && echo s > s && git add s && git -c user.name=A -c \
         user.email=a@a commit -q -m aside && git checkout -q - && echo c > c",
    );
    assert_eq!(lent(&home).len(), 3);
    home.run(&["worktree", "prune", "--force"]).expect(0);
    until_true("nothing is lent any more", LONG, || lent(&home).is_empty());
    assert_eq!(borrowed(&repo), "");
    assert_eq!(repo.snapshot(), before);
    for (task, file) in [(&branch, "b"), (&aside, "c")] {
        let name = task["branch"].as_str().unwrap();
        assert_eq!(repo.git(&["show", &format!("{name}:{file}")]), file);
    }
    let kept = salvages(&repo);
    assert_eq!(kept.len(), 2, "{kept:?}");
    let has = |file: &str| {
        kept.iter()
            .any(|name| repo.try_git(&["cat-file", "-e", &format!("{name}:{file}")]).code == 0)
    };
    assert!(has("dirty") && has("s"));
    assert_eq!(repo.git(&["fsck", "--strict"]), "");
    // what it left is found again
    let rows = home.json(&["worktree", "ls"])["worktrees"].as_array().unwrap().clone();
    let row = rows.iter().find(|row| row["taskId"] == loose["id"]).unwrap();
    assert_eq!(
        (row["state"].as_str(), row["salvage"].as_array().map(Vec::len)),
        (Some("removed"), Some(1))
    );
    let diff = home.run(&["task", "diff", id(&loose)]).expect(0);
    assert!(diff.text().contains("dirty"), "{}", diff.text());
    home.run(&["task", "diff", id(&branch)]).expect(0);
}

#[test]
fn a_setup_that_fails_leaves_nothing_lent() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    isolated(&home, &repo, "setup = \"exit 3\"\n");
    let before = repo.snapshot();
    let task = sh(&home, &repo, &[], "true");
    assert_eq!(task["reason"], "setup_failed", "{task:#}");
    assert_eq!((lent(&home), borrowed(&repo)), (Vec::new(), String::new()));
    assert_eq!(repo.snapshot(), before);
}

/// A daemon that is killed at this point is started again; then nothing is lent, nothing is lost.
fn f21_lent(test: &str, point: &str) {
    let Some(home) = Home::armed(test, point) else { return };
    let repo = ScratchRepo::new();
    isolated(&home, &repo, "");
    let daemon = home.up();
    let words = ["run", "--json", "--on", "none", "--", "sh", "-c", "echo dirty > dirty"];
    let mut run = home.spawn("run", repo.path(), &words);
    until_true("the run ends or the daemon dies", LONG, || {
        home.was_hit() || run.try_wait().is_ok_and(|ended| ended.is_some())
    });
    if !home.was_hit() {
        home.run(&["worktree", "prune", "--force"]);
    }
    until_true("the point is reached", LONG, || home.was_hit() && !daemon.process.alive());
    drop(run.kill());
    drop(run.wait());
    home.up();
    if point == "lend.made" {
        // the task is done anew, in a repository that is made anew
        let tasks = home.json(&["task", "ls"])["tasks"].clone();
        home.reaches(&tasks[0], "completed");
        home.run(&["worktree", "prune", "--force"]).expect(0);
    }
    until_true("nothing is lent any more", LONG, || {
        lent(&home).is_empty() && borrowed(&repo).is_empty()
    });
    let kept = salvages(&repo);
    assert_eq!(kept.len(), 1, "{kept:?}\n{}", home.log());
    assert_eq!(repo.git(&["show", &format!("{}:dirty", kept[0])]), "dirty");
    let rows = home.json(&["worktree", "ls"])["worktrees"].clone();
    assert_eq!(rows[0]["salvage"][0], kept[0].as_str(), "{rows:#}");
}

#[test]
fn f21_a_kill_while_a_repository_is_lent_or_called_in_loses_nothing() {
    for point in ["lend.made", "life.lent.home", "lend.home:2", "lend.forgotten:2"] {
        f21_lent("f21_a_kill_while_a_repository_is_lent_or_called_in_loses_nothing", point);
    }
}

/// A repository with a submodule, and a remote of its own.
fn with_library(library: &ScratchRepo) -> ScratchRepo {
    let repo = ScratchRepo::new();
    let url = library.path().to_str().unwrap();
    repo.git(&["-c", "protocol.file.allow=always", "submodule", "add", "-q", url, "lib"]);
    repo.commit("library");
    repo
}

const INSIDE: &str = "cd lib && echo n > n && git add n && git -c user.name=A -c user.email=a@a \
                      commit -q -m inside && echo more > more";

#[test]
fn f13_work_inside_a_submodule_is_told_not_pushed_and_kept() {
    let (home, library) = (Home::new(), ScratchRepo::new());
    let repo = with_library(&library);
    let bare = home.files().join("remote.git");
    let words = ["init", "-q", "--bare", bare.to_str().unwrap()];
    hayward_tests::program::run(git(&home.files()).args(words)).expect(0);
    repo.git(&["remote", "add", "origin", bare.to_str().unwrap()]);
    repo.git(&["push", "-q", "origin", "main"]);
    let before = repo.snapshot();
    let task = sh(&home, &repo, &["--on", "pr", "--target", "main"], INSIDE);
    assert_eq!(task["reason"], "push_failed", "{task:#}");
    let text = task["errorMessage"].as_str().unwrap();
    assert!(text.contains("submodule lib"), "{text}");
    let refs = git(&bare).args(["for-each-ref", "--format=%(refname)"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&refs).trim(), "refs/heads/main");
    let withheld = task["withheldFiles"].to_string();
    assert!(
        withheld.contains("only a commit inside it") && withheld.contains("worktree alone"),
        "{withheld}"
    );
    assert_eq!(repo.snapshot(), before);
    // landing is the user's own machine: a warning
    let merged = sh(&home, &repo, &["--on", "merge", "--target", "main"], INSIDE);
    assert_eq!(merged["status"], "completed", "{merged:#}");
    let told: Vec<_> = home.events(&merged).iter().map(Value::to_string).collect();
    assert!(
        told.iter().any(|event| event.contains("does not have the submodule lib")),
        "{told:#?}"
    );
    home.run(&["worktree", "prune", "--force"]).expect(0);
    let kept = salvages(&repo);
    assert_eq!(kept.len(), 2, "{kept:?}");
    for name in kept {
        let parents = repo.git(&["rev-parse", &format!("{name}^@")]);
        let holds = |file: &str| {
            parents
                .lines()
                .any(|at| repo.try_git(&["cat-file", "-e", &format!("{at}:{file}")]).code == 0)
        };
        assert!(holds("n") && holds("more"), "{name}");
    }
    assert_eq!(repo.git(&["fsck", "--strict"]), "");
}
