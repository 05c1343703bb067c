//! Searches that the relay asked for: ended when it calls them off, or when the link is lost.

use super::{Finder, Found};
use crate::kept::Kept;
use crate::link::Lane;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::RequestId;
use hayward_shared::protocol::{FromDaemon, Reply};
use hayward_shared::search::{FETCH_MS, PAGES_AHEAD, SearchQuery, SearchReport};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Searches that the link may have asked for at once, nearly all of which wait for their turn.
const MOST: usize = 64;

/// The searches of one link. Their one owner; dropping it ends them.
#[derive(Debug)]
pub struct Calls {
    finder: Finder,
    lane: Lane,
    open: HashMap<RequestId, Call>,
}

#[derive(Debug)]
struct Call {
    task: Kept,
    /// Pages that may be sent.
    credit: Arc<Semaphore>,
}

impl Calls {
    /// None yet; answers go out by `lane`. Within a runtime.
    #[must_use]
    pub fn new(finder: Finder, lane: Lane) -> Self {
        Self { finder, lane, open: HashMap::new() }
    }

    /// Begins a search. It is answered by `reply`, after its pages where it streams.
    pub fn begin(&mut self, request: RequestId, query: SearchQuery) {
        self.forget_ended();
        let (finder, lane) = (self.finder.clone(), self.lane.clone());
        let credit = Arc::new(Semaphore::new(PAGES_AHEAD));
        let free = credit.clone();
        let is_full = self.open.len() >= MOST;
        let task = Kept::of(tokio::spawn(async move {
            let found = match is_full {
                true => Err(crowded()),
                false if query.stream => stream(&finder, &lane, request, query, &free).await,
                false => finder.search(query).await,
            };
            let reply = found.map_or_else(Reply::refused, |report| Reply::done(json!(report)));
            lane.reply(request, reply).await;
        }));
        self.open.insert(request, Call { task, credit });
    }

    /// A page of a search was taken. Of one that has ended nothing is said.
    pub fn more(&mut self, request: RequestId) {
        if let Some(call) = self.open.get(&request)
            && call.credit.available_permits() < PAGES_AHEAD
        {
            call.credit.add_permits(1);
        }
    }

    /// Ends a search that nobody waits for any more, if it is one.
    pub fn call_off(&mut self, request: RequestId) {
        self.open.remove(&request);
    }

    /// Ends all: whoever asked is gone.
    pub fn clear(&mut self) {
        self.open.clear();
    }

    /// Forgets those that have ended.
    pub fn forget_ended(&mut self) {
        self.open.retain(|_, call| !call.task.is_over());
    }
}

/// Sends what a search finds as it finds it, no more than there is credit for. Where that does not
/// come for as long as a search waits for its reader in all, it is ended and the rest thrown away.
async fn stream(
    finder: &Finder,
    lane: &Lane,
    request: RequestId,
    query: SearchQuery,
    credit: &Semaphore,
) -> Result<SearchReport, Fault> {
    let (mut found, mut lost) = (finder.stream(query).await?, false);
    loop {
        match found.next().await? {
            Found::Page(page) if !lost => {
                match timeout(Duration::from_millis(FETCH_MS), credit.acquire()).await {
                    Ok(Ok(permit)) => {
                        permit.forget();
                        lane.answer(Some(request), FromDaemon::SearchFound(page)).await;
                    }
                    _ => {
                        lost = true;
                        found.give_up();
                    }
                }
            }
            Found::Page(_) => {}
            Found::End(report) => {
                let matches = if lost { Vec::new() } else { report.matches };
                return Ok(SearchReport { truncated: report.truncated || lost, matches, ..report });
            }
        }
    }
}

fn crowded() -> Fault {
    Fault::new(Code::Unavailable, format!("{MOST} other searches are under way on this daemon"))
}
