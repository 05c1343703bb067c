//! The merge queue: its lanes, its entries, and what is to be told of them.

use super::merges::Answered;
use super::{Journal, JournalError, outbox, replies};
use hayward_shared::id::EntryId;
use hayward_shared::protocol::FromDaemon;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;

pub(super) const LAYOUT: &str = "
    CREATE TABLE queue_lanes (name TEXT PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE queue_entries (
        id TEXT PRIMARY KEY,
        lane TEXT NOT NULL,
        open INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX queue_open ON queue_entries (open, id);
";

/// Ended entries that are kept to be shown; the oldest go first.
const MOST_ENDED: i64 = 100;

/// An entry to be written down. `R` is all that is kept of it.
#[derive(Debug)]
pub struct QueueRow<'a, R> {
    /// The entry.
    pub id: EntryId,
    /// Whether more will happen to it.
    pub open: bool,
    /// The rest.
    pub body: &'a R,
}

/// One decision of a lane: on disk as a whole or not at all.
#[derive(Debug)]
pub struct QueueStep<'a, L, R> {
    /// The lane's name.
    pub lane: &'a str,
    /// How it stands; none when nothing is left of it.
    pub state: Option<&'a L>,
    /// Entries that are new or stand differently.
    pub entries: Vec<QueueRow<'a, R>>,
    /// Messages for the relay, in order, each with its fence.
    pub messages: &'a [(u64, FromDaemon)],
    /// The request that brought it about, and its answer.
    pub answered: Option<Answered<'a>>,
}

impl Journal {
    /// Writes down a decision of a lane.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written; nothing of it is then.
    pub async fn keep_queue<L: Serialize, R: Serialize>(
        &self,
        step: &QueueStep<'_, L, R>,
    ) -> Result<(), JournalError> {
        let failed = || JournalError::doing("write the merge queue");
        let mut work = self.begin("write the merge queue").await?;
        let written = match step.state {
            Some(state) => {
                let body =
                    serde_json::to_string(state).map_err(JournalError::damaged("queue lane"))?;
                sqlx::query("INSERT OR REPLACE INTO queue_lanes VALUES ($1, $2)")
                    .bind(step.lane)
                    .bind(body)
            }
            None => sqlx::query("DELETE FROM queue_lanes WHERE name = $1").bind(step.lane),
        };
        written.execute(&mut *work).await.map_err(failed())?;
        for row in &step.entries {
            let body =
                serde_json::to_string(row.body).map_err(JournalError::damaged("queue entry"))?;
            sqlx::query("INSERT OR REPLACE INTO queue_entries VALUES ($1, $2, $3, $4)")
                .bind(row.id.to_string())
                .bind(step.lane)
                .bind(row.open)
                .bind(body)
                .execute(&mut *work)
                .await
                .map_err(failed())?;
        }
        sqlx::query(
            "DELETE FROM queue_entries WHERE open = 0 AND id NOT IN \
             (SELECT id FROM queue_entries WHERE open = 0 ORDER BY id DESC LIMIT $1)",
        )
        .bind(MOST_ENDED)
        .execute(&mut *work)
        .await
        .map_err(failed())?;
        let mut last = None;
        for (epoch, message) in step.messages {
            last = outbox::append(&mut work, *epoch, std::slice::from_ref(message)).await?;
        }
        if let Some(answered) = step.answered {
            replies::keep(&mut work, answered).await?;
        }
        work.commit().await.map_err(failed())?;
        self.has_grown(last);
        Ok(())
    }

    /// The lanes that are not over, by name.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn queue_lanes<L: DeserializeOwned>(&self) -> Result<Vec<(String, L)>, JournalError> {
        let rows = sqlx::query("SELECT name, body FROM queue_lanes ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .map_err(JournalError::doing("read the merge queue"))?;
        rows.iter()
            .map(|row| {
                let lane = serde_json::from_str(&row.get::<String, _>("body"));
                Ok((row.get("name"), lane.map_err(JournalError::damaged("queue lane"))?))
            })
            .collect()
    }

    /// All entries of a lane, or of all of them, that are open or not, oldest first.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn queue_entries<R: DeserializeOwned>(
        &self,
        lane: Option<&str>,
        open: bool,
    ) -> Result<Vec<R>, JournalError> {
        let rows = sqlx::query(
            "SELECT body FROM queue_entries \
             WHERE open = $1 AND ($2 IS NULL OR lane = $2) ORDER BY id",
        )
        .bind(open)
        .bind(lane)
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the merge queue"))?;
        rows.iter()
            .map(|row| {
                serde_json::from_str(&row.get::<String, _>("body"))
                    .map_err(JournalError::damaged("queue entry"))
            })
            .collect()
    }
}
