//! What a merge would bring.

use super::{PreviewArgs, branch_meant, task_named};
use crate::cli::context::Context;
use crate::cli::print::escape::line;
use crate::cli::print::tone::Tone;
use crate::cli::print::words::count;
use crate::cli::run::repository::around;
use crate::client::{Client, read};
use crate::exit::{End, Outcome};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::merge::{MergePreview, Relation};
use serde_json::Value;

/// Previews a task's branch, or any other.
pub(super) async fn run(args: PreviewArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let target = match &args.target {
        Some(target) => Some(branch_meant(&client, target).await?),
        None => None,
    };
    let task = match &args.repo {
        None => task_named(&client, &args.source).await?,
        Some(_) => None,
    };
    let raw = match task {
        Some(task) => {
            let id = task.body.id.to_string();
            let query: Vec<_> = target.map(|target| ("target", target)).into_iter().collect();
            client.get_patiently(&["api", "v1", "tasks", &id, "merge", "preview"], &query).await?
        }
        None => in_repository(&args, target, &client, context).await?,
    };
    if context.out.json() {
        context.out.value(&raw)?;
    } else {
        show(&read(&raw)?, context)?;
    }
    Ok(End::Done)
}

/// Asks the daemon of this machine, where the repository is.
async fn in_repository(
    args: &PreviewArgs,
    target: Option<String>,
    client: &Client,
    context: &Context,
) -> Result<Value, Fault> {
    let repository = around(args.repo.as_deref()).map_err(|fault| match &args.repo {
        Some(_) => fault,
        // without a repository around, the word can only have been meant as a task
        None => Fault::not_found("task or branch", format!("'{}'", args.source))
            .with_hint("hayward task ls shows the tasks; --repo PATH names a repository"),
    })?;
    let source = branch_meant(client, &args.source).await?;
    let running = context.finder()?.running()?.ok_or_else(|| {
        Fault::new(Code::DaemonOffline, "no daemon runs on this machine to look at its repository")
            .with_hint("start it: hayward up")
    })?;
    let mut query = vec![("repository", repository), ("source", source)];
    query.extend(target.map(|target| ("target", target)));
    let path = ["api", "v1", "daemons", &running.daemon_id, "merge", "preview"];
    client.get_patiently(&path, &query).await
}

fn show(preview: &MergePreview, context: &Context) -> Result<(), Fault> {
    let (source, target) = (line(&preview.source), line(&preview.target));
    let (tone, text) = match (preview.relation, preview.can_merge) {
        (Relation::Identical, _) => (Tone::Dim, format!("{source} and {target} are the same")),
        (Relation::AlreadyMerged, _) => (Tone::Dim, format!("{target} has all of {source}")),
        (Relation::FastForward, _) => {
            (Tone::Good, format!("{target} would move forward to {source}"))
        }
        (Relation::Diverged, true) => {
            (Tone::Good, format!("{source} merges into {target} without a conflict"))
        }
        (Relation::Diverged, false) => {
            let files = count(preview.conflicts.len() as u64, "file");
            (Tone::Warn, format!("{source} would conflict with {target} in {files}"))
        }
    };
    context.out.line(tone, &text)?;
    for conflict in &preview.conflicts {
        let by = conflict.deleted_by.map(|side| format!(" (deleted by {side})"));
        let (path, kind) = (line(&conflict.path), conflict.kind.words());
        context.out.line(Tone::Plain, &format!("  {path}: {kind}{}", by.unwrap_or_default()))?;
    }
    let stat = &preview.stat;
    if stat.files > 0 {
        let files = count(stat.files, "file");
        let text = format!("{files} would change, +{} -{}", stat.insertions, stat.deletions);
        context.out.line(Tone::Plain, &text)?;
    }
    Ok(())
}
