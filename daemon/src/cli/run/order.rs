//! From the command line to orders.

use super::repository::Base;
use super::{On, RunArgs};
use crate::cli::print::words::quoted;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, TaskId};
use hayward_shared::task::Order;
use std::io::Read;
use std::path::Path;

/// The largest prompt that a relay takes.
const MAX_PROMPT: u64 = 512 * 1024;

/// The characters of a name that is made from a prompt.
const NAME: usize = 50;

/// What the command line names, found.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The repository and the commit to start from.
    pub(super) base: Base,
    /// The daemon that is to run it.
    pub(super) daemon: Option<DaemonId>,
    /// The task whose part it is.
    pub(super) parent: Option<TaskId>,
    /// The task whose worktree it goes on in.
    pub(super) go_on: Option<TaskId>,
}

/// Reads `K=V`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is no label: write KEY=VALUE")),
    }
}

/// What is to be done, from whichever source the command line names.
pub(super) fn prompt(args: &RunArgs) -> Result<String, Fault> {
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => read(file)?,
        (None, None) if !args.command.is_empty() => quoted(&args.command),
        (None, None) => {
            return Err(Fault::new(Code::Usage, "nothing to do: give a prompt or a command")
                .with_hint("hayward run \"fix the failing test\", or hayward run -- make fmt"));
        }
    };
    if text.trim().is_empty() {
        return Err(Fault::new(Code::Usage, "nothing to do: the prompt is empty"));
    }
    if text.len() as u64 > MAX_PROMPT {
        return Err(Fault::new(Code::TooLarge, "the prompt is larger than 512 KiB"));
    }
    Ok(text)
}

fn read(file: &Path) -> Result<String, Fault> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_PROMPT + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .and_then(|open| open.take(MAX_PROMPT + 1).read_to_string(&mut text))
    };
    let cannot = |error: std::io::Error| {
        Fault::new(Code::Usage, format!("cannot read the prompt from {}: {error}", file.display()))
    };
    read.map_err(cannot)?;
    Ok(text)
}

/// Refuses work that would have nowhere to go: that is known before an agent works.
pub(super) fn has_an_aim(args: &RunArgs, base: &Base) -> Result<(), Fault> {
    let goes = matches!(args.on, On::Merge | On::Pr);
    if !goes || args.target.is_some() || base.is_branch {
        return Ok(());
    }
    let name = base.name.as_deref().unwrap_or("HEAD");
    let text = format!("the work begins from {name}, which is no branch that it could go to");
    Err(Fault::new(Code::Usage, text).with_hint("say where it goes: --target BRANCH"))
}

/// The orders, all alike but for the numbers in their names.
pub(super) fn orders(args: &RunArgs, plan: String, place: &Place) -> Vec<Order> {
    let order = Order {
        name: args.name.clone().unwrap_or_default(),
        command: args.command.clone(),
        agent: match args.command.is_empty() {
            true => args.agent.clone(),
            false => Some("command".to_owned()),
        },
        priority: args.priority,
        parent_task_id: place.parent,
        labels: args.labels.iter().cloned().collect(),
        repository_url: Some(place.base.root.clone()),
        base_branch: place.base.name.clone(),
        // what is continued says where it stands
        base_commit: place.base.commit.clone().filter(|_| place.go_on.is_none()),
        target_branch: args.target.clone(),
        completion_action: args.on.into(),
        max_attempts: args.max_attempts,
        timeout_seconds: args.timeout,
        budget: args.budget.read(),
        requeue_after: args.requeue_after,
        require_changes: args.require_changes,
        requires: args.requires.iter().cloned().collect(),
        wanted_daemon_id: place.daemon,
        continue_from_task_id: place.go_on,
        copy_files: args.copies.clone(),
        plan,
        ..Order::default()
    };
    if args.count == 1 {
        return vec![order];
    }
    let name = if order.name.is_empty() { name_of(&order.plan) } else { order.name.clone() };
    let numbered =
        |number| Order { name: format!("{name} {number}/{}", args.count), ..order.clone() };
    (1..=args.count).map(numbered).collect()
}

/// A name from the first line of a plan.
fn name_of(plan: &str) -> String {
    let first = plan.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("task");
    let name: String = first.chars().filter(|c| !c.is_control()).take(NAME).collect();
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use hayward_shared::task::CompletionAction;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
        Line::try_parse_from([&["run"], words].concat()).map(|line| line.args)
    }

    fn place() -> Place {
        let base = Base {
            root: "/repo".into(),
            name: Some("main".into()),
            commit: Some("c0ffee".into()),
            is_branch: true,
        };
        Place { base, daemon: Some(DaemonId::fresh()), parent: None, go_on: None }
    }

    fn ordered(words: &[&str]) -> Vec<Order> {
        let args = parse(words).unwrap();
        let plan = prompt(&args).unwrap();
        orders(&args, plan, &place())
    }

    #[test]
    fn a_prompt_becomes_an_order() {
        let words = [
            "--agent",
            "claude",
            "--on",
            "none",
            "--label",
            "a=b=c",
            "--label",
            "d=",
            "--copy",
            ".env",
            "--copy",
            "x",
            "--priority",
            "-5",
            "--timeout",
            "90",
            "--max-attempts",
            "3",
            "--requeue-after",
            "5",
            "--require-changes",
            "--require",
            "gpu=a100",
            "--max-tokens",
            "5000",
            "--max-cost",
            "2.5",
            "--max-time",
            "2h",
            "fix it",
        ];
        let [order] = ordered(&words).try_into().unwrap();
        assert_eq!((order.plan.as_str(), order.name.as_str()), ("fix it", ""));
        assert_eq!(order.agent.as_deref(), Some("claude"));
        assert_eq!(order.completion_action, CompletionAction::None);
        assert_eq!((order.labels["a"].as_str(), order.labels["d"].as_str()), ("b=c", ""));
        assert_eq!(order.requires["gpu"], "a100");
        assert_eq!(order.copy_files, [".env", "x"]);
        assert_eq!((order.priority, order.timeout_seconds, order.max_attempts), (-5, Some(90), 3));
        assert_eq!(order.requeue_after, Some(5));
        let budget = order.budget.unwrap();
        assert_eq!((budget.max_tokens, budget.max_seconds), (Some(5_000), Some(7_200)));
        assert_eq!(budget.max_cost_usd.unwrap().to_string(), "$2.50");
        assert!(order.require_changes && order.wanted_daemon_id.is_some());
        assert_eq!(order.base_commit.as_deref(), Some("c0ffee"));
    }

    #[test]
    fn a_command_becomes_an_order_of_the_command_agent() {
        let [order] = ordered(&["--", "sh", "-c", "echo hi > hi.txt"]).try_into().unwrap();
        assert_eq!(order.plan, "sh -c 'echo hi > hi.txt'");
        assert_eq!(order.command, ["sh", "-c", "echo hi > hi.txt"]);
        assert_eq!(order.agent.as_deref(), Some("command"));
        assert_eq!(order.completion_action, CompletionAction::Branch);
    }

    #[test]
    fn several_are_numbered() {
        let names: Vec<_> = ordered(&["--count", "2", "--name", "try", "x"])
            .into_iter()
            .map(|order| order.name)
            .collect();
        assert_eq!(names, ["try 1/2", "try 2/2"]);
        assert_eq!(ordered(&["--count", "2", "\n fix\tit \nnow"])[1].name, "fixit 2/2");
    }

    #[test]
    fn contradictions_and_nothing_are_refused() {
        assert!(parse(&["prompt", "--", "command"]).is_err());
        assert!(parse(&["prompt", "--prompt-file", "f"]).is_err());
        assert!(parse(&["--agent", "claude", "--", "command"]).is_err());
        assert!(parse(&["--max-attempts", "0", "x"]).is_err());
        assert!(parse(&["--requeue-after", "0", "x"]).is_err());
        for wrong in [["--max-tokens", "0"], ["--max-cost", "0"], ["--max-time", "0"]] {
            assert!(parse(&[&wrong[..], &["x"]].concat()).is_err(), "{wrong:?}");
        }
        assert!(parse(&["--label", "x", "y"]).is_err());
        for nothing in [&[][..], &["  "], &["--prompt-file", "/no/such/file"]] {
            let fault = prompt(&parse(nothing).unwrap()).unwrap_err();
            assert_eq!(fault.code, Code::Usage, "{nothing:?}");
        }
    }

    #[test]
    fn a_prompt_may_come_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.md");
        std::fs::write(&file, "do\nthis\n").unwrap();
        let args = parse(&["--prompt-file", file.to_str().unwrap()]).unwrap();
        assert_eq!(prompt(&args).unwrap(), "do\nthis\n");
    }
}
