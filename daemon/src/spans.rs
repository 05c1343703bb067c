//! The spans of a daemon's work: whatever is said within one bears the ids of what it is about.
//!
//! They are of the highest level, so that a log that tells errors alone keeps their ids.

use hayward_edge::{log, trace};
use hayward_shared::id::{JobId, RunId, TaskId};
use hayward_shared::origin::TraceParent;
use hayward_shared::protocol::{Tagged, ToDaemon};
use hayward_shared::run::RunKey;
use tracing::field::{DisplayValue, display};
use tracing::{Span, error_span};

fn daemon() -> Option<DisplayValue<String>> {
    log::own_daemon().map(display)
}

/// A command of the relay, until it is answered: for the request of a client, where the relay says which.
///
/// What belongs to the output lane has none: it comes for every page of output, and for every key.
#[must_use]
pub fn command(message: &Tagged<ToDaemon>) -> Span {
    let Tagged { body, tags } = message;
    let is_silent = matches!(
        body,
        ToDaemon::GrantOutput { .. }
            | ToDaemon::TypeTerminal { .. }
            | ToDaemon::ResizeTerminal { .. }
            | ToDaemon::SearchMore { .. }
            | ToDaemon::SpawnTask(_)
    );
    if is_silent {
        return Span::none();
    }
    let request = match (tags.origin, tags.request_id) {
        (Some(name), _) => Some(name.to_string()),
        (None, request) => request.map(|id| id.to_string()),
    };
    let (command, task) = (body.type_name(), body.subject().map(display));
    let request = request.map(display);
    let span = error_span!("command", request, command, task, daemon = daemon());
    follow(span, tags.traceparent)
}

/// A run, for as long as its actor lives; in the trace of the claim that handed it out.
#[must_use]
pub fn run(key: RunKey, parent: Option<TraceParent>) -> Span {
    let RunKey { task_id, run_id, .. } = key;
    let span = error_span!("run", task = %task_id, run = %run_id, daemon = daemon());
    follow(span, parent)
}

/// One try of a job, and of which run it is a part.
#[must_use]
pub fn job(id: JobId, kind: &str, of: (Option<TaskId>, Option<RunId>)) -> Span {
    let (task, run) = (of.0.map(display), of.1.map(display));
    error_span!("job", job = %id, kind, task, run, daemon = daemon())
}

/// What is done for a task, outside its run.
#[must_use]
pub fn task(id: TaskId, doing: &str) -> Span {
    error_span!("work", task = %id, doing, daemon = daemon())
}

fn follow(span: Span, parent: Option<TraceParent>) -> Span {
    if let Some(parent) = parent {
        trace::follow(&span, parent.parts());
    }
    span
}
