//! The merge commands of one task, each answered in the words of the wire.

use super::{CommitArgs, ResolveArgs, SkipArgs, StartArgs, branch_meant};
use crate::cli::context::Context;
use crate::cli::print::escape::line;
use crate::cli::print::table::{Table, fixed, flexible};
use crate::cli::print::tone::Tone;
use crate::cli::print::words::count;
use crate::cli::typed::Typed;
use crate::client::read;
use crate::exit::{End, Outcome};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::merge::{MergeCommitBody, MergeResolveBody, MergeSkipBody, MergeStartBody};
use hayward_shared::protocol::{BranchInfo, FromDaemon};
use serde::Serialize;
use serde_json::Value;

/// Lists the branches that can be merged.
pub(super) async fn branches(id: &Typed, context: &Context) -> Outcome {
    let raw = ask(id, "branches", context).await?;
    if context.out.json() {
        context.out.value(&raw)?;
        return Ok(End::Done);
    }
    let FromDaemon::BranchList { branches, .. } = answer(&raw)? else { return Err(odd()) };
    if branches.is_empty() {
        context.out.note(Tone::Dim, "no other branch of an agent is there");
        return Ok(End::Done);
    }
    let columns =
        [flexible("BRANCH"), fixed("TASK"), fixed("MERGED"), fixed("TIP"), flexible("SUBJECT")];
    let mut table = Table::new(&columns);
    for BranchInfo { name, task_id, is_merged, last_commit, last_commit_message } in branches {
        let (merged, tone) = if is_merged { ("yes", Tone::Good) } else { ("no", Tone::Plain) };
        table.toned([
            (name, Tone::Plain),
            (task_id.map_or_else(|| "-".to_owned(), |id| id.short()), Tone::Plain),
            (merged.to_owned(), tone),
            (last_commit, Tone::Dim),
            (last_commit_message, Tone::Plain),
        ]);
    }
    context.out.table(&table)?;
    Ok(End::Done)
}

/// Shows whether a merge waits.
pub(super) async fn status(id: &Typed, context: &Context) -> Outcome {
    let raw = ask(id, "status", context).await?;
    if context.out.json() {
        context.out.value(&raw)?;
        return Ok(End::Done);
    }
    let FromDaemon::MergeStatusResponse { in_progress, source_branch, conflicted_files, .. } =
        answer(&raw)?
    else {
        return Err(odd());
    };
    if !in_progress {
        context.out.line(Tone::Plain, "no merge is under way")?;
        return Ok(End::Done);
    }
    let source = line(&source_branch.unwrap_or_default());
    let left = count(conflicted_files.len() as u64, "file");
    context.out.line(Tone::Plain, &format!("merging {source}: {left} in conflict"))?;
    list(&conflicted_files, context)?;
    Ok(End::Done)
}

/// Says whether every part is merged or skipped.
pub(super) async fn check(id: &Typed, context: &Context) -> Outcome {
    let raw = ask(id, "check", context).await?;
    tally(&raw, context)
}

/// Merges a branch into a task's own.
pub(super) async fn start(args: StartArgs, context: &Context) -> Outcome {
    let source_branch = branch_meant(&context.client()?, &args.branch).await?;
    let raw = act(&args.id, "start", &MergeStartBody { source_branch }, context).await?;
    result(&raw, context)
}

/// Settles a file.
pub(super) async fn resolve(args: ResolveArgs, context: &Context) -> Outcome {
    let body = MergeResolveBody { file: args.file, strategy: args.side };
    result(&act(&args.id, "resolve", &body, context).await?, context)
}

/// Commits a merge.
pub(super) async fn commit(args: CommitArgs, context: &Context) -> Outcome {
    let body = MergeCommitBody { message: args.message };
    result(&act(&args.id, "commit", &body, context).await?, context)
}

/// Gives a merge up.
pub(super) async fn abort(id: &Typed, context: &Context) -> Outcome {
    result(&act(id, "abort", &serde_json::json!({}), context).await?, context)
}

/// Leaves a part out.
pub(super) async fn skip(args: SkipArgs, context: &Context) -> Outcome {
    let body = MergeSkipBody { subtask_id: args.subtask.task()?, reason: args.reason };
    tally(&act(&args.id, "skip", &body, context).await?, context)
}

async fn ask(id: &Typed, what: &str, context: &Context) -> Result<Value, Fault> {
    context.client()?.get(&["api", "v1", "tasks", &id.task()?, "merge", what], &[]).await
}

async fn act<B: Serialize + Sync>(
    id: &Typed,
    what: &str,
    body: &B,
    context: &Context,
) -> Result<Value, Fault> {
    let path = ["api", "v1", "tasks", &id.task()?, "merge", what];
    context.client()?.post_patiently(&path, body).await
}

fn answer(raw: &Value) -> Result<FromDaemon, Fault> {
    read(raw)
}

fn odd() -> Fault {
    Fault::new(Code::Incompatible, "the daemon answered with something else")
}

fn result(raw: &Value, context: &Context) -> Outcome {
    let FromDaemon::MergeResult { success, message, commit_sha, conflicts, .. } = answer(raw)?
    else {
        return Err(odd());
    };
    let end = if success { End::Done } else { End::Conflicting };
    if context.out.json() {
        context.out.value(raw)?;
        return Ok(end);
    }
    let at = commit_sha.as_deref().and_then(|sha| sha.get(..8));
    let text = match at {
        Some(at) => format!("{} at {at}", line(&message)),
        None => line(&message),
    };
    context.out.line(if success { Tone::Good } else { Tone::Warn }, &text)?;
    if !success {
        list(&conflicts.unwrap_or_default(), context)?;
    }
    Ok(end)
}

fn list(files: &[String], context: &Context) -> Result<(), Fault> {
    files.iter().try_for_each(|file| context.out.line(Tone::Plain, &format!("  {}", line(file))))
}

fn tally(raw: &Value, context: &Context) -> Outcome {
    if context.out.json() {
        context.out.value(raw)?;
        return Ok(End::Done);
    }
    let FromDaemon::MergeCompleteCheck {
        can_complete,
        unmerged_branches,
        merged_count,
        skipped_count,
        ..
    } = answer(raw)?
    else {
        return Err(odd());
    };
    let (merged, skipped) = (count(merged_count.into(), "part"), skipped_count);
    let stands = format!("{merged} merged, {skipped} skipped, {} left", unmerged_branches.len());
    context.out.line(if can_complete { Tone::Good } else { Tone::Warn }, &stands)?;
    list(&unmerged_branches, context)?;
    Ok(End::Done)
}
