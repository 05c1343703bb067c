//! The traces that this process takes part in. Without the feature `otel`, or where no collector is
//! named, there are none, and nothing here costs anything.

use tracing::Span;

/// A place in a trace: the trace, the span in it, and its flags, as a `traceparent` has them. Neither of
/// the first two is 0.
pub type Place = (u128, u64, u8);

/// Where in a trace the present span is; none when it is in none.
#[must_use]
pub fn here() -> Option<Place> {
    #[cfg(feature = "otel")]
    {
        use opentelemetry::trace::TraceContextExt;
        use tracing_opentelemetry::OpenTelemetrySpanExt;
        let context = Span::current().context();
        let place = context.span().span_context().clone();
        let trace = u128::from_be_bytes(place.trace_id().to_bytes());
        let span = u64::from_be_bytes(place.span_id().to_bytes());
        place.is_valid().then(|| (trace, span, place.trace_flags().to_u8()))
    }
    #[cfg(not(feature = "otel"))]
    None
}

/// Makes a new span a part of the trace that this place is in. Where the span was entered already, that
/// changes nothing.
pub fn follow(span: &Span, (trace, from, flags): Place) {
    #[cfg(feature = "otel")]
    {
        use opentelemetry::trace::{
            SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
        };
        use tracing_opentelemetry::OpenTelemetrySpanExt;
        let trace = TraceId::from_bytes(trace.to_be_bytes());
        let from = SpanId::from_bytes(from.to_be_bytes());
        let flags = TraceFlags::new(flags);
        let place = SpanContext::new(trace, from, flags, true, TraceState::default());
        if place.is_valid() {
            drop(span.set_parent(opentelemetry::Context::new().with_remote_span_context(place)));
        }
    }
    #[cfg(not(feature = "otel"))]
    let _ = (span, trace, from, flags);
}
