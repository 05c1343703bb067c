//! Git: worktrees made at an exact commit, work committed, diffs read, merges foreseen.
//!
//! Mutation goes through the git CLI by one hermetic builder ([`command`]), ordered by one actor
//! per repository ([`repo`]); what can be read in process is read through libgit2. Nothing here
//! touches the user's work tree, index, stash, configuration or refs outside `hayward/`.

pub mod aside;
pub mod branch;
pub mod command;
pub mod commit;
pub mod diff;
pub mod folders;
mod graft;
mod leftover;
pub mod merge;
pub mod overlap;
pub mod parse;
pub mod repo;
pub mod secrets;
pub mod snapshot;
pub mod staging;
pub mod touched;
pub mod trial;
pub mod worktree;

pub use branch::BranchName;
pub use repo::{CommitId, Repositories, Repository};
