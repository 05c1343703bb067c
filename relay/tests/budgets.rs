//! Budgets of tasks and trees: what is spent is counted once, and whoever spent all of it waits for a
//! person.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{Daemon, House, Run, hello, house, house_with};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

async fn daemon(house: &House) -> Daemon {
    let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    socket.say(hello(Uuid::now_v7(), &house.daemon_token().await, &[])).await;
    let welcome = socket.until("authenticated").await;
    Daemon { socket, next: 0, welcome }
}

async fn task(house: &House, more: Value) -> String {
    let mut order = json!({"plan": "x", "agent": "claude"});
    for (name, value) in more.as_object().unwrap() {
        order[name] = value.clone();
    }
    house.make(order).await
}

/// The next task, running.
async fn running(daemon: &mut Daemon) -> Run {
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    run
}

async fn uses(daemon: &mut Daemon, run: &Run, input: u64, output: u64) {
    let usage = json!({"inputTokens": input, "outputTokens": output, "cacheReadTokens": 9_000});
    daemon.store(run.event("usage.reported", usage)).await;
}

/// Does what the relay commands to this run, and reports it.
async fn obeys(daemon: &mut Daemon, run: &Run, command: &str, (from, to): (&str, &str)) {
    let asked = loop {
        let asked = daemon.socket.until(command).await;
        if asked["taskId"] == run.task {
            break asked;
        }
    };
    let reply = json!({"type": "reply", "requestId": asked["requestId"], "ok": true});
    // whoever commanded it sees it done
    daemon.store(run.status(from, to)).await;
    daemon.socket.say(reply).await;
}

async fn resume(house: &House, id: &str, budget: Value) -> (u16, Value) {
    let body = json!({ "budget": budget });
    house.call("POST", &format!("/api/v1/tasks/{id}/resume"), Some(body)).await
}

fn kinds(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["type"] == kind).count()
}

#[tokio::test]
async fn a_task_that_used_its_tokens_pauses_and_goes_on_once_it_may_use_more() {
    let house = house().await;
    let id = task(&house, json!({"budget": {"maxTokens": 100}})).await;
    let mut daemon = daemon(&house).await;
    let run = running(&mut daemon).await;
    uses(&mut daemon, &run, 60, 39).await;
    assert_eq!(house.task(&id).await["spent"]["tokens"], 99);
    // a report that is repeated, and one of a run that is not, count for nothing
    uses(&mut daemon, &run, 60, 39).await;
    uses(&mut daemon, &run, 61, 39).await;
    obeys(&mut daemon, &run, "pauseTask", ("running", "paused")).await;
    let paused = house.until(&id, "paused").await;
    assert_eq!((&paused["reason"], &paused["spent"]["tokens"]), (&"budget".into(), &100.into()));
    let why = &paused["why"][0];
    assert_eq!(why["code"], "budget_reached");
    let told = json!({"ofTaskId": id, "kind": "tokens", "spent": 100, "limit": 100});
    assert_eq!(why["budget"], told);
    let said = why["message"].as_str().unwrap();
    assert!(said.contains("100 of 100 tokens") && said.contains("--max-tokens"), "{said}");
    let events = house.events(&id).await;
    let reached: Vec<_> = events.iter().filter(|e| e["type"] == "budget.reached").collect();
    assert_eq!((reached.len(), &reached[0]["payload"]), (1, &told));
    // neither without a raise nor with one that is none
    let (status, refused) = house.call("POST", &format!("/api/v1/tasks/{id}/resume"), None).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &"limit_reached".into()));
    let (status, _) = resume(&house, &id, json!({"maxTokens": 100})).await;
    assert_eq!((status, house.task(&id).await["budget"]["maxTokens"].as_u64()), (409, Some(100)));
    let (raised, ()) = tokio::join!(
        resume(&house, &id, json!({"maxTokens": 500})),
        obeys(&mut daemon, &run, "resumeTask", ("paused", "running"))
    );
    assert_eq!((raised.0, &raised.1["budget"]["maxTokens"]), (200, &500.into()), "{raised:?}");
    let running = house.until(&id, "running").await;
    assert_eq!((&running["reason"], running.get("why")), (&Value::Null, None));
    uses(&mut daemon, &run, 400, 99).await;
    daemon.store(run.status("running", "completed")).await;
    assert_eq!(kinds(&house.events(&id).await, "budget.reached"), 1);
    house.stop().await;
}

#[tokio::test]
async fn a_pause_that_a_daemon_refused_a_person_makes_none_of_a_budgets() {
    let house = house().await;
    let id = task(&house, json!({"budget": {"maxTokens": 100}})).await;
    let mut daemon = daemon(&house).await;
    let run = running(&mut daemon).await;
    let path = format!("/api/v1/tasks/{id}/pause");
    // one that its daemon refused is none
    let (refused, ()) = tokio::join!(house.call("POST", &path, None), async {
        let asked = daemon.socket.until("pauseTask").await;
        let fault = json!({"code": "conflict", "message": "not now"});
        let reply = json!({"type": "reply", "requestId": asked["requestId"], "ok": false,
            "error": fault});
        daemon.socket.say(reply).await;
    });
    assert_eq!(refused.0, 409, "{refused:?}");
    uses(&mut daemon, &run, 100, 0).await;
    obeys(&mut daemon, &run, "pauseTask", ("running", "paused")).await;
    assert_eq!(house.until(&id, "paused").await["reason"], "budget");
    let (raised, ()) = tokio::join!(
        resume(&house, &id, json!({"maxTokens": 200})),
        obeys(&mut daemon, &run, "resumeTask", ("paused", "running"))
    );
    assert_eq!(raised.0, 200, "{raised:?}");
    house.stop().await;
}

#[tokio::test]
async fn a_raise_does_not_undo_a_persons_pause_in_which_the_rest_was_spent() {
    let house = house_with(|config| config.timing.sweep_ms = 50).await;
    let root = task(&house, json!({"budget": {"maxTokens": 100}, "priority": 9})).await;
    let id = task(&house, json!({"parentTaskId": root})).await;
    let mut daemon = daemon(&house).await;
    let (_, run) = (running(&mut daemon).await, running(&mut daemon).await);
    assert_eq!(run.task, id);
    let path = format!("/api/v1/tasks/{id}/pause");
    let (paused, ()) = tokio::join!(house.call("POST", &path, None), async {
        let asked = daemon.socket.until("pauseTask").await;
        assert_eq!(asked["taskId"], id);
        daemon.report(run.event("usage.reported", json!({"inputTokens": 100}))).await;
        let mut again = daemon.socket.until("pauseTask").await;
        while again["taskId"] != id {
            again = daemon.socket.until("pauseTask").await;
        }
        for asked in [asked, again] {
            let reply = json!({"type": "reply", "requestId": asked["requestId"], "ok": true});
            daemon.socket.say(reply).await;
        }
        daemon.report(run.status("running", "paused")).await;
    });
    assert_eq!((paused.0, &paused.1["reason"]), (200, &Value::Null), "{paused:?}");
    assert_eq!(resume(&house, &root, json!({"maxTokens": 200})).await.0, 200);
    assert!(daemon.socket.silent_of("resumeTask", Duration::from_millis(300)).await);
    assert_eq!(house.task(&id).await["status"], "paused");
    let path = format!("/api/v1/tasks/{id}/resume");
    let (resumed, ()) = tokio::join!(
        house.call("POST", &path, None),
        obeys(&mut daemon, &run, "resumeTask", ("paused", "running"))
    );
    assert_eq!((resumed.0, &resumed.1["status"]), (200, &"running".into()), "{resumed:?}");
    house.stop().await;
}

#[tokio::test]
async fn a_tree_shares_the_budget_of_its_root_and_gets_no_parts_beyond_it() {
    let house = house().await;
    let root = task(&house, json!({"budget": {"maxTokens": 100}, "priority": 9})).await;
    let part = |parent: &str| json!({"parentTaskId": parent, "budget": {"maxTokens": 1_000}});
    let one = task(&house, part(&root)).await;
    let two = task(&house, part(&one)).await;
    let later = task(&house, json!({"parentTaskId": root, "priority": -1})).await;
    let other = task(&house, json!({"priority": -2})).await;
    let mut daemon = daemon(&house).await;
    let mut runs = Vec::new();
    for id in [&root, &one, &two] {
        runs.push(running(&mut daemon).await);
        assert_eq!(runs.last().unwrap().task, *id);
    }
    uses(&mut daemon, &runs[0], 40, 0).await;
    uses(&mut daemon, &runs[2], 50, 0).await;
    uses(&mut daemon, &runs[1], 10, 0).await;
    let mut left = vec![0, 1, 2];
    while !left.is_empty() {
        let asked = daemon.socket.until("pauseTask").await;
        let Some(at) = left.iter().position(|nth| asked["taskId"] == runs[*nth].task) else {
            continue;
        };
        let run = &runs[left.remove(at)];
        let reply = json!({"type": "reply", "requestId": asked["requestId"], "ok": true});
        daemon.socket.say(reply).await;
        daemon.report(run.status("running", "paused")).await;
    }
    for id in [&root, &one, &two] {
        let paused = house.until(id, "paused").await;
        assert_eq!(paused["why"][0]["budget"]["ofTaskId"], root, "{paused}");
    }
    // what is queued below it stays there, and says so; others are handed out
    assert_eq!(house.task(&later).await["why"][0]["code"], "budget_reached");
    let stranger = running(&mut daemon).await;
    assert_eq!(stranger.task, other);
    let order = json!({"plan": "more", "parentTaskId": one});
    let (status, refused) = house.call("POST", "/api/v1/tasks", Some(order)).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &"limit_reached".into()), "{refused}");
    let text = refused["error"]["message"].as_str().unwrap();
    assert!(text.contains(&root[root.len() - 8..]), "{text}");
    // a part may be raised as one likes: it is the root's that is used up
    let (status, refused) = resume(&house, &one, json!({"maxTokens": 9_000})).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &"limit_reached".into()));
    let (raised, ()) = tokio::join!(resume(&house, &root, json!({"maxTokens": 200})), async {
        let mut left = vec![0, 1, 2];
        while !left.is_empty() {
            let asked = daemon.socket.until("resumeTask").await;
            let Some(at) = left.iter().position(|nth| asked["taskId"] == runs[*nth].task) else {
                continue;
            };
            let run = &runs[left.remove(at)];
            let reply = json!({"type": "reply", "requestId": asked["requestId"], "ok": true});
            daemon.socket.say(reply).await;
            daemon.report(run.status("paused", "running")).await;
        }
    });
    assert_eq!(raised.0, 200, "{raised:?}");
    for id in [&root, &one, &two] {
        house.until(id, "running").await;
    }
    assert_eq!(running(&mut daemon).await.task, later);
    house.stop().await;
}

#[tokio::test]
async fn what_bounds_a_tree_is_not_discarded_while_it_has_parts() {
    let house = house().await;
    let root = task(&house, json!({"budget": {"maxTokens": 100}, "priority": 9})).await;
    let part = task(&house, json!({"parentTaskId": root, "priority": 8})).await;
    let leaf = task(&house, json!({"parentTaskId": part})).await;
    let mut daemon = daemon(&house).await;
    let (first, second) = (running(&mut daemon).await, running(&mut daemon).await);
    uses(&mut daemon, &first, 100, 0).await;
    daemon.store(first.status("running", "completed")).await;
    daemon.store(second.status("running", "completed")).await;
    for id in [&root, &part] {
        let (status, refused) = house.call("DELETE", &format!("/api/v1/tasks/{id}"), None).await;
        assert_eq!((status, &refused["error"]["code"]), (409, &"conflict".into()), "{refused}");
        let text = refused["error"]["message"].as_str().unwrap();
        assert!(text.contains(&leaf[leaf.len() - 8..]), "{text}");
    }
    assert_eq!(house.task(&leaf).await["why"][0]["code"], "budget_reached");
    house.call("POST", &format!("/api/v1/tasks/{leaf}/cancel"), None).await;
    // a part that has completed may be sent back
    for id in [&root, &part] {
        let (status, refused) = house.call("DELETE", &format!("/api/v1/tasks/{id}"), None).await;
        assert_eq!((status, &refused["error"]["code"]), (409, &"conflict".into()), "{refused}");
        let text = refused["error"]["message"].as_str().unwrap();
        assert!(text.contains(&leaf[leaf.len() - 8..]) && text.contains("Discard"), "{text}");
    }
    for id in [&leaf, &part, &root] {
        let (status, done) = house.call("DELETE", &format!("/api/v1/tasks/{id}"), None).await;
        assert_eq!(status, 200, "{done}");
    }
    house.stop().await;
}

#[tokio::test]
async fn a_tree_without_a_budget_is_discarded_in_any_order_once_its_parts_have_ended() {
    let house = house().await;
    let root = task(&house, json!({})).await;
    let part = task(&house, json!({"parentTaskId": root})).await;
    for id in [&root, &part] {
        house.call("POST", &format!("/api/v1/tasks/{id}/cancel"), None).await;
    }
    for id in [&root, &part] {
        let (status, done) = house.call("DELETE", &format!("/api/v1/tasks/{id}"), None).await;
        assert_eq!(status, 200, "{done}");
    }
    house.stop().await;
}

#[tokio::test]
async fn cost_follows_the_table_and_a_model_that_is_not_in_it_is_said_to_be_unknown() {
    let house = house_with(|config| config.prices.set("claude-=1,10,0.1,2").unwrap()).await;
    let known = task(&house, json!({"budget": {"maxCostUsd": 0.01}, "priority": 1})).await;
    let odd = task(&house, json!({"budget": {"maxCostUsd": 0.01}})).await;
    let mut daemon = daemon(&house).await;
    let run = running(&mut daemon).await;
    assert_eq!(run.task, known);
    let started = json!({"sessionId": "s", "model": "claude-opus-4"});
    daemon.store(run.event("session.started", started)).await;
    // 3000 + 6000 + 900 millionths of a dollar
    uses(&mut daemon, &run, 3_000, 600).await;
    let usage = house.get(&format!("/api/v1/tasks/{known}/usage")).await;
    assert_eq!((&usage["costUsd"], usage.get("unpricedTokens")), (&json!(0.0099), None));
    uses(&mut daemon, &run, 3_000, 610).await;
    obeys(&mut daemon, &run, "pauseTask", ("running", "paused")).await;
    let paused = house.until(&known, "paused").await;
    let told = json!({"ofTaskId": known, "kind": "cost", "spent": 0.01, "limit": 0.01});
    assert_eq!(paused["why"][0]["budget"], told);
    let run = running(&mut daemon).await;
    daemon.store(run.event("session.started", json!({"sessionId": "t", "model": "m9"}))).await;
    uses(&mut daemon, &run, 3_000_000, 0).await;
    uses(&mut daemon, &run, 4_000_000, 0).await;
    let usage = house.get(&format!("/api/v1/tasks/{odd}/usage")).await;
    assert_eq!((usage.get("costUsd"), &usage["unpricedTokens"]), (None, &4_009_000.into()));
    let events = house.events(&odd).await;
    let notice = events.iter().find(|event| event["type"] == "agent.notice").unwrap();
    let text = notice["payload"]["text"].as_str().unwrap();
    assert!(text.contains("no price of m9"), "{text}");
    assert_eq!(kinds(&events, "agent.notice"), 1);
    assert_eq!(house.task(&odd).await["status"], "running");
    // what its agent itself says of its cost counts
    let said = json!({"inputTokens": 4_000_000, "cacheReadTokens": 9_000, "costUsd": 12.5});
    daemon.store(run.event("usage.reported", said)).await;
    let shown = house.task(&odd).await;
    assert_eq!(
        (&shown["spent"]["costUsd"], &shown["usage"]["costUsd"]),
        (&json!(12.5), &json!(12.5))
    );
    daemon.socket.until("pauseTask").await;
    house.stop().await;
}

#[tokio::test]
async fn running_time_is_counted_while_it_runs_and_not_while_it_waits() {
    let house = house_with(|config| config.timing.sweep_ms = 50).await;
    let id = task(&house, json!({"budget": {"maxSeconds": 60}})).await;
    let mut daemon = daemon(&house).await;
    let run = running(&mut daemon).await;
    // a person's pause stops the clock
    let path = format!("/api/v1/tasks/{id}/pause");
    let (paused, ()) = tokio::join!(
        house.call("POST", &path, None),
        obeys(&mut daemon, &run, "pauseTask", ("running", "paused"))
    );
    assert_eq!((paused.0, &paused.1["reason"]), (200, &Value::Null));
    let before = house.task(&id).await["spent"]["runningMs"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(house.task(&id).await["spent"]["runningMs"], before);
    let path = format!("/api/v1/tasks/{id}/resume");
    let (resumed, ()) = tokio::join!(
        house.call("POST", &path, None),
        obeys(&mut daemon, &run, "resumeTask", ("paused", "running"))
    );
    assert_eq!(resumed.0, 200, "{resumed:?}");
    daemon.store(run.status("running", "completed")).await;
    assert_eq!(house.task(&id).await["status"], "completed");

    let brief = task(&house, json!({"budget": {"maxSeconds": 1}})).await;
    let run = running(&mut daemon).await;
    assert_eq!(run.task, brief);
    obeys(&mut daemon, &run, "pauseTask", ("running", "paused")).await;
    let paused = house.until(&brief, "paused").await;
    let told = &paused["why"][0]["budget"];
    assert_eq!((&told["kind"], &told["limit"]), (&"time".into(), &1.into()), "{paused}");
    assert!(told["spent"].as_f64().unwrap() >= 1.0, "{paused}");
    house.stop().await;
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_keeps_no_other_from_being_told() {
    // no answer is waited for any shorter than the whole test
    let house = house_with(|config| {
        config.timing.reply = Duration::from_secs(600);
        config.timing.sweep_ms = 50;
    })
    .await;
    let budget = json!({"budget": {"maxTokens": 10}});
    let (silent, heard) = (task(&house, budget.clone()).await, task(&house, budget).await);
    let mut first = daemon(&house).await;
    let run = running(&mut first).await;
    assert_eq!(run.task, silent);
    let mut second = daemon(&house).await;
    let other = running(&mut second).await;
    assert_eq!(other.task, heard);
    first.report(run.event("usage.reported", json!({"inputTokens": 10}))).await;
    first.socket.until("pauseTask").await;
    second.report(other.event("usage.reported", json!({"inputTokens": 10}))).await;
    obeys(&mut second, &other, "pauseTask", ("running", "paused")).await;
    house.until(&heard, "paused").await;
    // and it is asked once at a time
    let again = Duration::from_millis(200);
    assert!(first.socket.silent_of("pauseTask", again).await);
    assert_eq!(house.task(&silent).await["status"], "running");
    house.stop().await;
}

#[tokio::test]
async fn what_a_run_used_counts_when_it_is_told_after_the_hand_over() {
    let house = house_with(|config| {
        config.timing.lease_ms = 5_000;
        config.timing.sweep_ms = 50;
        config.timing.requeue_unit_ms = 500;
    })
    .await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = task(&house, json!({"budget": {"maxTokens": 90}, "requeueAfter": 1})).await;
    let mut first = house.daemon(machine, &token, &[]).await;
    let run = running(&mut first).await;
    drop(first);
    house.until(&id, "queued").await;
    let mut second = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let new = second.claim_one().await;
    assert_eq!(new.task, id);
    let mut back = house.daemon(machine, &token, &[]).await;
    back.next = 1;
    let used = json!({"inputTokens": 60, "outputTokens": 20, "cacheReadTokens": 9_000});
    for _ in 0..2 {
        back.report(run.event("usage.reported", used.clone())).await;
        assert_eq!(back.socket.until("error").await["code"], "stale_lease");
    }
    let shown = house.task(&id).await;
    assert_eq!(
        (&shown["spent"]["tokens"], &shown["usage"]["inputTokens"]),
        (&80.into(), &60.into())
    );
    assert_eq!((&shown["runId"], &shown["leaseEpoch"]), (&json!(new.run), &json!(new.epoch)));
    // nobody's run is none of its own
    let stray = Run { run: Uuid::now_v7().to_string(), ..run };
    back.report(stray.event("usage.reported", used)).await;
    assert_eq!(back.socket.until("error").await["code"], "stale_lease");
    assert_eq!(house.task(&id).await["spent"]["tokens"], 80);
    second.store(new.status("dispatched", "running")).await;
    second.report(new.event("usage.reported", json!({"inputTokens": 10}))).await;
    second.socket.until("pauseTask").await;
    assert_eq!(house.task(&id).await["usage"]["inputTokens"], 70);
    house.stop().await;
}

#[tokio::test]
async fn more_than_a_million_dollars_are_told_and_hold_nobody_up() {
    let house = house_with(|config| config.prices.set("dear=900000,1").unwrap()).await;
    let id = task(&house, json!({"budget": {"maxCostUsd": 1_000_000}})).await;
    let beside = task(&house, json!({"budget": {"maxTokens": 10}, "priority": -1})).await;
    let mut daemon = daemon(&house).await;
    let run = running(&mut daemon).await;
    let started = json!({"sessionId": "s", "model": "dear-1"});
    daemon.store(run.event("session.started", started)).await;
    for tokens in [1_000_000, 2_000_000] {
        daemon.report(run.event("usage.reported", json!({ "inputTokens": tokens }))).await;
    }
    obeys(&mut daemon, &run, "pauseTask", ("running", "paused")).await;
    let paused = house.until(&id, "paused").await;
    assert_eq!((&paused["spent"]["costUsd"], &paused["reason"]), (&json!(1.8e6), &"budget".into()));
    // the bound on what may be named stays
    let order = json!({"plan": "x", "budget": {"maxCostUsd": 1_000_001}});
    assert_eq!(house.call("POST", "/api/v1/tasks", Some(order)).await.0, 400);
    let other = running(&mut daemon).await;
    assert_eq!(other.task, beside);
    daemon.report(other.event("usage.reported", json!({"inputTokens": 10}))).await;
    obeys(&mut daemon, &other, "pauseTask", ("running", "paused")).await;
    house.until(&beside, "paused").await;
    house.stop().await;
}

#[tokio::test]
async fn a_daemon_that_was_away_is_told_to_pause_when_it_is_back() {
    let house = house_with(|config| config.timing.sweep_ms = 50).await;
    let id = task(&house, json!({"budget": {"maxTokens": 10}})).await;
    let token = house.daemon_token().await;
    let machine = Uuid::now_v7();
    let mut first = house.daemon(machine, &token, &[]).await;
    let run = running(&mut first).await;
    first.report(run.event("usage.reported", json!({"inputTokens": 10}))).await;
    first.socket.until("pauseTask").await;
    drop(first);
    let mut second = house.daemon(machine, &token, &[run.key()]).await;
    second.next = 2;
    obeys(&mut second, &run, "pauseTask", ("running", "paused")).await;
    assert_eq!(house.until(&id, "paused").await["reason"], "budget");
    house.stop().await;
}
