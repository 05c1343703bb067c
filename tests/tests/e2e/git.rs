//! A prompt becomes a branch, and nothing else of the user's repository moves.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs;

#[test]
fn a_fresh_repository_gains_one_commit_on_a_branch_and_nothing_else_moves() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.in_use();
    let base = repo.git(&["rev-parse", "HEAD"]);
    let before = repo.snapshot();
    let words = ["run", "--json", "--", "sh", "-c", "echo hi > hi.txt"];
    let task = home.run_in(repo.path(), &words).expect(0).json();
    assert_eq!(repo.snapshot(), before);

    assert_eq!(task["status"], "completed");
    assert_eq!(task["outcome"], "delivered");
    assert_eq!(task["baseCommit"], base.as_str());
    let branch = task["branch"].as_str().unwrap();
    assert!(branch.starts_with("hayward/"), "{branch}");
    assert_eq!(repo.git(&["rev-parse", branch]), task["headCommit"].as_str().unwrap());
    assert_eq!(repo.git(&["rev-list", &format!("{base}..{branch}")]).lines().count(), 1);
    assert_eq!(repo.git(&["rev-parse", &format!("{branch}^")]), base);
    assert_eq!(repo.git(&["show", &format!("{branch}:hi.txt")]), "hi");
    let changed = repo.git(&["diff", "--name-only", &base, branch]);
    assert_eq!(changed, "hi.txt");
    assert_eq!(repo.git(&["fsck", "--strict"]), "");
}

#[test]
fn what_the_agent_commits_itself_is_kept_and_the_rest_is_added() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let script = Script::new()
        .write("one", "1\n")
        .then(Step::Commit { message: "mine".into() })
        .write("two", "2\n")
        .then(Step::Delete { path: "README".into() });
    let task = home.follow(repo.path(), &[], &script).expect(0).json();
    let (base, branch) = (task["baseCommit"].as_str().unwrap(), task["branch"].as_str().unwrap());
    let subjects = repo.git(&["log", "--format=%s", &format!("{base}..{branch}")]);
    assert_eq!(subjects.lines().count(), 2, "{subjects}");
    assert_eq!(subjects.lines().last(), Some("mine"));
    let changed = repo.git(&["diff", "--name-status", base, branch]);
    assert_eq!(changed, "D\tREADME\nA\tone\nA\ttwo");
    assert_eq!(task["diffStat"]["files"], 3);
}

#[test]
fn on_none_keeps_the_worktree_and_makes_no_branch() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let before = repo.snapshot();
    let script = Script::new().write("kept", "kept\n");
    let task = home.follow(repo.path(), &["--on", "none"], &script).expect(0).json();
    assert_eq!((&task["status"], &task["branch"]), (&"completed".into(), &Value::Null));
    assert_eq!(repo.git(&["for-each-ref", "refs/heads/hayward"]), "");
    assert_eq!(repo.snapshot(), before);
    let events = home.events(&task);
    let prepared = events.iter().find(|event| event["type"] == "run.prepared").unwrap();
    let path = std::path::Path::new(prepared["payload"]["path"].as_str().unwrap());
    assert_eq!(fs::read_to_string(path.join("kept")).unwrap(), "kept\n");
}

#[test]
fn f18_the_agent_starts_at_the_commit_that_was_recorded_whatever_moves_meanwhile() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[daemon]\nmax_concurrent_tasks = 1\n");
    let wanted = repo.git(&["rev-parse", "HEAD"]);
    // origin/HEAD and main went elsewhere, HEAD is detached
    repo.write("later", "later\n");
    let later = repo.commit("later");
    repo.git(&["update-ref", "refs/remotes/origin/main", &later]);
    repo.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]);
    repo.git(&["checkout", "-q", "--detach", &wanted]);

    let blocker = Script::new().wait_for(home.file("gate"));
    let blocker = home.submit(repo.path(), &[], &blocker);
    home.reaches(&blocker, "running");
    let script = Script::new()
        .shell(&format!("git rev-parse HEAD > {}", home.file("head").display()))
        .write("done", "done\n");
    let task = home.submit(repo.path(), &[], &script);
    let by_name = home.submit(repo.path(), &["--base", "main"], &Script::new().write("b", "b\n"));
    // both bases move on while the tasks wait
    repo.git(&["checkout", "-q", "main"]);
    repo.write("last", "last\n");
    repo.commit("last");
    let before = repo.snapshot();
    home.open_gate("gate");

    let task = home.reaches(&task, "completed");
    assert_eq!(task["baseCommit"], wanted.as_str());
    assert_eq!(home.read("head").trim(), wanted);
    let parent = format!("{}^", task["branch"].as_str().unwrap());
    assert_eq!(repo.git(&["rev-parse", &parent]), wanted);
    let by_name = home.reaches(&by_name, "completed");
    assert_eq!(by_name["baseCommit"], later.as_str());
    let parent = format!("{}^", by_name["branch"].as_str().unwrap());
    assert_eq!(repo.git(&["rev-parse", &parent]), later);
    assert_eq!(repo.snapshot(), before);
}

/// Breaks one step of making a worktree; no agent may start, and the checkout stays as it is.
#[track_caller]
fn f19_fault(break_it: impl Fn(&Home, &ScratchRepo), mend: impl Fn(&Home, &ScratchRepo)) {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[daemon]\nmax_concurrent_tasks = 1\n");
    repo.in_use();
    let other = ScratchRepo::new();
    let blocker = home.submit(other.path(), &[], &Script::new().wait_for(home.file("gate")));
    home.reaches(&blocker, "running");
    let script = Script::new().sign(home.file("starts")).write("README", "overwritten\n");
    let task = home.submit(repo.path(), &[], &script);
    let before = repo.snapshot();
    break_it(&home, &repo);
    home.open_gate("gate");
    let task = home.reaches(&task, "failed");
    mend(&home, &repo);
    let known = ["worktree_failed", "base_not_found", "repository_unavailable"];
    assert!(known.contains(&task["reason"].as_str().unwrap_or_default()), "{task:#}");
    assert!(task["errorMessage"].as_str().is_some_and(|text| text.len() > 10), "{task:#}");
    assert_eq!(home.starts("starts"), 0, "an agent was started");
    assert_eq!(repo.snapshot(), before);
}

#[test]
fn f19_no_folder_for_worktrees_starts_no_agent() {
    let path = |home: &Home| home.state().join("worktrees");
    f19_fault(
        |home, _| {
            fs::rename(path(home), home.state().join("aside")).unwrap();
            fs::write(path(home), "not a folder").unwrap();
        },
        |home, _| fs::remove_file(path(home)).unwrap(),
    );
}

#[test]
fn f19_a_repository_that_takes_no_worktree_starts_no_agent() {
    f19_fault(
        |_, repo| fs::write(repo.path().join(".git/worktrees"), "not a folder").unwrap(),
        |_, repo| fs::remove_file(repo.path().join(".git/worktrees")).unwrap(),
    );
}

#[test]
fn f19_a_missing_object_starts_no_agent() {
    let object = |repo: &ScratchRepo| {
        let blob = repo.git(&["rev-parse", "HEAD:README"]);
        let (folder, file) = blob.split_at(2);
        repo.path().join(".git/objects").join(folder).join(file)
    };
    f19_fault(
        |home, repo| fs::rename(object(repo), home.file("object")).unwrap(),
        |home, repo| fs::rename(home.file("object"), object(repo)).unwrap(),
    );
}

#[test]
fn f19_a_repository_that_is_gone_starts_no_agent() {
    let aside = |repo: &ScratchRepo| repo.path().with_extension("aside");
    f19_fault(
        |_, repo| fs::rename(repo.path(), aside(repo)).unwrap(),
        |_, repo| {
            // whatever was made in its place would be somebody's wrong guess
            assert!(!repo.path().exists(), "{} was made anew", repo.path().display());
            fs::rename(aside(repo), repo.path()).unwrap();
        },
    );
}

#[test]
fn a_users_branch_called_hayward_moves_the_prefix_not_the_branch() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.git(&["branch", "hayward"]);
    let before = repo.git(&["rev-parse", "hayward"]);
    let task = home.follow(repo.path(), &[], &Script::new().write("a", "a\n")).expect(0).json();
    let branch = task["branch"].as_str().unwrap();
    assert!(!branch.starts_with("hayward/"), "{branch}");
    assert_eq!(repo.git(&["show", &format!("{branch}:a")]), "a");
    assert_eq!(repo.git(&["rev-parse", "hayward"]), before);
}

#[test]
fn f48_secrets_and_blobs_stay_out_of_the_commit_and_are_listed() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAA\n\
        -----END OPENSSH PRIVATE KEY-----\n";
    let script = Script::new()
        .write("work.txt", "work\n")
        .write(".env", "PASSWORD=hunter2\n")
        .write("deploy/id_ed25519", key)
        .write("notes.txt", key)
        .then(Step::Blob { path: "huge.bin".into(), bytes: 50 * 1024 * 1024 });
    let task = home.follow(repo.path(), &[], &script).expect(0).json();
    assert_eq!((&task["status"], &task["outcome"]), (&"completed".into(), &"delivered".into()));
    let withheld = task["withheldFiles"].as_array().unwrap();
    let mut paths: Vec<_> = withheld.iter().filter_map(|file| file["path"].as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, [".env", "deploy/id_ed25519", "huge.bin", "notes.txt"]);
    assert!(withheld.iter().all(|file| file["why"].as_str().is_some_and(|why| !why.is_empty())));
    let shown = home.run(&["task", "show", id(&task)]).expect(0).text();
    for path in paths {
        assert!(shown.contains(path), "{path} is not told: {shown}");
    }
    let branch = task["branch"].as_str().unwrap();
    let files = repo.git(&["ls-tree", "-r", "--name-only", branch]);
    assert_eq!(files, ".gitignore\nREADME\nwork.txt");
    // not in any object either
    assert!(!repo.git(&["cat-file", "--batch-all-objects", "--batch-check"]).lines().any(|line| {
        line.rsplit_once(' ').and_then(|(_, size)| size.parse().ok()).unwrap_or(0) > 1_000_000
    }));
}

#[test]
fn f57_nothing_delivered_is_never_just_completed() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    // nothing changed: said, and a failure only where changes were required
    let idle = Script::new().print("thinking\n");
    let ran = home.follow(repo.path(), &[], &idle).expect(0);
    assert_eq!(ran.json()["outcome"], "no_changes");
    assert_eq!(ran.json()["branch"], Value::Null);
    assert!(ran.stderr.contains("chang"), "nothing is said: {}", ran.stderr);
    let strict = home.follow(repo.path(), &["--require-changes"], &idle).expect(7).json();
    assert_eq!((&strict["status"], &strict["reason"]), (&"failed".into(), &"no_changes".into()));

    // all of it withheld
    let secret = Script::new().write(".env", "PASSWORD=hunter2\n");
    let only = home.follow(repo.path(), &["--require-changes"], &secret).expect(7).json();
    assert_eq!((&only["status"], &only["reason"]), (&"failed".into(), &"only_withheld".into()));

    // work that cannot be committed: the branch is locked by somebody
    let locked = Script::new().write("work", "work\n").shell(
        "set -e; dir=$(git rev-parse --git-common-dir); \
         mkdir -p \"$dir/refs/heads/hayward\"; \
         branch=$(git symbolic-ref -q HEAD || git for-each-ref --format='%(refname)' \
            --sort=-creatordate refs/heads/hayward | head -n1); \
         touch \"$dir/$branch.lock\" \"$(git rev-parse --git-dir)/HEAD.lock\"",
    );
    let ran = home.follow(repo.path(), &[], &locked).expect(7).json();
    assert_eq!((&ran["status"], &ran["reason"]), (&"failed".into(), &"commit_failed".into()));
    assert_eq!((&ran["outcome"], &ran["exitCode"]), (&Value::Null, &0.into()));
    assert!(ran["errorMessage"].as_str().is_some_and(|text| text.contains("lock")), "{ran:#}");
}

#[test]
fn a_failed_attempt_is_tried_again_by_hand_as_a_new_task() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let flag = home.file("now");
    let script = Script::new().shell(&format!("test -e {}", flag.display())).write("a", "a\n");
    let first = home.follow(repo.path(), &[], &script).expect(7).json();
    assert_eq!((&first["status"], &first["reason"]), (&"failed".into(), &"agent_exit".into()));
    assert_eq!(first["exitCode"], 98);
    home.open_gate("now");
    let second = home.json(&["task", "retry", id(&first)]);
    assert_eq!(second["retryOf"], first["id"]);
    assert_ne!(second["id"], first["id"]);
    let second = home.reaches(&second, "completed");
    assert_eq!(second["outcome"], "delivered");
    assert_eq!(home.task(&first)["status"], "failed");
    until_true("both worktrees are apart", LONG, || second["branch"] != first["branch"]);
}
