//! Git: worktrees made at an exact commit, work committed, diffs read, merges foreseen.
//!
//! Mutation goes through the git CLI by one hermetic builder ([`command`]), ordered by one actor
//! per repository ([`repo`]); what can be read in process is read through libgit2. Nothing here
//! touches the user's work tree, index, stash, configuration or refs outside `hayward/`.

mod adrift;
pub mod aside;
pub mod bare;
pub mod branch;
pub mod bring;
mod carry;
pub mod clone;
pub mod command;
pub mod commit;
pub mod configured;
pub mod destination;
pub mod diff;
pub mod folders;
mod foresee;
mod graft;
mod hidden;
mod holder;
pub mod idle;
pub mod join;
mod joined;
pub mod land;
pub mod lend;
pub mod links;
pub mod merge;
mod modules;
pub mod overlap;
pub mod parse;
pub mod pool;
pub mod publish;
pub mod remote;
pub mod remotes;
pub mod repo;
pub mod salvage;
pub mod secrets;
pub mod snapshot;
pub mod staging;
pub mod submodule;
pub mod tips;
pub mod touched;
pub mod trial;
mod trusted;
pub mod worktree;

pub use branch::BranchName;
pub use pool::Pool;
pub use repo::{CommitId, Repositories, Repository};
