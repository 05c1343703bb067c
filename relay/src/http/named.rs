//! What a request is called: each has a name, which is told in its answer, and a span that bears it.

use crate::metrics::Method;
use crate::origin;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use hayward_edge::trace;
use hayward_shared::origin::{RequestName, TraceParent};
use std::time::{Duration, Instant};
use tracing::{Instrument, Level, Span, error_span, field::Empty};

/// The name of a request, in it and in its answer.
const NAME: HeaderName = HeaderName::from_static("x-request-id");

/// Where in a trace the caller is.
const PARENT: &str = "traceparent";

/// Names a request: as its caller does where that is a name, else anew. All that is said while it is
/// served bears the name, and so does its answer.
pub(super) async fn name(request: Request, next: Next) -> Response {
    let name = given(request.headers()).unwrap_or_else(RequestName::fresh);
    let span = opened(&name, &request);
    let (changes, begun) = (!request.method().is_safe(), Instant::now());
    let served = origin::within(name, next.run(request)).instrument(span.clone());
    let mut response = served.await;
    span.in_scope(|| tell(&span, changes, response.status(), begun.elapsed()));
    if let Ok(value) = HeaderValue::from_str(name.as_str()) {
        response.headers_mut().insert(NAME, value);
    }
    response
}

fn given(headers: &HeaderMap) -> Option<RequestName> {
    headers.get(NAME)?.to_str().ok()?.parse().ok()
}

fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    headers.get(PARENT)?.to_str().ok()?.parse().ok()
}

fn opened(name: &RequestName, request: &Request) -> Span {
    // as the route is written: a path or a query may hold what somebody typed
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    // nor is it any token that a stranger calls a method
    let method = Method::from(request.method()).as_str();
    let span = error_span!(
        "request",
        request = %name,
        method,
        route,
        status = Empty,
        task = Empty,
        run = Empty,
        daemon = Empty
    );
    if let Some(parent) = parent(request.headers()) {
        trace::follow(&span, parent.parts());
    }
    span
}

/// Says that a request was answered.
fn tell(span: &Span, changes: bool, status: StatusCode, took: Duration) {
    span.record("status", status.as_u16());
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match level(changes, status) {
        Level::WARN => tracing::warn!(ms, "a request failed"),
        Level::INFO => tracing::info!(ms, "answered"),
        _ => tracing::debug!(ms, "answered"),
    }
}

/// What failed here is a warning; that a daemon is away is no failure. What is refused is no news: any
/// stranger can be as often as he likes.
fn level(changes: bool, status: StatusCode) -> Level {
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => Level::WARN,
        _ if changes && !status.is_client_error() => Level::INFO,
        _ => Level::DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_names_its_request_if_the_name_can_stand_in_a_log() {
        let asked = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, HeaderValue::from_bytes(text).unwrap());
            given(&headers).map(|name| name.to_string())
        };
        assert_eq!(asked(b"build-7"), Some("build-7".to_owned()));
        for odd in [&b""[..], b"a b", b"\xff", &[b'a'; 65], b"a\tb", b"{}"] {
            assert_eq!(asked(odd), None);
        }
        assert_eq!(given(&HeaderMap::new()), None);
    }

    #[test]
    fn a_refusal_is_no_news_and_only_what_failed_here_is_a_warning() {
        for (status, reads, changes) in [
            (StatusCode::OK, Level::DEBUG, Level::INFO),
            (StatusCode::CREATED, Level::DEBUG, Level::INFO),
            (StatusCode::UNAUTHORIZED, Level::DEBUG, Level::DEBUG),
            (StatusCode::METHOD_NOT_ALLOWED, Level::DEBUG, Level::DEBUG),
            (StatusCode::SERVICE_UNAVAILABLE, Level::DEBUG, Level::INFO),
            (StatusCode::INTERNAL_SERVER_ERROR, Level::WARN, Level::WARN),
        ] {
            assert_eq!((level(false, status), level(true, status)), (reads, changes), "{status}");
        }
    }

    #[test]
    fn what_a_stranger_calls_a_method_is_not_repeated() {
        let odd = "X".repeat(8_000);
        let named =
            |name: &str| Method::from(&name.parse::<axum::http::Method>().unwrap()).as_str();
        for known in ["GET", "POST", "PATCH", "DELETE"] {
            assert_eq!(named(known), known);
        }
        assert_eq!([named("HEAD"), named(&odd)], ["OTHER", "OTHER"]);
    }
}
