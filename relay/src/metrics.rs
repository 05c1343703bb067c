//! What the relay counts of itself, for Prometheus. Numbers alone: no name, id or address.

use axum::http;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// A request, as far as it is told apart: by its route, never by its path, so that the number of
/// series is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) route: String,
    pub(crate) status: u16,
}

/// A method that a route may have; all others are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(clippy::upper_case_acronyms, reason = "so they are written")]
pub(crate) enum Method {
    GET,
    POST,
    PATCH,
    DELETE,
    OTHER,
}

impl Method {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::GET => "GET",
            Self::POST => "POST",
            Self::PATCH => "PATCH",
            Self::DELETE => "DELETE",
            Self::OTHER => "OTHER",
        }
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Self::GET,
            http::Method::POST => Self::POST,
            http::Method::PATCH => Self::PATCH,
            http::Method::DELETE => Self::DELETE,
            _ => Self::OTHER,
        }
    }
}

/// Tasks that stand so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Standing {
    status: String,
}

/// The counters, each fed where it happens.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Requests that were answered.
    pub(crate) requests: Family<Asked, Counter>,
    /// How long answers took.
    pub(crate) seconds: Seconds,
    /// State messages of daemons that were stored.
    pub(crate) reports: Counter,
    /// Bytes of output frames that daemons sent.
    pub(crate) output_bytes: Counter,
    /// How often something that other relays said was lost on the way.
    pub(crate) bus_holes: Counter,
}

/// From 1 ms, what a lookup takes, doubling to some 16 s: beyond it a caller has given up.
#[derive(Debug)]
pub(crate) struct Seconds(pub(crate) Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.001, 2.0, 15)))
    }
}

impl Metrics {
    /// All of it as text, with what holds at this moment: links of daemons that are up, whether the
    /// bus is there (where there is to be one), and the tasks that are not over by their status.
    ///
    /// # Errors
    /// Never in practice: text is only appended.
    pub(crate) fn text(
        &self,
        online: usize,
        bus: Option<bool>,
        tasks: &[(String, i64)],
    ) -> Result<String, fmt::Error> {
        let mut all = Registry::with_prefix("hayward_relay");
        all.register(
            "build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        all.register("http_requests", "Requests that were answered", self.requests.clone());
        all.register_with_unit(
            "http_request",
            "How long answers took",
            Unit::Seconds,
            self.seconds.0.clone(),
        );
        all.register(
            "state_messages",
            "State messages of daemons that were stored and will be acked",
            self.reports.clone(),
        );
        all.register_with_unit(
            "output",
            "What daemons sent of their agents' output to those who watch",
            Unit::Bytes,
            self.output_bytes.clone(),
        );
        let daemons: Gauge = Gauge::default();
        daemons.set(i64::try_from(online).unwrap_or(i64::MAX));
        all.register("daemons_online", "Daemons that are linked to this relay", daemons);
        if let Some(up) = bus {
            let there: Gauge = Gauge::default();
            there.set(i64::from(up));
            all.register("bus_up", "Whether the bus to the other relays is there", there);
            let holes = self.bus_holes.clone();
            all.register("bus_holes", "Times that words of other relays were lost", holes);
        }
        let standing: Family<Standing, Gauge> = Family::default();
        for (status, count) in tasks {
            standing.get_or_create(&Standing { status: status.clone() }).set(*count);
        }
        all.register("tasks", "Tasks that are not over", standing);
        let mut text = String::new();
        encode(&mut text, &all)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told_with_what_holds_now() {
        let metrics = Metrics::default();
        let asked = Asked { method: Method::GET, route: "/api/v1/tasks".into(), status: 200 };
        metrics.requests.get_or_create(&asked).inc();
        metrics.seconds.0.observe(0.003);
        metrics.output_bytes.inc_by(64);
        let text = metrics.text(3, Some(true), &[("queued".into(), 7)]).unwrap();
        for line in [
            "hayward_relay_http_requests_total{method=\"GET\",route=\"/api/v1/tasks\",status=\"200\"} 1",
            "hayward_relay_http_request_seconds_bucket{le=\"0.004\"} 1",
            "hayward_relay_output_bytes_total 64",
            "hayward_relay_state_messages_total 0",
            "hayward_relay_daemons_online 3",
            "hayward_relay_bus_up 1",
            "hayward_relay_bus_holes_total 0",
            "hayward_relay_tasks{status=\"queued\"} 7",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
