//! Search of output: asked of every daemon of the workspace that is online, page by page, and put
//! together. Nothing of it is kept.

use super::caller::Bearer;
use super::fault::{Refusal, invalid};
use super::gather::known;
use super::params::{Id, Params};
use super::tasks::find;
use crate::auth::Caller;
use crate::core::Core;
use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, Fragment};
use hayward_shared::protocol::ToDaemon;
use hayward_shared::search::{SearchMatch, SearchQuery, SearchReport, SearchWords};
use serde::Deserialize;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Tasks that one search may name.
const MOST_TASKS: usize = 200;

/// Bytes of matched lines that one search may gather from a daemon: an answer is held in memory.
const MOST_BYTES: usize = 32 << 20;

/// What a page after the first may take at least: the first one may have used up the time.
const PAGE_MS: u32 = 500;

pub(super) async fn search(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
    params: Params,
) -> Result<Json<Value>, Refusal> {
    let words = SearchWords::read(params.pairs()).map_err(invalid)?;
    let query = within(&core, caller, words.query, &words.tasks).await?;
    let began = Instant::now();
    let daemons = wanted(known(&core, caller.workspace).await?, &words.daemons)?;
    let asked = daemons.into_iter().map(|(id, hostname)| {
        let (core, query) = (&core, query.clone());
        async move { (id, hostname, gather(core, id, query).await) }
    });
    let (mut sum, mut silent) = (SearchReport::default(), Vec::new());
    for (id, hostname, answer) in join_all(asked).await {
        match answer {
            // the pattern is as bad for all of them
            Err(fault) if fault.code == Code::Invalid => return Err(fault.into()),
            Err(fault) => {
                sum.truncated |= fault.code != Code::DaemonOffline;
                let reason = fault.message;
                silent.push(json!({ "daemonId": id, "hostname": hostname, "reason": reason }));
            }
            Ok(found) => add(&mut sum, found),
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
    let SearchReport { matches, total, truncated, searched, unsearched, .. } = sum;
    Ok(Json(json!({
        "matches": matches, "total": total, "truncated": truncated, "searched": searched,
        "unsearched": unsearched, "unanswered": silent, "source": "ring",
    })))
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

/// All pages of one daemon.
async fn gather(core: &Core, id: DaemonId, mut query: SearchQuery) -> Result<SearchReport, Fault> {
    let (mut sum, mut bytes) = (SearchReport::default(), 0);
    let deadline = Instant::now() + Duration::from_millis(query.budget_ms.into());
    loop {
        let body = ToDaemon::Search(Box::new(query.clone()));
        let answer = core.registry.ask(id, body, core.timing.reply).await?;
        let mut page = SearchReport::deserialize(&answer).map_err(|error| {
            Fault::new(Code::Incompatible, format!("its answer cannot be read: {error}"))
        })?;
        page.matches.iter_mut().for_each(|one| one.daemon_id = Some(id));
        bytes += page.matches.iter().map(length).sum::<usize>();
        let (found, next) = (page.matches.len(), page.next.take());
        // that it is full says nothing when the next one follows
        page.truncated &= next.is_none() || !page.unsearched.is_empty();
        add(&mut sum, page);
        let left = query.limit.saturating_sub(u32::try_from(found).unwrap_or(u32::MAX));
        let goes_on = left > 0 && found > 0 && bytes < MOST_BYTES;
        let Some(next) = next.filter(|_| goes_on) else { return Ok(sum) };
        let time = deadline.saturating_duration_since(Instant::now()).as_millis();
        let time = u32::try_from(time).unwrap_or(u32::MAX);
        query.limit = left;
        query.after = Some(next);
        query.budget_ms = time.max(PAGE_MS);
    }
}

fn length(found: &SearchMatch) -> usize {
    let around = found.context_before.iter().chain(&found.context_after);
    found.content.len() + around.map(String::len).sum::<usize>()
}

fn add(sum: &mut SearchReport, more: SearchReport) {
    sum.matches.extend(more.matches);
    sum.total += more.total;
    sum.truncated |= more.truncated;
    sum.searched.runs = sum.searched.runs.max(more.searched.runs);
    sum.unsearched.extend(more.unsearched);
}
