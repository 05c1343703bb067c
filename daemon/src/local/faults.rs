//! Faults as answers.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hayward_shared::fault::{Code, Fault, FaultBody};

/// A fault on its way to whoever asked.
pub(super) struct Refusal(Fault, StatusCode);

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = StatusCode::from_u16(fault.code.http());
        Self(fault, status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

impl Refusal {
    /// A malformed request, under a code that is known for this route alone.
    pub(super) fn bad(code: &str, text: impl Into<String>) -> Self {
        let mut fault = Fault::new(Code::Other(code.to_owned()), text);
        fault.retryable = false;
        Self(fault, StatusCode::BAD_REQUEST)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.1, Json(FaultBody { error: self.0 })).into_response()
    }
}

/// Not "not found", which is said of tasks: whoever asks is newer than this daemon.
pub(super) async fn unknown_route(uri: Uri) -> Refusal {
    let text = format!("this daemon has no route {}", uri.path());
    Fault::new(Code::Incompatible, text).with_hint("restart it: hayward down, hayward up").into()
}
