//! A SQLite relay moved into PostgreSQL, over the real databases. Skipped by name where
//! `HAYWARD_TEST_POSTGRES` names no server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod harness;

use harness::{House, house_with, schema};
use hayward_relay::{Config, Database, MoveError, Relay, StoreError, migrate};
use serde_json::{Value, json};
use std::path::Path;
use uuid::Uuid;

/// What a client sees of a relay.
async fn seen(base: &str, token: &str, tasks: &[String]) -> Vec<Value> {
    let http = reqwest::Client::new();
    let mut paths = vec!["/api/v1/tasks?limit=200".to_owned(), "/api/v1/users".to_owned()];
    paths.extend(["/api/v1/tokens".to_owned(), "/api/v1/tasks?label=k%3Dv".to_owned()]);
    for id in tasks {
        paths.push(format!("/api/v1/tasks/{id}/events?limit=200"));
        paths.push(format!("/api/v1/tasks/{id}/usage"));
    }
    let mut all = Vec::new();
    for path in paths {
        let answer = http.get(format!("{base}{path}")).bearer_auth(token).send().await.unwrap();
        let mut value: Value = answer.json().await.unwrap();
        // when a token was last used changes by looking
        for token in value["tokens"].as_array_mut().into_iter().flatten() {
            token.as_object_mut().unwrap().remove("lastUsedAt");
        }
        all.push(value);
    }
    all
}

async fn lived_in(house: &House) -> Vec<String> {
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    let mut tasks = Vec::new();
    for nth in 0..5 {
        let order = json!({"plan": "\u{fffd} x", "labels": {"k": "v"}, "priority": nth});
        tasks.push(house.make(order).await);
    }
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    for nth in 0..300 {
        daemon.report(run.event("task.message", json!({ "nth": nth }))).await;
    }
    daemon.store(run.event("task.message", json!({ "last": true }))).await;
    daemon.store(run.status("running", "completed")).await;
    house.until(&run.task, "completed").await;
    tasks
}

async fn rows(url: &str) -> i64 {
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut side = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::query_scalar("SELECT (SELECT COUNT(*) FROM workspaces) + (SELECT COUNT(*) FROM tasks)")
        .fetch_one(&mut side)
        .await
        .unwrap()
}

async fn rename_owner(file: &Path, name: &str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut side = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let rename = sqlx::query("UPDATE users SET name = $1").bind(name);
    rename.execute(&mut side).await.unwrap();
}

#[tokio::test]
async fn all_of_a_relay_is_moved_or_nothing_and_only_into_an_empty_database() {
    if std::env::var("HAYWARD_TEST_POSTGRES").is_err() {
        eprintln!("SKIP a relay is moved into PostgreSQL: HAYWARD_TEST_POSTGRES is not set");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.db");
    let house = house_with(|config| config.database = (&file).into()).await;
    let tasks = lived_in(&house).await;
    let owner = house.owner.token.expose().to_owned();
    let before = seen(&house.url(""), &owner, &tasks).await;
    let (from, url) = (Database::from(&file), schema().await);
    let to: Database = url.parse().unwrap();
    // while somebody serves either of them nothing is moved
    let error = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(&error, MoveError::Store(StoreError::InUse { .. })), "{error:?}");
    house.stop().await;
    let target = tempfile::tempdir().unwrap();
    let elsewhere = schema().await.parse::<Database>().unwrap();
    let mut config = Config::new(elsewhere.clone(), "127.0.0.1:0".parse().unwrap());
    config.owner_token = Some(target.path().join("owner.token"));
    let relay = Relay::start(config).await.unwrap();
    let error = migrate(&from, &elsewhere).await.unwrap_err();
    let served =
        matches!(&error, MoveError::Served(by) if by.contains(&relay.address().to_string()));
    assert!(served, "{error:?}");
    relay.stop().await;

    // PostgreSQL takes no NUL: the move breaks off in its second table
    rename_owner(&file, "ow\u{0}ner").await;
    assert!(matches!(migrate(&from, &to).await, Err(MoveError::Store(_))));
    assert_eq!(rows(&url).await, 0);

    rename_owner(&file, "owner").await;
    let moved = migrate(&from, &to).await.unwrap();
    assert!(moved.tables.contains(&("tasks", 5)));
    let events = moved.tables.iter().find(|(name, _)| *name == "events").unwrap().1;
    assert!(events > 300, "{events}");
    let again = migrate(&from, &to).await;
    assert!(matches!(again, Err(MoveError::NotEmpty { table: "workspaces", rows: 1 })));

    let relay = Relay::start(Config::new(to, "127.0.0.1:0".parse().unwrap())).await.unwrap();
    assert!(relay.bootstrap().is_none());
    let after = seen(&format!("http://{}", relay.address()), &owner, &tasks).await;
    assert_eq!(after, before);
    relay.stop().await;
    // and the source is what it was
    let relay = Relay::start(Config::new(&file, "127.0.0.1:0".parse().unwrap())).await.unwrap();
    assert_eq!(seen(&format!("http://{}", relay.address()), &owner, &tasks).await, before);
    relay.stop().await;
}

#[tokio::test]
async fn a_move_that_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let absent = Database::from(folder.path().join("none.db"));
    let to: Database = "postgres://me:geheim@127.0.0.1:1/x".parse().unwrap();
    assert!(matches!(migrate(&absent, &to).await, Err(MoveError::Absent(_))));
    assert!(!folder.path().join("none.db").exists());
    assert!(matches!(migrate(&to, &absent).await, Err(MoveError::Kinds)));
    assert!(matches!(migrate(&absent, &absent).await, Err(MoveError::Kinds)));
}
