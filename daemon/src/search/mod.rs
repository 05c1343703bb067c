//! Search of all that agents printed on this machine: in the rings of their runs, beside the
//! keepers that write them and the agents that go on.

mod answer;
mod calls;
mod flow;

pub use calls::Calls;

use crate::journal::JournalError;
use crate::task::{RunState, Shop, run_folder};
use crate::terminal::pattern::{Pattern, Reading};
use crate::terminal::search::{Order, Query, search};
use answer::Answer;
use flow::{Flow, Time};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::run::RunKey;
use hayward_shared::search::{SearchLeft, SearchPage, SearchQuery, SearchReport};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout_at;

/// Searches under way at once: each takes two processors for a while, and some MiB.
const AT_ONCE: usize = 2;

/// How far behind everything else a search stands for the processor: an agent, a keeper or the
/// daemon itself never waits for one.
#[cfg(target_os = "linux")]
const NICE: i32 = 15;

/// What a search may take beyond its time to come to an end: matching is broken off between
/// lines, and hardly one takes longer.
const GRACE: Duration = Duration::from_millis(300);

/// Searches the output of this daemon's runs. Cheap to clone; any task may ask it.
#[derive(Clone, Debug)]
pub struct Finder {
    shop: Arc<Shop>,
    permits: Arc<Semaphore>,
}

impl Finder {
    /// Searches the runs of `shop`'s journal.
    #[must_use]
    pub fn new(shop: Arc<Shop>) -> Self {
        Self { shop, permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What was found by the time that the question gives; dropping the future ends the search.
    ///
    /// # Errors
    /// The question is malformed (`invalid`, with the place in the pattern), the runs cannot be
    /// read, or other searches took all the time.
    pub async fn search(&self, query: SearchQuery) -> Result<SearchReport, Fault> {
        self.search_in(query, None).await
    }

    /// The same in the output of one run alone, which must be one of the question's tasks.
    ///
    /// # Errors
    /// As [`Finder::search`] says; `not_found` when no such run of the task is known.
    pub async fn search_run(&self, query: SearchQuery, run: RunId) -> Result<SearchReport, Fault> {
        self.search_in(query, Some(run)).await
    }

    /// The tasks that ran here.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn tasks(&self) -> Result<BTreeSet<TaskId>, Fault> {
        let runs = self.shop.journal.keys().await.map_err(unreadable)?;
        Ok(runs.into_iter().map(|key| key.task_id).collect())
    }

    /// The same as it is found: pages, and at last the report, whose matches are the last ones.
    /// Dropping the answer ends the search; what is not taken holds it up, for five seconds in all.
    ///
    /// # Errors
    /// As [`Finder::search`] says, but for the pattern, which the first step judges.
    pub async fn stream(&self, query: SearchQuery) -> Result<Stream, Fault> {
        let (page, pages) = mpsc::channel(1);
        Ok(Stream { pages, search: self.begin(query, None, Some(page)).await? })
    }

    async fn search_in(
        &self,
        query: SearchQuery,
        only: Option<RunId>,
    ) -> Result<SearchReport, Fault> {
        let (_none, pages) = mpsc::channel(1);
        let mut stream = Stream { pages, search: self.begin(query, only, None).await? };
        loop {
            if let Found::End(report) = stream.next().await? {
                return Ok(report);
            }
        }
    }

    /// Begins a search as soon as there is a place for it.
    async fn begin(
        &self,
        query: SearchQuery,
        only: Option<RunId>,
        pages: Option<mpsc::Sender<SearchPage>>,
    ) -> Result<Search, Fault> {
        query.check().map_err(|what| Fault::new(Code::Invalid, what))?;
        let deadline = Instant::now() + Duration::from_millis(query.budget_ms.into());
        let permit = timeout_at(deadline.into(), self.permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            let text = format!("{AT_ONCE} other searches are under way on this daemon");
            return Err(Fault::new(Code::Unavailable, text));
        };
        let mut places = self.places(&query).await?;
        if let Some(run) = only {
            places.retain(|place| place.key.run_id == run);
            if places.is_empty() {
                return Err(Fault::not_found("run", run.short()));
            }
        }
        let time = Arc::new(Time::until(deadline));
        let hunt = Hunt { query, places, time: time.clone() };
        let (found, answer) = oneshot::channel();
        let search = Search { answer, time: EndOnDrop(time) };
        let runtime = Handle::current();
        let work = thread::Builder::new().name("search".to_owned()).spawn(move || {
            stand_back();
            // nobody waits any more when this fails
            drop(found.send(hunt.run(pages.map(|pages| (pages, runtime)))));
            drop(permit);
        });
        work.map_err(|error| Fault::new(Code::Unavailable, format!("no search: {error}")))?;
        Ok(search)
    }

    /// Where the wanted runs' output is, in the order in which it is searched.
    async fn places(&self, query: &SearchQuery) -> Result<Vec<Place>, Fault> {
        let runs = self.shop.journal.runs_of::<RunState>(&query.task_ids).await;
        let runs = runs.map_err(unreadable)?;
        let ring = |(key, state): (RunKey, RunState)| {
            let ring = run_folder(&self.shop.home, key.run_id, &state).ring();
            Place { key, ring }
        };
        let mut places: Vec<Place> = runs.into_iter().map(ring).collect();
        if query.newest_first {
            places.reverse();
        }
        if let Some(after) = query.after {
            let known = places.iter().position(|place| place.key.run_id == after.run_id);
            places.drain(..known.unwrap_or(places.len()));
        }
        Ok(places)
    }
}

/// One run's output.
struct Place {
    key: RunKey,
    ring: PathBuf,
}

/// Ends a search when nobody waits for it any more.
#[derive(Debug)]
struct EndOnDrop(Arc<Time>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A search under way, as seen by whoever waits for it. Dropping it ends it.
#[derive(Debug)]
struct Search {
    answer: oneshot::Receiver<Result<SearchReport, Fault>>,
    time: EndOnDrop,
}

/// What a search finds, as it finds it. Dropping it ends the search.
#[derive(Debug)]
pub struct Stream {
    pages: mpsc::Receiver<SearchPage>,
    search: Search,
}

/// A part of what a search finds.
#[derive(Debug)]
pub enum Found {
    /// The next page.
    Page(SearchPage),
    /// The last matches, and what there is to say of all.
    End(SearchReport),
}

impl Stream {
    /// Ends the search; what it has found by then still comes, and what it says of all.
    pub fn give_up(&self) {
        self.search.time.0.end();
    }

    /// The next part. Nothing follows the end, or an error; both are told once.
    ///
    /// # Errors
    /// As [`Finder::search`] says.
    pub async fn next(&mut self) -> Result<Found, Fault> {
        let Search { answer, time: EndOnDrop(time) } = &mut self.search;
        let broken = || Fault::new(Code::Internal, "the search broke off");
        loop {
            let late = time.deadline() + GRACE;
            let part = async {
                tokio::select! {
                    biased;
                    Some(page) = self.pages.recv() => Ok(Found::Page(page)),
                    report = &mut *answer, if !answer.is_terminated() => {
                        report.map_err(|_| broken())?.map(Found::End)
                    }
                    else => Err(broken()),
                }
            };
            match timeout_at(late.into(), part).await {
                Ok(part) => return part,
                // or it got more time meanwhile
                Err(_) if time.deadline() + GRACE <= Instant::now() => return Err(too_slow()),
                Err(_) => {}
            }
        }
    }
}

/// One search, on a thread of its own.
struct Hunt {
    query: SearchQuery,
    places: Vec<Place>,
    time: Arc<Time>,
}

impl Hunt {
    fn run(self, pages: Option<(mpsc::Sender<SearchPage>, Handle)>) -> Result<SearchReport, Fault> {
        let began = Instant::now();
        let asked = &self.query;
        let reading = Reading { literal: asked.literal, ignore_case: asked.ignore_case };
        let pattern = Pattern::new(&asked.pattern, reading).map_err(|bad| {
            Fault::new(Code::Invalid, format!("this is not a valid pattern: {bad}"))
        })?;
        let order = if asked.newest_first { Order::NewestFirst } else { Order::OldestFirst };
        let query = Query { pattern, context: asked.context.into(), order };
        let flow = pages.map(|(pages, runtime)| Flow::new(pages, runtime, &self.time));
        let mut answer = Answer::new(asked, || self.time.is_over()).through(flow);
        for place in &self.places {
            if answer.stopped() {
                answer.leave(left(place));
                continue;
            }
            answer.begin(place.key);
            match search(&place.ring, &query, &mut answer) {
                Ok(searched) => answer.end(searched),
                Err(error) => {
                    let reason = Some(format!("it cannot be read: {error}"));
                    answer.leave(SearchLeft { reason, ..left(place) });
                }
            }
        }
        Ok(answer.report(began.elapsed()))
    }
}

/// One step of matching took longer than all of the search may; it gets what time agents leave.
fn too_slow() -> Fault {
    let text =
        "the pattern takes too long on a line of this output, or the machine has no time for it";
    Fault::new(Code::Failed, text).with_hint("repeat less in it, or leave the repetition out")
}

fn unreadable(error: JournalError) -> Fault {
    tracing::error!(error = &error as &dyn std::error::Error, "the runs cannot be read");
    Fault::new(Code::Internal, "the daemon's journal cannot be read")
}

/// Nothing of a run was searched.
fn left(place: &Place) -> SearchLeft {
    let RunKey { task_id, run_id, .. } = place.key;
    SearchLeft { task_id, run_id, from: None, to: None, reason: None }
}

/// Lets everything else go first on the processor.
fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a search runs at the priority of all else");
    }
}
