//! What tasks and their parts spent, kept beside them: each sum grows with what is reported, and is
//! never counted anew from events that may be gone.

use super::sql::{Parts, query, query_scalar};
use super::tasks::Stored;
use super::{Conn, Doing, StoreError, count, from_json, json, moment, read_id, text};
use crate::prices::{self, Bill, Delta, Price};
use hayward_shared::budget::{Budget, BudgetReached, Reached, Spent, Usd};
use hayward_shared::id::{RunId, TaskId, WorkspaceId};
use hayward_shared::task::{Status, Task, Usage};
use hayward_shared::time::Timestamp;
use std::collections::BTreeSet;

/// What a task and its parts spent, and what they may.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Account {
    pub(crate) task: TaskId,
    pub(crate) budget: Budget,
    pub(crate) spent: Spent,
    /// The bound that was reached; none once it is raised.
    pub(crate) reached: Option<Reached>,
}

impl Account {
    /// What is told of a budget that is used up.
    pub(crate) fn over(&self) -> Option<BudgetReached> {
        self.reached.map(|reached| BudgetReached { of_task_id: self.task, reached })
    }
}

type Row = (String, Option<String>, i64, i64, i64, i64, Option<String>);

const COLUMNS: &str = "task_id, budget, tokens, cost, unpriced, running_ms, reached";

fn account(
    (task, budget, tokens, cost, unpriced, ms, reached): Row,
) -> Result<Account, StoreError> {
    let budget = budget.map(|budget| from_json(&budget, "budget")).transpose()?;
    Ok(Account {
        task: TaskId(read_id(&task)?),
        budget: budget.unwrap_or_default(),
        spent: Spent {
            tokens: count(tokens),
            cost_usd: Usd::from_nanos(count(cost)),
            unpriced_tokens: count(unpriced),
            running_ms: count(ms),
        },
        reached: reached.map(|reached| from_json(&reached, "budget")).transpose()?,
    })
}

/// Notes what a run used so far, where its model costs `price`; the sum of all runs of its task, and
/// what came to it.
pub(crate) async fn note_usage(
    conn: &mut Conn,
    workspace: WorkspaceId,
    (task, run): (TaskId, RunId),
    (said, price): (Usage, Option<Price>),
) -> Result<(Usage, Delta), StoreError> {
    let rows: Vec<(String, String, Option<i64>, Option<i64>)> = query(
        "SELECT run_id, document, cost, unpriced FROM run_usage \
         WHERE workspace_id = $1 AND task_id = $2 ORDER BY run_id",
    )
    .bind(text(workspace.0))
    .bind(text(task.0))
    .fetch_all(&mut *conn)
    .await
    .doing("read usage")?;
    let (mut before, mut sum) = (Bill::default(), Usage::default());
    for (id, document, cost, unpriced) in rows {
        let usage = from_json(&document, "usage")?;
        let bill = match cost.zip(unpriced) {
            Some((cost, unpriced)) => Bill { usage, cost, unpriced },
            None => Bill::unbilled(usage),
        };
        match id == text(run.0) {
            true => before = bill,
            false => sum = sum.plus(bill.told()),
        }
    }
    let bill = before.after(said, price);
    query(
        "INSERT INTO run_usage (workspace_id, task_id, run_id, document, cost, unpriced) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (workspace_id, task_id, run_id) DO UPDATE \
         SET document = excluded.document, cost = excluded.cost, unpriced = excluded.unpriced",
    )
    .bind(text(workspace.0))
    .bind(text(task.0))
    .bind(text(run.0))
    .bind(json(&said, "usage")?)
    .bind(bill.cost)
    .bind(bill.unpriced)
    .execute(conn)
    .await
    .doing("store usage")?;
    Ok((sum.plus(bill.told()), bill.since(&before)))
}

/// Keeps in mind that this was a run of the task: what it used may be told late.
pub(crate) async fn keep_run(
    conn: &mut Conn,
    workspace: WorkspaceId,
    (task, run): (TaskId, RunId),
) -> Result<(), StoreError> {
    query(
        "INSERT INTO run_usage (workspace_id, task_id, run_id, document) \
         VALUES ($1, $2, $3, $4) ON CONFLICT (workspace_id, task_id, run_id) DO NOTHING",
    )
    .bind(text(workspace.0))
    .bind(text(task.0))
    .bind(text(run.0))
    .bind(json(&Usage::default(), "usage")?)
    .execute(conn)
    .await
    .doing("keep a run in mind")?;
    Ok(())
}

/// Whether this was a run of the task before its present one.
pub(crate) async fn was_run(
    conn: &mut Conn,
    workspace: WorkspaceId,
    (task, run): (TaskId, RunId),
) -> Result<bool, StoreError> {
    let found: Option<String> = query_scalar(
        "SELECT run_id FROM run_usage WHERE workspace_id = $1 AND task_id = $2 AND run_id = $3",
    )
    .bind(text(workspace.0))
    .bind(text(task.0))
    .bind(text(run.0))
    .fetch_optional(conn)
    .await
    .doing("look for a run")?;
    Ok(found.is_some())
}

/// A task and all that it is a part of, by id.
async fn lineage(conn: &mut Conn, task: &Task) -> Result<Vec<String>, StoreError> {
    let own = text(task.id.0);
    let Some(parent) = task.order.parent_task_id else { return Ok(vec![own]) };
    let mut all: Vec<String> = query_scalar(
        "WITH RECURSIVE up (id, parent_task_id) AS ( \
         SELECT id, parent_task_id FROM tasks WHERE workspace_id = $1 AND id = $2 \
         UNION SELECT t.id, t.parent_task_id FROM tasks t JOIN up ON t.id = up.parent_task_id \
         WHERE t.workspace_id = $1) SELECT id FROM up",
    )
    .bind(text(task.workspace_id.0))
    .bind(text(parent.0))
    .fetch_all(conn)
    .await
    .doing("look for what a task is a part of")?;
    all.push(own);
    // whoever adds to several sums takes them in one order
    all.sort();
    all.dedup();
    Ok(all)
}

/// The most that is added at once: what more reports tell than are ever stored together.
const AT_ONCE: i64 = 1_000 * prices::MOST;

/// The greatest sum that something is added to: one more still fits its column.
const GREATEST: i64 = i64::MAX - AT_ONCE;

/// Adds to a sum, within what its column holds: neither beyond its end nor below nothing.
fn added(column: &str) -> String {
    let (sum, more) = (format!("spendings.{column}"), format!("excluded.{column}"));
    format!(
        "{column} = CASE WHEN {sum} > {GREATEST} AND {more} > 0 THEN {sum} \
         WHEN {sum} + {more} < 0 THEN 0 ELSE {sum} + {more} END"
    )
}

/// Adds what a task spent to its own sum and to those of all that it is a part of. The budgets of
/// them that this used up, and whether the cost of something began to be unknown where it is bounded.
pub(crate) async fn add(
    conn: &mut Conn,
    task: &Task,
    delta: Delta,
) -> Result<(Vec<BudgetReached>, bool), StoreError> {
    let (mut over, mut unknown) = (Vec::new(), false);
    if delta == Delta::default() {
        return Ok((over, unknown));
    }
    for id in lineage(conn, task).await? {
        let [tokens, cost, unpriced, ms] = ["tokens", "cost", "unpriced", "running_ms"].map(added);
        let sql = format!(
            "INSERT INTO spendings (workspace_id, task_id, tokens, cost, unpriced, running_ms) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (workspace_id, task_id) DO UPDATE SET \
             {tokens}, {cost}, {unpriced}, {ms} RETURNING {COLUMNS}"
        );
        let bounded = |more: i64| more.clamp(-AT_ONCE, AT_ONCE);
        let row: Row = query(sqlx::AssertSqlSafe(sql))
            .bind(text(task.workspace_id.0))
            .bind(&id)
            .bind(bounded(delta.tokens))
            .bind(bounded(delta.cost))
            .bind(bounded(delta.unpriced))
            .bind(bounded(delta.ms))
            .fetch_one(&mut *conn)
            .await
            .doing("add up what was spent")?;
        let mut account = account(row)?;
        let Account { budget, spent, .. } = &account;
        let fresh = i64::try_from(spent.unpriced_tokens).is_ok_and(|all| all == delta.unpriced);
        let nothing = spent.cost_usd == Usd::default();
        unknown |= budget.max_cost_usd.is_some() && delta.unpriced > 0 && fresh && nothing;
        if account.reached.is_none()
            && let Some(reached) = budget.reached(spent)
        {
            account.reached = Some(reached);
            mark(conn, task, &account).await?;
            over.extend(account.over());
        }
    }
    Ok((over, unknown))
}

/// Notes of an account of this task's tree which bound of its budget is used up.
async fn mark(conn: &mut Conn, task: &Task, account: &Account) -> Result<(), StoreError> {
    let reached = account.reached.as_ref();
    query("UPDATE spendings SET reached = $3 WHERE workspace_id = $1 AND task_id = $2")
        .bind(text(task.workspace_id.0))
        .bind(text(account.task.0))
        .bind(reached.map(|reached| json(reached, "budget")).transpose()?)
        .execute(conn)
        .await
        .doing("note that a budget is used up")?;
    Ok(())
}

/// Gives a task the budget of its order, in place of the one that it had. The bound that is used up
/// all the same, where one is.
pub(crate) async fn set_budget(
    conn: &mut Conn,
    task: &Task,
) -> Result<Option<BudgetReached>, StoreError> {
    let budget = task.order.budget.unwrap_or_default();
    // from the first statement on nobody else adds to the sums that it answers
    let sql = format!(
        "INSERT INTO spendings (workspace_id, task_id, budget, timed, \
         tokens, cost, unpriced, running_ms) VALUES ($1, $2, $3, $4, 0, 0, 0, 0) \
         ON CONFLICT (workspace_id, task_id) DO UPDATE SET budget = excluded.budget, \
         timed = excluded.timed RETURNING {COLUMNS}"
    );
    let row: Row = query(sqlx::AssertSqlSafe(sql))
        .bind(text(task.workspace_id.0))
        .bind(text(task.id.0))
        .bind(json(&budget, "budget")?)
        .bind(i64::from(budget.max_seconds.is_some()))
        .fetch_one(&mut *conn)
        .await
        .doing("store a budget")?;
    let mut account = account(row)?;
    let reached = account.budget.reached(&account.spent);
    if account.reached != reached {
        account.reached = reached;
        mark(conn, task, &account).await?;
    }
    Ok(account.over())
}

/// What a task and its parts spent.
pub(crate) async fn own(conn: &mut Conn, task: &Task) -> Result<Account, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM spendings WHERE workspace_id = $1 AND task_id = $2");
    let row: Option<Row> = query(sqlx::AssertSqlSafe(sql))
        .bind(text(task.workspace_id.0))
        .bind(text(task.id.0))
        .fetch_optional(conn)
        .await
        .doing("read what was spent")?;
    let none = || Account {
        task: task.id,
        budget: Budget::default(),
        spent: Spent::default(),
        reached: None,
    };
    row.map_or_else(|| Ok(none()), account)
}

/// The budget that keeps a task back: that of one that it is a part of, which keeps back more than
/// its own, else its own.
pub(crate) async fn over(
    conn: &mut Conn,
    task: &Task,
) -> Result<Option<BudgetReached>, StoreError> {
    if task.order.parent_task_id.is_none() && task.order.budget.is_none() {
        return Ok(None);
    }
    let mut over = None;
    for id in lineage(conn, task).await? {
        let sql = format!(
            "SELECT {COLUMNS} FROM spendings \
             WHERE workspace_id = $1 AND task_id = $2 AND reached IS NOT NULL"
        );
        let row: Option<Row> = query(sqlx::AssertSqlSafe(sql))
            .bind(text(task.workspace_id.0))
            .bind(id)
            .fetch_optional(&mut *conn)
            .await
            .doing("look for a budget that is used up")?;
        if let Some(row) = row {
            let found = account(row)?;
            if over.is_none() || found.task != task.id {
                over = found.over();
            }
        }
    }
    Ok(over)
}

/// Whether a task, or one that it is a part of, has a budget.
pub(crate) async fn is_bounded(conn: &mut Conn, task: &Task) -> Result<bool, StoreError> {
    for id in lineage(conn, task).await? {
        let found: Option<String> = query_scalar(
            "SELECT task_id FROM spendings \
             WHERE workspace_id = $1 AND task_id = $2 AND budget IS NOT NULL",
        )
        .bind(text(task.workspace_id.0))
        .bind(id)
        .fetch_optional(&mut *conn)
        .await
        .doing("look for a budget")?;
        if found.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Those of these tasks of a workspace that a budget keeps back: their own, or that of one that they
/// are a part of. One statement for all of them.
pub(crate) async fn held_back(
    conn: &mut Conn,
    workspace: WorkspaceId,
    tasks: &[Stored],
) -> Result<BTreeSet<TaskId>, StoreError> {
    let may_be = |task: &&Task| task.order.parent_task_id.is_some() || task.order.budget.is_some();
    let asked: Vec<_> = tasks.iter().map(|row| &row.task).filter(may_be).collect();
    // of a few lengths alone, as each is a statement of its own to prepare
    let length = asked.len().next_power_of_two();
    let mut ids = asked.iter().cycle().take(length).map(|task| text(task.id.0));
    let Some(first) = ids.next() else { return Ok(BTreeSet::new()) };
    let mut sql = Parts::new(
        "WITH RECURSIVE up (workspace_id, id, at) AS ( \
         SELECT workspace_id, id, id FROM tasks WHERE workspace_id = ",
    );
    sql.push_bind(text(workspace.0)).push(" AND id IN (").push_bind(first);
    for id in ids {
        sql.push(", ").push_bind(id);
    }
    sql.push(
        ") UNION SELECT up.workspace_id, up.id, t.parent_task_id FROM up JOIN tasks t \
         ON t.workspace_id = up.workspace_id AND t.id = up.at WHERE t.parent_task_id IS NOT NULL) \
         SELECT DISTINCT up.id FROM up JOIN spendings s \
         ON s.workspace_id = up.workspace_id AND s.task_id = up.at WHERE s.reached IS NOT NULL",
    );
    let held: Vec<String> =
        sql.scalar().fetch_all(conn).await.doing("look for budgets that are used up")?;
    held.iter().map(|id| read_id(id).map(TaskId)).collect()
}

type Key = (WorkspaceId, TaskId);

/// Tasks of any workspace that stand so, in a tree of which a budget is such, and since when their
/// time is to be counted.
async fn below(
    conn: &mut Conn,
    status: Status,
    such: &str,
) -> Result<Vec<(Key, Option<Timestamp>)>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE up (workspace_id, id, since, at) AS ( \
         SELECT workspace_id, id, running_since, id FROM tasks WHERE status = $1 \
         UNION SELECT up.workspace_id, up.id, up.since, t.parent_task_id FROM up JOIN tasks t \
         ON t.workspace_id = up.workspace_id AND t.id = up.at WHERE t.parent_task_id IS NOT NULL) \
         SELECT DISTINCT up.workspace_id, up.id, up.since FROM up JOIN spendings s \
         ON s.workspace_id = up.workspace_id AND s.task_id = up.at WHERE {such} \
         ORDER BY 1, 2"
    );
    let rows: Vec<(String, String, Option<i64>)> = query(sqlx::AssertSqlSafe(sql))
        .bind(status.name())
        .fetch_all(conn)
        .await
        .doing("look for budgets")?;
    rows.iter().map(|(w, t, since)| Ok((key(w, t)?, moment(*since)))).collect()
}

/// Tasks of any workspace that run on a budget of time, and since when it is to be counted.
pub(crate) async fn timed(conn: &mut Conn) -> Result<Vec<(Key, Option<Timestamp>)>, StoreError> {
    below(conn, Status::Running, "s.timed = 1 AND s.reached IS NULL").await
}

/// Tasks of any workspace that run although a budget of theirs is used up.
pub(crate) async fn runaways(conn: &mut Conn) -> Result<Vec<Key>, StoreError> {
    let all = below(conn, Status::Running, "s.reached IS NOT NULL").await?;
    Ok(all.into_iter().map(|(key, _)| key).collect())
}

/// Tasks of any workspace that were paused for a budget which was raised since.
pub(crate) async fn released(conn: &mut Conn) -> Result<Vec<Key>, StoreError> {
    let rows: Vec<(String, String)> =
        query("SELECT workspace_id, id FROM tasks WHERE status = 'paused' AND braked = 1")
            .fetch_all(&mut *conn)
            .await
            .doing("look for what was paused")?;
    let mut paused: Vec<_> = rows.iter().map(|(w, t)| key(w, t)).collect::<Result<_, _>>()?;
    if !paused.is_empty() {
        let kept = below(conn, Status::Paused, "s.reached IS NOT NULL").await?;
        paused.retain(|key| !kept.iter().any(|(kept, _)| kept == key));
    }
    Ok(paused)
}

fn key(workspace: &str, task: &str) -> Result<Key, StoreError> {
    Ok((WorkspaceId(read_id(workspace)?), TaskId(read_id(task)?)))
}
