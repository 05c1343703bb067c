//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// Long enough for anything that is not itself about time, on a loaded machine.
pub const LONG: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until there is something, and gives it; panics, naming `what`, after `bound`.
#[track_caller]
pub fn until<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < bound, "waited {bound:?} in vain for: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Looks until it holds; panics, naming `what`, after `bound`.
#[track_caller]
pub fn until_true(what: &str, bound: Duration, mut look: impl FnMut() -> bool) {
    until(what, bound, || look().then_some(()));
}

/// Measures until it took less than `bound`, five times at most: a machine that stalls makes one of
/// them long, what is slow itself all of them. Panics, naming `what`, when none was short enough.
#[track_caller]
pub fn at_best(what: &str, bound: Duration, mut measure: impl FnMut() -> Duration) {
    let mut took = Vec::new();
    while took.len() < 5 {
        let this = measure();
        if this < bound {
            return;
        }
        took.push(this);
    }
    panic!("{what} never took less than {bound:?}: {took:?}");
}

/// Panics, naming `what`, as soon as it no longer holds within `span`.
#[track_caller]
pub fn holds(what: &str, span: Duration, mut look: impl FnMut() -> bool) {
    let begin = Instant::now();
    while begin.elapsed() < span {
        assert!(look(), "no longer holds: {what}");
        std::thread::sleep(LOOK);
    }
}
