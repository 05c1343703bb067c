//! The delivery of tasks and events under a simulated network, disk and clock: one seed is one run,
//! and the same seed gives the same history, byte for byte.
//!
//! What runs is the shipped relay (its sockets, its HTTP interface, its store) and of the shipped
//! daemon the link, the dispatcher, the board, the runs' machines and actors, and the journal. In
//! the place of the real world stand: the clocks, the dice, the network, the disk's patience and its
//! loss of power, and a machine's agents (worktree, keeper and delivery of a run). Left out are the
//! daemon's local socket, its search, its overlap room and its merges, which no part of delivery
//! leans on.
//!
//! `HAYWARD_SEEDS` says how many seeds are tried, `HAYWARD_SEED` from which one on.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod agents;
mod checker;
mod dice;
mod history;
mod hosts;
mod network;
mod scenario;
mod tap;
mod user;
mod world;

use dice::Dice;
use hayward_edge::World;
use scenario::{Scenario, Stageplay};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use world::Sim;

/// What one seed came to.
struct Run {
    lines: Vec<String>,
    wrong: Vec<String>,
}

/// Plays one seed in a world of its own, on this thread; `tell` asks for its lines in any case.
fn play(seed: u64, fault: Option<&'static str>, tell: bool) -> Run {
    let memory = PathBuf::from("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let dice = Dice::new(seed);
    let run = runtime.block_on(async {
        let sim = Rc::new(Sim::new(&dice, folder.path().to_owned(), fault));
        let _entered = hayward_edge::enter(sim.clone() as Rc<dyn World>);
        let scenario = Scenario::of(&dice);
        let play = Stageplay::begin(sim.clone(), &scenario, &dice).await.unwrap();
        let ended = play.play(&scenario).await.unwrap();
        let entries = sim.history.entries();
        let wrong = checker::check(&scenario, &entries, &ended);
        // naming takes its time, and hardly anybody reads it
        let lines = if tell || !wrong.is_empty() { sim.history.lines() } else { Vec::new() };
        let wrong = wrong.iter().map(|text| sim.history.named(text)).collect();
        Run { lines, wrong }
    });
    runtime.shutdown_background();
    run
}

/// One of these seeds with which something is wrong that is told with `word`; the seeds are done
/// in order, as many at once as there are processors.
fn first_wrong(
    (from, count): (u64, u64),
    fault: Option<&'static str>,
    word: &str,
) -> Option<(u64, Run)> {
    let next = AtomicU64::new(from);
    let found = std::sync::Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= from + count || found.lock().unwrap().is_some() {
                        return;
                    }
                    let run = play(seed, fault, false);
                    if run.wrong.iter().any(|wrong| wrong.contains(word)) {
                        found.lock().unwrap().get_or_insert((seed, run));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..4 {
        let (first, second) = (play(seed, None, true).lines, play(seed, None, true).lines);
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        if let Some(at) = differs {
            panic!("seed {seed}, line {at}:\n{}\n{}", first[at], second[at]);
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert!(first.len() > 50, "seed {seed} tells of little: {}", first.len());
    }
}

/// A machine falls after its daemon began to start a keeper and before that keeper's first step.
#[test]
fn f29_a_run_ends_whose_keeper_fell_before_its_first_step() {
    assert_eq!(play(2340, None, false).wrong, [""; 0]);
}

/// Each is one line of shipped code, undone.
#[cfg(feature = "planted-faults")]
#[test]
fn planted_faults_are_found() {
    for (fault, word) in [
        ("no_epoch_check", "lives on"),
        ("ack_before_commit", "had acked"),
        ("no_dedup", "is stored"),
    ] {
        let found = first_wrong((0, 500), Some(fault), word);
        let (seed, run) = found.unwrap_or_else(|| panic!("{fault} is not found in 500 seeds"));
        let told = run.wrong.iter().find(|wrong| wrong.contains(word)).unwrap();
        println!("{fault}: seed {seed}: {told}");
        assert_eq!(
            play(seed, None, false).wrong,
            [""; 0],
            "seed {seed} is wrong without {fault} too"
        );
    }
}

#[test]
fn delivery_holds_under_every_seed() {
    let (from, count) = (number("HAYWARD_SEED", 0), number("HAYWARD_SEEDS", 500));
    let begun = std::time::Instant::now();
    if count == 1 {
        play(from, None, true).lines.iter().for_each(|line| println!("{line}"));
    }
    if let Some((seed, run)) = first_wrong((from, count), None, "") {
        let wrong = run.wrong.join("\n  ");
        panic!("seed {seed}:\n  {wrong}\nreplay it with: scripts/soak --seed {seed}");
    }
    println!("{count} seeds from {from} in {:.1} s", begun.elapsed().as_secs_f64());
}
