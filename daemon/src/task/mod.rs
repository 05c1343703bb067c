//! Tasks on this daemon: the pure machine of a run, the actor that acts for it, and the board that
//! lets runs in.

mod machine;
mod state;

pub use state::{Phase, Place, RunState};
