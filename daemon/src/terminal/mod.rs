//! Bytes and text of terminals. Knows no process.

pub mod ring;
