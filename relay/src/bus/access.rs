//! How a relay is let in at the bus: what it shows, whom it takes for a server of it, and what a
//! refusal means.

use super::address::{BusAddress, BusKeys, Login};
use super::error::BusError;
use async_nats::rustls::{AlertDescription, CertificateError, Error as TlsError};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr};
use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How a PEM file says that it holds a certificate, and a key.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const KEY: &str = "PRIVATE KEY-----";

/// Rights of others than the file's owner.
const OTHERS: u32 = 0o077;

impl BusAddress {
    /// The secret ones among the files that open it, which others than their owner may read or change.
    #[must_use]
    pub fn exposed(&self) -> Vec<PathBuf> {
        let BusKeys { credentials, key, .. } = self.keys();
        let secret = [credentials, key].into_iter().flatten();
        let open =
            |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|found| found.mode() & OTHERS != 0);
        secret.filter(open).cloned().collect()
    }
}

/// These options, with all that opens the bus at an address that was [read](BusAddress::read).
pub(super) fn enter(
    options: ConnectOptions,
    address: &BusAddress,
) -> Result<ConnectOptions, BusError> {
    let BusKeys { credentials, ca, certificate, key } = address.keys();
    let mut options = match address.login() {
        Some(Login::Credentials(text)) => {
            let path = credentials.clone().unwrap_or_default();
            let odd = |source| BusError::File { what: "credentials", path, source };
            options.credentials(text).map_err(odd)?
        }
        Some(Login::Password { user, password }) => {
            options.user_and_password(user.clone(), password.clone())
        }
        Some(Login::Token(token)) => options.token(token.clone()),
        None => options,
    };
    // servers that the bus itself tells of come without a word of TLS, and are told the same secrets
    if address.servers().iter().any(ServerAddr::tls_required) {
        options = options.require_tls(true);
    }
    // whoever names one means TLS, and what is secret is not to go without it
    if let Some(path) = ca {
        holds(path, "authorities", CERTIFICATE)?;
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            holds(certificate, "certificate", CERTIFICATE)?;
            holds(key, "key", KEY)?;
            let (certificate, key) = (certificate.clone(), key.clone());
            Ok(options.add_client_certificate(certificate, key).require_tls(true))
        }
        (None, None) => Ok(options),
        _ => Err(BusError::Half),
    }
}

pub(super) fn read(path: &Path, what: &'static str) -> Result<String, BusError> {
    std::fs::read_to_string(path).map_err(|source| BusError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

fn holds(path: &Path, what: &'static str, sign: &str) -> Result<(), BusError> {
    if read(path, what)?.contains(sign) {
        return Ok(());
    }
    let source = io::Error::new(io::ErrorKind::InvalidData, "it is no such PEM file");
    Err(BusError::File { what, path: path.to_owned(), source })
}

/// What a connection that failed means.
pub(super) fn refusal(address: &BusAddress, error: ConnectError) -> BusError {
    let at = address.to_string();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            BusError::Refused { at }
        }
        _ => match tls(&error) {
            Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                BusError::Authority { at }
            }
            Some(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => BusError::Name { at },
            Some(TlsError::InvalidMessage(_)) => BusError::Plain { at },
            Some(TlsError::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown,
            )) => BusError::Stranger { at },
            Some(other) => BusError::Tls { at, source: other.clone() },
            None => BusError::Nats { at, source: error.into() },
        },
    }
}

/// What TLS itself says of an error, in the error or among its causes.
fn tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<TlsError>() {
            return Some(found);
        }
        // its source is that of what it wraps, and not what it wraps
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_failed_connection_says_what_to_do() {
        let address: BusAddress = "tls://me:geheim@bus.example".parse().unwrap();
        let told = |error: ConnectError| refusal(&address, error).to_string();
        let over_tls = |error: TlsError| ConnectError::from(io::Error::other(error));
        let cases = [
            (ConnectErrorKind::AuthorizationViolation.into(), "--bus-credentials"),
            (over_tls(CertificateError::UnknownIssuer.into()), "--bus-ca"),
            (over_tls(CertificateError::NotValidForName.into()), "name"),
            (over_tls(TlsError::AlertReceived(AlertDescription::CertificateRequired)), "--bus-key"),
            (over_tls(CertificateError::Expired.into()), "TLS"),
            (
                ConnectError::from(io::Error::from(io::ErrorKind::ConnectionRefused)),
                "cannot be used",
            ),
        ];
        for (error, expected) in cases {
            let text = told(error);
            assert!(text.contains(expected) && !text.contains("geheim"), "{text}");
        }
    }

    #[test]
    fn files_are_read_before_anything_is_dialled_and_those_that_others_may_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| Some(folder.path().join(name));
        write(folder.path().join("odd"), "nothing").unwrap();
        let opened = |keys: BusKeys| {
            let address: BusAddress = "tls://bus.example".parse().unwrap();
            enter(ConnectOptions::new(), &address.opened_with(keys).read()?).map(drop)
        };
        for keys in [
            BusKeys { credentials: file("none"), ..BusKeys::default() },
            BusKeys { credentials: file("odd"), ..BusKeys::default() },
            BusKeys { ca: file("none"), ..BusKeys::default() },
            BusKeys { ca: file("odd"), ..BusKeys::default() },
        ] {
            assert!(matches!(opened(keys.clone()), Err(BusError::File { .. })), "{keys:?}");
        }
        let half = BusKeys { certificate: file("odd"), ..BusKeys::default() };
        assert!(matches!(opened(half), Err(BusError::Half)));
        let keys = BusKeys { credentials: file("odd"), ca: file("odd"), ..BusKeys::default() };
        for (mode, exposed) in [(0o644, 1), (0o600, 0)] {
            set_permissions(folder.path().join("odd"), Permissions::from_mode(mode)).unwrap();
            let address: BusAddress = "tls://bus.example".parse().unwrap();
            assert_eq!(address.opened_with(keys.clone()).exposed().len(), exposed);
        }
    }

    #[test]
    fn credentials_are_what_they_were_when_they_were_read_and_count_in_place_of_a_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.creds");
        write(&path, "of then").unwrap();
        let keys = BusKeys { credentials: Some(path.clone()), ..BusKeys::default() };
        let address: BusAddress = "nats://me:geheim@bus.example".parse().unwrap();
        let address = address.opened_with(keys).read().unwrap();
        write(&path, "of now").unwrap();
        assert!(address.login() == Some(&Login::Credentials("of then".into())));
        assert!(!format!("{address} {address:?}").contains("of then"));
    }

    #[test]
    fn one_server_that_is_asked_for_tls_counts_for_all_that_the_bus_tells_of() {
        let asks = |name: &str| {
            let address: BusAddress = name.parse().unwrap();
            let options = enter(ConnectOptions::new(), &address).unwrap();
            format!("{options:?}").contains("\"tls_required\": true")
        };
        assert!(asks("tls://a"));
        assert!(asks("nats://a,tls://b"));
        assert!(!asks("nats://a,nats://b"));
    }
}
