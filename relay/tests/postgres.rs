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
use hayward_relay::{Config, Database, Relay};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
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
}

impl Cable {
    async fn lay(url: &str) -> Self {
        let (before, rest) = url.split_once('@').unwrap();
        let (server, name) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(watch::channel(false).0);
        let (server, state) = (server.to_owned(), cut.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.subscribe();
                if *state.borrow() {
                    continue;
                }
                let server = server.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { url: format!("{before}@127.0.0.1:{port}/{name}"), cut }
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
        let begun = Instant::now();
        let asked = open.iter().map(|key| create(&house, *key));
        let answers = futures_util::future::join_all(asked).await;
        let mut left = Vec::new();
        for (key, (status, answer)) in open.iter().zip(answers) {
            match status {
                200 | 201 if round % 2 == 0 => assert_eq!(answer["id"], key.to_string()),
                503 => {
                    assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
                    assert_eq!(answer["error"]["retryable"], true, "{answer}");
                    refused += 1;
                    left.push(*key);
                }
                _ => panic!("round {round}: {status} {answer}"),
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it hung");
        // those that were not refused are asked for again as well: nothing is made twice
        open = if left.is_empty() { keys.clone() } else { left };
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
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
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
async fn relays_that_start_at_once_on_an_empty_database_found_it_once() {
    if !is_there("relays that start at once found a database once") {
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
    let relays: Vec<_> = relays.into_iter().map(Result::unwrap).collect();
    assert_eq!(relays.iter().filter(|relay| relay.bootstrap().is_some()).count(), 1);
    let first = relays[0].first_workspace().await.unwrap();
    assert!(first.is_some());
    for relay in relays {
        assert_eq!(relay.first_workspace().await.unwrap(), first);
        relay.stop().await;
    }
}
