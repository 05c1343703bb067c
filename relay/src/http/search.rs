//! Search of output: asked of every daemon of the workspace that is online, page by page, and put
//! together. Nothing of it is kept.

mod stream;

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::gather::known;
use super::params::{Id, Params};
use super::tasks::find;
use crate::auth::Caller;
use crate::core::Core;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, Fragment};
use hayward_shared::protocol::ToDaemon;
use hayward_shared::search::{
    Pages, SearchQuery, SearchReport, SearchWords, Unanswered, wants_lines,
};
use serde::Deserialize;
use serde_json::Value;
use std::cmp::Reverse;
use std::sync::Arc;
use tokio::time::Instant;

/// Tasks that one search may name.
const MOST_TASKS: usize = 200;

pub(super) async fn search(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Refusal> {
    let words = SearchWords::read(params.pairs()).map_err(invalid)?;
    let query = within(&core, caller, words.query, &words.tasks).await?;
    let began = Instant::now();
    let daemons = wanted(known(&core, caller.workspace).await?, &words.daemons)?;
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(wants_lines) {
        return Ok(stream::answer(&core, daemons, &query).await?);
    }
    let asked = daemons.into_iter().map(|(id, hostname)| {
        let (core, query) = (&core, query.clone());
        async move { (id, hostname, gather(core, id, query).await) }
    });
    let (mut sum, mut silent) = (SearchReport::default(), Vec::new());
    for (daemon_id, hostname, answer) in join_all(asked).await {
        match answer {
            // the pattern is as bad for all of them
            Err(fault) if fault.code == Code::Invalid => return Err(fault.into()),
            Err(fault) => {
                sum.truncated |= fault.code != Code::DaemonOffline;
                silent.push(Unanswered { daemon_id, hostname, reason: fault.message });
            }
            Ok(found) => sum.join(found),
        }
    }
    // ids of runs begin with their moment
    match query.newest_first {
        true => sum.matches.sort_by_key(|one| Reverse((one.run_id, one.line))),
        false => sum.matches.sort_by_key(|one| (one.run_id, one.line)),
    }
    sum.matches.truncate(query.limit as usize);
    sum.truncated |= sum.total > sum.matches.len() as u64;
    sum.searched.ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Json(sum.answer(silent)).into_response())
}

/// Those of the daemons that the caller named; all where it named none.
fn wanted(
    mut daemons: Vec<(DaemonId, String)>,
    names: &[String],
) -> Result<Vec<(DaemonId, String)>, Fault> {
    let is = |id: DaemonId, name: &String| {
        name.parse::<Fragment>().is_ok_and(|fragment| fragment.matches(&id.0))
    };
    for name in names {
        if !daemons.iter().any(|(id, _)| is(*id, name)) {
            return Err(Fault::not_found("daemon", name));
        }
    }
    if !names.is_empty() {
        daemons.retain(|(id, _)| names.iter().any(|name| is(*id, name)));
    }
    Ok(daemons)
}

/// The question, in the output of these tasks alone; of all that the caller may read where there
/// are none.
async fn within(
    core: &Core,
    caller: Caller,
    mut query: SearchQuery,
    tasks: &[String],
) -> Result<SearchQuery, Refusal> {
    if tasks.is_empty() {
        caller.reads()?;
    }
    if tasks.len() > MOST_TASKS {
        return Err(invalid(format!("task: {MOST_TASKS} at the most")).into());
    }
    for typed in tasks {
        let absent = |_| Fault::not_found("task", typed);
        let id = Id { typed: typed.clone(), fragment: typed.parse().map_err(absent)? };
        query.task_ids.push(find(core, &caller, &id).await?.task.id);
    }
    Ok(query)
}

/// All that one daemon finds.
async fn gather(core: &Core, id: DaemonId, query: SearchQuery) -> Result<SearchReport, Fault> {
    let (mut pages, began) = (Pages::new(query), Instant::now());
    loop {
        let body = ToDaemon::Search(Box::new(pages.query().clone()));
        let answer = core.registry.ask(id, body, core.timing.reply).await?;
        let mut page = report(&answer)?;
        page.matches.iter_mut().for_each(|one| one.daemon_id = Some(id));
        let elapsed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !pages.take(page, elapsed) {
            return Ok(pages.end());
        }
    }
}

/// What a daemon answered.
fn report(answer: &Value) -> Result<SearchReport, Fault> {
    SearchReport::deserialize(answer).map_err(|error| {
        Fault::new(Code::Incompatible, format!("its answer cannot be read: {error}"))
    })
}
