//! Previews, merges, completions and the queue once more: over HTTP where the command line's own
//! tests do not go, and with the daemon killed while a command is under way and between any two.
//! Refs and trees judge.

use crate::complete::{Forge, program};
use hayward_tests::home::{Daemon, Home, id};
use hayward_tests::http::Api;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until, until_true};
use serde_json::{Value, json};
use std::time::Duration;

/// How long after a command was begun the daemon is killed: before it is heard, in its midst, and
/// after it.
const MOMENTS: [u64; 4] = [5, 25, 45, 90];

fn refs(repo: &ScratchRepo) -> String {
    repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"])
}

fn files(repo: &ScratchRepo, at: &str) -> String {
    repo.git(&["ls-tree", "-r", "--name-only", at])
}

fn task(home: &Home, repo: &ScratchRepo, options: &[&str], file: (&str, &str)) -> Value {
    home.follow(repo.path(), options, &Script::new().write(file.0, file.1)).expect(0).json()
}

/// Begins a command and kills the daemon a moment later; a new one runs when this returns.
fn cut(home: &Home, daemon: &mut Daemon, moment: u64, words: &[&str]) {
    let mut command = home.spawn("cut", &home.user(), words);
    std::thread::sleep(Duration::from_millis(moment));
    daemon.crash();
    until_true("the daemon is gone", LONG, || !daemon.process.alive());
    *daemon = home.up();
    command.wait().unwrap();
}

#[track_caller]
fn is_whole(home: &Home, repo: &ScratchRepo) {
    assert!(!repo.path().join(".git/MERGE_HEAD").exists());
    assert!(!repo.path().join(".git/index.lock").exists());
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    assert_eq!(repo.git(&["fsck", "--strict", "--no-dangling"]), "", "{}", home.log());
}

/// A parent and a part that conflicts with it in `README`.
fn pair(home: &Home, repo: &ScratchRepo) -> (Value, Value) {
    let parent = task(home, repo, &[], ("README", "parent\n"));
    let part = task(home, repo, &["--parent", id(&parent), "--name", "part"], ("README", "part\n"));
    (parent, part)
}

fn tip(repo: &ScratchRepo, task: &Value) -> String {
    repo.git(&["rev-parse", task["branch"].as_str().unwrap()])
}

#[test]
fn a_merge_is_given_up_over_http_and_leaves_nothing() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (parent, part) = pair(&home, &repo);
    let api = home.api(&home.up());
    let path = |what: &str| format!("/api/v1/tasks/{}/merge/{what}", id(&parent));
    let before = refs(&repo);
    assert_eq!(api.post(&path("abort"), &json!({})).status, 409);
    assert_eq!(api.post(&path("start"), &json!({"sourceBranch": part["branch"]})).status, 200);
    let choice = json!({"file": "README", "strategy": "theirs"});
    assert_eq!(api.post(&path("resolve"), &choice).status, 200);
    let given_up = api.post(&path("abort"), &json!({}));
    assert_eq!((given_up.status, &given_up.json()["success"]), (200, &json!(true)));
    assert_eq!(api.get(&path("status")).json()["inProgress"], false);
    assert_eq!(refs(&repo), before);
    is_whole(&home, &repo);
}

#[test]
fn completions_over_http_move_what_they_say_and_are_taken_back() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let forge = Forge::new(&home, &repo);
    program(
        &home,
        "gh",
        "case $2 in list) echo '[]';; *) echo https://github.com/o/r/pull/9;; esac",
    );
    let base = repo.git(&["rev-parse", "main"]);
    let work = task(&home, &repo, &[], ("work", "w\n"));
    let clash = task(&home, &repo, &[], ("work", "other\n"));
    let bare = task(&home, &repo, &["--on", "none"], ("bare", "b\n"));
    let api = home.api(&home.up());
    let complete = |task: &Value, body: Value| {
        api.post(&format!("/api/v1/tasks/{}/complete", id(task)), &body)
    };
    let merge = json!({"action": "merge", "targetBranch": "main"});
    assert_eq!(complete(&work, merge.clone()).status, 200);
    assert_eq!(repo.git(&["rev-parse", "main"]), work["headCommit"].as_str().unwrap());
    // the other conflicts with it now: nothing moves
    let before = repo.snapshot();
    let refused = complete(&clash, merge);
    assert_eq!((refused.status, refused.code().as_str()), (409, "conflict"), "{}", refused.body);
    assert!(refused.body.contains("work"), "{}", refused.body);
    assert_eq!(repo.snapshot(), before);
    assert_eq!(complete(&work, json!({"undo": true, "action": "merge"})).status, 400);
    assert_eq!(complete(&work, json!({"undo": true})).status, 200);
    assert_eq!(repo.git(&["rev-parse", "main"]), base);
    assert!(!repo.path().join("work").exists());
    // a pull request, and its branch taken back from the remote
    let opened = complete(&clash, json!({"action": "pr"}));
    assert_eq!(opened.json()["prUrl"], "https://github.com/o/r/pull/9", "{}", opened.body);
    assert_eq!(forge.branches(), clash["branch"].as_str().unwrap());
    assert_eq!(complete(&clash, json!({"undo": true})).status, 200);
    assert_eq!(forge.branches(), "");
    // a branch for what had none
    assert_eq!(complete(&bare, json!({"action": "branch"})).status, 200);
    let name = format!("refs/heads/hayward/*{}", &id(&bare)[28..]);
    let made = repo.git(&["for-each-ref", "--format=%(refname)", &name]);
    assert_eq!(repo.git(&["show", &format!("{made}:bare")]), "b");
    assert_eq!(complete(&work, json!({"action": "dance"})).status, 400);
    is_whole(&home, &repo);
}

fn entries(api: &Api) -> Vec<Value> {
    api.get("/api/v1/queue").json()["queue"].as_array().unwrap().clone()
}

#[test]
fn the_queue_over_http_lands_what_passes_and_names_what_does_not() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let base = repo.git(&["rev-parse", "main"]);
    let one = task(&home, &repo, &[], ("shared", "one\n"));
    let clash = task(&home, &repo, &[], ("shared", "two\n"));
    let waits = task(&home, &repo, &[], ("late", "late\n"));
    let api = home.api(&home.up());
    let gate = home.file("gate");
    let check = format!("while ! test -e {}; do sleep 0.05; done", gate.display());
    let body = |task: &[&Value], check: &str| {
        let ids: Vec<_> = task.iter().map(|task| id(task)).collect();
        json!({"taskIds": ids, "targetBranch": "main", "check": check})
    };
    let added = api.post("/api/v1/queue", &body(&[&one, &clash], &check));
    assert_eq!((added.status, added.json()["queue"].as_array().unwrap().len()), (200, 2));
    let twice = api.post("/api/v1/queue", &body(&[&one], ""));
    assert_eq!((twice.status, twice.code().as_str()), (409, "conflict"));
    let late = api.post("/api/v1/queue", &body(&[&waits], "true")).json()["queue"][0].clone();
    let entry = |row: &Value| format!("/api/v1/queue/{}", row["id"].as_str().unwrap());
    assert_eq!(api.send("DELETE", &entry(&late), None, &[]).status, 200);
    assert_eq!(api.send("DELETE", &entry(&late), None, &[]).status, 409);
    let viewer = home.json(&["token", "create", "--kind", "user", "--role", "viewer"]);
    let viewer = api.as_other(viewer["token"].as_str().unwrap());
    assert_eq!(viewer.post("/api/v1/queue", &body(&[&waits], "")).status, 403);
    assert_eq!(viewer.get("/api/v1/queue").status, 200);
    home.open_gate("gate");
    let rows = until("all have ended", LONG, || {
        Some(entries(&api)).filter(|rows| rows.iter().all(|row| !row["endedAt"].is_null()))
    });
    let states: Vec<_> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["landed", "conflict", "removed"]);
    assert_eq!(rows[1]["files"], json!(["shared"]));
    assert_eq!(repo.git(&["rev-parse", "main^1"]), base);
    assert_eq!(repo.git(&["rev-parse", "main^2"]), one["headCommit"].as_str().unwrap());
    assert_eq!(files(&repo, "main"), ".gitignore\nREADME\nshared");
    assert_eq!(repo.git(&["show", "main:shared"]), "one");
    assert_eq!(api.send("DELETE", &entry(&rows[0]), None, &[]).status, 409);
    is_whole(&home, &repo);
}

#[test]
fn f21_a_merge_that_is_killed_between_any_two_commands_goes_on() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (parent, part) = pair(&home, &repo);
    let other = task(&home, &repo, &["--parent", id(&parent)], ("other", "o\n"));
    let old = tip(&repo, &parent);
    let before = refs(&repo);
    let again = || {
        let daemon = home.up();
        daemon.crash();
        until_true("the daemon is gone", LONG, || !daemon.process.alive());
        home.up();
    };
    let merge = |words: &[&str], code| {
        let (what, rest) = words.split_first().unwrap();
        home.run(&[&["--json", "merge", what, id(&parent)], rest].concat()).expect(code).json()
    };
    merge(&["start", id(&part)], 4);
    again();
    let status = merge(&["status"], 0);
    assert_eq!(
        (&status["inProgress"], &status["conflictedFiles"]),
        (&json!(true), &json!(["README"]))
    );
    merge(&["abort"], 0);
    again();
    assert_eq!(merge(&["status"], 0)["inProgress"], false);
    assert_eq!(refs(&repo), before);
    merge(&["start", id(&part)], 4);
    merge(&["resolve", "README", "theirs"], 0);
    again();
    assert_eq!(merge(&["status"], 0)["conflictedFiles"], json!([]));
    assert_eq!(refs(&repo), before);
    merge(&["commit", "-m", "theirs"], 0);
    again();
    let merged = tip(&repo, &parent);
    let parents = repo.git(&["log", "-1", "--format=%P", &merged]);
    assert_eq!(parents, format!("{old} {}", tip(&repo, &part)));
    assert_eq!(repo.git(&["show", &format!("{merged}:README")]), "part");
    merge(&["skip", id(&other), "--reason", "not now"], 0);
    again();
    let check = merge(&["check"], 0);
    assert_eq!((&check["canComplete"], &check["skippedCount"]), (&json!(true), &json!(1)));
    assert_eq!(merge(&["branches"], 0)["branches"].as_array().unwrap().len(), 2);
    is_whole(&home, &repo);
}

#[test]
fn f21_a_daemon_killed_in_the_midst_of_a_preview_or_a_choice_moves_nothing() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (parent, part) = pair(&home, &repo);
    let mut daemon = home.up();
    let before = refs(&repo);
    let target = parent["branch"].as_str().unwrap();
    let (parent, part) = (id(&parent), id(&part));
    for moment in MOMENTS {
        cut(&home, &mut daemon, moment, &["merge", "preview", part, "--target", target]);
        let seen = home.json(&["merge", "preview", part, "--target", target]);
        assert_eq!(seen["conflictedFiles"], json!(["README"]));
        cut(&home, &mut daemon, moment, &["merge", "start", parent, part]);
        let begun = home.json(&["merge", "status", parent])["inProgress"] == true;
        if !begun {
            home.run(&["merge", "start", parent, part]).expect(4);
        }
        cut(&home, &mut daemon, moment, &["merge", "resolve", parent, "README", "ours"]);
        let left = home.json(&["merge", "status", parent])["conflictedFiles"].clone();
        assert!([json!([]), json!(["README"])].contains(&left), "{left}");
        cut(&home, &mut daemon, moment, &["merge", "abort", parent]);
        if home.json(&["merge", "status", parent])["inProgress"] == true {
            home.run(&["merge", "abort", parent]).expect(0);
        }
        assert_eq!(refs(&repo), before, "killed after {moment} ms");
    }
    is_whole(&home, &repo);
}

#[test]
fn f21_a_daemon_killed_while_it_takes_back_or_skips_is_whole() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let parent = task(&home, &repo, &[], ("README", "parent\n"));
    let part = task(&home, &repo, &["--parent", id(&parent)], ("part", "p\n"));
    let mut daemon = home.up();
    let base = repo.git(&["rev-parse", "main"]);
    let head = parent["headCommit"].as_str().unwrap();
    for moment in MOMENTS {
        home.json(&["complete", id(&parent), "--action", "merge", "--target", "main"]);
        assert_eq!(repo.git(&["rev-parse", "main"]), head);
        cut(&home, &mut daemon, moment, &["complete", id(&parent), "--undo"]);
        // taken back or not, and what was begun is ended by the next daemon
        until_true("it is whole", LONG, || repo.git(&["status", "--porcelain"]).is_empty());
        until_true("it is taken back", LONG, || {
            let tip = repo.git(&["rev-parse", "main"]);
            assert!(tip == head || tip == base, "{tip} after {moment} ms");
            // before it was heard nothing of it was begun
            tip == base || home.run(&["complete", id(&parent), "--undo"]).code == 0
        });
        assert_eq!(repo.git(&["rev-parse", "main"]), base, "killed after {moment} ms");
        is_whole(&home, &repo);
    }
    cut(&home, &mut daemon, 25, &["merge", "skip", id(&parent), id(&part), "--reason", "r"]);
    let check = home.json(&["merge", "check", id(&parent)]);
    let skipped = check["skippedCount"] == 1;
    assert_eq!(check["canComplete"], json!(skipped), "{check}");
}

#[test]
fn f21_a_git_that_outlives_its_daemon_meets_no_git_of_the_next() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (armed, first, second) = (home.file("armed"), home.file("first"), home.file("second"));
    // that of the killed daemon holds the index just when the next one wants it
    let text = format!(
        "case \"$*\" in *read-tree*)\n\
         if [ -e {armed} ] && mkdir {first} 2>/dev/null; then\n\
         n=0; while [ ! -e {second} ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.02; done\n\
         : > {lock}; sleep 1; rm {lock}\n\
         elif [ -e {armed} ]; then : > {second}; sleep 0.3; fi;;\n\
         esac\n\
         PATH=/usr/local/bin:/usr/bin:/bin exec git \"$@\"",
        armed = armed.display(),
        first = first.display(),
        second = second.display(),
        lock = repo.path().join(".git/index.lock").display(),
    );
    program(&home, "git", &text);
    let work = task(&home, &repo, &[], ("README", "changed\n"));
    let daemon = home.up();
    let base = repo.git(&["rev-parse", "main"]);
    home.json(&["complete", id(&work), "--action", "merge", "--target", "main"]);
    std::fs::write(&armed, "").unwrap();
    let mut command = home.spawn("cut", &home.user(), &["complete", id(&work), "--undo"]);
    until_true("its git has begun", LONG, || first.exists());
    daemon.crash();
    until_true("the daemon is gone", LONG, || !daemon.process.alive());
    home.up();
    command.wait().unwrap();
    until_true("it is taken back", LONG, || repo.git(&["rev-parse", "main"]) == base);
    is_whole(&home, &repo);
}

#[test]
fn f21_taking_back_that_is_killed_at_any_point_is_ended_by_the_next_daemon() {
    let name = "f21_taking_back_that_is_killed_at_any_point";
    // the first passing is the merge itself
    for point in ["merge.land.begun:2", "merge.land.written:2", "merge.land.moved:2"] {
        let Some(home) = Home::armed(name, point) else { return };
        let repo = ScratchRepo::new();
        let work = task(&home, &repo, &[], ("README", "changed\n"));
        let daemon = home.up();
        let base = repo.git(&["rev-parse", "main"]);
        home.json(&["complete", id(&work), "--action", "merge", "--target", "main"]);
        let cut = home.run(&["complete", id(&work), "--undo"]);
        assert_ne!(cut.code, 0, "{point}");
        until_true("the daemon is gone", LONG, || home.was_hit() && !daemon.process.alive());
        home.up();
        let is_back = || repo.git(&["rev-parse", "main"]) == base;
        until_true("it is taken back", LONG, || {
            is_back() && repo.git(&["status", "--porcelain"]).is_empty()
        });
        let text = std::fs::read_to_string(repo.path().join("README")).unwrap();
        assert_eq!(text, "a project\n", "{point}");
        is_whole(&home, &repo);
        // and it can go in once more
        home.json(&["complete", id(&work), "--action", "merge", "--target", "main"]);
        assert_eq!(repo.git(&["show", "main:README"]), "changed");
    }
}

#[test]
fn f21_a_daemon_killed_while_an_entry_is_taken_out_lands_nothing_of_it() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let work = task(&home, &repo, &[], ("work", "w\n"));
    let mut daemon = home.up();
    let before = refs(&repo);
    for moment in MOMENTS {
        let words =
            ["merge", "queue", "add", id(&work), "--target", "main", "--check", "sleep 600"];
        let entry = home.json(&words)["queue"][0]["id"].as_str().unwrap().to_owned();
        cut(&home, &mut daemon, moment, &["merge", "queue", "rm", &entry]);
        let rows = home.json(&["merge", "queue", "ls"])["queue"].as_array().unwrap().clone();
        let row = rows.into_iter().find(|row| row["id"] == entry.as_str()).unwrap();
        if row["state"] != "removed" {
            home.json(&["merge", "queue", "rm", &entry]);
        }
        assert_eq!(refs(&repo), before, "killed after {moment} ms");
    }
    is_whole(&home, &repo);
}
