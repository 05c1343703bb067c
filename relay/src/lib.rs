//! Hayward's relay: it authenticates, routes messages and keeps tasks and redacted events.
//!
//! [`Relay::start`] runs one inside any process; the `hayward-relay` binary is a thin shell around
//! it. Nothing of an agent's terminal, source or keys is ever stored here.

mod auth;
mod brakes;
mod bus;
mod change;
mod clock;
mod config;
mod core;
mod database;
mod discards;
mod examine;
mod field;
mod http;
mod lease;
mod limits;
mod metrics;
mod mover;
mod origin;
mod placement;
mod presence;
mod prices;
mod refusals;
mod registry;
mod relay;
mod routing;
mod socket;
mod store;
mod sweep;

pub use auth::Secret;
pub use bus::{BusAddress, BusError, BusKeys, NotABus};
pub use config::{Config, Timing};
pub use database::{Database, NotADatabase, Postgres};
pub use examine::{Examined, examine};
pub use limits::{Limits, NotALimit};
pub use prices::{NotAPrice, Price, Prices};
pub use relay::{Bootstrap, Relay, StartError};
pub use store::{MoveError, Moved, StoreError, Tables, migrate};
