//! A thousand daemons that lose their relay together: plain clients that speak the daemon's part of
//! the wire and wait as it does, against the real relay.

use futures_util::{SinkExt, StreamExt};
use hayward_shared::backoff::Backoff;
use hayward_shared::id::MachineId;
use hayward_tests::relay::Relay;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async};

/// How many.
const HERD: usize = 1_000;

/// No second may have more of them than this: a tenth.
const MOST: usize = HERD / 10;

/// All are back within this.
const BACK: Duration = Duration::from_secs(90);

/// As long as a daemon waits for its welcome.
const GREETING: Duration = Duration::from_secs(10);

/// A silence that a daemon takes for the end of its link.
const SILENCE: Duration = Duration::from_secs(45);

type Link = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What all of the herd share.
struct Herd {
    address: String,
    token: String,
    /// Told whenever one was welcomed: when it was due, for a machine that stands still for a
    /// moment welcomes all that fell due meanwhile together.
    welcomed: mpsc::UnboundedSender<Instant>,
    /// Told how wide one is to spread its return.
    spread: mpsc::UnboundedSender<u64>,
    /// Grows when all are to beat.
    beat: watch::Receiver<u64>,
}

/// A number in 0..1, of an id's random part.
fn roll() -> f64 {
    let random = u32::try_from(MachineId::fresh().0.as_u128() & 0xffff_ffff).unwrap_or_default();
    f64::from(random) / f64::from(u32::MAX)
}

/// One daemon, for ever.
async fn daemon(herd: Arc<Herd>, first: Duration) {
    let (machine, mut backoff, mut beat) =
        (MachineId::fresh(), Backoff::default(), herd.beat.clone());
    let mut wait = first;
    loop {
        let due = Instant::now() + wait;
        sleep(wait).await;
        if let Some(link) = greet(&herd, machine).await {
            herd.welcomed.send(due).unwrap();
            attend(&herd, link, &mut backoff, &mut beat).await;
        }
        wait = Duration::from_millis(backoff.wait_ms(roll()));
    }
}

async fn greet(herd: &Herd, machine: MachineId) -> Option<Link> {
    let dialled = TcpStream::connect(&herd.address).await.ok()?;
    let url = format!("ws://{}/api/v1/ws/daemon", herd.address);
    let greeting = async {
        let (mut link, _) = client_async(url, MaybeTlsStream::Plain(dialled)).await.ok()?;
        let hello = json!({
            "type": "authenticate", "apiKey": herd.token, "machineId": machine, "hostname": "box",
            "maxConcurrentTasks": 1, "protocolVersion": 1, "version": "0.1.0",
            "capabilities": ["outbox", "claim", "outputFrames", "replies", "selfFence"],
            "resume": {"nextSeq": 0, "runs": []},
        });
        link.send(Message::text(hello.to_string())).await.ok()?;
        (hear(&mut link).await?["type"] == "authenticated").then_some(link)
    };
    timeout(GREETING, greeting).await.ok()?
}

async fn hear(link: &mut Link) -> Option<Value> {
    loop {
        match timeout(SILENCE, link.next()).await.ok()?? {
            Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Beats and claims as a daemon does, until the link is gone.
async fn attend(
    herd: &Herd,
    mut link: Link,
    backoff: &mut Backoff,
    beat: &mut watch::Receiver<u64>,
) {
    let mut number = 0;
    loop {
        number += 1;
        let told = json!({"type": "heartbeat", "activeTasks": [], "beat": number});
        if link.send(Message::text(told.to_string())).await.is_err() {
            return;
        }
        loop {
            let told = tokio::select! {
                told = hear(&mut link) => told,
                Ok(()) = beat.changed() => break,
                () = sleep(Duration::from_secs(15)) => break,
            };
            let Some(told) = told else { return };
            if told["type"] == "heartbeatAck" {
                backoff.held();
                if let Some(ms) = told["spreadMs"].as_u64() {
                    backoff.spread_over(ms);
                    herd.spread.send(ms).unwrap();
                }
            }
        }
    }
}

/// The next so many of something, within a bound.
async fn collect<T>(what: &str, from: &mut mpsc::UnboundedReceiver<T>, count: usize) -> Vec<T> {
    let mut came = Vec::new();
    let all = async {
        while came.len() < count {
            came.extend(from.recv().await);
        }
    };
    let in_time = timeout(BACK, all).await.is_ok();
    assert!(in_time, "{what}: {} of {count} within {BACK:?}", came.len());
    came
}

#[test]
fn f34_a_thousand_daemons_come_back_spread_when_their_relay_restarts() {
    let mut relay = Relay::start();
    let token = relay.api().post("/api/v1/tokens", &json!({"kind": "daemon"})).json();
    let token = token["token"].as_str().unwrap().to_owned();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (welcomed, mut welcomes) = mpsc::unbounded_channel();
    let (spread, mut spreads) = mpsc::unbounded_channel();
    let (beat, beats) = watch::channel(0);
    let address = relay.address().to_owned();
    let herd = Arc::new(Herd { address, token, welcomed, spread, beat: beats });
    let mut tasks = JoinSet::new();
    for number in 0..HERD {
        // as machines of a team come up one by one: a hundred a second
        let first = Duration::from_millis(10 * u64::try_from(number).unwrap());
        tasks.spawn_on(daemon(herd.clone(), first), runtime.handle());
    }
    let begun = Instant::now();
    runtime.block_on(collect("they are linked", &mut welcomes, HERD));
    println!("{HERD} daemons were linked after {:?}", begun.elapsed());
    // by now the relay knows how many there are, and tells them with the next beat
    runtime.block_on(async {
        while spreads.try_recv().is_ok() {}
        beat.send_replace(1);
        let wide = async { while spreads.recv().await.is_some_and(|ms| ms < 30_000) {} };
        timeout(BACK, wide).await.unwrap();
        collect("they are told", &mut spreads, HERD - 1).await;
    });
    relay.crash();
    let crashed = Instant::now();
    relay.come_back();
    let back = runtime.block_on(collect("they are back", &mut welcomes, HERD));
    let mut seconds = BTreeMap::new();
    for at in &back {
        *seconds.entry(at.duration_since(crashed).as_secs()).or_insert(0usize) += 1;
    }
    let last = back.iter().max().unwrap().duration_since(crashed);
    println!("all were back {last:?} after the crash; in each second: {seconds:?}");
    let most = seconds.values().max().copied().unwrap();
    assert!(most <= MOST, "{most} came in one second: {seconds:?}");
    assert!(last <= BACK, "{last:?}");
    tasks.abort_all();
    runtime.shutdown_background();
}
