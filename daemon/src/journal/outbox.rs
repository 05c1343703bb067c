//! The outbox: state messages in the order in which they happened, kept until the relay has them.

use super::{Journal, JournalError, next_seq, signed, unsigned};
use hayward_edge::disk::Work;
use hayward_shared::protocol::{FromDaemon, Tagged, Tags, encode};
use sqlx::Row;

/// A numbered message, as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its number.
    pub seq: u64,
    /// The text frame.
    pub text: String,
}

impl Journal {
    /// At most `limit` messages after number `after`, in order.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn outgoing(&self, after: u64, limit: u32) -> Result<Vec<Outgoing>, JournalError> {
        let rows = sqlx::query("SELECT seq, body FROM outbox WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(signed(after))
            .bind(limit)
            .fetch_all(&self.pool)
            .await
            .map_err(JournalError::doing("read the outbox"))?;
        Ok(rows
            .iter()
            .map(|row| Outgoing { seq: unsigned(row.get(0)), text: row.get(1) })
            .collect())
    }

    /// Writes down a message of a run that nothing else is written with.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn tell(&self, lease_epoch: u64, message: FromDaemon) -> Result<(), JournalError> {
        let mut work = self.begin("write the outbox").await?;
        let last = append(&mut work, lease_epoch, &[message]).await?;
        work.commit().await.map_err(JournalError::doing("write the outbox"))?;
        self.has_grown(last);
        Ok(())
    }

    /// The number that the next message will get.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn next_seq(&self) -> Result<u64, JournalError> {
        next_seq(&self.pool).await.map_err(JournalError::doing("read the outbox"))
    }

    /// Forgets what the relay holds, and never uses a number that it has seen: after a lost disk
    /// tail the count goes on behind `acked`.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn acked(&self, acked: u64) -> Result<(), JournalError> {
        let doing = JournalError::doing;
        let mut work = self.begin("trim the outbox").await?;
        sqlx::query("DELETE FROM outbox WHERE seq <= $1")
            .bind(signed(acked))
            .execute(&mut *work)
            .await
            .map_err(doing("trim the outbox"))?;
        sqlx::query("UPDATE numbers SET value = $1 WHERE name = 'next_seq' AND value < $1")
            .bind(signed(acked.saturating_add(1)))
            .execute(&mut *work)
            .await
            .map_err(doing("trim the outbox"))?;
        work.commit().await.map_err(doing("trim the outbox"))
    }

    pub(super) async fn begin(&self, doing: &'static str) -> Result<Work, JournalError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(JournalError::doing(doing))
    }
}

/// Appends messages of one run within a transaction; answers the last number used.
pub(super) async fn append(
    work: &mut Work,
    lease_epoch: u64,
    messages: &[FromDaemon],
) -> Result<Option<u64>, JournalError> {
    let doing = JournalError::doing;
    if messages.is_empty() {
        return Ok(None);
    }
    let mut seq = next_seq(&mut **work).await.map_err(doing("number a message"))?;
    for message in messages {
        let tags = Tags { seq: Some(seq), lease_epoch: Some(lease_epoch), ..Tags::default() };
        let text = encode(&Tagged { body: message, tags })
            .map_err(JournalError::damaged("outgoing message"))?;
        sqlx::query("INSERT INTO outbox (seq, body) VALUES ($1, $2)")
            .bind(signed(seq))
            .bind(text)
            .execute(&mut **work)
            .await
            .map_err(doing("write the outbox"))?;
        seq += 1;
    }
    sqlx::query("UPDATE numbers SET value = $1 WHERE name = 'next_seq'")
        .bind(signed(seq))
        .execute(&mut **work)
        .await
        .map_err(doing("number a message"))?;
    Ok(Some(seq - 1))
}
