//! Merges as data against real repositories and the real git: previews, merge commits, landings.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "merges/crowd.rs"]
mod crowd;
#[path = "merges/finish_wire.rs"]
mod finish_wire;
#[path = "merges/ground.rs"]
mod ground;
#[path = "merges/histories.rs"]
mod histories;
#[path = "merges/joins.rs"]
mod joins;
#[path = "merges/landing.rs"]
mod landing;
#[path = "merges/oracle.rs"]
mod oracle;
#[path = "merges/queue_wire.rs"]
mod queue_wire;
#[path = "merges/wire.rs"]
mod wire;
