//! The tasks that ran here, as this daemon knows them: what only the relay knows is left out.

use super::faults::Refusal;
use crate::journal::{Journal, RunRow};
use crate::task::{RunState, Shop, order_of};
use axum::Json;
use axum::extract::{Path, Query, State};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{Fragment, TaskId, WorkspaceId};
use hayward_shared::task::{Holding, Results, Status, Task};
use hayward_shared::time::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// Tasks that one page of a list is chosen from.
const MOST: u32 = 1000;

/// As `GET /api/v1/tasks` of the relay, of this machine alone.
pub(super) async fn list(
    State(shop): State<Arc<Shop>>,
    Query(words): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(page(&shop.journal, &words, MOST).await?))
}

/// Those of the next `most` tasks that are wanted, and where to go on.
async fn page(journal: &Journal, words: &[(String, String)], most: u32) -> Result<Value, Fault> {
    let cursor = words.iter().rev().find(|(name, _)| name == "cursor");
    let before = cursor.map(|(_, value)| value.parse()).transpose();
    let before: Option<TaskId> = before.map_err(|_| invalid("cursor: it is of no list"))?;
    let rows = journal.last_runs::<RunState>(before, most).await;
    let mut tasks: Vec<Task> =
        rows.map_err(|error| unreadable(&error))?.into_iter().map(task).collect();
    let next = tasks.last().filter(|_| tasks.len() as u64 >= most.into()).map(|task| task.id);
    for (name, value) in words {
        match name.as_str() {
            "status" => {
                let status: Status = serde_json::from_value(json!(value))
                    .map_err(|_| invalid(format!("status: '{value}' is none")))?;
                tasks.retain(|task| task.status == status);
            }
            "label" => {
                let label = value.split_once('=');
                let (key, value) = label.ok_or_else(|| invalid("label: as key=value"))?;
                tasks.retain(|task| task.order.labels.get(key).is_some_and(|own| own == value));
            }
            "parent" => {
                let parent: Result<Fragment, _> = value.parse();
                let parent = parent.map_err(|bad| invalid(bad.to_string()))?;
                let is_part = |id: TaskId| parent.matches(&id.0);
                tasks.retain(|task| task.order.parent_task_id.is_some_and(is_part));
            }
            _ => {}
        }
    }
    let mut page = json!({ "tasks": tasks });
    if let Some(next) = next {
        page["nextCursor"] = json!(next);
    }
    Ok(page)
}

/// As `GET /api/v1/tasks/{id}` of the relay.
pub(super) async fn show(
    State(shop): State<Arc<Shop>>,
    Path(typed): Path<String>,
) -> Result<Json<Task>, Refusal> {
    let keys = shop.journal.keys().await.map_err(|error| unreadable(&error))?;
    let mut known: Vec<TaskId> = keys.into_iter().map(|key| key.task_id).collect();
    known.sort_unstable();
    known.dedup();
    let id = only(&typed, known.into_iter())?;
    let row = shop.journal.last_run::<RunState>(id).await.map_err(|error| unreadable(&error))?;
    Ok(Json(task(row.ok_or_else(|| Fault::not_found("task", &typed))?)))
}

/// The task that is meant.
pub(super) fn only(typed: &str, mut known: impl Iterator<Item = TaskId>) -> Result<TaskId, Fault> {
    let absent = || Fault::not_found("task", typed);
    let fragment: Fragment = typed.parse().map_err(|_| absent())?;
    let mut named = known.by_ref().filter(|task| fragment.matches(&task.0));
    let first = named.next().ok_or_else(absent)?;
    if named.next().is_some() {
        let text = format!("'{typed}' names several tasks: give more of it");
        return Err(Fault::new(Code::Ambiguous, text));
    }
    Ok(first)
}

fn invalid(text: impl Into<String>) -> Fault {
    Fault::new(Code::Invalid, text)
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Fault {
    tracing::error!(error, "the runs cannot be read");
    Fault::new(Code::Internal, "the daemon's journal cannot be read")
}

/// The task behind its last run here.
fn task(row: RunRow<RunState>) -> Task {
    let RunRow { key, spawn, state, .. } = row;
    Task {
        id: key.task_id,
        // the relay's alone
        workspace_id: WorkspaceId(Uuid::nil()),
        status: state.status,
        reason: state.failed,
        depth: spawn.depth,
        order: order_of(&spawn),
        holding: Holding {
            run_id: Some(key.run_id),
            lease_epoch: key.lease_epoch,
            attempt: spawn.run.as_ref().map_or(1, |run| run.attempt),
            ..Holding::default()
        },
        results: Results {
            branch: state.place.as_ref().and_then(|place| place.branch.clone()),
            head_commit: state.head_commit,
            exit_code: state.exit.and_then(|exit| exit.code),
            session_id: state.reading.session_id,
            ..Results::default()
        },
        created_at: moment(&key.task_id.0),
        started_at: state.started_at,
        completed_at: None,
        version: 0,
    }
}

/// When an id was made, which it begins with; the beginning of time for one that does not.
fn moment(id: &Uuid) -> Timestamp {
    let since = id.get_timestamp().map_or((0, 0), |at| at.to_unix());
    let seconds = i64::try_from(since.0).unwrap_or(i64::MAX);
    Timestamp::from_millis(
        seconds.saturating_mul(1000).saturating_add((since.1 / 1_000_000).into()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hayward_shared::id::RunId;
    use hayward_shared::run::RunKey;

    #[test]
    fn an_id_says_when_it_was_made() {
        let id: Uuid = "01939d3a-7c00-7000-8000-0000deadbeef".parse().unwrap();
        assert_eq!(moment(&id).millis(), 0x0193_9d3a_7c00);
        assert_eq!(moment(&Uuid::nil()).millis(), 0);
    }

    #[tokio::test]
    async fn a_list_is_all_that_ran_here_however_many_fit_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("journal.db")).await.unwrap();
        let mut all = Vec::new();
        for lease_epoch in 1..=5 {
            let key = RunKey { task_id: TaskId::fresh(), run_id: RunId::fresh(), lease_epoch };
            let spawn = json!({
                "taskId": key.task_id, "taskName": "x", "plan": "x", "depth": 0,
                "isOrchestrator": false,
            });
            let (spawn, state) = (serde_json::from_value(spawn).unwrap(), RunState::default());
            let now = Timestamp::from_millis(1);
            for lease_epoch in [lease_epoch, lease_epoch + 1] {
                let key = RunKey { run_id: RunId::fresh(), lease_epoch, ..key };
                assert!(journal.accept(key, &spawn, &state, now).await.unwrap());
            }
            all.insert(0, json!(key.task_id));
        }
        for most in 1..7 {
            let (mut words, mut listed) = (Vec::new(), Vec::new());
            loop {
                let page = page(&journal, &words, most).await.unwrap();
                listed.extend(page["tasks"].as_array().unwrap().iter().map(|t| t["id"].clone()));
                let Some(next) = page["nextCursor"].as_str() else { break };
                words = vec![("cursor".to_owned(), next.to_owned())];
            }
            assert_eq!(listed, all, "{most}");
        }
        let bad = page(&journal, &[("cursor".to_owned(), "x".to_owned())], 1).await;
        assert_eq!(bad.unwrap_err().code, Code::Invalid);
    }

    #[test]
    fn a_task_is_named_by_a_part_of_its_id_if_only_one_is() {
        let ids: Vec<TaskId> = (0..3).map(|_| TaskId::fresh()).collect();
        let named = |typed: &str| only(typed, ids.iter().copied());
        assert_eq!(named(&ids[1].short()).unwrap(), ids[1]);
        assert_eq!(named("nope").unwrap_err().code, Code::NotFound);
        let shared = &ids[0].to_string()[..4];
        assert_eq!(named(shared).unwrap_err().code, Code::Ambiguous);
    }
}
