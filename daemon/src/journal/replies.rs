//! Replies that were given, so that a repeated command repeats the reply and not the effect.

use super::{Journal, JournalError};
use hayward_shared::id::RequestId;
use hayward_shared::protocol::Reply;
use hayward_shared::time::Timestamp;
use sqlx::Row;

/// Replies are kept for an hour: a relay gives up on a command after seconds, a restarted one
/// repeats it within minutes.
const KEPT_MS: i64 = 3_600_000;

impl Journal {
    /// The reply that was given to this request.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn reply(&self, request: RequestId) -> Result<Option<Reply>, JournalError> {
        let row = sqlx::query("SELECT body FROM replies WHERE request_id = $1")
            .bind(request.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(JournalError::doing("read a reply"))?;
        row.map(|row| {
            serde_json::from_str(&row.get::<String, _>(0)).map_err(JournalError::damaged("reply"))
        })
        .transpose()
    }

    /// Keeps a reply, and forgets those that are too old to be asked for.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn keep_reply(
        &self,
        request: RequestId,
        reply: &Reply,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let doing = JournalError::doing;
        let body = serde_json::to_string(reply).map_err(JournalError::damaged("reply"))?;
        let mut work = self.begin("keep a reply").await?;
        sqlx::query("DELETE FROM replies WHERE at < $1")
            .bind(now.plus_millis(-KEPT_MS).millis())
            .execute(&mut *work)
            .await
            .map_err(doing("keep a reply"))?;
        sqlx::query("INSERT INTO replies VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(request.to_string())
            .bind(now.millis())
            .bind(body)
            .execute(&mut *work)
            .await
            .map_err(doing("keep a reply"))?;
        work.commit().await.map_err(doing("keep a reply"))
    }
}
