//! Claims while 10,000 tasks are queued: from a daemon's `claim` to the `spawnTask` that answers it,
//! against a bare commit of one row in the same place; on SQLite, and where `HAYWARD_TEST_POSTGRES`
//! names a server, there.
//!
//!     cargo bench -p hayward-relay --bench claim

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it measures, and prints what it finds"
)]

mod shipped;

use serde_json::json;
use shipped::bare::{self, Bare};
use shipped::link::Link;
use shipped::{ROUNDS, Shipped, at, median, processor, result, skip};
use std::time::{Duration, Instant};

const QUEUED: usize = 10_000;

/// Claims of a round, one after another.
const CLAIMS: usize = 300;

/// As many make tasks at once.
const MAKERS: usize = 4;

fn main() {
    let relay = Shipped::start(None);
    let bare = Bare::sqlite(relay.folder.path());
    measure("SQLite", &relay, bare);
    drop(relay);
    let Some(schema) = bare::schema() else {
        return skip("claim, PostgreSQL", "there is no server");
    };
    let relay = Shipped::start(Some(&schema));
    measure("PostgreSQL", &relay, Bare::postgres(&schema));
}

fn measure(store: &str, relay: &Shipped, mut bare: Bare) {
    // as many are left at the end
    queue(store, relay, QUEUED + ROUNDS * CLAIMS);
    let mut daemon = Link::daemon(relay, &relay.daemon_token(), 8);
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut spent = Duration::ZERO;
    for _ in 0..ROUNDS {
        let (mut claims, mut commits) = (Vec::new(), Vec::new());
        for _ in 0..CLAIMS {
            let before = processor(relay.pid());
            let begun = Instant::now();
            let run = daemon.claim();
            claims.push(begun.elapsed().as_secs_f64() * 1e3);
            spent += processor(relay.pid()) - before;
            commits.push(bare.one().as_secs_f64() * 1e3);
            daemon.store(run.status("dispatched", "running"));
            daemon.store(json!({
                "type": "taskComplete", "taskId": run.task, "success": true, "leaseEpoch": run.epoch,
            }));
        }
        let (claim, commit) = (at(&claims, 0.99), at(&commits, 0.99));
        println!(
            "{store}: claim p50 {:.2} ms, p99 {claim:.2} ms; bare commit p50 {:.2} ms, p99 {commit:.2} ms",
            at(&claims, 0.5),
            at(&commits, 0.5)
        );
        ours.push(claim);
        theirs.push(commit);
        ratios.push(claim / commit);
    }
    let each = spent.as_secs_f64() * 1e3 / (ROUNDS * CLAIMS) as f64;
    println!("{store}: {each:.2} ms of the relay's processor a claim");
    let ratio = median(&ratios);
    let what = format!("claim of {QUEUED} queued, {store}, p99 / bare commit");
    result(&what, &format!("{ratio:.1}x"), "<= 3x", ratio <= 3.0);
}

fn queue(store: &str, relay: &Shipped, tasks: usize) {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..MAKERS {
            scope.spawn(|| {
                let mut http = relay.http();
                for nth in 0..tasks.div_ceil(MAKERS) {
                    http.make(&json!({"name": format!("task {nth}"), "plan": "p".repeat(300)}));
                }
            });
        }
    });
    let rate = tasks as f64 / begun.elapsed().as_secs_f64();
    println!("{store}: {tasks} tasks were made, {rate:.0} a second");
}
