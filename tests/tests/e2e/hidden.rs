//! Settings of the user's, and tricks of an agent's, that keep git from seeing changes: what lies in
//! the worktree is work all the same.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;

fn sh(home: &Home, repo: &ScratchRepo, line: &str) -> Value {
    let ran = home.run_in(repo.path(), &["run", "--json", "--", "sh", "-c", line]);
    assert!([0, 7].contains(&ran.code), "{}{}", ran.text(), ran.stderr);
    ran.json()
}

/// Runs the agent to a good end, where its work is a commit, and to a bad one, where it is kept once
/// the task is discarded.
fn found(repo: &ScratchRepo, line: &str, work: &[(&str, &str)]) {
    let home = Home::new();
    let before = repo.snapshot();
    let good = sh(&home, repo, line);
    assert_eq!(good["status"], "completed", "{good:#}");
    let bad = sh(&home, repo, &format!("{line}; exit 1"));
    assert_eq!(bad["status"], "failed", "{bad:#}");
    home.run(&["task", "discard", id(&bad)]).expect(0);
    let kept = || repo.git(&["for-each-ref", "--format=%(refname)", "refs/hayward/salvage"]);
    until_true("its work is kept", LONG, || !kept().is_empty());
    let kept = kept();
    let branch = good["branch"].as_str().unwrap();
    for (file, text) in work {
        for at in [branch, kept.as_str()] {
            assert_eq!(repo.git(&["show", &format!("{at}:{file}")]), *text, "{at}");
        }
    }
    assert_eq!(repo.snapshot(), before);
}

fn with_a() -> ScratchRepo {
    let repo = ScratchRepo::new();
    repo.write("a", "a\n");
    repo.write("deep/b", "b\n");
    repo.commit("two files");
    repo
}

#[test]
fn f13_changes_that_git_was_told_to_overlook_are_work() {
    let line = "git update-index --assume-unchanged a && git update-index --skip-worktree deep/b \
                && echo more > a && echo deeper > deep/b";
    found(&with_a(), line, &[("a", "more"), ("deep/b", "deeper")]);
}

#[test]
fn f13_with_the_users_core_ignore_stat_changes_are_work() {
    let repo = with_a();
    repo.git(&["config", "core.ignoreStat", "true"]);
    found(&repo, "echo more > a", &[("a", "more")]);
}

#[test]
fn f13_a_file_whose_name_differs_in_case_alone_is_another_file() {
    let repo = with_a();
    repo.git(&["config", "core.ignoreCase", "true"]);
    found(&repo, "echo new > A; echo B > deep/B", &[("A", "new"), ("a", "a"), ("deep/B", "B")]);
}

#[test]
fn f13_an_index_in_parts_is_read() {
    let repo = with_a();
    repo.git(&["config", "core.splitIndex", "true"]);
    let line = "echo more > a && git add a && git update-index --split-index && echo c > c";
    found(&repo, line, &[("a", "more"), ("c", "c")]);
}

#[test]
fn f43_a_repository_of_the_tasks_own_knows_no_login_of_the_users() {
    let (home, repo) = (Home::new(), with_a());
    let folder = repo.path().display();
    home.configure(&format!("[repositories.\"{folder}\"]\nisolation = \"clone\"\n"));
    let url = "https://x-access-token:ghs_SECRET@example.com/a.git";
    repo.git(&["remote", "add", "private", url]);
    repo.git(&["remote", "add", "near", "../near.git"]);
    let task = sh(&home, &repo, "git remote -v > remotes");
    let shown = repo.git(&["show", &format!("{}:remotes", task["branch"].as_str().unwrap())]);
    assert!(shown.contains("https://example.com/a.git"), "{shown}");
    assert!(!shown.contains("SECRET"), "{shown}");
    let near = repo.path().join("../near.git");
    assert!(shown.contains(near.to_str().unwrap()), "{shown}");
}
