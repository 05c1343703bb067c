//! Where Hayward touches the world: the wall clock, dice, the network, databases, and what it logs.
//!
//! What ships goes straight to the machine: the types here are tokio's and sqlx's own, and nothing
//! is in between. With the cargo feature `simulation`, which no shipped build has, a test may put a
//! `World` of its own in their place for one thread; everything above runs as it is.

pub mod clock;
pub mod disk;
pub mod log;
pub mod net;
mod plant;
pub mod trace;
#[cfg(feature = "simulation")]
mod world;

pub use plant::planted;
#[cfg(feature = "simulation")]
pub use world::{Disk, Door, Entered, Wire, World, enter};
