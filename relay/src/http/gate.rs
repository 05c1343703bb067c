//! The gate before all else: what a browser was tricked into sending does not pass (F42).
//!
//! A page's request names its origin, and a rebound name shows in `Host`. Neither is looked for
//! anywhere but here, and neither stands in for a token.

use super::fault::Refusal;
use crate::config::Config;
use crate::core::Core;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};
use axum::middleware::Next;
use axum::response::Response;
use hayward_shared::fault::{Code, Fault};
use std::net::IpAddr;
use std::sync::Arc;

/// Which origins and names may call.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    origins: Vec<String>,
    name: Option<String>,
    loopback: bool,
}

impl Gate {
    /// The gate of a relay that listens on `loopback` or for all.
    pub(crate) fn new(config: &Config, loopback: bool) -> Self {
        Self { origins: config.allowed_origins.clone(), name: config.public_name.clone(), loopback }
    }

    /// Whether a request with these headers may pass.
    fn admits(&self, headers: &HeaderMap) -> Result<(), Fault> {
        for origin in headers.get_all(ORIGIN) {
            let known = origin.to_str().is_ok_and(|o| self.origins.iter().any(|known| known == o));
            if !known {
                return Err(Fault::new(Code::Forbidden, "web pages of that origin may not call"));
            }
        }
        if self.loopback {
            let mut hosts = headers.get_all(HOST).iter();
            let known = hosts.next().and_then(|h| h.to_str().ok()).is_some_and(|h| self.knows(h));
            if !known || hosts.next().is_some() {
                return Err(Fault::new(Code::Forbidden, "the relay is not called by that name"));
            }
        }
        Ok(())
    }

    fn knows(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok()
            || self.name.as_deref().is_some_and(|own| name.eq_ignore_ascii_case(own))
    }
}

/// Lets a request pass, or refuses it before anything of it is looked at.
pub(crate) async fn pass(
    State(core): State<Arc<Core>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    core.gate.admits(request.headers())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(origin: Option<&'static str>, host: Option<&'static str>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in [(ORIGIN, origin), (HOST, host)] {
            if let Some(value) = value {
                map.insert(name, HeaderValue::from_static(value));
            }
        }
        map
    }

    #[test]
    fn f42_foreign_origins_and_rebound_names_are_refused() {
        let gate = Gate {
            origins: vec!["https://ok.example".into()],
            name: Some("relay.home".into()),
            loopback: true,
        };
        let local = Some("127.0.0.1:7070");
        for host in ["127.0.0.1", "[::1]:7070", "localhost:1", "LOCALHOST", "relay.home:7070"] {
            assert!(gate.admits(&headers(None, Some(host))).is_ok(), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:80", "", "[evil]:1", "localhost.evil"]
        {
            assert!(gate.admits(&headers(None, Some(host))).is_err(), "{host}");
        }
        assert!(gate.admits(&headers(None, None)).is_err());
        assert!(gate.admits(&headers(Some("https://ok.example"), local)).is_ok());
        for origin in ["null", "http://127.0.0.1:7070", "https://ok.example.evil", ""] {
            assert!(gate.admits(&headers(Some(origin), local)).is_err(), "{origin}");
        }
        let open = Gate { loopback: false, ..gate };
        assert!(open.admits(&headers(None, Some("any.example"))).is_ok());
    }
}
