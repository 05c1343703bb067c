//! Merge commands over HTTP, answered by daemons of ours and by plain peers over real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{Daemon, House, Run, Socket, hello, house};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

async fn running(house: &House) -> (Daemon, Run) {
    house.make(json!({"plan": "x"})).await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    (daemon, run)
}

/// The result of a merge, in the words of a plain peer.
fn result(task: &str, success: bool, message: &str) -> Value {
    json!({
        "type": "mergeResult", "taskId": task, "success": success, "message": message,
        "commitSha": null, "conflicts": null,
    })
}

fn tagged(mut answer: Value, command: &Value) -> Value {
    answer["requestId"] = command["requestId"].clone();
    answer
}

#[tokio::test]
async fn each_command_goes_out_in_the_seeds_words_and_its_typed_answer_comes_back() {
    let house = house().await;
    let (mut daemon, run) = running(&house).await;
    let task = run.task.as_str();
    let path = |what: &str| format!("/api/v1/tasks/{task}/merge/{what}");
    let check = json!({
        "type": "mergeCompleteCheck", "taskId": task, "canComplete": true,
        "unmergedBranches": [], "mergedCount": 2, "skippedCount": 1,
    });
    let skip = json!({"subtaskId": task, "reason": "later"});
    let rows = [
        (
            "GET",
            "branches",
            None,
            json!({"type": "listBranches"}),
            json!({"type": "branchList", "taskId": task, "branches": []}),
        ),
        (
            "GET",
            "status",
            None,
            json!({"type": "mergeStatus"}),
            json!({"type": "mergeStatusResponse", "taskId": task, "inProgress": true,
                "sourceBranch": "b", "conflictedFiles": ["f"]}),
        ),
        ("GET", "check", None, json!({"type": "checkMergeComplete"}), check.clone()),
        (
            "POST",
            "start",
            Some(json!({"sourceBranch": "b"})),
            json!({"type": "mergeStart", "sourceBranch": "b"}),
            result(task, false, "conflict"),
        ),
        (
            "POST",
            "resolve",
            Some(json!({"file": "f", "strategy": "ours"})),
            json!({"type": "mergeResolve", "file": "f", "strategy": "ours"}),
            result(task, true, "r"),
        ),
        (
            "POST",
            "commit",
            Some(json!({"message": "m"})),
            json!({"type": "mergeCommit", "message": "m"}),
            result(task, true, "c"),
        ),
        ("POST", "abort", None, json!({"type": "mergeAbort"}), result(task, true, "a")),
        ("POST", "skip", Some(skip), json!({"type": "mergeSkip", "reason": "later"}), check),
    ];
    for (method, what, body, command, answer) in rows {
        let path = path(what);
        let asked = house.call(method, &path, body);
        let answered = async {
            let heard = daemon.socket.until(command["type"].as_str().unwrap()).await;
            for (name, value) in command.as_object().unwrap() {
                assert_eq!(heard[name], *value, "{what}");
            }
            assert_eq!(heard["taskId"], task);
            daemon.socket.say(tagged(answer.clone(), &heard)).await;
        };
        let ((status, got), ()) = tokio::join!(asked, answered);
        assert_eq!((status, got), (200, answer), "{what}");
    }
    let told: Vec<_> = house
        .events(task)
        .await
        .into_iter()
        .filter(|event| event["type"] == "merge.result")
        .collect();
    let commands: Vec<_> = told.iter().map(|event| &event["payload"]["command"]).collect();
    assert_eq!(commands, ["start", "commit", "abort"]);
    assert_eq!(told[0]["payload"]["success"], false);
}

#[tokio::test]
async fn a_fault_in_the_answer_or_in_its_place_is_the_status() {
    let house = house().await;
    let (mut daemon, run) = running(&house).await;
    let path = format!("/api/v1/tasks/{}/merge", run.task);
    for (code, status) in [("conflict", 409), ("not_found", 404), ("failed", 500)] {
        let error = json!({"code": code, "message": "no", "retryable": false});
        let start = format!("{path}/start");
        let asked = house.call("POST", &start, Some(json!({"sourceBranch": "b"})));
        let refused = async {
            let heard = daemon.socket.until("mergeStart").await;
            let mut answer = tagged(result(&run.task, false, "no"), &heard);
            answer["error"] = error.clone();
            daemon.socket.say(answer).await;
        };
        let ((got, body), ()) = tokio::join!(asked, refused);
        assert_eq!((got, &body["error"]), (status, &error));
        let list = format!("{path}/branches");
        let refused = async {
            let heard = daemon.socket.until("listBranches").await;
            let reply = json!({"type": "reply", "ok": false, "error": error});
            daemon.socket.say(tagged(reply, &heard)).await;
        };
        let ((got, body), ()) = tokio::join!(house.call("GET", &list, None), refused);
        assert_eq!((got, &body["error"]), (status, &error));
    }
}

#[tokio::test]
async fn two_commands_of_one_kind_are_told_apart_by_their_requests() {
    let house = house().await;
    let (mut daemon, run) = running(&house).await;
    let path = format!("/api/v1/tasks/{}/merge/resolve", run.task);
    let of = |file: &str| Some(json!({"file": file, "strategy": "ours"}));
    let reversed = async {
        let first = daemon.socket.until("mergeResolve").await;
        let second = daemon.socket.until("mergeResolve").await;
        for heard in [second, first] {
            let words = heard["file"].as_str().unwrap();
            daemon.socket.say(tagged(result(&run.task, true, words), &heard)).await;
        }
    };
    let (one, two, ()) = tokio::join!(
        house.call("POST", &path, of("a")),
        house.call("POST", &path, of("b")),
        reversed
    );
    assert_eq!((&one.1["message"], &two.1["message"]), (&json!("a"), &json!("b")));
}

/// A peer that knows the seed's words alone, at work on a task.
async fn plain(house: &House) -> (Socket, String) {
    let task = house.make(json!({"plan": "x", "repositoryUrl": "/r"})).await;
    let token = house.daemon_token().await;
    let mut words = hello(Uuid::now_v7(), &token, &[]);
    let fields = words.as_object_mut().unwrap();
    for ours in ["protocolVersion", "version", "capabilities", "runtimes", "resume"] {
        fields.remove(ours);
    }
    let mut socket = house.socket("/api/v1/ws/daemon", &[]).await.unwrap();
    socket.say(words).await;
    let spawn = socket.until("spawnTask").await;
    assert_eq!(spawn["taskId"], task.as_str());
    let running = json!({"type": "taskStatusChange", "taskId": task, "oldStatus": "pending",
        "newStatus": "running"});
    socket.say(running).await;
    house.until(&task, "running").await;
    (socket, task)
}

#[tokio::test]
async fn a_plain_peer_that_echoes_nothing_is_understood_by_task_and_type() {
    let house = house().await;
    let (mut socket, task) = plain(&house).await;
    let path = |what: &str| format!("/api/v1/tasks/{task}/merge/{what}");
    let (start, status) = (path("start"), path("status"));
    let answered = async {
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let message = socket.hear().await.unwrap();
            if message["type"].as_str().unwrap().starts_with("merge") {
                assert_eq!(message.get("requestId"), None);
                heard.push(message);
            }
        }
        socket.say(result(&task, true, "merged")).await;
        socket
            .say(json!({"type": "mergeStatusResponse", "taskId": task, "inProgress": false,
            "sourceBranch": null, "conflictedFiles": []}))
            .await;
    };
    let (one, two, ()) = tokio::join!(
        house.call("POST", &start, Some(json!({"sourceBranch": "b"}))),
        house.call("GET", &status, None),
        answered
    );
    assert_eq!((one.0, &one.1["message"]), (200, &json!("merged")));
    assert_eq!((two.0, &two.1["type"]), (200, &json!("mergeStatusResponse")));

    // it gives no answer to a skip: it is told, then asked how things stand
    let check = json!({"type": "mergeCompleteCheck", "taskId": task, "canComplete": true,
        "unmergedBranches": [], "mergedCount": 0, "skippedCount": 1});
    let answered = async {
        socket.until("mergeSkip").await;
        socket.until("checkMergeComplete").await;
        socket.say(check.clone()).await;
    };
    let skip = path("skip");
    let body = json!({"subtaskId": task, "reason": "x"});
    let ((status, got), ()) = tokio::join!(house.call("POST", &skip, Some(body)), answered);
    assert_eq!((status, got), (200, check));
    // an answer that nobody asked for changes nothing
    socket.say(result(&task, true, "late")).await;
    let preview = house.call("GET", &path("preview"), None).await;
    assert_eq!(preview.0, 503, "{}", preview.1);
    drop(socket);
    tokio::time::timeout(Duration::from_secs(10), async {
        while house.call("GET", &path("status"), None).await.0 != 503 {}
    })
    .await
    .expect("a daemon that is away is said to be");
}

#[tokio::test]
async fn f47_a_foreign_daemon_is_absent_and_previews_there_take_a_member() {
    let house = house().await;
    let (mut daemon, _) = running(&house).await;
    let own = daemon.welcome["daemonId"].as_str().unwrap().to_owned();
    let query = "merge/preview?repository=/r&source=b&target=main";
    let path = format!("/api/v1/daemons/{own}/{query}");
    let other = house.relay().add_workspace("other", "eve").await.unwrap().unwrap();
    let eve = other.token.expose();
    let absent = Uuid::now_v7().to_string();
    let foreign = house.call_as(eve, "GET", &path, None).await;
    let nowhere = format!("/api/v1/daemons/{absent}/{query}");
    let nothing = house.call_as(eve, "GET", &nowhere, None).await;
    assert_eq!(foreign.0, 404);
    assert_eq!(foreign.1.to_string().replace(&own, &absent), nothing.1.to_string());
    let asked = house.call("GET", &path, None);
    let answered = async {
        let heard = daemon.socket.until("previewMerge").await;
        assert_eq!((&heard["repository"], &heard["source"]), (&json!("/r"), &json!("b")));
        let reply = json!({"type": "reply", "ok": true, "payload": {"canMerge": true}});
        daemon.socket.say(tagged(reply, &heard)).await;
    };
    let ((status, got), ()) = tokio::join!(asked, answered);
    assert_eq!((status, got), (200, json!({"canMerge": true})));
    let bare = format!("/api/v1/daemons/{own}/merge/preview?source=b");
    assert_eq!(house.call("GET", &bare, None).await.0, 400);
}
