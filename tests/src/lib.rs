//! The harness of the end-to-end tests.
//!
//! Everything is driven from outside: the built `hayward` binary by its documented command line
//! and HTTP interface, real git, real processes. What a test starts, its guards end, each by its
//! process id. A helper that cannot do its part fails the test by panicking, and says at what.
#![expect(clippy::panic, reason = "a harness fails its test by panicking")]

pub mod cable;
pub mod collector;
pub mod home;
pub mod http;
pub mod model;
pub mod pattern;
pub mod process;
pub mod program;
pub mod relay;
pub mod replicas;
pub mod repo;
pub mod script;
pub mod tmux;
pub mod wait;

/// The result's value; panics with what was tried when there is none.
#[track_caller]
pub fn must<T, E: std::fmt::Display>(doing: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("cannot {doing}: {error}"),
    }
}

/// Says on stderr that a test does not apply here, and why; `scripts/test` counts these lines.
pub fn skip(name: &str, reason: &str) {
    eprintln!("SKIP {name}: {reason}");
}

/// A number that this process gives only once, and other processes hardly ever.
#[must_use]
pub fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    (u64::from(std::process::id()) << 32) + NEXT.fetch_add(1, Ordering::Relaxed)
}
