//! The state lane: 64 daemons send events as fast as they are taken, over real sockets, each event
//! durable before its ack; against a bare loop that stores rows of the same size in the same place.
//! On SQLite the loop commits 100 rows at a time; on PostgreSQL (`HAYWARD_TEST_STORE=postgres`,
//! `HAYWARD_TEST_POSTGRES=URL`) it stores one row a statement. Then how long a lone event waits
//! for its ack, against a bare commit of one row.
//!
//!     cargo bench -p hayward-relay --bench lane

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "it measures, and prints what it finds"
)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use futures_util::{SinkExt, StreamExt};
use harness::{Daemon, House, Run, house, on_postgres, schema};
use serde_json::json;
use sqlx::{Connection, Executor};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

const DAEMONS: usize = 64;
const ROUNDS: usize = 3;
const LONE: usize = 200;

fn events() -> usize {
    std::env::var("HAYWARD_BENCH_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000)
}

#[tokio::main]
async fn main() {
    let house = house().await;
    let mut daemons = Vec::new();
    for _ in 0..DAEMONS {
        daemons.push(running(&house).await);
    }
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (rate, back) = crowd(daemons).await;
        daemons = back;
        let bare = if on_postgres() { postgres(events()).await } else { sqlite(&house).await };
        println!("lane {rate:>9.0} events/s   bare {bare:>9.0} rows/s   {:.2}", rate / bare);
        ratios.push(rate / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("lane against bare, median of {ROUNDS}: {:.2}", ratios[ROUNDS / 2]);
    let (mut daemon, run) = daemons.pop().unwrap();
    let mut waits = Vec::new();
    for nth in 0..LONE {
        let begun = Instant::now();
        daemon.store(event(&run, nth)).await;
        waits.push(begun.elapsed());
    }
    let mut bare = if on_postgres() { Vec::new() } else { commits(&house).await };
    show("a lone event, from its sending to its ack", &mut waits);
    if !bare.is_empty() {
        show("a bare commit of one row", &mut bare);
    }
    house.stop().await;
}

fn show(what: &str, waits: &mut [Duration]) {
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!("{what}: p50 {:?}, p99 {:?}", at(0.5), at(0.99));
}

/// A daemon with a run that it reports on.
async fn running(house: &House) -> (Daemon, Run) {
    let token = house.daemon_token().await;
    let mut daemon = house.daemon(Uuid::now_v7(), &token, &[]).await;
    house.make(json!({"plan": "x", "wantedDaemonId": daemon.welcome["daemonId"]})).await;
    let run = daemon.claim_one().await;
    daemon.store(run.status("dispatched", "running")).await;
    (daemon, run)
}

fn event(run: &Run, nth: usize) -> serde_json::Value {
    run.event("tool.started", json!({ "nth": nth, "toolName": "read", "text": "x".repeat(120) }))
}

/// All daemons at once, each until its last event is acked; events a second.
async fn crowd(daemons: Vec<(Daemon, Run)>) -> (f64, Vec<(Daemon, Run)>) {
    let begun = Instant::now();
    let all: Vec<_> = daemons.into_iter().map(|(d, r)| tokio::spawn(pour(d, r))).collect();
    let mut back = Vec::new();
    for one in all {
        back.push(one.await.unwrap());
    }
    ((DAEMONS * events()) as f64 / begun.elapsed().as_secs_f64(), back)
}

async fn pour(daemon: Daemon, run: Run) -> (Daemon, Run) {
    let Daemon { socket, next, welcome } = daemon;
    let (mut sink, mut stream) = socket.inner.split();
    let last = next + events() as u64;
    let texts: Vec<_> = (next..last)
        .map(|seq| {
            let mut message = event(&run, 0);
            message["seq"] = seq.into();
            Message::text(message.to_string())
        })
        .collect();
    let send = async {
        for text in texts {
            sink.feed(text).await.unwrap();
        }
        sink.flush().await.unwrap();
    };
    let hear = async {
        loop {
            let Some(Ok(frame)) = stream.next().await else { panic!("the link ended") };
            let Message::Text(text) = frame else { continue };
            let told: serde_json::Value = serde_json::from_str(&text).unwrap();
            if told["type"] == "ack" && told["upTo"].as_u64().unwrap() + 1 >= last {
                return;
            }
        }
    };
    tokio::join!(send, hear);
    let inner = sink.reunite(stream).unwrap();
    (Daemon { socket: harness::Socket { inner }, next: last, welcome }, run)
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS bare (workspace_id TEXT NOT NULL, \
     stream TEXT NOT NULL, seq BIGINT NOT NULL, kind TEXT NOT NULL, document TEXT NOT NULL, \
     PRIMARY KEY (workspace_id, stream, seq))";
const INSERT: &str = "INSERT INTO bare VALUES ($1, $2, $3, $4, $5)";

async fn bare(house: &House) -> sqlx::SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(house.folder.path().join("bare.db"))
        .create_if_missing(true)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Full);
    let mut side = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    side.execute(TABLE).await.unwrap();
    side
}

/// 100 rows a commit.
async fn sqlite(house: &House) -> f64 {
    let mut side = bare(house).await;
    let (stream, document) = (Uuid::now_v7().to_string(), "x".repeat(500));
    let rows = DAEMONS * events();
    let begun = Instant::now();
    let mut seq = 0_i64;
    while (seq as usize) < rows {
        let mut tx = side.begin().await.unwrap();
        for _ in 0..100 {
            let row = sqlx::query(INSERT).bind("w").bind(&stream).bind(seq).bind("k");
            row.bind(&document).execute(&mut *tx).await.unwrap();
            seq += 1;
        }
        tx.commit().await.unwrap();
    }
    seq as f64 / begun.elapsed().as_secs_f64()
}

/// One row a commit: how long each takes.
async fn commits(house: &House) -> Vec<Duration> {
    let mut side = bare(house).await;
    let (stream, document) = (Uuid::now_v7().to_string(), "x".repeat(500));
    let mut waits = Vec::new();
    for seq in 0..LONE as i64 {
        let begun = Instant::now();
        let row = sqlx::query(INSERT).bind("w").bind(&stream).bind(seq).bind("k");
        row.bind(&document).execute(&mut side).await.unwrap();
        waits.push(begun.elapsed());
    }
    waits
}

/// One row a statement.
async fn postgres(rows: usize) -> f64 {
    let options: sqlx::postgres::PgConnectOptions = schema().await.parse().unwrap();
    let mut side = sqlx::PgConnection::connect_with(&options).await.unwrap();
    side.execute(TABLE).await.unwrap();
    let document = "x".repeat(500);
    let begun = Instant::now();
    for seq in 0..rows as i64 {
        let row = sqlx::query(INSERT).bind("w").bind("s").bind(seq).bind("k");
        row.bind(&document).execute(&mut side).await.unwrap();
    }
    rows as f64 / begun.elapsed().as_secs_f64()
}
