//! What is said of a task that has ended.

use crate::cli::print::escape::line;
use crate::cli::print::tone::Tone;
use crate::cli::print::words::{count, elapsed, quoted, short};
use hayward_shared::task::{Outcome, Status, Task};

/// A line and its tone.
type Line = (Tone, String);

/// Whether it ended well without a change.
fn changed_nothing(task: &Task) -> bool {
    task.status == Status::Completed && task.results.outcome == Some(Outcome::NoChanges)
}

/// How it ended, in one line: `task deadbeef failed (agent_exit) after 0:03: exit code 3`.
pub(crate) fn headline(task: &Task) -> String {
    let mut text = format!("task {} {}", task.id.short(), task.status);
    if let Some(reason) = task.reason {
        text.push_str(&format!(" ({reason})"));
    }
    if let (Some(from), Some(to)) = (task.started_at, task.completed_at) {
        let word = if task.status == Status::Completed { "in" } else { "after" };
        text.push_str(&format!(" {word} {}", elapsed(to.since(from))));
    }
    let usage = &task.results.usage;
    let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
    if tokens > 0 {
        text.push_str(&format!(", {} tokens", short(tokens)));
    }
    if let Some(message) = &task.results.error_message {
        text.push_str(&format!(": {}", line(message)));
    }
    text
}

/// How it ended, as bad news is told: nothing when it ended well.
pub(crate) fn bad_news(task: &Task) -> Option<Line> {
    if task.status != Status::Completed {
        return Some((Tone::Bad, headline(task)));
    }
    changed_nothing(task).then(|| (Tone::Warn, format!("task {} changed nothing", task.id.short())))
}

/// What it brought and what to type next; how it ended only where that is good news. `place` is
/// its worktree.
pub(crate) fn lines(task: &Task, place: Option<&str>, brief: bool) -> Vec<Line> {
    let mut lines = Vec::new();
    if task.status == Status::Completed {
        lines.push((Tone::Good, headline(task)));
    }
    let results = &task.results;
    if let Some(branch) = &results.branch {
        let stat = results.diff_stat.map_or_else(String::new, |stat| {
            let files = count(stat.files, "file");
            format!("  ({files}, +{} -{})", stat.insertions, stat.deletions)
        });
        lines.push((Tone::Plain, format!("  branch    {}{stat}", line(branch))));
    } else if let (Some(place), false) = (place, changed_nothing(task)) {
        lines.push((Tone::Plain, format!("  worktree  {}", line(place))));
    }
    for withheld in &results.withheld_files {
        let text = format!("  withheld  {}: {}", line(&withheld.path), line(&withheld.why));
        lines.push((Tone::Warn, text));
    }
    if !brief {
        lines.extend(next(task).into_iter().map(|text| (Tone::Dim, format!("  next      {text}"))));
    }
    lines
}

/// The commands that come next.
fn next(task: &Task) -> Vec<String> {
    let id = task.id.short();
    match (task.status, &task.results.branch) {
        (Status::Completed, Some(branch)) => {
            let base = task.order.base_branch.as_ref().or(task.order.base_commit.as_ref());
            let base = base.map_or("HEAD", String::as_str);
            let range = format!("{base}...{branch}");
            [&["git", "diff", &range][..], &["git", "merge", branch]]
                .iter()
                .map(|words| line(&quoted(words)))
                .collect()
        }
        (Status::Completed, None) => Vec::new(),
        _ => vec![format!("hayward logs {id}"), format!("hayward task retry {id}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use hayward_shared::task::{DiffStat, Reason, Usage, WithheldFile};
    use hayward_shared::time::Timestamp;

    fn text(task: &Task, place: Option<&str>) -> String {
        let lines = lines(task, place, false);
        lines.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_branch_comes_with_what_to_type_next() {
        let mut task = sample::task(Status::Completed);
        task.started_at = Some(Timestamp::from_millis(0));
        task.completed_at = Some(Timestamp::from_millis(42_000));
        task.order.base_branch = Some("main".into());
        task.results.outcome = Some(Outcome::Delivered);
        task.results.branch = Some("hayward/fix-it-deadbeef".into());
        task.results.diff_stat = Some(DiffStat { files: 2, insertions: 10, deletions: 3 });
        task.results.withheld_files =
            vec![WithheldFile { path: ".env".into(), why: "may hold secrets".into() }];
        task.results.usage = Usage { input_tokens: 1_200, output_tokens: 300, ..Usage::default() };
        let expected = "task deadbeef completed in 0:42, 1.5k tokens\n  \
            branch    hayward/fix-it-deadbeef  (2 files, +10 -3)\n  \
            withheld  .env: may hold secrets\n  \
            next      git diff main...hayward/fix-it-deadbeef\n  \
            next      git merge hayward/fix-it-deadbeef";
        assert_eq!(text(&task, None), expected);
    }

    #[test]
    fn a_failure_says_why_and_how_to_look() {
        let mut task = sample::task(Status::Failed);
        task.reason = Some(Reason::AgentExit);
        task.started_at = Some(Timestamp::from_millis(0));
        task.completed_at = Some(Timestamp::from_millis(3_000));
        task.results.error_message = Some("exit code 3\x1b]0;x\x07".into());
        let (_, news) = bad_news(&task).unwrap();
        assert_eq!(news, "task deadbeef failed (agent_exit) after 0:03: exit code 3");
        let expected = "  worktree  /w\n  next      hayward logs deadbeef\n  \
            next      hayward task retry deadbeef";
        assert_eq!(text(&task, Some("/w")), expected);
    }

    #[test]
    fn no_changes_is_seen() {
        let mut task = sample::task(Status::Completed);
        task.results.outcome = Some(Outcome::NoChanges);
        assert_eq!(bad_news(&task).unwrap().1, "task deadbeef changed nothing");
        assert_eq!(text(&task, Some("/w")), "task deadbeef completed");
        task.results.outcome = Some(Outcome::Delivered);
        assert_eq!(text(&task, Some("/w")), "task deadbeef completed\n  worktree  /w");
    }
}
