//! Hayward's daemon: worktrees, sessions, agents and their work on one machine.

pub mod clock;
pub mod keeper;
pub mod process;
pub mod session;
pub mod terminal;
