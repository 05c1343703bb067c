//! Worktrees of tasks through the whole daemon: ready ones, many at once, and killed half way.

use hayward_tests::home::{Home, id};
use hayward_tests::process::Process;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until, until_true};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The folders of the yard that are tasks' worktrees.
fn yard(home: &Home) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(home.state().join("worktrees")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let is_task = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
    paths.filter(is_task).collect()
}

/// The places of the pool that git knows, each locked, and the other worktrees.
fn listed(repo: &ScratchRepo) -> (usize, BTreeSet<PathBuf>) {
    let text = repo.git(&["worktree", "list", "--porcelain"]);
    assert!(!text.contains("prunable"), "a record without a folder: {text}");
    let mut trees = BTreeSet::new();
    let mut places = 0;
    for block in text.split("\n\n").skip(1) {
        let path = PathBuf::from(block.lines().next().unwrap().trim_start_matches("worktree "));
        let is_place = path.components().any(|part| part.as_os_str() == ".pool");
        assert_eq!(is_place, block.contains("\nlocked"), "{block}");
        places += usize::from(is_place);
        if !is_place {
            trees.insert(path);
        }
    }
    (places, trees)
}

/// What must hold of repository and yard when all tasks have ended.
#[track_caller]
fn all_is_in_order(home: &Home, repo: &ScratchRepo, tasks: &[Value]) {
    let tasks: Vec<Value> = tasks.iter().map(|task| home.task(task)).collect();
    until_true("repository and yard know the same worktrees", LONG, || {
        let (_, trees) = listed(repo);
        trees == yard(home) && trees.len() == tasks.len()
    });
    let wanted: BTreeSet<&str> = tasks.iter().filter_map(|task| task["branch"].as_str()).collect();
    let branches = repo.git(&["for-each-ref", "--format=%(refname:short)", "refs/heads/hayward"]);
    assert_eq!(branches.lines().collect::<BTreeSet<_>>(), wanted);
    let git_dir = repo.path().join(".git");
    let temporary = fs::read_dir(git_dir).unwrap().flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("hayward") || name.ends_with(".lock")
    });
    assert_eq!(temporary.count(), 0, "something temporary is left in the repository");
    assert_eq!(repo.git(&["fsck", "--strict", "--no-dangling"]), "");
}

/// Waits for the first refill of the pool.
#[track_caller]
fn place_is_ready(repo: &ScratchRepo) {
    until_true("a place is ready", LONG, || {
        repo.git(&["worktree", "list", "--porcelain"]).contains("locked hayward: ready in the pool")
    });
}

#[test]
fn a_second_task_gets_a_ready_worktree_that_is_as_fresh_as_the_first() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[worktree]\npool = 1\n");
    repo.in_use();
    let before = repo.snapshot();
    let first = home.follow(repo.path(), &[], &Script::new().write("a", "a\n")).expect(0).json();
    place_is_ready(&repo);
    let (_, trees) = listed(&repo);
    let place = repo.git(&["worktree", "list", "--porcelain"]);
    let place = place.lines().find(|line| line.contains("/.pool/")).unwrap();
    let inode = {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(place.trim_start_matches("worktree ")).unwrap().ino()
    };
    let status = home.file("status");
    let look = format!("git status --porcelain --ignored -uall > {}", status.display());
    let script = Script::new().shell(&look).write("b", "b\n");
    let second = home.follow(repo.path(), &[], &script).expect(0).json();
    assert_eq!(home.read("status"), "");
    let new = listed(&repo).1.difference(&trees).next().cloned().unwrap();
    {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(&new).unwrap().ino(), inode, "it is not the place of the pool");
    }
    assert!(new.file_name().unwrap().to_string_lossy().len() > 12);
    assert_eq!(second["baseCommit"], first["baseCommit"]);
    let parent = format!("{}^", second["branch"].as_str().unwrap());
    assert_eq!(repo.git(&["rev-parse", &parent]), second["baseCommit"].as_str().unwrap());
    assert_eq!(repo.snapshot(), before);
    all_is_in_order(&home, &repo, &[first, second]);
}

#[test]
fn f19_a_daemon_killed_while_a_setup_command_runs_makes_the_worktree_anew() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (begun, gate) = (home.file("begun"), home.file("gate"));
    let setup = format!(
        "mkdir ignored; echo half > ignored/cache; echo half > README; echo x >> {}; \
         until test -e {}; do sleep 0.1; done; git checkout -q README; echo whole > ignored/cache",
        begun.display(),
        gate.display()
    );
    let section = format!("[repositories.\"{}\"]\nsetup = {setup:?}\n", repo.path().display());
    home.configure(&section);
    let daemon = home.up();
    let script = Script::new()
        .sign(home.file("starts"))
        .shell("test \"$(cat ignored/cache)\" = whole")
        .shell("test \"$(git status --porcelain)\" = ''")
        .write("work", "work\n");
    let task = home.submit(repo.path(), &[], &script);
    until_true("the setup runs", LONG, || !home.read("begun").is_empty());
    daemon.crash();
    home.up();
    until_true("the setup runs again", LONG, || home.read("begun").lines().count() == 2);
    home.open_gate("gate");
    let task = home.reaches(&task, "completed");
    assert_eq!(home.starts("starts"), 1);
    let list = repo.git(&["worktree", "list", "--porcelain"]);
    assert!(!list.contains("waits for its task") && !list.contains("being made\n"), "{list}");
    all_is_in_order(&home, &repo, &[task]);
}

#[test]
fn pool_zero_makes_no_places_and_a_misspelt_retention_is_named() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[worktree]\nretention = \"soon\"\n");
    let ran = home.run(&["up", "--detach"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("'soon' is no duration"), "{}", ran.stderr);
    home.configure("[worktree]\npool = 0\nquota_bytes = 1000000\nretention = \"7d\"\n");
    for _ in 0..2 {
        home.follow(repo.path(), &[], &Script::new().write("a", "a\n")).expect(0);
    }
    assert_eq!(listed(&repo).0, 0);
    assert!(!home.state().join("worktrees/.pool").exists());
}

#[test]
fn f14_two_hundred_tasks_of_one_moment_get_roots_and_branches_of_their_own() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[daemon]\nmax_concurrent_tasks = 8\n");
    let daemon = home.up();
    let api = home.api(&daemon);
    let base = repo.git(&["rev-parse", "HEAD"]);
    let tasks: Vec<Value> = (1..=200_u64)
        .map(|number| {
            let command = ["sh", "-c", &format!("echo {number} > number")];
            let order = serde_json::json!({
                "name": "same name", "plan": "number it", "command": command,
                "repositoryUrl": repo.path(), "baseCommit": base, "completionAction": "branch",
            });
            // ids of one millisecond, which differ where such ids are random
            let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let key = format!("01939d3a-7c00-7000-8000-{random:012x}");
            let headers = [("Idempotency-Key", key.as_str())];
            let reply = api.send("POST", "/api/v1/tasks", Some(&order.to_string()), &headers);
            assert_eq!(reply.status, 201, "{reply:?}");
            assert_eq!(reply.json()["id"], key);
            reply.json()
        })
        .collect();
    for task in &tasks {
        home.reaches(task, "completed");
    }
    all_is_in_order(&home, &repo, &tasks);
    let numbers: BTreeSet<String> = tasks
        .iter()
        .map(|task| {
            let branch = home.task(task)["branch"].as_str().unwrap().to_owned();
            repo.git(&["show", &format!("{branch}:number")])
        })
        .collect();
    assert_eq!(numbers.len(), 200);
}

/// Hands in a task while the daemon may be killed: one that was killed as it answered has the task
/// nevertheless.
fn f19_handed_in(home: &Home, repo: &ScratchRepo, script: &Script, known: &[Value]) -> Value {
    let command = script.command();
    let words = ["--json", "run", "--detach", "--", &command[0], &command[1]];
    until("the task is taken", LONG, || {
        let ran = home.run_in(repo.path(), &words);
        if ran.code == 0 {
            return Some(ran.json());
        }
        let all = until("a daemon serves", LONG, || {
            let is_up = home.run(&["--json", "up", "--detach"]).code == 0;
            let ran = home.run(&["--json", "task", "ls"]);
            (is_up && ran.code == 0).then(|| ran.json())
        });
        let is_new = |task: &&Value| known.iter().all(|known| id(known) != id(task));
        all["tasks"].as_array()?.iter().find(is_new).cloned()
    })
}

/// Kills the daemon at a point while it serves two tasks; the next one repairs and goes on.
#[track_caller]
fn f19_killed_at(point: &str) {
    let Some(home) = Home::armed(&format!("killed at {point}"), point) else { return };
    let repo = ScratchRepo::new();
    home.configure("[worktree]\npool = 1\n");
    repo.in_use();
    let before = repo.snapshot();
    let daemon = home.up();
    let script =
        |name: &str| Script::new().sign(home.file(&format!("starts-{name}"))).write(name, "work\n");
    let first = daemon.process;
    let mut daemon = first;
    // takes up the work with a new daemon when the last one was killed
    let relieve = |daemon: Process| {
        if daemon.alive() {
            return daemon;
        }
        // a command that found none may be starting one at this moment
        until("a daemon serves", LONG, || {
            let ran = home.run(&["--json", "up", "--detach"]);
            let pid = (ran.code == 0).then(|| ran.json()["pid"].as_i64())??;
            Process::of(i32::try_from(pid).ok()?)
        })
    };
    let mut tasks = Vec::new();
    for name in ["one", "two"] {
        let task = f19_handed_in(&home, &repo, &script(name), &tasks);
        until_true("the task is completed, or the daemon killed", LONG, || {
            let shown = home.run(&["--json", "task", "show", id(&task)]);
            !daemon.alive() || (shown.code == 0 && shown.json()["status"] == "completed")
        });
        daemon = relieve(daemon);
        home.reaches(&task, "completed");
        tasks.push(task);
        // a daemon that was killed while it refilled left no place, and the next waits for a task
        let is_refill = point.contains(".refill.");
        until_true("a place is ready, or the daemon killed", LONG, || {
            let list = repo.git(&["worktree", "list", "--porcelain"]);
            let is_ready = list.contains("locked hayward: ready in the pool");
            is_ready || !daemon.alive() || (is_refill && home.was_hit())
        });
        if is_refill {
            until_true("the first daemon is killed", LONG, || !first.alive());
        }
        daemon = relieve(daemon);
    }
    assert!(home.was_hit(), "{point} was not passed");
    for (name, task) in ["one", "two"].into_iter().zip(&tasks) {
        assert_eq!(home.starts(&format!("starts-{name}")), 1, "{point}");
        let branch = home.task(task)["branch"].as_str().unwrap().to_owned();
        assert_eq!(repo.git(&["show", &format!("{branch}:{name}")]), "work");
    }
    assert_eq!(repo.snapshot(), before, "{point}");
    all_is_in_order(&home, &repo, &tasks);
}

#[test]
fn f19_a_daemon_killed_while_it_makes_a_worktree_goes_on_at_the_next_start() {
    for point in ["noted", "branched", "added", "filled", "unlocked"] {
        f19_killed_at(&format!("worktree.create.{point}"));
    }
}

#[test]
fn f19_a_daemon_killed_while_it_refills_the_pool_leaves_no_half_place() {
    for point in ["noted", "added", "filled", "ready"] {
        f19_killed_at(&format!("worktree.refill.{point}"));
    }
}

#[test]
fn f19_a_daemon_killed_while_it_claims_a_place_goes_on_at_the_next_start() {
    for point in ["taken", "renamed", "pointed", "branched", "headed", "unlocked"] {
        f19_killed_at(&format!("worktree.claim.{point}"));
    }
}

#[test]
fn f19_a_step_that_fails_fails_the_task_and_no_agent_starts() {
    for point in ["noted", "branched", "added", "filled", "unlocked"] {
        f19_fails_at(point, None);
    }
    // there git itself records the worktree
    for point in ["added", "branched", "headed"] {
        f19_fails_at(point, Some("extensions.worktreeConfig"));
    }
}

fn f19_fails_at(point: &str, setting: Option<&str>) {
    let fault = format!("worktree.create.{point}=fail");
    let Some(home) = Home::armed("a step that fails", &fault) else { return };
    let repo = ScratchRepo::new();
    repo.in_use();
    if let Some(key) = setting {
        repo.git(&["config", key, "true"]);
    }
    let before = repo.snapshot();
    home.up();
    let script = Script::new().sign(home.file("starts")).write("README", "overwritten\n");
    let task = home.submit(repo.path(), &[], &script);
    let task = home.reaches(&task, "failed");
    assert_eq!(task["reason"], "worktree_failed", "{point}: {task:#}");
    let message = task["errorMessage"].as_str().unwrap();
    assert!(message.contains("a test made"), "{message}");
    assert!(home.was_hit());
    assert_eq!(home.starts("starts"), 0, "an agent was started");
    assert_eq!(repo.snapshot(), before);
    assert_eq!(yard(&home), BTreeSet::new());
    all_is_in_order(&home, &repo, &[]);
}
