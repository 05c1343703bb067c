//! Budgets: an agent that used what it may is frozen, and goes on when a person says so.

use hayward_tests::home::{Home, id};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A Claude Code that asks no model: it tells that it used 70 tokens, 70 more behind the first gate,
/// and ends behind the second.
fn talker(home: &Home) {
    let text = format!(
        r#"#!/bin/sh
case "$1" in --version) echo '2.1.329 (Claude Code)'; exit 0;; esac
cd {folder}
wait_for() {{ while [ ! -e "$1" ]; do sleep 0.05; done; }}
used() {{
    printf '{{"type":"assistant","message":{{"id":"%s","content":[{{"type":"text","text":"%s"}}],' "$1" "$1"
    printf '"usage":{{"input_tokens":60,"output_tokens":10,"cache_read_input_tokens":5000}}}}}}\n'
}}
echo $$ > pid
printf '{{"type":"system","subtype":"init","session_id":"{session}","model":"talker-1"}}\n'
used one
wait_for first
used two
wait_for second
printf '{{"type":"result","subtype":"success","is_error":false,"result":"said",'
printf '"usage":{{"input_tokens":120,"output_tokens":20,"cache_read_input_tokens":10000}}}}\n'
"#,
        folder = home.files().display(),
        session = "0199aaaa-0000-7000-8000-000000000001",
    );
    let path = home.bin().join("claude");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Whether the agent that wrote its pid down is frozen.
fn is_frozen(home: &Home) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", home.read("pid").trim()));
    let stat = stat.unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, tail)| tail.trim_start().starts_with('T'))
}

fn run(home: &Home, repo: &ScratchRepo, options: &[&str]) -> Value {
    let words =
        [&["--json", "run", "--detach", "--on", "none", "--agent", "claude"], options, &["say it"]];
    home.run_in(repo.path(), &words.concat()).expect(0).json()
}

fn tokens(task: &Value) -> u64 {
    task["spent"]["tokens"].as_u64().unwrap_or_default()
}

#[test]
fn an_agent_that_used_its_tokens_is_frozen_and_goes_on_when_it_may_use_more() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    talker(&home);
    home.configure("[prices.talker-]\ninput = 10\noutput = 20\ncache_read = 1\n");
    home.up();
    let task = run(&home, &repo, &["--max-tokens", "100", "--max-cost", "5"]);
    until_true("the first tokens are told", LONG, || tokens(&home.task(&task)) == 70);
    assert!(!is_frozen(&home));
    home.open_gate("first");
    let paused = home.reaches(&task, "paused");
    assert_eq!((&paused["reason"], tokens(&paused)), (&"budget".into(), 140));
    until_true("the agent is frozen", LONG, || is_frozen(&home));
    let why = &paused["why"][0];
    assert_eq!(
        (&why["code"], &why["budget"]["kind"]),
        (&"budget_reached".into(), &"tokens".into())
    );
    let shown = home.run(&["task", "show", id(&task)]).expect(0).text();
    for part in ["140 of 100 tokens", "$0.0116 of $5.00", "--max-tokens N"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // it goes on for nobody who does not say what it may use
    home.run(&["task", "resume", id(&task)]).expect(4);
    home.run(&["task", "resume", id(&task), "--max-tokens", "140"]).expect(4);
    home.open_gate("second");
    assert!(is_frozen(&home));
    let raised = home.json(&["task", "resume", id(&task), "--max-tokens", "1000"]);
    assert_eq!(raised["budget"]["maxTokens"], 1_000, "{raised:#}");
    let done = home.reaches(&task, "completed");
    assert_eq!((tokens(&done), &done["usage"]["costUsd"]), (140, &0.0116.into()));
    let events = home.events(&task);
    let reached: Vec<_> = events.iter().filter(|e| e["type"] == "budget.reached").collect();
    assert_eq!((reached.len(), &reached[0]["payload"]["spent"]), (1, &140.into()));
}

#[test]
fn a_tree_that_used_the_tokens_of_its_root_pauses_as_one_and_gets_no_more_parts() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    talker(&home);
    home.up();
    let script = Script::new().wait_for(home.file("end"));
    let options = ["--on", "none", "--max-tokens", "100", "--max-time", "10h"];
    let root = home.submit(repo.path(), &options, &script);
    home.reaches(&root, "running");
    let part = run(&home, &repo, &["--parent", id(&root)]);
    home.open_gate("first");
    for task in [&root, &part] {
        let paused = home.reaches(task, "paused");
        assert_eq!(paused["why"][0]["budget"]["ofTaskId"], root["id"], "{paused:#}");
    }
    let words = ["run", "--detach", "--on", "none", "--parent", id(&root), "more"];
    let refused = home.run_in(repo.path(), &words).expect(4);
    assert!(refused.stderr.contains("140 of 100 tokens"), "{}", refused.stderr);
    home.json(&["task", "resume", id(&root), "--max-tokens", "1000"]);
    for task in [&root, &part] {
        home.reaches(task, "running");
    }
    home.open_gate("second");
    home.reaches(&part, "completed");
    home.open_gate("end");
    let done = home.reaches(&root, "completed");
    assert_eq!(tokens(&done), 140);
    assert!(done["spent"]["runningMs"].as_u64().unwrap_or_default() > 0, "{done:#}");
}
