//! How work that was not merged goes back to the agent that made it, and to nobody else.

use super::record::Record;
use crate::journal::RunRow;
use crate::task::{Board, RunState, Shop, chain};
use hayward_shared::queue::SentBack;
use hayward_shared::task::Status;

/// Which way is open: its live session; else its ended one, once for an entry, where the agent can
/// go on from there; else none. Changes nothing.
pub(super) async fn way(shop: &Shop, board: &Board, record: &Record) -> SentBack {
    if board.active().borrow().contains(&record.entry.task_id) {
        return SentBack::Message;
    }
    match obstacle(shop, record).await {
        None => SentBack::Resumed,
        Some(why) => SentBack::Event { why },
    }
}

/// Why the ended session of the task cannot go on.
async fn obstacle(shop: &Shop, record: &Record) -> Option<String> {
    let row = match shop.journal.last_run::<RunState>(record.entry.task_id).await {
        Ok(Some(row)) => row,
        Ok(None) => return Some("its run is not known any more".to_owned()),
        Err(error) => return Some(chain(&error)),
    };
    if let Some(why) = ending(&row, record) {
        return Some(why);
    }
    let Some(place) = row.state.place else { return Some("it has no worktree".to_owned()) };
    let (Some(branch), true) = (&place.branch, place.path.is_dir()) else {
        return Some("its worktree is gone".to_owned());
    };
    let repository = match shop.repositories.open(&place.repository).await {
        Ok(repository) => repository,
        Err(error) => return Some(chain(&error)),
    };
    repository.can_go_on(&place.path, branch).await.err().map(|error| chain(&error))
}

/// What of its end alone stands against it.
fn ending(row: &RunRow<RunState>, record: &Record) -> Option<String> {
    let state = &row.state;
    let is_later = row.key.run_id != record.run.run_id;
    match state.status {
        _ if is_later => Some("another run of the task came after it".to_owned()),
        Status::Completed if state.reading.session_id.is_some() => None,
        Status::Completed => {
            let agent = state.agent.as_ref().map_or("its agent", |agent| &agent.name);
            Some(format!("'{agent}' has no session to go on with"))
        }
        status => Some(format!("the task is {status}")),
    }
}
