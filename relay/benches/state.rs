//! The state lane: 64 daemons send events as fast as they are taken, each event durable before its
//! ack; against a bare loop that stores rows of the same size in the same place. On SQLite the loop
//! stores 100 rows a commit, on PostgreSQL (`HAYWARD_TEST_POSTGRES`) one row a statement. Then how long
//! a lone event waits for its ack, against a bare commit of one row.
//!
//!     cargo bench -p hayward-relay --bench state

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it measures, and prints what it finds"
)]

mod shipped;

use shipped::bare::{self, Bare};
use shipped::link::{Link, Run};
use shipped::{ROUNDS, Shipped, at, median, processor, result, skip};
use std::io::Write;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

const DAEMONS: usize = 64;

/// Events of each daemon in a round.
const EVENTS: u64 = 1_000;

/// Lone events, and as many bare commits.
const LONE: usize = 500;

/// Single rows are stored for so long in a round.
const SINGLES: Duration = Duration::from_secs(1);

fn main() {
    let relay = Shipped::start(None);
    let bare = Bare::sqlite(relay.folder.path());
    measure("SQLite", &relay, bare, 0.5, |bare| bare.groups(DAEMONS as i64 * EVENTS as i64));
    drop(relay);
    let Some(schema) = bare::schema() else {
        return skip("state, PostgreSQL", "there is no server");
    };
    let relay = Shipped::start(Some(&schema));
    let bare = Bare::postgres(&schema);
    measure("PostgreSQL", &relay, bare, 15.0, |bare| bare.singles(SINGLES));
}

fn measure(
    store: &str,
    relay: &Shipped,
    mut bare: Bare,
    limit: f64,
    peer: impl Fn(&mut Bare) -> f64,
) {
    let token = relay.daemon_token();
    let mut daemons: Vec<_> = (0..DAEMONS)
        .map(|_| {
            let mut link = Link::daemon(relay, &token, 4);
            let run = link.running(relay);
            (link, run)
        })
        .collect();
    let (mut ratios, mut rates, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = processor(relay.pid());
        let rate = crowd(&mut daemons);
        let spent = processor(relay.pid()) - before;
        let rows = peer(&mut bare);
        let cost = spent.as_secs_f64() * 1e6 / (DAEMONS as u64 * EVENTS) as f64;
        println!(
            "{store}: {rate:.0} events/s, {cost:.1} µs each, busy {:.2}; bare {rows:.0} rows/s",
            rate * cost / 1e6
        );
        ratios.push(rate / rows);
        rates.push(rate);
        costs.push(cost);
    }
    println!(
        "{store}: median {:.0} events/s, {:.1} µs of the relay's processor each",
        median(&rates),
        median(&costs)
    );
    let ratio = median(&ratios);
    let what = format!("state, {DAEMONS} daemons, {store} / bare rows");
    result(&what, &format!("{ratio:.2}x"), &format!(">= {limit}x"), ratio >= limit);
    let (link, run) = &mut daemons[0];
    lone(store, link, run, &mut bare);
}

/// All daemons at once, each until its last event is acked; events a second.
fn crowd(daemons: &mut [(Link, Run)]) -> f64 {
    let texts: Vec<_> = daemons.iter().map(|(link, run)| events(link.next, run)).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for ((link, _), texts) in daemons.iter_mut().zip(texts) {
            scope.spawn(move || {
                link.next += EVENTS;
                // acks are few and small: they wait until all is written
                link.socket.get_mut().write_all(&texts).unwrap();
                while link.until("ack")["upTo"].as_u64().unwrap() + 1 < link.next {}
            });
        }
    });
    (daemons.len() as u64 * EVENTS) as f64 / begun.elapsed().as_secs_f64()
}

/// What a daemon sends in a round, as it goes over the wire.
fn events(next: u64, run: &Run) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seq in next..next + EVENTS {
        let mut message = run.event(seq);
        message["seq"] = seq.into();
        shipped::link::frame(&mut bytes, &Message::text(message.to_string()));
    }
    bytes
}

fn lone(store: &str, link: &mut Link, run: &Run, bare: &mut Bare) {
    let (mut waits, mut commits) = (Vec::new(), Vec::new());
    for nth in 0..LONE as u64 {
        let begun = Instant::now();
        link.store(run.event(nth));
        waits.push(begun.elapsed().as_secs_f64() * 1e3);
        commits.push(bare.one().as_secs_f64() * 1e3);
    }
    let (p50, p99) = (at(&waits, 0.5), at(&waits, 0.99));
    let (own50, own99) = (at(&commits, 0.5), at(&commits, 0.99));
    println!(
        "{store}: a lone event, from sent to acked: p50 {p50:.2} ms, p99 {p99:.2} ms; a bare commit: p50 {own50:.2} ms, p99 {own99:.2} ms"
    );
    let beyond = (p50 - own50).max(p99 - own99);
    let what = format!("state, {store}: a lone event beyond a commit");
    result(&what, &format!("{beyond:.2} ms"), "<= 5 ms", beyond <= 5.0);
}
