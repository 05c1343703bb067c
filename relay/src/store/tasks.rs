//! Tasks: the whole task as a document, and beside it the columns that are asked for.
//!
//! Every question names the workspace; a foreign id is not found, exactly as an absent one.

use super::events::{self, Stream};
use super::sql::{Parts, query, query_scalar};
use super::{
    Conn, Doing, StoreError, Tx, count, from_json, int, json, moment, read_id, spending, text,
    tokens,
};
use crate::change::{Change, system};
use hayward_shared::event::Kind;
use hayward_shared::id::{DaemonId, TaskId, WorkspaceId};
use hayward_shared::task::{STATUSES, Status, Task};
use hayward_shared::time::Timestamp;

/// For whom a task was told to pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Braker {
    /// For a budget that is used up: it goes on once that is raised.
    Budget,
    /// For a person: it goes on when a person says so, whatever becomes of budgets.
    Person,
}

/// A task, and what of it only the relay knows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) task: Task,
    /// When it last became queued.
    pub(crate) queued_at: Option<Timestamp>,
    /// Until when its holder need not be heard.
    pub(crate) lease_expires_at: Option<Timestamp>,
    /// The last hand-over of which the holder reported something.
    pub(crate) heard_epoch: u64,
    /// Since when its running time is to be counted; none while it does not run.
    pub(crate) running_since: Option<Timestamp>,
    /// For whom it was told to pause; none while it was not, or was told to go on.
    pub(crate) braked: Option<Braker>,
}

impl Stored {
    /// A task that nobody has held.
    pub(crate) fn new(task: Task) -> Self {
        let queued_at = (task.status == Status::Queued).then_some(task.created_at);
        Self {
            task,
            queued_at,
            lease_expires_at: None,
            heard_epoch: 0,
            running_since: None,
            braked: None,
        }
    }
}

type Row = (String, Option<i64>, Option<i64>, i64, Option<i64>, i64);

const COLUMNS: &str = "SELECT document, queued_at, lease_expires_at, heard_epoch, running_since, \
                       braked FROM tasks ";

fn stored((document, queued, lease, heard, since, braked): Row) -> Result<Stored, StoreError> {
    Ok(Stored {
        task: from_json(&document, "task")?,
        queued_at: moment(queued),
        lease_expires_at: moment(lease),
        heard_epoch: count(heard),
        running_since: moment(since),
        braked: match braked {
            0 => None,
            2 => Some(Braker::Person),
            _ => Some(Braker::Budget),
        },
    })
}

/// The agent that a run is under way of, or that a waiting task names.
fn agent(task: &Task) -> Option<&str> {
    match task.status.is_held() {
        true => task.holding.claimed_agent.as_deref(),
        false => task.order.named_agent(),
    }
}

/// Stores a task as it is now, in one statement. Its labels are kept apart: see [`set_labels`].
pub(crate) async fn save(conn: &mut Conn, row: &Stored) -> Result<(), StoreError> {
    let task = &row.task;
    query(
        "INSERT INTO tasks (workspace_id, id, status, priority, created_at, queued_at, \
         parent_task_id, wanted_daemon_id, daemon_id, lease_epoch, heard_epoch, \
         lease_expires_at, next_retry_at, version, document, agent, provider, running_since, \
         braked) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
         $17, $18, $19) \
         ON CONFLICT (workspace_id, id) DO UPDATE SET status = excluded.status, \
         priority = excluded.priority, queued_at = excluded.queued_at, \
         daemon_id = excluded.daemon_id, lease_epoch = excluded.lease_epoch, \
         heard_epoch = excluded.heard_epoch, lease_expires_at = excluded.lease_expires_at, \
         next_retry_at = excluded.next_retry_at, version = excluded.version, \
         document = excluded.document, agent = excluded.agent, provider = excluded.provider, \
         running_since = excluded.running_since, braked = excluded.braked",
    )
    .bind(text(task.workspace_id.0))
    .bind(text(task.id.0))
    .bind(task.status.name())
    .bind(i64::from(task.order.priority))
    .bind(task.created_at.millis())
    .bind(row.queued_at.map(Timestamp::millis))
    .bind(task.order.parent_task_id.map(|id| text(id.0)))
    .bind(task.order.wanted_daemon_id.map(|id| text(id.0)))
    .bind(task.holding.daemon_id.map(|id| text(id.0)))
    .bind(int(task.holding.lease_epoch))
    .bind(int(row.heard_epoch))
    .bind(row.lease_expires_at.map(Timestamp::millis))
    .bind(task.holding.next_retry_at.map(Timestamp::millis))
    .bind(int(task.version))
    .bind(json(task, "task")?)
    .bind(agent(task).map(str::to_owned))
    .bind(task.holding.provider.clone().filter(|_| task.status.is_held()))
    .bind(row.running_since.map(Timestamp::millis))
    .bind(match row.braked {
        None => 0_i64,
        Some(Braker::Budget) => 1,
        Some(Braker::Person) => 2,
    })
    .execute(&mut *conn)
    .await
    .doing("store a task")?;
    if task.status.is_final() {
        tokens::drop_of_task(conn, task.workspace_id, task.id).await?;
    }
    Ok(())
}

fn label(key: &str, value: &str) -> Result<String, StoreError> {
    json(&[key, value], "label")
}

/// Stores the labels of a task, in place of those it had.
pub(crate) async fn set_labels(conn: &mut Conn, task: &Task) -> Result<(), StoreError> {
    query("DELETE FROM task_labels WHERE workspace_id = $1 AND task_id = $2")
        .bind(text(task.workspace_id.0))
        .bind(text(task.id.0))
        .execute(&mut *conn)
        .await
        .doing("store labels")?;
    for (key, value) in &task.order.labels {
        query("INSERT INTO task_labels (workspace_id, task_id, label) VALUES ($1, $2, $3)")
            .bind(text(task.workspace_id.0))
            .bind(text(task.id.0))
            .bind(label(key, value)?)
            .execute(&mut *conn)
            .await
            .doing("store labels")?;
    }
    Ok(())
}

/// A task of a workspace. Within a change it stays as it is until that ends: a change that needs
/// several takes them by ascending id, or two changes might wait for each other.
pub(crate) async fn find(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<Option<Stored>, StoreError> {
    let locking = conn.locking();
    let sql = format!("{COLUMNS} WHERE workspace_id = $1 AND id = $2{locking}");
    let row: Option<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(text(id.0))
        .fetch_optional(conn)
        .await
        .doing("read a task")?;
    row.map(stored).transpose()
}

/// Where the task that `task` continues was run, or is. Others may change that at once.
pub(crate) async fn continued_on(
    conn: &mut Conn,
    task: &Task,
) -> Result<Option<DaemonId>, StoreError> {
    let Some(id) = task.order.continue_from_task_id else { return Ok(None) };
    let row: Option<(Option<String>,)> =
        query("SELECT daemon_id FROM tasks WHERE workspace_id = $1 AND id = $2")
            .bind(text(task.workspace_id.0))
            .bind(text(id.0))
            .fetch_optional(conn)
            .await
            .doing("read a task")?;
    row.and_then(|(daemon,)| daemon).map(|id| read_id(&id).map(DaemonId)).transpose()
}

/// How many tasks stand so, of each status that is not final, over all workspaces.
pub(crate) async fn standing(conn: &mut Conn) -> Result<Vec<(String, i64)>, StoreError> {
    let mut all = Vec::new();
    for status in STATUSES.into_iter().filter(|status| !status.is_final()) {
        let count: i64 = query_scalar("SELECT COUNT(*) FROM tasks WHERE status = $1")
            .bind(status.name())
            .fetch_one(&mut *conn)
            .await
            .doing("count tasks")?;
        all.push((status.name().to_owned(), count));
    }
    Ok(all)
}

/// Ids of a workspace's tasks that begin or end with `fragment` (hex digits); two at the most.
pub(crate) async fn matching(
    conn: &mut Conn,
    workspace: WorkspaceId,
    fragment: &str,
) -> Result<Vec<TaskId>, StoreError> {
    let ids: Vec<String> = query_scalar(
        "SELECT id FROM tasks WHERE workspace_id = $1 AND (id LIKE $2 OR id LIKE $3) LIMIT 2",
    )
    .bind(text(workspace.0))
    .bind(format!("{fragment}%"))
    .bind(format!("%{fragment}"))
    .fetch_all(conn)
    .await
    .doing("look a task up")?;
    ids.iter().map(|id| read_id(id).map(TaskId)).collect()
}

/// Which tasks a list shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) status: Option<Status>,
    pub(crate) parent: Option<TaskId>,
    pub(crate) except: Option<TaskId>,
    pub(crate) labels: Vec<(String, String)>,
    /// Only tasks older than this one: its moment and id.
    pub(crate) before: Option<(i64, String)>,
}

/// At most `limit` tasks of a workspace, newest first.
pub(crate) async fn page(
    conn: &mut Conn,
    workspace: WorkspaceId,
    filter: &Filter,
    limit: u32,
) -> Result<Vec<Task>, StoreError> {
    let mut sql = Parts::new("SELECT document FROM tasks t WHERE workspace_id = ");
    sql.push_bind(text(workspace.0));
    if let Some(status) = filter.status {
        sql.push(" AND status = ").push_bind(status.name());
    }
    if let Some(parent) = filter.parent {
        sql.push(" AND parent_task_id = ").push_bind(text(parent.0));
    }
    if let Some(except) = filter.except {
        sql.push(" AND id <> ").push_bind(text(except.0));
    }
    for (key, value) in &filter.labels {
        sql.push(
            " AND EXISTS (SELECT 1 FROM task_labels l WHERE l.workspace_id = t.workspace_id \
             AND l.task_id = t.id AND l.label = ",
        )
        .push_bind(label(key, value)?)
        .push(")");
    }
    if let Some((at, id)) = &filter.before {
        sql.push(" AND (created_at, id) < (").push_bind(*at).push(", ").push_bind(id);
        sql.push(")");
    }
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
    let rows: Vec<String> = sql.scalar().fetch_all(conn).await.doing("read the tasks")?;
    rows.iter().map(|document| from_json(document, "task")).collect()
}

/// Agents whose tasks are passed over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closed {
    pub(crate) agents: Vec<String>,
    /// Tasks that name none as well.
    pub(crate) unnamed: bool,
}

/// At most `limit` queued tasks that are not meant for another daemon, best first, after `last`.
/// Others may claim them meanwhile: see [`take`].
pub(crate) async fn queue(
    conn: &mut Conn,
    workspace: WorkspaceId,
    daemon: DaemonId,
    last: Option<&Stored>,
    limit: u32,
) -> Result<Vec<Stored>, StoreError> {
    queue_but(conn, workspace, daemon, (last, limit), &Closed::default()).await
}

/// The same, without those of some agents.
pub(crate) async fn queue_but(
    conn: &mut Conn,
    workspace: WorkspaceId,
    daemon: DaemonId,
    (last, limit): (Option<&Stored>, u32),
    closed: &Closed,
) -> Result<Vec<Stored>, StoreError> {
    let mut sql = Parts::new(COLUMNS);
    sql.push(" WHERE workspace_id = ").push_bind(text(workspace.0));
    sql.push(" AND status = 'queued' AND (wanted_daemon_id IS NULL OR wanted_daemon_id = ");
    sql.push_bind(text(daemon.0)).push(")");
    if closed.unnamed {
        sql.push(" AND agent IS NOT NULL");
    }
    for agent in &closed.agents {
        sql.push(" AND (agent IS NULL OR agent <> ").push_bind(agent).push(")");
    }
    if let Some(Stored { task, .. }) = last {
        let priority = i64::from(task.order.priority);
        sql.push(" AND priority <= ").push_bind(priority);
        sql.push(" AND (priority < ").push_bind(priority).push(" OR (created_at, id) > (");
        sql.push_bind(task.created_at.millis()).push(", ").push_bind(text(task.id.0)).push("))");
    }
    sql.push(" ORDER BY priority DESC, created_at, id LIMIT ").push_bind(i64::from(limit));
    let rows: Vec<Row> = sql.done().fetch_all(conn).await.doing("read the queue")?;
    rows.into_iter().map(stored).collect()
}

/// A task that is to be claimed, kept from all others until this change ends; none when it is
/// claimed or being changed by somebody else.
pub(crate) async fn take(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<Option<Stored>, StoreError> {
    let locking = if conn.is_shared() { " FOR UPDATE SKIP LOCKED" } else { "" };
    let sql =
        format!("{COLUMNS} WHERE workspace_id = $1 AND id = $2 AND status = 'queued'{locking}");
    let row: Option<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(text(id.0))
        .fetch_optional(conn)
        .await
        .doing("claim a task")?;
    row.map(stored).transpose()
}

/// Keeps an id that a client chose from all others who would make a task of it, until this change
/// ends.
pub(crate) async fn reserve(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<(), StoreError> {
    if !conn.is_shared() {
        return Ok(());
    }
    query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("{}/{}", text(workspace.0), text(id.0)))
        .execute(conn)
        .await
        .doing("reserve an id")?;
    Ok(())
}

/// The tasks of which a daemon holds a run.
pub(crate) async fn held_by(
    conn: &mut Conn,
    workspace: WorkspaceId,
    daemon: DaemonId,
) -> Result<Vec<Stored>, StoreError> {
    let sql = format!(
        "{COLUMNS} WHERE workspace_id = $1 AND daemon_id = $2 \
         AND status IN ('dispatched', 'waiting', 'running', 'paused') ORDER BY created_at, id"
    );
    let rows: Vec<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(workspace.0))
        .bind(text(daemon.0))
        .fetch_all(conn)
        .await
        .doing("read what a daemon holds")?;
    rows.into_iter().map(stored).collect()
}

/// Whether a task has parts.
pub(crate) async fn has_parts(
    conn: &mut Conn,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<bool, StoreError> {
    let part: Option<i64> = query_scalar(
        "SELECT version FROM tasks WHERE workspace_id = $1 AND parent_task_id = $2 LIMIT 1",
    )
    .bind(text(workspace.0))
    .bind(text(id.0))
    .fetch_optional(conn)
    .await
    .doing("look for parts")?;
    Ok(part.is_some())
}

/// Deletes a task and all that is stored of it.
pub(crate) async fn discard(
    tx: &mut Tx,
    workspace: WorkspaceId,
    id: TaskId,
) -> Result<(), StoreError> {
    let stream = hayward_shared::event::task_stream(id);
    for sql in [
        "DELETE FROM task_labels WHERE workspace_id = $1 AND task_id = $2",
        "DELETE FROM spendings WHERE workspace_id = $1 AND task_id = $2",
        "DELETE FROM run_usage WHERE workspace_id = $1 AND task_id = $2",
        "DELETE FROM tokens WHERE workspace_id = $1 AND task_id = $2",
        "DELETE FROM tasks WHERE workspace_id = $1 AND id = $2",
    ] {
        query(sql)
            .bind(text(workspace.0))
            .bind(text(id.0))
            .execute(tx.conn())
            .await
            .doing("discard a task")?;
    }
    query("DELETE FROM events WHERE workspace_id = $1 AND stream = $2")
        .bind(text(workspace.0))
        .bind(stream)
        .execute(tx.conn())
        .await
        .doing("discard a task's events")?;
    Ok(())
}

/// Stores a change with what it spent, and appends its events; they are heard when the transaction
/// is committed.
pub(crate) async fn apply(tx: &mut Tx, change: Change) -> Result<Task, StoreError> {
    save(tx.conn(), &change.row).await?;
    tell(tx, change).await
}

/// Stores of a change only until when the task's time is counted, with what that came to.
pub(crate) async fn apply_time(tx: &mut Tx, change: Change) -> Result<(), StoreError> {
    let Stored { task, running_since, .. } = &change.row;
    query("UPDATE tasks SET running_since = $3 WHERE workspace_id = $1 AND id = $2")
        .bind(text(task.workspace_id.0))
        .bind(text(task.id.0))
        .bind(running_since.map(Timestamp::millis))
        .execute(tx.conn())
        .await
        .doing("count the time of a task")?;
    tell(tx, change).await.map(drop)
}

/// Adds what a change spent, and appends its events.
async fn tell(tx: &mut Tx, mut change: Change) -> Result<Task, StoreError> {
    let (over, unknown) = spending::add(tx.conn(), &change.row.task, change.spent).await?;
    let now = crate::clock::now();
    if unknown {
        let model = change.row.task.model().unwrap_or("its model");
        let text = format!(
            "the relay knows no price of {model}: the cost of this run counts against no budget \
             until its agent tells it"
        );
        change.say(Kind::AgentNotice, &system(), now, serde_json::json!({ "text": text }));
    }
    for over in over {
        let payload = serde_json::to_value(over).unwrap_or_default();
        change.say(Kind::BudgetReached, &system(), now, payload);
    }
    let Change { row, drafts, .. } = change;
    let task = row.task;
    events::append(tx, task.workspace_id, Stream::Task(task.id), drafts).await?;
    Ok(task)
}
