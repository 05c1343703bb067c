//! The tables, as a list of migrations that only grows.

use super::StoreError;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// Every migration that this version knows: number, name, statements. Never edited once released.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first", FIRST),
    (2, "discards", DISCARDS),
    (3, "relays", RELAYS),
    (4, "lease clock", LEASE_CLOCK),
    (5, "links", LINKS),
    (6, "limits", LIMITS),
    (7, "spendings", SPENDINGS),
    (8, "events of tools", EVENTS_OF_TOOLS),
];

const FIRST: &str = "
CREATE TABLE workspaces (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE users (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at BIGINT NOT NULL);
CREATE TABLE members (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL,
    PRIMARY KEY (workspace_id, user_id));
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    kind TEXT NOT NULL, role TEXT NOT NULL,
    user_id TEXT REFERENCES users (id), task_id TEXT,
    hash BLOB NOT NULL UNIQUE,
    created_at BIGINT NOT NULL, expires_at BIGINT, revoked_at BIGINT, last_used_at BIGINT);
CREATE INDEX tokens_of_task ON tokens (workspace_id, task_id);
CREATE TABLE daemons (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    machine_id TEXT NOT NULL,
    acked_seq BIGINT, last_seen_at BIGINT NOT NULL,
    document TEXT NOT NULL,
    UNIQUE (workspace_id, machine_id));
CREATE TABLE tasks (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    id TEXT NOT NULL,
    status TEXT NOT NULL, priority BIGINT NOT NULL,
    created_at BIGINT NOT NULL, queued_at BIGINT,
    parent_task_id TEXT, wanted_daemon_id TEXT, daemon_id TEXT,
    lease_epoch BIGINT NOT NULL, heard_epoch BIGINT NOT NULL,
    lease_expires_at BIGINT, next_retry_at BIGINT,
    version BIGINT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (workspace_id, id));
CREATE INDEX tasks_by_age ON tasks (workspace_id, created_at, id);
CREATE INDEX tasks_to_claim ON tasks (workspace_id, status, priority DESC, created_at, id);
CREATE INDEX tasks_by_status ON tasks (status);
CREATE INDEX tasks_of_parent ON tasks (workspace_id, parent_task_id, created_at);
CREATE INDEX tasks_of_daemon ON tasks (daemon_id, status);
CREATE TABLE task_labels (
    workspace_id TEXT NOT NULL, task_id TEXT NOT NULL, label TEXT NOT NULL,
    PRIMARY KEY (workspace_id, task_id, label));
CREATE TABLE run_usage (
    workspace_id TEXT NOT NULL, task_id TEXT NOT NULL, run_id TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (workspace_id, task_id, run_id));
CREATE TABLE events (
    workspace_id TEXT NOT NULL, stream TEXT NOT NULL, seq BIGINT NOT NULL,
    kind TEXT NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (workspace_id, stream, seq));
CREATE INDEX events_of_kind ON events (workspace_id, stream, kind, seq);
";

const DISCARDS: &str = "
CREATE TABLE discards (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    task_id TEXT NOT NULL,
    daemon_id TEXT NOT NULL,
    PRIMARY KEY (workspace_id, task_id));
CREATE INDEX discards_of_daemon ON discards (daemon_id);
";

const RELAYS: &str = "
CREATE TABLE relays (
    id TEXT PRIMARY KEY,
    address TEXT NOT NULL, version TEXT NOT NULL, bus BIGINT NOT NULL, host TEXT NOT NULL);
";

// leases from before end far ahead of it: they begin anew with the first relay that moves it
const LEASE_CLOCK: &str = "
CREATE TABLE lease_clock (
    id BIGINT PRIMARY KEY, ms BIGINT NOT NULL, turn BIGINT NOT NULL, moved_by TEXT);
INSERT INTO lease_clock (id, ms, turn) VALUES (1, 0, 0);
";

const LINKS: &str = "
CREATE TABLE relay_beats (
    relay_id TEXT PRIMARY KEY, beat BIGINT NOT NULL);
CREATE TABLE links (
    daemon_id TEXT PRIMARY KEY,
    relay_id TEXT NOT NULL, link BIGINT NOT NULL,
    workspace_id TEXT NOT NULL, manners BIGINT NOT NULL);
CREATE INDEX links_of_relay ON links (relay_id);
CREATE INDEX links_of_workspace ON links (workspace_id);
";

// `probe` is the task whose run tries the provider again, once `until` is past.
const LIMITS: &str = "
ALTER TABLE tasks ADD COLUMN agent TEXT;
ALTER TABLE tasks ADD COLUMN provider TEXT;
CREATE TABLE provider_backoffs (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    provider TEXT NOT NULL,
    until BIGINT NOT NULL, strikes BIGINT NOT NULL, probe TEXT,
    PRIMARY KEY (workspace_id, provider));
";

// `cost` is in billionths of a dollar, and with `unpriced` absent where the run was not billed yet:
// by a relay before this one, or because it has told nothing. `reached` is the bound of the budget that is used up, and
// `braked` for whom a task was told to pause: 1 for one of those, 2 for a person.
const SPENDINGS: &str = "
ALTER TABLE run_usage ADD COLUMN cost BIGINT;
ALTER TABLE run_usage ADD COLUMN unpriced BIGINT;
ALTER TABLE tasks ADD COLUMN running_since BIGINT;
ALTER TABLE tasks ADD COLUMN braked BIGINT NOT NULL DEFAULT 0;
CREATE TABLE spendings (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    task_id TEXT NOT NULL,
    tokens BIGINT NOT NULL, cost BIGINT NOT NULL, unpriced BIGINT NOT NULL,
    running_ms BIGINT NOT NULL,
    budget TEXT, timed BIGINT NOT NULL DEFAULT 0, reached TEXT,
    PRIMARY KEY (workspace_id, task_id));
";

// Only tool calls that ended are looked for by their kind: no other event pays for an index of it.
// The old one goes last: nobody can read beside that, and beside the making of the new one all can.
const EVENTS_OF_TOOLS: &str = "
CREATE INDEX events_of_tools ON events (workspace_id, stream, seq) WHERE kind = 'tool.finished';
DROP INDEX events_of_kind;
";

/// The version that the migrations come to.
pub(super) fn last() -> i64 {
    MIGRATIONS.last().map_or(0, |(number, ..)| *number)
}

/// What brings a SQLite file to this version; it refuses one that knows a migration we do not.
pub(super) fn for_sqlite() -> Migrator {
    migrator(SqlSafeStr::into_sql_str)
}

/// Brings a PostgreSQL database to this version; of relays that start at once one does it, and the others wait.
pub(super) async fn migrate_postgres(conn: &mut PgConnection) -> Result<(), StoreError> {
    migrator(for_postgres).run(conn).await.map_err(StoreError::Migrate)
}

/// In PostgreSQL's words. Texts are compared by their bytes there too, or they would be sorted by
/// the rules of some language.
fn for_postgres(sql: &'static str) -> SqlStr {
    let sql = sql.replace(" BLOB", " BYTEA").replace(" TEXT", " TEXT COLLATE \"C\"");
    AssertSqlSafe(sql).into_sql_str()
}

fn migrator(words: fn(&'static str) -> SqlStr) -> Migrator {
    up_to(i64::MAX, words)
}

/// What brings a database to the version of this migration.
fn up_to(last: i64, words: fn(&'static str) -> SqlStr) -> Migrator {
    let known = MIGRATIONS.iter().filter(|(version, ..)| *version <= last);
    let migrations = known.map(|(version, name, sql)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, words(sql), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// A SQLite file of a former version, for tests of what became of it.
#[cfg(test)]
pub(super) fn former_sqlite(last: i64) -> Migrator {
    up_to(last, SqlSafeStr::into_sql_str)
}

/// The same for PostgreSQL.
#[cfg(test)]
pub(super) fn former_postgres(last: i64) -> Migrator {
    up_to(last, for_postgres)
}
