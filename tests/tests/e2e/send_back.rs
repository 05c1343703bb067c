//! What the merge queue sends back goes to the agent that made it, in its own session, worktree and
//! branch: the real Claude Code command line, judged by refs, trees and what its model was told.

use crate::claude::{house, installed};
use hayward_tests::home::{Home, id};
use hayward_tests::model::{Model, Turn};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::wait::{LONG, until, until_true};
use serde_json::{Value, json};

/// What the agent does when it is sent back: it brings the target in.
fn settle() -> Vec<Turn> {
    let line = "git -c user.name=A -c user.email=a@example.org merge main || true; \
                printf 'both\\n' > shared; pwd > where; git add -A && \
                git -c user.name=A -c user.email=a@example.org commit -q -m settled";
    vec![
        Turn::Call("Bash", json!({ "command": line, "description": "bring main in" })),
        Turn::Say("settled"),
    ]
}

/// What it does at first.
fn work() -> Vec<Turn> {
    vec![
        Turn::Call("Write", json!({ "file_path": "{cwd}/shared", "content": "mine\n" })),
        Turn::Say("written"),
    ]
}

fn queue(home: &Home, task: &Value, check: &str) -> Value {
    let words = ["merge", "queue", "add", id(task), "--target", "main", "--check", check];
    home.json(&words)["queue"][0].clone()
}

fn row(home: &Home, entry: &Value) -> Value {
    let rows = home.json(&["merge", "queue", "ls"])["queue"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["id"] == entry["id"]).unwrap()
}

fn ended(home: &Home, entry: &Value) -> Value {
    until("the entry has ended", LONG, || {
        let ran = home.run(&["--json", "merge", "queue", "ls"]);
        let rows = (ran.code == 0).then(|| ran.json()["queue"].as_array().unwrap().clone())?;
        rows.into_iter().find(|row| row["id"] == entry["id"] && !row["endedAt"].is_null())
    })
}

/// The task has completed in this attempt.
fn completes(home: &Home, task: &Value, attempt: u64) -> Value {
    until("it has completed once more", LONG, || {
        let ran = home.run(&["--json", "task", "show", id(task)]);
        let task = (ran.code == 0).then(|| ran.json())?;
        assert_ne!(task["status"], "failed", "{task:#}\n{}", home.log());
        (task["attempt"] == attempt && task["status"] == "completed").then_some(task)
    })
}

fn starts(home: &Home, task: &Value) -> usize {
    home.events(task).iter().filter(|event| event["type"] == "run.started").count()
}

/// Sent back for a conflict, it was settled by the same agent in the same place, and lands when it
/// is queued again.
#[track_caller]
fn was_settled(home: &Home, repo: &ScratchRepo, first: &Value, model: &Model) {
    let again = completes(home, first, 2);
    assert_eq!((&again["branch"], &again["followUp"]), (&first["branch"], &Value::Null));
    assert_eq!((&again["id"], &again["sessionId"]), (&first["id"], &first["sessionId"]));
    let branch = again["branch"].as_str().unwrap();
    repo.git(&["merge-base", "--is-ancestor", "main", branch]);
    repo.git(&["merge-base", "--is-ancestor", first["headCommit"].as_str().unwrap(), branch]);
    assert_eq!(repo.git(&["show", &format!("{branch}:shared")]), "both");
    let place = home.json(&["worktree", "path", id(first)])["path"].clone();
    assert_eq!(repo.git(&["show", &format!("{branch}:where")]), place.as_str().unwrap());
    // once, with all that was said before in its memory
    assert_eq!(starts(home, first), 2, "{:#?}", home.events(first));
    let asked = model.asked();
    let heard = asked.last().unwrap().to_string();
    for words in ["say mine", "[hayward merge queue]", "| shared", "was not merged into 'main'"] {
        assert!(heard.contains(words), "{words}: {heard}");
    }
    assert_eq!(heard.matches("[hayward merge queue]").count(), 1, "{heard}");
    // it comes back only when it is asked for
    let waiting = home.json(&["merge", "queue", "ls"])["queue"].as_array().unwrap().len();
    assert_eq!(waiting, 1);
    let entry = queue(home, first, "grep -q both shared");
    assert_eq!(ended(home, &entry)["state"], "landed");
    assert_eq!(repo.git(&["show", "main:shared"]), "both");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
}

/// A task that wrote `shared`, after which `main` did so too.
fn clash(home: &Home, repo: &ScratchRepo) -> Value {
    let task = home.run_in(repo.path(), &["--json", "run", "say mine"]).expect(0).json();
    repo.write("shared", "theirs\n");
    repo.commit("theirs");
    task
}

#[test]
fn a_conflict_goes_back_into_the_ended_session_of_its_agent() {
    let Some(bin) = installed("a_conflict_goes_back_into_the_ended_session") else { return };
    let repo = ScratchRepo::new();
    let model = Model::start([work(), settle()].concat());
    let home = house(&bin, &model, 1);
    let first = clash(&home, &repo);
    let main = repo.git(&["rev-parse", "main"]);
    let entry = queue(&home, &first, "");
    let rejected = ended(&home, &entry);
    assert_eq!(rejected["state"], "conflict");
    assert_eq!(rejected["sentBack"], json!({ "how": "resumed" }));
    let shown = home.run(&["merge", "queue", "ls"]).expect(0).text();
    assert!(shown.contains("its agent goes on with it"), "{shown}");
    completes(&home, &first, 2);
    assert_eq!(repo.git(&["rev-parse", "main"]), main);
    let changes = home.statuses(&first);
    let tail = ["completed", "queued", "dispatched", "running", "completed"];
    assert!(changes.ends_with(&tail.map(str::to_owned)), "{changes:?}");
    was_settled(&home, &repo, &first, &model);
}

#[test]
fn a_failed_check_goes_back_with_the_end_of_what_it_said() {
    let Some(bin) = installed("a_failed_check_goes_back_with_the_end") else { return };
    let repo = ScratchRepo::new();
    let mend = Turn::Call("Bash", json!({ "command": "rm broken; echo ok > mended" }));
    let break_it = Turn::Call("Bash", json!({ "command": "echo x > broken" }));
    let model = Model::start(vec![break_it, Turn::Say("broken"), mend, Turn::Say("mended")]);
    let home = house(&bin, &model, 1);
    let first = home.run_in(repo.path(), &["--json", "run", "break it"]).expect(0).json();
    let check = "test ! -e broken || { echo the heron is missing; exit 3; }";
    let entry = queue(&home, &first, check);
    let rejected = ended(&home, &entry);
    assert_eq!(
        (&rejected["state"], &rejected["sentBack"]["how"]),
        (&json!("failed"), &json!("resumed"))
    );
    let again = completes(&home, &first, 2);
    let heard = model.asked().last().unwrap().to_string();
    assert!(heard.contains("| the heron is missing") && heard.contains("break it"), "{heard}");
    let files = repo.git(&["ls-tree", "-r", "--name-only", again["branch"].as_str().unwrap()]);
    assert!(files.contains("mended") && !files.contains("broken"), "{files}");
    let entry = queue(&home, &first, check);
    assert_eq!(ended(&home, &entry)["state"], "landed");
}

#[test]
fn nothing_is_resumed_where_the_user_took_the_worktree_or_the_branch() {
    let Some(bin) = installed("nothing_is_resumed_where_the_user_took") else { return };
    let repo = ScratchRepo::new();
    let model = Model::start([work(), work()].concat());
    let home = house(&bin, &model, 1);
    let first = clash(&home, &repo);
    let place = home.json(&["worktree", "path", id(&first)])["path"].clone();
    let branch = first["branch"].as_str().unwrap();
    let why = |entry: &Value| row(&home, entry)["sentBack"].clone();
    repo.git(&["checkout", "-q", branch]);
    let entry = queue(&home, &first, "");
    assert_eq!(ended(&home, &entry)["state"], "conflict");
    let text = format!("'{branch}' is checked out in another folder");
    assert_eq!(why(&entry), json!({ "how": "event", "why": text }));
    repo.git(&["checkout", "-q", "main"]);
    std::fs::remove_dir_all(place.as_str().unwrap()).unwrap();
    let entry = queue(&home, &first, "");
    assert_eq!(ended(&home, &entry)["state"], "conflict");
    assert_eq!(why(&entry), json!({ "how": "event", "why": "its worktree is gone" }));
    assert_eq!((starts(&home, &first), &home.task(&first)["status"]), (1, &json!("completed")));
}

#[test]
fn f21_a_daemon_killed_when_it_decided_sends_back_once() {
    let name = "f21_a_daemon_killed_when_it_decided_sends_back_once";
    let Some(bin) = installed(name) else { return };
    // queued; built and found in conflict: on disk, nothing told yet
    let Some(armed) = Home::armed(name, "queue.turn.kept:2") else { return };
    let repo = ScratchRepo::new();
    let model = Model::start([work(), settle()].concat());
    let home = crate::claude::furnish(armed, &bin, &model, 1);
    let daemon = home.up();
    let first = clash(&home, &repo);
    let words = ["merge", "queue", "add", id(&first), "--target", "main", "--check", ""];
    // its answer may be lost with the daemon, which had written it down
    drop(home.run(&words));
    until_true("the daemon is gone", LONG, || home.was_hit() && !daemon.process.alive());
    home.up();
    was_settled(&home, &repo, &first, &model);
}

#[test]
fn f21_a_daemon_killed_while_the_agent_goes_on_takes_it_up_again() {
    let name = "f21_a_daemon_killed_while_the_agent_goes_on";
    let Some(bin) = installed(name) else { return };
    let repo = ScratchRepo::new();
    let gate = tempfile::tempdir().unwrap();
    let wait = format!(
        "touch {0}/began; while [ ! -e {0}/gate ]; do sleep 0.05; done",
        gate.path().display()
    );
    let wait = Turn::Call("Bash", json!({ "command": wait, "description": "wait" }));
    let model = Model::start([work(), vec![wait], settle()].concat());
    let home = house(&bin, &model, 1);
    let daemon = home.up();
    let first = clash(&home, &repo);
    queue(&home, &first, "");
    until_true("its agent goes on", LONG, || gate.path().join("began").exists());
    daemon.crash();
    home.up();
    std::fs::write(gate.path().join("gate"), "").unwrap();
    was_settled(&home, &repo, &first, &model);
}
