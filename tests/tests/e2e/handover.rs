//! A task whose daemon is gone for good goes to another one, and never has two live agents.

use hayward_tests::home::id;
use hayward_tests::process::Process;
use hayward_tests::relay::{Linked, Relay};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, holds, until, until_true};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// An order for a scripted agent that may be handed over after a minute.
fn order(repo: &ScratchRepo, script: &Script) -> Value {
    json!({
        "name": "moves", "plan": "moves", "command": script.command(), "completionAction": "none",
        "repositoryUrl": repo.path(), "requeueAfter": 1,
    })
}

/// A task of which an agent runs that minds no polite request.
fn stubborn(relay: &Relay, linked: &Linked, repo: &ScratchRepo) -> (Value, Process) {
    let home = &linked.home;
    let script =
        Script::new().then(Step::Stubborn).sign(home.file("starts")).wait_for(home.file("gate"));
    let task = relay.api().post("/api/v1/tasks", &order(repo, &script)).json();
    home.reaches(&task, "running");
    let agent = until("the agent signed", LONG, || home.signed("starts").first().copied());
    (task, agent)
}

#[test]
fn f28_a_task_is_handed_over_only_after_the_agent_of_the_dead_daemon_was_ended() {
    let relay = Relay::start();
    let mut first = Linked::start(&relay, &relay.url(), "");
    let repo = ScratchRepo::new();
    let (task, agent) = stubborn(&relay, &first, &repo);
    let before = first.home.task(&task);
    first.crash();
    let crashed = Instant::now();
    let second = Linked::start(&relay, &relay.url(), "");
    let home = &second.home;
    // its time is 89.9 s from the last beat that was acknowledged, at most 15 s before the crash
    holds("the agent outlives its daemon", Duration::from_secs(60), || agent.alive());
    let ended = until("the keeper ends its agent, without a daemon", LONG, || {
        (!agent.alive()).then(Instant::now)
    });
    // another may begin at 120 s
    assert!(crashed.elapsed() < Duration::from_secs(115), "{:?}", crashed.elapsed());
    assert_eq!(first.home.starts("starts"), 1, "the second agent began before the first had ended");
    until_true("the second agent starts", LONG, || first.home.starts("starts") == 2);
    // 30 s are left between the two, of which ending a stubborn agent takes 5
    assert!(ended.elapsed() > Duration::from_secs(15), "{:?}", ended.elapsed());
    let moved = home.reaches(&task, "running");
    assert_eq!(moved["daemonId"], second.announced());
    assert!(moved["leaseEpoch"].as_u64() > before["leaseEpoch"].as_u64(), "{moved:#}");
    // the first daemon comes back, and what it says of the run it had changes nothing
    first.come_back();
    until_true("the first daemon is back", LONG, || {
        let daemons = home.json(&["status"])["daemons"].clone();
        daemons.as_array().is_some_and(|all| all.iter().all(|one| one["online"] == true))
    });
    holds("one agent lives", Duration::from_secs(3), || {
        first.home.signed("starts").iter().filter(|agent| agent.alive()).count() == 1
    });
    assert_eq!(home.task(&task)["runId"], moved["runId"]);
    first.home.open_gate("gate");
    home.reaches(&task, "completed");
    assert_eq!(first.home.starts("starts"), 2);
    let ends = home.statuses(&task).iter().filter(|status| *status == "completed").count();
    assert_eq!(ends, 1);
}

#[test]
fn f59_a_run_that_may_be_handed_over_is_kept_while_its_daemon_restarts() {
    let relay = Relay::start();
    let mut linked = Linked::start(&relay, &relay.url(), "");
    let repo = ScratchRepo::new();
    let (task, agent) = stubborn(&relay, &linked, &repo);
    linked.crash();
    linked.come_back();
    until_true("the daemon is back", LONG, || linked.online());
    // longer than its time would have lasted without the beats since
    holds("the agent lives on", Duration::from_secs(100), || agent.alive());
    linked.home.open_gate("gate");
    let done = linked.home.reaches(&task, "completed");
    assert_eq!((&done["attempt"], &done["leaseEpoch"]), (&json!(1), &json!(1)));
    assert_eq!(linked.home.starts("starts"), 1);
}

#[test]
fn requeue_after_below_its_minimum_is_refused_and_says_why() {
    let relay = Relay::start();
    let repo = ScratchRepo::new();
    let mut order = order(&repo, &Script::new());
    order["requeueAfter"] = json!(0);
    let refused = relay.api().post("/api/v1/tasks", &order);
    assert_eq!(refused.status, 400);
    let said = refused.json()["error"]["message"].to_string();
    assert!(said.contains("requeueAfter") && said.contains("1 minute at least"), "{said}");
    assert_eq!(id(&relay.api().post("/api/v1/tasks", &json!({"plan": "x"})).json()).len(), 36);
}
