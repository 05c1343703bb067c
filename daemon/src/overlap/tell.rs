//! What is new about a pair, told to the relay and to both agents.

use super::Overlap;
use super::index::Announcement;
use super::note::{Sibling, text};
use crate::git::overlap::Clash;
use crate::kept::Kept;
use crate::task::{Board, Command, LivePlace, Notice, Words};
use hayward_shared::event::{Kind, MAX_TEXT, bounded};
use hayward_shared::git::Verdict;
use hayward_shared::id::TaskId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// The most files that one event names: the relay takes 32 KiB of a payload.
const MOST_FILES: usize = 40;

/// The most bytes of a path in an event.
const MOST_PATH: usize = 300;

/// Tells all that comes out of the room, through the tasks' own runs; with `notes` the agents too.
pub fn teller(
    board: Board,
    overlap: Overlap,
    places: watch::Receiver<BTreeMap<TaskId, LivePlace>>,
    mut announcements: mpsc::Receiver<Announcement>,
    notes: bool,
) -> Kept {
    Kept::of(tokio::spawn(async move {
        while let Some(said) = announcements.recv().await {
            let report = overlap.report(Some(said.tasks.0)).await;
            let verdicts = report.map(|report| report.verdicts).unwrap_or_default();
            let payload = conflict(&said, &verdicts);
            for (task, sibling) in [said.tasks, (said.tasks.1, said.tasks.0)] {
                let event =
                    Notice { kind: Kind::WorktreeConflict, payload: payload.clone(), words: None };
                inform(&board, task, event).await;
                let live = places.borrow().get(&sibling).cloned();
                if let Some(live) = live.filter(|_| notes && said.note) {
                    let sibling = Told {
                        task: sibling,
                        sibling: Sibling {
                            id: sibling.short(),
                            name: live.name,
                            status: "running".to_owned(),
                            progress: None,
                            files: said.clashes.iter().map(in_words).collect(),
                        },
                    };
                    inform(&board, task, notice(Uuid::now_v7(), &sibling)).await;
                }
            }
        }
    }))
}

/// A sibling, and which task it is.
struct Told {
    task: TaskId,
    sibling: Sibling,
}

/// What `injectSiblingContext` asks to be told. `id` names the message: told twice, it is heard
/// once.
#[must_use]
pub fn sibling_notice(id: Uuid, task: TaskId, sibling: Sibling) -> Notice {
    notice(id, &Told { task, sibling })
}

fn notice(id: Uuid, told: &Told) -> Notice {
    let Told { task, sibling } = told;
    let short = |words: &str| bounded(words, MOST_PATH).0.to_owned();
    let files: Vec<_> = sibling.files.iter().take(MOST_FILES).map(|file| short(file)).collect();
    let nonce = Uuid::new_v4().simple().to_string();
    Notice {
        kind: Kind::SiblingNote,
        payload: json!({
            "siblingTaskId": task,
            "siblingName": short(&sibling.name),
            "siblingStatus": short(&sibling.status),
            "progressSummary": sibling.progress.as_deref().map(|said| bounded(said, MAX_TEXT / 4).0),
            "changedFiles": files,
        }),
        words: Some(Words { id, text: text(&nonce, sibling) }),
    }
}

/// The order is carried out as a whole or the run has ended; either way there is nothing to do.
async fn inform(board: &Board, task: TaskId, notice: Notice) {
    if let Ok(Err(fault)) = board.command(task, Command::Inform(notice)).await.await {
        tracing::debug!(%task, %fault, "its run has ended and is told nothing");
    }
}

fn conflict(said: &Announcement, verdicts: &[Verdict]) -> Value {
    let path = |clash: &Clash| bounded(&clash.path.to_string_lossy(), MOST_PATH).0.to_owned();
    let mut clashes: Vec<&Clash> = said.clashes.iter().collect();
    clashes.sort_by_key(|clash| std::cmp::Reverse((clash.conflict, clash.severity)));
    let file = |clash: &&Clash| {
        let lines = verdicts.iter().find(|one| one.file_path == clash.path.to_string_lossy());
        let lines = lines.map_or(&[][..], |one| &one.ranges);
        let ranges: Vec<_> = lines
            .iter()
            .filter(|one| one.task_id == said.tasks.0 || one.task_id == said.tasks.1)
            .map(|one| json!({ "taskId": one.task_id, "lines": one.lines.iter().take(8).collect::<Vec<_>>() }))
            .collect();
        json!({
            "filePath": path(clash),
            "severity": clash.severity,
            "conflict": clash.conflict,
            "ranges": ranges,
        })
    };
    let gravest = bounded(&said.gravest.to_string_lossy(), MOST_PATH).0.to_owned();
    json!({
        "filePath": gravest,
        "severity": clashes.first().map_or("none", |clash| clash.severity.name()),
        "tasks": [said.tasks.0, said.tasks.1],
        "conflict": clashes.first().is_some_and(|clash| clash.conflict),
        "files": clashes.iter().take(MOST_FILES).map(file).collect::<Vec<_>>(),
        "truncated": clashes.len() > MOST_FILES,
    })
}

fn in_words(clash: &Clash) -> String {
    let near = match clash.severity {
        hayward_shared::git::Severity::SameLine => "the same lines",
        hayward_shared::git::Severity::AdjacentLine => "neighbouring lines",
        hayward_shared::git::Severity::DifferentArea => "other lines",
    };
    let merge = if clash.conflict { "; merging both as they are now would conflict" } else { "" };
    format!("{} ({near} as you{merge})", clash.path.display())
}
