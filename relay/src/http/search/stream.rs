//! What all daemons find, in one order, as they find it: lines of JSON. Nothing moves but when the
//! reader takes it; whoever leaves ends the search.

use super::gather;
use crate::core::Core;
use crate::registry::{Search, unexpected};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, ready};
use futures_util::stream::{FuturesUnordered, once, unfold};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::DaemonId;
use hayward_shared::protocol::FromDaemon;
use hayward_shared::search::{
    LINES, Merge, SearchLine, SearchPage, SearchQuery, SearchReport, Unanswered,
};
use std::convert::Infallible;
use std::mem;
use std::sync::Arc;
use tokio::time::Instant;

/// Why no more is known of a daemon that had begun.
const GONE: &str = "it went away while it searched";

/// Bytes that are handed on at once, about.
const CHUNK: usize = 64 << 10;

/// Asks the daemons, and answers with what they find as they find it. A fault before anything was
/// found has a status of its own.
pub(super) async fn answer(
    core: &Arc<Core>,
    daemons: Vec<(DaemonId, String)>,
    query: &SearchQuery,
) -> Result<Response, Fault> {
    let mut gathering = Gathering::begin(core, daemons, query);
    let first = gathering.next().await?.unwrap_or_default();
    let rest = unfold(gathering, async |mut gathering| {
        let text = gathering.next().await.unwrap_or_else(|fault| {
            let mut text = Vec::new();
            SearchLine::Fault(fault).write(&mut text);
            Some(text)
        });
        Some((Ok::<_, Infallible>(text?), gathering))
    });
    let body = Body::from_stream(once(ready(Ok(first))).chain(rest));
    Ok(([(CONTENT_TYPE, LINES)], body).into_response())
}

type Ended = Result<SearchReport, (u64, Unanswered)>;

/// A search of all daemons, under way.
struct Gathering {
    daemons: Vec<(DaemonId, String)>,
    /// Those that are waited for.
    steps: FuturesUnordered<BoxFuture<'static, (Source, Said)>>,
    /// Those that go on as soon as there is room for more of them.
    held: Vec<Source>,
    merge: Merge,
    /// What became of those that ended, without their matches, by their number. Of one that failed,
    /// how many it had told of by then.
    ends: Vec<(usize, Ended)>,
    /// Whether one may have found more than it told.
    truncated: bool,
    began: Instant,
    ended: bool,
}

impl Gathering {
    fn begin(core: &Arc<Core>, daemons: Vec<(DaemonId, String)>, query: &SearchQuery) -> Self {
        let asked = daemons.iter().enumerate().map(|(index, (daemon, _))| {
            let (core, query) = (core.clone(), query.clone());
            Source { core, index, daemon: *daemon, query, search: None, found: 0 }.step().boxed()
        });
        let steps = asked.collect();
        let merge = Merge::new(daemons.len(), query.newest_first, query.limit);
        Self {
            daemons,
            steps,
            held: Vec::new(),
            merge,
            ends: Vec::new(),
            truncated: false,
            began: Instant::now(),
            ended: false,
        }
    }

    /// The next lines; none behind the last one, and behind a fault: the question is as bad for all
    /// daemons.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let mut text = Vec::new();
        while !self.ended {
            while text.len() < CHUNK
                && let Some(found) = self.merge.next()
            {
                SearchLine::Match(found).write(&mut text);
            }
            let merge = &self.merge;
            let free = self.held.extract_if(.., |source| merge.has_room(source.index));
            self.steps.extend(free.map(|source| source.step().boxed()));
            if !text.is_empty() {
                break;
            }
            match self.steps.next().await {
                Some((source, said)) => self.hear(source, said)?,
                None => {
                    self.ended = true;
                    self.end().write(&mut text);
                }
            }
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    fn hear(&mut self, mut source: Source, said: Said) -> Result<(), Fault> {
        let (index, daemon) = (source.index, source.daemon);
        let mut take = |mut page: SearchPage| {
            page.matches.iter_mut().for_each(|one| one.daemon_id = Some(daemon));
            self.merge.push(index, page);
        };
        let end = match said {
            Said::Page(page) => {
                source.found += page.matches.len() as u64;
                take(page);
                self.held.push(source);
                return Ok(());
            }
            Said::End(Ok(mut report)) => {
                take(SearchPage { matches: mem::take(&mut report.matches), reached: None });
                Ok(report)
            }
            Said::End(Err(fault)) if fault.code == Code::Invalid => {
                self.ended = true;
                return Err(fault);
            }
            Said::End(Err(fault)) => {
                self.truncated |= fault.code != Code::DaemonOffline || source.search.is_some();
                let hostname = self.daemons.get(index).map(|(_, name)| name.clone());
                let hostname = hostname.unwrap_or_default();
                let reason = match fault.code {
                    Code::DaemonOffline if source.search.is_some() => GONE.to_owned(),
                    _ => fault.message,
                };
                Err((source.found, Unanswered { daemon_id: daemon, hostname, reason }))
            }
        };
        self.merge.end(index);
        self.ends.push((index, end));
        Ok(())
    }

    /// The last line.
    fn end(&mut self) -> SearchLine {
        let (mut sum, mut silent) = (SearchReport::default(), Vec::new());
        self.ends.sort_by_key(|(index, _)| *index);
        for (_, end) in mem::take(&mut self.ends) {
            match end {
                Ok(report) => sum.join(report),
                Err((found, unanswered)) => {
                    sum.total += found;
                    silent.push(unanswered);
                }
            }
        }
        sum.truncated |= self.truncated || sum.total > self.merge.given();
        sum.searched.ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        SearchLine::End(sum.end(silent))
    }
}

/// One daemon that is asked. Dropping it, or a step of it, calls its search off.
struct Source {
    core: Arc<Core>,
    index: usize,
    daemon: DaemonId,
    query: SearchQuery,
    /// None before the first step, and of a daemon that tells all at once.
    search: Option<Search>,
    /// Matches that it told of.
    found: u64,
}

/// What a daemon says.
enum Said {
    Page(SearchPage),
    /// The last of it; the matches are its last ones.
    End(Result<SearchReport, Fault>),
}

impl Source {
    async fn step(mut self) -> (Self, Said) {
        let said = self.next().await.unwrap_or_else(|fault| Said::End(Err(fault)));
        (self, said)
    }

    async fn next(&mut self) -> Result<Said, Fault> {
        let search = match &mut self.search {
            Some(search) => {
                search.more().await?;
                search
            }
            none => match Search::begin(&self.core, self.daemon, self.query.clone()).await? {
                Some(search) => none.insert(search),
                None => {
                    let whole = gather(&self.core, self.daemon, self.query.clone()).await?;
                    return Ok(Said::End(Ok(whole)));
                }
            },
        };
        match search.next().await? {
            FromDaemon::SearchFound(page) => Ok(Said::Page(page)),
            FromDaemon::Reply(reply) => Ok(Said::End(Ok(super::report(&reply.into_result()?)?))),
            other => Err(unexpected(&other)),
        }
    }
}
