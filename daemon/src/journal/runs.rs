//! Runs: what was ordered, and the state that each has reached.

use super::{Journal, JournalError, outbox, signed, unsigned};
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::protocol::{FromDaemon, SpawnTask};
use hayward_shared::run::RunKey;
use hayward_shared::time::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A run as the journal has it. `S` is its state.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow<S> {
    /// Which run it is.
    pub key: RunKey,
    /// What was ordered.
    pub spawn: SpawnTask,
    /// How far it is.
    pub state: S,
    /// Whether nothing more will happen.
    pub ended: bool,
}

/// One step of a run: its new state and what it has to tell, on disk together or not at all.
#[derive(Debug)]
pub struct Step<'a, S> {
    /// The run.
    pub key: RunKey,
    /// Its new state.
    pub state: &'a S,
    /// Whether nothing more will happen.
    pub ended: bool,
    /// Messages for the relay, in order.
    pub messages: &'a [FromDaemon],
    /// When.
    pub at: Timestamp,
}

impl Journal {
    /// Writes down a new run. False when this run, or a later one of its task, is known already:
    /// nothing is written then.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written.
    pub async fn accept<S: Serialize>(
        &self,
        key: RunKey,
        spawn: &SpawnTask,
        state: &S,
        now: Timestamp,
    ) -> Result<bool, JournalError> {
        let doing = JournalError::doing;
        let spawn = serde_json::to_string(spawn).map_err(JournalError::damaged("order"))?;
        let state = serde_json::to_string(state).map_err(JournalError::damaged("run state"))?;
        let mut work = self.begin("accept a run").await?;
        let known: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM runs WHERE run_id = $1 OR (task_id = $2 AND lease_epoch >= $3)",
        )
        .bind(key.run_id.to_string())
        .bind(key.task_id.to_string())
        .bind(signed(key.lease_epoch))
        .fetch_one(&mut *work)
        .await
        .map_err(doing("accept a run"))?;
        if known > 0 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO runs (run_id, task_id, lease_epoch, created_at, ended, spawn, state) \
             VALUES ($1, $2, $3, $4, 0, $5, $6)",
        )
        .bind(key.run_id.to_string())
        .bind(key.task_id.to_string())
        .bind(signed(key.lease_epoch))
        .bind(now.millis())
        .bind(spawn)
        .bind(state)
        .execute(&mut *work)
        .await
        .map_err(doing("accept a run"))?;
        work.commit().await.map_err(doing("accept a run"))?;
        Ok(true)
    }

    /// Writes down a step of a run.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be written; neither state nor messages are then.
    pub async fn step<S: Serialize>(&self, step: Step<'_, S>) -> Result<(), JournalError> {
        let doing = JournalError::doing;
        let state =
            serde_json::to_string(step.state).map_err(JournalError::damaged("run state"))?;
        let mut work = self.begin("write a run's step").await?;
        sqlx::query(
            "UPDATE runs SET state = $1, ended = $2, \
             ended_at = CASE WHEN $2 THEN coalesce(ended_at, $3) END WHERE run_id = $4",
        )
        .bind(state)
        .bind(i64::from(step.ended))
        .bind(step.at.millis())
        .bind(step.key.run_id.to_string())
        .execute(&mut *work)
        .await
        .map_err(doing("write a run's step"))?;
        let last = outbox::append(&mut work, step.key.lease_epoch, step.messages).await?;
        work.commit().await.map_err(doing("write a run's step"))?;
        self.has_grown(last);
        Ok(())
    }

    /// Tells whoever watches the outbox of its last message.
    pub(super) fn has_grown(&self, last: Option<u64>) {
        let Some(last) = last else { return };
        self.grown.send_if_modified(|grown| {
            let more = last > *grown;
            *grown = last.max(*grown);
            more
        });
    }

    /// The runs that have not ended, oldest first.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn live_runs<S: DeserializeOwned>(&self) -> Result<Vec<RunRow<S>>, JournalError> {
        let rows = sqlx::query(
            "SELECT run_id, task_id, lease_epoch, ended, spawn, state FROM runs \
             WHERE ended = 0 ORDER BY created_at, run_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the runs"))?;
        rows.iter().map(read).collect()
    }

    /// The last run of a task on this daemon.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn last_run<S: DeserializeOwned>(
        &self,
        task: TaskId,
    ) -> Result<Option<RunRow<S>>, JournalError> {
        let row = sqlx::query(
            "SELECT run_id, task_id, lease_epoch, ended, spawn, state FROM runs \
             WHERE task_id = $1 ORDER BY lease_epoch DESC LIMIT 1",
        )
        .bind(task.to_string())
        .fetch_optional(&self.pool)
        .await
        .map_err(JournalError::doing("read a run"))?;
        row.as_ref().map(read).transpose()
    }

    /// The last run of each task on this daemon, the newest task first: of those behind `before`,
    /// `most` at the most.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn last_runs<S: DeserializeOwned>(
        &self,
        before: Option<TaskId>,
        most: u32,
    ) -> Result<Vec<RunRow<S>>, JournalError> {
        // of the rows of a group, the one with the maximum gives the other columns
        let rows = sqlx::query(
            "SELECT run_id, task_id, max(lease_epoch) AS lease_epoch, ended, spawn, state \
             FROM runs WHERE $1 IS NULL OR task_id < $1 GROUP BY task_id ORDER BY task_id DESC LIMIT $2",
        )
        .bind(before.map(|task| task.to_string()))
        .bind(most)
        .fetch_all(&self.pool)
        .await
        .map_err(JournalError::doing("read the runs"))?;
        rows.iter().map(read).collect()
    }

    /// The runs of these tasks on this daemon, of all where there are none named; the oldest first:
    /// their ids begin with their moment.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn runs_of<S: DeserializeOwned>(
        &self,
        tasks: &[TaskId],
    ) -> Result<Vec<(RunKey, S)>, JournalError> {
        let mut query = QueryBuilder::new("SELECT run_id, task_id, lease_epoch, state FROM runs");
        if !tasks.is_empty() {
            let mut names = query.push(" WHERE task_id IN (").separated(", ");
            for task in tasks {
                names.push_bind(task.to_string());
            }
            query.push(")");
        }
        let rows = query
            .push(" ORDER BY run_id")
            .build()
            .fetch_all(&self.pool)
            .await
            .map_err(JournalError::doing("read the runs"))?;
        let known = rows.iter().filter_map(|row| Some((key(row)?, row.get::<String, _>("state"))));
        known
            .map(|(key, state)| {
                let state = serde_json::from_str(&state);
                Ok((key, state.map_err(JournalError::damaged("run state"))?))
            })
            .collect()
    }

    /// The worktrees of all runs that this daemon ever had, by path, wherever they are now: the
    /// `place.path` of each state.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn places(&self) -> Result<BTreeSet<PathBuf>, JournalError> {
        let rows: Vec<Option<String>> =
            sqlx::query_scalar("SELECT DISTINCT json_extract(state, '$.place.path') FROM runs")
                .fetch_all(&self.pool)
                .await
                .map_err(JournalError::doing("read the worktrees of the runs"))?;
        Ok(rows.into_iter().flatten().map(PathBuf::from).collect())
    }

    /// The run of the same task before this one.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be read.
    pub async fn run_before<S: DeserializeOwned>(
        &self,
        key: RunKey,
    ) -> Result<Option<RunRow<S>>, JournalError> {
        let row = sqlx::query(
            "SELECT run_id, task_id, lease_epoch, ended, spawn, state FROM runs \
             WHERE task_id = $1 AND lease_epoch < $2 ORDER BY lease_epoch DESC LIMIT 1",
        )
        .bind(key.task_id.to_string())
        .bind(signed(key.lease_epoch))
        .fetch_optional(&self.pool)
        .await
        .map_err(JournalError::doing("read a run"))?;
        row.as_ref().map(read).transpose()
    }

    /// The keys of the runs that have not ended: what the hello names. The end of any other run is
    /// in the outbox or with the relay.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn live_keys(&self) -> Result<Vec<RunKey>, JournalError> {
        self.keys_where("SELECT run_id, task_id, lease_epoch FROM runs WHERE ended = 0").await
    }

    /// The keys of all runs that this daemon ever had.
    ///
    /// # Errors
    /// [`JournalError`] when they cannot be read.
    pub async fn keys(&self) -> Result<Vec<RunKey>, JournalError> {
        self.keys_where("SELECT run_id, task_id, lease_epoch FROM runs").await
    }

    async fn keys_where(&self, query: &'static str) -> Result<Vec<RunKey>, JournalError> {
        let rows = sqlx::query(query)
            .fetch_all(&self.pool)
            .await
            .map_err(JournalError::doing("read the runs"))?;
        Ok(rows.iter().filter_map(key).collect())
    }
}

pub(super) fn key(row: &SqliteRow) -> Option<RunKey> {
    Some(RunKey {
        run_id: row.get::<String, _>("run_id").parse::<RunId>().ok()?,
        task_id: row.get::<String, _>("task_id").parse::<TaskId>().ok()?,
        lease_epoch: unsigned(row.get("lease_epoch")),
    })
}

pub(super) fn read<S: DeserializeOwned>(row: &SqliteRow) -> Result<RunRow<S>, JournalError> {
    let text = |name: &str| row.get::<String, _>(name);
    let broken = |what| move || JournalError::Damaged { what, source: missing() };
    Ok(RunRow {
        key: key(row).ok_or_else(broken("run id"))?,
        spawn: serde_json::from_str(&text("spawn")).map_err(JournalError::damaged("order"))?,
        state: serde_json::from_str(&text("state")).map_err(JournalError::damaged("run state"))?,
        ended: row.get::<i64, _>("ended") != 0,
    })
}

fn missing() -> serde_json::Error {
    serde::de::Error::custom("no id")
}
