//! Tasks on this daemon: the pure machine of a run, the actor that acts for it, and the board that
//! lets runs in.

mod actor;
pub mod again;
mod aim;
mod attend;
pub mod board;
mod deliver;
mod effects;
mod furnish;
mod inform;
mod input;
mod jobs;
mod machine;
mod order;
mod places;
mod ports;
mod prepare;
mod shop;
mod stage;
mod standing;
mod state;
mod telling;
mod time;

pub(crate) use actor::run_folder;
pub(crate) use aim::target;
pub use board::{Board, Command, LiveSession};
pub(crate) use deliver::message;
pub(crate) use furnish::{section_of, whose};
pub use inform::{Notice, Words};
pub use jobs::kinds;
pub use places::{LivePlace, Places, Present};
pub(crate) use ports::COUNT as PORTS;
pub use ports::Ports;
pub(crate) use prepare::{chain, folder_name, order_of};
pub use shop::Shop;
pub use stage::{Doing, Stage};
pub use state::{Chosen, Phase, Place, RunState, Work};
pub(crate) use telling::branch_moved;
