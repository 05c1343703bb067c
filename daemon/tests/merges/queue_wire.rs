//! The merge queue as raw text on the daemon's wire, judged by the refs that result.

use super::ground::write;
use super::wire::Wire;
use hayward_daemon::process::ProcessId;
use hayward_shared::id::{EntryId, RequestId, TaskId};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Whatever is waited for must come within this.
const BOUND: Duration = Duration::from_secs(120);

async fn rows(wire: &mut Wire) -> Vec<Value> {
    let answer = wire.ask(json!({"type": "queueList"}), "reply").await;
    assert_eq!((&answer["ok"], &answer["payload"]["truncated"]), (&json!(true), &json!(false)));
    answer["payload"]["queue"].as_array().unwrap().clone()
}

async fn until(wire: &mut Wire, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let rows = rows(wire).await;
        if holds(&rows) {
            return rows;
        }
        assert!(begun.elapsed() < BOUND, "{what}: {rows:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn add(tasks: &[TaskId], check: &str) -> Value {
    json!({"type": "queueAdd", "taskIds": tasks, "target": "main", "check": check})
}

fn states(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["state"].as_str()).collect()
}

#[tokio::test]
async fn what_is_queued_on_the_wire_lands_in_order_once_and_the_rest_is_told() {
    let mut wire = Wire::new().await;
    let [part, plain] = wire.parts;
    let base = wire.ground.tip("main").to_string();
    let branches = wire.ground.git(&[
        "for-each-ref",
        "--format=%(refname) %(objectname)",
        "refs/heads/hayward",
    ]);
    let request = RequestId::fresh();
    let command = add(&[wire.task, part, plain], "git merge-base --is-ancestor main HEAD");
    let added = wire.ask_as(request, command.clone(), "reply").await;
    let taken = added["payload"]["queue"].as_array().unwrap().clone();
    assert_eq!((&added["ok"], states(&taken)), (&json!(true), vec!["waiting"; 3]));
    assert_eq!(taken[0]["headCommit"], json!(wire.ground.tip("hayward/own").to_string()));
    // the same request again: the same answer, and nothing is queued twice
    assert_eq!(wire.ask_as(request, command, "reply").await, added);
    let ended = |rows: &[Value]| rows.iter().all(|row| !row["endedAt"].is_null());
    let all = until(&mut wire, "all have ended", ended).await;
    assert_eq!(states(&all), ["landed", "conflict", "landed"], "{all:#?}");
    assert_eq!(all[1]["files"], json!(["a.txt"]));
    assert_eq!(all[1]["sentBack"]["how"], "event", "{all:#?}");
    let git = |words: &[&str]| wire.ground.git(words);
    let subjects = git(&["log", "--first-parent", "--format=%s", &format!("{base}..main")]);
    let merged = |name: &str| format!("Merge branch 'hayward/{name}' into main");
    assert_eq!(subjects, format!("{}\n{}", merged("plain"), merged("own")));
    assert_eq!(json!(git(&["rev-parse", "main"])), all[2]["landedCommit"]);
    assert_eq!(git(&["rev-parse", "main^2"]), git(&["rev-parse", "hayward/plain"]));
    assert_eq!(git(&["show", "main:a.txt"]), "own\ntwo\nthree");
    assert_eq!(git(&["ls-tree", "--name-only", "main"]), ".gitignore\na.txt\nb.txt\nown\nplain");
    assert_eq!(git(&["status", "--porcelain"]), "");
    let refs = git(&["for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/hayward"]);
    assert_eq!(refs, branches, "no task's branch moved");
    wire.ground.assert_no_merge_head();
    // what has landed cannot be taken out
    let remove = json!({"type": "queueRemove", "entryId": all[0]["id"]});
    let refused = wire.ask(remove, "reply").await;
    assert_eq!((&refused["ok"], &refused["error"]["code"]), (&json!(false), &json!("conflict")));
}

#[tokio::test]
async fn an_entry_is_taken_out_on_the_wire_while_it_is_checked() {
    let mut wire = Wire::new().await;
    let [_, plain] = wire.parts;
    let refs =
        |wire: &Wire| wire.ground.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
    let before = refs(&wire);
    let added = wire.ask(add(&[plain], "sleep 600"), "reply").await;
    let entry = added["payload"]["queue"][0]["id"].clone();
    until(&mut wire, "it is checked", |rows| states(rows) == ["testing"]).await;
    let twice = wire.ask(add(&[plain], ""), "reply").await;
    assert_eq!(twice["error"]["code"], "conflict");
    let (request, remove) = (RequestId::fresh(), json!({"type": "queueRemove", "entryId": entry}));
    let removed = wire.ask_as(request, remove.clone(), "reply").await;
    assert_eq!(removed["payload"]["entry"]["state"], "removed", "{removed}");
    assert_eq!(wire.ask_as(request, remove, "reply").await, removed);
    until(&mut wire, "it is out", |rows| states(rows) == ["removed"]).await;
    assert_eq!(refs(&wire), before);
}

#[tokio::test]
async fn what_waits_of_a_discarded_task_never_lands_and_the_rest_goes_on() {
    let mut wire = Wire::new().await;
    let (own, [_, plain]) = (wire.task, wire.parts);
    let gate = wire.ground.room().join("gate");
    let check = format!("while ! test -e {}; do sleep 0.05; done", gate.display());
    wire.ask(add(&[own, plain], &check), "reply").await;
    until(&mut wire, "both are checked", |rows| states(rows) == ["testing"; 2]).await;
    // what `task discard` tells the daemon
    let discard = json!({"type": "pruneWorktrees", "dryRun": false, "force": true});
    wire.ask(discard, "reply").await;
    write(&gate, "");
    let ended = |rows: &[Value]| rows.iter().all(|row| !row["endedAt"].is_null());
    let all = until(&mut wire, "both have ended", ended).await;
    assert_eq!(states(&all), ["removed", "landed"], "{all:#?}");
    let git = |words: &[&str]| wire.ground.git(words);
    assert_eq!(git(&["ls-tree", "--name-only", "main"]), ".gitignore\na.txt\nb.txt\nplain");
    assert_eq!(git(&["show", "main:a.txt"]), "one\ntwo\nthree");
    assert_eq!(git(&["rev-parse", "main^2"]), git(&["rev-parse", "hayward/plain"]));
}

#[tokio::test]
async fn what_is_held_up_is_built_anew_when_git_cleared_it_away() {
    let mut wire = Wire::new().await;
    let [_, plain] = wire.parts;
    wire.ground.write("plain", "in the way\n");
    wire.ask(add(&[plain], ""), "reply").await;
    let held = |rows: &[Value]| {
        rows.iter().all(|row| row["message"].as_str().unwrap().contains("in the way"))
    };
    until(&mut wire, "it is held up", held).await;
    wire.ground.clear_out();
    std::fs::remove_file(wire.ground.user().join("plain")).unwrap();
    let landed = until(&mut wire, "it has landed", |rows| states(rows) == ["landed"]).await;
    let git = |words: &[&str]| wire.ground.git(words);
    assert_eq!(json!(git(&["rev-parse", "main"])), landed[0]["landedCommit"]);
    assert_eq!(git(&["rev-parse", "main^2"]), git(&["rev-parse", "hayward/plain"]));
    assert_eq!(git(&["show", "main:plain"]), "plain");
    assert_eq!(git(&["status", "--porcelain"]), "");
}

#[tokio::test]
async fn an_entry_whose_commit_is_gone_ends_alone_and_those_beside_it_land() {
    let mut wire = Wire::new().await;
    let (own, [part, plain]) = (wire.task, wire.parts);
    let gate = wire.ground.room().join("gate");
    let check = format!("while ! test -e {}; do sleep 0.05; done", gate.display());
    wire.ask(add(&[plain], &check), "reply").await;
    wire.ask(add(&[part, own], "true"), "reply").await;
    until(&mut wire, "the first is checked", |rows| states(rows)[0] == "testing").await;
    wire.ground.git(&["branch", "-q", "-D", "hayward/part"]);
    wire.ground.clear_out();
    write(&gate, "");
    let ended = |rows: &[Value]| rows.iter().all(|row| !row["endedAt"].is_null());
    let all = until(&mut wire, "all have ended", ended).await;
    assert_eq!(states(&all), ["landed", "conflict", "landed"], "{all:#?}");
    assert!(all[1]["message"].as_str().unwrap().contains("is gone"), "{all:#?}");
    assert_eq!(all[1].get("sentBack").unwrap_or(&Value::Null), &Value::Null);
    let git = |words: &[&str]| wire.ground.git(words);
    assert_eq!(git(&["rev-parse", "main^2"]), git(&["rev-parse", "hayward/own"]));
    assert_eq!(git(&["rev-parse", "main^1^2"]), git(&["rev-parse", "hayward/plain"]));
    assert_eq!(git(&["ls-tree", "--name-only", "main"]), ".gitignore\na.txt\nb.txt\nown\nplain");
}

#[tokio::test]
async fn f04_what_left_the_group_of_a_check_ends_when_its_entry_is_taken_out() {
    let mut wire = Wire::new().await;
    let [_, plain] = wire.parts;
    let pid = wire.ground.room().join("pid");
    let check = format!("setsid sh -c 'echo $$ > {}; exec sleep 60' & sleep 60", pid.display());
    let added = wire.ask(add(&[plain], &check), "reply").await;
    let number = || std::fs::read_to_string(&pid).ok()?.trim().parse::<i32>().ok();
    until(&mut wire, "the check runs", |_| number().is_some()).await;
    let stray = ProcessId::of(number().unwrap()).unwrap().unwrap();
    let remove = json!({"type": "queueRemove", "entryId": added["payload"]["queue"][0]["id"]});
    wire.ask(remove, "reply").await;
    until(&mut wire, "it has ended", |_| !stray.alive()).await;
}

#[tokio::test]
async fn what_the_wire_asks_of_the_queue_and_cannot_have_changes_nothing() {
    let mut wire = Wire::new().await;
    let refs = wire.ground.git(&["for-each-ref"]);
    let (task, part) = (wire.task, wire.parts[0]);
    let with = |name: &str, value: Value| {
        let mut command = add(&[task], "true");
        command[name] = value;
        command
    };
    let rows = [
        (add(&[], ""), "invalid"),
        (add(&[task, task], ""), "invalid"),
        (with("check", json!("x".repeat(5000))), "invalid"),
        (with("check", json!("a\0b")), "invalid"),
        (with("timeoutSeconds", json!(0)), "invalid"),
        (with("target", json!("nowhere")), "not_found"),
        (with("target", json!("hayward/own")), "conflict"),
        (add(&[part, TaskId::fresh()], ""), "not_found"),
        (json!({"type": "queueRemove", "entryId": EntryId::fresh()}), "not_found"),
    ];
    for (command, code) in rows {
        let refused = wire.ask(command.clone(), "reply").await;
        assert_eq!((&refused["ok"], &refused["error"]["code"]), (&json!(false), &json!(code)));
    }
    wire.say(json!({"type": "queueAdd", "taskIds": [task]})).await;
    assert_eq!(wire.until("error").await["code"], "invalid");
    assert!(self::rows(&mut wire).await.is_empty());
    assert_eq!(wire.ground.git(&["for-each-ref"]), refs);
}
