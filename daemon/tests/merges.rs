//! Merges as data against real repositories and the real git: previews, merge commits, landings.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "merges/ground.rs"]
mod ground;
#[path = "merges/landing.rs"]
mod landing;
