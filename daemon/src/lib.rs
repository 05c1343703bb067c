//! Hayward's daemon: worktrees, sessions, agents and their work on one machine.

pub mod clock;
pub mod git;
