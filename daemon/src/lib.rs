//! Hayward's daemon: worktrees, sessions, agents and their work on one machine.

pub mod agent;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod git;
pub mod home;
pub mod journal;
pub mod keeper;
pub mod link;
pub mod overlap;
pub mod process;
pub mod service;
pub mod session;
pub mod task;
pub mod terminal;
pub mod watch;
