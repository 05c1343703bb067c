//! Who calls: the bearer token of a request, and nothing else (never its query).

use super::fault::Refusal;
use crate::auth::{Caller, hash, unauthorized};
use crate::core::Core;
use crate::store::tokens;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;

/// The caller of a request that passed [`require`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bearer(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for Bearer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get().copied().ok_or_else(|| unauthorized().into())
    }
}

/// Lets a request with a good token pass.
pub(super) async fn require(
    State(core): State<Arc<Core>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let secret = bearer(request.headers()).ok_or_else(unauthorized)?;
    let caller = authenticate(&core, secret).await?;
    request.extensions_mut().insert(Bearer(caller));
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

async fn authenticate(core: &Core, secret: &str) -> Result<Caller, Refusal> {
    let now = crate::clock::now();
    let hash = hash(secret);
    let found = tokens::find(&mut *core.store.read().await?, &hash).await?;
    let credential = found.ok_or_else(unauthorized)?;
    let caller = credential.admit(&hash, now).ok_or_else(unauthorized)?;
    if tokens::use_is_news(&credential, now) {
        let mut tx = core.store.write().await?;
        tokens::used(tx.conn(), caller.token, now).await?;
        tx.commit().await?;
    }
    Ok(caller)
}
