//! What every run of this daemon works with.

use super::places::Places;
use super::ports::Ports;
use super::stage::Stage;
use crate::agent::environment::Variables;
use crate::agent::roster::Search;
use crate::complete::Completions;
use crate::config::Config;
use crate::git::Repositories;
use crate::git::remote::Clones;
use crate::home::Home;
use crate::job::Jobs;
use crate::journal::Journal;
use crate::lease::Leases;
use std::path::PathBuf;
use std::sync::Arc;

/// The daemon's tools, shared by its runs. Nothing here changes while it lives; each tool has its
/// own owner inside.
#[derive(Debug)]
pub struct Shop {
    /// The state folder.
    pub home: Home,
    /// The configuration, as it was at the start.
    pub config: Config,
    /// The journal.
    pub journal: Journal,
    /// The repositories and their actors.
    pub repositories: Repositories,
    /// The clones of repositories of other machines.
    pub clones: Clones,
    /// How far the bringing home of each task's work is.
    pub completions: Completions,
    /// Background work, tried until it is done.
    pub jobs: Jobs,
    /// Which run has which ports.
    pub ports: Ports,
    /// The worktrees in which runs are under way.
    pub places: Places,
    /// What the relay acknowledged of our beats.
    pub leases: Leases,
    /// Which agents there are.
    pub agents: Search,
    /// The daemon's own environment, from which agents get what is allowed.
    pub parent: Variables,
    /// The program that keepers are started with: this one.
    pub keeper: PathBuf,
    /// Where the work of runs is done; none means on this machine.
    pub stage: Option<Arc<dyn Stage>>,
}
