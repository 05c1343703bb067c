//! `hayward task ls`.

use super::ListArgs;
use crate::cli::context::Context;
use crate::cli::print::table::{Table, fixed, flexible};
use crate::cli::print::tone::{Tone, of_status};
use crate::cli::print::words::age;
use crate::client::{Doc, Filter};
use crate::exit::{End, Outcome};
use hayward_daemon::clock;
use hayward_shared::id::TaskId;
use hayward_shared::task::{Status, Task};
use hayward_shared::time::Timestamp;
use serde_json::json;
use std::collections::HashMap;

/// Lists tasks.
pub(super) async fn run(args: ListArgs, context: &Context) -> Outcome {
    let whole = args.parent.is_none() && args.labels.is_empty();
    let filter = Filter {
        status: args.status.map(|status| status.name().to_owned()),
        parent: args.parent.map(|parent| parent.task()).transpose()?,
        labels: args.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
    };
    let tasks = context.ask(async |client| client.tasks(&filter).await).await?;
    if context.out.json() {
        let rows: Vec<_> = tasks.iter().map(|task| &task.raw).collect();
        context.out.value(&json!({ "tasks": rows }))?;
    } else if tasks.is_empty() {
        context.out.note(Tone::Dim, "no tasks");
    } else {
        let places = if whole { line_up(&tasks) } else { HashMap::new() };
        context.out.table(&table(&tasks, &places, clock::now()))?;
    }
    Ok(End::Done)
}

/// The place of each queued task in the line: higher priority first, then the older.
fn line_up(tasks: &[Doc<Task>]) -> HashMap<TaskId, usize> {
    let mut queued: Vec<_> =
        tasks.iter().map(|task| &task.body).filter(|task| task.status == Status::Queued).collect();
    queued.sort_by_key(|task| (-task.order.priority, task.created_at, task.id));
    queued.iter().enumerate().map(|(index, task)| (task.id, index + 1)).collect()
}

fn table(tasks: &[Doc<Task>], places: &HashMap<TaskId, usize>, now: Timestamp) -> Table {
    let mut table = Table::new(&[
        fixed("ID"),
        fixed("STATUS"),
        fixed("REASON"),
        fixed("AGE"),
        flexible("NAME"),
        flexible("BRANCH"),
    ]);
    for Doc { body: task, .. } in tasks {
        table.toned([
            (task.id.short(), Tone::Plain),
            (task.status.name().to_owned(), of_status(task.status)),
            (why(task, places, now), Tone::Plain),
            (age(now.since(task.created_at)), Tone::Dim),
            (task.order.name.clone(), Tone::Plain),
            (task.results.branch.clone().unwrap_or_default(), Tone::Plain),
        ]);
    }
    table
}

/// Why a task stands where it stands.
fn why(task: &Task, places: &HashMap<TaskId, usize>, now: Timestamp) -> String {
    if let Some(place) = places.get(&task.id) {
        return format!("{place}. in line");
    }
    let due = task.holding.next_retry_at.filter(|_| task.status == Status::Deferred);
    match (task.reason, due) {
        (Some(reason), Some(due)) => format!("{reason}, again in {}", age(due.since(now))),
        (None, Some(due)) => format!("again in {}", age(due.since(now))),
        (Some(reason), None) => reason.name().to_owned(),
        (None, None) => task.results.outcome.map_or_else(String::new, |outcome| {
            json!(outcome).as_str().unwrap_or_default().to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use hayward_shared::task::{Outcome, Reason};

    fn doc(task: Task) -> Doc<Task> {
        Doc { raw: json!(task), body: task }
    }

    #[test]
    fn the_line_goes_by_priority_then_age() {
        let mut tasks: Vec<_> = (0..3).map(|_| sample::task(Status::Queued)).collect();
        for (index, task) in tasks.iter_mut().enumerate() {
            task.id = TaskId::fresh();
            task.created_at = Timestamp::from_millis(i64::try_from(index).unwrap());
        }
        tasks[2].order.priority = 5;
        let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
        let places = line_up(&tasks.into_iter().map(doc).collect::<Vec<_>>());
        assert_eq!(ids.iter().map(|id| places[id]).collect::<Vec<_>>(), [2, 3, 1]);
    }

    #[test]
    fn queue_and_reasons_are_seen() {
        let now = Timestamp::from_millis(60_000);
        let queued = sample::task(Status::Queued);
        let mut failed = sample::task(Status::Failed);
        failed.id = TaskId::fresh();
        failed.reason = Some(Reason::AgentExit);
        let mut deferred = sample::task(Status::Deferred);
        deferred.id = TaskId::fresh();
        deferred.reason = Some(Reason::ProviderOverloaded);
        deferred.holding.next_retry_at = Some(now.plus_millis(5_000));
        let mut done = sample::task(Status::Completed);
        done.id = TaskId::fresh();
        done.results.outcome = Some(Outcome::Delivered);
        done.results.branch = Some("hayward/fix-it-deadbeef".into());
        let tasks: Vec<_> = [queued, failed, deferred, done].into_iter().map(doc).collect();
        let text = table(&tasks, &line_up(&tasks), now).render(None, false);
        for expected in [
            "1. in line",
            "agent_exit",
            "provider_overloaded, again in 5s",
            "delivered",
            "hayward/fix-it-deadbeef",
            "1m",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }
}
