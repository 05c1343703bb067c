//! Merges under way, one for a task at the most, and the parts that were left out of one.

use super::runs::read;
use super::{Journal, JournalError, RunRow, outbox, replies};
use hayward_shared::id::{RequestId, TaskId};
use hayward_shared::protocol::FromDaemon;
use hayward_shared::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;

/// Answers kept before this layout have no type, so they go.
pub(super) const LAYOUT: &str = "
    CREATE TABLE merges (task_id TEXT PRIMARY KEY, session TEXT NOT NULL);
    CREATE TABLE merge_skips (
        task_id TEXT NOT NULL,
        part_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (task_id, part_id)
    );
    CREATE INDEX runs_by_parent ON runs (json_extract(spawn, '$.parentTaskId'));
    CREATE INDEX runs_by_repository ON runs (json_extract(state, '$.place.repository'));
    DELETE FROM replies;
";

/// An answer to a request, and when it was given.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The request.
    pub request: RequestId,
    /// Its answer.
    pub answer: &'a FromDaemon,
    /// When.
    pub at: Timestamp,
}

impl Journal {
    /// The merge under way in a task. `S` is its state.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn merge<S: DeserializeOwned>(
        &self,
        task: TaskId,
    ) -> Result<Option<S>, JournalError> {
        let row = sqlx::query("SELECT session FROM merges WHERE task_id = $1")
            .bind(task.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(JournalError::doing("read a merge"))?;
        row.map(|row| {
            serde_json::from_str(&row.get::<String, _>(0)).map_err(JournalError::damaged("merge"))
        })
        .transpose()
    }

    /// Writes down how a merge stands, or with none that it is over, together with the answer and
    /// the message for the relay (with its fence) that tell so.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written; neither is then.
    pub async fn keep_merge<S: Serialize>(
        &self,
        task: TaskId,
        session: Option<&S>,
        answered: Option<Answered<'_>>,
        told: Option<(u64, FromDaemon)>,
    ) -> Result<(), JournalError> {
        let doing = JournalError::doing;
        let text = session
            .map(serde_json::to_string)
            .transpose()
            .map_err(JournalError::damaged("merge"))?;
        let mut work = self.begin("write a merge").await?;
        let written = match text {
            Some(text) => sqlx::query("INSERT OR REPLACE INTO merges VALUES ($1, $2)")
                .bind(task.to_string())
                .bind(text),
            None => sqlx::query("DELETE FROM merges WHERE task_id = $1").bind(task.to_string()),
        };
        written.execute(&mut *work).await.map_err(doing("write a merge"))?;
        if let Some(answered) = answered {
            replies::keep(&mut work, answered).await?;
        }
        let mut last = None;
        if let Some((epoch, message)) = told {
            last = outbox::append(&mut work, epoch, &[message]).await?;
        }
        work.commit().await.map_err(doing("write a merge"))?;
        self.has_grown(last);
        Ok(())
    }

    /// Writes down that a part is left out. Said again, the new reason counts.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn skip_part(
        &self,
        task: TaskId,
        part: TaskId,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        sqlx::query("INSERT OR REPLACE INTO merge_skips VALUES ($1, $2, $3, $4)")
            .bind(task.to_string())
            .bind(part.to_string())
            .bind(now.millis())
            .bind(reason)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(JournalError::doing("leave a part out"))
    }

    /// The parts of a task that are left out.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn skipped_parts(&self, task: TaskId) -> Result<Vec<TaskId>, JournalError> {
        let rows = sqlx::query("SELECT part_id FROM merge_skips WHERE task_id = $1")
            .bind(task.to_string())
            .fetch_all(&self.pool)
            .await
            .map_err(JournalError::doing("read the parts left out"))?;
        Ok(rows.iter().filter_map(|row| row.get::<String, _>(0).parse().ok()).collect())
    }

    /// The last run of each part of a task that ran on this daemon, oldest part first.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn part_runs<S: DeserializeOwned>(
        &self,
        task: TaskId,
    ) -> Result<Vec<RunRow<S>>, JournalError> {
        let rows = sqlx::query(
            "SELECT run_id, task_id, max(lease_epoch) AS lease_epoch, ended, spawn, state \
             FROM runs WHERE json_extract(spawn, '$.parentTaskId') = $1 \
             GROUP BY task_id ORDER BY task_id",
        )
        .bind(task.to_string())
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the parts of a task"))?;
        rows.iter().map(read).collect()
    }

    /// Which task made which branch of a repository, told by its common folder.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn branch_makers(
        &self,
        repository: &str,
    ) -> Result<Vec<(String, TaskId)>, JournalError> {
        let rows = sqlx::query(
            "SELECT DISTINCT json_extract(state, '$.place.branch') AS branch, task_id FROM runs \
             WHERE json_extract(state, '$.place.repository') = $1 AND branch IS NOT NULL",
        )
        .bind(repository)
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the makers of branches"))?;
        let maker = |row: &sqlx::sqlite::SqliteRow| {
            Some((row.get("branch"), row.get::<String, _>("task_id").parse().ok()?))
        };
        Ok(rows.iter().filter_map(maker).collect())
    }
}
