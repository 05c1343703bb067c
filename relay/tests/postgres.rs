//! PostgreSQL beneath the relay: what happens when it goes away, and what is shown of its address.
//! Skipped by name where `HAYWARD_TEST_POSTGRES` names no server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{House, house_with, schema};
use hayward_relay::{Config, Database, Relay, StartError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

fn is_there(test: &str) -> bool {
    let there = std::env::var("HAYWARD_TEST_POSTGRES").is_ok();
    if !there {
        eprintln!("SKIP {test}: HAYWARD_TEST_POSTGRES is not set");
    }
    there
}

/// A way to the server that can be cut.
struct Cable {
    url: String,
    cut: Arc<watch::Sender<bool>>,
    /// While it is, nothing passes, and nobody is told; whoever was connected never hears again.
    quiet: Arc<watch::Sender<bool>>,
}

impl Cable {
    async fn lay(url: &str) -> Self {
        let (before, rest) = url.split_once('@').unwrap();
        let (server, name) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(watch::channel(false).0);
        let quiet = Arc::new(watch::channel(false).0);
        let (server, state, silence) = (server.to_owned(), cut.clone(), quiet.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.subscribe();
                if *state.borrow() {
                    continue;
                }
                let (server, mut silence) = (server.clone(), silence.subscribe());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    let is_quiet = tokio::select! {
                        biased;
                        quiet = silence.wait_for(|quiet| *quiet) => quiet.is_ok(),
                        _ = state.wait_for(|cut| *cut) => false,
                        _ = copy_bidirectional(&mut near, &mut far) => false,
                    };
                    if is_quiet {
                        // both ends stay, and nothing passes any more
                        std::future::pending::<()>().await;
                        drop((near, far));
                    }
                });
            }
        });
        Self { url: format!("{before}@127.0.0.1:{port}/{name}"), cut, quiet }
    }
}

async fn create(house: &House, key: Uuid) -> (u16, Value) {
    let request = house
        .http
        .post(house.url("/api/v1/tasks"))
        .bearer_auth(house.owner.token.expose())
        .header("Idempotency-Key", key.to_string())
        .json(&json!({"plan": "x"}));
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_is_503_and_heals_and_leaves_nothing_half_stored() {
    if !is_there("a lost database is 503 and heals") {
        return;
    }
    let cable = Cable::lay(&schema().await).await;
    let database: Database = cable.url.parse().unwrap();
    let house = house_with(|config| config.database = database).await;
    let keys: Vec<_> = (0..24).map(|_| Uuid::now_v7()).collect();
    let mut open = keys.clone();
    let mut refused = 0;
    for round in 0..6 {
        cable.cut.send_replace(round % 2 == 1);
        let is_there = round % 2 == 0;
        let begun = Instant::now();
        let mut left = loop {
            let asked = open.iter().map(|key| create(&house, *key));
            let answers = futures_util::future::join_all(asked).await;
            let mut left = Vec::new();
            for (key, (status, answer)) in open.iter().zip(answers) {
                match status {
                    200 | 201 if is_there => assert_eq!(answer["id"], key.to_string()),
                    503 => {
                        assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
                        assert_eq!(answer["error"]["retryable"], true, "{answer}");
                        left.push(*key);
                    }
                    _ => panic!("round {round}: {status} {answer}"),
                }
            }
            // many connect at once: on a slow machine some of them too late
            if !is_there || left.is_empty() {
                break left;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not heal");
            open = left;
        };
        if !is_there {
            assert!(begun.elapsed() < Duration::from_secs(30), "it hung");
            refused += left.len();
        }
        // those that were not refused are asked for again as well: nothing is made twice
        if left.is_empty() {
            left.clone_from(&keys);
        }
        open = left;
    }
    assert_eq!(refused, 24 * 3);
    cable.cut.send_replace(false);
    let page = house.get("/api/v1/tasks?limit=200").await;
    assert_eq!(page["tasks"].as_array().unwrap().len(), keys.len());
    for key in keys {
        assert_eq!(house.events(&key.to_string()).await.len(), 1);
    }
    house.stop().await;
}

#[tokio::test]
async fn a_database_that_cannot_be_had_is_named_without_its_password() {
    // bound and never listening: nobody else may listen there meanwhile
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    let name = format!("postgres://me:geheim@127.0.0.1:{port}/relay");
    let database: Database = name.parse().unwrap();
    let config = Config::new(database, "127.0.0.1:0".parse().unwrap());
    let shown = format!("{config:?}");
    let error = Relay::start(config).await.unwrap_err();
    let mut told = format!("{error} {error:?} {shown}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        told.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    assert!(told.contains(&format!("postgres://me@127.0.0.1:{port}/relay")), "{told}");
    assert!(!told.contains("geheim"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_relays_that_start_at_once_on_an_empty_database_one_founds_it_and_serves() {
    if !is_there("of relays that start at once one founds a database and serves") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = schema().await;
    let start = |nth: usize| {
        let mut config =
            Config::new(name.parse::<Database>().unwrap(), "127.0.0.1:0".parse().unwrap());
        config.owner_token = Some(folder.path().join(format!("{nth}.token")));
        Relay::start(config)
    };
    let relays = futures_util::future::join_all((0..3).map(start)).await;
    let (relays, refused): (Vec<_>, Vec<_>) = relays.into_iter().partition(Result::is_ok);
    assert_eq!((relays.len(), refused.len()), (1, 2));
    let relay = relays.into_iter().next().unwrap().unwrap();
    for error in refused {
        let told = error.unwrap_err().to_string();
        assert!(told.contains(&relay.address().to_string()), "{told}");
        assert!(told.contains("--bus") && !told.contains("hayward:"), "{told}");
    }
    assert!(relay.bootstrap().is_some());
    let first = relay.first_workspace().await.unwrap();
    relay.stop().await;
    // its place is free as soon as it has stopped
    let next = start(9).await.unwrap();
    assert!(next.bootstrap().is_none());
    assert_eq!(next.first_workspace().await.unwrap(), first);
    next.stop().await;
}

#[tokio::test]
async fn a_first_token_that_cannot_be_written_founds_nothing() {
    if !is_there("a first token that cannot be written founds nothing") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = schema().await;
    let start = |token: &str| {
        let mut config =
            Config::new(name.parse::<Database>().unwrap(), "127.0.0.1:0".parse().unwrap());
        config.owner_token = Some(folder.path().join(token));
        Relay::start(config)
    };
    let error = start("not/there/owner.token").await.unwrap_err();
    assert!(matches!(error, StartError::Token { .. }), "{error:?}");
    // so the next start founds it, and its token is not lost
    let relay = start("owner.token").await.unwrap();
    let first = relay.bootstrap().unwrap().token.expose().to_owned();
    let written = std::fs::read_to_string(folder.path().join("owner.token")).unwrap();
    assert_eq!(written.trim(), first);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_falls_silent_hangs_nobody_and_what_it_held_is_let_go() {
    if !is_there("a server that falls silent hangs nobody") {
        return;
    }
    let cable = Cable::lay(&schema().await).await;
    let database: Database = cable.url.parse().unwrap();
    let house = house_with(|config| config.database = database).await;
    let ask = |keys: Vec<Uuid>| async {
        futures_util::future::join_all(keys.into_iter().map(|key| create(&house, key))).await
    };
    let keys = || (0..16).map(|_| Uuid::now_v7()).collect::<Vec<_>>();
    // many connect at once, on a slow machine some of them too late: until all of them are there
    let serves = || async { while ask(keys()).await.iter().any(|(status, _)| *status != 201) {} };
    tokio::time::timeout(Duration::from_secs(60), serves()).await.expect("it does not serve");
    // it falls silent while changes are under way, and all that come after wait for it
    let (quiet, begun) = (cable.quiet.clone(), Instant::now());
    let (under_way, ()) = tokio::join!(ask([keys(), keys()].concat()), async {
        quiet.send_replace(true);
    });
    for (status, answer) in under_way {
        assert!(matches!(status, 201 | 503), "{status} {answer}");
    }
    for (status, answer) in ask(keys()).await {
        assert_eq!(status, 503, "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "it hung for {:?}", begun.elapsed());
    // the way is there again, but for the connections that it had
    cable.quiet.send_replace(false);
    tokio::time::timeout(Duration::from_secs(60), serves()).await.expect("it does not heal");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_task_that_another_holds_keeps_no_link_busy_and_is_claimed_once_it_is_free() {
    if !is_there("a queued task that another holds keeps no link busy") {
        return;
    }
    let url = schema().await;
    let database: Database = url.parse().unwrap();
    let house = house_with(|config| config.database = database).await;
    let id = house.make(json!({"plan": "x"})).await;
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut side = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let mut holding = sqlx::Connection::begin(&mut side).await.unwrap();
    sqlx::query("SELECT id FROM tasks FOR UPDATE").execute(&mut *holding).await.unwrap();
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    // a daemon claims whenever it is told that there may be work
    daemon.claim(1).await;
    while daemon.socket.hear().await.unwrap()["type"] != "workAvailable" {}
    daemon.claim(1).await;
    let mut hints = 1;
    let end = tokio::time::Instant::now() + Duration::from_secs(2);
    while let Ok(message) = tokio::time::timeout_at(end, daemon.socket.hear()).await {
        assert_ne!(message.as_ref().unwrap()["type"], "spawnTask");
        if message.unwrap()["type"] == "workAvailable" {
            hints += 1;
            daemon.claim(1).await;
        }
    }
    assert!(hints < 20, "{hints} hints in two seconds");
    holding.rollback().await.unwrap();
    loop {
        match daemon.socket.hear().await.unwrap() {
            message if message["type"] == "spawnTask" => {
                assert_eq!(message["taskId"], id);
                break;
            }
            message if message["type"] == "workAvailable" => daemon.claim(1).await,
            _ => {}
        }
    }
    house.stop().await;
}
