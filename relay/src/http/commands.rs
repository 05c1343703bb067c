//! What is done to a task: its state is checked first, its daemon asked where that takes one.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::order;
use super::params::{Body, Id};
use super::tasks::{again, find, make};
use crate::auth::Caller;
use crate::change::Change;
use crate::core::Core;
use crate::lease;
use crate::origin;
use crate::store::tasks::{self, Braker};
use crate::store::{Heard, spending};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hayward_shared::api::{InterruptBody, MessageBody, ResumeBody};
use hayward_shared::budget::Budget;
use hayward_shared::event::{Kind, MAX_TEXT, bounded, task_stream};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::protocol::ToDaemon;
use hayward_shared::task::{IllegalTransition, Status, Task};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;

/// After the daemon said that it did so, its report is on its way: the answer waits this long.
const REPORT: Duration = Duration::from_secs(2);

/// The most bytes of a message to an agent.
const MAX_MESSAGE: usize = 64 * 1024;

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) async fn run(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Task> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    let mut tx = core.store.write().await?;
    let row = again(&mut tx, &task).await?;
    if row.task.status != Status::Pending {
        return Err(IllegalTransition { from: row.task.status, to: Status::Queued }.into());
    }
    let mut change = Change::of(row);
    change.step(Status::Queued, None, &caller.actor(), crate::clock::now())?;
    let task = tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    Ok(Json(task))
}

pub(super) async fn pause(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Task> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    // a person's pause ends when a person says so, whatever is asked for a budget before or meanwhile
    let before = brake(&core, &task).await?;
    let mut live = core.store.listen();
    if let Err(fault) = ask(&core, &task, ToDaemon::PauseTask { task_id: task.id }).await {
        unbrake(&core, &task, before).await?;
        return Err(fault.into());
    }
    reported(&core, task, &mut live).await
}

/// Notes that a running task is told to pause for a person; for whom it was before.
async fn brake(core: &Core, task: &Task) -> Result<Option<Braker>, Refusal> {
    let mut tx = core.store.write().await?;
    let mut row = again(&mut tx, task).await?;
    must_stand(&row.task, Status::Running, Status::Paused)?;
    let before = row.braked.replace(Braker::Person);
    tasks::save(tx.conn(), &row).await?;
    tx.commit().await?;
    Ok(before)
}

/// Its daemon did not pause it: what a budget asks of it from now on is none of a person's.
async fn unbrake(core: &Core, task: &Task, before: Option<Braker>) -> Result<(), Refusal> {
    let mut tx = core.store.write().await?;
    let mut row = again(&mut tx, task).await?;
    if row.task.status != Status::Paused && row.braked == Some(Braker::Person) {
        row.braked = before.filter(|before| *before != Braker::Person);
        tasks::save(tx.conn(), &row).await?;
        tx.commit().await?;
    }
    Ok(())
}

pub(super) async fn resume(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    Body(body): Body<ResumeBody>,
) -> Answer<Task> {
    caller.commands()?;
    let found = find(&core, &caller, &id).await?;
    let (mut task, was_braked) = (found.task, found.braked == Some(Braker::Budget));
    let mut live = core.store.listen();
    let by = body.budget.as_ref().map(order::budget).transpose()?;
    match by.filter(|budget| !budget.is_empty()) {
        Some(by) => task = raise(&core, &caller, task, by).await?,
        None => must_stand(&task, Status::Paused, Status::Running)?,
    }
    if let Some(over) = spending::over(&mut *core.store.read().await?, &task).await? {
        return Err(Fault::new(Code::LimitReached, over.to_string()).into());
    }
    match (task.status, was_braked) {
        // whoever was paused for the budget is told by who looks after it, this one too
        (Status::Paused, true) => core.raised.notify_one(),
        (Status::Paused, false) => {
            ask(&core, &task, ToDaemon::ResumeTask { task_id: task.id }).await?;
        }
        _ => return Ok(Json(task)),
    }
    reported(&core, task, &mut live).await
}

/// Gives a task new bounds in place of those of its budget that are named; of a task that has ended
/// too, since its parts may wait for it. What is used up by then all the same is refused.
async fn raise(core: &Core, caller: &Caller, task: Task, by: Budget) -> Result<Task, Refusal> {
    let mut tx = core.store.write().await?;
    let mut change = Change::of(again(&mut tx, &task).await?);
    let order = &mut change.row.task.order;
    order.budget = Some(order.budget.unwrap_or_default().raised(by));
    if let Some(over) = spending::set_budget(tx.conn(), &change.row.task).await? {
        return Err(Fault::new(Code::LimitReached, over.to_string()).into());
    }
    change.updated(&["budget"], &caller.actor(), crate::clock::now());
    let task = tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    core.raised.notify_one();
    // what waited in the queue may be claimed
    core.registry.hint(task.workspace_id);
    Ok(task)
}

fn must_stand(task: &Task, from: Status, to: Status) -> Result<(), IllegalTransition> {
    match task.status == from {
        true => Ok(()),
        false => Err(IllegalTransition { from: task.status, to }),
    }
}

/// The task once its daemon reported what it was asked: the status follows from its report alone.
async fn reported(core: &Core, task: Task, live: &mut Receiver<Heard>) -> Answer<Task> {
    let stream = task_stream(task.id);
    let reported = async {
        while let Ok(heard) = live.recv().await {
            if let Heard::Event(event) = heard
                && event.stream == stream
                && event.kind == Kind::TaskStatusChanged
            {
                return;
            }
        }
    };
    // a report that is late is seen in the task's events
    drop(timeout(REPORT, reported).await);
    let found = tasks::find(&mut *core.store.read().await?, task.workspace_id, task.id).await?;
    Ok(Json(found.map_or(task, |row| row.task)))
}

async fn ask(core: &Core, task: &Task, body: ToDaemon) -> Result<Value, Fault> {
    let Some(daemon) = task.holding.daemon_id else {
        return Err(Fault::new(Code::Conflict, "no daemon has run the task yet"));
    };
    core.registry.ask(daemon, body, core.timing.reply).await
}

fn must_run(task: &Task, what: &str) -> Result<(), Fault> {
    if task.status == Status::Running {
        return Ok(());
    }
    let text = format!("a {} task cannot be {what}", task.status);
    Err(Fault::new(Code::IllegalTransition, text))
}

pub(super) async fn interrupt(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    Body(body): Body<InterruptBody>,
) -> Answer<Task> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    must_run(&task, "interrupted")?;
    let command = ToDaemon::InterruptTask { task_id: task.id, graceful: !body.force };
    ask(&core, &task, command).await?;
    Ok(Json(task))
}

pub(super) async fn message(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
    Body(body): Body<MessageBody>,
) -> Answer<Task> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    must_run(&task, "sent a message")?;
    if body.message.is_empty() || body.message.len() > MAX_MESSAGE {
        return Err(invalid("message: from 1 byte to 64 KiB").into());
    }
    let text = bounded(&body.message, MAX_TEXT).0.to_owned();
    let command = ToDaemon::SendMessage { task_id: task.id, message: body.message };
    ask(&core, &task, command).await?;
    let mut tx = core.store.write().await?;
    let mut change = Change::of(again(&mut tx, &task).await?);
    let payload = json!({ "text": text });
    change.say(Kind::TaskMessage, &caller.actor(), crate::clock::now(), payload);
    let task = tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    Ok(Json(task))
}

pub(super) async fn cancel(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Task> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    let mut tx = core.store.write().await?;
    let row = again(&mut tx, &task).await?;
    let held = row.task.status.is_held();
    let change = lease::cancel(row, &caller.actor(), crate::clock::now())?;
    let task = tasks::apply(&mut tx, change).await?;
    tx.commit().await?;
    if let Some(daemon) = task.holding.daemon_id.filter(|_| held) {
        let told = core.registry.tell(daemon, ToDaemon::CancelTask { task_id: task.id }).await;
        if told.is_err() {
            tracing::info!(task = %task.id, %daemon, "cancelled; its daemon learns when it returns");
        }
    }
    Ok(Json(task))
}

pub(super) async fn retry(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Result<(StatusCode, Json<Task>), Refusal> {
    caller.commands()?;
    let task = find(&core, &caller, &id).await?.task;
    if !task.status.is_final() {
        let text = format!("a {} task cannot be retried: it has not ended", task.status);
        return Err(Fault::new(Code::IllegalTransition, text).into());
    }
    let mut order = task.order;
    order.retry_of = Some(task.id);
    // the new try starts from what the base names now
    order.base_commit = None;
    let mut tx = core.store.write().await?;
    let new = make(&core, &mut tx, &caller, (TaskId::fresh(), order)).await?;
    tx.commit().await?;
    origin::concerns(&new);
    Ok((StatusCode::CREATED, Json(new)))
}

pub(super) async fn diff(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    id: Id,
) -> Answer<Value> {
    let task = find(&core, &caller, &id).await?.task;
    Ok(Json(ask(&core, &task, ToDaemon::ReadDiff { task_id: task.id }).await?))
}
