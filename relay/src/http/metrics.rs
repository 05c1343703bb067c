//! `GET /metrics`, and the counting of requests. Whoever reaches the relay may read it: it holds
//! numbers alone, as `/health` does.

use super::fault::Refusal;
use crate::core::Core;
use crate::metrics::Asked;
use crate::store::tasks;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hayward_shared::fault::{Code, Fault};
use std::sync::Arc;
use std::time::Instant;

/// The text that Prometheus reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn tell(State(core): State<Arc<Core>>) -> Result<Response, Refusal> {
    let standing = tasks::standing(&mut *core.store.read().await?).await?;
    let text = core.metrics.text(core.registry.online(), core.bus.is_up(), &standing);
    let text = text.map_err(|_| Fault::new(Code::Internal, "the metrics cannot be written"))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Counts a request and its answer. A socket counts when it is opened.
pub(super) async fn count(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let method = request.method().into();
    let response = next.run(request).await;
    let route = route.unwrap_or_else(|| "none".to_owned());
    let asked = Asked { method, route, status: response.status().as_u16() };
    core.metrics.requests.get_or_create(&asked).inc();
    core.metrics.seconds.0.observe(begun.elapsed().as_secs_f64());
    response
}
