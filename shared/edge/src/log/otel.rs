//! Spans on their way to a collector of OpenTelemetry, by OTLP over HTTP.
//!
//! Where it is, and what it is shown, say the variables of the standard. One task sends; whoever ends a
//! span only puts it into a bounded queue, and one that finds no room there is dropped and counted. So
//! a collector that is away, or never answers, holds nothing up.

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

/// Spans that wait to be sent: some seconds of a busy relay, in a few MiB.
const QUEUE: usize = 2048;

/// Spans that are sent together.
const BATCH: usize = 512;

/// How long the first of them waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How long a collector may take for one batch, tries included.
const EXPORT: Duration = Duration::from_secs(10);

/// How long the end of the process may wait for what is on its way.
const FLUSH: Duration = Duration::from_secs(3);

/// Spans that last as long as a link does, and are there for lines of the log alone.
const ONLY_LOGGED: [&str; 2] = ["link", "client"];

/// The task that sends. Dropping it loses what waits.
#[derive(Debug)]
pub(super) struct Traces {
    end: oneshot::Sender<()>,
    sending: JoinHandle<()>,
}

impl Traces {
    /// Sends what waits, and is over in [`FLUSH`] at the most.
    pub(super) async fn end(self) {
        let Self { end, mut sending } = self;
        drop(end);
        if timeout(FLUSH, &mut sending).await.is_err() {
            sending.abort();
            tracing::warn!("the collector did not take the last spans in time: they are lost");
        }
    }
}

/// The task, and the layer that it gets its spans from. TLS is by the provider that the process installed
/// before.
///
/// # Errors
/// When a variable of the standard cannot be understood.
pub(super) fn begin<S>(service: &'static str) -> Result<(Traces, impl Layer<S> + use<S>), String>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let client = reqwest::Client::builder().timeout(EXPORT).build();
    let client = client.map_err(|error| format!("no HTTP client: {error}"))?;
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
    let mut exporter = exporter.map_err(|error| error.to_string())?;
    let resource = resource(service);
    exporter.set_resource(&resource);
    let (queue, queued) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let feed = Feed { queue, dropped: dropped.clone() };
    let provider =
        SdkTracerProvider::builder().with_resource(resource).with_span_processor(feed).build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("hayward"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(FilterFn::new(is_sent).with_max_level_hint(LevelFilter::ERROR));
    let (end, ending) = oneshot::channel();
    let sender = Sender { exporter, queued, dropped, lost: 0, is_away: false };
    Ok((Traces { end, sending: tokio::spawn(sender.run(ending)) }, layer))
}

/// Spans of our own alone, and no events: those are lines of the log.
fn is_sent(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && metadata.target().starts_with("hayward")
        && !ONLY_LOGGED.contains(&metadata.name())
}

fn resource(service: &'static str) -> Resource {
    let says = |name: &str, what: &str| {
        std::env::var(name).is_ok_and(|text| !text.is_empty() && text.contains(what))
    };
    let is_named =
        says("OTEL_SERVICE_NAME", "") || says("OTEL_RESOURCE_ATTRIBUTES", "service.name=");
    let resource = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named { resource.build() } else { resource.with_service_name(service).build() }
}

/// Puts ended spans into the queue.
#[derive(Debug)]
struct Feed {
    queue: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

impl SpanProcessor for Feed {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.queue.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends what is queued. One task owns it.
struct Sender {
    exporter: SpanExporter,
    queued: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
    /// Spans that were dropped since that was last told.
    lost: u64,
    is_away: bool,
}

impl Sender {
    async fn run(mut self, mut ending: oneshot::Receiver<()>) {
        let (mut batch, mut is_over) = (Vec::new(), false);
        while !is_over {
            let mut by = None;
            while batch.len() < BATCH && !is_over {
                let room = BATCH - batch.len();
                let due = sleep_until(by.unwrap_or_else(Instant::now));
                tokio::select! {
                    biased;
                    _ = &mut ending => is_over = true,
                    () = due, if by.is_some() => break,
                    came = self.queued.recv_many(&mut batch, room) => is_over = came == 0,
                }
                by = by.or_else(|| Some(Instant::now() + GATHER));
            }
            self.export(&mut batch).await;
        }
        self.queued.close();
        while self.queued.recv_many(&mut batch, BATCH).await > 0 {
            self.export(&mut batch).await;
        }
        self.tell_lost();
    }

    async fn export(&mut self, batch: &mut Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let spans = batch.len() as u64;
        let sent = timeout(EXPORT, self.exporter.export(std::mem::take(batch))).await;
        self.lost += self.dropped.swap(0, Ordering::Relaxed);
        let why = match sent {
            Ok(Ok(())) => {
                self.is_away = false;
                self.tell_lost();
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", EXPORT.as_secs()),
        };
        self.lost += spans;
        if !std::mem::replace(&mut self.is_away, true) {
            tracing::warn!(why, "the collector takes no spans: they are dropped until it does");
        }
    }

    fn tell_lost(&mut self) {
        let spans = std::mem::take(&mut self.lost) + self.dropped.swap(0, Ordering::Relaxed);
        if spans > 0 {
            tracing::warn!(spans, "spans did not reach the collector");
        }
    }
}
