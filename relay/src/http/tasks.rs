//! Tasks: made, read, changed, discarded.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::order;
use super::params::{Body, Id, Params, next_cursor};
use super::why;
use crate::auth::{Caller, Who};
use crate::change::Change;
use crate::core::Core;
use crate::lease;
use crate::limits::Limits;
use crate::origin;
use crate::store::tasks::{self, Filter, Stored};
use crate::store::{Tx, daemons, discards, limits, spending};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use hayward_shared::api::{TaskPage, TaskPatch, TaskView};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{Fragment, TaskId};
use hayward_shared::task::{Holding, Order, Results, Status, Task, Usage};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

type Answer<T> = Result<Json<T>, Refusal>;

/// The task that `{id}` names, when the caller may read it; absent and foreign ones are one.
pub(super) async fn find(core: &Core, caller: &Caller, id: &Id) -> Result<Stored, Refusal> {
    caller.reads_tasks()?;
    let mut reader = core.store.read().await?;
    let task = match id.fragment.whole() {
        Some(whole) => TaskId(whole),
        None => {
            let found =
                tasks::matching(&mut reader, caller.workspace, &id.fragment.to_string()).await?;
            id.only("task", &found)?
        }
    };
    let absent = || Fault::not_found("task", &id.typed);
    let row = tasks::find(&mut reader, caller.workspace, task).await?.ok_or_else(absent)?;
    origin::concerns(&row.task);
    if let Who::Task(own) = caller.who {
        let mut at = Some(row.task.clone());
        while let Some(task) = at.take() {
            if task.id == own {
                return Ok(row);
            }
            if let Some(parent) = task.order.parent_task_id {
                at = tasks::find(&mut reader, caller.workspace, parent).await?.map(|p| p.task);
            }
        }
        return Err(absent().into());
    }
    Ok(row)
}

/// The task again, inside a transaction that changes it.
pub(super) async fn again(tx: &mut Tx, task: &Task) -> Result<Stored, Refusal> {
    let found = tasks::find(tx.conn(), task.workspace_id, task.id).await?;
    found.ok_or_else(|| Fault::not_found("task", task.id).into())
}

pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Answer<TaskPage> {
    caller.reads()?;
    let status = params.one("status").map(read_status).transpose()?;
    let mut labels = Vec::new();
    for label in params.all("label") {
        let (key, value) = label.split_once('=').ok_or_else(|| invalid("label: as key=value"))?;
        labels.push((key.to_owned(), value.to_owned()));
    }
    let parent = match params.read::<Fragment>("parent")? {
        Some(fragment) => {
            let typed = params.one("parent").unwrap_or_default().to_owned();
            Some(find(&core, &caller, &Id { typed, fragment }).await?.task.id)
        }
        None => None,
    };
    page(&core, &caller, &params, Filter { status, parent, labels, ..Filter::default() }).await
}

fn read_status(name: &str) -> Result<Status, Fault> {
    serde_json::from_value(Value::from(name))
        .map_err(|_| invalid(format!("status: '{name}' is none")))
}

async fn page(core: &Core, caller: &Caller, params: &Params, filter: Filter) -> Answer<TaskPage> {
    let limit = params.limit()?;
    let filter = Filter { before: params.cursor()?, ..filter };
    let mut reader = core.store.read().await?;
    let tasks = tasks::page(&mut reader, caller.workspace, &filter, limit).await?;
    let next_cursor = next_cursor(&tasks, limit, |t| (t.created_at.millis(), t.id.0));
    Ok(Json(TaskPage { tasks, next_cursor }))
}

pub(super) async fn show(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<TaskView> {
    let task = find(&core, &caller, &id).await?.task;
    // who runs the other daemons is nothing for an agent
    let why = if caller.reads().is_ok() { why::of(&core, &task).await? } else { Vec::new() };
    let spent = match task.order.budget {
        Some(_) => Some(spending::own(&mut *core.store.read().await?, &task).await?.spent),
        None => None,
    };
    Ok(Json(TaskView { task, why, spent }))
}

pub(super) async fn usage(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Usage> {
    Ok(Json(find(&core, &caller, &id).await?.task.results.usage))
}

pub(super) async fn subtasks(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    params: Params,
) -> Answer<TaskPage> {
    let task = find(&core, &caller, &id).await?.task;
    let filter = Filter { parent: Some(task.id), ..Filter::default() };
    page(&core, &caller, &params, filter).await
}

pub(super) async fn siblings(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    params: Params,
) -> Answer<TaskPage> {
    let task = find(&core, &caller, &id).await?.task;
    caller.reads()?;
    match task.order.parent_task_id {
        None => Ok(Json(TaskPage { tasks: Vec::new(), next_cursor: None })),
        parent => {
            let filter = Filter { parent, except: Some(task.id), ..Filter::default() };
            page(&core, &caller, &params, filter).await
        }
    }
}

pub(super) async fn create(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    headers: HeaderMap,
    Body(body): Body<Value>,
) -> Result<(StatusCode, Json<Task>), Refusal> {
    caller.commands()?;
    let order = order::read(body)?;
    let wanted = headers
        .get("idempotency-key")
        .map(|key| key.to_str().ok().and_then(|key| key.parse::<TaskId>().ok()));
    let wanted = match wanted {
        Some(None) => return Err(invalid("Idempotency-Key: must be a UUID").into()),
        Some(wanted) => wanted,
        None => None,
    };
    let mut tx = core.store.write().await?;
    if let Some(id) = wanted {
        tasks::reserve(tx.conn(), caller.workspace, id).await?;
    }
    if let Some(id) = wanted
        && let Some(row) = tasks::find(tx.conn(), caller.workspace, id).await?
    {
        // the first request's may not be on disk yet
        tx.commit().await?;
        return Ok((StatusCode::OK, Json(row.task)));
    }
    let id = wanted.unwrap_or_else(TaskId::fresh);
    let task = make(&core, &mut tx, &caller, (id, order)).await?;
    tx.commit().await?;
    origin::concerns(&task);
    Ok((StatusCode::CREATED, Json(task)))
}

/// Stores a new task, once all that its order names was found in the workspace.
pub(super) async fn make(
    core: &Core,
    tx: &mut Tx,
    caller: &Caller,
    (id, order): (TaskId, Order),
) -> Result<Task, Refusal> {
    let workspace = caller.workspace;
    let root = match order.parent_task_id {
        Some(parent) => {
            let found = limits::root(tx.conn(), workspace, parent).await?;
            Some(found.ok_or_else(|| Fault::not_found("task", parent))?)
        }
        None => None,
    };
    // by id, as whoever needs several tasks takes them
    let named = [root, order.parent_task_id, order.continue_from_task_id];
    let mut parent = None;
    for other in BTreeSet::from_iter(named.into_iter().flatten()) {
        let found = tasks::find(tx.conn(), workspace, other).await?;
        let row = found.ok_or_else(|| Fault::not_found("task", other))?;
        if order.parent_task_id == Some(other) {
            parent = Some(row.task);
        }
    }
    let depth = match root.zip(parent) {
        Some((root, parent)) => part_of(core, tx, root, &parent).await?,
        None => 0,
    };
    if let Some(daemon) = order.wanted_daemon_id {
        let found = daemons::find(tx.conn(), workspace, daemon).await?;
        found.ok_or_else(|| Fault::not_found("daemon", daemon))?;
    }
    let task = Task {
        id,
        workspace_id: workspace,
        status: Status::Queued,
        reason: None,
        depth,
        order,
        holding: Holding::default(),
        results: Results::default(),
        created_at: crate::clock::now(),
        started_at: None,
        completed_at: None,
        version: 1,
    };
    tasks::set_labels(tx.conn(), &task).await?;
    if task.order.budget.is_some() {
        spending::set_budget(tx.conn(), &task).await?;
    }
    Ok(tasks::apply(tx, lease::created(Stored::new(task), &caller.actor())).await?)
}

/// How deep a part of `parent` is, where its tree may have one more. Whoever adds to the tree
/// meanwhile waits for who has its `root`.
async fn part_of(core: &Core, tx: &mut Tx, root: TaskId, parent: &Task) -> Result<u32, Refusal> {
    let Limits { depth: deepest, tree: most, .. } = core.limits;
    let depth = parent.depth + 1;
    let refused = |text: String, what: &str| {
        let hint = format!("end some of it, or let the relay allow more: {what} of its limits");
        Fault::new(Code::LimitReached, text).with_hint(hint)
    };
    if depth > deepest {
        let text = format!(
            "parentTaskId: parts go {deepest} deep, and task {} is that deep already",
            parent.id.short()
        );
        return Err(refused(text, "depth").into());
    }
    if let Some(over) = spending::over(tx.conn(), parent).await? {
        let fault = Fault::new(Code::LimitReached, format!("parentTaskId: {over}"));
        return Err(fault.into());
    }
    if limits::tree(tx.conn(), parent.workspace_id, root, most).await? >= most {
        let text = format!(
            "parentTaskId: task {} and its parts are {most} tasks, and no more may be",
            root.short()
        );
        return Err(refused(text, "tree").into());
    }
    Ok(depth)
}

pub(super) async fn patch(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    Body(patch): Body<TaskPatch>,
) -> Answer<Task> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    let mut tx = core.store.write().await?;
    let row = again(&mut tx, &task).await?;
    if row.task.version != patch.version {
        let text = format!("the task is at version {}, not {}", row.task.version, patch.version);
        return Err(Fault::new(Code::VersionConflict, text).into());
    }
    let mut change = Change::of(row);
    let fields = take_over(&mut change.row.task, patch)?;
    if fields.is_empty() {
        tx.commit().await?;
        return Ok(Json(change.row.task));
    }
    change.updated(&fields, &caller.actor(), crate::clock::now());
    tasks::set_labels(tx.conn(), &change.row.task).await?;
    let task = tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    Ok(Json(task))
}

/// Changes what `patch` names; which fields that were.
fn take_over(task: &mut Task, patch: TaskPatch) -> Result<Vec<&'static str>, Fault> {
    let mut fields = Vec::new();
    let idle = matches!(task.status, Status::Pending | Status::Queued | Status::Deferred);
    let busy = |field: &str| {
        let text = format!("{field}: cannot be changed while the task is {}", task.status);
        Fault::new(Code::Conflict, text)
    };
    if let Some(plan) = patch.plan {
        idle.then_some(()).ok_or_else(|| busy("plan"))?;
        order::plan(&plan)?;
        task.order.plan = plan;
        fields.push("plan");
    }
    if let Some(priority) = patch.priority {
        idle.then_some(()).ok_or_else(|| busy("priority"))?;
        order::priority(priority)?;
        task.order.priority = priority;
        fields.push("priority");
    }
    if let Some(name) = patch.name {
        order::name(&name)?;
        task.order.name = name;
        fields.push("name");
    }
    if let Some(labels) = patch.labels {
        order::labels(&labels)?;
        task.order.labels = labels;
        fields.push("labels");
    }
    Ok(fields)
}

/// Its daemon takes it out of the merge queue and removes its worktree, after what would be lost is
/// kept; one that is away does so when it is back.
pub(super) async fn discard(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Task> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    let mut tx = core.store.write().await?;
    let row = again(&mut tx, &task).await?;
    if !row.task.status.is_final() {
        let text = format!("a {} task cannot be discarded: cancel it first", row.task.status);
        return Err(Fault::new(Code::IllegalTransition, text).into());
    }
    keeps_bounds(&mut tx, &row.task).await?;
    tasks::discard(&mut tx, caller.workspace, row.task.id).await?;
    let daemon = row.task.holding.daemon_id;
    if let Some(daemon) = daemon {
        discards::note(tx.conn(), caller.workspace, row.task.id, daemon).await?;
    }
    tx.commit().await?;
    if let Some(daemon) = daemon {
        crate::discards::tell(&core, daemon, caller.workspace, row.task.id);
    }
    Ok(Json(row.task))
}

/// Refuses to discard what bounds a part: that is looked for along the tasks above it, and one that
/// has completed may go on.
async fn keeps_bounds(tx: &mut Tx, task: &Task) -> Result<(), Refusal> {
    let workspace = task.workspace_id;
    let (part, what) = match limits::open_part(tx.conn(), workspace, task.id).await? {
        Some(part) => {
            let what = "has not ended, and is held to its budget. Cancel that first, or wait until \
                        it has ended";
            (part, what)
        }
        None => match limits::last_part(tx.conn(), workspace, task.id).await? {
            Some(part) if spending::is_bounded(tx.conn(), task).await? => {
                (part, "shares a budget with it, and may yet go on. Discard that first")
            }
            _ => return Ok(()),
        },
    };
    let text =
        format!("task {} cannot be discarded: its part {} {what}", task.id.short(), part.short());
    Err(Fault::new(Code::Conflict, text).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::config::Timing;
    use crate::core::tests::core_on;
    use crate::store::contract::on_postgres;
    use hayward_shared::api::Role;
    use hayward_shared::id::{TokenId, UserId};
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_new_task_that_waits_for_the_first_that_it_names_keeps_none_behind_it_from_others() {
        let Some(place) = on_postgres().await else { return };
        let mut ids = Vec::new();
        for _ in 0..2 {
            ids.push(place.store(place.row(Order::default())).await);
        }
        ids.sort();
        let (first, then) = (ids[0], ids[1]);
        let core = core_on(place.store.clone(), Timing::default(), Bus::default());
        let caller = Caller {
            workspace: place.workspace,
            token: TokenId::fresh(),
            who: Who::User(UserId::fresh()),
            role: Role::Owner,
        };
        let mut tx = place.store.write().await.unwrap();
        tasks::find(tx.conn(), place.workspace, first).await.unwrap();
        let making = tokio::spawn(async move {
            let order = Order {
                parent_task_id: Some(then),
                continue_from_task_id: Some(first),
                ..Order::default()
            };
            let mut tx = core.store.write().await.unwrap();
            let made = make(&core, &mut tx, &caller, (TaskId::fresh(), order)).await;
            tx.commit().await.unwrap();
            made.map(|task| task.depth).ok()
        });
        let bound = Duration::from_secs(60);
        timeout(bound, place.is_waited_for(&mut tx)).await.expect("nobody waits");
        let taken = tasks::take(tx.conn(), place.workspace, then).await.unwrap();
        assert!(taken.is_some(), "two changes might wait for each other");
        tx.commit().await.unwrap();
        assert_eq!(timeout(bound, making).await.unwrap().unwrap(), Some(1));
    }
}
