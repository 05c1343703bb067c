//! How the link to the relay stands, for the user of this machine.

use crate::link::Standing;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tokio::sync::watch;

/// `{state}`: `up` with the `daemonId`, `down`, or `refused` with the `error`.
pub(super) async fn show(State(standing): State<watch::Receiver<Standing>>) -> Json<Value> {
    Json(told(&standing.borrow()))
}

fn told(standing: &Standing) -> Value {
    match standing {
        Standing::Up(daemon) => json!({ "state": "up", "daemonId": daemon }),
        Standing::Down => json!({ "state": "down" }),
        Standing::Refused(fault) => json!({ "state": "refused", "error": fault }),
    }
}
