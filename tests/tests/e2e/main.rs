//! End to end: the built `hayward` binary, real git, real processes. Tests that cover a failure of
//! the list in `FAILURES` begin with its id.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its part fails its test")]

mod agents;
mod capacity;
mod claude;
mod complete;
mod control;
mod errors;
mod furnish;
mod git;
mod life;
mod link;
mod merge;
mod overlap;
mod policy;
mod pool;
mod processes;
mod queue;
mod relay;
mod send_back;
mod ways;
