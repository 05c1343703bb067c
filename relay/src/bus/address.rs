//! Where the bus is, as its user names it.

use async_nats::ServerAddr;
use std::fmt;
use std::str::FromStr;

/// One or more NATS servers of one cluster. Shown without their passwords.
#[derive(Clone)]
pub struct BusAddress(Vec<ServerAddr>);

impl BusAddress {
    /// The servers, in the order in which they are tried.
    pub(super) fn servers(&self) -> &[ServerAddr] {
        &self.0
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, server) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma}{}://{}:{}", server.scheme(), server.host(), server.port())?;
        }
        Ok(())
    }
}

impl fmt::Debug for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The name is none of a bus. It is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the address of the bus cannot be read: it is nats://HOST:PORT or tls://HOST:PORT, with USER:PASSWORD@ where it asks for them; several are put apart by commas"
)]
pub struct NotABus;

impl FromStr for BusAddress {
    type Err = NotABus;

    /// `nats://…` or `tls://…`; several of them are put apart by commas.
    fn from_str(name: &str) -> Result<Self, NotABus> {
        let servers = name.split(',').map(|one| {
            let one = one.trim();
            let known = one.starts_with("nats://") || one.starts_with("tls://");
            one.parse::<ServerAddr>().ok().filter(|at| known && !at.host().is_empty())
        });
        servers.collect::<Option<_>>().map(Self).ok_or(NotABus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_their_addresses_and_shown_without_passwords() {
        let one: BusAddress = "nats://127.0.0.1:4223".parse().unwrap();
        assert_eq!(one.to_string(), "nats://127.0.0.1:4223");
        let two: BusAddress = "tls://me:geheim@a.example:4222, nats://b.example".parse().unwrap();
        assert_eq!(two.to_string(), "tls://a.example:4222,nats://b.example:4222");
        assert!(!format!("{two:?}").contains("geheim"));
    }

    #[test]
    fn what_is_no_bus_is_not_repeated() {
        for name in
            ["", "redis://me:geheim@x:1", "127.0.0.1:4222", "nats://", "nats://a,b", "ws://x"]
        {
            let odd = name.parse::<BusAddress>().unwrap_err();
            assert!(!format!("{odd} {odd:?}").contains("geheim"), "{name}");
        }
    }
}
