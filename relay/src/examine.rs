//! A look at all that a relay works on, for whoever asks why one does not start or serve.

use crate::bus::{self, BusError};
use crate::config::Config;
use crate::store::{self, StoreError, Tables};
use std::time::Duration;

/// What a look found.
#[derive(Debug)]
pub struct Examined {
    /// The database.
    pub tables: Result<Tables, StoreError>,
    /// How long the bus took to answer; none where none is configured.
    pub bus: Option<Result<Duration, BusError>>,
}

/// Looks at the database and the bus that `config` names. Changes nothing, and may be called beside
/// relays that serve them. Takes some fifteen seconds where nobody answers.
pub async fn examine(config: &Config) -> Examined {
    let bus = async {
        match &config.bus {
            Some(address) => Some(bus::reach(address).await),
            None => None,
        }
    };
    let (tables, bus) = tokio::join!(store::examine(&config.database), bus);
    Examined { tables, bus }
}
