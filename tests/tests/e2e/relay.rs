//! The relay as strangers, browsers, odd text and many writers meet it.

use hayward_tests::home::{Home, id};
use hayward_tests::http::Api;
use hayward_tests::relay::{Relay, free_address};
use hayward_tests::repo::ScratchRepo;
use hayward_tests::script::{Script, Step};
use hayward_tests::wait::{LONG, until_true};
use hayward_tests::{pattern, skip};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn f30_nul_and_odd_text_are_kept_in_every_field_and_the_task_ends() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let api = home.api(&daemon);
    let odd = "a\u{0}b\u{fffd}\u{202e}\u{feff}漢\u{1b}[31m\u{7f}\r\n\u{10ffff}";
    let script = Script::new()
        .then(Step::Raw)
        .write(home.file("raw"), "")
        .then(Step::Read { count: 1, file: home.file("came") })
        .then(Step::Odd { times: 2, chunk: 3 })
        .write("work", "work\n");
    let order = json!({
        "name": format!("n {odd}"), "plan": format!("p {odd}"), "agent": "command",
        "command": script.command(), "labels": { "k": odd },
        "repositoryUrl": repo.path(), "wantedDaemonId": daemon.told["daemonId"], "maxAttempts": 1,
    });
    let made = api.post("/api/v1/tasks", &order);
    assert_eq!(made.status, 201, "{made:?}");
    let task = made.json();
    home.reaches(&task, "running");
    until_true("the terminal is raw", LONG, || home.file("raw").exists());
    let said = api.post(
        &format!("/api/v1/tasks/{}/message", id(&task)),
        &json!({ "message": format!("m {odd}") }),
    );
    assert!(said.status < 300, "{said:?}");
    let task = home.reaches(&task, "completed");
    for (field, wanted) in [("name", &order["name"]), ("plan", &order["plan"])] {
        assert_eq!(&task[field], wanted, "{field}");
    }
    assert_eq!(task["labels"]["k"], odd);
    assert_eq!(task["outcome"], "delivered");
    assert!(home.output(&task) == pattern::ODD.repeat(2), "the bytes differ");
    let events = home.events(&task);
    let told = events.iter().find(|event| event["type"] == "task.message").unwrap();
    assert_eq!(told["payload"]["text"], format!("m {odd}"));
    // the slot is free again
    home.follow(repo.path(), &[], &Script::new().write("next", "next\n")).expect(0);
    // bytes that are no UTF-8 at all are refused, and wedge nothing
    let mut raw = b"{\"name\":\"".to_vec();
    raw.extend([0xff, 0xfe]);
    let raw = String::from_utf8_lossy(&raw).into_owned() + "\"";
    assert_eq!(api.send("POST", "/api/v1/tasks", Some(&raw), &[]).status, 400);
    assert_eq!(api.get("/api/v1/tasks").status, 200);
}

#[test]
fn f38_32_writers_and_a_backup_meet_no_locked_database() {
    const WRITERS: usize = 32;
    // that all writers are at work together for a while, also where they are quick
    const TASKS: usize = 20;
    const BACKUPS: usize = 5;
    // by the clock too, so that a failed assertion never leaves a writer writing for ever
    const BOUND: Duration = LONG.saturating_mul(2);
    let relay = Relay::start();
    let api = relay.api();
    let wanted = if can_copy() { BACKUPS } else { 0 };
    if wanted == 0 {
        skip("f38 backup", "no python3 with sqlite3 to copy the database with");
    }
    let (written, copied) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let is_copied = || copied.load(Ordering::Relaxed) >= wanted;
    let end = Instant::now() + BOUND;
    let in_time = || Instant::now() < end;
    let write = |writer| {
        let mut own = 0;
        while (own < TASKS || !is_copied()) && in_time() {
            write_once(&api, writer);
            written.fetch_add(1, Ordering::SeqCst);
            own += 1;
        }
        assert!(own >= TASKS, "writer {writer} wrote {own} tasks in {BOUND:?}");
    };
    thread::scope(|scope| {
        let write = &write;
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            if wanted > 0 {
                let before = written.load(Ordering::SeqCst);
                let found = backup(&relay);
                assert!(found >= before, "of {before} tasks the copy holds {found}");
                copied.fetch_add(1, Ordering::Relaxed);
            }
            assert_eq!(api.get("/api/v1/tasks?limit=200").status, 200);
        }
    });
    assert!(is_copied(), "{copied:?} backups in {BOUND:?}");
    let log = relay.log().to_lowercase();
    assert!(!log.contains("locked") && !log.contains("busy"), "{log}");
}

#[test]
fn f38_a_second_relay_on_one_file_is_refused_and_the_first_serves_on() {
    let relay = Relay::start();
    let database = relay.database();
    let database = database.to_string_lossy();
    let listen = free_address();
    let serve = ["relay", "serve", "--listen", &listen, "--database", &*database];
    let home = Home::new();
    let refused = home.run(&serve).expect(1);
    assert!(refused.stderr.contains("is served by another relay (process "), "{}", refused.stderr);
    let to = ["relay", "migrate", "--from", &*database, "--to", "postgres://me@127.0.0.1:1/none"];
    let refused = home.run(&to).expect(1);
    assert!(refused.stderr.contains("stop that one"), "{}", refused.stderr);
    assert_eq!(relay.api().post("/api/v1/tasks", &json!({ "plan": "x" })).status, 201);
}

/// A task, changed and cancelled: three writing transactions, each with its events.
fn write_once(api: &Api, writer: usize) {
    let made = api.post("/api/v1/tasks", &json!({ "plan": format!("writer {writer}") }));
    assert_eq!(made.status, 201, "{made:?}");
    let task = made.json();
    let path = format!("/api/v1/tasks/{}", id(&task));
    let patch = json!({ "version": task["version"], "priority": writer }).to_string();
    let patched = api.send("PATCH", &path, Some(&patch), &[]);
    assert_eq!(patched.status, 200, "{patched:?}");
    let cancelled = api.post(&format!("{path}/cancel"), &json!({}));
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
}

fn can_copy() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import sqlite3"]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Copies the live database, as an operator's backup does, looks whether the copy is whole, and counts
/// its tasks. In one step: a copy in parts begins anew whenever another process writes between two of
/// them, so it may never end.
#[track_caller]
fn backup(relay: &Relay) -> usize {
    let script = "import sqlite3,sys\n\
        source=sqlite3.connect('file:'+sys.argv[1]+'?mode=ro',uri=True,timeout=5)\n\
        copy=sqlite3.connect(':memory:')\nsource.backup(copy,pages=-1)\n\
        assert copy.execute('pragma integrity_check').fetchone()[0]=='ok'\n\
        print(copy.execute('select count(*) from tasks').fetchone()[0])\n";
    let mut command = Command::new("python3");
    let copied = command.args(["-c", script]).arg(relay.database()).output().unwrap();
    let said = String::from_utf8_lossy(&copied.stderr);
    assert!(copied.status.success(), "the database could not be copied: {said}");
    String::from_utf8_lossy(&copied.stdout).trim().parse().unwrap()
}

#[test]
fn f42_web_pages_rebound_names_and_strangers_are_refused_on_every_door() {
    let home = Home::new();
    let api = home.api(&home.up());
    let own = format!("http://{}", api.host);
    let evil: [&[(&str, &str)]; 6] = [
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", &own)],
        &[("Origin", "http://evil.example"), ("Host", "evil.example")],
        &[("Host", "evil.example")],
        &[("Host", "127.0.0.1.evil.example")],
    ];
    let sockets = ["/api/v1/ws/client", "/api/v1/ws/daemon"];
    for headers in evil {
        for path in ["/api/v1/tasks", "/api/v1/users", "/health"] {
            let reply = api.send("GET", path, None, headers);
            assert_eq!(reply.status, 403, "{path} {headers:?} {reply:?}");
        }
        let reply = api.send("POST", "/api/v1/tasks", Some(r#"{"plan":"x"}"#), headers);
        assert_eq!(reply.status, 403, "{headers:?}");
        for path in sockets {
            assert_eq!(api.upgrade(path, headers), 403, "{path} {headers:?}");
        }
    }
    for token in
        ["", "hwu_", "hwu_0000000000000000000000000000000000000000000000000000000000000000"]
    {
        let stranger = api.as_other(token);
        for path in ["/api/v1/tasks", "/api/v1/daemons", "/api/v1/tokens", "/api/v1/users"] {
            assert_eq!(stranger.get(path).status, 401, "{path} {token}");
        }
        assert_eq!(stranger.upgrade("/api/v1/ws/client", &[]), 401);
        let query = format!("/api/v1/tasks?token={}&access_token={0}", api.token);
        assert_eq!(stranger.get(&query).status, 401);
    }
    // the same doors open for the user
    assert_eq!(api.get("/api/v1/tasks").status, 200);
    assert_eq!(api.upgrade("/api/v1/ws/client", &[]), 101);
    assert_eq!(api.get("/api/v1/tasks").json()["tasks"], json!([]));
}

/// Every request that names a task.
const DOORS: [(&str, &str, &str); 15] = [
    ("GET", "", ""),
    ("PATCH", "", r#"{"version":1,"name":"mine"}"#),
    ("DELETE", "", ""),
    ("GET", "/events", ""),
    ("GET", "/subtasks", ""),
    ("GET", "/siblings", ""),
    ("GET", "/usage", ""),
    ("GET", "/traces", ""),
    ("GET", "/diff", ""),
    ("POST", "/run", "{}"),
    ("POST", "/pause", "{}"),
    ("POST", "/resume", "{}"),
    ("POST", "/interrupt", "{}"),
    ("POST", "/cancel", "{}"),
    ("POST", "/message", r#"{"message":"x"}"#),
];

fn knock(api: &Api, door: (&str, &str, &str), task: &str) -> (u16, Value) {
    let (method, path, body) = door;
    let body = (!body.is_empty()).then_some(body);
    let reply = api.send(method, &format!("/api/v1/tasks/{task}{path}"), body, &[]);
    let error = reply.json()["error"].to_string();
    (reply.status, Value::String(error.replace(task, "ID")))
}

#[test]
fn f47_a_foreign_id_and_one_that_never_was_look_alike_at_every_door() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    let api = home.api(&daemon);
    let script = Script::new().sign(home.file("starts")).wait_for(home.file("gate"));
    let task = home.submit(repo.path(), &["--on", "none"], &script);
    home.reaches(&task, "running");
    let before = home.task(&task);
    let never = "01939d3a-7c00-7000-8000-0000deadbeef";

    // somebody of another relay, whose token is good there
    let other = Relay::start();
    let foreign = other.api();
    for door in DOORS {
        let (status, error) = knock(&foreign, door, id(&task));
        assert_eq!((status, &error), (404, &knock(&foreign, door, never).1), "{door:?}");
        assert_eq!(status, knock(&api, door, never).0, "{door:?}");
        let stranger = api.as_other(&foreign.token);
        let (status, error) = knock(&stranger, door, id(&task));
        assert_eq!((status, error), knock(&stranger, door, never), "{door:?}");
        assert_eq!(status, 401, "{door:?}");
    }

    // a viewer looks on; a daemon's token opens nothing here
    let issue = |arguments: &[&str]| {
        let issued = home.json(&[&["token", "create"], arguments].concat());
        issued["token"].as_str().unwrap_or_default().to_owned()
    };
    let viewer = api.as_other(&issue(&["--role", "viewer"]));
    let machine = api.as_other(&issue(&["--kind", "daemon"]));
    for door in DOORS {
        let (status, _) = knock(&viewer, door, id(&task));
        match door.0 {
            "GET" => assert!(status == 200, "{door:?} {status}"),
            _ => assert_eq!(status, 403, "{door:?}"),
        }
        let (status, _) = knock(&machine, door, id(&task));
        assert!(status == 401 || status == 403, "{door:?} {status}");
    }
    assert_eq!(viewer.post("/api/v1/tasks", &json!({ "plan": "x" })).status, 403);
    assert_eq!(viewer.get("/api/v1/tokens").status, 403);
    assert_eq!(home.task(&task)["version"], before["version"], "somebody changed it");

    // a token that was revoked opens nothing any more
    let rows = home.json(&["token", "ls"]);
    let rows = rows["tokens"].as_array().or(rows.as_array()).cloned().unwrap_or_default();
    let row = rows.iter().find(|row| row["role"] == "viewer" && row["kind"] == "user").unwrap();
    home.json(&["token", "revoke", row["id"].as_str().unwrap()]);
    assert_eq!(viewer.get("/api/v1/tasks").status, 401);
    home.open_gate("gate");
    home.reaches(&task, "completed");
}

#[test]
fn metrics_count_what_happened_and_name_nobody() {
    let (home, repo) = (Home::new(), ScratchRepo::new());
    let daemon = home.up();
    home.follow(repo.path(), &[], &Script::new().write("work", "work\n")).expect(0);
    let stranger = home.api(&daemon).as_other("none");
    let reply = stranger.get("/metrics");
    assert_eq!(reply.status, 200, "{reply:?}");
    let value = |name: &str| {
        let line = reply.body.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in:\n{}", reply.body)).trim().parse::<f64>().unwrap()
    };
    assert!(value("hayward_relay_daemons_online") == 1.0);
    assert!(value("hayward_relay_tasks{status=\"running\"}") == 0.0);
    assert!(value("hayward_relay_state_messages_total") >= 4.0);
    let made =
        "hayward_relay_http_requests_total{method=\"POST\",route=\"/api/v1/tasks\",status=\"201\"}";
    assert!(value(made) >= 1.0);
    let daemon = daemon.told["daemonId"].as_str().unwrap();
    assert!(!reply.body.contains(daemon) && !reply.body.contains(repo.path().to_str().unwrap()));
}
