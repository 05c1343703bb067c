//! The real Claude Code command line, talking to a model that says what it was told to.

use hayward_tests::home::{Home, id};
use hayward_tests::model::{Model, Turn, USED};
use hayward_tests::program::Ran;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::skip;
use hayward_tests::wait::{LONG, until_true};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Where `claude` is installed; none, said by name, when it is not.
pub(crate) fn installed(test: &str) -> Option<PathBuf> {
    let prefix = std::env::var_os("HAYWARD_TEST_AGENTS").map(PathBuf::from);
    let found = prefix.map(|prefix| prefix.join("bin")).filter(|bin| bin.join("claude").exists());
    if found.is_none() {
        skip(test, "no claude in $HAYWARD_TEST_AGENTS/bin");
    }
    found
}

/// A home whose only agent is `claude`, and whose only model is this one.
pub(crate) fn house(bin: &std::path::Path, model: &Model, retries: u32) -> Home {
    furnish(Home::new(), bin, model, retries)
}

/// Makes a home such a one.
pub(crate) fn furnish(mut home: Home, bin: &std::path::Path, model: &Model, retries: u32) -> Home {
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    home.set("PATH", &path);
    let folder = home.user().join(".claude");
    home.configure(&format!(
        "[agents.claude]\nenv = {{ ANTHROPIC_BASE_URL = \"{}\", \
         ANTHROPIC_API_KEY = \"sk-ant-dummy\", CLAUDE_CONFIG_DIR = \"{}\", \
         CLAUDE_CODE_MAX_RETRIES = \"{retries}\", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC = \"1\", \
         DISABLE_TELEMETRY = \"1\", DISABLE_AUTOUPDATER = \"1\" }}\n",
        model.url(),
        folder.display(),
    ));
    home
}

fn run(home: &Home, repo: &ScratchRepo, prompt: &str) -> Ran {
    home.run_in(repo.path(), &["--json", "run", prompt])
}

/// The task's usage is what the model gave, answer by answer, and nothing else.
#[track_caller]
fn used(task: &Value, answers: u64) {
    let names = ["inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens"];
    for (name, each) in names.into_iter().zip(USED) {
        assert_eq!(task["usage"][name], each * answers, "{name}: {:#}", task["usage"]);
    }
}

#[test]
fn claude_writes_runs_and_hears_a_second_message_and_its_work_is_committed() {
    let Some(bin) = installed("claude_writes_runs_and_hears_a_second_message") else { return };
    let repo = ScratchRepo::new();
    let gate = tempfile::tempdir().unwrap();
    let line = format!(
        "touch {0}/began; while [ ! -e {0}/gate ]; do sleep 0.05; done; echo ran > ran.txt",
        gate.path().display()
    );
    let model = Model::start(vec![
        Turn::Call("Write", json!({ "file_path": "{cwd}/hello.txt", "content": "hello\n" })),
        Turn::Call("Bash", json!({ "command": line, "description": "wait" })),
        Turn::Say("all done"),
    ]);
    let home = house(&bin, &model, 1);
    let before = repo.snapshot();
    let words = ["--json", "run", "--detach", "say hello"];
    let task = home.run_in(repo.path(), &words).expect(0).json();
    until_true("the shell command runs", LONG, || gate.path().join("began").exists());
    home.json(&["task", "message", id(&task), "and mind the second message"]);
    std::fs::write(gate.path().join("gate"), "").unwrap();
    let task = home.reaches(&task, "completed");
    assert_eq!(repo.snapshot(), before);

    assert_eq!((&task["agent"], &task["outcome"]), (&"claude".into(), &"delivered".into()));
    let branch = task["branch"].as_str().unwrap();
    assert_eq!(repo.git(&["show", &format!("{branch}:hello.txt")]), "hello");
    assert_eq!(repo.git(&["show", &format!("{branch}:ran.txt")]), "ran");
    let asked = model.asked();
    let heard = asked.last().unwrap().to_string();
    assert!(heard.contains("and mind the second message"), "the model never heard it");
    used(&task, asked.len() as u64);

    let events = home.events(&task);
    let tools: Vec<_> = events.iter().filter(|event| event["type"] == "tool.finished").collect();
    let names: Vec<_> = tools.iter().filter_map(|e| e["payload"]["toolName"].as_str()).collect();
    assert_eq!(names, ["Write", "Bash"]);
    for tool in &tools {
        assert_eq!(tool["payload"]["outcome"], "ok", "{tool:#}");
        assert!(tool["payload"]["latencyMs"].is_u64(), "{tool:#}");
    }
    assert_eq!(events.iter().filter(|event| event["type"] == "tool.started").count(), 2);
    let said = |event: &Value| {
        event["type"] == "session.output" && event["payload"]["text"].as_str() == Some("all done")
    };
    assert!(events.iter().any(said), "{events:#?}");
    let totals = home.json(&["task", "usage", id(&task)]);
    assert_eq!(totals["inputTokens"], task["usage"]["inputTokens"]);
    let traces = home.json(&["task", "traces", id(&task)]);
    assert_eq!(traces["total"], 2, "{traces}");
}

#[test]
fn claude_survives_two_429_and_they_are_told() {
    let Some(bin) = installed("claude_survives_two_429") else { return };
    let repo = ScratchRepo::new();
    let model = Model::start(vec![
        Turn::Refuse(429),
        Turn::Refuse(429),
        Turn::Call("Bash", json!({ "command": "echo a > a", "description": "write" })),
        Turn::Say("done"),
    ]);
    let home = house(&bin, &model, 5);
    let task = run(&home, &repo, "write a").expect(0).json();
    assert_eq!(task["outcome"], "delivered");
    used(&task, 2);
    let events = home.events(&task);
    let retries: Vec<_> = events.iter().filter(|event| event["type"] == "agent.retry").collect();
    assert_eq!(retries.len(), 2, "{events:#?}");
    assert!(retries.iter().all(|event| event["payload"]["status"] == 429));
}

#[test]
fn claude_that_meets_529_for_ever_fails_as_overloaded() {
    let Some(bin) = installed("claude_that_meets_529_for_ever") else { return };
    let repo = ScratchRepo::new();
    let model = Model::start(vec![Turn::Always(Box::new(Turn::Refuse(529)))]);
    let home = house(&bin, &model, 1);
    let task = run(&home, &repo, "write b").expect(7).json();
    let ended = (&task["status"], &task["reason"]);
    assert_eq!(ended, (&"failed".into(), &"provider_overloaded".into()), "{task:#}");
    assert_eq!((&task["branch"], &task["outcome"]), (&Value::Null, &Value::Null));
    assert!(task["errorMessage"].as_str().is_some_and(|text| !text.is_empty()));
}

#[test]
fn claude_whose_answer_is_cut_once_goes_on_and_for_ever_fails_as_network() {
    let Some(bin) = installed("claude_whose_answer_is_cut") else { return };
    let repo = ScratchRepo::new();
    let model = Model::start(vec![
        Turn::Cut,
        Turn::Call("Bash", json!({ "command": "echo c > c", "description": "write" })),
        Turn::Say("done"),
    ]);
    let home = house(&bin, &model, 3);
    let task = run(&home, &repo, "write c").expect(0).json();
    assert_eq!(task["outcome"], "delivered");

    let model = Model::start(vec![Turn::Always(Box::new(Turn::Cut))]);
    let home = house(&bin, &model, 1);
    let task = run(&home, &repo, "write d").expect(7).json();
    let ended = (&task["status"], &task["reason"]);
    assert_eq!(ended, (&"failed".into(), &"provider_network".into()), "{task:#}");
}

#[test]
fn f07_claude_is_given_a_prompt_of_100_kib_whole() {
    let Some(bin) = installed("f07_claude_is_given_a_prompt_of_100_kib") else { return };
    let repo = ScratchRepo::new();
    let model = Model::start(vec![Turn::Say("that was long")]);
    let home = house(&bin, &model, 1);
    let text: String = (0..20_000).map(|n| format!("{n:04} ")).collect();
    std::fs::write(home.file("prompt"), &text).unwrap();
    let words = ["--json", "run", "--prompt-file", home.files().join("prompt").to_str().unwrap()]
        .map(str::to_owned);
    let task = home.run_in(repo.path(), &words.each_ref().map(String::as_str)).expect(0).json();
    assert_eq!(task["outcome"], "no_changes");
    let heard = model.asked().last().unwrap().to_string();
    assert!(heard.contains(text.trim()), "the prompt was cut");
}
