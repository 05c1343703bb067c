//! The merge queue through the whole daemon, judged by the refs and trees that result.

use hayward_tests::home::{Home, id};
use hayward_tests::process::with_variable;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until, until_true};
use serde_json::{Value, json};
use std::fs;

/// A task that has ended with a branch on which this file is so.
fn task(home: &Home, repo: &ScratchRepo, name: &str, file: (&str, &str)) -> Value {
    let script = Script::new().write(file.0, file.1);
    home.follow(repo.path(), &["--name", name], &script).expect(0).json()
}

/// What `merge queue add` says.
#[track_caller]
fn add(home: &Home, tasks: &[&Value], options: &[&str]) -> Vec<Value> {
    let ids: Vec<_> = tasks.iter().map(|task| id(task)).collect();
    let words = [&["merge", "queue", "add"], ids.as_slice(), options].concat();
    home.json(&words)["queue"].as_array().unwrap().clone()
}

/// The rows of `merge queue ls`, as task and state.
#[track_caller]
fn states(home: &Home) -> Vec<(String, String)> {
    let rows = home.json(&["merge", "queue", "ls"])["queue"].as_array().unwrap().clone();
    let word = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter().map(|row| (word(row, "taskId"), word(row, "state"))).collect()
}

#[track_caller]
fn row(home: &Home, task: &Value) -> Value {
    let rows = home.json(&["merge", "queue", "ls"])["queue"].as_array().unwrap().clone();
    rows.into_iter().rfind(|row| row["taskId"] == task["id"]).unwrap()
}

#[track_caller]
fn reaches(home: &Home, task: &Value, state: &str) -> Value {
    until(&format!("the entry is {state}"), LONG, || {
        let ran = home.run(&["--json", "merge", "queue", "ls"]);
        if ran.code != 0 {
            return None;
        }
        let rows = ran.json()["queue"].as_array().unwrap().clone();
        let row = rows.into_iter().rfind(|row| row["taskId"] == task["id"])?;
        let wrong =
            row["state"] != state && !["waiting", "testing"].contains(&row["state"].as_str()?);
        assert!(!wrong, "{row:#}\n{}", home.log());
        (row["state"] == state).then_some(row)
    })
}

fn kinds(home: &Home, task: &Value) -> Vec<String> {
    let events = home.events(task);
    let kinds = events.iter().map(|event| event["type"].as_str().unwrap().to_owned());
    kinds.filter(|kind| kind.starts_with("queue.")).collect()
}

/// The subjects of the target's history by first parents, newest first, down to `base`.
fn history(repo: &ScratchRepo, base: &str) -> Vec<String> {
    let range = format!("{base}..main");
    let text = repo.git(&["log", "--first-parent", "--format=%s", &range]);
    text.lines().map(str::to_owned).collect()
}

/// No scratch worktree, record of one, or merge is left.
#[track_caller]
fn nothing_is_left(home: &Home, repo: &ScratchRepo) {
    until_true("no scratch worktree is left", LONG, || {
        let entries = fs::read_dir(home.state().join("worktrees")).unwrap().flatten();
        let named = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("queue-");
        let list = repo.git(&["worktree", "list", "--porcelain"]);
        !entries.into_iter().any(|entry| named(&entry.file_name())) && !list.contains("/queue-")
    });
    let notes = fs::read_dir(home.state().join("worktrees/.notes")).unwrap().flatten();
    let left: Vec<_> = notes
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("queue-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let git_dir = repo.path().join(".git");
    for name in ["MERGE_HEAD", "index.lock"] {
        assert!(!git_dir.join(name).exists(), "{name} is left");
    }
    assert!(!repo.git(&["worktree", "list", "--porcelain"]).contains("prunable"));
    assert_eq!(repo.git(&["fsck", "--strict", "--no-dangling"]), "");
}

#[test]
fn three_of_five_land_in_order_and_two_are_told_why() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let base = repo.git(&["rev-parse", "main"]);
    let one = task(&home, &repo, "one", ("shared", "one\n"));
    let clash = task(&home, &repo, "clash", ("shared", "another\n"));
    let two = task(&home, &repo, "two", ("two", "2\n"));
    let broken = task(&home, &repo, "broken", ("broken", "x\n"));
    let three = task(&home, &repo, "three", ("three", "3\n"));
    let all = [&one, &clash, &two, &broken, &three];
    let ids: Vec<_> = all.iter().map(|task| id(task)).collect();
    let check = "test ! -e broken || { echo it is broken; exit 7; }";
    let words = [
        &["--json", "merge", "queue", "add"],
        ids.as_slice(),
        &["--target", "main", "--check", check, "--wait"],
    ]
    .concat();
    let told = home.run(&words).expect(4).json();
    let ended: Vec<_> = told["queue"].as_array().unwrap().iter().map(|row| &row["state"]).collect();
    assert_eq!(ended, ["landed", "conflict", "landed", "failed", "landed"]);
    // history and tree are what they should be, and the checkout went along
    let branch = |task: &Value| task["branch"].as_str().unwrap().to_owned();
    let subject = |task: &Value| format!("Merge branch '{}' into main", branch(task));
    assert_eq!(history(&repo, &base), [subject(&three), subject(&two), subject(&one)]);
    let files = repo.git(&["ls-tree", "-r", "--name-only", "main"]);
    assert_eq!(files, ".gitignore\nREADME\nshared\nthree\ntwo");
    assert_eq!(repo.git(&["show", "main:shared"]), "one");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    assert_eq!(fs::read_to_string(repo.path().join("three")).unwrap(), "3\n");
    for (task, row) in all.iter().zip(told["queue"].as_array().unwrap()) {
        if let Some(commit) = row["landedCommit"].as_str() {
            let merged = repo.git(&["rev-parse", &format!("{commit}^2")]);
            assert_eq!(merged, task["headCommit"].as_str().unwrap());
        }
    }
    // the two are told why, nobody else is
    let rejected = |task: &Value| {
        let events = home.events(task);
        events.into_iter().find(|event| event["type"] == "queue.rejected")
    };
    let payload = rejected(&clash).unwrap()["payload"].clone();
    assert_eq!((&payload["why"], &payload["files"]), (&json!("conflict"), &json!(["shared"])));
    let payload = rejected(&broken).unwrap()["payload"].clone();
    assert_eq!(payload["why"], "failed");
    // a command has no session to go on with: the event is all there is, and the row says so
    let event = json!({ "how": "event", "why": "'command' has no session to go on with" });
    assert_eq!((&payload["sentBack"], &row(&home, &broken)["sentBack"]), (&event, &event));
    let shown = home.run(&["merge", "queue", "ls"]).expect(0).text();
    assert!(shown.contains("its agent was not told"), "{shown}");
    assert_eq!(home.task(&broken)["status"], "completed");
    assert!(payload["checkTail"].as_str().unwrap().contains("it is broken"), "{payload:#}");
    assert!([&one, &two, &three].into_iter().all(|task| rejected(task).is_none()));
    assert_eq!(kinds(&home, &one), ["queue.waiting", "queue.testing", "queue.landed"]);
    assert_eq!(kinds(&home, &clash).last().unwrap(), "queue.rejected");
    nothing_is_left(&home, &repo);
    // what is refused, is refused by name
    let refused =
        |words: &[&str], code| home.run(&[&["merge", "queue"], words].concat()).expect(code);
    refused(&["add", id(&one), "--target", "nowhere", "--check", ""], 3);
    refused(&["add", "feedbeef", "--check", ""], 3);
    refused(&["rm", "feedbeef"], 3);
    refused(&["rm", told["queue"][0]["id"].as_str().unwrap()], 4);
    // what is in the target already is landed at once, and without a check a merge is all
    assert_eq!(add(&home, &[&one], &["--check", "false", "--wait"])[0]["state"], "landed");
}

#[test]
fn a_task_that_runs_or_made_nothing_is_not_queued() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let nothing = home.follow(repo.path(), &[], &Script::new()).expect(0).json();
    let gate = home.file("gate");
    let runs = home.submit(repo.path(), &[], &Script::new().write("a", "a").wait_for(&gate));
    home.reaches(&runs, "running");
    for task in [&nothing, &runs] {
        let ran = home.run(&["--json", "merge", "queue", "add", id(task), "--check", ""]).expect(4);
        assert_eq!(ran.json()["error"]["code"], "conflict");
    }
    home.open_gate("gate");
    home.reaches(&runs, "completed");
    assert!(states(&home).is_empty());
}

#[test]
fn a_target_that_moves_while_the_check_runs_is_built_on_anew() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let base = repo.git(&["rev-parse", "main"]);
    let work = task(&home, &repo, "work", ("work", "w\n"));
    let (starts, gate) = (home.file("starts"), home.file("gate"));
    let check = format!(
        "git rev-parse HEAD >> {}; while ! test -e {}; do sleep 0.05; done; test -e work",
        starts.display(),
        gate.display()
    );
    add(&home, &[&work], &["--check", &check, "--target", "main"]);
    until_true("the check runs", LONG, || home.read("starts").lines().count() == 1);
    assert_eq!(row(&home, &work)["state"], "testing");
    repo.write("mine", "mine\n");
    let mine = repo.commit("mine");
    home.open_gate("gate");
    let landed = reaches(&home, &work, "landed");
    let checked: Vec<_> = home.read("starts").lines().map(str::to_owned).collect();
    assert_eq!(checked.len(), 2);
    // exactly the commit that was checked, on top of what came meanwhile
    assert_eq!(repo.git(&["rev-parse", "main"]), checked[1]);
    assert_eq!(landed["landedCommit"], checked[1].as_str());
    assert_eq!(repo.git(&["rev-parse", "main^"]), mine);
    assert_eq!(history(&repo, &base).len(), 2);
    nothing_is_left(&home, &repo);
}

#[test]
fn f20_a_checkout_with_changes_in_the_way_waits_and_lands_once_they_are_gone() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let work = task(&home, &repo, "work", ("README", "theirs\n"));
    let second = task(&home, &repo, "second", ("second", "2\n"));
    repo.in_use();
    let before = repo.snapshot();
    let ledger = home.file("checks");
    let check = format!("echo checked >> {}", ledger.display());
    add(&home, &[&work, &second], &["--check", &check, "--target", "main"]);
    let held = until("it is held", LONG, || {
        let row = row(&home, &work);
        row["message"].as_str().filter(|said| said.contains("in the way"))?;
        Some(row)
    });
    assert_eq!(held["state"], "waiting");
    assert!(held["message"].as_str().unwrap().contains("README"), "{held:#}");
    assert_eq!(repo.snapshot(), before);
    // what is held can be taken out; the rest goes on without it
    home.json(&["merge", "queue", "rm", held["id"].as_str().unwrap()]);
    assert_eq!(row(&home, &work)["state"], "removed");
    assert_eq!(repo.snapshot(), before);
    repo.git(&["reset", "-q", "--hard"]);
    fs::remove_file(repo.path().join("untracked")).unwrap();
    let landed = reaches(&home, &second, "landed");
    assert_eq!(repo.git(&["rev-parse", "main"]), landed["landedCommit"].as_str().unwrap());
    assert_eq!(fs::read_to_string(repo.path().join("README")).unwrap(), "a project\n");
    assert_eq!(fs::read_to_string(repo.path().join("second")).unwrap(), "2\n");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    nothing_is_left(&home, &repo);
}

#[test]
fn an_entry_is_taken_out_while_its_check_runs_and_while_it_waits() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let before = repo.git(&["rev-parse", "main"]);
    let one = task(&home, &repo, "one", ("one", "1\n"));
    let two = task(&home, &repo, "two", ("two", "2\n"));
    let pid = home.file("pid");
    let slow = format!("touch made; echo $$ >> {}; sleep 600", pid.display());
    let rows = add(&home, &[&one], &["--check", &slow, "--target", "main"]);
    until_true("the check runs", LONG, || home.read("pid").lines().count() == 1);
    // another check: it waits for its own batch
    let waiting = add(&home, &[&two], &["--check", "true", "--target", "main"]);
    assert_eq!(row(&home, &two)["position"], 2);
    home.run(&["merge", "queue", "add", id(&two), "--check", ""]).expect(4);
    home.json(&["merge", "queue", "rm", waiting[0]["id"].as_str().unwrap()]);
    assert_eq!(row(&home, &two)["state"], "removed");
    home.json(&["merge", "queue", "rm", rows[0]["id"].as_str().unwrap()]);
    assert_eq!(row(&home, &one)["state"], "removed");
    let check: i32 = home.read("pid").trim().parse().unwrap();
    until_true("the check has ended", LONG, || {
        hayward_tests::process::Process::of(check).is_none()
    });
    assert_eq!(kinds(&home, &one).last().unwrap(), "queue.removed");
    assert_eq!(repo.git(&["rev-parse", "main"]), before);
    nothing_is_left(&home, &repo);
    // what was taken out may be queued again
    add(&home, &[&two, &one], &["--check", "test -e two", "--target", "main"]);
    reaches(&home, &one, "landed");
    assert_eq!(repo.git(&["show", "main:one"]), "1");
}

#[test]
fn a_check_sees_no_secret_and_ends_in_its_time() {
    let (mut home, repo) = (Home::new(), ScratchRepo::new());
    home.set("AWS_SECRET_ACCESS_KEY", "secret");
    let work = task(&home, &repo, "work", ("work", "w\n"));
    let seen = home.file("seen");
    let check = format!("env > {}; sleep 600", seen.display());
    let options = ["--check", check.as_str(), "--timeout", "10", "--target", "main"];
    add(&home, &[&work], &options);
    let failed = reaches(&home, &work, "failed");
    assert!(failed["message"].as_str().unwrap().contains("it took over 10 s"), "{failed:#}");
    let seen = home.read("seen");
    assert!(seen.contains("HAYWARD_WORKTREE=") && seen.contains("HAYWARD_BASE_COMMIT="), "{seen}");
    for name in ["AWS_SECRET_ACCESS_KEY", "HAYWARD_HOME", "HAYWARD_TASK_ID", "HAYWARD_RUN_ID"] {
        assert!(!seen.contains(name), "{seen}");
    }
    nothing_is_left(&home, &repo);
}

#[test]
fn f21_a_daemon_killed_while_a_check_runs_checks_anew() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let base = repo.git(&["rev-parse", "main"]);
    let one = task(&home, &repo, "one", ("one", "1\n"));
    let two = task(&home, &repo, "two", ("two", "2\n"));
    let (starts, gate) = (home.file("starts"), home.file("gate"));
    let check = format!(
        "touch made-by-the-check; echo $$ >> {}; while ! test -e {}; do sleep 0.05; done",
        starts.display(),
        gate.display()
    );
    add(&home, &[&one, &two], &["--check", &check, "--target", "main"]);
    until_true("the check runs", LONG, || home.read("starts").lines().count() == 1);
    let before = repo.snapshot();
    daemon.crash();
    assert_eq!(repo.snapshot(), before);
    home.up();
    until_true("it is checked anew", LONG, || home.read("starts").lines().count() == 2);
    let pids: Vec<i32> =
        home.read("starts").lines().map(|line| line.trim().parse().unwrap()).collect();
    assert!(hayward_tests::process::Process::of(pids[0]).is_none(), "the first check lives on");
    home.open_gate("gate");
    reaches(&home, &two, "landed");
    assert_eq!(row(&home, &one)["state"], "landed");
    assert_eq!(history(&repo, &base).len(), 2);
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    let ends = kinds(&home, &one).into_iter().filter(|kind| kind == "queue.landed").count();
    assert_eq!(ends, 1);
    nothing_is_left(&home, &repo);
}

/// Kills the daemon at a point; the next one ends what was begun.
#[track_caller]
fn f21_killed_at(point: &str) {
    let Some(home) = Home::armed(&format!("killed at {point}"), point) else { return };
    let repo = ScratchRepo::new();
    let daemon = home.up();
    let base = repo.git(&["rev-parse", "main"]);
    let one = task(&home, &repo, "one", ("one", "1\n"));
    let broken = task(&home, &repo, "broken", ("broken", "x\n"));
    let two = task(&home, &repo, "two", ("two", "2\n"));
    let ids = [id(&one), id(&broken), id(&two)];
    let check = "touch made-by-the-check; test ! -e broken";
    let words = [
        &["--json", "merge", "queue", "add"],
        ids.as_slice(),
        &["--target", "main", "--check", check],
    ]
    .concat();
    // its answer may be lost with the daemon, which had written it down
    let asked = home.run(&words);
    until_true("the daemon is gone", LONG, || home.was_hit() && !daemon.process.alive());
    let tip = repo.git(&["rev-parse", "main"]);
    assert!(tip == base || repo.git(&["log", "--format=%s", "-1", "main"]).starts_with("Merge"));
    home.up();
    if asked.code != 0 && states(&home).is_empty() {
        home.run(&words).expect(0);
    }
    reaches(&home, &two, "landed");
    assert_eq!(row(&home, &one)["state"], "landed", "{point}");
    assert_eq!(row(&home, &broken)["state"], "failed", "{point}");
    assert_eq!(history(&repo, &base).len(), 2, "{point}");
    assert_eq!(repo.git(&["ls-tree", "-r", "--name-only", "main"]), ".gitignore\nREADME\none\ntwo");
    assert_eq!(repo.git(&["status", "--porcelain"]), "", "{point}");
    for task in [&one, &broken, &two] {
        let ends = kinds(&home, task);
        let ends =
            ends.iter().filter(|kind| ["queue.landed", "queue.failed"].contains(&kind.as_str()));
        assert_eq!(ends.count(), 1, "{point}");
    }
    let state = home.state();
    assert!(with_variable("HAYWARD_CHORE", &state.to_string_lossy()).is_empty());
    nothing_is_left(&home, &repo);
}

#[test]
fn f21_a_daemon_killed_at_any_decision_goes_on() {
    // queued; four candidates built, two of them failed, two passed, two landed
    for passing in 1..=11 {
        f21_killed_at(&format!("queue.turn.kept:{passing}"));
    }
}

#[test]
fn f21_a_daemon_killed_while_it_builds_checks_or_lands_goes_on() {
    for point in [
        "queue.build.done",
        "queue.check.placed",
        "queue.check.done",
        "queue.check.cleared",
        "merge.land.begun",
        "merge.land.moved",
        "queue.land.done",
    ] {
        f21_killed_at(point);
    }
}

#[test]
fn a_check_has_what_a_task_has_and_a_setup_that_fails_rejects_nobody() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    repo.write(".gitignore", "deps\n.env\n");
    repo.commit("ignore");
    repo.write(".env", "KEY=value\n");
    let (sound, torn) = (home.file("sound"), home.file("torn"));
    home.configure(&format!(
        "[repositories.\"{}\"]\ncopy_files = [\".env\"]\n\
         setup = \"test -e {} || {{ echo no deps today; exit 9; }}; echo installed > deps\"\n\
         teardown = \"echo $HAYWARD_PORT >> {}\"\n",
        repo.path().display(),
        sound.display(),
        torn.display(),
    ));
    home.open_gate("sound");
    let work = task(&home, &repo, "work", ("work", "w\n"));
    until_true("the task's own teardown ran", LONG, || home.read("torn").lines().count() == 1);
    fs::remove_file(&sound).unwrap();
    let base = repo.git(&["rev-parse", "main"]);
    let check = "grep -q installed deps && grep -q KEY=value .env && test -n \"$HAYWARD_PORT\"";
    add(&home, &[&work], &["--check", check, "--target", "main"]);
    let held = until("it says why it waits", LONG, || {
        let row = row(&home, &work);
        row["message"].as_str().filter(|said| said.contains("no deps today"))?;
        Some(row)
    });
    assert_eq!((&held["state"], &held["sentBack"]), (&json!("waiting"), &Value::Null));
    assert_eq!(repo.git(&["rev-parse", "main"]), base);
    assert!(!kinds(&home, &work).contains(&"queue.rejected".to_owned()));
    home.open_gate("sound");
    reaches(&home, &work, "landed");
    assert_eq!(repo.git(&["ls-tree", "-r", "--name-only", "main"]), ".gitignore\nREADME\nwork");
    // each setup had its teardown, in ports of its own
    assert!(home.read("torn").lines().count() >= 3, "{}", home.read("torn"));
    assert!(home.read("torn").lines().all(|port| port.parse::<u16>().is_ok()));
    nothing_is_left(&home, &repo);
}
