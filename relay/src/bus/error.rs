//! What keeps a relay from its bus, and what to do about it.

use crate::store::StoreError;
use std::path::PathBuf;

/// The bus could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The database is one that no other relay can share.
    #[error("a bus is for relays that share a PostgreSQL database, and this one is a file")]
    Lone,
    /// NATS refused what it was asked for at once.
    #[error("the bus at {at} cannot be used")]
    Nats {
        /// Where it is, without its password.
        at: String,
        /// Why.
        #[source]
        source: async_nats::Error,
    },
    /// A file that is to open it cannot be used.
    #[error("cannot use the {what} for the bus in {}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Of a certificate and its key one is named alone.
    #[error("a certificate for the bus has a key: give both --bus-certificate and --bus-key")]
    Half,
    /// It does not let this relay in.
    #[error(
        "the bus at {at} refuses this relay: look at the user, password or token in --bus, or at the \
         file of --bus-credentials"
    )]
    Refused {
        /// Where it is.
        at: String,
    },
    /// Who issued its certificate is unknown.
    #[error(
        "the bus at {at} shows a certificate of an authority that is not known here: name the \
         authority's own with --bus-ca FILE"
    )]
    Authority {
        /// Where it is.
        at: String,
    },
    /// Its certificate is for others.
    #[error(
        "the bus at {at} shows a certificate for another name: call it by a name that is in there"
    )]
    Name {
        /// Where it is.
        at: String,
    },
    /// It has no TLS where there is to be some.
    #[error("the bus at {at} speaks no TLS: give it a certificate, or call it nats://…")]
    Plain {
        /// Where it is.
        at: String,
    },
    /// It asks for a certificate, or does not take the one that it is shown.
    #[error(
        "the bus at {at} does not take this relay's certificate, or was shown none: see \
         --bus-certificate and --bus-key"
    )]
    Stranger {
        /// Where it is.
        at: String,
    },
    /// TLS failed otherwise.
    #[error("no TLS with the bus at {at}")]
    Tls {
        /// Where it is.
        at: String,
        /// Why.
        #[source]
        source: async_nats::rustls::Error,
    },
    /// The store failed.
    #[error("the relay could not be put on the list of relays")]
    Store(#[source] StoreError),
}

impl BusError {
    /// In one word, for whoever may not know where the bus is.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Authority { .. }
            | Self::Name { .. }
            | Self::Plain { .. }
            | Self::Stranger { .. }
            | Self::Tls { .. } => "certificate",
            Self::Lone | Self::Nats { .. } | Self::File { .. } | Self::Half | Self::Store(_) => {
                "unreachable"
            }
        }
    }
}
