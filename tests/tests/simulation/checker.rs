//! What must be true of every history.

use super::history::{Entry, Fact, Host};
use super::scenario::{Ended, Scenario};
use hayward_shared::run::{LEASE_MS, SWEEP_MS};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Peace has to put things right within this: the longest wait before a daemon dials again (20 s),
/// the hello, and the grace that an agent gets.
const MENDED_MS: u64 = 40_000;

/// What a sweep may come late by: slow disks and links, and a relay that was down.
const LATE_MS: u64 = 40_000;

/// What is wrong with a history; nothing when all is well.
pub fn check(scenario: &Scenario, entries: &[Entry], ended: &Ended) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(one_live_run(scenario, entries));
    wrong.extend(acked_is_durable(entries));
    wrong.extend(leases(entries));
    wrong.extend(all_ends(scenario, entries, ended));
    wrong.extend(stored_once_in_order(scenario, entries, ended));
    wrong
}

/// Beats of one link after which a daemon has heard all that the relay said when it came: it drops
/// a link that is silent for three.
const SURE_BEATS: u32 = 5;

/// Never two agents of one task at once. Where a task moves after a minute, its former agent may
/// live on while its daemon cannot be told; not once it was.
fn one_live_run(scenario: &Scenario, entries: &[Entry]) -> Vec<String> {
    let moves: BTreeSet<&str> =
        scenario.wishes.iter().filter(|wish| wish.moves).map(|wish| wish.id.as_str()).collect();
    let mended = scenario.peace + MENDED_MS;
    let mut live: BTreeMap<&str, BTreeSet<(&str, Host)>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut looked = false;
    // since when a daemon's link is up, and its beats
    let mut links: BTreeMap<Host, (u64, u32)> = BTreeMap::new();
    let mut begun: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for entry in entries {
        if entry.at > mended && !looked {
            looked = true;
            let both = live.iter().filter(|(_, runs)| runs.len() > 1);
            wrong.extend(both.map(|(task, runs)| format!("task {task} still has {runs:?}")));
        }
        match &entry.fact {
            Fact::Born(host, task, run) => {
                let runs = live.entry(task).or_default();
                let allowed = moves.contains(task.as_str()) && entry.at <= mended;
                if !runs.is_empty() && !allowed {
                    wrong.push(format!(
                        "at {} run {run} of task {task} began while {runs:?} lived",
                        entry.at
                    ));
                }
                runs.insert((run, *host));
                begun.insert(task, (entry.at, run));
            }
            Fact::Answered(host, text) if text.contains("\"authenticated\"") => {
                links.insert(*host, (entry.at, 0));
            }
            Fact::Told(host, text) if text.contains("\"heartbeat\"") => {
                let Some((since, beats)) = links.get_mut(host) else { continue };
                *beats += 1;
                if *beats != SURE_BEATS {
                    continue;
                }
                for (task, runs) in &live {
                    let Some((at, newest)) = begun.get(task).filter(|(at, _)| at < since) else {
                        continue;
                    };
                    let former = runs.iter().find(|(run, on)| on == host && run != newest);
                    wrong.extend(former.map(|(run, _)| {
                        format!("run {run} of task {task} lives on, {newest} began at {at}")
                    }));
                }
            }
            Fact::Died(host, task, run) => {
                live.entry(task).or_default().remove(&(run.as_str(), *host));
            }
            _ => {}
        }
    }
    wrong
}

/// What the relay acked it holds after every fall.
fn acked_is_durable(entries: &[Entry]) -> Vec<String> {
    let mut acked: BTreeMap<Host, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for entry in entries {
        let Fact::Answered(host, text) = &entry.fact else { continue };
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let known = acked.entry(*host).or_default();
        match message["type"].as_str() {
            Some("ack") => *known = (*known).max(message["upTo"].as_u64().unwrap_or(0)),
            Some("authenticated") => {
                let holds = message["ackedSeq"].as_u64().unwrap_or(0);
                if holds < *known {
                    wrong.push(format!(
                        "at {} the relay had acked {known} to {host} and holds {holds}",
                        entry.at
                    ));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// No task is `running` whose daemon was not heard for longer than a lease and a sweep, by a relay
/// that was up: at its start every lease begins anew.
fn leases(entries: &[Entry]) -> Vec<String> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    let mut heard: BTreeMap<Host, u64> = BTreeMap::new();
    let mut up = 0;
    let mut wrong = Vec::new();
    let bound = u64::try_from(LEASE_MS + SWEEP_MS).unwrap_or(0) + LATE_MS;
    for entry in entries {
        match &entry.fact {
            Fact::Heard(host) => drop(heard.insert(*host, entry.at)),
            Fact::Answered(host, text) if text.contains("\"authenticated\"") => {
                let message: Value = serde_json::from_str(text).unwrap_or_default();
                if let Some(id) = message["daemonId"].as_str() {
                    hosts.insert(id.to_owned(), *host);
                }
            }
            Fact::Fault(text) if text == "the relay is up" => up = entry.at,
            Fact::Seen(task, status, daemon) if status == "running" => {
                let last = hosts.get(daemon).and_then(|host| heard.get(host)).copied();
                let silent = entry.at.saturating_sub(last.unwrap_or(0).max(up));
                if silent > bound {
                    wrong.push(format!(
                        "at {} task {task} ran, its daemon silent for {silent} ms",
                        entry.at
                    ));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// In peace every task ends, everything is told, and no agent of an ended task lives on.
fn all_ends(scenario: &Scenario, entries: &[Entry], ended: &Ended) -> Vec<String> {
    let mut wrong: Vec<String> =
        ended.untold.iter().map(|host| format!("{host} has yet to tell something")).collect();
    let statuses: BTreeMap<&str, &str> = ended
        .tasks
        .iter()
        .filter_map(|task| Some((task["id"].as_str()?, task["status"].as_str()?)))
        .collect();
    for wish in &scenario.wishes {
        let status = statuses.get(wish.id.as_str()).copied().unwrap_or("gone");
        if !matches!(status, "completed" | "failed" | "cancelled" | "timed_out") {
            wrong.push(format!("task {} never ended: {status}", wish.id));
        }
    }
    let mut live: BTreeMap<&str, &str> = BTreeMap::new();
    let mut cancelled: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in entries {
        match &entry.fact {
            Fact::Born(_, task, run) => drop(live.insert(run, task)),
            Fact::Died(_, task, run) => {
                live.remove(run.as_str());
                let wished = cancelled.get(task.as_str()).copied();
                let due = wished.map(|at| at.max(scenario.peace) + MENDED_MS);
                if due.is_some_and(|due| entry.at > due) {
                    wrong.push(format!("the cancel of {task} reached {run} only at {}", entry.at));
                }
            }
            Fact::Cancelled(task) => drop(cancelled.entry(task).or_insert(entry.at)),
            _ => {}
        }
    }
    wrong.extend(live.iter().map(|(run, task)| format!("run {run} of task {task} lives for ever")));
    for task in cancelled.keys() {
        if statuses.get(task) != Some(&"cancelled") {
            wrong.push(format!("task {task} was cancelled and is {:?}", statuses.get(task)));
        }
    }
    wrong
}

/// What one run told, as the store has it too.
type Told = (String, String);

/// Each event that a daemon journalled is stored once, and those of a run in their order; streams
/// have no holes, and each status follows from the one before.
fn stored_once_in_order(scenario: &Scenario, entries: &[Entry], ended: &Ended) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut journalled: BTreeMap<(Host, u64), String> = BTreeMap::new();
    let mut stale: BTreeSet<String> = BTreeSet::new();
    for entry in entries {
        match &entry.fact {
            Fact::Told(host, text) => {
                let message: Value = serde_json::from_str(text).unwrap_or_default();
                let Some(seq) = message["seq"].as_u64() else { continue };
                let known = journalled.entry((*host, seq)).or_insert_with(|| text.clone());
                if known != text {
                    wrong.push(format!("{host} used number {seq} for {known} and for {text}"));
                }
            }
            Fact::Answered(_, text) if text.contains("stale_lease") => {
                let message: Value = serde_json::from_str(text).unwrap_or_default();
                stale.extend(message["taskId"].as_str().map(str::to_owned));
            }
            _ => {}
        }
    }
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for text in journalled.values() {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        if message["type"] == "taskEvent" {
            let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
            told.entry(text("runId")).or_default().push((text("event"), text("at")));
        }
    }
    for (task, events) in &ended.events {
        wrong.extend(whole_stream(task, events));
        let mut stored: BTreeMap<String, Vec<Told>> = BTreeMap::new();
        for event in events.iter().filter(|event| event["subject"]["kind"] == "run") {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let one = (text(&event["type"]), text(&event["at"]));
            stored.entry(text(&event["subject"]["id"])).or_default().push(one);
        }
        let moves = scenario.wishes.iter().any(|wish| wish.moves && wish.id == *task);
        for (run, stored) in &stored {
            let told = told.get(run).cloned().unwrap_or_default();
            // of a run that was handed over only what came before is stored
            let may_lack = moves || stale.contains(task);
            if *stored != told && !(may_lack && is_part(stored, &told)) {
                wrong.push(format!("of run {run} is stored {stored:?}, it told {told:?}"));
            }
        }
        let known: BTreeSet<&String> = stored.keys().collect();
        if !moves && !stale.contains(task) {
            let of_task = runs_of(entries, task);
            let lost = of_task.iter().filter(|run| told.contains_key(*run) && !known.contains(run));
            wrong.extend(lost.map(|run| format!("nothing of run {run} is stored")));
        }
    }
    wrong
}

fn runs_of(entries: &[Entry], task: &str) -> BTreeSet<String> {
    let born = entries.iter().filter_map(|entry| match &entry.fact {
        Fact::Born(_, of, run) if of == task => Some(run.clone()),
        _ => None,
    });
    born.collect()
}

/// Whether `part` is some of `whole`, in order.
fn is_part(part: &[Told], whole: &[Told]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|one| rest.any(|other| other == one))
}

fn whole_stream(task: &str, events: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut status: Option<String> = None;
    for (n, event) in events.iter().enumerate() {
        if event["seq"].as_u64() != Some(n as u64) {
            wrong.push(format!("event {n} of task {task} has the number {}", event["seq"]));
        }
        if event["type"] == "task.status_changed" {
            let old = event["payload"]["oldStatus"].as_str().map(str::to_owned);
            if status.is_some() && status != old {
                wrong.push(format!("task {task} was {status:?} and then {old:?}"));
            }
            status = event["payload"]["newStatus"].as_str().map(str::to_owned);
        }
    }
    wrong
}
