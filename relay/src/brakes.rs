//! Budgets that are used up: whoever shares one is told to pause, and to go on once it was raised.
//!
//! What is to be done stands in the store and is looked for again and again, so that no word to a
//! daemon is needed to arrive: one that was away is told when it is back.

mod turns;

use crate::change::Change;
use crate::core::Core;
use crate::store::tasks::Braker;
use crate::store::{Heard, StoreError, persist, spending, tasks};
use hayward_shared::event::Kind;
use hayward_shared::id::{DaemonId, TaskId, WorkspaceId};
use hayward_shared::task::Status;
use hayward_shared::time::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use turns::{Key, Look, Turns, Word};

/// While something runs on a budget of time, that is counted so often: seconds are what it is told
/// in.
const TICK_MS: i64 = 1_000;

/// So long after an answer what waited for it is told: others are answered meanwhile.
const ROOM: Duration = Duration::from_millis(50);

/// The owner of the words to daemons that are not answered yet; they end with it.
#[derive(Default)]
struct Telling {
    words: JoinSet<()>,
    of: HashMap<task::Id, Key>,
    turns: Turns,
}

impl Telling {
    /// Tells these daemons, and waits for none of them.
    fn tell(&mut self, core: &Arc<Core>, all: Vec<(Key, Word)>) {
        while let Some(ended) = self.words.try_join_next_with_id() {
            self.answered(ended);
        }
        for (key, word) in self.turns.take(all) {
            let (core, (daemon, task)) = (core.clone(), key);
            let word = self.words.spawn(async move {
                // one that brings its work home cannot be paused, and one that is away is told later
                let told = core.registry.ask(daemon, word.of(task), core.timing.reply).await;
                if let Err(fault) = told {
                    tracing::debug!(%daemon, %fault, "a daemon did not pause or resume a task");
                }
            });
            self.of.insert(word.id(), key);
        }
    }

    fn answered(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let word = ended.map_or_else(|e| e.id(), |(id, ())| id);
        if let Some(key) = self.of.remove(&word) {
            self.turns.answered(key);
        }
    }

    /// Waits until an answer makes room for something that was not told. Nothing is lost when it is
    /// dropped.
    async fn room(&mut self) {
        while let Some(ended) = self.words.join_next_with_id().await {
            self.answered(ended);
            if self.turns.are_left() {
                return sleep(ROOM).await;
            }
        }
        std::future::pending().await
    }
}

/// Looks after budgets while this relay `leads`. Ends when it is aborted.
pub(crate) async fn run(core: Arc<Core>, mut leads: watch::Receiver<bool>) {
    let (mut live, mut telling) = (core.store.listen(), Telling::default());
    let (mut which, mut until) = (Look::Whole, Instant::now());
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let next = look(&core, &mut telling, which).await.unwrap_or_else(|e| {
            tracing::error!(error = &e as &dyn std::error::Error, "budgets cannot be looked after");
            None
        });
        if which == Look::Whole {
            until = Instant::now() + core.timing.pause(next);
        }
        let word = async {
            tokio::select! {
                () = core.raised.notified() => Look::Whole,
                () = heard(&mut live) => Look::Whole,
                () = telling.room() => Look::Rest,
            }
        };
        // by then the store is asked again anyway
        which = timeout_at(until, word).await.unwrap_or(Look::Whole);
    }
}

/// Waits until something is told that may concern a budget.
async fn heard(live: &mut Receiver<Heard>) {
    loop {
        match live.recv().await {
            Ok(Heard::Event(event)) if !concerns(&event.kind) => {}
            Ok(Heard::Event(_) | Heard::Look(..) | Heard::Missed) | Err(RecvError::Lagged(_)) => {
                return;
            }
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// A budget was used up, or set anew.
fn concerns(kind: &Kind) -> bool {
    matches!(kind, Kind::BudgetReached | Kind::TaskUpdated)
}

/// Does what is to be done now, and counts the time of what runs on a budget of it behind that; in how
/// many milliseconds that is to be done again, which a whole look alone knows. A task that fails keeps
/// no other from its turn.
async fn look(
    core: &Arc<Core>,
    telling: &mut Telling,
    which: Look,
) -> Result<Option<i64>, StoreError> {
    let mut reader = core.store.read().await?;
    let runaways = spending::runaways(&mut reader).await?;
    let released = spending::released(&mut reader).await?;
    drop(reader);
    let mut all = Vec::new();
    for (keys, word) in [(runaways, Word::Pause), (released, Word::Resume)] {
        for key in keys.into_iter().filter(|key| telling.turns.is_for(which, key.1)) {
            let told = match word {
                Word::Pause => brake(core, key).await,
                Word::Resume => release(core, key).await,
            };
            match told {
                Ok(Some(daemon)) => all.push(((daemon, key.1), word)),
                Ok(None) => {}
                Err(e) => failed(key.1, &e),
            }
        }
    }
    telling.tell(core, all);
    match which {
        Look::Whole => count_all(core).await,
        Look::Rest => Ok(None),
    }
}

fn failed(task: TaskId, e: &StoreError) {
    let error = e as &dyn std::error::Error;
    tracing::error!(%task, error, "the budgets of a task cannot be looked after");
}

/// Counts the time of whatever runs on a budget of it, where that was not done within the last half of
/// [`TICK_MS`], so that those who began at different moments are soon counted together; when it is to
/// be done again, none where nothing does. What is found to be used up is
/// heard of, and looked after, at once.
async fn count_all(core: &Core) -> Result<Option<i64>, StoreError> {
    let timed = spending::timed(&mut *core.store.read().await?).await?;
    let (now, mut next) = (crate::clock::now(), None);
    for (key, since) in timed {
        let wait = wait(since, now);
        next = Some(next.unwrap_or(TICK_MS).min(wait.unwrap_or(TICK_MS)));
        if wait.is_none()
            && let Err(e) = count(core, key).await
        {
            failed(key.1, &e);
        }
    }
    Ok(next)
}

/// In how many milliseconds the time since then is to be counted; none where that is now. A clock that
/// was set back is not waited for.
fn wait(since: Option<Timestamp>, now: Timestamp) -> Option<i64> {
    let ran = now.since(since?);
    (0..TICK_MS / 2).contains(&ran).then_some(TICK_MS - ran)
}

/// The daemon that is to be told that a task may go on.
async fn release(
    core: &Core,
    (workspace, id): (WorkspaceId, TaskId),
) -> Result<Option<DaemonId>, StoreError> {
    let found = tasks::find(&mut *core.store.read().await?, workspace, id).await?;
    Ok(found.and_then(|row| row.task.holding.daemon_id))
}

/// Counts how long a task ran since that was last done, and changes nothing else of it.
async fn count(core: &Core, (workspace, id): (WorkspaceId, TaskId)) -> Result<(), StoreError> {
    persist(|| async {
        let mut tx = core.store.write().await?;
        let found = tasks::find(tx.conn(), workspace, id).await?;
        let Some(row) = found.filter(|row| row.task.status == Status::Running) else {
            return Ok(());
        };
        let mut change = Change::of(row);
        change.count_time(crate::clock::now());
        tasks::apply_time(&mut tx, change).await?;
        tx.commit().await
    })
    .await
}

/// Notes that a task is told to pause for a budget, unless a person pauses it; the daemon that is to
/// be told.
async fn brake(
    core: &Core,
    (workspace, id): (WorkspaceId, TaskId),
) -> Result<Option<DaemonId>, StoreError> {
    persist(|| async {
        let mut tx = core.store.write().await?;
        let found = tasks::find(tx.conn(), workspace, id).await?;
        let Some(mut row) = found.filter(|row| row.task.status == Status::Running) else {
            return Ok(None);
        };
        if spending::over(tx.conn(), &row.task).await?.is_none() {
            return Ok(None);
        }
        let daemon = row.task.holding.daemon_id;
        // one that a person pauses is told too, and stays paused when the budget is raised
        if row.braked.is_none() {
            row.braked = Some(Braker::Budget);
            tasks::save(tx.conn(), &row).await?;
            tx.commit().await?;
        }
        Ok(daemon)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::config::Timing;
    use crate::core::tests::core_on;
    use crate::lease::tests::{at, running};
    use crate::prices::Delta;
    use crate::store::contract::{Place, on_postgres};
    use hayward_shared::budget::Budget;
    use hayward_shared::task::Order;
    use tokio::time::timeout;

    #[test]
    fn time_is_counted_each_second_and_by_a_clock_that_was_set_back_at_once() {
        let now = at(9_000_000);
        let waits =
            [8_999_999, 8_999_501, 8_999_500, 5, 9_000_001].map(|ms| wait(Some(at(ms)), now));
        assert_eq!(waits, [Some(999), Some(501), None, None, None]);
        assert_eq!(wait(None, now), None);
    }

    /// Stores a task that runs on this budget.
    async fn bounded(place: &Place, budget: Budget) -> TaskId {
        let order = Order { budget: Some(budget), ..Order::default() };
        let mut row = running(order, DaemonId::fresh());
        row.task.workspace_id = place.workspace;
        let mut tx = place.store.write().await.unwrap();
        spending::set_budget(tx.conn(), &row.task).await.unwrap();
        let change = Change { spent: Delta { tokens: 9, ..Delta::default() }, ..Change::of(row) };
        let task = tasks::apply(&mut tx, change).await.unwrap();
        tx.commit().await.unwrap();
        task.id
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_spent_all_of_it_is_told_before_the_time_of_others_is_counted() {
        let Some(place) = on_postgres().await else { return };
        let core = core_on(place.store.clone(), Timing::default(), Bus::default());
        let time = Budget { max_seconds: Some(9), ..Budget::default() };
        let timed = bounded(&place, time).await;
        let runaway = bounded(&place, Budget { max_tokens: Some(9), ..Budget::default() }).await;
        let mut tx = place.store.write().await.unwrap();
        tasks::find(tx.conn(), place.workspace, timed).await.unwrap();
        let looking = tokio::spawn(async move {
            let mut telling = Telling::default();
            look(&core, &mut telling, Look::Whole).await.unwrap();
        });
        let bound = Duration::from_secs(60);
        timeout(bound, place.is_waited_for(&mut tx)).await.expect("nobody waits");
        let braked = place.find(runaway).await.unwrap().braked;
        assert_eq!(braked, Some(Braker::Budget), "it goes on meanwhile");
        tx.commit().await.unwrap();
        timeout(bound, looking).await.unwrap().unwrap();
        assert_eq!(place.find(timed).await.unwrap().task.status, Status::Running);
    }
}
