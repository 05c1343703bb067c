//! The end of life of worktrees: nothing is lost with one, and nothing is left of it.

use hayward_tests::home::{Daemon, Home, id};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, holds, until, until_true};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tasks of the long test.
const MANY: usize = 200;

fn worktrees(home: &Home) -> Vec<Value> {
    home.json(&["worktree", "ls"])["worktrees"].as_array().unwrap().clone()
}

fn path_of(home: &Home, task: &Value) -> PathBuf {
    let told = home.json(&["worktree", "path", id(task)]);
    assert_eq!(told.as_object().unwrap().len(), 1);
    PathBuf::from(told["path"].as_str().unwrap())
}

fn salvages(repo: &ScratchRepo) -> BTreeSet<String> {
    let all = repo.git(&["for-each-ref", "--format=%(refname)", "refs/hayward/salvage/"]);
    all.lines().map(str::to_owned).collect()
}

fn names(value: &Value) -> Vec<String> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The folders of worktrees, those of Hayward's own aside.
fn folders(home: &Home) -> Vec<String> {
    let all = fs::read_dir(home.state().join("worktrees")).unwrap().flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Nothing is left in a folder of Hayward's own, pools aside.
fn is_swept(home: &Home) -> bool {
    let count = |name: &str| {
        let folder = home.state().join("worktrees").join(name);
        fs::read_dir(folder).into_iter().flatten().flatten().count()
    };
    count(".trash") == 0 && count(".notes") == 0
}

fn restart(home: &Home, daemon: &Daemon, config: &str) -> Daemon {
    daemon.crash();
    home.configure(config);
    home.up()
}

/// Four tasks with `--on none`: changed, only untracked, committed on no branch, mid-merge.
fn unsaved(home: &Home, repo: &ScratchRepo) -> Vec<Value> {
    let commit = "git -c user.name=A -c user.email=a@a commit -q -a -m";
    let scripts = [
        "echo more >> README".to_owned(),
        "mkdir -p deep && echo new > deep/new.txt".to_owned(),
        format!("echo more >> README && {commit} loose"),
        format!(
            "echo ours > README && {commit} ours && B=$(git rev-parse HEAD) && \
             git checkout -q --detach HEAD~ && echo theirs > README && {commit} theirs && \
             ! git -c user.name=A -c user.email=a@a merge -q $B && test -e README"
        ),
    ];
    let run = |line: &String| {
        let words = ["--json", "run", "--on", "none", "--", "sh", "-c", line];
        home.run_in(repo.path(), &words).expect(0).json()
    };
    scripts.iter().map(run).collect()
}

#[test]
fn a_worktree_that_is_not_clean_but_holds_nothing_goes_without_a_salvage() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[worktree]\npool = 0\n");
    let conflict = "B=$(git rev-parse HEAD:README); git rm -q --cached README; for N in 1 2 3; do \
                    printf '100644 %s %s\\tREADME\\n' $B $N; done | git update-index --index-info";
    let run = |line: &str| {
        let words = ["--json", "run", "--", "sh", "-c", &format!("{line}; exit 1")];
        let task = home.run_in(repo.path(), &words).expect(7).json();
        let path = path_of(&home, &task);
        (task, path)
    };
    let (bisected, path) = run("git bisect start");
    let (_, unmerged) = run(conflict);
    assert!(git(&unmerged, &["status", "--porcelain"]).starts_with("UU README"));
    home.json(&["task", "discard", id(&bisected)]);
    until_true("the worktree goes", LONG, || !path.exists());
    // one that is a worktree no longer stays, and says what to do
    let (_, broken) = run("rm .git; echo mine > mine");
    let rows = home.run(&["--json", "worktree", "prune", "--force"]).expect(1).json();
    assert!(!unmerged.exists() && broken.join("mine").exists(), "{rows:#}");
    assert!(rows.to_string().contains("delete that folder"), "{rows:#}");
    fs::remove_dir_all(&broken).unwrap();
    home.json(&["worktree", "prune", "--force"]);
    assert!(salvages(&repo).is_empty());
    assert_eq!(git(repo.path(), &["worktree", "list"]).lines().count(), 1);
}

#[test]
fn f13_whatever_would_be_lost_survives_sweep_restart_prune_and_discard_or_is_kept_exactly() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[worktree]\npool = 0\n");
    let daemon = home.up();
    let tasks = unsaved(&home, &repo);
    let paths: Vec<_> = tasks.iter().map(|task| path_of(&home, task)).collect();
    let trees: Vec<_> = paths.iter().map(|path| whole_tree(path)).collect();
    let heads: Vec<_> = paths.iter().map(|path| git(path, &["rev-parse", "HEAD"])).collect();
    let merged = git(&paths[3], &["rev-parse", "MERGE_HEAD"]);
    let stand = || paths.iter().all(|path| path.is_dir()) && salvages(&repo).is_empty();
    for row in worktrees(&home) {
        assert_eq!((&row["state"], &row["salvage"]), (&json!("ended"), &json!([])), "{row:#}");
        assert!(row["sizeBytes"].as_u64().unwrap() > 0 && row["createdAt"].is_string());
        assert_eq!(row["daemonId"], daemon.told["daemonId"]);
    }
    // a restart and a plain prune leave them
    let daemon = restart(&home, &daemon, "[worktree]\npool = 0\n");
    let rows = home.json(&["worktree", "prune"])["worktrees"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 4, "{rows:#}");
    for row in rows.as_array().unwrap() {
        assert_eq!((&row["why"], &row["done"]), (&json!("unsaved"), &json!(false)), "{row:#}");
    }
    let rows = home.json(&["worktree", "prune", "--dry-run", "--force"])["worktrees"].clone();
    for row in rows.as_array().unwrap() {
        assert_eq!((&row["why"], &row["done"]), (&json!("asked"), &json!(false)), "{row:#}");
        assert_eq!(names(&row["salvage"]).len(), 1);
    }
    assert!(stand());
    let before = repo.snapshot();
    // that of a task that is discarded goes at once, after its work is kept
    home.json(&["task", "discard", id(&tasks[1])]);
    until_true("the worktree goes", LONG, || !paths[1].is_dir());
    assert_eq!(salvages(&repo).len(), 1);
    assert!([0, 2, 3].iter().all(|n: &usize| paths[*n].is_dir()));
    // at the end of retention each is kept, then removed
    let daemon = restart(&home, &daemon, "[worktree]\npool = 0\nretention = \"0s\"\n");
    until_true("the worktrees go", LONG, || folders(&home).is_empty() && is_swept(&home));
    let kept = salvages(&repo);
    assert_eq!(kept.len(), 4, "{kept:?}\n{}", home.log());
    for (n, task) in tasks.iter().enumerate() {
        let short = &id(task)[28..];
        let name = kept.iter().find(|name| name.ends_with(short)).unwrap();
        let tree = repo.git(&["rev-parse", &format!("{name}^{{tree}}")]);
        assert_eq!(tree, trees[n], "{name}");
        match n {
            2 => assert_eq!(repo.git(&["rev-parse", name]), heads[n]),
            3 => {
                let parents = repo.git(&["rev-parse", &format!("{name}^@")]);
                let parents: Vec<_> = parents.lines().collect();
                assert_eq!(parents, [heads[n].as_str(), merged.as_str()]);
            }
            _ => assert_eq!(repo.git(&["rev-parse", &format!("{name}^")]), heads[n]),
        }
        if n == 1 {
            continue;
        }
        let shown = until("the relay hears of it", LONG, || {
            Some(home.task(task)).filter(|task| task.get("salvage").is_some())
        });
        assert_eq!(names(&shown["salvage"]), [name.as_str()]);
        assert!(home.run(&["task", "show", id(task)]).expect(0).text().contains(name.as_str()));
        let told: Vec<_> = home.events(task);
        let told: Vec<_> = told.iter().filter(|one| one["type"] == "worktree.removed").collect();
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!(told[0]["payload"]["why"], "retention");
        assert_eq!(names(&told[0]["payload"]["salvage"]), [name.as_str()]);
        home.run(&["worktree", "path", id(task)]).expect(3);
    }
    let rows = worktrees(&home);
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert!(rows.iter().all(|row| row["state"] == "removed" && names(&row["salvage"]).len() == 1));
    assert_eq!(git(repo.path(), &["worktree", "list"]).lines().count(), 1);
    assert_eq!(repo.git(&["fsck", "--strict", "--no-dangling"]), "");
    // only the salvage refs are new
    let mut after = repo.snapshot();
    let theirs = |line: &&str| !line.starts_with("refs/hayward/");
    after.refs = after.refs.lines().filter(theirs).collect::<Vec<_>>().join("\n");
    assert_eq!(after, before);
    // what was salvaged can be seen, and had back as it was
    let seen = home.json(&["worktree", "peek", id(&tasks[0])]);
    assert_eq!((&seen["state"], &seen["files"][0]["path"]), (&json!("removed"), &json!("README")));
    home.json(&["worktree", "clone", id(&tasks[0]), "back"]);
    let back = home.state().join("home/back");
    assert_eq!(git(&back, &["status", "--porcelain"]), " M README");
    assert_eq!(whole_tree(&back), trees[0]);
    let api = home.api(&daemon);
    let rest = api.get("/api/v1/worktrees").json();
    assert_eq!((rest["worktrees"].as_array().unwrap().len(), &rest["unanswered"]), (4, &json!([])));
}

#[test]
fn prune_removes_what_loses_nothing_and_never_what_is_needed() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[worktree]\npool = 0\n");
    let _daemon = home.up();
    let ended = home.follow(repo.path(), &[], &Script::new().write("a", "a\n")).expect(0).json();
    let parent = home.follow(repo.path(), &[], &Script::new().write("b", "b\n")).expect(0).json();
    let gate = home.file("gate");
    let live = home.submit(
        repo.path(),
        &["--continue", id(&parent)],
        &Script::new().write("c", "c\n").wait_for(gate),
    );
    home.reaches(&live, "running");
    let paths = [&ended, &parent, &live].map(|task| path_of(&home, task));
    until_true("the agent works", LONG, || paths[2].join("c").exists());

    let row = &home.json(&["worktree", "prune", "--dry-run"])["worktrees"];
    assert_eq!(row.as_array().unwrap().len(), 1, "{row:#}");
    assert_eq!((&row[0]["taskId"], &row[0]["done"]), (&ended["id"], &json!(false)));
    assert!(paths[0].is_dir());
    let row = &home.json(&["worktree", "prune"])["worktrees"];
    assert_eq!((&row[0]["why"], &row[0]["done"]), (&json!("asked"), &json!(true)), "{row:#}");
    assert!(row[0]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(paths.each_ref().map(|path| path.is_dir()), [false, true, true]);
    assert!(salvages(&repo).is_empty());
    // its branch has its work, and shows it
    let branch = ended["branch"].as_str().unwrap();
    assert_eq!(repo.git(&["show", &format!("{branch}:a")]), "a");
    assert_eq!(home.json(&["task", "diff", id(&ended)])["files"][0]["path"], "a");
    let seen = home.json(&["worktree", "peek", id(&live)]);
    assert_eq!((&seen["state"], &seen["dirty"]), (&json!("live"), &json!(true)));
    assert_eq!((&seen["status"], &seen["truncated"]), (&json!("running"), &json!(false)));
    let files: BTreeSet<_> =
        seen["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert!(files.contains("c"), "{seen:#}");
    assert!(seen["patch"].as_str().unwrap().contains("+c"));
    home.run(&["worktree", "peek", "ffffffff"]).expect(3);
    home.run(&["worktree", "path", id(&ended)]).expect(3);
    home.open_gate("gate");
    home.reaches(&live, "completed");
    let told = home.run(&["--json", "-v", "worktree", "ls"]).expect(0).json();
    assert_eq!(told["pool"][0]["places"], 0, "{told:#}");
    let status = home.run(&["--json", "-v", "status"]).expect(0).json();
    assert_eq!(status["pool"][0]["places"], 0);
}

#[test]
fn f13_what_is_wanted_gone_while_its_run_is_cleared_up_after_goes_behind_that() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let gate = home.file("gate");
    home.configure(&format!(
        "[worktree]\npool = 0\n[repositories.\"{}\"]\n\
         teardown = \"while [ ! -e {} ]; do sleep 0.05; done\"\n",
        repo.path().display(),
        gate.display()
    ));
    let _daemon = home.up();
    let run = |file: &str| {
        let task = home.follow(repo.path(), &[], &Script::new().write(file, "x\n")).expect(0);
        let task = task.json();
        let path = path_of(&home, &task);
        (task, path)
    };
    let (discarded, path) = run("a");
    home.json(&["task", "discard", id(&discarded)]);
    holds("the teardown has its worktree", Duration::from_secs(2), || path.is_dir());
    home.open_gate("gate");
    until_true("the discarded worktree goes", LONG, || !path.exists());

    fs::remove_file(&gate).unwrap();
    let (pruned, path) = run("b");
    let rows = home.run(&["--json", "worktree", "prune"]).expect(1).json()["worktrees"].clone();
    let told = (&rows[0]["taskId"], &rows[0]["why"], &rows[0]["done"]);
    assert_eq!(told, (&pruned["id"], &json!("failed"), &json!(false)), "{rows:#}");
    assert!(rows[0]["note"].as_str().unwrap().contains("ask again") && path.is_dir(), "{rows:#}");
    let mut prune = home.spawn("prune", repo.path(), &["--json", "worktree", "prune"]);
    std::thread::sleep(Duration::from_secs(1));
    home.open_gate("gate");
    assert!(prune.wait().unwrap().success(), "{}", home.read("prune.err"));
    let rows: Value = serde_json::from_str(&home.read("prune.out")).unwrap();
    assert_eq!(rows["worktrees"][0]["done"], true, "{rows:#}");
    assert!(!path.exists() && salvages(&repo).is_empty());
}

#[test]
fn a_clone_is_whole_and_bad_targets_change_nothing() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let script = Script::new()
        .write("a", "a\n")
        .then(hayward_tests::script::Step::Commit { message: "mine".into() });
    let task = home.follow(repo.path(), &[], &script).expect(0).json();
    let path = path_of(&home, &task);
    fs::write(path.join("README"), "changed\n").unwrap();
    fs::write(path.join("new"), "new\n").unwrap();
    let told = home.json(&["worktree", "clone", id(&task), "x/copy"]);
    let copy = home.state().join("home/x/copy").canonicalize().unwrap();
    assert_eq!((&told["success"], &told["type"]), (&json!(true), &json!("cloneWorktreeResult")));
    assert_eq!(told["targetDir"], copy.to_str().unwrap());
    assert_eq!(git(&copy, &["rev-parse", "HEAD"]), task["headCommit"].as_str().unwrap());
    assert_eq!(git(&copy, &["symbolic-ref", "--short", "HEAD"]), task["branch"].as_str().unwrap());
    assert_eq!(git(&copy, &["status", "--porcelain"]), " M README\n?? new");
    let out = home.files().canonicalize().unwrap();
    let whole = out.join("whole");
    home.json(&["worktree", "clone", id(&task), whole.to_str().unwrap()]);
    assert_eq!(whole_tree(&whole), whole_tree(&copy));

    fs::write(out.join("file"), "x").unwrap();
    symlink(repo.path(), home.state().join("home/link")).unwrap();
    let at = |inner: &str| out.join(inner).to_str().unwrap().to_owned();
    let inside = |place: &Path| place.join("sub").to_str().unwrap().to_owned();
    let before = (tree_of(&home.state().join("home")), tree_of(&out), repo.snapshot());
    for (wrong, code) in [
        ("../out".to_owned(), 2),
        ("a/../../out".to_owned(), 2),
        (at("../x"), 2),
        (".".to_owned(), 2),
        ("x/copy".to_owned(), 4),
        ("link/x".to_owned(), 4),
        (at("whole"), 4),
        (at("file"), 4),
        (at("file/x"), 4),
        (at("missing/x"), 2),
        (inside(&path), 5),
        (inside(repo.path()), 5),
        (inside(&repo.path().join(".git")), 5),
        (inside(&home.state()), 5),
    ] {
        let ran = home.run(&["--json", "worktree", "clone", id(&task), &wrong]);
        assert_eq!(ran.code, code, "{wrong}: {}", ran.text());
        assert!(!ran.json()["error"]["message"].as_str().unwrap().is_empty());
    }
    let after = (tree_of(&home.state().join("home")), tree_of(&out), repo.snapshot());
    assert_eq!(after, before);

    let api = home.api(&daemon);
    let ask = |dir: &str| {
        let dir = dir.replace('/', "%2F");
        api.get(&format!("/api/v1/tasks/{}/worktree/target?dir={dir}", id(&task)))
    };
    assert_eq!(ask("x/copy").json()["exists"], true);
    assert_eq!(ask("x/other").json()["exists"], false);
    assert_eq!(ask(&at("file")).json()["exists"], true);
    assert_eq!(ask("../x").status, 400);
    assert_eq!(ask(&inside(repo.path())).status, 403);
    let row = api.get(&format!("/api/v1/tasks/{}/worktree", id(&task))).json();
    assert_eq!((&row["dirty"], row["path"].as_str()), (&json!(true), path.to_str()));
}

#[test]
fn f40_two_hundred_tasks_with_crashes_leave_nothing_but_their_branches() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let base = "[daemon]\nmax_concurrent_tasks = 8\n[terminal]\nretention = \"0s\"\n[worktree]\n";
    home.configure(&format!("{base}pool = 2\nquota_bytes = 400000\n"));
    let mut daemon = home.up();
    let before = repo.snapshot();
    let words = ["--json", "run", "--detach", "--count", "50", "--name", "many"];
    let line = "head -c 20000 /dev/urandom > work.bin";
    let mut tasks = Vec::new();
    while tasks.len() < MANY {
        let words = [&words[..], &["--", "sh", "-c", line]].concat();
        let made = home.run_in(repo.path(), &words).expect(0).json();
        tasks.extend(made.as_array().unwrap().iter().cloned());
        let some = tasks[tasks.len() - 25].clone();
        home.reaches(&some, "completed");
        daemon.crash();
        // the lock of a killed process goes with its last thread
        until_true("a daemon starts", LONG, || home.run(&["up", "--detach"]).code == 0);
        daemon = home.up();
    }
    for task in &tasks {
        home.reaches(task, "completed");
    }
    let branches = repo.git(&["for-each-ref", "--format=%(refname)", "refs/heads/hayward/"]);
    assert_eq!(branches.lines().count(), MANY, "f14: each task has a branch of its own");
    // within the quota, the pool counted too
    let size = || bytes(&home.state().join("worktrees"));
    until_true("the worktrees are within the quota", LONG, || size() <= 500_000);
    assert!(salvages(&repo).is_empty(), "delivered work needs no salvage");

    let config = format!("{base}pool = 0\nretention = \"0s\"\n");
    let _daemon = restart(&home, &daemon, &config);
    until_true("all of it goes", LONG, || folders(&home).is_empty() && is_swept(&home));
    until_true("the pools go", LONG, || bytes(&home.state().join("worktrees/.pool")) < 20_000);
    assert_eq!(git(repo.path(), &["worktree", "list"]).lines().count(), 1);
    let records = fs::read_dir(repo.path().join(".git/worktrees")).into_iter().flatten().count();
    assert_eq!(records, 0);
    let left = |name: &str| fs::read_dir(home.state().join(name)).unwrap().count();
    until_true("the run folders go", LONG, || left("runs") == 0);
    assert_eq!(repo.snapshot(), before);
    let branches = repo.git(&["for-each-ref", "--format=%(refname)", "refs/heads/hayward/"]);
    assert_eq!(branches.lines().count(), MANY);
    assert_eq!(repo.git(&["fsck", "--strict", "--no-dangling"]), "");
}

fn git(place: &Path, words: &[&str]) -> String {
    let ran = hayward_tests::program::run(hayward_tests::repo::git(place).args(words)).expect(0);
    ran.text().trim_end().to_owned()
}

/// The tree that git would make of all that lies there, through an index of its own.
fn whole_tree(place: &Path) -> String {
    let index = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = hayward_tests::repo::git(place);
        command.env("GIT_INDEX_FILE", index.path().join("index")).args(words);
        hayward_tests::program::run(&mut command).expect(0).text().trim_end().to_owned()
    };
    run(&["add", "--all"]);
    run(&["write-tree"])
}

/// All names below a folder.
fn tree_of(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            all.insert(entry.path());
        }
    }
    all
}

fn bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let all = tree_of(folder);
    all.iter().filter_map(|path| path.symlink_metadata().ok()).map(|f| f.blocks() * 512).sum()
}
