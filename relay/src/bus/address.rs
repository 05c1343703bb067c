//! Where the bus is, as its user names it, and what opens it.

use super::access;
use super::error::BusError;
use async_nats::ServerAddr;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One or more NATS servers of one cluster, and what opens it. Shown by its servers alone.
#[derive(Clone)]
pub struct BusAddress {
    /// Without what opens them.
    servers: Vec<ServerAddr>,
    login: Option<Login>,
    keys: BusKeys,
}

/// What a relay says to be let in. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    Token(String),
    Password {
        user: String,
        password: String,
    },
    /// The text of a file of them.
    Credentials(String),
}

/// Files that open a bus, as options name them. All are PEM, but for the credentials.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct BusKeys {
    /// Credentials for the bus, as nsc writes them; they count in place of what its address says
    #[arg(
        id = "bus_credentials",
        long = "bus-credentials",
        value_name = "FILE",
        env = "HAYWARD_RELAY_BUS_CREDENTIALS"
    )]
    pub credentials: Option<PathBuf>,
    /// Authorities that issue certificates of the bus (PEM) [default: those of the system]
    #[arg(id = "bus_ca", long = "bus-ca", value_name = "FILE", env = "HAYWARD_RELAY_BUS_CA")]
    pub ca: Option<PathBuf>,
    /// The certificate to show a server of the bus that asks who this is (PEM)
    #[arg(
        id = "bus_certificate",
        long = "bus-certificate",
        value_name = "FILE",
        env = "HAYWARD_RELAY_BUS_CERTIFICATE"
    )]
    pub certificate: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(id = "bus_key", long = "bus-key", value_name = "FILE", env = "HAYWARD_RELAY_BUS_KEY")]
    pub key: Option<PathBuf>,
}

impl BusAddress {
    /// The same place, opened with these files.
    #[must_use]
    pub fn opened_with(self, keys: BusKeys) -> Self {
        Self { keys, ..self }
    }

    /// The servers, in the order in which they are tried.
    pub(super) fn servers(&self) -> &[ServerAddr] {
        &self.servers
    }

    /// The same place, with its credentials read: all that connect by it say the same, whatever becomes
    /// of the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(mut self) -> Result<Self, BusError> {
        if let Some(path) = &self.keys.credentials {
            self.login = Some(Login::Credentials(access::read(path, "credentials")?));
        }
        Ok(self)
    }

    /// What to say to be let in, once it was [read](Self::read). It serves for all servers of the cluster.
    pub(super) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// The files that open it.
    pub(super) fn keys(&self) -> &BusKeys {
        &self.keys
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, server) in self.servers.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            let host = server.host();
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(f, "{comma}{}://{open}{host}{close}:{}", server.scheme(), server.port())?;
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

    /// `nats://…` or `tls://…`; several of them are put apart by commas. What one of them says to be
    /// let in with serves for all, and where one says `tls`, all are asked for TLS.
    fn from_str(name: &str) -> Result<Self, NotABus> {
        let (mut servers, mut login) = (Vec::new(), None);
        for one in name.split(',') {
            let (server, told) = server(one.trim()).ok_or(NotABus)?;
            servers.push(server);
            login = login.or(told);
        }
        Ok(Self { servers, login, keys: BusKeys::default() })
    }
}

/// A server, and what its address says to be let in with. That is taken out of the address: whoever
/// connects may show it.
fn server(name: &str) -> Option<(ServerAddr, Option<Login>)> {
    let is_known = name.starts_with("nats://") || name.starts_with("tls://");
    let server = name.parse::<ServerAddr>().ok().filter(|at| is_known && !at.host().is_empty())?;
    let login = match (server.username(), server.password()) {
        (Some(user), Some(password)) => {
            Some(Login::Password { user: plain(user)?, password: plain(password)? })
        }
        (Some(token), None) => Some(Login::Token(plain(token)?)),
        (None, _) => None,
    };
    let mut url = server.into_inner();
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some((ServerAddr::from_url(url).ok()?, login))
}

/// A part of an address without its escapes (`%40`).
fn plain(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
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
        let six: BusAddress = "nats://[::1]:4223".parse().unwrap();
        assert_eq!(six.to_string(), "nats://[::1]:4223");
    }

    #[test]
    fn what_an_address_says_to_be_let_in_with_is_no_part_of_it_any_more() {
        let login = |name: &str| {
            let bus: BusAddress = name.parse().unwrap();
            let shown: Vec<_> = bus.servers().iter().map(|at| at.as_url_str().to_owned()).collect();
            assert!(!shown.concat().contains('@'), "{shown:?}");
            bus.login().cloned()
        };
        let told = login("nats://a,tls://me%3a:p%40ss%C3%A4@b,tls://other:one@c").unwrap();
        let expected = Login::Password { user: "me:".into(), password: "p@ssä".into() };
        assert!(told == expected);
        assert!(login("nats://t0k3n@a") == Some(Login::Token("t0k3n".into())));
        assert!(login("nats://a").is_none());
        for odd in ["nats://me:%zz@a", "nats://me:%4", "nats://%ff:x@a"] {
            assert!(odd.parse::<BusAddress>().is_err(), "{odd}");
        }
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
