//! End to end: the built `hayward` binary, real git, real processes. Tests that cover a failure of
//! the list in `FAILURES` begin with its id.

#![expect(clippy::unwrap_used, reason = "a helper that cannot do its part fails its test")]

mod agents;
mod attach;
mod budgets;
mod capacity;
mod claude;
mod complete;
mod control;
mod corners;
mod doctor;
mod errors;
mod furnish;
mod git;
mod handover;
mod herd;
mod hidden;
mod jobs;
mod life;
mod life_killed;
mod limits;
mod link;
mod merge;
mod near;
mod observed;
mod onward;
mod overlap;
mod policy;
mod pool;
mod processes;
mod pulls;
mod queue;
mod refusals;
mod relay;
mod relays;
mod search;
mod search_slow;
mod search_stream;
mod send_back;
mod together;
mod ways;
