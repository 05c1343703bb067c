//! Daemon and relay apart, and the line between them cut.

use hayward_tests::cable::Cable;
use hayward_tests::home::id;
use hayward_tests::relay::{Linked, Relay};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, at_best, holds, until, until_true};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often the task ended, by its events; their numbers have no hole.
fn ends(linked: &Linked, task: &Value) -> usize {
    let events = linked.home.events(task);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], number, "a hole in the events: {events:#?}");
    }
    let is_end = |event: &&Value| {
        let new = event["payload"]["newStatus"].as_str().unwrap_or_default();
        event["type"] == "task.status_changed"
            && ["completed", "failed", "cancelled", "timed_out"].contains(&new)
    };
    events.iter().filter(is_end).count()
}

#[test]
fn a_killed_relay_costs_no_output_and_no_agent() {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let script = Script::new()
        .then(Step::Raw)
        .sign(home.file("starts"))
        .then(Step::Stream { ledger: home.file("printed"), until: home.file("gate") });
    let task = home.submit(repo.path(), &["--on", "none"], &script);
    home.reaches(&task, "running");
    for _ in 0..2 {
        relay.crash();
        let before = home.read("printed").len();
        until_true("the agent goes on", LONG, || home.read("printed").len() > before + 1000);
        home.run(&["task", "events", id(&task)]).expect(6);
        relay.come_back();
        until_true("the daemon is back", LONG, || linked.online());
        assert_eq!(home.task(&task)["status"], "running");
    }
    home.open_gate("gate");
    home.reaches(&task, "completed");
    assert_eq!(home.starts("starts"), 1);
    assert!(home.output(&task) == fs::read(home.file("printed")).unwrap(), "the bytes differ");
    assert_eq!(ends(&linked, &task), 1);
}

#[test]
fn f28_at_most_one_live_run_whatever_the_line_and_the_daemon_do() {
    let relay = Relay::start();
    let cable = Cable::to(relay.address());
    let mut linked = Linked::start(&relay, &cable.url(), "[daemon]\nmax_concurrent_tasks = 4\n");
    let repo = ScratchRepo::new();
    let daemon = linked.id();
    let tasks: Vec<Value> = (0..12)
        .map(|number| {
            let home = &linked.home;
            let script = Script::new()
                .sign(home.file(&format!("starts{number}")))
                .wait_for(home.file("gate"))
                .write("work", "work\n");
            home.submit(repo.path(), &["--daemon", &daemon], &script)
        })
        .collect();
    let open = linked.home.file("gate");
    for round in 0..24 {
        cable.jolt();
        if round % 8 == 5 {
            linked.crash();
            linked.come_back();
        }
        if round == 14 {
            fs::write(&open, "open").unwrap();
        }
        // not a wait for anything: cuts fall at moments that differ from round to round
        sleep(Duration::from_millis(100 + 97 * (round % 7)));
        for number in 0..tasks.len() {
            let live = linked.home.signed(&format!("starts{number}"));
            assert!(live.iter().filter(|agent| agent.alive()).count() <= 1, "two at once");
        }
    }
    for (number, task) in tasks.iter().enumerate() {
        let task = linked.home.reaches(task, "completed");
        assert_eq!(linked.home.starts(&format!("starts{number}")), 1, "{task:#}");
        assert_eq!((&task["attempt"], &task["leaseEpoch"]), (&1.into(), &1.into()));
        assert_eq!(ends(&linked, &task), 1);
    }
}

#[test]
fn f28_a_submission_that_is_sent_twice_makes_one_task() {
    let relay = Relay::start();
    let api = relay.api();
    let body = serde_json::json!({ "name": "once", "plan": "once" }).to_string();
    let key = "01939d3a-7c00-7000-8000-0000deadbeef";
    let headers = [("Idempotency-Key", key)];
    let first = api.send("POST", "/api/v1/tasks", Some(&body), &headers);
    let second = api.send("POST", "/api/v1/tasks", Some(&body), &headers);
    assert_eq!((first.status, second.status), (201, 200), "{first:?} {second:?}");
    assert_eq!(first.json()["id"], key);
    assert_eq!(second.json()["id"], key);
    let all = api.get("/api/v1/tasks").json();
    assert_eq!(all["tasks"].as_array().map(Vec::len), Some(1));
}

/// After how long an end is recorded, once, that came while the relay was away.
fn f29_ended_while_away() -> Duration {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let script =
        Script::new().sign(home.file("starts")).wait_for(home.file("gate")).write("work", "work\n");
    let task = home.submit(repo.path(), &[], &script);
    home.reaches(&task, "running");
    relay.crash();
    home.open_gate("gate");
    let agent = until("the agent signed", LONG, || home.signed("starts").first().copied());
    until_true("the agent ends", LONG, || !agent.alive());
    until_true("its work is on the branch, without a relay", LONG, || {
        let refs = repo.git(&["for-each-ref", "--format=%(refname)", "refs/heads/hayward"]);
        refs.lines()
            .any(|branch| repo.try_git(&["cat-file", "-e", &format!("{branch}:work")]).code == 0)
    });
    // long enough that the daemon's pauses between its calls have grown
    sleep(Duration::from_secs(4));
    relay.come_back();
    let begin = Instant::now();
    home.reaches(&task, "completed");
    let took = begin.elapsed();
    holds("it is recorded once", Duration::from_secs(1), || ends(&linked, &task) == 1);
    assert_eq!(home.starts("starts"), 1);
    took
}

#[test]
fn f29_an_end_while_the_relay_is_away_is_recorded_once_within_30_s_of_its_return() {
    at_best("the record", Duration::from_secs(30), f29_ended_while_away);
}

#[test]
fn f29_a_run_whose_daemon_is_gone_waits_after_its_lease_and_goes_on_when_the_daemon_is_back() {
    let relay = Relay::start();
    let mut linked = Linked::start(&relay, &relay.url(), "");
    let repo = ScratchRepo::new();
    let script = Script::new().sign(linked.home.file("starts")).wait_for(linked.home.file("gate"));
    let task = linked.home.submit(repo.path(), &["--on", "none"], &script);
    let before = linked.home.reaches(&task, "running");
    linked.crash();
    let begin = Instant::now();
    let waiting = until("it waits for its daemon", LONG, || {
        let task = linked.home.task(&task);
        (task["status"] == "waiting").then_some(task)
    });
    // the lease of 60 s runs from the last beat before the crash, and is looked at every 5 s
    assert!(begin.elapsed() < Duration::from_secs(75), "{:?}", begin.elapsed());
    assert_eq!(waiting["reason"], "daemon_offline");
    assert_eq!(waiting["leaseEpoch"], before["leaseEpoch"]);
    assert!(linked.home.signed("starts")[0].alive(), "the agent did not live on");
    linked.come_back();
    let running = linked.home.reaches(&task, "running");
    assert_eq!(running["runId"], before["runId"]);
    linked.home.open_gate("gate");
    linked.home.reaches(&task, "completed");
    assert_eq!(linked.home.starts("starts"), 1);
    assert_eq!(ends(&linked, &task), 1);
}

/// How long an agent that was cancelled during a cut lives on after its daemon calls again.
fn f31_cancelled_in_a_cut() -> Duration {
    let relay = Relay::start();
    let cable = Cable::to(relay.address());
    let linked = Linked::start(&relay, &cable.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let ledger = home.file("children");
    let script = Script::new()
        .then(Step::Stubborn)
        .then(Step::Children { count: 1, own_session: 1, ledger })
        .sign(home.file("starts"))
        .wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--on", "none", "--daemon", &linked.id()], &script);
    home.reaches(&task, "running");
    let agent = until("the agent signed", LONG, || home.signed("starts").first().copied());
    cable.cut();
    until_true("the link is down", LONG, || !linked.online());
    let cancelled = home.json(&["task", "cancel", id(&task)]);
    assert_eq!(cancelled["status"], "cancelled");
    holds("the agent works on, as nobody could tell it", Duration::from_millis(300), || {
        agent.alive()
    });
    cable.mend();
    let dialled = until("the daemon calls again", LONG, || cable.dialled());
    until_true("the agent is ended", LONG, || !agent.alive());
    let took = dialled.elapsed();
    // which lives for at least twice as long when nobody ends it
    until_true("and what it left", LONG / 2, || !home.signed("children")[0].alive());
    assert_eq!(home.task(&task)["status"], "cancelled");
    assert_eq!(ends(&linked, &task), 1);
    took
}

#[test]
fn f31_a_cancel_during_a_cut_ends_the_agent_within_2_s_of_the_reconnect() {
    at_best("the agent's end", Duration::from_secs(2), f31_cancelled_in_a_cut);
}

#[test]
fn followers_find_the_relay_again_and_miss_nothing() {
    let mut relay = Relay::start();
    let linked = Linked::start(&relay, &relay.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let task = home.stream(repo.path());
    let mut logs = home.spawn("logs", repo.path(), &["logs", id(&task), "-f", "--raw"]);
    let mut waiter = home.spawn("wait", repo.path(), &["--json", "task", "wait", id(&task)]);
    until_true("output flows", LONG, || home.read("logs.out").len() > 1000);
    relay.crash();
    relay.come_back();
    until_true("the daemon is back", LONG, || linked.online());
    let before = home.read("logs.out").len();
    until_true("output flows again", LONG, || home.read("logs.out").len() > before);
    home.open_gate("gate");
    home.reaches(&task, "completed");
    assert_eq!(hayward_tests::program::wait(&mut logs, LONG), Some(0), "{}", home.read("logs.err"));
    assert_eq!(
        hayward_tests::program::wait(&mut waiter, LONG),
        Some(0),
        "{}",
        home.read("wait.err")
    );
    assert!(home.read("logs.out") == home.read("printed"), "the followed bytes differ");
}

#[test]
fn a_task_that_is_discarded_while_its_daemon_is_away_leaves_its_queue() {
    let relay = Relay::start();
    let cable = Cable::to(relay.address());
    let linked = Linked::start(&relay, &cable.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let base = repo.git(&["rev-parse", "main"]);
    let script = Script::new().write("new", "new\n");
    let task = home.follow(repo.path(), &["--daemon", &linked.id()], &script).expect(0).json();
    let place = home.json(&["worktree", "path", id(&task)])["path"].clone();
    let (gate, began) = (home.file("gate"), home.file("began"));
    let check = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.05; done",
        began.display(),
        gate.display()
    );
    home.json(&["merge", "queue", "add", id(&task), "--target", "main", "--check", &check]);
    until_true("the check runs", LONG, || began.exists());
    cable.cut();
    until_true("the daemon is away", LONG, || !linked.online());
    home.run(&["task", "discard", id(&task)]).expect(0);
    cable.mend();
    until_true("the queue has heard of it", LONG, || {
        let ran = home.run(&["--json", "merge", "queue", "ls"]);
        let rows = if ran.code == 0 { ran.json()["queue"].clone() } else { return false };
        let rows = rows.as_array().unwrap();
        !rows.is_empty() && rows.iter().all(|row| row["state"] == "removed")
    });
    fs::write(&gate, "").unwrap();
    until_true("its worktree is gone", LONG, || !Path::new(place.as_str().unwrap()).exists());
    assert_eq!(repo.git(&["rev-parse", "main"]), base);
}

#[test]
fn f13_a_task_cancelled_and_discarded_while_its_daemon_is_away_loses_its_worktree() {
    let relay = Relay::start();
    let cable = Cable::to(relay.address());
    let linked = Linked::start(&relay, &cable.url(), "");
    let (home, repo) = (&linked.home, ScratchRepo::new());
    let script = Script::new().write("new", "new\n").wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--daemon", &linked.id()], &script);
    home.reaches(&task, "running");
    let place = home.json(&["worktree", "path", id(&task)])["path"].clone();
    let place = Path::new(place.as_str().unwrap());
    until_true("the agent works", LONG, || place.join("new").exists());
    cable.cut();
    until_true("the daemon is away", LONG, || !linked.online());
    home.run(&["task", "cancel", id(&task)]).expect(0);
    home.run(&["task", "discard", id(&task)]).expect(0);
    assert!(place.exists());
    cable.mend();
    until_true("its worktree is gone", LONG, || !place.exists());
    let kept = repo.git(&["for-each-ref", "--format=%(refname)", "refs/hayward/salvage"]);
    assert_eq!(repo.git(&["show", &format!("{kept}:new")]), "new");
}
