//! The merge queue over HTTP, asked of several daemons, and tasks that a daemon sends back.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{Daemon, House, Run, house, house_with};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// A daemon on which a task has ended with a branch.
async fn done(house: &House, token: &str) -> (Daemon, Run) {
    let mut daemon = house.daemon(Uuid::now_v7(), token, &[]).await;
    house.make(json!({"plan": "x", "agent": "claude"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    daemon.store(run.event("session.started", json!({"sessionId": "s-1"}))).await;
    let mut end = run.status("running", "completed");
    end["details"] = json!({"branch": "hayward/x", "headCommit": "a".repeat(40)});
    daemon.store(end).await;
    house.until(&run.task, "completed").await;
    (daemon, run)
}

fn entry(task: &str, state: &str) -> Value {
    json!({
        "id": Uuid::now_v7(), "taskId": task, "repository": "/r/.git", "branch": "hayward/x",
        "headCommit": "a".repeat(40), "target": "main", "check": "", "timeoutSeconds": 60,
        "state": state, "createdAt": "2026-01-01T00:00:00.000Z",
    })
}

async fn answer(daemon: &mut Daemon, kind: &str, payload: Value) -> Value {
    let heard = daemon.socket.until(kind).await;
    let reply =
        json!({"type": "reply", "ok": true, "payload": payload, "requestId": heard["requestId"]});
    daemon.socket.say(reply).await;
    heard
}

#[tokio::test]
async fn all_daemons_are_asked_and_those_that_are_silent_are_named() {
    // those that do answer have as long, on a slow machine too
    let house = house_with(|config| config.timing.reply = Duration::from_secs(5)).await;
    let token = house.daemon_token().await;
    let (mut one, first) = done(&house, &token).await;
    let (mut two, second) = done(&house, &token).await;
    let (mut mute, _) = done(&house, &token).await;
    let rows = [entry(&first.task, "testing"), entry(&second.task, "landed")];
    let (all, _, _) = tokio::join!(
        house.get("/api/v1/queue"),
        answer(&mut one, "queueList", json!({"queue": [rows[0]], "truncated": true})),
        answer(&mut two, "queueList", json!({"queue": [rows[1]], "truncated": false})),
    );
    let shown: Vec<_> = all["queue"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
    assert!(shown.len() == 2 && shown.contains(&&rows[0]["id"]) && shown.contains(&&rows[1]["id"]));
    assert!(all["queue"].as_array().unwrap().iter().all(|row| row["daemonId"].is_string()));
    assert_eq!((&all["truncated"], all["unanswered"].as_array().unwrap().len()), (&json!(true), 1));
    assert_eq!(all["unanswered"][0]["daemonId"], mute.welcome["daemonId"]);
    // it had been asked
    mute.socket.until("queueList").await;

    // what is taken out is asked of the daemon that has it, what has landed stays
    let path = format!("/api/v1/queue/{}", rows[0]["id"].as_str().unwrap());
    let ours = async {
        answer(&mut one, "queueList", json!({"queue": [rows[0]], "truncated": false})).await;
        answer(&mut one, "queueRemove", json!({"entry": rows[0]})).await
    };
    let theirs = answer(&mut two, "queueList", json!({"queue": [rows[1]], "truncated": false}));
    let others = answer(&mut mute, "queueList", json!({"queue": [], "truncated": false}));
    let ((status, gone), heard, _, _) =
        tokio::join!(house.call("DELETE", &path, None), ours, theirs, others);
    assert_eq!((status, &gone["entry"]["id"]), (200, &rows[0]["id"]));
    assert_eq!(heard["entryId"], rows[0]["id"]);

    let path = format!("/api/v1/queue/{}", rows[1]["id"].as_str().unwrap());
    let landed = async {
        answer(&mut two, "queueList", json!({"queue": [rows[1]], "truncated": false})).await;
        let heard = two.socket.until("queueRemove").await;
        let error = json!({"code": "conflict", "message": "it has landed", "retryable": false});
        let id = &heard["requestId"];
        two.socket
            .say(json!({"type": "reply", "ok": false, "error": error, "requestId": id}))
            .await;
    };
    let nothing = json!({"queue": [], "truncated": false});
    let ((status, refused), (), _, _) = tokio::join!(
        house.call("DELETE", &path, None),
        landed,
        answer(&mut one, "queueList", nothing.clone()),
        answer(&mut mute, "queueList", nothing.clone()),
    );
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("conflict")));

    // unknown to all, and unknown to those that answered
    let unknown = format!("/api/v1/queue/{}", Uuid::now_v7());
    let ((status, refused), _, _, _) = tokio::join!(
        house.call("DELETE", &unknown, None),
        answer(&mut one, "queueList", nothing.clone()),
        answer(&mut two, "queueList", nothing.clone()),
        answer(&mut mute, "queueList", nothing.clone()),
    );
    assert_eq!((status, &refused["error"]["code"]), (404, &json!("not_found")));
    let ((status, refused), _, _) = tokio::join!(
        house.call("DELETE", &unknown, None),
        answer(&mut one, "queueList", nothing.clone()),
        answer(&mut two, "queueList", nothing.clone()),
    );
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("daemon_offline")), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_queued_is_refused_before_any_daemon_is_asked() {
    let house = house().await;
    let token = house.daemon_token().await;
    let (mut one, first) = done(&house, &token).await;
    let (_two, second) = done(&house, &token).await;
    let waits = house.make(json!({"plan": "x", "agent": "codex"})).await;
    let add = |ids: Value| json!({"taskIds": ids, "check": "true", "targetBranch": "main"});
    let rows = [
        (add(json!([])), 400, "invalid"),
        (add(json!(vec![first.task.clone(); 201])), 400, "invalid"),
        (json!({"taskIds": [first.task]}), 400, "invalid"),
        (json!({"taskIds": [first.task], "check": "", "chekc": ""}), 400, "invalid"),
        (add(json!([Uuid::now_v7().to_string()])), 404, "not_found"),
        (add(json!(["not an id"])), 404, "not_found"),
        (add(json!([waits])), 409, "conflict"),
        (add(json!([first.task, second.task])), 409, "conflict"),
    ];
    for (body, status, code) in rows {
        let (got, refused) = house.call("POST", "/api/v1/queue", Some(body.clone())).await;
        assert_eq!((got, &refused["error"]["code"]), (status, &json!(code)), "{body}: {refused}");
    }
    // the first command that it hears is the first good one
    let fragment = &first.task[first.task.len() - 8..];
    let body = json!({"taskIds": [fragment], "check": "true", "timeoutSeconds": 9});
    let row = entry(&first.task, "waiting");
    let ((status, added), heard) = tokio::join!(
        house.call("POST", "/api/v1/queue", Some(body)),
        answer(&mut one, "queueAdd", json!({"queue": [row]})),
    );
    assert_eq!((status, &added["queue"][0]["id"]), (200, &row["id"]));
    assert_eq!(heard["taskIds"], json!([first.task]));
    assert_eq!((&heard["check"], &heard["timeoutSeconds"]), (&json!("true"), &json!(9)));
    assert_eq!(heard.get("target").unwrap_or(&Value::Null), &Value::Null);
}

#[tokio::test]
async fn a_task_that_is_sent_back_goes_on_once_and_only_where_its_agent_was() {
    let house = house().await;
    let token = house.daemon_token().await;
    let (mut one, run) = done(&house, &token).await;
    let mut other = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let follow_up = json!({"id": Uuid::now_v7(), "text": "mend it"});
    let back = json!({
        "type": "taskFollowUp", "taskId": run.task, "runId": run.run, "followUp": follow_up,
        "leaseEpoch": run.epoch,
    });
    one.store(back.clone()).await;
    let task = house.until(&run.task, "queued").await;
    assert_eq!((&task["followUp"], &task["completedAt"]), (&follow_up, &Value::Null));
    // told twice, it is taken once
    one.store(back.clone()).await;
    other.claim(4).await;
    assert!(other.socket.silent_of("spawnTask", Duration::from_millis(300)).await);
    let again = one.claim_one().await;
    assert_eq!((&again.task, again.epoch), (&run.task, run.epoch + 1));
    let order = &again.spawn["run"];
    assert_eq!((&order["followUp"], &order["resumeSessionId"]), (&follow_up, &json!("s-1")));
    assert_eq!(order["attempt"], 2);
    one.store(again.status("dispatched", "running")).await;
    // told once more by the older run, its agent is at it already
    one.store(back).await;
    one.store(again.status("running", "completed")).await;
    let task = house.until(&run.task, "completed").await;
    assert_eq!(task.get("followUp"), None);
    let said = house.events(&run.task).await;
    let said: Vec<_> = said.iter().filter(|event| event["type"] == "task.message").collect();
    assert_eq!((said.len(), &said[0]["payload"]["text"]), (1, &json!("mend it")));
}

#[tokio::test]
async fn an_agent_that_waits_to_go_on_hears_of_every_rejection_once() {
    let house = house().await;
    let token = house.daemon_token().await;
    let (mut daemon, run) = done(&house, &token).await;
    let back = |text: &str| {
        json!({"type": "taskFollowUp", "taskId": run.task, "runId": run.run,
            "followUp": {"id": Uuid::now_v7(), "text": text}, "leaseEpoch": run.epoch})
    };
    let (one, two) = (back("mend main"), back("mend release"));
    let enough = back(&"x".repeat(8 * 1024));
    for message in [&one, &two, &one, &two, &enough] {
        daemon.store(message.clone()).await;
    }
    for number in 0..9 {
        daemon.store(back(&format!("{number}{}", "y".repeat(8 * 1000)))).await;
    }
    let again = daemon.claim_one().await;
    let follow_up = &again.spawn["run"]["followUp"];
    assert_eq!(follow_up["id"], one["followUp"]["id"]);
    let text = follow_up["text"].as_str().unwrap();
    assert!(text.starts_with("mend main\nmend release\nxxx"), "{text}");
    assert!(text.len() > 24 * 1024 && text.len() <= 32 * 1024, "{}", text.len());
    let said = house.events(&run.task).await;
    let said = said.iter().filter(|event| event["type"] == "task.message");
    let (said, enough): (Vec<_>, Vec<_>) =
        said.partition(|event| event["payload"].get("undelivered").is_none());
    assert_eq!(enough.len(), 6, "{enough:?}");
    let said = said.into_iter();
    let words: Vec<_> = said.map(|event| event["payload"]["text"].as_str().unwrap()).collect();
    assert_eq!(words[..2], ["mend main", "mend release"]);
    assert!(words.iter().all(|words| text.contains(words)));
}

#[tokio::test]
async fn what_a_user_ended_or_threw_away_is_not_sent_back() {
    let house = house().await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let task = house.make(json!({"plan": "x"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    let (status, _) = house.call("POST", &format!("/api/v1/tasks/{task}/cancel"), None).await;
    assert_eq!(status, 200);
    let back = |run: &Run| {
        json!({"type": "taskFollowUp", "taskId": run.task, "runId": run.run,
            "followUp": {"id": Uuid::now_v7(), "text": "go on"}, "leaseEpoch": run.epoch})
    };
    daemon.store(back(&run)).await;
    assert_eq!(house.task(&task).await["status"], "cancelled");
    let (status, _) = house.call("DELETE", &format!("/api/v1/tasks/{task}"), None).await;
    assert!((200..300).contains(&status), "{status}");
    let (status, _) = house.call("GET", &format!("/api/v1/tasks/{task}"), None).await;
    assert_eq!(status, 404);
    daemon.report(back(&run)).await;
    assert_eq!(daemon.socket.until("error").await["code"], "not_found");
}

#[tokio::test]
async fn a_rejection_that_meets_a_run_under_way_waits_for_its_end() {
    for completes in [true, false] {
        let house = house().await;
        let token = house.daemon_token().await;
        let (mut daemon, run) = done(&house, &token).await;
        let back = |text: &str| {
            json!({"type": "taskFollowUp", "taskId": run.task, "runId": run.run,
                "followUp": {"id": Uuid::now_v7(), "text": text}, "leaseEpoch": run.epoch})
        };
        daemon.store(back("mend main")).await;
        let again = daemon.claim_one().await;
        // said by the queue before the daemon had heard of the new run
        let (next, more) = (back("mend release"), back("mend legacy"));
        for message in [&next, &more, &next] {
            daemon.store(message.clone()).await;
        }
        daemon.store(run.event("queue.rejected", json!({"target": "release"}))).await;
        let task = house.task(&run.task).await;
        assert_eq!(task["nextFollowUp"]["text"], "mend release\nmend legacy");
        assert_eq!(
            (&task["status"], &task["followUp"]["text"]),
            (&json!("dispatched"), &json!("mend main"))
        );
        daemon.store(again.status("dispatched", "running")).await;
        let events = house.events(&run.task).await;
        let told = events.iter().find(|event| event["type"] == "queue.rejected").unwrap();
        assert_eq!(
            (&told["payload"]["target"], &told["leaseEpoch"]),
            (&json!("release"), &json!(run.epoch))
        );
        if completes {
            daemon.store(again.status("running", "completed")).await;
            let third = daemon.claim_one().await;
            assert_eq!((&third.task, third.epoch), (&run.task, run.epoch + 2));
            let words = &third.spawn["run"]["followUp"];
            assert_eq!(
                (&words["id"], &words["text"]),
                (&next["followUp"]["id"], &task["nextFollowUp"]["text"])
            );
            daemon.store(third.status("dispatched", "running")).await;
            daemon.store(third.status("running", "completed")).await;
            let task = house.until(&run.task, "completed").await;
            assert_eq!((task.get("followUp"), task.get("nextFollowUp")), (None, None));
            continue;
        }
        let mut end = again.status("running", "failed");
        end["reason"] = json!("agent_exit");
        daemon.store(end).await;
        let task = house.until(&run.task, "failed").await;
        assert_eq!(task.get("nextFollowUp"), None);
        let events = house.events(&run.task).await;
        let last = events.iter().rfind(|event| event["type"] == "task.message").unwrap();
        assert_eq!(last["payload"]["undelivered"], "the task is failed");
        assert_eq!(last["payload"]["text"], "mend release\nmend legacy");
    }
}

#[tokio::test]
async fn a_daemon_that_was_away_hears_of_a_discarded_task_until_it_has_answered() {
    let house = house().await;
    let token = house.daemon_token().await;
    let machine = Uuid::now_v7();
    let mut daemon = house.daemon(machine, &token, &[]).await;
    house.make(json!({"plan": "x", "agent": "claude"})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    daemon.store(run.status("running", "completed")).await;
    house.until(&run.task, "completed").await;
    drop(daemon);
    let path = format!("/api/v1/tasks/{}", run.task);
    let begun = tokio::time::Instant::now();
    while house.get("/api/v1/daemons").await["daemons"][0]["online"] == true {
        assert!(begun.elapsed() < harness::BOUND);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, _) = house.call("DELETE", &path, None).await;
    assert!((200..300).contains(&status), "{status}");
    // heard and not answered, it is told again
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let heard = daemon.socket.until("pruneWorktrees").await;
    assert_eq!((&heard["taskId"], &heard["force"]), (&json!(run.task), &json!(true)));
    drop(daemon);
    let mut daemon = house.daemon(machine, &token, &[]).await;
    let heard = answer(&mut daemon, "pruneWorktrees", json!({"worktrees": []})).await;
    assert_eq!(heard["taskId"], run.task);
    drop(daemon);
    // that it answered is stored a moment later; then nothing is told any more
    let begun = tokio::time::Instant::now();
    loop {
        let mut daemon = house.daemon(machine, &token, &[]).await;
        let told = answer(&mut daemon, "pruneWorktrees", json!({"worktrees": []}));
        if tokio::time::timeout(Duration::from_millis(300), told).await.is_err() {
            break;
        }
        assert!(begun.elapsed() < harness::BOUND);
    }
}
