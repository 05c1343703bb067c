//! What runs at once, why the rest waits, and a provider that refuses.

use crate::claude::{house, installed};
use hayward_tests::home::{Home, id};
use hayward_tests::model::{Model, Turn};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::Script;
use hayward_tests::wait::{LONG, until_true};
use serde_json::Value;
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

fn code(home: &Home, task: &Value) -> String {
    home.task(task)["why"][0]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_is_over_a_limit_waits_and_says_for_whom_and_begins_when_that_ends() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure(
        "[agents.command]\nlimits = { concurrent = 1 }\n[daemon]\nlabels = { a = \"b\" }\n",
    );
    home.up();
    let script = Script::new().sign(home.file("agents")).wait_for(home.file("gate"));
    let first = home.submit(repo.path(), &["--on", "none", "--require", "a=b"], &script);
    home.reaches(&first, "running");
    let second = home.submit(repo.path(), &["--on", "none"], &script);
    let odd = home.submit(repo.path(), &["--on", "none", "--require", "gpu=yes"], &script);
    until_true("the limit is told", LONG, || code(&home, &second) == "agent_limit");
    let shown = home.run(&["task", "show", id(&second)]).expect(0).text();
    let holder = &id(&first)[id(&first).len() - 8..];
    let told = shown.lines().find(|line| line.starts_with("why")).unwrap();
    assert!(told.contains("agent 'command' runs 1 at once") && told.contains(holder), "{shown}");
    assert_eq!(code(&home, &odd), "missing_label");
    assert_eq!((home.task(&first).get("why"), home.starts("agents")), (None, 1));
    home.open_gate("gate");
    home.reaches(&first, "completed");
    home.reaches(&second, "completed");
    assert_eq!(home.task(&odd)["status"], "queued");
}

#[test]
fn a_daemon_whose_disk_is_nearly_full_begins_nothing_and_says_so() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure(&format!("[daemon]\nmin_free_bytes = {}\n", i64::MAX));
    home.up();
    let task = home.submit(repo.path(), &["--on", "none"], &Script::new());
    until_true("the disk is told", LONG, || code(&home, &task) == "disk_low");
    let shown = home.run(&["task", "show", id(&task)]).expect(0).text();
    assert!(shown.contains("min_free_bytes"), "{shown}");
    assert_eq!(home.task(&task)["status"], "queued");
}

#[test]
fn f58_a_429_to_one_claude_keeps_the_next_from_asking_until_its_pause_is_over() {
    let Some(bin) = installed("f58_a_429_to_one_claude") else { return };
    let repo = ScratchRepo::new();
    // asked twice by one run, which then gives up
    let model = Model::start(vec![Turn::Refuse(429), Turn::Refuse(429)]);
    let home = house(&bin, &model, 1);
    // one at a time: the second waits from before the refusal on
    let config = home.state().join("config.toml");
    let text = std::fs::read_to_string(config).unwrap();
    home.configure(&format!("{text}[daemon]\nmax_concurrent_tasks = 1\n"));
    let run = |words: &[&str]| {
        let all = [&["--json", "run", "--detach", "--on", "none"], words].concat();
        home.run_in(repo.path(), &all).expect(0).json()
    };
    // it has one attempt, and a refusal costs none
    let (refused, begun) = (run(&["say one"]), Instant::now());
    let next = run(&["say two"]);
    let seen = pauses(&home, &model, &next, begun);
    let (refused, next) = (home.reaches(&refused, "completed"), home.reaches(&next, "completed"));
    assert_eq!((&refused["attempt"], &next["attempt"]), (&1.into(), &1.into()));
    assert_eq!(refused["provider"], "anthropic");
    let events = home.events(&refused);
    let deferred: Vec<_> = events
        .iter()
        .filter(|event| event["payload"]["newStatus"] == "deferred")
        .map(|event| &event["payload"]["reason"])
        .collect();
    assert_eq!(deferred, ["provider_rate_limited"]);
    // neither was handed out before the pause was over
    let due = |task: &Value, nth: usize| {
        let events = home.events(task);
        let mut claims = events.iter().filter(|e| e["payload"]["newStatus"] == "dispatched");
        claims.nth(nth).unwrap()["at"].as_str().unwrap().to_owned()
    };
    for over in seen {
        let over = over.rsplit(' ').next().unwrap();
        assert!(due(&next, 0).as_str() >= over && due(&refused, 1).as_str() >= over, "{over}");
    }
}

/// Looks on until the task is queued no more; what was told of the provider's pause meanwhile, in
/// which nobody asked the model. It lasts 2.5 s at least: none is missed but by a machine that stood
/// still.
fn pauses(home: &Home, model: &Model, next: &Value, begun: Instant) -> BTreeSet<String> {
    let (mut last, mut longest) = (begun, Duration::ZERO);
    let (mut told, mut asked) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let count = model.asked().len();
        let task = home.task(next);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if task["status"] != "queued" {
            break;
        }
        let message = task["why"][0]["message"].as_str().unwrap_or_default();
        if message.contains("nobody asks it before") {
            assert_eq!(task["why"][0]["code"], "provider_backoff", "{task:#}");
            told.insert(message.to_owned());
            asked.insert(count);
        }
        assert!(begun.elapsed() < LONG * 4, "{task:#}");
        sleep(Duration::from_millis(20));
    }
    assert!(told.len() == 1 || longest > Duration::from_secs(1), "{told:?}, {longest:?}");
    assert!(asked.len() <= 1, "it was asked meanwhile: {asked:?}");
    told
}
