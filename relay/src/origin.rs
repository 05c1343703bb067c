//! For which request of a client something is done, and where in a trace: said with each command that
//! goes to a daemon, so that its log names the same request.

use hayward_edge::trace;
use hayward_shared::id::RequestId;
use hayward_shared::origin::{RequestName, TraceParent};
use hayward_shared::protocol::{Tagged, Tags, ToDaemon};
use hayward_shared::task::Task;
use tracing::Span;
use tracing::field::display;

tokio::task_local! {
    static REQUEST: RequestName;
}

/// Does work for a request of a client; what it begins elsewhere is not seen as part of it.
pub(crate) async fn within<T>(request: RequestName, work: impl Future<Output = T>) -> T {
    REQUEST.scope(request, work).await
}

/// The request that is served now.
pub(crate) fn request() -> Option<RequestName> {
    REQUEST.try_get().ok()
}

/// A command as it goes out for the present request.
pub(crate) fn command(body: ToDaemon, request_id: RequestId) -> Tagged<ToDaemon> {
    let tags = Tags { request_id: Some(request_id), ..Tags::default() };
    Tagged { body, tags: Tags { origin: request(), traceparent: here(), ..tags } }
}

/// Where in a trace the present span is.
pub(crate) fn here() -> Option<TraceParent> {
    trace::here().and_then(TraceParent::of)
}

/// Says of the present span which task it is about, and who works on that.
pub(crate) fn concerns(task: &Task) {
    let span = Span::current();
    span.record("task", display(task.id));
    if let Some(run) = task.holding.run_id {
        span.record("run", display(run));
    }
    if let Some(daemon) = task.holding.daemon_id {
        span.record("daemon", display(daemon));
    }
}
