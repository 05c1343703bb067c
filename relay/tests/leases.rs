//! One live run per task: claims, fences, silence, returns.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{BOUND, House, Run, house, house_with, quick};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Of a house that is quick.
const LEASE: Duration = Duration::from_millis(600);

/// Before this a link after a broken one gets nothing.
const SETTLE: Duration = Duration::from_secs(2);

async fn quick_house() -> House {
    house_with(|config| config.timing = quick()).await
}

#[tokio::test]
async fn f28_a_repeated_claim_never_gives_a_task_twice() {
    let house = house().await;
    let token = house.daemon_token().await;
    let id = house.make(json!({"plan": "once"})).await;
    let mut one = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let mut two = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let run = one.claim_one().await;
    assert_eq!((run.task.as_str(), run.epoch), (id.as_str(), 1));
    for daemon in [&mut one, &mut two] {
        daemon.claim(8).await;
        assert!(daemon.socket.silent_of("spawnTask", Duration::from_millis(200)).await);
    }
    let task = house.task(&id).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("dispatched"), &json!(1)));
    assert!(run.spawn["run"]["taskToken"].as_str().unwrap().starts_with("hwt_"));
    house.stop().await;
}

#[tokio::test]
async fn f28_an_undelivered_claim_is_delivered_again_under_the_same_epoch() {
    let house = house().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    house.make(json!({"plan": "once"})).await;
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let run = daemon.claim_one().await;
    drop(daemon);
    let mut back = house.daemon(machine, &token, &[]).await;
    let again = Run::of(back.socket.until("spawnTask").await);
    assert_eq!((again.run, again.epoch), (run.run, run.epoch));
    house.stop().await;
}

#[tokio::test]
async fn f28_reports_of_an_old_epoch_are_acked_and_refused() {
    let house = house().await;
    let token = house.daemon_token().await;
    let id = house.make(json!({"plan": "x"})).await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let mut run = daemon.claim_one().await;
    // the daemon gives it back, and claims it anew
    daemon.store(run.status("dispatched", "running")).await;
    daemon.store(run.status("running", "queued")).await;
    let new = daemon.claim_one().await;
    assert!(new.epoch > run.epoch);
    run.epoch = 1;
    let seq = daemon.report(run.status("running", "completed")).await;
    let refused = daemon.socket.until("error").await;
    assert_eq!((&refused["code"], &refused["taskId"]), (&json!("stale_lease"), &json!(id)));
    assert_eq!(refused["leaseEpoch"], 1);
    assert_eq!(daemon.socket.until("ack").await["upTo"], seq);
    assert_eq!(house.task(&id).await["status"], "dispatched");
    house.stop().await;
}

#[tokio::test]
async fn f29_silence_makes_a_run_wait_and_a_late_end_is_taken_once() {
    let house = quick_house().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = house.make(json!({"plan": "x"})).await;
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    drop(daemon);
    let waiting = house.until(&id, "waiting").await;
    assert_eq!((&waiting["reason"], &waiting["leaseEpoch"]), (&json!("daemon_offline"), &json!(1)));
    let mut back = house.daemon(machine, &token, &[run.key()]).await;
    assert_eq!(back.welcome["ackedSeq"], 0);
    // for no longer than a lease: nothing beats
    house.until_went(&id, 0, &["waiting", "running"]).await;
    back.store(run.status("running", "completed")).await;
    house.until(&id, "completed").await;
    let before = house.events(&id).await;
    // what is stored already is dropped, and acked again
    back.next = 0;
    back.report(run.status("dispatched", "running")).await;
    back.report(run.status("running", "completed")).await;
    assert_eq!(back.socket.until("ack").await["upTo"], 1);
    assert_eq!(house.events(&id).await, before);
    house.stop().await;
}

#[tokio::test]
async fn f29_beats_keep_a_lease_alive() {
    let house = quick_house().await;
    let id = house.make(json!({"plan": "x"})).await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    for _ in 0..12 {
        let begun = Instant::now();
        daemon.beat(&[&id]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let stayed = house.task(&id).await["status"] == "running";
        longest = longest.max(last.elapsed());
        assert!(stayed || longest >= LEASE, "beaten for within {longest:?}");
        last = begun;
    }
    house.until(&id, "waiting").await;
    let before = house.events(&id).await.len();
    daemon.beat(&[&id]).await;
    house.until_went(&id, before, &["running"]).await;
    house.stop().await;
}

#[tokio::test]
async fn f59_a_run_whose_daemon_is_away_for_many_leases_is_nobody_elses_and_its_late_end_is_taken()
{
    let house = quick_house().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = house.make(json!({"plan": "x"})).await;
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    drop(daemon);
    house.until(&id, "waiting").await;
    let mut other = house.daemon(Uuid::now_v7(), &token, &[]).await;
    other.claim(8).await;
    // five leases long
    assert!(other.socket.silent_of("spawnTask", Duration::from_secs(3)).await);
    let waiting = house.task(&id).await;
    assert_eq!((&waiting["status"], &waiting["leaseEpoch"]), (&json!("waiting"), &json!(1)));
    let mut back = house.daemon(machine, &token, &[run.key()]).await;
    back.store(run.status("running", "completed")).await;
    let done = house.until(&id, "completed").await;
    assert_eq!((&done["attempt"], &done["runId"]), (&json!(1), &json!(run.run)));
    house.stop().await;
}

#[tokio::test]
async fn f59_a_quiet_run_is_kept_while_its_daemon_beats() {
    let house = quick_house().await;
    let id = house.make(json!({"plan": "x", "requeueAfter": 1})).await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    for _ in 0..20 {
        let begun = Instant::now();
        daemon.beat(&[&id]).await;
        longest = longest.max(last.elapsed());
        last = begun;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let changes = house.events(&id).await;
    longest = longest.max(last.elapsed());
    let moved = changes.iter().filter(|event| event["type"] == "task.status_changed").count();
    // dispatched and running, nothing since
    assert!(moved == 2 || longest >= LEASE, "beaten for within {longest:?}: {changes:#?}");
    house.stop().await;
}

/// A relay that hands over half a second after the end of a lease. The lease is longer than what is
/// asked of the run that follows, on a slow machine too.
async fn handing_over() -> House {
    house_with(|config| {
        config.timing = hayward_relay::Timing { requeue_unit_ms: 500, lease_ms: 3_000, ..quick() };
    })
    .await
}

#[tokio::test]
async fn f28_only_requeue_after_hands_a_silent_run_over_and_the_former_daemon_is_refused() {
    let house = handing_over().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = house.make(json!({"plan": "x", "requeueAfter": 1, "repositoryUrl": "/r"})).await;
    let kept = house.make(json!({"plan": "y"})).await;
    let mut first = house.daemon(machine, &token, &[]).await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let run = first.claim_one().await;
        first.store(run.status("dispatched", "running")).await;
        runs.push(run);
    }
    let run = runs.iter().find(|run| run.task == id).unwrap().clone();
    drop(first);
    let queued = house.until(&id, "queued").await;
    assert_eq!((&queued["leaseEpoch"], &queued["daemonId"]), (&json!(2), &json!(null)));
    let mut second = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let new = second.claim_one().await;
    assert_eq!((new.task.as_str(), new.epoch), (id.as_str(), 3));
    second.claim(8).await;
    assert!(second.socket.silent_of("spawnTask", Duration::from_millis(200)).await);
    // the former one comes back: its agent must end, and what it says of it changes nothing
    let keys: Vec<_> = runs.iter().map(Run::key).collect();
    let mut back = house.daemon(machine, &token, &keys).await;
    let refused = back.socket.until("error").await;
    assert_eq!((&refused["code"], &refused["taskId"]), (&json!("stale_lease"), &json!(id)));
    back.report(run.status("running", "completed")).await;
    assert_eq!(back.socket.until("error").await["code"], "stale_lease");
    assert_eq!(house.task(&id).await["runId"], json!(new.run));
    house.until_went(&kept, 0, &["waiting", "running"]).await;
    assert_eq!(house.task(&kept).await["leaseEpoch"], 1);
    house.stop().await;
}

#[tokio::test]
async fn f28_a_beat_is_acknowledged_with_what_it_renewed_and_the_run_is_told_when_it_must_end() {
    let house = house().await;
    let id = house.make(json!({"plan": "x", "requeueAfter": 2})).await;
    let plain = house.make(json!({"plan": "y"})).await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let mut runs = [daemon.claim_one().await, daemon.claim_one().await];
    runs.sort_by_key(|run| run.task != id);
    // a lease of 60 s, two minutes, less 30 s and a thousandth
    assert_eq!(runs[0].spawn["run"]["fenceAfterMs"], 180_000 - 30_000 - 180);
    assert_eq!(runs[1].spawn["run"]["fenceAfterMs"], json!(null));
    let beat = json!({"type": "heartbeat", "activeTasks": [id, plain], "beat": 41});
    daemon.socket.say(beat).await;
    let ack = daemon.socket.until("heartbeatAck").await;
    assert_eq!((&ack["beat"], &ack["renewed"]), (&json!(41), &json!([id])));
    assert_eq!(ack["spreadMs"], 1_000);
    // what has ended, or is somebody else's, is not renewed
    house.call("POST", &format!("/api/v1/tasks/{id}/cancel"), None).await;
    let beat = json!({"type": "heartbeat", "activeTasks": [id, Uuid::now_v7()], "beat": 42});
    daemon.socket.say(beat).await;
    let ack = daemon.socket.until("heartbeatAck").await;
    assert_eq!((&ack["beat"], &ack["renewed"]), (&json!(42), &json!([])));
    house.stop().await;
}

#[tokio::test]
async fn f28_a_daemon_that_would_not_end_its_agent_gets_no_task_that_may_be_handed_over() {
    let house = house().await;
    let token = house.daemon_token().await;
    let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    let mut older = harness::hello(Uuid::now_v7(), &token, &[]);
    older["capabilities"] = json!(["outbox", "claim", "outputFrames", "replies"]);
    socket.say(older).await;
    socket.until("authenticated").await;
    house.make(json!({"plan": "x", "requeueAfter": 5})).await;
    socket.say(json!({"type": "claim", "slots": 1})).await;
    assert!(socket.silent_of("spawnTask", Duration::from_millis(300)).await);
    let plain = house.make(json!({"plan": "y"})).await;
    socket.say(json!({"type": "claim", "slots": 1})).await;
    assert_eq!(socket.until("spawnTask").await["taskId"], json!(plain));
    house.stop().await;
}

#[tokio::test]
async fn a_restarted_relay_lets_leases_begin_anew_and_runs_a_retry_when_it_is_due() {
    let timing = hayward_relay::Timing { requeue_unit_ms: 1, lease_ms: 3_000, ..quick() };
    let mut house = house_with(|config| config.timing = timing).await;
    let token = house.daemon_token().await;
    let id = house.make(json!({"plan": "x", "requeueAfter": 1})).await;
    let failing = house.make(json!({"plan": "y", "maxAttempts": 3})).await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let mut runs = [daemon.claim_one().await, daemon.claim_one().await];
    runs.sort_by_key(|run| run.task != id);
    daemon.store(runs[0].status("dispatched", "running")).await;
    let mut report = runs[1].status("dispatched", "deferred");
    report["reason"] = "provider_network".into();
    // the daemon's clock is years behind: how long counts
    report["at"] = "2020-01-01T00:00:00.000Z".into();
    report["nextRetryAt"] = "2020-01-01T00:00:15.000Z".into();
    daemon.store(report).await;
    let deferred = house.until(&failing, "deferred").await;
    house.away().await;
    // as long as a lease lasts
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    house.come_back(timing).await;
    let task = house.task(&id).await;
    assert_eq!(task["status"], "running", "its daemon could not be heard");
    assert_eq!(house.task(&failing).await["nextRetryAt"], deferred["nextRetryAt"]);
    let due = deferred["nextRetryAt"].as_str().unwrap().to_owned();
    house.until(&failing, "queued").await;
    let events = house.events(&failing).await;
    let at = events.last().unwrap()["at"].as_str().unwrap().to_owned();
    let late = harness::millis_between(&due, &at);
    assert!(late >= 0, "due at {due}, queued at {at}");
    house.until(&id, "queued").await;
    house.stop().await;
}

#[tokio::test]
async fn a_relay_that_restarts_again_and_again_keeps_no_task_from_its_hand_over() {
    let timing = hayward_relay::Timing { requeue_unit_ms: 2_000, ..quick() };
    let mut house = house_with(|config| config.timing = timing).await;
    let token = house.daemon_token().await;
    let id = house.make(json!({"plan": "x", "requeueAfter": 1})).await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    drop(daemon);
    house.until(&id, "waiting").await;
    let mut lives = 0;
    while house.task(&id).await["status"] == "waiting" {
        // shorter than a lease, and than the time until the hand-over
        tokio::time::sleep(Duration::from_millis(500)).await;
        house.away().await;
        house.come_back(timing).await;
        lives += 1;
        assert!(lives < 200, "every restart begins the time anew");
    }
    assert_eq!(house.task(&id).await["status"], "queued");
    assert!(lives > 1, "it was handed over too early");
    house.stop().await;
}

#[tokio::test]
async fn a_retry_is_queued_within_a_second_however_seldom_leases_are_looked_at() {
    // far more seldom than this test waits: what waited for a look would never be seen queued
    let house = house_with(|config| config.timing.sweep_ms = 600_000).await;
    let token = house.daemon_token().await;
    let id = house.make(json!({"plan": "x", "maxAttempts": 2})).await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let run = daemon.claim_one().await;
    let mut report = run.status("dispatched", "deferred");
    report["reason"] = "provider_overloaded".into();
    report["at"] = "2020-01-01T00:00:00.000Z".into();
    report["nextRetryAt"] = "2020-01-01T00:00:00.400Z".into();
    daemon.store(report).await;
    house.until(&id, "queued").await;
    house.stop().await;
}

#[tokio::test]
async fn f31_a_task_cancelled_during_a_partition_is_cancelled_at_the_next_hello() {
    let house = house().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = house.make(json!({"plan": "x"})).await;
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    drop(daemon);
    let (status, task) = house.call("POST", &format!("/api/v1/tasks/{id}/cancel"), None).await;
    assert_eq!((status, &task["status"]), (200, &json!("cancelled")));
    let mut back = house.daemon(machine, &token, &[run.key()]).await;
    assert_eq!(back.socket.until("cancelTask").await["taskId"], id);
    // and again with each beat that still names it
    back.socket.say(json!({"type": "heartbeat", "activeTasks": [id]})).await;
    assert_eq!(back.socket.until("cancelTask").await["taskId"], id);
    house.stop().await;
}

#[tokio::test]
async fn a_run_that_the_daemon_lost_is_given_up_at_its_first_beat_and_not_before() {
    let house = house().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = house.make(json!({"plan": "x"})).await;
    let retried = house.make(json!({"plan": "y", "maxAttempts": 2})).await;
    let mut daemon = house.daemon(machine, &token, &[]).await;
    for _ in 0..2 {
        let run = daemon.claim_one().await;
        daemon.store(run.status("dispatched", "running")).await;
    }
    drop(daemon);
    let mut back = house.daemon(machine, &token, &[]).await;
    assert_eq!(house.task(&id).await["status"], "running");
    back.beat(&[]).await;
    let failed = house.until(&id, "failed").await;
    assert_eq!(failed["reason"], "session_lost");
    // the wait before a retry may be one of a millisecond, so that nobody sees the task in it
    house.until_went(&retried, 0, &["deferred"]).await;
    assert_ne!(house.task(&retried).await["status"], "failed");
    house.stop().await;
}

#[tokio::test]
async fn f33_a_link_after_a_broken_one_gets_nothing_before_it_has_settled() {
    for _ in 0..5 {
        let house = house_with(|config| {
            config.timing = hayward_relay::Timing { settle_ms: 2_000, ..quick() };
        })
        .await;
        let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
        let first = house.daemon(machine, &token, &[]).await;
        // dropped without a farewell
        drop(first);
        wait_offline(&house).await;
        house.make(json!({"plan": "x"})).await;
        let begun = Instant::now();
        let mut back = house.daemon(machine, &token, &[]).await;
        back.claim(1).await;
        let silent = back.socket.silent_of("spawnTask", Duration::from_millis(100)).await;
        if begun.elapsed() < SETTLE {
            assert!(silent, "it got a task before it had settled");
            back.socket.until("workAvailable").await;
            back.claim_one().await;
            house.stop().await;
            return;
        }
        // the machine stood still meanwhile, and the link has settled
        house.stop().await;
    }
    panic!("the machine stands still all the time");
}

#[tokio::test]
async fn f33_a_flapping_link_gets_no_work_and_its_run_does_not_change_hands_or_status() {
    let house = house_with(|config| {
        let timing = hayward_relay::Timing { requeue_unit_ms: 500, lease_ms: 5_000, ..quick() };
        // no link of this test lives so long, on a slow machine either
        config.timing = hayward_relay::Timing { settle_ms: 15_000, ..timing };
    })
    .await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = house.make(json!({"plan": "x", "requeueAfter": 1})).await;
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    drop(daemon);
    house.make(json!({"plan": "y"})).await;
    // longer than lease and hand-over, in links that each end before they have settled
    for _ in 0..45 {
        let mut back = house.daemon(machine, &token, &[run.key()]).await;
        back.claim(8).await;
        assert!(back.socket.silent_of("spawnTask", Duration::from_millis(150)).await);
        drop(back);
    }
    let task = house.task(&id).await;
    assert_eq!((&task["status"], &task["leaseEpoch"]), (&json!("running"), &json!(1)));
    let events = house.events(&id).await;
    let moved = events.iter().filter(|event| event["type"] == "task.status_changed").count();
    assert_eq!(moved, 2, "{events:#?}");
    house.stop().await;
}

async fn wait_offline(house: &House) {
    let begun = Instant::now();
    while house.get("/api/v1/daemons").await["daemons"][0]["online"] != false {
        assert!(begun.elapsed() < BOUND, "the daemon stays online");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_newer_link_replaces_the_older_one() {
    let house = house().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let mut old = house.daemon(machine, &token, &[]).await;
    let new = house.daemon(machine, &token, &[]).await;
    assert_eq!(old.welcome["daemonId"], new.welcome["daemonId"]);
    while old.socket.frame().await.is_some() {}
    let view = house.get("/api/v1/daemons").await;
    assert_eq!(view["daemons"].as_array().unwrap().len(), 1);
    assert_eq!(view["daemons"][0]["online"], true);
    house.stop().await;
}

#[tokio::test]
async fn fifty_tasks_are_claimed_by_priority_then_age() {
    let house = house().await;
    let mut made = Vec::new();
    for n in 0..50i64 {
        let priority = (n * 7) % 5 - 2;
        made.push((-priority, n, house.make(json!({"plan": "x", "priority": priority})).await));
    }
    made.sort();
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    daemon.claim(64).await;
    for (_, _, id) in &made {
        assert_eq!(&Run::of(daemon.socket.until("spawnTask").await).task, id);
    }
    house.stop().await;
}

#[tokio::test]
async fn a_gap_in_the_numbers_ends_the_link_and_changes_nothing() {
    let house = house().await;
    let (machine, token) = (Uuid::now_v7(), house.daemon_token().await);
    let id = house.make(json!({"plan": "x"})).await;
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    daemon.next += 1;
    daemon.report(run.status("running", "completed")).await;
    assert_eq!(daemon.socket.until("error").await["code"], "conflict");
    assert!(daemon.socket.frame().await.is_none());
    assert_eq!(house.task(&id).await["status"], "running");
    house.stop().await;
}

#[tokio::test]
async fn f35_what_is_too_large_or_odd_is_told_and_the_link_lives() {
    let house = house().await;
    let token = house.daemon_token().await;
    let id = house.make(json!({"plan": "x"})).await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.report(run.event("agent.notice", json!({"text": "x".repeat(1024 * 1024)}))).await;
    assert_eq!(daemon.socket.until("error").await["code"], "too_large");
    daemon.report(json!({"type": "dance"})).await;
    assert_eq!(daemon.socket.until("error").await["code"], "unknown_type");
    daemon.report(json!({"type": "taskEvent", "taskId": 7})).await;
    assert_eq!(daemon.socket.until("error").await["code"], "invalid");
    // their numbers are used up, so that the daemon does not resend them for ever
    daemon.store(run.status("dispatched", "running")).await;
    assert_eq!(house.task(&id).await["status"], "running");
    house.stop().await;
}

#[tokio::test]
async fn f35_strangers_are_refused_with_one_answer() {
    let house = house().await;
    let machine = Uuid::now_v7();
    let owner = house.owner.token.expose().to_owned();
    let poor = json!({"type": "authenticate", "apiKey": house.daemon_token().await,
        "machineId": machine, "hostname": "h", "maxConcurrentTasks": 1, "protocolVersion": 1});
    let cases = [
        (harness::hello(machine, "hwd_wrong", &[]), "unauthorized"),
        (harness::hello(machine, &owner, &[]), "unauthorized"),
        (json!({"type": "heartbeat", "activeTasks": []}), "unauthorized"),
        (json!({"type": "authenticate", "apiKey": "x".repeat(70_000)}), "too_large"),
        (poor, "incompatible"),
    ];
    for (message, code) in cases {
        let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
        socket.say(message).await;
        assert_eq!(socket.hear().await.unwrap()["code"], code);
        assert!(socket.frame().await.is_none());
    }
    house.stop().await;
}

#[tokio::test]
async fn a_plain_makima_peer_is_given_work_and_ends_it() {
    let house = house().await;
    let token = house.daemon_token().await;
    let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    let mut plain = harness::hello(Uuid::now_v7(), &token, &[]);
    let fields = plain.as_object_mut().unwrap();
    for ours in ["protocolVersion", "version", "capabilities", "runtimes", "resume"] {
        fields.remove(ours);
    }
    fields["maxConcurrentTasks"] = 1.into();
    socket.say(plain).await;
    let welcome = socket.until("authenticated").await;
    assert_eq!(welcome.as_object().unwrap().len(), 2, "{welcome}");
    let first = house.make(json!({"plan": "one"})).await;
    let second = house.make(json!({"plan": "two"})).await;
    assert_eq!(socket.until("spawnTask").await["taskId"], first);
    assert!(socket.silent_of("spawnTask", Duration::from_millis(200)).await);
    for message in [
        json!({"type": "taskStatusChange", "taskId": first, "oldStatus": "pending",
            "newStatus": "running"}),
        json!({"type": "taskOutput", "taskId": first, "output": "hi\u{0}", "isPartial": false}),
        json!({"type": "taskProgress", "taskId": first, "summary": "half"}),
        json!({"type": "taskComplete", "taskId": first, "success": true, "error": null}),
    ] {
        socket.say(message).await;
    }
    let done = house.until(&first, "completed").await;
    assert_eq!(done["progressSummary"], "half");
    assert_eq!(socket.until("spawnTask").await["taskId"], second);
    socket
        .say(json!({"type": "taskComplete", "taskId": second, "success": false,
        "error": "it broke"}))
        .await;
    let failed = house.until(&second, "failed").await;
    assert_eq!(
        (&failed["reason"], &failed["errorMessage"]),
        (&json!("agent_exit"), &json!("it broke"))
    );
    let output: Vec<_> = house.events(&first).await;
    assert!(
        output.iter().any(|e| e["type"] == "session.output" && e["payload"]["text"] == "hi\u{0}")
    );
    house.stop().await;
}
