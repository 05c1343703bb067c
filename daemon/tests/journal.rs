//! The journal on a real database: nothing twice, nothing lost, numbers never used again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use hayward_daemon::journal::{Journal, JournalError, Step};
use hayward_shared::event::Kind;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, RunId, TaskId};
use hayward_shared::protocol::{FromDaemon, Reply, SpawnTask, TaskEvent};
use hayward_shared::run::RunKey;
use hayward_shared::time::Timestamp;
use serde_json::json;
use std::path::Path;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn key(lease_epoch: u64) -> RunKey {
    RunKey { task_id: TaskId::fresh(), run_id: RunId::fresh(), lease_epoch }
}

fn spawn(key: RunKey) -> SpawnTask {
    serde_json::from_value(json!({
        "taskId": key.task_id, "taskName": "x", "plan": "do\u{0}x", "depth": 0,
        "isOrchestrator": false,
    }))
    .unwrap()
}

fn event(key: RunKey, n: u64) -> FromDaemon {
    FromDaemon::TaskEvent(TaskEvent {
        task_id: key.task_id,
        run_id: key.run_id,
        event: Kind::AgentNotice,
        at: at(0),
        channel: None,
        payload: json!({ "n": n }),
    })
}

async fn open(folder: &Path) -> Journal {
    Journal::open(&folder.join("journal.db")).await.unwrap()
}

async fn tell(journal: &Journal, key: RunKey, state: u32, count: u64) {
    let messages: Vec<_> = (0..count).map(|n| event(key, n)).collect();
    let at = Timestamp::from_millis(1);
    let step = Step { key, state: &state, ended: false, messages: &messages, at };
    journal.step(step).await.unwrap();
}

#[tokio::test]
async fn f28_a_run_that_is_known_is_not_accepted_again_nor_is_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).await;
    let first = key(3);
    assert!(journal.accept(first, &spawn(first), &0, at(1)).await.unwrap());
    assert!(!journal.accept(first, &spawn(first), &9, at(2)).await.unwrap());
    let older = RunKey { run_id: RunId::fresh(), lease_epoch: 2, ..first };
    assert!(!journal.accept(older, &spawn(older), &9, at(2)).await.unwrap());
    let same_epoch = RunKey { run_id: RunId::fresh(), ..first };
    assert!(!journal.accept(same_epoch, &spawn(same_epoch), &9, at(2)).await.unwrap());
    let newer = RunKey { run_id: RunId::fresh(), lease_epoch: 4, ..first };
    assert!(journal.accept(newer, &spawn(newer), &1, at(3)).await.unwrap());

    let live = journal.live_runs::<u32>().await.unwrap();
    assert_eq!(
        live.iter().map(|row| (row.key, row.state)).collect::<Vec<_>>(),
        [(first, 0), (newer, 1)]
    );
    assert_eq!(live[0].spawn, spawn(first));
    assert_eq!(journal.last_run::<u32>(first.task_id).await.unwrap().unwrap().key, newer);
    assert_eq!(journal.run_before::<u32>(newer).await.unwrap().unwrap().key, first);
}

#[tokio::test]
async fn f29_messages_stay_until_they_are_acked_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let run = key(1);
    {
        let journal = open(folder.path()).await;
        journal.accept(run, &spawn(run), &0, at(1)).await.unwrap();
        let grown = journal.grown();
        tell(&journal, run, 1, 3).await;
        assert_eq!(*grown.borrow(), 3);
        tell(&journal, run, 2, 2).await;
        journal.acked(2).await.unwrap();
    }
    let journal = open(folder.path()).await;
    assert_eq!(journal.live_runs::<u32>().await.unwrap()[0].state, 2);
    let waiting = journal.outgoing(0, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|message| message.seq).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(
        waiting[0].text.contains(r#""seq":3"#) && waiting[0].text.contains(r#""leaseEpoch":1"#)
    );
    assert_eq!(*journal.grown().borrow(), 5);
    assert_eq!(journal.outgoing(3, 1).await.unwrap()[0].seq, 4);
}

#[tokio::test]
async fn a_number_that_the_relay_has_seen_is_never_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).await;
    let run = key(1);
    journal.accept(run, &spawn(run), &0, at(1)).await.unwrap();
    tell(&journal, run, 1, 2).await;
    journal.acked(40).await.unwrap();
    assert_eq!(journal.next_seq().await.unwrap(), 41);
    tell(&journal, run, 2, 1).await;
    assert_eq!(journal.outgoing(0, 10).await.unwrap()[0].seq, 41);
    journal.acked(5).await.unwrap();
    assert_eq!(journal.next_seq().await.unwrap(), 42);
}

#[tokio::test]
async fn an_ended_run_is_not_live() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).await;
    let run = key(1);
    journal.accept(run, &spawn(run), &0, at(1)).await.unwrap();
    assert_eq!(journal.live_keys().await.unwrap(), [run]);
    journal
        .step(Step {
            key: run,
            state: &7,
            ended: true,
            messages: &[],
            at: Timestamp::from_millis(1),
        })
        .await
        .unwrap();
    assert!(journal.live_keys().await.unwrap().is_empty());
    assert!(journal.last_run::<u32>(run.task_id).await.unwrap().unwrap().ended);
}

#[tokio::test]
async fn a_reply_is_repeated_for_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path()).await;
    let (first, second) = (RequestId::fresh(), RequestId::fresh());
    let reply = Reply::refused(Fault::new(Code::Conflict, "no"));
    journal.keep_reply(first, &reply, at(0)).await.unwrap();
    journal.keep_reply(first, &Reply::done(json!(1)), at(1)).await.unwrap();
    assert_eq!(journal.answer(first).await.unwrap(), Some(FromDaemon::Reply(reply.clone())));
    journal.keep_reply(second, &reply, at(3_600_001)).await.unwrap();
    assert_eq!(journal.answer(first).await.unwrap(), None);
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_refused_and_left_as_it_is() {
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Connection};
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).await);
    let path = folder.path().join("journal.db");
    let mut raw = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let refused = Journal::open(&path).await.unwrap_err();
    assert!(matches!(refused, JournalError::Newer { found: 99, .. }), "{refused}");
}
