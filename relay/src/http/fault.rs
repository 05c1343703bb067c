//! Errors as clients see them: `{"error":{code,message,retryable}}`, never the database's words.

use crate::store::StoreError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hayward_shared::fault::{Code, Fault, FaultBody};
use hayward_shared::task::IllegalTransition;

/// A request that was not served.
#[derive(Debug)]
pub(crate) struct Refusal {
    fault: Fault,
    status: StatusCode,
}

impl Refusal {
    /// A refusal whose HTTP status is not that of its code.
    pub(crate) fn with_status(fault: Fault, status: StatusCode) -> Self {
        Self { fault, status }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status =
            StatusCode::from_u16(fault.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { fault, status }
    }
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        tracing::error!(error = &e as &dyn std::error::Error, "a request failed in the store");
        e.fault().into()
    }
}

impl From<IllegalTransition> for Refusal {
    fn from(e: IllegalTransition) -> Self {
        Fault::new(Code::IllegalTransition, e.to_string()).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(FaultBody { error: self.fault })).into_response()
    }
}

/// A request that is malformed.
pub(crate) fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(Code::Invalid, message)
}
