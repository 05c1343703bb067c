//! Where a run's work is done, when that is not this machine: the seam at which a simulation stands
//! in for git, keepers and agents. All that decides, journals and tells is above it.

use super::state::{Chosen, Place, Work};
use crate::keeper::RunFolder;
use crate::session::{Found, Session, StartError};
use hayward_shared::run::{Failure, RunKey};
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

/// Something under way.
pub type Doing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A machine's stand-in. Each part may be dropped half way, as a killed daemon drops it.
pub trait Stage: Debug + Send + Sync {
    /// Makes the worktree.
    fn prepare(&self, run: RunKey) -> Doing<Result<(Place, Chosen), Failure>>;

    /// Starts the agent.
    fn start(&self, run: RunKey, folder: RunFolder) -> Doing<Result<Session, StartError>>;

    /// Finds out what became of the agent.
    fn find(&self, run: RunKey, folder: RunFolder) -> Doing<Found>;

    /// Brings the agent's work home.
    fn deliver(&self, run: RunKey) -> Doing<Result<Work, Failure>>;
}
