//! The output lane: binary frames from a daemon through the relay to a subscriber, who are let in
//! and subscribed as users are; against a bare forwarder on the same WebSocket library that flushes
//! once for all frames at hand, against Node's `ws` (`HAYWARD_BENCH_WS`: the folder that it was
//! installed into), and for latencies against NATS core (`HAYWARD_TEST_NATS`). Each is a process of its
//! own, and is given the same bytes over plain sockets by one producer and one subscriber.
//!
//!     cargo bench -p hayward-relay --bench lane

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "it measures, and prints what it finds"
)]

#[path = "lane/forward.rs"]
mod forward;
#[path = "lane/road.rs"]
mod road;
mod shipped;

use road::{Road, Times};
use shipped::{ROUNDS, Shipped, at, median, result, skip};
use std::time::Duration;

/// Bytes of a frame, and how many go in a round.
const SIZES: [(usize, u64); 2] = [(200, 400_000), (4096, 100_000)];

/// Frames a second where latencies are measured, and how many go in a round.
const PACE: (u32, u64) = (5_000, 6_000);

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "forward") {
        return forward::serve();
    }
    let relay = Shipped::start(None);
    let mut ours = Road::through_relay(&relay);
    let mut bare = Road::through_forwarder();
    let mut node = std::env::var("HAYWARD_BENCH_WS").ok().map(|folder| Road::through_node(&folder));
    let mut nats = std::env::var("HAYWARD_TEST_NATS").ok().map(|url| Road::through_nats(&url));
    for (size, count) in SIZES {
        throughput(size, count, &mut ours, &mut bare, node.as_mut());
    }
    for (size, _) in SIZES {
        latency(size, &mut ours, &mut bare, nats.as_mut());
    }
    drop((ours, bare, node, nats));
}

fn throughput(
    size: usize,
    count: u64,
    ours: &mut Road,
    bare: &mut Road,
    mut node: Option<&mut Road>,
) {
    let (mut mine, mut plain, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        mine.push(ours.pour(size, count));
        plain.push(bare.pour(size, count));
        if let Some(node) = &mut node {
            theirs.push(node.pour(size, count));
        }
    }
    show(size, "relay", &mine);
    show(size, "bare forwarder", &plain);
    compare(&format!("output, {size} B / bare forwarder"), 0.7, &mine, &plain);
    let what = format!("output, {size} B / Node ws");
    if theirs.is_empty() {
        return skip(&what, "npm's ws is not here");
    }
    show(size, "Node ws", &theirs);
    compare(&what, if size < 1024 { 3.0 } else { 2.0 }, &mine, &theirs);
}

fn show(size: usize, who: &str, rounds: &[Times]) {
    let of = |field: fn(&Times) -> f64| median(&rounds.iter().map(field).collect::<Vec<_>>());
    println!(
        "{size} B through {who}: {:.0} frames/s; {:.2} µs of its processor a frame, busy {:.2}; \
         {:.2} µs of ours, busy {:.2}",
        of(|t| t.rate),
        of(|t| t.theirs),
        of(|t| t.rate * t.theirs / 1e6),
        of(|t| t.own),
        of(|t| t.rate * t.own / 1e6),
    );
}

fn compare(what: &str, limit: f64, mine: &[Times], theirs: &[Times]) {
    let ratios: Vec<_> = mine.iter().zip(theirs).map(|(a, b)| a.rate / b.rate).collect();
    let ratio = median(&ratios);
    result(what, &format!("{ratio:.2}x"), &format!(">= {limit}x"), ratio >= limit);
}

fn latency(size: usize, ours: &mut Road, bare: &mut Road, mut nats: Option<&mut Road>) {
    let (mut mine, mut plain, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        mine.push(quantiles(&ours.paced(size, PACE)));
        plain.push(quantiles(&bare.paced(size, PACE)));
        if let Some(nats) = &mut nats {
            theirs.push(quantiles(&nats.paced(size, PACE)));
        }
    }
    let middle = |rounds: &[(f64, f64)]| {
        let (p50, p99): (Vec<_>, Vec<_>) = rounds.iter().copied().unzip();
        (median(&p50), median(&p99))
    };
    for (who, rounds) in [("relay", &mine), ("bare forwarder", &plain), ("NATS", &theirs)] {
        if !rounds.is_empty() {
            let (p50, p99) = middle(rounds);
            println!("{size} B at {}/s through {who}: p50 {p50:.0} µs, p99 {p99:.0} µs", PACE.0);
        }
    }
    let what = format!("output, {size} B at 5 k/s, p99 / NATS core");
    if theirs.is_empty() {
        return skip(&what, "there is no nats-server");
    }
    let ratios: Vec<_> = mine.iter().zip(&theirs).map(|(a, b)| a.1 / b.1).collect();
    let ratio = median(&ratios);
    result(&what, &format!("{ratio:.2}x"), "<= 1x", ratio <= 1.0);
}

fn quantiles(waits: &[Duration]) -> (f64, f64) {
    let micros: Vec<_> = waits.iter().map(|wait| wait.as_secs_f64() * 1e6).collect();
    (at(&micros, 0.5), at(&micros, 0.99))
}
