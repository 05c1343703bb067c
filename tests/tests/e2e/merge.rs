//! Merges: by the command line and over HTTP, on a repository with conflicts, judged by the refs
//! and trees that result.

use hayward_tests::home::{Home, id};
use hayward_tests::http::Api;
use hayward_tests::program::Ran;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::skip;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A parent task and three parts of it: one that goes together with it, one that conflicts in two
/// files, one that is not wanted.
struct Family {
    home: Home,
    repo: ScratchRepo,
    parent: Value,
    clean: Value,
    clash: Value,
    unwanted: Value,
}

fn run(home: &Home, repo: &ScratchRepo, options: &[&str], files: &[(&str, &str)]) -> Value {
    let script = files.iter().fold(Script::new(), |script, (path, text)| script.write(*path, text));
    home.follow(repo.path(), options, &script).expect(0).json()
}

impl Family {
    fn new() -> Self {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        repo.write("gone", "base\n");
        repo.commit("gone");
        repo.in_use();
        let parent =
            run(&home, &repo, &[], &[("README", "parent\n"), ("gone", "parent\n"), ("p", "p\n")]);
        let of = |script: Script, name: &str| {
            let options = ["--parent", id(&parent), "--name", name];
            home.follow(repo.path(), &options, &script).expect(0).json()
        };
        let clean = of(Script::new().write("clean", "clean\n"), "clean");
        let clash = of(Script::new().write("README", "part\n").shell("rm gone"), "clash");
        let unwanted = of(Script::new().write("unwanted", "x\n"), "unwanted");
        Self { home, repo, parent, clean, clash, unwanted }
    }

    fn merge(&self, words: &[&str]) -> Ran {
        let (what, rest) = words.split_first().unwrap();
        self.home.run(&[&["--json", "merge", what, id(&self.parent)], rest].concat())
    }

    fn tip(&self, task: &Value) -> String {
        self.repo.git(&["rev-parse", task["branch"].as_str().unwrap()])
    }

    fn worktree(&self) -> PathBuf {
        let events = self.home.events(&self.parent);
        let prepared = events.iter().find(|event| event["type"] == "run.prepared").unwrap();
        PathBuf::from(prepared["payload"]["path"].as_str().unwrap())
    }

    fn file(&self, at: &str, path: &str) -> String {
        self.repo.git(&["show", &format!("{at}:{path}")])
    }

    fn api(&self) -> Api {
        self.home.api(&self.home.up())
    }

    fn merge_heads(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        gather(&self.repo.path().join(".git"), &mut found);
        found
    }
}

fn gather(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("objects") {
            gather(&path, found);
        } else if path.ends_with("MERGE_HEAD") {
            found.push(path);
        }
    }
}

#[test]
fn a_family_of_tasks_is_merged_by_the_command_line() {
    let family = Family::new();
    let before = family.repo.snapshot();
    let (first, branch) = (family.tip(&family.parent), family.parent["branch"].as_str().unwrap());

    let listed = family.merge(&["branches"]).expect(0).json();
    assert_eq!(listed["type"], "branchList");
    let rows = listed["branches"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{listed:#}");
    let row = rows.iter().find(|row| row["name"] == family.clash["branch"]).unwrap();
    assert_eq!((&row["taskId"], &row["isMerged"]), (&family.clash["id"], &json!(false)));
    assert!(family.tip(&family.clash).starts_with(row["lastCommit"].as_str().unwrap()));
    let check = family.merge(&["check"]).expect(0).json();
    assert_eq!((&check["canComplete"], &check["mergedCount"]), (&json!(false), &json!(0)));
    assert_eq!(check["unmergedBranches"].as_array().unwrap().len(), 3);

    // one that goes together: a commit of two parents, at once
    let done = family.merge(&["start", family.clean["branch"].as_str().unwrap()]).expect(0).json();
    let second = family.tip(&family.parent);
    assert_eq!((&done["success"], &done["commitSha"]), (&json!(true), &json!(second)));
    let parents = family.repo.git(&["log", "-1", "--format=%P", branch]);
    assert_eq!(parents, format!("{first} {}", family.tip(&family.clean)));
    assert_eq!(family.file(branch, "clean"), "clean");
    assert_eq!(git(&family.worktree(), &["rev-parse", "HEAD"]), second, "the worktree follows");
    assert_eq!(git(&family.worktree(), &["status", "--porcelain"]), "");

    // one that conflicts waits, and moves nothing; its task id means its branch
    let refused = family.merge(&["start", id(&family.clash)]).expect(4).json();
    assert_eq!((&refused["success"], &refused["commitSha"]), (&json!(false), &Value::Null));
    assert_eq!(refused["conflicts"], json!(["README", "gone"]));
    assert_eq!(family.tip(&family.parent), second);
    let status = family.merge(&["status"]).expect(0).json();
    assert_eq!(
        (&status["type"], &status["inProgress"]),
        (&json!("mergeStatusResponse"), &json!(true))
    );
    assert_eq!(status["sourceBranch"], family.clash["branch"]);
    assert_eq!(family.merge_heads(), Vec::<PathBuf>::new());
    // a second one, a commit too early, a file that is not in conflict, a side that is none
    family.merge(&["start", id(&family.clean)]).expect(4);
    family.merge(&["commit", "-m", "early"]).expect(4);
    family.merge(&["resolve", "clean", "ours"]).expect(3);
    family.merge(&["resolve", "README", "mine"]).expect(2);
    assert_eq!(family.tip(&family.parent), second);

    family.merge(&["resolve", "README", "ours"]).expect(0);
    let status = family.merge(&["status"]).expect(0).json();
    assert_eq!(status["conflictedFiles"], json!(["gone"]));
    family.merge(&["resolve", "gone", "theirs"]).expect(0);
    let done = family.merge(&["commit", "-m", "Both\n\nas chosen"]).expect(0).json();
    let third = family.tip(&family.parent);
    assert_eq!(done["commitSha"], json!(third));
    assert_eq!(family.file(branch, "README"), "parent");
    assert!(!family.repo.git(&["ls-tree", "--name-only", branch]).contains("gone"));
    assert_eq!(family.repo.git(&["log", "-1", "--format=%B", branch]), "Both\n\nas chosen");
    let parents = family.repo.git(&["log", "-1", "--format=%P", branch]);
    assert_eq!(parents, format!("{second} {}", family.tip(&family.clash)));
    family.merge(&["commit", "-m", "again"]).expect(4);
    family.merge(&["abort"]).expect(4);

    let unwanted = id(&family.unwanted);
    let check = family.merge(&["skip", unwanted, "--reason", "not now"]).expect(0).json();
    let counts = (&check["canComplete"], &check["mergedCount"], &check["skippedCount"]);
    assert_eq!(counts, (&json!(true), &json!(2), &json!(1)));
    assert_eq!(check["unmergedBranches"], json!([]));
    assert_eq!(family.repo.snapshot(), before);
    assert_eq!(family.repo.git(&["fsck", "--strict", "--no-dangling"]), "");

    let told: Vec<_> = family
        .home
        .events(&family.parent)
        .into_iter()
        .filter(|event| event["type"] == "merge.result")
        .map(|event| (event["payload"]["command"].clone(), event["payload"]["success"].clone()))
        .collect();
    assert_eq!(told[0], (json!("start"), json!(true)));
    assert!(told.contains(&(json!("start"), json!(false))));
    assert!(told.contains(&(json!("commit"), json!(true))));
}

#[test]
fn a_merge_is_given_up_and_leaves_nothing() {
    let family = Family::new();
    let before = family.repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    family.merge(&["start", id(&family.clash)]).expect(4);
    family.merge(&["resolve", "README", "theirs"]).expect(0);
    assert_eq!(family.merge(&["abort"]).expect(0).json()["success"], true);
    let status = family.merge(&["status"]).expect(0).json();
    assert_eq!((&status["inProgress"], &status["sourceBranch"]), (&json!(false), &Value::Null));
    let after = family.repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    assert_eq!(after, before);
    // choices of the one that was given up do not count for the next
    family.merge(&["start", id(&family.clash)]).expect(4);
    let status = family.merge(&["status"]).expect(0).json();
    assert_eq!(status["conflictedFiles"], json!(["README", "gone"]));
}

#[test]
fn a_preview_says_what_comes_and_touches_nothing() {
    let family = Family::new();
    let refs = family.repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    let before = family.repo.snapshot();
    let target = family.parent["branch"].as_str().unwrap();
    let preview = |words: &[&str]| {
        family.home.run_in(family.repo.path(), &[&["--json", "merge", "preview"], words].concat())
    };
    let seen = preview(&[id(&family.clash), "--target", target]).expect(0).json();
    assert_eq!((&seen["canMerge"], &seen["relation"]), (&json!(false), &json!("diverged")));
    assert_eq!(seen["conflictedFiles"], json!(["README", "gone"]));
    let kinds = json!([
        {"path": "README", "kind": "content"},
        {"path": "gone", "kind": "modifyDelete", "deletedBy": "theirs"},
    ]);
    assert_eq!(seen["conflicts"], kinds);
    let tips = (family.tip(&family.parent), family.tip(&family.clash));
    let oracle = family.repo.try_git(&["merge-tree", "--write-tree", &tips.0, &tips.1]).expect(1);
    assert_eq!(seen["tree"], oracle.text().lines().next().unwrap());

    // by default into the branch that the task began from; a short id is enough; a task or a branch
    let short = &id(&family.clean)[28..];
    let seen = preview(&[short]).expect(0).json();
    assert_eq!((&seen["canMerge"], &seen["target"]), (&json!(true), &json!("main")));
    assert_eq!(seen["changedFiles"], json!(["clean"]));
    assert_eq!(seen["stat"], json!({"files": 1, "insertions": 1, "deletions": 0}));
    let branch = family.clean["branch"].as_str().unwrap();
    let by_name = preview(&[branch, "--target", "main"]).expect(0).json();
    assert_eq!(
        (&by_name["tree"], &by_name["changedFiles"]),
        (&seen["tree"], &seen["changedFiles"])
    );
    let into_task = preview(&[branch, "--target", id(&family.parent)]).expect(0).json();
    assert_eq!(into_task["targetCommit"], json!(tips.0));
    let same = preview(&["main", "--target", "main"]).expect(0).json();
    assert_eq!((&same["relation"], &same["changedFiles"]), (&json!("identical"), &json!([])));
    for unknown in ["no-such-branch", "deadbeef"] {
        let refused = preview(&[unknown]).expect(3).json();
        assert_eq!(refused["error"]["code"], "not_found", "{unknown}");
    }
    preview(&[short, "--target", "no-such-branch"]).expect(3);
    let nowhere = family.home.run(&["--json", "merge", "preview", "deadbeef"]).expect(3).json();
    assert_eq!(nowhere["error"]["code"], "not_found");
    assert_eq!(family.repo.snapshot(), before);
    assert_eq!(family.repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"]), refs);
}

#[test]
fn f20_a_worktree_with_changes_in_the_way_of_a_live_agent_refuses() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let other = run(&home, &repo, &[], &[("README", "other\n")]);
    let script =
        Script::new().write("README", "half done\n").print("ready").wait_for(home.file("gate"));
    let live = home.submit(repo.path(), &[], &script);
    home.reaches(&live, "running");
    hayward_tests::wait::until_true("the agent wrote", hayward_tests::wait::LONG, || {
        home.output(&live).starts_with(b"ready")
    });
    let before = repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    let refused = home.run(&["--json", "merge", "start", id(&live), id(&other)]).expect(4).json();
    assert_eq!(refused["error"]["code"], "conflict");
    assert!(refused["error"]["message"].as_str().unwrap().contains("README"), "{refused}");
    assert_eq!(repo.git(&["for-each-ref", "--format=%(refname) %(objectname)"]), before);
    let status = home.run(&["--json", "merge", "status", id(&live)]).expect(0).json();
    assert_eq!(status["inProgress"], false);
    home.open_gate("gate");
    let ended = home.reaches(&live, "completed");
    assert_eq!(
        repo.git(&["show", &format!("{}:README", ended["branch"].as_str().unwrap())]),
        "half done"
    );
}

#[test]
fn a_merge_into_a_task_that_changed_nothing_makes_its_branch_again() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let parent = run(&home, &repo, &[], &[]);
    assert_eq!((&parent["outcome"], &parent["branch"]), (&json!("no_changes"), &Value::Null));
    let part = run(&home, &repo, &["--parent", id(&parent)], &[("new", "new\n")]);
    let empty = run(&home, &repo, &["--parent", id(&parent)], &[]);
    assert_eq!(empty["outcome"], "no_changes");
    let done = home.json(&["merge", "start", id(&parent), part["branch"].as_str().unwrap()]);
    assert_eq!(done["success"], true);
    let tip = repo.git(&["rev-parse", part["branch"].as_str().unwrap()]);
    assert_eq!(done["commitSha"], json!(tip), "nothing of its own: it moves forward");
    let branches = repo.git(&["for-each-ref", "--format=%(refname)", "refs/heads/hayward/"]);
    assert_eq!(branches.lines().count(), 2, "{branches}");
    let check = home.json(&["merge", "check", id(&parent)]);
    assert_eq!((&check["canComplete"], &check["mergedCount"]), (&json!(true), &json!(1)));
}

#[test]
fn the_same_over_http_and_viewers_only_look() {
    let family = Family::new();
    let api = family.api();
    let path = |what: &str| format!("/api/v1/tasks/{}/merge/{what}", id(&family.parent));
    let listed = api.get(&path("branches"));
    assert_eq!((listed.status, listed.json()["branches"].as_array().unwrap().len()), (200, 3));
    let branch = family.clash["branch"].as_str().unwrap();
    let preview = api.get(&format!(
        "{}?source={branch}&target={}",
        path("preview"),
        family.parent["branch"].as_str().unwrap()
    ));
    assert_eq!(preview.json()["conflictedFiles"], json!(["README", "gone"]), "{}", preview.body);
    let begun = api.post(&path("start"), &json!({"sourceBranch": branch}));
    assert_eq!((begun.status, begun.json()["success"].clone()), (200, json!(false)));
    assert_eq!(api.get(&path("status")).json()["inProgress"], true);
    for (what, body, status, code) in [
        ("start", json!({"sourceBranch": branch}), 409, "conflict"),
        ("start", json!({}), 400, "invalid"),
        ("resolve", json!({"file": "README", "strategy": "mine"}), 400, "invalid"),
        ("resolve", json!({"file": "absent", "strategy": "ours"}), 404, "not_found"),
        ("commit", json!({"message": "early"}), 409, "conflict"),
        ("skip", json!({"subtaskId": id(&family.parent), "reason": "x"}), 404, "not_found"),
        ("skip", json!({"subtaskId": id(&family.clean), "reason": " "}), 400, "invalid"),
        ("dance", json!({}), 404, "not_found"),
    ] {
        let refused = api.post(&path(what), &body);
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{what} {body}");
    }
    for file in ["README", "gone"] {
        let taken = api.post(&path("resolve"), &json!({"file": file, "strategy": "theirs"}));
        assert_eq!(taken.status, 200, "{}", taken.body);
    }
    let viewer = family.home.json(&["token", "create", "--kind", "user", "--role", "viewer"]);
    let viewer = api.as_other(viewer["token"].as_str().unwrap());
    assert_eq!(viewer.get(&path("status")).status, 200);
    assert_eq!(viewer.get(&path("check")).status, 200);
    assert_eq!(viewer.post(&path("commit"), &json!({"message": "m"})).status, 403);
    let before = family.tip(&family.parent);
    let done = api.post(&path("commit"), &json!({"message": "theirs"}));
    assert_eq!(done.json()["commitSha"], json!(family.tip(&family.parent)), "{}", done.body);
    assert_ne!(family.tip(&family.parent), before);
    let tip = family.tip(&family.parent);
    assert_eq!(family.file(&tip, "README"), "part");
    assert!(!family.repo.git(&["ls-tree", "--name-only", &tip]).contains("gone"));
    let skipped =
        api.post(&path("skip"), &json!({"subtaskId": id(&family.unwanted), "reason": "not now"}));
    assert_eq!(skipped.json()["skippedCount"], 1, "{}", skipped.body);
    assert_eq!(api.get(&path("check")).json()["mergedCount"], 1);
}

/// Kills the daemon at one point of a merge, starts it again, and sees that the branch stands at
/// its old tip or at the whole merge, that nothing is half done, and that it can be finished.
fn f21_killed_at(point: &str, conflicting: bool) {
    let Some(binary) = std::env::var_os("HAYWARD_FAULT_BIN") else {
        skip(
            "f21_a_merge_killed_at_any_point_is_whole_or_not_begun",
            "HAYWARD_FAULT_BIN is not set",
        );
        return;
    };
    let mut family = Family::new();
    let before = family.repo.snapshot();
    let old = family.tip(&family.parent);
    let source = if conflicting { &family.clash } else { &family.clean }.clone();
    if conflicting {
        family.merge(&["start", id(&source)]).expect(4);
        family.merge(&["resolve", "README", "ours"]).expect(0);
        family.merge(&["resolve", "gone", "ours"]).expect(0);
    }
    family.home.run(&["down"]).expect(0);
    family.home.set("HAYWARD_FAULT", point);
    let armed = hayward_tests::program::run(
        std::process::Command::new(&binary)
            .args(["--json", "up", "--detach"])
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH"))
            .env("HOME", family.home.user())
            .env("SHELL", "/bin/sh")
            .env("HAYWARD_HOME", family.home.state())
            .env("HAYWARD_FAULT", point)
            .current_dir(family.home.user()),
    );
    let armed = armed.expect(0).json();
    let words: &[&str] =
        if conflicting { &["commit", "-m", "both"] } else { &["start", id(&source)] };
    let cut = family.merge(words);
    assert_ne!(cut.code, 0, "{point}: the daemon was not killed: {}", cut.text());
    let pid = i32::try_from(armed["pid"].as_i64().unwrap()).unwrap();
    hayward_tests::wait::until_true("the daemon is gone", hayward_tests::wait::LONG, || {
        hayward_tests::process::Process::of(pid).is_none()
    });
    family.home.unset("HAYWARD_FAULT");
    family.home.up();
    assert_eq!(family.merge_heads(), Vec::<PathBuf>::new(), "{point}");
    let tip = family.tip(&family.parent);
    let landed = tip != old;
    let status = family.merge(&["status"]).expect(0).json();
    assert_eq!(status["inProgress"], json!(conflicting && !landed), "{point}");
    if !landed {
        family.merge(words).expect(0);
    }
    let tip = family.tip(&family.parent);
    let parents = family.repo.git(&["log", "-1", "--format=%P", &tip]);
    assert_eq!(parents, format!("{old} {}", family.tip(&source)), "{point}");
    if conflicting {
        assert_eq!(family.file(&tip, "README"), "parent", "{point}");
    }
    assert_eq!(git(&family.worktree(), &["rev-parse", "HEAD"]), tip, "{point}");
    assert_eq!(git(&family.worktree(), &["status", "--porcelain"]), "", "{point}");
    assert_eq!(family.repo.snapshot(), before, "{point}");
    assert_eq!(family.repo.git(&["fsck", "--strict", "--no-dangling"]), "", "{point}");
}

#[test]
fn f21_a_merge_killed_at_any_point_is_whole_or_not_begun() {
    let points = ["made", "kept", "landed", "followed"];
    for point in points.map(|step| format!("merge.commit.{step}")) {
        f21_killed_at(&point, true);
        f21_killed_at(&point, false);
    }
    for point in ["merge.land.begun", "merge.land.moved"] {
        f21_killed_at(point, true);
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let ran = hayward_tests::program::run(hayward_tests::repo::git(folder).args(arguments));
    ran.expect(0).text().trim_end().to_owned()
}
