//! Hayward's daemon: worktrees, sessions, agents and their work on one machine.

pub mod agent;
pub mod clock;
