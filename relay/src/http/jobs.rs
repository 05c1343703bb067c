//! Background work: each daemon has its own jobs; here they are listed together and ordered about.

use super::caller::Bearer;
use super::fault::Refusal;
use super::gather::{Gathered, of_daemon};
use super::params::{Id, Params};
use crate::core::Core;
use crate::store::daemons::Profile;
use axum::Json;
use axum::extract::State;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{JobId, WorkspaceId};
use hayward_shared::job::JobOrder;
use hayward_shared::protocol::ToDaemon;
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = Result<Json<Value>, Refusal>;

/// The jobs of all daemons that are online, and which of them said nothing. `?task=` and `?status=`
/// leave out all others.
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Answer {
    caller.reads()?;
    let mut all = gathered(&core, caller.workspace).await?;
    let mut rows: Vec<_> = all.answers.iter_mut().flat_map(|said| said.own_rows("jobs")).collect();
    for (name, field) in [("task", "taskId"), ("status", "status")] {
        if let Some(wanted) = params.one(name) {
            rows.retain(|row| row.get(field).and_then(Value::as_str) == Some(wanted));
        }
    }
    Ok(Json(json!({ "jobs": rows, "truncated": all.truncated(), "unanswered": all.silent })))
}

/// What the daemons tell of their jobs. One that is older than jobs does not know the question, and
/// would leave it without an answer.
async fn gathered(core: &Core, workspace: WorkspaceId) -> Result<Gathered, Refusal> {
    let able = |profile: &Profile| if profile.jobs { Ok(()) } else { Err(too_old(profile)) };
    Gathered::of_able(core, workspace, &ToDaemon::ListJobs {}, able).await
}

fn too_old(profile: &Profile) -> Fault {
    let text = format!(
        "the daemon {} lacks jobs that the relay {} asks for; upgrade the daemon",
        profile.version.as_deref().unwrap_or("of unknown version"),
        env!("CARGO_PKG_VERSION"),
    );
    Fault::new(Code::Incompatible, text)
}

/// One of them.
pub(super) async fn show(State(core): State<Arc<Core>>, Bearer(caller): Bearer, id: Id) -> Answer {
    caller.reads()?;
    let mut all = gathered(&core, caller.workspace).await?;
    let (_, _, job) = all.find("jobs", "job", &id)?;
    Ok(Json(json!({ "job": job })))
}

pub(super) async fn cancel(core: State<Arc<Core>>, caller: Bearer, id: Id) -> Answer {
    order(core, caller, id, JobOrder::Cancel).await
}

pub(super) async fn pause(core: State<Arc<Core>>, caller: Bearer, id: Id) -> Answer {
    order(core, caller, id, JobOrder::Pause).await
}

pub(super) async fn resume(core: State<Arc<Core>>, caller: Bearer, id: Id) -> Answer {
    order(core, caller, id, JobOrder::Resume).await
}

pub(super) async fn retry(core: State<Arc<Core>>, caller: Bearer, id: Id) -> Answer {
    order(core, caller, id, JobOrder::Retry).await
}

async fn order(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    order: JobOrder,
) -> Answer {
    caller.commands()?;
    let mut all = gathered(&core, caller.workspace).await?;
    let (daemon, job, _) = all.find("jobs", "job", &id)?;
    let command = ToDaemon::OrderJob { job_id: JobId(job), order };
    let mut answer = core.registry.ask(daemon, command, core.timing.reply).await?;
    match of_daemon(daemon, json!([answer.get_mut("job").map(Value::take)])).next() {
        Some(job) => Ok(Json(json!({ "job": job }))),
        None => Err(Fault::new(Code::Unavailable, "that daemon knows no jobs").into()),
    }
}
