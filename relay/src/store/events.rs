//! Events: append-only, one contiguous count per stream.

use super::sql::{Parts, Query, query_scalar};
use super::{Conn, Doing, StoreError, Tx, count, from_json, int, json, text};
use hayward_shared::event::{
    Actor, Channel, ENVELOPE_VERSION, Envelope, Kind, Subject, task_stream,
};
use hayward_shared::id::{DaemonId, EventId, TaskId, WorkspaceId};
use hayward_shared::time::Timestamp;
use serde_json::Value;
use std::sync::Arc;

/// Rows that one statement stores at the most: past it a row's share of the statement is nothing.
const MOST_ROWS: usize = 64;

// the kind is part of the text, or its own index would not be found
const COUNT_TOOLS: &str = "SELECT COUNT(*) FROM events WHERE workspace_id = $1 AND stream = $2 \
    AND kind = 'tool.finished'";
const READ_TOOLS: &str = "SELECT document FROM events WHERE workspace_id = $1 AND stream = $2 \
    AND kind = 'tool.finished' ORDER BY seq LIMIT $3 OFFSET $4";

/// An event before it has its place in a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft {
    pub(crate) kind: Kind,
    pub(crate) at: Timestamp,
    pub(crate) actor: Actor,
    pub(crate) subject: Subject,
    pub(crate) lease_epoch: Option<u64>,
    pub(crate) channel: Option<Channel>,
    pub(crate) payload: Value,
}

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stream {
    /// All that happens to a task and its runs.
    Task(TaskId),
    /// The comings and goings of a daemon.
    Daemon(DaemonId),
}

impl Stream {
    /// Its name on the wire.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Task(id) => task_stream(id),
            Self::Daemon(id) => format!("daemon:{id}"),
        }
    }

    /// The stream of that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name.split_once(':')? {
            ("task", id) => id.parse().ok().map(Self::Task),
            ("daemon", id) => id.parse().ok().map(Self::Daemon),
            _ => None,
        }
    }
}

/// Appends events to a stream, in order; they are heard when the transaction is committed.
pub(crate) async fn append(
    tx: &mut Tx,
    workspace: WorkspaceId,
    stream: Stream,
    drafts: Vec<Draft>,
) -> Result<(), StoreError> {
    if drafts.is_empty() {
        return Ok(());
    }
    let stream = stream.name();
    let mut seq = next_seq(tx.conn(), workspace, &stream).await?;
    let mut events = Vec::with_capacity(drafts.len());
    let mut coming = drafts.into_iter().map(|draft| {
        let event = envelope(workspace, &stream, seq, draft);
        seq += 1;
        Arc::new(event)
    });
    let mut next = insert(&mut coming, &mut events)?;
    while let Some(statement) = next {
        // while the database is at one statement the next is written
        let write = async { insert(&mut coming, &mut events) };
        let (stored, written) = tokio::join!(biased; statement.execute(tx.conn()), write);
        stored.doing("append events")?;
        next = written?;
    }
    tx.fresh.extend(events);
    Ok(())
}

fn envelope(workspace: WorkspaceId, stream: &str, seq: u64, draft: Draft) -> Envelope {
    Envelope {
        v: ENVELOPE_VERSION,
        id: EventId::fresh(),
        stream: stream.to_owned(),
        seq,
        kind: draft.kind,
        at: draft.at,
        workspace_id: workspace,
        actor: draft.actor,
        subject: draft.subject,
        request_id: None,
        lease_epoch: draft.lease_epoch,
        channel: draft.channel,
        payload: draft.payload,
    }
}

/// How many of `rows` go into one statement: a power of two, so that few statements serve all
/// counts and each is prepared once. None of none.
fn together(rows: usize) -> Option<usize> {
    rows.min(MOST_ROWS).checked_ilog2().map(|log| 1 << log)
}

/// The statement that stores the next of these events, which are of one stream and follow one
/// another; they go to `taken`. What they share is bound once: SQLite finds the place of a value by
/// going through all of them.
fn insert(
    events: &mut impl ExactSizeIterator<Item = Arc<Envelope>>,
    taken: &mut Vec<Arc<Envelope>>,
) -> Result<Option<Query>, StoreError> {
    let Some(rows) = together(events.len()) else { return Ok(None) };
    let mut sql =
        Parts::new("INSERT INTO events (workspace_id, stream, seq, kind, document) VALUES ");
    for (nth, event) in events.take(rows).enumerate() {
        if nth == 0 {
            sql.push("(").push_bind(text(event.workspace_id.0));
            sql.push(", ").push_bind(&event.stream).push(", ").push_bind(int(event.seq));
        } else {
            sql.push(&format!(", ($1, $2, $3 + {nth}"));
        }
        sql.push(", ").push_bind(column(&event.kind));
        sql.push(", ").push_bind(json(&*event, "event")?).push(")");
        taken.push(event);
    }
    Ok(Some(sql.done()))
}

/// A kind as its column holds it: a peer's own word may hold what no database takes.
fn column(kind: &Kind) -> String {
    kind.name().chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// The number that the stream's next event will have.
pub(crate) async fn next_seq(
    conn: &mut Conn,
    workspace: WorkspaceId,
    stream: &str,
) -> Result<u64, StoreError> {
    let next: i64 = query_scalar(
        "SELECT COALESCE(MAX(seq) + 1, 0) FROM events WHERE workspace_id = $1 AND stream = $2",
    )
    .bind(text(workspace.0))
    .bind(stream)
    .fetch_one(conn)
    .await
    .doing("count a stream")?;
    Ok(count(next))
}

/// At most `limit` events of a stream, from number `from` on.
pub(crate) async fn read(
    conn: &mut Conn,
    workspace: WorkspaceId,
    stream: &str,
    from: u64,
    limit: u32,
) -> Result<Vec<Envelope>, StoreError> {
    let rows: Vec<String> = query_scalar(
        "SELECT document FROM events WHERE workspace_id = $1 AND stream = $2 AND seq >= $3 \
         ORDER BY seq LIMIT $4",
    )
    .bind(text(workspace.0))
    .bind(stream)
    .bind(int(from))
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
    .doing("read events")?;
    rows.iter().map(|document| from_json(document, "event")).collect()
}

/// One page of a stream's tool calls that ended, and how many there are in all.
pub(crate) async fn tools(
    conn: &mut Conn,
    workspace: WorkspaceId,
    stream: &str,
    (limit, offset): (u32, u64),
) -> Result<(Vec<Envelope>, u64), StoreError> {
    let total: i64 = query_scalar(COUNT_TOOLS)
        .bind(text(workspace.0))
        .bind(stream)
        .fetch_one(&mut *conn)
        .await
        .doing("count events")?;
    let rows: Vec<String> = query_scalar(READ_TOOLS)
        .bind(text(workspace.0))
        .bind(stream)
        .bind(i64::from(limit))
        .bind(int(offset))
        .fetch_all(conn)
        .await
        .doing("read events")?;
    let page =
        rows.iter().map(|document| from_json(document, "event")).collect::<Result<_, _>>()?;
    Ok((page, count(total)))
}

#[cfg(test)]
mod tests {
    use super::super::contract::{Place, on_postgres, on_sqlite};
    use super::super::sql::query;
    use super::*;

    async fn the_index_of_tools_is_used(place: Place) {
        let mut tx = place.store.write().await.unwrap();
        let conn = tx.conn();
        query(
            "INSERT INTO events (workspace_id, stream, seq, kind, document) \
             WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
             SELECT 'w', 's', i, CASE i % 50 WHEN 0 THEN 'tool.finished' ELSE 'x' END, '{}' FROM n",
        )
        .execute(conn)
        .await
        .unwrap();
        let shared = conn.is_shared();
        if shared {
            query("ANALYZE events").execute(conn).await.unwrap();
        }
        for (sql, page) in [(COUNT_TOOLS, false), (READ_TOOLS, true)] {
            let mut explain = Parts::new(if shared { "EXPLAIN " } else { "EXPLAIN QUERY PLAN " });
            explain.push(sql);
            let mut explain = explain.done().bind("w").bind("s");
            if page {
                explain = explain.bind(50).bind(0);
            }
            let plan: Vec<String> = if shared {
                let rows = explain.fetch_all::<(String,)>(conn).await.unwrap();
                rows.into_iter().map(|(line,)| line).collect()
            } else {
                let rows = explain.fetch_all::<(i64, i64, i64, String)>(conn).await.unwrap();
                rows.into_iter().map(|(_, _, _, line)| line).collect()
            };
            assert!(plan.iter().any(|line| line.contains("events_of_tools")), "{sql}: {plan:?}");
        }
    }

    #[tokio::test]
    async fn tool_calls_are_found_by_their_own_index_on_sqlite() {
        the_index_of_tools_is_used(on_sqlite().await).await;
    }

    #[tokio::test]
    async fn tool_calls_are_found_by_their_own_index_on_postgres() {
        if let Some(place) = on_postgres().await {
            the_index_of_tools_is_used(place).await;
        }
    }
}
