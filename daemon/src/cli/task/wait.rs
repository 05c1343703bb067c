//! `hayward task wait`.

use super::WaitArgs;
use crate::cli::context::Context;
use crate::cli::print::tone::{Tone, of_status};
use crate::cli::run::{summary, verdict};
use crate::client::{Doc, Followed, Follower};
use crate::exit::Outcome;
use hayward_shared::event::{Envelope, Kind, StatusChanged, task_stream};
use hayward_shared::fault::Fault;
use hayward_shared::id::TaskId;
use hayward_shared::task::{Status, Task};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;

/// Waits until the tasks have ended, or the time is up.
pub(super) async fn run(args: WaitArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let mut ids = Vec::new();
    let mut open = BTreeSet::new();
    for typed in &args.ids {
        let task = client.task(&typed.task()?).await?.body;
        if !ids.contains(&task.id) {
            ids.push(task.id);
        }
        if !task.status.is_final() {
            open.insert(task.id);
        }
    }
    let waiting = ended(open, context);
    let in_time = match args.timeout {
        Some(seconds) => timeout(Duration::from_secs(seconds), waiting).await.ok().transpose()?,
        None => Some(waiting.await?),
    };
    let mut tasks = Vec::new();
    for id in ids {
        tasks.push(client.task_patiently(id).await?);
    }
    print(&tasks, context)?;
    if in_time.is_none() {
        let late = tasks.iter().filter(|task| !task.body.status.is_final()).count();
        context.out.say(Tone::Warn, &format!("{late} of {} did not end in time", tasks.len()));
    }
    Ok(verdict(&tasks))
}

/// Follows the tasks until each has ended.
async fn ended(mut open: BTreeSet<TaskId>, context: &Context) -> Result<(), Fault> {
    if open.is_empty() {
        return Ok(());
    }
    let streams: BTreeMap<_, _> = open.iter().map(|id| (task_stream(*id), None)).collect();
    let mut follower = Follower::start(context.finder()?, streams);
    while !open.is_empty() {
        match follower.next().await? {
            Followed::Event(event) => {
                if is_end(&event) {
                    open.retain(|id| task_stream(*id) != event.stream);
                }
            }
            Followed::Lost(fault) => {
                context.out.note(Tone::Warn, &format!("{fault}; trying again"));
            }
            Followed::Back => context.out.note(Tone::Dim, "the relay is back"),
        }
    }
    Ok(())
}

/// Whether nothing follows this event that changes how the task ended. A snapshot tells the
/// status as it stands.
pub(crate) fn is_end(event: &Envelope) -> bool {
    let status = match event.kind {
        Kind::TaskStatusChanged => {
            StatusChanged::deserialize(&event.payload).ok().map(|change| change.new_status)
        }
        Kind::StreamReset => {
            event.payload.get("status").and_then(|status| Status::deserialize(status).ok())
        }
        _ => None,
    };
    status.is_some_and(Status::is_final)
}

fn print(tasks: &[Doc<Task>], context: &Context) -> Result<(), Fault> {
    if context.out.json() {
        let rows: Vec<_> = tasks.iter().map(|task| &task.raw).collect();
        return context.out.value(&json!({ "tasks": rows }));
    }
    for task in tasks {
        context.out.line(of_status(task.body.status), &summary::headline(&task.body))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use crate::exit::End;

    #[test]
    fn a_final_status_is_the_end_and_a_snapshot_tells_it_too() {
        let change = |status: &str| json!({ "oldStatus": "running", "newStatus": status });
        assert!(is_end(&sample::told(Kind::TaskStatusChanged, change("failed"))));
        assert!(!is_end(&sample::told(Kind::TaskStatusChanged, change("waiting"))));
        assert!(is_end(&sample::told(Kind::StreamReset, json!({ "status": "cancelled" }))));
        assert!(!is_end(&sample::told(Kind::SessionExited, json!({ "exitCode": 0 }))));
    }

    #[test]
    fn only_completed_tasks_are_well_ended() {
        let doc = |status| {
            let task = sample::task(status);
            Doc { raw: json!(task), body: task }
        };
        assert_eq!(verdict(&[doc(Status::Completed)]), End::Done);
        assert_eq!(verdict(&[doc(Status::Completed), doc(Status::Running)]), End::NotCompleted);
    }
}
