//! The HTTP interface: one file per resource.

mod caller;
mod commands;
mod complete;
mod daemons;
mod events;
mod fault;
pub(crate) mod gate;
mod gather;
mod jobs;
mod limits;
mod merge;
mod metrics;
mod named;
mod order;
mod overlap;
mod params;
mod queue;
mod relays;
mod search;
mod tasks;
mod tokens;
mod users;
mod why;
mod worktrees;

use crate::core::Core;
use crate::origin;
use crate::socket::{MAX_FRAME, READ_AT_ONCE, client, connection};
use axum::Router;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, http::Method};
use caller::Bearer;
use fault::Refusal;
use hayward_shared::api::Health;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::origin::RequestName;
use std::sync::Arc;
use tracing::{Instrument, error_span};

/// The most bytes of a request's body.
const MAX_BODY: usize = 1024 * 1024;

/// All routes. Every one but `/health`, `/metrics` and the daemons' socket, which has its own hello, asks for
/// a token; every one passes the gate first.
pub(crate) fn router(core: Arc<Core>) -> Router {
    let api = Router::new()
        .route("/api/v1/tasks", get(tasks::list).post(tasks::create))
        .route("/api/v1/tasks/{id}", get(tasks::show).patch(tasks::patch).delete(tasks::discard))
        .route("/api/v1/tasks/{id}/subtasks", get(tasks::subtasks))
        .route("/api/v1/tasks/{id}/siblings", get(tasks::siblings))
        .route("/api/v1/tasks/{id}/usage", get(tasks::usage))
        .route("/api/v1/tasks/{id}/events", get(events::list))
        .route("/api/v1/tasks/{id}/traces", get(events::traces))
        .route("/api/v1/tasks/{id}/run", post(commands::run))
        .route("/api/v1/tasks/{id}/pause", post(commands::pause))
        .route("/api/v1/tasks/{id}/resume", post(commands::resume))
        .route("/api/v1/tasks/{id}/interrupt", post(commands::interrupt))
        .route("/api/v1/tasks/{id}/message", post(commands::message))
        .route("/api/v1/tasks/{id}/cancel", post(commands::cancel))
        .route("/api/v1/tasks/{id}/retry", post(commands::retry))
        .route("/api/v1/tasks/{id}/diff", get(commands::diff))
        .route("/api/v1/tasks/{id}/complete", post(complete::complete))
        .route("/api/v1/tasks/{id}/merge/branches", get(merge::branches))
        .route("/api/v1/tasks/{id}/merge/preview", get(merge::preview))
        .route("/api/v1/tasks/{id}/merge/status", get(merge::status))
        .route("/api/v1/tasks/{id}/merge/check", get(merge::check))
        .route("/api/v1/tasks/{id}/merge/{command}", post(merge::command))
        .route("/api/v1/daemons/{id}/merge/preview", get(merge::preview_on))
        .route("/api/v1/tasks/{id}/overlap", get(overlap::of_task))
        .route("/api/v1/overlap", get(overlap::all))
        .route("/api/v1/search", get(search::search))
        .route("/api/v1/tasks/{id}/overlay", get(worktrees::overlay))
        .route("/api/v1/tasks/{id}/worktree", get(worktrees::of_task))
        .route("/api/v1/tasks/{id}/worktree/target", get(worktrees::target))
        .route("/api/v1/tasks/{id}/worktree/clone", post(worktrees::clone_out))
        .route("/api/v1/worktrees", get(worktrees::all))
        .route("/api/v1/daemons/{id}/worktrees/prune", post(worktrees::prune))
        .route("/api/v1/queue", get(queue::list).post(queue::add))
        .route("/api/v1/queue/{id}", delete(queue::remove))
        .route("/api/v1/jobs", get(jobs::list))
        .route("/api/v1/jobs/{id}", get(jobs::show))
        .route("/api/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/api/v1/jobs/{id}/pause", post(jobs::pause))
        .route("/api/v1/jobs/{id}/resume", post(jobs::resume))
        .route("/api/v1/jobs/{id}/retry", post(jobs::retry))
        .route("/api/v1/daemons", get(daemons::list))
        .route("/api/v1/daemons/directories", get(daemons::directories))
        .route("/api/v1/relays", get(relays::list))
        .route("/api/v1/limits", get(limits::list))
        .route("/api/v1/limits/{provider}/lift", post(limits::lift))
        .route("/api/v1/users", get(users::list).post(users::create))
        .route("/api/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/api/v1/tokens/{id}", delete(tokens::revoke))
        .route("/api/v1/ws/client", get(client_socket))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(core.clone(), caller::require));
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics::tell))
        .route("/api/v1/ws/daemon", get(daemon_socket))
        .method_not_allowed_fallback(wrong_method)
        .merge(api)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(core.clone(), gate::pass))
        .layer(middleware::from_fn_with_state(core.clone(), metrics::count))
        .layer(middleware::from_fn(named::name))
        .with_state(core)
}

async fn health(State(core): State<Arc<Core>>) -> Json<Health> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let bus = core.bus.is_up().map(|up| if up { "up" } else { "away" }.to_owned());
    let bus_fault = core.bus.fault().map(str::to_owned);
    Json(Health { status: "ok".into(), version, bus, bus_fault })
}

async fn unknown_route(uri: axum::http::Uri) -> Refusal {
    Fault::new(Code::NotFound, format!("no route {}", uri.path())).into()
}

async fn wrong_method(method: Method) -> Refusal {
    let fault = Fault::new(Code::Invalid, format!("the method {method} is not for this route"));
    Refusal::with_status(fault, StatusCode::METHOD_NOT_ALLOWED)
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

fn upgrade(wanted: Upgrade) -> Result<WebSocketUpgrade, Refusal> {
    let ws = wanted.map_err(|e| Fault::new(Code::Invalid, e.body_text()))?;
    Ok(ws.max_message_size(MAX_FRAME).max_frame_size(MAX_FRAME).read_buffer_size(READ_AT_ONCE))
}

async fn daemon_socket(
    State(core): State<Arc<Core>>,
    wanted: Upgrade,
) -> Result<Response, Refusal> {
    let ws = upgrade(wanted)?;
    Ok(ws
        .on_upgrade(async move |socket| {
            let own = core.clone();
            core.links.run(connection::serve(socket, own));
        })
        .into_response())
}

async fn client_socket(
    State(core): State<Arc<Core>>,
    bearer: Bearer,
    wanted: Upgrade,
) -> Result<Response, Refusal> {
    bearer.0.reads_tasks()?;
    let ws = upgrade(wanted)?;
    // what a client asks for over its link bears the name of the request that opened it
    let request = origin::request().unwrap_or_else(RequestName::fresh);
    let span = error_span!(parent: None, "client", %request);
    Ok(ws
        .on_upgrade(async move |socket| {
            let own = core.clone();
            let served = client::serve(socket, own, bearer.0);
            core.links.run(origin::within(request, served).instrument(span));
        })
        .into_response())
}
