//! Worktrees at the end of their life: those that stand, what keeps them, and those that went.

use super::runs::{key, read};
use super::{Journal, JournalError, RunRow, outbox};
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::protocol::FromDaemon;
use hayward_shared::run::RunKey;
use hayward_shared::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use std::collections::BTreeSet;

/// Runs that ended before this layout count from now on: nobody wrote down when they ended.
pub(super) const LAYOUT: &str = "
    ALTER TABLE runs ADD COLUMN ended_at INTEGER;
    UPDATE runs SET ended_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000 WHERE ended = 1;
    CREATE TABLE removals (
        run_id TEXT PRIMARY KEY,
        task_id TEXT NOT NULL,
        lease_epoch INTEGER NOT NULL,
        at INTEGER NOT NULL,
        done INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX removals_by_age ON removals (done, at);
";

/// A worktree that was made and not removed by us.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing<S> {
    /// The last run that has it.
    pub run: RunRow<S>,
    /// When the run was accepted.
    pub created_at: Timestamp,
    /// When it ended; none while it lives.
    pub ended_at: Option<Timestamp>,
}

/// A removal as the journal has it. `B` says what went, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Removed<B> {
    /// The run whose worktree it was.
    pub key: RunKey,
    /// When it began.
    pub at: Timestamp,
    /// Whether the worktree is gone.
    pub done: bool,
    /// The rest.
    pub body: B,
}

impl Journal {
    /// The worktrees that stand as far as the journal knows, each with the last run that has it;
    /// the oldest first.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn standing<S: DeserializeOwned>(&self) -> Result<Vec<Standing<S>>, JournalError> {
        let rows = sqlx::query(
            "SELECT run_id, task_id, max(lease_epoch) AS lease_epoch, ended, spawn, state, \
             created_at, ended_at FROM runs \
             WHERE json_extract(state, '$.place.path') IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM removals \
                 WHERE removals.run_id = runs.run_id AND removals.done = 1) \
             GROUP BY task_id ORDER BY created_at, run_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the worktrees"))?;
        rows.iter()
            .map(|row| {
                Ok(Standing {
                    run: read(row)?,
                    created_at: Timestamp::from_millis(row.get("created_at")),
                    ended_at: row.get::<Option<i64>, _>("ended_at").map(Timestamp::from_millis),
                })
            })
            .collect()
    }

    /// The tasks whose worktrees a merge or a completion under way needs.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn busy_tasks(&self) -> Result<BTreeSet<TaskId>, JournalError> {
        let rows: Vec<String> = sqlx::query_scalar(
            "SELECT task_id FROM merges UNION SELECT task_id FROM completions WHERE open = 1",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the tasks that are busy"))?;
        Ok(rows.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// When a run ended; none while it lives, or when this daemon does not know it.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn ended_at(&self, run: RunId) -> Result<Option<Timestamp>, JournalError> {
        let at: Option<Option<i64>> =
            sqlx::query_scalar("SELECT ended_at FROM runs WHERE run_id = $1 AND ended = 1")
                .bind(run.to_string())
                .fetch_optional(&self.pool)
                .await
                .map_err(JournalError::doing("read the end of a run"))?;
        Ok(at.flatten().map(Timestamp::from_millis))
    }

    /// Writes down that a worktree goes now, and what of it is kept.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn begin_removal(
        &self,
        key: RunKey,
        body: &impl Serialize,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let body = serde_json::to_string(body).map_err(JournalError::damaged("removal"))?;
        sqlx::query("INSERT OR REPLACE INTO removals VALUES ($1, $2, $3, $4, 0, $5)")
            .bind(key.run_id.to_string())
            .bind(key.task_id.to_string())
            .bind(super::signed(key.lease_epoch))
            .bind(now.millis())
            .bind(body)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(JournalError::doing("begin a removal"))
    }

    /// Writes down that it is gone, together with the message that tells so.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written; neither is then.
    pub async fn end_removal(&self, key: RunKey, told: FromDaemon) -> Result<(), JournalError> {
        let doing = JournalError::doing;
        let mut work = self.begin("end a removal").await?;
        sqlx::query("UPDATE removals SET done = 1 WHERE run_id = $1")
            .bind(key.run_id.to_string())
            .execute(&mut *work)
            .await
            .map_err(doing("end a removal"))?;
        let last = outbox::append(&mut work, key.lease_epoch, &[told]).await?;
        work.commit().await.map_err(doing("end a removal"))?;
        self.has_grown(last);
        Ok(())
    }

    /// Writes down that it stands after all.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn cancel_removal(&self, run: RunId) -> Result<(), JournalError> {
        sqlx::query("DELETE FROM removals WHERE run_id = $1 AND done = 0")
            .bind(run.to_string())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(JournalError::doing("cancel a removal"))
    }

    /// Removals that a crash cut off, oldest first (`done` false), or those that were done, newest
    /// first; at most `limit`.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn removals<B: DeserializeOwned>(
        &self,
        done: bool,
        limit: u32,
    ) -> Result<Vec<Removed<B>>, JournalError> {
        let rows = sqlx::query(
            "SELECT run_id, task_id, lease_epoch, at, done, body FROM removals WHERE done = $1 \
             ORDER BY CASE WHEN done THEN -at ELSE at END LIMIT $2",
        )
        .bind(i64::from(done))
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the removals"))?;
        rows.iter()
            .filter_map(|row| Some((key(row)?, row)))
            .map(|(key, row)| {
                let body = serde_json::from_str(&row.get::<String, _>("body"))
                    .map_err(JournalError::damaged("removal"))?;
                let at = Timestamp::from_millis(row.get("at"));
                Ok(Removed { key, at, done, body })
            })
            .collect()
    }

    /// The removal of the worktree of a task's last run, once it is done.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn removal<B: DeserializeOwned>(
        &self,
        task: TaskId,
    ) -> Result<Option<B>, JournalError> {
        let body: Option<String> = sqlx::query_scalar(
            "SELECT body FROM removals WHERE task_id = $1 AND done = 1 \
             ORDER BY lease_epoch DESC LIMIT 1",
        )
        .bind(task.to_string())
        .fetch_optional(&self.pool)
        .await
        .map_err(JournalError::doing("read a removal"))?;
        body.map(|body| serde_json::from_str(&body).map_err(JournalError::damaged("removal")))
            .transpose()
    }
}
