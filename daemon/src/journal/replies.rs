//! Answers that were given, so that a repeated command repeats the answer and not the effect.

use super::merges::Answered;
use super::{Journal, JournalError};
use hayward_edge::disk::Work;
use hayward_shared::id::RequestId;
use hayward_shared::protocol::{FromDaemon, Reply};
use hayward_shared::time::Timestamp;
use sqlx::Row;

/// Answers are kept for an hour: a relay gives up on a command after seconds, a restarted one
/// repeats it within minutes.
const KEPT_MS: i64 = 3_600_000;

impl Journal {
    /// The answer that was given to this request.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn answer(&self, request: RequestId) -> Result<Option<FromDaemon>, JournalError> {
        let row = sqlx::query("SELECT body FROM replies WHERE request_id = $1")
            .bind(request.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(JournalError::doing("read an answer"))?;
        row.map(|row| {
            serde_json::from_str(&row.get::<String, _>(0)).map_err(JournalError::damaged("answer"))
        })
        .transpose()
    }

    /// Keeps an answer, and forgets those that are too old to be asked for. The first answer to a
    /// request stays.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn keep_answer(
        &self,
        request: RequestId,
        answer: &FromDaemon,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let mut work = self.begin("keep an answer").await?;
        keep(&mut work, Answered { request, answer, at: now }).await?;
        work.commit().await.map_err(JournalError::doing("keep an answer"))
    }

    /// Keeps an answer that is a plain `reply`.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn keep_reply(
        &self,
        request: RequestId,
        reply: &Reply,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        self.keep_answer(request, &FromDaemon::Reply(reply.clone()), now).await
    }
}

/// Keeps an answer within a transaction.
pub(super) async fn keep(work: &mut Work, answered: Answered<'_>) -> Result<(), JournalError> {
    let doing = JournalError::doing;
    let body = serde_json::to_string(answered.answer).map_err(JournalError::damaged("answer"))?;
    sqlx::query("DELETE FROM replies WHERE at < $1")
        .bind(answered.at.plus_millis(-KEPT_MS).millis())
        .execute(&mut **work)
        .await
        .map_err(doing("keep an answer"))?;
    sqlx::query("INSERT INTO replies VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(answered.request.to_string())
        .bind(answered.at.millis())
        .bind(body)
        .execute(&mut **work)
        .await
        .map_err(doing("keep an answer"))?;
    Ok(())
}
