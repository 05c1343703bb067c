//! What Hayward's daemon and relay share: ids, tasks, events and the wire between them.
//!
//! Types and rules only. Nothing here does I/O, and save for the stamp inside a fresh id nothing
//! reads a clock: moments enter as arguments.

pub mod address;
pub mod api;
pub mod backoff;
pub mod budget;
pub mod event;
pub mod fault;
pub mod git;
pub mod id;
pub mod job;
pub mod merge;
pub mod origin;
pub mod path;
pub mod protocol;
pub mod queue;
pub mod run;
pub mod search;
pub mod task;
pub mod time;
pub mod why;
