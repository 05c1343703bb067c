//! Bytes and text of terminals. Knows no process.

mod clean;
mod excerpt;
mod index;
mod layout;
mod page;
pub mod pattern;
pub mod ring;
mod scan;
pub mod screen;
pub mod search;
mod segment;
mod text;
mod window;
