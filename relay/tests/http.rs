//! The HTTP interface over real requests.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{BOUND, Daemon, House, Run, house, house_with, on_postgres, quick};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

const TASK_ROUTES: [(&str, &str); 26] = [
    ("GET", ""),
    ("PATCH", ""),
    ("DELETE", ""),
    ("GET", "/subtasks"),
    ("GET", "/siblings"),
    ("GET", "/usage"),
    ("GET", "/events"),
    ("GET", "/traces"),
    ("GET", "/diff"),
    ("POST", "/run"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/interrupt"),
    ("POST", "/message"),
    ("POST", "/cancel"),
    ("POST", "/retry"),
    ("GET", "/events?since=3"),
    ("GET", "/merge/branches"),
    ("GET", "/merge/preview?target=main"),
    ("GET", "/merge/status"),
    ("GET", "/merge/check"),
    ("POST", "/merge/start"),
    ("POST", "/merge/resolve"),
    ("POST", "/merge/commit"),
    ("POST", "/merge/abort"),
    ("POST", "/merge/skip"),
];

fn body_of(method: &str, rest: &str) -> Option<Value> {
    match (method, rest) {
        ("PATCH", _) => Some(json!({"version": 1, "name": "n"})),
        (_, "/message") => Some(json!({"message": "m"})),
        _ => None,
    }
}

async fn running(house: &House) -> (Daemon, Run) {
    house.make(json!({"plan": "x"})).await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    (daemon, run)
}

#[tokio::test]
async fn f47_a_foreign_task_is_absent_on_every_route_with_the_same_text() {
    let house = house().await;
    let id = house.make(json!({"plan": "secret"})).await;
    let other = house.relay().add_workspace("other", "eve").await.unwrap().unwrap();
    let eve = other.token.expose();
    let absent = Uuid::now_v7().to_string();
    for (method, rest) in TASK_ROUTES {
        let mut answers = Vec::new();
        for target in [&id, &absent] {
            let path = format!("/api/v1/tasks/{target}{rest}");
            let (status, value) = house.call_as(eve, method, &path, body_of(method, rest)).await;
            assert_eq!(status, 404, "{method} {rest}: {value}");
            answers.push(value.to_string().replace(target.as_str(), "ID"));
        }
        assert_eq!(answers[0], answers[1], "{method} {rest}");
    }
    let fragment = &id[id.len() - 8..];
    let (status, _) = house.call_as(eve, "GET", &format!("/api/v1/tasks/{fragment}"), None).await;
    assert_eq!(status, 404);
    for body in
        [json!({"plan": "x", "parentTaskId": id}), json!({"plan": "x", "continueFromTaskId": id})]
    {
        assert_eq!(house.call_as(eve, "POST", "/api/v1/tasks", Some(body)).await.0, 404);
    }
    let (_, list) = house.call_as(eve, "GET", "/api/v1/tasks", None).await;
    assert_eq!(list["tasks"], json!([]));
    let (_, tokens) = house.call("GET", "/api/v1/tokens", None).await;
    let token = tokens["tokens"][0]["id"].as_str().unwrap().to_owned();
    let (status, _) = house.call_as(eve, "DELETE", &format!("/api/v1/tokens/{token}"), None).await;
    assert_eq!(status, 404);
    house.stop().await;
}

#[tokio::test]
async fn f47_a_daemon_reports_on_no_task_of_another_workspace_and_none_that_it_does_not_hold() {
    let house = house().await;
    let (_holder, run) = running(&house).await;
    let other = house.relay().add_workspace("other", "eve").await.unwrap().unwrap();
    let foreign = house.relay().issue_daemon_token(other.workspace).await.unwrap();
    let own = house.daemon_token().await;
    for token in [foreign.expose(), &own] {
        let mut daemon = house.daemon(Uuid::now_v7(), token, &[]).await;
        for message in [
            run.status("running", "completed"),
            run.event("agent.notice", json!({"text": "x"})),
            json!({"type": "taskProgress", "taskId": run.task, "summary": "x"}),
            json!({"type": "taskOutput", "taskId": run.task, "output": "x", "isPartial": false}),
            json!({"type": "taskComplete", "taskId": run.task, "success": true, "error": null}),
        ] {
            daemon.report(message).await;
            let refused = daemon.socket.until("error").await;
            assert_eq!(refused["code"], "not_found");
            assert_eq!(refused["message"], format!("no task {}", run.task));
        }
        daemon.beat(&[&run.task]).await;
    }
    let task = house.task(&run.task).await;
    assert_eq!((&task["status"], &task["progressSummary"]), (&json!("running"), &Value::Null));
    house.stop().await;
}

#[tokio::test]
async fn f42_pages_names_and_strangers_are_refused_over_http_and_both_sockets() {
    let house = house().await;
    let bearer = format!("Bearer {}", house.owner.token.expose());
    let evil = [("origin", "https://evil.example"), ("host", "evil.example")];
    let cases: [&[(&str, &str)]; 4] =
        [&[("origin", "null")], &evil[..1], &evil[1..], &[("origin", "http://127.0.0.1")]];
    for headers in cases {
        for path in ["/health", "/api/v1/tasks"] {
            let mut request = house.http.get(house.url(path)).header("authorization", &bearer);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(request.send().await.unwrap().status(), 403, "{headers:?} {path}");
        }
        for path in ["/api/v1/ws/daemon", "/api/v1/ws/client"] {
            let mut with = headers.to_vec();
            with.push(("authorization", &bearer));
            assert!(house.socket(path, &with).await.is_err(), "{headers:?} {path}");
        }
    }
    let token = house.owner.token.expose();
    for path in [
        "/api/v1/tasks".to_owned(),
        "/nowhere".to_owned(),
        format!("/api/v1/tasks?token={token}&access_token={token}"),
    ] {
        let answer = house.http.get(house.url(&path)).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{path}");
    }
    assert!(house.socket("/api/v1/ws/client", &[]).await.is_err());
    let path = format!("/api/v1/ws/client?token={token}");
    assert!(house.socket(&path, &[]).await.is_err());
    assert_eq!(house.http.get(house.url("/health")).send().await.unwrap().status(), 200);
    house.stop().await;
}

#[tokio::test]
async fn every_refusal_has_the_same_shape() {
    let house = house().await;
    let big = json!({"plan": "x".repeat(2 * 1024 * 1024)});
    let cases = [
        ("GET", "/api/v1/nowhere", None, 404, "not_found"),
        ("PUT", "/api/v1/tasks", None, 405, "invalid"),
        ("POST", "/health", None, 405, "invalid"),
        ("GET", "/api/v1/tasks?limit=0", None, 400, "invalid"),
        ("GET", "/api/v1/tasks?limit=201", None, 400, "invalid"),
        ("GET", "/api/v1/tasks?cursor=zz", None, 400, "invalid"),
        ("GET", "/api/v1/tasks?status=odd", None, 400, "invalid"),
        ("GET", "/api/v1/tasks/xyz!", None, 400, "invalid"),
        ("GET", "/api/v1/tasks/abcd", None, 404, "not_found"),
        ("POST", "/api/v1/tasks", Some(json!({"plan": 7})), 400, "invalid"),
        ("POST", "/api/v1/tasks", Some(json!([])), 400, "invalid"),
        ("POST", "/api/v1/tasks", Some(big), 413, "too_large"),
        ("GET", "/api/v1/ws/client", None, 400, "invalid"),
    ];
    for (method, path, body, status, code) in cases {
        let (got, value) = house.call(method, path, body).await;
        assert_eq!((got, &value["error"]["code"]), (status, &json!(code)), "{method} {path}");
        assert!(value["error"]["message"].is_string() && value["error"]["retryable"].is_boolean());
    }
    let raw = house
        .http
        .post(house.url("/api/v1/tasks"))
        .body("{\"plan\": \"\u{fffd}")
        .bearer_auth(house.owner.token.expose());
    assert_eq!(raw.send().await.unwrap().status(), 400);
    house.stop().await;
}

#[tokio::test]
async fn a_database_error_is_500_or_503_and_never_404() {
    if on_postgres() {
        // it breaks a file by hand; what PostgreSQL does is shown where it goes away
        return;
    }
    let house = house().await;
    let id = house.make(json!({"plan": "x"})).await;
    let path = house.folder.path().join("relay.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut side = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::query("UPDATE tasks SET document = 'broken'").execute(&mut side).await.unwrap();
    let (status, value) = house.call("GET", &format!("/api/v1/tasks/{id}"), None).await;
    assert_eq!(status, 500);
    assert_eq!(value["error"]["message"], "the relay's database failed");
    sqlx::query("ALTER TABLE tasks RENAME TO gone").execute(&mut side).await.unwrap();
    for (method, rest) in TASK_ROUTES {
        let path = format!("/api/v1/tasks/{id}{rest}");
        let (status, value) = house.call(method, &path, body_of(method, rest)).await;
        assert_eq!(status, 500, "{method} {rest}: {value}");
        assert!(!value.to_string().contains("table"), "{value}");
    }
    house.stop().await;
}

#[tokio::test]
async fn the_same_order_twice_is_one_task_and_fragments_name_it() {
    let house = house().await;
    let key = Uuid::now_v7().to_string();
    let post = || {
        house
            .http
            .post(house.url("/api/v1/tasks"))
            .bearer_auth(house.owner.token.expose())
            .header("Idempotency-Key", &key)
            .json(&json!({"plan": "first line\nmore", "labels": {"a": "b"}}))
            .send()
    };
    let (first, second) = (post().await.unwrap(), post().await.unwrap());
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (201, 200));
    let task: Value = second.json().await.unwrap();
    assert_eq!((&task["id"], &task["name"]), (&json!(key), &json!("first line")));
    assert_eq!(house.get("/api/v1/tasks").await["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(house.task(&key[key.len() - 8..]).await["id"], key);
    let twin = house.make(json!({"plan": "x"})).await;
    let shared: String =
        twin.chars().zip(key.chars()).take_while(|(a, b)| a == b).map(|p| p.0).collect();
    let (status, value) = house.call("GET", &format!("/api/v1/tasks/{}", &shared[..6]), None).await;
    assert_eq!((status, &value["error"]["code"]), (409, &json!("ambiguous")));
    house.stop().await;
}

#[tokio::test]
async fn lists_page_through_everything_once_and_filter() {
    let house = house().await;
    let parent = house.make(json!({"plan": "p"})).await;
    for n in 0..25 {
        let labels = json!({"n": n.to_string(), "odd\u{0}": (n % 2).to_string()});
        house.make(json!({"plan": "x", "parentTaskId": parent, "labels": labels})).await;
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/tasks?limit=7".to_owned();
    loop {
        let page = house.get(&path).await;
        seen.extend(page["tasks"].as_array().unwrap().iter().map(|t| t["id"].to_string()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        path = format!("/api/v1/tasks?limit=7&cursor={next}");
    }
    assert_eq!((seen.len(), seen.iter().collect::<HashSet<_>>().len()), (26, 26));
    let count = async |query: &str| {
        house.get(&format!("/api/v1/tasks?limit=200&{query}")).await["tasks"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("label=n=3").await, 1);
    assert_eq!(count("label=n=3&label=odd%00=1").await, 1);
    assert_eq!(count("label=n=3&label=odd%00=0").await, 0);
    assert_eq!(count(&format!("parent={parent}&status=queued")).await, 25);
    assert_eq!(count("status=running").await, 0);
    let parts = house.get(&format!("/api/v1/tasks/{parent}/subtasks")).await;
    let part = parts["tasks"][0]["id"].as_str().unwrap();
    let siblings = house.get(&format!("/api/v1/tasks/{part}/siblings?limit=200")).await;
    assert_eq!(siblings["tasks"].as_array().unwrap().len(), 24);
    assert_eq!(house.get(&format!("/api/v1/tasks/{parent}/siblings")).await["tasks"], json!([]));
    house.stop().await;
}

#[tokio::test]
async fn what_the_state_does_not_allow_is_409_and_changes_nothing() {
    let house = house().await;
    let id = house.make(json!({"plan": "x"})).await;
    let path = |rest: &str| format!("/api/v1/tasks/{id}{rest}");
    let before = house.task(&id).await;
    for (method, rest) in [
        ("POST", "/run"),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/interrupt"),
        ("POST", "/message"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ] {
        let (status, value) = house.call(method, &path(rest), body_of("POST", rest)).await;
        assert_eq!(
            (status, &value["error"]["code"]),
            (409, &json!("illegal_transition")),
            "{rest}"
        );
    }
    assert_eq!(house.task(&id).await, before);
    let stale = json!({"version": 9, "name": "n"});
    let (status, value) = house.call("PATCH", &path(""), Some(stale)).await;
    assert_eq!((status, &value["error"]["code"]), (409, &json!("version_conflict")));
    let patch = json!({"version": 1, "priority": 5, "labels": {"k": "v"}});
    let (status, task) = house.call("PATCH", &path(""), Some(patch)).await;
    assert_eq!((status, &task["version"], &task["priority"]), (200, &json!(2), &json!(5)));
    assert_eq!(house.call("POST", &path("/cancel"), None).await.0, 200);
    assert_eq!(house.call("POST", &path("/cancel"), None).await.0, 200);
    let (status, new) = house.call("POST", &path("/retry"), None).await;
    assert_eq!((status, &new["retryOf"], &new["status"]), (201, &json!(id), &json!("queued")));
    assert_eq!(house.call("DELETE", &path(""), None).await.0, 200);
    assert_eq!(house.call("GET", &path(""), None).await.0, 404);
    house.stop().await;
}

#[tokio::test]
async fn commands_reach_the_daemon_and_its_answers_come_back() {
    let house = house().await;
    let (mut daemon, run) = running(&house).await;
    let path = |rest: &str| format!("/api/v1/tasks/{}{rest}", run.task);
    let (paths, reports) = (path("/pause"), run.clone());
    let served = async {
        let asked = daemon.socket.until("pauseTask").await;
        let reply = json!({"type": "reply", "requestId": asked["requestId"], "ok": true});
        daemon.store(reports.status("running", "paused")).await;
        daemon.socket.say(reply).await;
        let asked = daemon.socket.until("readDiff").await;
        daemon
            .socket
            .say(json!({"type": "reply", "requestId": asked["requestId"], "ok": true,
                "payload": {"patch": "+", "truncated": false}}))
            .await;
        let asked = daemon.socket.until("resumeTask").await;
        daemon
            .socket
            .say(json!({"type": "reply", "requestId": asked["requestId"], "ok": false,
                "error": {"code": "failed", "message": "no", "retryable": false}}))
            .await;
        let asked = daemon.socket.until("readDiff").await;
        let odd = json!({"type": "reply", "requestId": asked["requestId"], "ok": "perhaps"});
        daemon.socket.say(odd).await;
        daemon
    };
    let asking = async {
        let (status, task) = house.call("POST", &paths, None).await;
        assert_eq!((status, &task["status"]), (200, &json!("paused")));
        assert_eq!(house.get(&path("/diff")).await["patch"], "+");
        let (status, value) = house.call("POST", &path("/resume"), None).await;
        assert_eq!((status, &value["error"]["message"]), (500, &json!("no")));
        let (status, value) = house.call("GET", &path("/diff"), None).await;
        assert_eq!((status, &value["error"]["code"]), (400, &json!("incompatible")), "{value}");
    };
    let (mut daemon, ()) = tokio::join!(served, asking);
    daemon.socket.inner.close(None).await.unwrap();
    while daemon.socket.frame().await.is_some() {}
    let (status, value) = house.call("GET", &path("/diff"), None).await;
    assert_eq!((status, &value["error"]["code"]), (503, &json!("daemon_offline")));
    house.stop().await;
}

#[tokio::test]
async fn a_command_that_its_daemon_does_not_answer_ends_in_time() {
    let house = house_with(|config| config.timing.reply = Duration::from_millis(400)).await;
    let (mut daemon, run) = running(&house).await;
    let path = format!("/api/v1/tasks/{}/pause", run.task);
    let (status, value) = house.call("POST", &path, None).await;
    assert_eq!((status, &value["error"]["code"]), (503, &json!("unavailable")), "{value}");
    // it had been asked
    daemon.socket.until("pauseTask").await;
    house.stop().await;
}

#[tokio::test]
async fn f30_odd_texts_are_kept_in_every_field() {
    let house = house().await;
    let odd = "a\u{0}b\u{fffd}\u{1F980}\u{7f}'\";--";
    let id = house
        .make(json!({"plan": odd, "name": odd, "model": odd, "repositoryUrl": odd,
            "baseBranch": odd, "targetBranch": odd, "mergeMode": odd, "command": [odd],
            "copyFiles": [odd], "labels": {odd: odd}}))
        .await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let run = daemon.claim_one().await;
    assert_eq!(
        (&run.spawn["plan"], &run.spawn["run"]["order"]["name"]),
        (&json!(odd), &json!(odd))
    );
    daemon.store(run.event("agent.notice", json!({"text": odd, odd: odd}))).await;
    daemon.store(run.event(odd, json!({"text": odd}))).await;
    daemon
        .store(json!({"type": "taskProgress", "taskId": id, "summary": odd,
        "leaseEpoch": run.epoch}))
        .await;
    daemon.store(run.status("dispatched", "running")).await;
    let mut end = run.status("running", "failed");
    end["reason"] = "agent_exit".into();
    end["details"] = json!({"errorMessage": odd, "branch": odd, "sessionId": odd, "exitCode": 3,
        "baseCommit": "abc", "withheldFiles": [{"path": odd, "why": odd}]});
    daemon.store(end).await;
    let task = house.until(&id, "failed").await;
    for field in ["plan", "name", "errorMessage", "branch", "sessionId", "progressSummary"] {
        assert_eq!(task[field], odd, "{field}");
    }
    assert_eq!((&task["baseCommit"], &task["exitCode"]), (&json!("abc"), &json!(3)));
    assert!(house.events(&id).await.iter().any(|e| e["type"] == odd));
    house.stop().await;
}

#[tokio::test]
async fn usage_is_summed_over_runs_and_traces_are_paged() {
    let house = house_with(|config| config.timing = quick()).await;
    let id = house.make(json!({"plan": "x", "maxAttempts": 2})).await;
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    for (attempt, tokens) in [(1, [5, 10]), (2, [1, 2])] {
        let run = daemon.claim_one().await;
        assert_eq!(run.spawn["run"]["attempt"], attempt);
        daemon.store(run.status("dispatched", "running")).await;
        for count in tokens {
            let usage = json!({"inputTokens": count, "outputTokens": 1});
            daemon.store(run.event("usage.reported", usage)).await;
        }
        daemon
            .store(run.event(
                "tool.finished",
                json!({"toolId": "t", "toolName": "Bash",
            "outcome": "ok", "finishedAt": "2026-01-01T00:00:00.000Z", "summary": "s"}),
            ))
            .await;
        let mut later = run.status("running", "deferred");
        later["reason"] = "provider_network".into();
        later["nextRetryAt"] = "2026-01-01T00:00:00.000Z".into();
        daemon.store(later).await;
        house.until(&id, if attempt == 1 { "queued" } else { "failed" }).await;
    }
    let usage = house.get(&format!("/api/v1/tasks/{id}/usage")).await;
    assert_eq!((&usage["inputTokens"], &usage["outputTokens"]), (&json!(12), &json!(2)));
    let page = house.get(&format!("/api/v1/tasks/{id}/traces?limit=1&offset=1")).await;
    assert_eq!((&page["total"], page["data"].as_array().unwrap().len()), (&json!(2), 1));
    assert_eq!(page["data"][0]["toolName"], "Bash");
    house.stop().await;
}

#[tokio::test]
async fn tokens_expire_are_revoked_and_carry_their_role() {
    let house = house().await;
    let (_, viewer) =
        house.call("POST", "/api/v1/users", Some(json!({"name": "v", "role": "viewer"}))).await;
    let (_, member) =
        house.call("POST", "/api/v1/users", Some(json!({"name": "m", "role": "member"}))).await;
    let (status, _) =
        house.call("POST", "/api/v1/users", Some(json!({"name": "m", "role": "member"}))).await;
    assert_eq!(status, 409);
    let mut made = Vec::new();
    for user in [&viewer, &member] {
        let body = json!({"kind": "user", "userId": user["id"], "role": "owner"});
        let (status, token) = house.call("POST", "/api/v1/tokens", Some(body)).await;
        assert_eq!((status, &token["role"]), (201, &user["role"]));
        made.push((
            token["token"].as_str().unwrap().to_owned(),
            token["id"].as_str().unwrap().to_owned(),
        ));
    }
    let id = house.make(json!({"plan": "x"})).await;
    let cancel = format!("/api/v1/tasks/{id}/cancel");
    let table = [
        ("GET", "/api/v1/tasks", None, [200, 200]),
        ("POST", "/api/v1/tasks", Some(json!({"plan": "x"})), [403, 201]),
        ("POST", cancel.as_str(), None, [403, 200]),
        ("GET", "/api/v1/tokens", None, [403, 403]),
        ("POST", "/api/v1/tokens", Some(json!({"kind": "daemon"})), [403, 403]),
        ("POST", "/api/v1/users", Some(json!({"name": "z", "role": "viewer"})), [403, 403]),
    ];
    for (method, path, body, expected) in table {
        for ((token, _), expected) in made.iter().zip(expected) {
            let (status, value) = house.call_as(token, method, path, body.clone()).await;
            assert_eq!(status, expected, "{method} {path}: {value}");
        }
    }
    let (token, id) = &made[0];
    assert_eq!(house.call("DELETE", &format!("/api/v1/tokens/{id}"), None).await.0, 200);
    assert_eq!(house.call_as(token, "GET", "/api/v1/tasks", None).await.0, 401);
    let expiring = async |seconds: u64| {
        let body = json!({"kind": "user", "expiresSeconds": seconds});
        let (_, made) = house.call("POST", "/api/v1/tokens", Some(body)).await;
        made["token"].as_str().unwrap().to_owned()
    };
    let (long, brief) = (expiring(3_600).await, expiring(1).await);
    let begun = tokio::time::Instant::now();
    while house.call_as(&brief, "GET", "/api/v1/tasks", None).await.0 != 401 {
        assert!(begun.elapsed() < BOUND, "it never expires");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(house.call_as(&long, "GET", "/api/v1/tasks", None).await.0, 200);
    let daemon = house.daemon_token().await;
    assert_eq!(house.call_as(&daemon, "GET", "/api/v1/tasks", None).await.0, 403);
    let listed = house.get("/api/v1/tokens").await.to_string();
    assert!(!listed.contains("hwu_") && !listed.contains("hwd_"));
    house.stop().await;
}

#[tokio::test]
async fn an_agents_token_reads_its_own_task_and_parts_until_the_end() {
    let house = house().await;
    let (mut daemon, run) = running(&house).await;
    let token = run.spawn["run"]["taskToken"].as_str().unwrap().to_owned();
    let part = house.make(json!({"plan": "p", "parentTaskId": run.task})).await;
    let other = house.make(json!({"plan": "o"})).await;
    let read =
        async |id: &str| house.call_as(&token, "GET", &format!("/api/v1/tasks/{id}"), None).await.0;
    assert_eq!((read(&run.task).await, read(&part).await, read(&other).await), (200, 200, 404));
    assert_eq!(house.call_as(&token, "GET", "/api/v1/tasks", None).await.0, 403);
    let cancel = format!("/api/v1/tasks/{}/cancel", run.task);
    assert_eq!(house.call_as(&token, "POST", &cancel, None).await.0, 403);
    daemon.store(run.status("running", "completed")).await;
    assert_eq!(read(&run.task).await, 401);
    house.stop().await;
}

#[tokio::test]
async fn daemons_and_their_folders_are_listed() {
    let house = house().await;
    let (mut daemon, _run) = running(&house).await;
    daemon
        .store(json!({"type": "daemonDirectories", "workingDirectory": "/w",
            "homeDirectory": "/h", "worktreesDirectory": "/t"}))
        .await;
    let view = &house.get("/api/v1/daemons").await["daemons"][0];
    assert_eq!(
        (&view["online"], &view["activeRuns"], &view["capacity"]),
        (&json!(true), &json!(1), &json!(64))
    );
    assert_eq!(view["runtimes"][0]["name"], "claude");
    let folders = house.get("/api/v1/daemons/directories").await;
    assert_eq!(folders["directories"][0]["path"], "/w");
    house.stop().await;
}
