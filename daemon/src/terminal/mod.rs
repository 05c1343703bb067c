//! Bytes and text of terminals. Knows no process.

mod clean;
mod index;
mod pages;
pub mod pattern;
pub mod ring;
pub mod screen;
pub mod search;
mod segment;
mod text;
