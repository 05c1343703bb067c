//! Bytes and text of terminals. Knows no process.

mod clean;
mod excerpt;
mod filter;
mod grams;
mod index;
mod layout;
mod needed;
mod page;
pub mod pattern;
pub mod ring;
mod scan;
pub mod screen;
mod scribe;
pub mod search;
mod segment;
mod sieve;
mod text;
mod window;
