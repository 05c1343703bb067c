//! Commands to a task that runs.

use hayward_tests::home::{Home, id};
use hayward_tests::process::Process;
use hayward_tests::program::wait;
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, holds, until, until_true};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// A task whose agent signed `starts` and waits for `gate`.
fn waiting(home: &Home, repo: &ScratchRepo, options: &[&str], first: Script) -> (Value, Process) {
    let script = first.sign(home.file("starts")).wait_for(home.file("gate")).write("w", "w\n");
    let task = home.submit(repo.path(), options, &script);
    let task = home.reaches(&task, "running");
    let agent = until("the agent signed", LONG, || home.signed("starts").first().copied());
    (task, agent)
}

#[test]
fn cancel_ends_a_stubborn_agent_with_its_children_and_keeps_the_repository_clean() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let before = repo.snapshot();
    let ledger = home.file("children");
    let first = Script::new().then(Step::Stubborn).then(Step::Children {
        count: 2,
        own_session: 1,
        ledger,
    });
    let (task, agent) = waiting(&home, &repo, &[], first);
    let cancelled = home.json(&["task", "cancel", id(&task)]);
    assert_eq!(cancelled["status"], "cancelled");
    let all = [&[agent], &home.signed("children")[..]].concat();
    until_true("agent and children are gone", Duration::from_secs(15), || {
        !all.iter().any(|process| process.alive())
    });
    let ended = home.task(&task);
    assert_eq!(ended["status"], "cancelled");
    // once more changes nothing
    home.run(&["task", "cancel", id(&task)]);
    assert_eq!(home.task(&task), ended);
    home.run(&["task", "pause", id(&task)]).expect(4);
    home.run(&["task", "message", id(&task), "x"]).expect(4);
    home.run(&["task", "wait", id(&task)]).expect(7);
    assert_eq!(repo.snapshot(), before);
}

#[test]
fn a_queued_task_is_cancelled_without_ever_starting() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.configure("[daemon]\nmax_concurrent_tasks = 1\n");
    let (first, _) = waiting(&home, &repo, &[], Script::new());
    let never = Script::new().sign(home.file("never"));
    let second = home.submit(repo.path(), &[], &never);
    assert_eq!(home.json(&["task", "cancel", id(&second)])["status"], "cancelled");
    home.open_gate("gate");
    home.reaches(&first, "completed");
    home.follow(repo.path(), &[], &Script::new().write("a", "a\n")).expect(0);
    assert_eq!(home.starts("never"), 0);
}

fn state(process: Process) -> String {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    let tail = text.rsplit_once(')').map(|(_, tail)| tail.trim_start().to_owned());
    tail.and_then(|tail| tail.split(' ').next().map(str::to_owned)).unwrap_or_default()
}

#[test]
fn pause_freezes_the_agent_and_resume_lets_it_go_on() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (task, agent) = waiting(&home, &repo, &[], Script::new());
    home.json(&["task", "pause", id(&task)]);
    home.reaches(&task, "paused");
    until_true("the agent is stopped", LONG, || state(agent) == "T");
    home.open_gate("gate");
    holds("it stays so", Duration::from_millis(500), || state(agent) == "T");
    home.run(&["task", "pause", id(&task)]).expect(4);
    home.json(&["task", "resume", id(&task)]);
    let task = home.reaches(&task, "completed");
    assert_eq!(task["outcome"], "delivered");
    for action in ["cancel", "pause", "resume", "interrupt"] {
        home.run(&["task", action, id(&task)]).expect(4);
    }
    assert_eq!(home.task(&task), task);
    assert_eq!(home.statuses(&task), ["dispatched", "running", "paused", "running", "completed"]);
}

#[test]
fn a_message_is_typed_to_the_agent_once() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let text = "grüße, 漢字";
    let count = text.len() + 1;
    let script = Script::new()
        .sign(home.file("starts"))
        .then(Step::Read { count, file: home.file("came") })
        .wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--on", "none"], &script);
    home.reaches(&task, "running");
    home.json(&["task", "message", id(&task), text]);
    // the terminal turns the return key into a line's end
    until_true("it came", LONG, || home.read("came") == format!("{text}\n"));
    home.open_gate("gate");
    let task = home.reaches(&task, "completed");
    let events = home.events(&task);
    let told: Vec<_> = events.iter().filter(|event| event["type"] == "task.message").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["payload"]["text"], text);
}

#[test]
fn interrupt_is_ctrl_c_and_with_force_a_signal() {
    for force in [&[][..], &["--force"]] {
        let (home, repo) = (Home::new(), ScratchRepo::new());
        let (task, agent) = waiting(&home, &repo, &[], Script::new());
        home.json(&[&["task", "interrupt", id(&task)], force].concat());
        until_true("the agent is gone", LONG, || !agent.alive());
        let task = home.reaches(&task, "failed");
        assert_eq!(task["reason"], "agent_signal", "{task:#}");
    }
}

#[test]
fn ctrl_c_detaches_a_follower_once_and_the_task_goes_on() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    home.up();
    let script = Script::new().sign(home.file("starts")).wait_for(home.file("gate"));
    let command = script.command();
    let words = ["run", "--on", "none", "--", &command[0], &command[1]];
    let mut follower = home.spawn("follower", repo.path(), &words);
    let agent = until("the agent signed", LONG, || home.signed("starts").first().copied());
    let task = home.json(&["task", "ls"])["tasks"][0].clone();
    home.reaches(&task, "running");
    let pid = i32::try_from(follower.id()).unwrap();
    Process::of(pid).unwrap().signal(Signal::SIGINT);
    assert_eq!(wait(&mut follower, LONG), Some(130));
    let said = home.read("follower.err");
    assert!(said.contains("task wait") || said.contains("logs"), "{said}");
    assert!(said.contains("cancel"), "{said}");
    holds("the agent works on", Duration::from_millis(500), || agent.alive());
    home.open_gate("gate");
    home.run(&["task", "wait", id(&task)]).expect(0);
}

#[test]
fn how_an_agent_ends_is_told_exactly() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let end = |script: Script, options: &[&str]| {
        home.follow(repo.path(), options, &script).expect(7).json()
    };
    let task = end(Script::new().exit(3), &[]);
    assert_eq!((&task["reason"], &task["exitCode"]), (&"agent_exit".into(), &3.into()));
    let task = end(Script::new().then(Step::Die { signal: 9 }), &[]);
    assert_eq!((&task["reason"], &task["exitCode"]), (&"agent_signal".into(), &Value::Null));
    let sleeper = Script::new().sign(home.file("late")).wait_for(home.file("never"));
    let task = end(sleeper, &["--timeout", "10"]);
    assert_eq!((&task["status"], &task["reason"]), (&"timed_out".into(), &"timeout".into()));
    let late = home.signed("late")[0];
    until_true("the late one is gone", Duration::from_secs(60), || !late.alive());
    // attempts of what would fail alike are not made
    let task = end(Script::new().sign(home.file("once")).exit(1), &["--max-attempts", "3"]);
    assert_eq!((&task["attempt"], home.starts("once")), (&1.into(), 1));
}

#[test]
fn events_are_contiguous_and_can_be_taken_up_anywhere() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (task, _) = waiting(&home, &repo, &[], Script::new());
    let mut follower =
        home.spawn("events", repo.path(), &["--json", "task", "events", id(&task), "-f"]);
    until_true("events flow", LONG, || !home.read("events.out").is_empty());
    home.open_gate("gate");
    let task = home.reaches(&task, "completed");
    assert_eq!(wait(&mut follower, LONG), Some(0), "{}", home.read("events.err"));
    let all = home.events(&task);
    for (number, event) in all.iter().enumerate() {
        assert_eq!(event["seq"], number);
        assert_eq!(event["stream"], format!("task:{}", id(&task)));
        assert_eq!(event["v"], 1);
    }
    assert_eq!(home.read("events.out").lines().count(), all.len());
    let words = ["--json", "task", "events", id(&task), "--since", "2"];
    let rest = home.run(&words).expect(0).text();
    let first: Value = serde_json::from_str(rest.lines().next().unwrap()).unwrap();
    assert_eq!(first["seq"], 3);
    assert_eq!(rest.lines().count(), all.len() - 3);
    assert_eq!(home.statuses(&task), ["dispatched", "running", "completed"]);
    let kinds: Vec<_> = all.iter().filter_map(|event| event["type"].as_str()).collect();
    for kind in ["task.created", "run.prepared", "run.started", "session.exited", "work.committed"]
    {
        assert_eq!(kinds.iter().filter(|seen| **seen == kind).count(), 1, "{kind}");
    }
}

#[test]
fn tasks_are_found_by_fragments_labels_and_status() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let script = Script::new().write("a", "a\n");
    let options = ["--label", "team=red", "--name", "labelled"];
    let task = home.follow(repo.path(), &options, &script).expect(0).json();
    home.follow(repo.path(), &["--parent", id(&task)], &script).expect(0);
    let (whole, all) = (id(&task).to_owned(), home.json(&["task", "ls"]));
    assert_eq!(all["tasks"].as_array().map(Vec::len), Some(2));
    for fragment in [&whole[..], &whole[whole.len() - 8..], &whole[whole.len() - 4..]] {
        assert_eq!(home.json(&["task", "show", fragment])["id"], task["id"]);
    }
    let found = |arguments: &[&str]| {
        let page = home.json(&[&["task", "ls"], arguments].concat());
        page["tasks"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(found(&["--label", "team=red"]), 1);
    assert_eq!(found(&["--label", "team=blue"]), 0);
    assert_eq!(found(&["--status", "completed"]), 2);
    assert_eq!(found(&["--parent", &whole]), 1);
    home.run(&["task", "wait", &whole, "--timeout", "5"]).expect(0);
    let diff = home.json(&["task", "diff", &whole]);
    assert_eq!(diff["files"][0]["path"], "a");
    assert!(diff["patch"].as_str().is_some_and(|patch| patch.contains("+a")), "{diff}");
    home.run(&["task", "discard", &whole]).expect(0);
    home.run(&["task", "show", &whole]).expect(3);
    let branch = task["branch"].as_str().unwrap();
    assert_eq!(repo.git(&["show", &format!("{branch}:a")]), "a", "discarding took the branch");
}

#[test]
fn waiting_for_a_task_that_does_not_end_in_time_is_code_7() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let (task, agent) = waiting(&home, &repo, &[], Script::new());
    home.run(&["task", "wait", id(&task), "--timeout", "1"]).expect(7);
    assert!(agent.alive());
    home.open_gate("gate");
    home.run(&["task", "wait", id(&task)]).expect(0);
}
