//! What a daemon that is linked and idle costs the relay: memory with 5,000 of them, and the
//! processor time of their beats.
//!
//!     cargo bench -p hayward-relay --bench links

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it measures, and prints what it finds"
)]

mod shipped;

use serde_json::json;
use shipped::link::{Link, frame};
use shipped::{Shipped, kib, processor, result};
use std::io::Write;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

const LINKS: usize = 5_000;

/// As many link at once; each thread then beats for its share.
const THREADS: usize = 16;

/// A daemon's time between two beats.
const BEAT: Duration = Duration::from_secs(15);

/// Beats of each daemon before anything is weighed, and while the processor's time is counted.
const BEATS: u32 = 2;

fn main() {
    let relay = Shipped::start(None);
    let token = relay.daemon_token();
    let weight = || (kib(relay.pid(), "VmRSS:"), kib(relay.pid(), "RssAnon:"));
    // what the first ones bring with them is not theirs
    drop((0..64).map(|_| Link::daemon(&relay, &token, 4)).collect::<Vec<_>>());
    std::thread::sleep(Duration::from_secs(1));
    let (empty, spare) = weight();
    let (linked, beaten) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for nth in 0..THREADS {
            let share = LINKS / THREADS + usize::from(nth < LINKS % THREADS);
            let (relay, token, linked, beaten) = (&relay, &token, &linked, &beaten);
            scope.spawn(move || {
                let mut links: Vec<_> = (0..share).map(|_| Link::daemon(relay, token, 4)).collect();
                linked.wait();
                for _ in 0..BEATS {
                    beat(&mut links);
                }
                beaten.wait();
                // nobody goes before all is weighed
                linked.wait();
            });
        }
        linked.wait();
        let took = begun.elapsed().as_secs_f64();
        println!("{LINKS} daemons came in within {took:.1} s, {:.0} a second", LINKS as f64 / took);
        let before = processor(relay.pid());
        beaten.wait();
        let spent = (processor(relay.pid()) - before).as_secs_f64();
        let time = BEAT.as_secs_f64() * f64::from(BEATS);
        println!(
            "beating every {} s they take {:.1} % of one processor, {:.0} µs a beat",
            BEAT.as_secs(),
            100.0 * spent / time,
            spent * 1e6 / (LINKS as f64 * f64::from(BEATS))
        );
        let (full, own) = weight();
        println!("the relay: {empty} KiB with none, {full} KiB with {LINKS}");
        let each = (full.saturating_sub(empty)) as f64 / LINKS as f64;
        let anon = (own.saturating_sub(spare)) as f64 / LINKS as f64;
        println!("of one link: {each:.1} KiB resident, {anon:.1} KiB of it no file's");
        result(
            &format!("memory of an idle link, {LINKS} of them"),
            &format!("{each:.1} KiB"),
            "<= 20 KiB",
            each <= 20.0,
        );
        linked.wait();
    });
}

/// One beat of each, spread over the time that there is for it.
fn beat(links: &mut [Link]) {
    let begun = Instant::now();
    let mut bytes = Vec::new();
    let text = json!({"type": "heartbeat", "activeTasks": []}).to_string();
    frame(&mut bytes, &Message::text(text));
    let each = BEAT / u32::try_from(links.len()).unwrap();
    for (link, nth) in links.iter_mut().zip(0..) {
        link.socket.get_mut().write_all(&bytes).unwrap();
        std::thread::sleep((each * nth).saturating_sub(begun.elapsed()));
    }
    std::thread::sleep(BEAT.saturating_sub(begun.elapsed()));
}
