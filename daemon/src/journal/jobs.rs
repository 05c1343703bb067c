//! Background work: each job with all that is needed to go on with it.

use super::{Journal, JournalError, outbox};
use hayward_shared::id::JobId;
use hayward_shared::protocol::FromDaemon;
use hayward_shared::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;

pub(super) const LAYOUT: &str = "
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        open INTEGER NOT NULL,
        at INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX jobs_by_age ON jobs (open, at);
";

/// Jobs that are over and kept to be shown and tried again; the oldest go first.
pub const MOST_ENDED_JOBS: i64 = 500;

/// A job to be written down. `B` is all that is kept of it.
#[derive(Debug)]
pub struct JobRow<'a, B> {
    /// The job.
    pub id: JobId,
    /// Whether more will happen to it by itself.
    pub open: bool,
    /// When it last changed.
    pub at: Timestamp,
    /// The rest.
    pub body: &'a B,
}

impl Journal {
    /// Writes down how a job stands, together with the message that tells of it.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written; neither is then.
    pub async fn keep_job<B: Serialize + Sync>(
        &self,
        row: &JobRow<'_, B>,
        told: Option<(u64, FromDaemon)>,
    ) -> Result<(), JournalError> {
        let failed = || JournalError::doing("write a job");
        let body = serde_json::to_string(row.body).map_err(JournalError::damaged("job"))?;
        let mut work = self.begin("write a job").await?;
        sqlx::query("INSERT OR REPLACE INTO jobs VALUES ($1, $2, $3, $4)")
            .bind(row.id.to_string())
            .bind(row.open)
            .bind(row.at.millis())
            .bind(body)
            .execute(&mut *work)
            .await
            .map_err(failed())?;
        if !row.open {
            sqlx::query(
                "DELETE FROM jobs WHERE open = 0 AND id IN \
                 (SELECT id FROM jobs WHERE open = 0 ORDER BY at DESC, id DESC LIMIT -1 OFFSET $1)",
            )
            .bind(MOST_ENDED_JOBS)
            .execute(&mut *work)
            .await
            .map_err(failed())?;
        }
        let mut last = None;
        if let Some((epoch, message)) = told {
            last = outbox::append(&mut work, epoch, &[message]).await?;
        }
        work.commit().await.map_err(failed())?;
        self.has_grown(last);
        Ok(())
    }

    /// All jobs, those that changed last first.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn jobs<B: DeserializeOwned>(&self) -> Result<Vec<B>, JournalError> {
        let rows = sqlx::query("SELECT body FROM jobs ORDER BY at DESC, id DESC")
            .fetch_all(&self.pool)
            .await
            .map_err(JournalError::doing("read the jobs"))?;
        rows.iter()
            .map(|row| {
                serde_json::from_str(&row.get::<String, _>("body"))
                    .map_err(JournalError::damaged("job"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ended_jobs_are_bounded_and_open_ones_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("journal.db")).await.unwrap();
        let keep = async |n: i64, open| {
            let (id, at) = (JobId::fresh(), Timestamp::from_millis(n));
            journal.keep_job(&JobRow { id, open, at, body: &n }, None).await.unwrap();
        };
        for n in 0..3 {
            keep(n, true).await;
        }
        for n in 0..MOST_ENDED_JOBS + 7 {
            keep(10 + n, false).await;
        }
        let kept: Vec<i64> = journal.jobs().await.unwrap();
        assert_eq!(kept.len() as i64, MOST_ENDED_JOBS + 3);
        assert_eq!(kept[0], 10 + MOST_ENDED_JOBS + 6);
        assert_eq!(kept[kept.len() - 4..], [17, 2, 1, 0]);
    }
}
