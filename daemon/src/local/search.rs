//! Search of this machine's output.

use super::faults::Refusal;
use super::tasks::only;
use crate::search::{Finder, Found, Stream};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::future::ready;
use futures_util::stream::{once, unfold};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::search::{LINES, Pages, SearchLine, SearchQuery, SearchWords, wants_lines};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::mem;
use std::time::Instant;

/// What a pane's search may ask for: characters of the pattern, matches, lines of context.
const PANE_PATTERN: usize = 200;
const PANE_LIMIT: u32 = 500;
const PANE_USUAL_LIMIT: u32 = 50;
const PANE_CONTEXT: u32 = 50;

type Pairs = Query<Vec<(String, String)>>;

/// As `GET /api/v1/search` of the relay, of this machine alone.
pub(super) async fn all(
    State(finder): State<Finder>,
    headers: HeaderMap,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let words = SearchWords::read(pairs).map_err(|what| Fault::new(Code::Invalid, what))?;
    let mut query = words.query;
    if !words.tasks.is_empty() {
        let known = finder.tasks().await?;
        for typed in &words.tasks {
            query.task_ids.push(only(typed, known.iter().copied())?);
        }
    }
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(wants_lines) {
        return Ok(by_lines(finder.stream(query).await?).await?);
    }
    let (mut pages, began) = (Pages::new(query), Instant::now());
    loop {
        let page = finder.search(pages.query().clone()).await?;
        let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !pages.take(page, elapsed) {
            return Ok(Json(pages.end().answer(Vec::new())).into_response());
        }
    }
}

/// What is found as it is found; a fault before anything was has a status of its own.
async fn by_lines(mut stream: Stream) -> Result<Response, Fault> {
    let (first, ended) = loop {
        let (text, ended) = lines(Ok(stream.next().await?));
        if ended || !text.is_empty() {
            break (text, ended);
        }
    };
    let rest = (!ended).then_some(stream);
    let rest = unfold(rest, async |stream| {
        let mut stream = stream?;
        let (text, ended) = lines(stream.next().await);
        Some((Ok::<_, Infallible>(text), (!ended).then_some(stream)))
    });
    let body = Body::from_stream(once(ready(Ok(first))).chain(rest));
    Ok(([(CONTENT_TYPE, LINES)], body).into_response())
}

/// The lines of a part, and whether nothing follows.
fn lines(part: Result<Found, Fault>) -> (Vec<u8>, bool) {
    let mut text = Vec::new();
    let (matches, last) = match part {
        Ok(Found::Page(page)) => (page.matches, None),
        Ok(Found::End(mut report)) => {
            let matches = mem::take(&mut report.matches);
            (matches, Some(SearchLine::End(report.end(Vec::new()))))
        }
        Err(fault) => (Vec::new(), Some(SearchLine::Fault(fault))),
    };
    let all = matches.into_iter().map(SearchLine::Match).chain(last);
    let mut ended = false;
    for line in all {
        line.write(&mut text);
        ended = !matches!(line, SearchLine::Match(_));
    }
    (text, ended)
}

/// The last state of one run's lines: a session is a task, its panes are its runs.
pub(super) async fn pane(
    State(finder): State<Finder>,
    Path((task, run)): Path<(String, String)>,
    Query(pairs): Pairs,
) -> Result<Json<Value>, Refusal> {
    let id = |text: &str| Refusal::bad("bad_id_format", format!("'{text}' is no id"));
    let task: TaskId = task.parse().map_err(|_| id(&task))?;
    let run: RunId = run.parse().map_err(|_| id(&run))?;
    let query = pane_query(&pairs, task)?;
    let mut report = match finder.search_run(query, run).await {
        Err(fault) if fault.code == Code::Invalid => {
            return Err(Refusal::bad("bad_query", fault.message));
        }
        found => found?,
    };
    let rows = report.matches.drain(..).map(|one| {
        json!({
            "line": one.line, "content": one.content,
            "contextBefore": one.context_before, "contextAfter": one.context_after,
        })
    });
    let matches: Vec<Value> = rows.collect();
    Ok(Json(json!({
        "matches": matches, "total": report.total, "truncated": report.truncated, "source": "ring",
    })))
}

fn pane_query(pairs: &[(String, String)], task: TaskId) -> Result<SearchQuery, Refusal> {
    let bad = |text: String| Refusal::bad("bad_params", text);
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let usual = PANE_USUAL_LIMIT.to_string();
    let words = SearchWords::read([("limit", usual.as_str())].into_iter().chain(pairs));
    let mut query = words.map_err(bad)?.query;
    if query.pattern.chars().count() > PANE_PATTERN {
        return Err(bad(format!("pattern: from 1 to {PANE_PATTERN} characters")));
    }
    if query.limit > PANE_LIMIT {
        return Err(bad(format!("limit: from 1 to {PANE_LIMIT}")));
    }
    if query.context > PANE_CONTEXT {
        return Err(bad(format!("context: from 0 to {PANE_CONTEXT}")));
    }
    query.task_ids = vec![task];
    Ok(query)
}
