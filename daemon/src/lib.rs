//! Hayward's daemon: worktrees, sessions, agents and their work on one machine.

pub mod agent;
mod chore;
pub mod clock;
pub mod complete;
pub mod config;
pub mod dispatch;
pub mod fault;
mod finish;
pub mod git;
pub mod home;
pub mod journal;
pub mod keeper;
pub mod kept;
pub mod life;
pub mod line;
pub mod link;
pub mod local;
pub mod merge;
pub mod overlap;
pub mod process;
pub mod queue;
pub mod search;
pub mod service;
pub mod session;
pub mod task;
pub mod terminal;
pub mod watch;
