//! What a process says of its work, on stderr: lines of text or of JSON, each with the ids of what it is
//! about.
//!
//! A line has its own fields and those of the spans that it was said in. The ids of people's things have
//! one spelling everywhere: `request`, `task`, `run`, `job`, `daemon`, each whole.

mod line;
mod lines;
#[cfg(feature = "otel")]
mod otel;

use lines::Lines;
use std::io::Write;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// The variable that says what is logged, in the words of `EnvFilter`: `warn,hayward_relay=debug`.
pub const FILTER: &str = "HAYWARD_LOG";

/// The variable that says where the collector is.
const COLLECTOR: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// The text names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no format of a log: give text or json")]
pub struct NotAFormat(String);

impl FromStr for Format {
    type Err = NotAFormat;

    fn from_str(text: &str) -> Result<Self, NotAFormat> {
        match text {
            // a variable that is set and empty says nothing
            "text" | "" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(NotAFormat(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// How a process logs.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What it is called in a trace, where `OTEL_SERVICE_NAME` says nothing else.
    pub service: &'static str,
    /// What is logged where [`FILTER`] says nothing, or what means nothing.
    pub usual: String,
    /// How it looks.
    pub format: Format,
    /// Whether lines of text are coloured.
    pub colours: bool,
}

/// The log of this process, until [`Logging::end`].
#[derive(Debug)]
#[must_use = "what is on its way to a collector is lost without its end"]
pub struct Logging {
    #[cfg(feature = "otel")]
    traces: Option<otel::Traces>,
}

/// Begins to log, within a runtime. Where this process logs already, nothing changes.
pub fn begin(setting: Setting) -> Logging {
    let Setting { service, usual, format, colours } = setting;
    let filter = EnvFilter::try_from_env(FILTER).unwrap_or_else(|_| EnvFilter::new(usual));
    let lines = Lines::new(format, colours && format == Format::Text, to_stderr);
    let logged = Registry::default().with(lines.with_filter(filter));
    let wanted = collector();
    #[cfg(feature = "otel")]
    {
        let (mut traces, mut layer, mut fault) = (None, None, None);
        match wanted.map(|_| otel::begin(service)) {
            Some(Ok((sending, spans))) => (traces, layer) = (Some(sending), Some(spans)),
            Some(Err(why)) => fault = Some(why),
            None => {}
        }
        let is_set = logged.with(layer).try_init().is_ok();
        if let Some(why) = fault {
            tracing::warn!(why, "no traces are sent");
        }
        Logging { traces: traces.filter(|_| is_set) }
    }
    #[cfg(not(feature = "otel"))]
    {
        let _ = service;
        if logged.try_init().is_ok()
            && let Some(name) = wanted
        {
            tracing::warn!(
                "{name} is set, but this build sends no traces: it was built without the feature otel"
            );
        }
        Logging {}
    }
}

impl Logging {
    /// Sends what is on its way to a collector, for a bounded time.
    pub async fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces {
            traces.end().await;
        }
    }
}

/// The variable that names a collector, where one is set and traces are not switched off.
fn collector() -> Option<&'static str> {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let off = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    COLLECTOR.into_iter().find(|name| is_set(name) && !off)
}

fn to_stderr(line: &str) {
    // whoever read it may be gone, and there is nobody else to tell
    drop(std::io::stderr().lock().write_all(line.as_bytes()));
}

struct Named {
    code: &'static str,
    id: String,
}

static DAEMON: Mutex<Option<Named>> = Mutex::new(None);

/// Says who the daemon of this process is to its relay: from now on each line of its own code, the crate
/// `code`, has its id as `daemon`, unless it is about another one.
pub fn name_daemon(code: &'static str, id: String) {
    *DAEMON.lock().unwrap_or_else(PoisonError::into_inner) = Some(Named { code, id });
}

/// Who the daemon of this process is, once a relay said so.
#[must_use]
pub fn own_daemon() -> Option<String> {
    DAEMON.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|named| named.id.clone())
}

/// The same, where `target` is of the daemon's own code.
fn daemon_of(target: &str) -> Option<String> {
    let named = DAEMON.lock().unwrap_or_else(PoisonError::into_inner);
    named.as_ref().filter(|named| target.starts_with(named.code)).map(|named| named.id.clone())
}
