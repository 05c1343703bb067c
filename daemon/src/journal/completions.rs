//! Completions: how far the bringing home of each task's work is.

use super::{Journal, JournalError};
use hayward_shared::id::TaskId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;

pub(super) const LAYOUT: &str = "
    CREATE TABLE completions (
        task_id TEXT PRIMARY KEY,
        open INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX completions_open ON completions (open) WHERE open = 1;
";

impl Journal {
    /// Keeps how far a completion is, over what was kept of it; `open` when somebody must go on
    /// with it after a crash.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn keep_completion(
        &self,
        task: TaskId,
        open: bool,
        record: &impl Serialize,
    ) -> Result<(), JournalError> {
        let body = serde_json::to_string(record).map_err(JournalError::damaged("completion"))?;
        sqlx::query(
            "INSERT INTO completions VALUES ($1, $2, $3)
             ON CONFLICT (task_id) DO UPDATE SET open = excluded.open, body = excluded.body",
        )
        .bind(task.to_string())
        .bind(open)
        .bind(body)
        .execute(&self.pool)
        .await
        .map(|_| ())
        .map_err(JournalError::doing("keep a completion"))
    }

    /// The completion of a task.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn completion<R: DeserializeOwned>(
        &self,
        task: TaskId,
    ) -> Result<Option<R>, JournalError> {
        let row = sqlx::query("SELECT body FROM completions WHERE task_id = $1")
            .bind(task.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(JournalError::doing("read a completion"))?;
        row.map(|row| {
            serde_json::from_str(&row.get::<String, _>(0))
                .map_err(JournalError::damaged("completion"))
        })
        .transpose()
    }

    /// The completions that somebody must go on with.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn open_completions<R: DeserializeOwned>(&self) -> Result<Vec<R>, JournalError> {
        let rows = sqlx::query("SELECT body FROM completions WHERE open = 1 ORDER BY task_id")
            .fetch_all(&self.pool)
            .await
            .map_err(JournalError::doing("read the completions"))?;
        rows.iter()
            .map(|row| {
                serde_json::from_str(&row.get::<String, _>(0))
                    .map_err(JournalError::damaged("completion"))
            })
            .collect()
    }
}
