//! The limits of a workspace, and providers that refused: seen, and lifted where they were told
//! wrongly.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use crate::core::Core;
use crate::limits::Backoff;
use crate::refusals;
use crate::store::limits;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use hayward_shared::api::RefusalView;
use hayward_shared::fault::{Code, Fault};
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = Result<Json<Value>, Refusal>;

/// What each workspace may have at once, and which providers nobody asks now.
pub(super) async fn list(State(core): State<Arc<Core>>, Bearer(caller): Bearer) -> Answer {
    caller.reads()?;
    let now = crate::clock::now();
    let all = limits::backoffs(&mut *core.store.read().await?, caller.workspace).await?;
    let shown = |one: Backoff| {
        let until = one.next(now)?;
        Some(RefusalView {
            provider: one.provider,
            until,
            strikes: one.strikes,
            probed: one.probed,
        })
    };
    let refusals: Vec<_> = all.into_iter().filter_map(shown).collect();
    let most = &core.limits;
    Ok(Json(json!({
        "limits": {
            "workspace": most.workspace,
            "agents": most.agents,
            "providers": most.providers,
            "depth": most.depth,
            "tree": most.tree,
        },
        "refusals": refusals,
    })))
}

/// Lets a provider be asked again now, and wakes the tasks that wait for it.
pub(super) async fn lift(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    provider: Result<Path<String>, PathRejection>,
) -> Answer {
    caller.commands()?;
    let Path(provider) = provider.map_err(|e| invalid(e.body_text()))?;
    let (was_known, woken) =
        refusals::lift(&core, caller.workspace, &provider, &caller.actor()).await?;
    if !was_known && woken == 0 {
        let text = format!("provider '{provider}' did not refuse, and nothing waits for it");
        let hint = "hayward limits ls shows which did";
        return Err(Fault::new(Code::NotFound, text).with_hint(hint).into());
    }
    Ok(Json(json!({ "provider": provider, "woken": woken })))
}
