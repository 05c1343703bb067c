//! The daemon killed while a worktree goes or a clone is made: nothing is lost, nothing is half.

use hayward_tests::home::{Home, id};
use hayward_tests::program::run;
use hayward_tests::repo::{ScratchRepo, git};
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn told(place: &Path, words: &[&str]) -> String {
    run(git(place).args(words)).expect(0).text().trim_end().to_owned()
}

/// The tree that git would make of all that lies there, through an index of its own.
fn whole_tree(place: &Path) -> String {
    let index = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = git(place);
        command.env("GIT_INDEX_FILE", index.path().join("index")).args(words);
        run(&mut command).expect(0).text().trim_end().to_owned()
    };
    run(&["add", "--all"]);
    run(&["write-tree"])
}

fn salvages(repo: &ScratchRepo) -> Vec<String> {
    let all = repo.git(&["for-each-ref", "--format=%(refname)", "refs/hayward/salvage/"]);
    all.lines().map(str::to_owned).collect()
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).into_iter().flatten().count()
}

/// A task that has ended, the daemon's process and the task's worktree.
fn ended(home: &Home, repo: &ScratchRepo, on: &str) -> (Value, PathBuf) {
    let words =
        ["--json", "run", "--on", on, "--", "sh", "-c", "echo more >> README; echo n > new"];
    let task = home.run_in(repo.path(), &words).expect(0).json();
    let path = home.json(&["worktree", "path", id(&task)])["path"].as_str().unwrap().into();
    (task, path)
}

/// Kills the daemon at a point while it removes a worktree, and has the next one finish it.
#[track_caller]
fn removal_killed_at(point: &str, on: &str) {
    let Some(home) = Home::armed(&format!("killed at {point}"), point) else { return };
    let repo = ScratchRepo::new();
    home.configure("[worktree]\npool = 0\n");
    let daemon = home.up().process;
    let (task, path) = ended(&home, &repo, on);
    let is_only_there = on == "none";
    let tree = whole_tree(&path);
    let before = repo.snapshot();
    home.run(&["worktree", "prune", "--force"]);
    until_true("the daemon is killed", LONG, || home.was_hit() && !daemon.alive());
    let is_kept = || {
        let kept = salvages(&repo);
        let tree_of = |name: &String| repo.git(&["rev-parse", &format!("{name}^{{tree}}")]);
        kept.len() == 1 && kept.iter().map(tree_of).all(|kept| kept == tree)
    };
    if is_only_there {
        let stands = path.is_dir() && whole_tree(&path) == tree;
        assert!(stands || is_kept(), "{point}: work is lost at the kill");
    }
    let _daemon = home.up();
    home.json(&["worktree", "prune", "--force"]);
    let worktrees = home.state().join("worktrees");
    until_true("all of it goes", LONG, || {
        !path.exists()
            && count(&worktrees.join(".trash")) == 0
            && count(&worktrees.join(".notes")) == 0
    });
    assert_eq!(is_kept(), is_only_there, "{point}: {:?}", salvages(&repo));
    assert_eq!(told(repo.path(), &["worktree", "list"]).lines().count(), 1, "{point}");
    until_true("it is told once", LONG, || {
        let events = home.events(&task);
        let gone = events.iter().filter(|event| event["type"] == "worktree.removed").count();
        assert!(gone < 2, "{point}: told twice");
        gone == 1
    });
    let mut after = repo.snapshot();
    let theirs = |line: &&str| !line.starts_with("refs/hayward/");
    after.refs = after.refs.lines().filter(theirs).collect::<Vec<_>>().join("\n");
    assert_eq!(after, before, "{point}");
    assert_eq!(repo.git(&["fsck", "--strict", "--no-dangling"]), "");
}

#[test]
fn f13_a_daemon_killed_while_a_worktree_goes_loses_nothing_and_finishes_it() {
    for point in ["life.remove.noted", "life.remove.gone"] {
        removal_killed_at(point, "branch");
        removal_killed_at(point, "none");
    }
}

#[test]
fn f13_a_daemon_killed_after_it_kept_work_keeps_it_once() {
    removal_killed_at("salvage.kept", "none");
}

#[test]
fn f21_a_daemon_killed_before_a_clone_is_in_place_leaves_nothing_of_it() {
    let Some(home) = Home::armed("killed at life.clone.made", "life.clone.made") else { return };
    let repo = ScratchRepo::new();
    let daemon = home.up().process;
    let (task, path) = ended(&home, &repo, "none");
    let (tree, before) = (whole_tree(&path), repo.snapshot());
    let out = home.files().canonicalize().unwrap().join("out");
    fs::create_dir(&out).unwrap();
    let target = out.join("copy");
    let clone = ["worktree", "clone", id(&task), target.to_str().unwrap()];
    home.run(&clone);
    until_true("the daemon is killed", LONG, || home.was_hit() && !daemon.alive());
    assert!(!target.exists());
    assert_eq!(count(&out), 1, "what is aside");
    let _daemon = home.up();
    until_true("what was aside goes", LONG, || {
        count(&out) == 0 && count(&home.state().join("home/.making")) == 0
    });
    home.json(&clone);
    assert_eq!(whole_tree(&target), tree);
    assert_eq!(told(&target, &["fsck", "--strict", "--no-dangling"]), "");
    assert_eq!((count(&out), whole_tree(&path)), (1, tree));
    assert_eq!(repo.snapshot(), before);
}
