//! What a workspace may have at once, why a task waits, and providers that refuse.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{BOUND, Daemon, House, Run, hello, house, house_with, millis_between};
use hayward_edge::clock::{Side, millis};
use hayward_shared::time::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

async fn limited(limits: &[&str]) -> House {
    house_with(|config| limits.iter().for_each(|text| config.limits.set(text).unwrap())).await
}

/// A daemon whose hello differs from the usual one in these fields.
async fn odd(house: &House, change: Value) -> Daemon {
    let mut words = hello(Uuid::now_v7(), &house.daemon_token().await, &[]);
    for (name, value) in change.as_object().unwrap() {
        words[name] = value.clone();
    }
    let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    socket.say(words).await;
    let welcome = socket.until("authenticated").await;
    Daemon { socket, next: 0, welcome }
}

async fn usual(house: &House) -> Daemon {
    odd(house, json!({})).await
}

/// The codes of why a task waits, and all that is said.
async fn why(house: &House, id: &str) -> (Vec<String>, String) {
    let task = house.task(id).await;
    let all = task["why"].as_array().cloned().unwrap_or_default();
    let codes = all.iter().map(|why| why["code"].as_str().unwrap().to_owned()).collect();
    let said = all.iter().map(|why| why["message"].as_str().unwrap()).collect::<Vec<_>>();
    (codes, said.join("\n"))
}

/// Waits until the first reason has this code.
async fn until_why(house: &House, id: &str, code: &str) -> String {
    let begun = Instant::now();
    loop {
        let (codes, said) = why(house, id).await;
        if codes.first().is_some_and(|first| first == code) {
            return said;
        }
        assert!(begun.elapsed() < BOUND, "{codes:?} and never {code}: {said}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn claude(house: &House, more: Value) -> String {
    let mut order = json!({"plan": "x", "agent": "claude"});
    for (name, value) in more.as_object().unwrap() {
        order[name] = value.clone();
    }
    house.make(order).await
}

#[tokio::test]
async fn a_queued_task_says_of_each_daemon_why_it_waits_and_a_running_one_says_nothing() {
    let house = house().await;
    let id = claude(&house, json!({"requires": {"gpu": "yes"}})).await;
    assert_eq!(why(&house, &id).await.0, ["no_daemon"]);
    let mut plain = usual(&house).await;
    let said = until_why(&house, &id, "missing_label").await;
    assert!(said.contains("gpu=yes"), "{said}");
    plain.claim(4).await;
    assert!(plain.socket.silent_of("spawnTask", Duration::from_millis(100)).await);
    let labels = json!({"labels": {"gpu": "yes"}, "runtimes": [], "hostname": "bare"});
    let _bare = odd(&house, labels).await;
    let mut able = odd(&house, json!({"labels": {"gpu": "yes"}, "hostname": "able"})).await;
    until_why(&house, &id, "ready").await;
    let task = house.task(&id).await;
    let of = |host: &str| {
        let all = task["why"].as_array().unwrap();
        all.iter().find(|why| why["hostname"] == host).unwrap()["code"].clone()
    };
    assert_eq!(
        (of("able"), of("bare"), of("box")),
        ("ready".into(), "no_agent".into(), "missing_label".into())
    );
    let run = able.claim_one().await;
    assert_eq!(run.task, id);
    able.store(run.status("dispatched", "running")).await;
    assert_eq!(house.task(&id).await.get("why"), None);
    house.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_full_away_or_short_of_disk_is_told_of_as_such() {
    let house = house().await;
    let mut daemon = odd(&house, json!({"maxConcurrentTasks": 1})).await;
    claude(&house, json!({"priority": 5})).await;
    let id = claude(&house, json!({})).await;
    let first = daemon.claim_one().await;
    assert_eq!(
        until_why(&house, &id, "no_free_slot").await,
        "its one place is taken ([daemon] max_concurrent_tasks)"
    );
    daemon.store(first.status("dispatched", "running")).await;
    daemon.store(first.status("running", "completed")).await;
    let vitals = json!({"freeBytes": 1_048_576, "floorBytes": 268_435_456, "warm": ["/r"]});
    daemon
        .socket
        .say(json!({"type": "heartbeat", "activeTasks": [], "beat": 1, "vitals": vitals}))
        .await;
    daemon.socket.until("heartbeatAck").await;
    let said = until_why(&house, &id, "disk_low").await;
    assert!(said.contains("1 MiB free") && said.contains("256 MiB"), "{said}");
    daemon.socket.say(json!({"type": "heartbeat", "activeTasks": [], "vitals": {}})).await;
    until_why(&house, &id, "ready").await;
    drop(daemon);
    until_why(&house, &id, "daemon_offline").await;
    house.stop().await;
}

#[tokio::test]
async fn claims_that_come_together_never_pass_a_limit_and_its_end_lets_the_next_begin() {
    let house = limited(&["agent:claude=3"]).await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(claude(&house, json!({})).await);
    }
    let free = house.make(json!({"command": ["true"]})).await;
    let mut daemons = Vec::new();
    for _ in 0..4 {
        daemons.push(usual(&house).await);
    }
    for daemon in &mut daemons {
        daemon.socket.say(json!({"type": "claim", "slots": 8})).await;
    }
    let mut runs = Vec::new();
    for (nth, daemon) in daemons.iter_mut().enumerate() {
        // an unknown type is answered in turn: what the claim got has come by then
        daemon.socket.say(json!({"type": "mark"})).await;
        loop {
            let told = daemon.socket.hear().await.unwrap();
            match told["type"].as_str().unwrap() {
                "spawnTask" => runs.push((nth, Run::of(told))),
                "error" if told["code"] == "unknown_type" => break,
                _ => {}
            }
        }
    }
    let limited: Vec<_> = runs.iter().filter(|(_, run)| run.task != free).collect();
    assert_eq!((limited.len(), runs.len()), (3, 4), "{runs:?}");
    let left = ids.iter().find(|id| runs.iter().all(|(_, run)| run.task != **id)).unwrap();
    let said = until_why(&house, left, "agent_limit").await;
    assert!(said.contains("agent 'claude' runs 3 at once") && said.contains("held by"), "{said}");
    let short = &limited[0].1.task[limited[0].1.task.len() - 8..];
    assert!(said.contains(short), "{short}: {said}");
    // whoever holds it, all are told when it ends
    let (nth, run) = limited[0].clone();
    daemons[nth].store(run.status("dispatched", "running")).await;
    daemons[nth].store(run.status("running", "completed")).await;
    let other = (nth + 1) % daemons.len();
    daemons[other].socket.until("workAvailable").await;
    daemons[other].claim_one().await;
    house.stop().await;
}

#[tokio::test]
async fn a_workspace_and_a_provider_have_limits_of_their_own() {
    let house = limited(&["workspace=2", "provider:anthropic=1"]).await;
    for _ in 0..2 {
        claude(&house, json!({"priority": 1})).await;
    }
    let mut commands = Vec::new();
    for _ in 0..2 {
        commands.push(house.make(json!({"command": ["true"]})).await);
    }
    let mut daemon = usual(&house).await;
    let first = daemon.claim_one().await;
    assert_eq!(first.spawn["run"]["order"]["agent"], "claude");
    assert_eq!(house.task(&first.task).await["provider"], "anthropic");
    let second = daemon.claim_one().await;
    assert_eq!(second.task, commands[0], "the other of that provider is passed over");
    daemon.claim(9).await;
    assert!(daemon.socket.silent_of("spawnTask", Duration::from_millis(100)).await);
    assert_eq!(why(&house, &commands[1]).await.0, ["workspace_limit"]);
    daemon.store(second.status("dispatched", "running")).await;
    let (status, _) =
        house.call("POST", &format!("/api/v1/tasks/{}/cancel", second.task), None).await;
    assert_eq!(status, 200);
    assert_eq!(daemon.claim_one().await.task, commands[1]);
    house.stop().await;
}

#[tokio::test]
async fn f58_parts_of_parts_end_at_their_depth_and_a_tree_at_its_count() {
    let house = limited(&["depth=2", "tree=5"]).await;
    let root = house.make(json!({"plan": "root"})).await;
    let part = |parent: &str| json!({"plan": "part", "parentTaskId": parent});
    let child = house.make(part(&root)).await;
    let grandchild = house.make(part(&child)).await;
    let (status, refused) = house.call("POST", "/api/v1/tasks", Some(part(&grandchild))).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("limit_reached")));
    assert!(refused["error"]["message"].as_str().unwrap().contains("go 2 deep"), "{refused}");
    // one that always delegates, from anywhere in the tree and all at once
    let mut all = Vec::new();
    for parent in [&root, &child, &root, &child, &root, &child] {
        all.push(house.call("POST", "/api/v1/tasks", Some(part(parent))));
    }
    let answers = futures_util::future::join_all(all).await;
    let made = answers.iter().filter(|(status, _)| *status == 201).count();
    assert_eq!(made, 2, "{answers:?}");
    let refused = answers.iter().find(|(status, _)| *status == 409).unwrap();
    assert!(refused.1["error"]["message"].as_str().unwrap().contains("are 5 tasks"), "{refused:?}");
    // another tree is another tree
    let other = house.make(json!({"plan": "root"})).await;
    house.make(part(&other)).await;
    house.stop().await;
}

/// Says that a run was refused by its provider.
async fn refuse(daemon: &mut Daemon, run: &Run, reason: &str, wait_ms: i64) {
    // a quota that came back before the relay hears of it is not waited for
    let at = Timestamp::from_millis(millis(Side::Daemon));
    let mut report = run.status("running", "deferred");
    report["at"] = json!(at);
    report["nextRetryAt"] = json!(at.plus_millis(wait_ms));
    report["reason"] = reason.into();
    daemon.store(report).await;
}

/// Four tasks of a provider that refused two of them, and until when it is waited for.
struct Refused {
    house: House,
    ids: Vec<String>,
    daemons: [Daemon; 2],
    until: String,
}

/// What happened while it was waited for; none when that was over before all of it had.
async fn refused() -> Option<Refused> {
    let house = house().await;
    let mut ids = Vec::new();
    for nth in 0..4 {
        ids.push(claude(&house, json!({"priority": 9 - nth, "maxAttempts": 3})).await);
    }
    let other = house.make(json!({"command": ["true"]})).await;
    let (mut one, mut two) = (usual(&house).await, usual(&house).await);
    let first = one.claim_one().await;
    let second = two.claim_one().await;
    one.store(first.status("dispatched", "running")).await;
    two.store(second.status("dispatched", "running")).await;
    refuse(&mut one, &first, "provider_rate_limited", 1).await;
    let refused = house.task(&first.task).await;
    // the second one was under way: it is refused too, and that is no second strike
    refuse(&mut two, &second, "provider_rate_limited", 1).await;
    let with_it = house.task(&second.task).await;
    let is_over = || {
        let now = Timestamp::from_millis(millis(Side::Relay)).to_string();
        refused["nextRetryAt"].as_str().is_none_or(|until| millis_between(&now, until) <= 0)
    };
    let (mut codes, mut said) = why(&house, &ids[2]).await;
    while codes.first().is_none_or(|first| first != "provider_backoff") && !is_over() {
        (codes, said) = why(&house, &ids[2]).await;
    }
    // others go on; those of the provider do not, whoever asks
    let goes_on = two.claim_one().await.task;
    let mut silent = Vec::new();
    for daemon in [&mut one, &mut two] {
        daemon.claim(8).await;
        silent.push(daemon.socket.silent_of("spawnTask", Duration::from_millis(200)).await);
    }
    if is_over() {
        house.stop().await;
        return None;
    }
    assert_eq!(refused["status"], "deferred");
    assert_eq!(with_it["nextRetryAt"], refused["nextRetryAt"]);
    assert_eq!(codes.first().unwrap(), "provider_backoff", "{said}");
    assert!(said.contains("'anthropic'"), "{said}");
    assert_eq!((goes_on, silent), (other, vec![true, true]));
    let until = refused["nextRetryAt"].as_str().unwrap().to_owned();
    Some(Refused { house, ids, daemons: [one, two], until })
}

#[tokio::test]
async fn f58_one_refusal_is_waited_for_by_all_tasks_of_its_provider_and_one_tries_first() {
    let mut found = None;
    // on a machine that stands still meanwhile it may be over too soon
    for _ in 0..5 {
        found = refused().await;
        if found.is_some() {
            break;
        }
    }
    let Refused { house, mut ids, daemons: [mut one, mut two], until } = found.unwrap();
    // when it is over all are told, and one run tries
    for daemon in [&mut one, &mut two] {
        daemon.socket.until("workAvailable").await;
    }
    let mut probe = loop {
        one.claim(8).await;
        if let Ok(spawn) = tokio::time::timeout(BOUND, one.socket.until("spawnTask")).await {
            break Run::of(spawn);
        }
    };
    let claimed = house.events(&probe.task).await;
    let at = claimed.last().unwrap()["at"].as_str().unwrap().to_owned();
    assert!(millis_between(&until, &at) >= 0, "it came too early");
    for daemon in [&mut one, &mut two] {
        daemon.claim(8).await;
        assert!(daemon.socket.silent_of("spawnTask", Duration::from_millis(200)).await);
    }
    // it is answered: the others follow
    one.store(probe.status("dispatched", "running")).await;
    probe.epoch = probe.spawn["leaseEpoch"].as_u64().unwrap();
    one.store(probe.event("usage.reported", json!({"inputTokens": 1, "outputTokens": 1}))).await;
    two.socket.until("workAvailable").await;
    let mut followed = Vec::new();
    for _ in 0..3 {
        followed.push(two.claim_one().await.task);
    }
    followed.push(probe.task);
    followed.sort();
    ids.sort();
    assert_eq!(followed, ids);
    house.stop().await;
}

#[tokio::test]
async fn f58_a_quota_parks_its_task_until_its_reset_without_an_attempt_and_wakes_it() {
    let house = house().await;
    let id = claude(&house, json!({})).await;
    let mut daemon = usual(&house).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    refuse(&mut daemon, &run, "quota", 5_000).await;
    let parked = house.task(&id).await;
    assert_eq!(
        (&parked["status"], &parked["attempt"]),
        (&json!("deferred"), &json!(0)),
        "{parked}"
    );
    let wait = millis_between(
        parked["createdAt"].as_str().unwrap(),
        parked["nextRetryAt"].as_str().unwrap(),
    );
    assert!(wait >= 5_000, "{parked}");
    assert_eq!(parked["why"][0]["code"], "quota");
    let fresh = claude(&house, json!({})).await;
    until_why(&house, &fresh, "provider_backoff").await;
    let woken = house.until(&id, "queued").await;
    assert_eq!(woken["nextRetryAt"], json!(null));
    let again = daemon.claim_one().await;
    assert_eq!(again.task, id);
    house.stop().await;
}

#[tokio::test]
async fn f58_a_refusal_costs_no_attempt_of_a_task_that_has_but_one() {
    let house = house().await;
    let id = claude(&house, json!({})).await;
    let mut daemon = usual(&house).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    refuse(&mut daemon, &run, "provider_rate_limited", 1).await;
    let waits = house.until(&id, "queued").await;
    assert_eq!((&waits["attempt"], &waits["refusals"]), (&json!(0), &json!(1)));
    house.until_went(&id, 0, &["running", "deferred", "queued"]).await;
    let again = daemon.claim_one().await;
    daemon.store(again.status("dispatched", "running")).await;
    let used = json!({"inputTokens": 1, "outputTokens": 1});
    daemon.store(again.event("usage.reported", used)).await;
    // what it said may be cut off by the next refusal: only another end is one
    assert_eq!(house.task(&id).await["refusals"], 1);
    // and what fails by itself has had its one attempt
    let mut report = again.status("running", "deferred");
    report["reason"] = "provider_overloaded".into();
    daemon.store(report).await;
    let failed = house.task(&id).await;
    assert_eq!((&failed["status"], failed.get("refusals")), (&json!("failed"), None));
    house.stop().await;
}

#[tokio::test]
async fn a_quota_that_was_told_wrongly_is_lifted_and_what_waits_for_it_goes_on() {
    let house = house().await;
    let mut daemon = usual(&house).await;
    let id = claude(&house, json!({})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    refuse(&mut daemon, &run, "quota", 7 * 24 * 3_600_000).await;
    let all = house.get("/api/v1/limits").await;
    assert_eq!(all["limits"]["depth"], 2);
    let refusal = &all["refusals"][0];
    assert_eq!(
        (&refusal["provider"], all["refusals"].as_array().unwrap().len()),
        (&json!("anthropic"), 1)
    );
    assert_eq!(refusal["until"], house.task(&id).await["nextRetryAt"]);
    let fresh = claude(&house, json!({"priority": -1})).await;
    until_why(&house, &fresh, "provider_backoff").await;
    let (status, done) = house.call("POST", "/api/v1/limits/anthropic/lift", None).await;
    assert_eq!((status, &done["woken"]), (200, &json!(1)), "{done}");
    assert_eq!(house.get("/api/v1/limits").await["refusals"], json!([]));
    assert_eq!(daemon.claim_one().await.task, id);
    assert_eq!(daemon.claim_one().await.task, fresh);
    let (status, none) = house.call("POST", "/api/v1/limits/anthropic/lift", None).await;
    assert_eq!((status, &none["error"]["code"]), (404, &json!("not_found")));
    house.stop().await;
}

#[tokio::test]
async fn a_task_does_not_expire_behind_a_quota_or_a_budget_and_another_does() {
    let house = house_with(|config| {
        config.timing.sweep_ms = 50;
        // longer than it takes to lay all out, on a slow machine too
        config.timing.queue_ms = 8_000;
    })
    .await;
    let mut daemon = usual(&house).await;
    let first = claude(&house, json!({})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    refuse(&mut daemon, &run, "quota", 3_600_000).await;
    let over = house.make(json!({"command": ["x"], "budget": {"maxTokens": 1}})).await;
    let run = daemon.claim_one().await;
    assert_eq!(run.task, over);
    daemon.store(run.status("dispatched", "running")).await;
    // queued before the budget above it is used up
    let below = house.make(json!({"command": ["x"], "parentTaskId": over})).await;
    daemon.store(run.event("usage.reported", json!({"inputTokens": 1}))).await;
    let behind = claude(&house, json!({})).await;
    let alone = house.make(json!({"plan": "x", "agent": "nobody"})).await;
    assert_eq!(house.until(&alone, "failed").await["reason"], "queue_expired");
    // they were looked at since, as they are older
    for id in [&below, &behind] {
        assert_eq!(house.task(id).await["status"], "queued");
    }
    assert_eq!(house.task(&first).await["status"], "deferred");
    house.stop().await;
}

#[tokio::test]
async fn a_task_that_a_daemon_with_another_provider_could_claim_expires() {
    let house = house_with(|config| {
        config.timing.sweep_ms = 50;
        // longer than it takes to lay all out, on a slow machine too
        config.timing.queue_ms = 8_000;
    })
    .await;
    let mut one = usual(&house).await;
    claude(&house, json!({})).await;
    let run = one.claim_one().await;
    one.store(run.status("dispatched", "running")).await;
    refuse(&mut one, &run, "quota", 3_600_000).await;
    let other = json!([{"name": "claude", "version": "2", "healthy": true, "provider": "bedrock"}]);
    let _two = odd(&house, json!({"runtimes": other, "labels": {"at": "work"}})).await;
    let _three = odd(&house, json!({"labels": {"at": "home"}})).await;
    let parked = claude(&house, json!({"requires": {"at": "home"}})).await;
    let wanted = claude(&house, json!({"requires": {"at": "work"}})).await;
    let anywhere = claude(&house, json!({})).await;
    for id in [&wanted, &anywhere] {
        assert_eq!(house.until(id, "failed").await["reason"], "queue_expired");
    }
    assert_eq!(house.task(&parked).await["status"], "queued");
    house.stop().await;
}

#[tokio::test]
async fn whoever_has_the_repository_ready_is_told_first() {
    let house = house().await;
    let (mut cold, mut warm) = (usual(&house).await, usual(&house).await);
    let vitals = json!({"loadPercent": 0, "warm": ["/src/app"]});
    warm.socket
        .say(json!({"type": "heartbeat", "activeTasks": [], "beat": 1, "vitals": vitals}))
        .await;
    warm.socket.until("heartbeatAck").await;
    for daemon in [&mut cold, &mut warm] {
        daemon.claim(2).await;
        daemon.beat(&[]).await;
    }
    // the head start is a tenth of a second: it is measured from one and the same event
    for _ in 0..3 {
        let id = house.make(json!({"plan": "x", "repositoryUrl": "/src/app"})).await;
        warm.socket.until("workAvailable").await;
        let run = warm.claim_one().await;
        assert_eq!(run.task, id);
        warm.store(run.status("dispatched", "running")).await;
        warm.store(run.status("running", "completed")).await;
        warm.claim(2).await;
        warm.beat(&[]).await;
    }
    // what is left a moment later is for the other one
    let id = house.make(json!({"plan": "x", "repositoryUrl": "/src/app"})).await;
    warm.socket.until("workAvailable").await;
    cold.socket.until("workAvailable").await;
    assert_eq!(cold.claim_one().await.task, id);
    house.stop().await;
}
