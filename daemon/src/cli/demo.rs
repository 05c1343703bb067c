//! `hayward demo`: the main job on a throw-away repository, with scripted agents.
//!
//! Nothing of it is staged: a real daemon with its own state folder runs real processes in real
//! worktrees, and every claim on the screen is read back from git.

use super::context::Context;
use super::print::tone::Tone;
use super::{detach, down};
use crate::client::{Client, Doc, Place, process};
use crate::exit::{End, Outcome, chain as causes};
use hayward_daemon::git::command::Git;
use hayward_daemon::git::merge::Preview;
use hayward_daemon::git::{Repositories, Repository};
use hayward_daemon::home::{Home, Running, read_if_there};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::task::{Order, Status, Task};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What remains of the demonstration.
#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Keep the repository and its branches, and say where they are
    #[arg(long)]
    keep: bool,
}

/// The demonstration is over in seconds; a machine that needs longer than this is out of order.
const LIMIT: Duration = Duration::from_secs(60);

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

const GREETING: &str = "Dear reader,\nhello.\nYours, the hayward\n";

/// A scripted agent: its name and the shell script that it runs.
struct Part {
    name: &'static str,
    script: &'static str,
}

/// Two that change the same line, and one that keeps to itself.
const PARTS: [Part; 3] = [
    Part {
        name: "Greet warmly",
        script: "echo reading greeting.txt; sleep 1; \
            sed -i 's/^hello\\.$/A warm welcome to you./' greeting.txt; echo rewrote line 2",
    },
    Part {
        name: "Greet briefly",
        script: "echo reading greeting.txt; sleep 1.5; \
            sed -i 's/^hello\\.$/Hi!/' greeting.txt; echo rewrote line 2",
    },
    Part {
        name: "Write the manual",
        script: "mkdir docs; for n in 1 2 3 4; do echo \"Chapter $n\" >> docs/manual.txt; \
            echo wrote chapter $n; sleep 0.5; done",
    },
];

/// Shows the main job.
pub(crate) async fn run(args: DemoArgs, context: &Context) -> Outcome {
    let root = tempfile::Builder::new()
        .prefix("hayward-demo-")
        .tempdir()
        .map_err(|error| failed("make a folder for the demonstration", &error))?;
    let stage = Stage::set(root.path())?;
    let place = context.at(stage.home.root());
    let running = detach::start(&stage.home, (None, None), &place).await?;
    let outcome = show(&stage, &running, context).await;
    let stopped = match process(&running) {
        Some(daemon) => down::stop(daemon).await,
        None => Ok(()),
    };
    if args.keep {
        let path = root.keep();
        context.out.say(Tone::Plain, &format!("kept: {}", path.join("project").display()));
    }
    let answer = outcome?;
    stopped?;
    if context.out.json() {
        context.out.value(&answer)?;
    }
    Ok(End::Done)
}

/// Where it happens.
struct Stage {
    home: Home,
    project: PathBuf,
}

impl Stage {
    /// A state folder and a repository with one commit.
    fn set(root: &Path) -> Result<Self, Fault> {
        let home = Home::open(Some(&root.join("state")), None)
            .map_err(|error| failed("make a state folder", &error))?;
        let project = root.join("project");
        found(&project).map_err(|error| failed("make a repository", &error))?;
        Ok(Self { home, project })
    }

    fn client(&self, running: &Running) -> Result<Client, Fault> {
        let token = read_if_there(&self.home.user_token())
            .map_err(|error| failed("read the token", &error))?
            .unwrap_or_default();
        let url =
            running.relay.parse().map_err(|error| failed("read the relay's address", &error))?;
        Client::new(Place { url, token })
    }
}

/// A repository with a greeting in it.
fn found(project: &Path) -> Result<(), git2::Error> {
    let mut options = git2::RepositoryInitOptions::new();
    options.initial_head("main").external_template(false);
    let repository = git2::Repository::init_opts(project, &options)?;
    let mut config = repository.config()?;
    config.set_str("user.name", "Hayward's demonstration")?;
    config.set_str("user.email", "demo@localhost")?;
    fs::write(project.join("greeting.txt"), GREETING)
        .map_err(|error| git2::Error::from_str(&error.to_string()))?;
    let mut index = repository.index()?;
    index.add_path(Path::new("greeting.txt"))?;
    index.write()?;
    let tree = repository.find_tree(index.write_tree()?)?;
    let author = repository.signature()?;
    repository.commit(Some("HEAD"), &author, &author, "Greet the reader", &tree, &[])?;
    Ok(())
}

async fn show(
    stage: &Stage,
    running: &Running,
    context: &Context,
) -> Result<serde_json::Value, Fault> {
    let say = |text: &str| context.out.say(Tone::Plain, text);
    let client = stage.client(running)?;
    say("A repository with one file, and three agents at once, each in a worktree of its own:");
    let mut tasks = Vec::new();
    for part in &PARTS {
        tasks.push(client.create_task(&order(part, &stage.project, running)?).await?);
    }
    let tasks = follow(&client, tasks, context).await?;
    let repository = Repositories::default()
        .open(&stage.project)
        .await
        .map_err(|error| failed("open the repository", &error))?;
    let branches: Vec<&str> =
        tasks.iter().filter_map(|task| task.body.results.branch.as_deref()).collect();
    let [warm, brief, manual] = branches[..] else {
        return Err(Fault::new(Code::Failed, "not every agent's work is on a branch"));
    };

    say("\nA merge is known before it is made (no worktree is touched):");
    let clash = preview(&repository, warm, brief).await?;
    let clean = preview(&repository, "main", manual).await?;
    for (ours, theirs, seen) in [(warm, brief, &clash), ("main", manual, &clean)] {
        say(&format!("  {theirs} into {ours}: {}", verdict(seen)));
    }
    if clash.trial.is_clean || !clean.trial.is_clean {
        return Err(Fault::new(Code::Failed, "the preview is wrong: two agents changed one line"));
    }

    merge(stage, warm).await?;
    say(&format!("\nMerged {warm} into main:"));
    let greeting = fs::read_to_string(stage.project.join("greeting.txt"))
        .map_err(|error| failed("read the greeting", &error))?;
    for line in greeting.lines() {
        say(&format!("  | {line}"));
    }
    if !greeting.contains("A warm welcome") {
        return Err(Fault::new(Code::Failed, "the merge did not bring the agent's line"));
    }
    let after = preview(&repository, "main", brief).await?;
    say(&format!("  {brief} into main, now: {}", verdict(&after)));
    say("\nNow on a repository of yours: hayward run \"fix the failing test\"");
    Ok(json!({
        "tasks": tasks.iter().map(|task| &task.raw).collect::<Vec<_>>(),
        "conflict": { "branches": [warm, brief], "files": files(&clash) },
        "merged": warm,
    }))
}

fn order(part: &Part, project: &Path, running: &Running) -> Result<Order, Fault> {
    let command = ["sh", "-ec", part.script].map(str::to_owned).to_vec();
    let daemon = running.daemon_id.parse();
    Ok(Order {
        name: part.name.to_owned(),
        plan: part.script.to_owned(),
        command,
        agent: Some("command".to_owned()),
        repository_url: Some(project.display().to_string()),
        wanted_daemon_id: Some(daemon.map_err(|error| failed("read the daemon's id", &error))?),
        max_attempts: 1,
        ..Order::default()
    })
}

/// Shows each step of each task until all have ended well.
async fn follow(
    client: &Client,
    mut tasks: Vec<Doc<Task>>,
    context: &Context,
) -> Result<Vec<Doc<Task>>, Fault> {
    let begin = Instant::now();
    let mut seen: Vec<Option<u64>> = vec![None; tasks.len()];
    let mut live = context.out.live();
    while begin.elapsed() < LIMIT {
        for (task, seen) in tasks.iter_mut().zip(&mut seen) {
            for event in client.events(task.body.id, *seen).await? {
                *seen = event["seq"].as_u64();
                if let Some(text) = step(&event) {
                    live.wipe();
                    let at = begin.elapsed().as_secs_f32();
                    let line = format!("  {at:4.1}s  {:<17} {text}", task.body.order.name);
                    context.out.say(Tone::Plain, &line);
                }
            }
            *task = client.task(&task.body.id.to_string()).await?;
        }
        let running = tasks.iter().filter(|task| task.body.status == Status::Running).count();
        live.show(&format!("  {:4.1}s  {running} agents at work", begin.elapsed().as_secs_f32()));
        if tasks.iter().all(|task| task.body.status.is_final()) {
            live.wipe();
            return all_completed(tasks);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Fault::new(Code::Failed, format!("the agents did not end in {} s", LIMIT.as_secs())))
}

fn all_completed(tasks: Vec<Doc<Task>>) -> Result<Vec<Doc<Task>>, Fault> {
    match tasks.iter().find(|task| task.body.status != Status::Completed) {
        None => Ok(tasks),
        Some(Doc { body, .. }) => {
            let why = body.results.error_message.as_deref().unwrap_or("no reason was given");
            Err(Fault::new(Code::Failed, format!("'{}' {}: {why}", body.order.name, body.status)))
        }
    }
}

/// An event in a few words, where it is a step worth showing.
fn step(event: &serde_json::Value) -> Option<String> {
    let payload = &event["payload"];
    let word = |name: &str| payload[name].as_str().unwrap_or_default();
    match event["type"].as_str()? {
        "run.prepared" => Some(format!("worktree at {}", &word("baseCommit").get(..8)?)),
        "run.started" => Some(format!("agent runs, pid {}", payload["pid"])),
        "work.committed" => {
            let stat = &payload["diffStat"];
            let (plus, minus) = (&stat["insertions"], &stat["deletions"]);
            Some(format!("committed on {} (+{plus} -{minus})", word("branch")))
        }
        "task.status_changed" => match word("newStatus") {
            "completed" => Some("completed".to_owned()),
            "failed" => Some(format!("failed: {}", word("reason"))),
            _ => None,
        },
        _ => None,
    }
}

async fn preview(repository: &Repository, ours: &str, theirs: &str) -> Result<Preview, Fault> {
    let unknown = |error| failed("resolve a branch", &error);
    let (ours, theirs) = (
        repository.resolve(ours).await.map_err(unknown)?,
        repository.resolve(theirs).await.map_err(unknown)?,
    );
    repository.preview(&ours, &theirs).await.map_err(|error| failed("preview a merge", &error))
}

fn verdict(preview: &Preview) -> String {
    match preview.trial.is_clean {
        true => "merges cleanly".to_owned(),
        false => format!("would conflict in {}", files(preview).join(", ")),
    }
}

fn files(preview: &Preview) -> Vec<String> {
    let paths = preview.trial.conflicts.iter();
    paths.map(|conflict| conflict.path.display().to_string()).collect()
}

async fn merge(stage: &Stage, branch: &str) -> Result<(), Fault> {
    Git::in_worktree(&stage.project)
        .args(["merge", "--quiet", "--ff-only", branch])
        .run()
        .await
        .map(drop)
        .map_err(|error| failed("merge", &error))
}

fn failed(doing: &str, error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(Code::Failed, format!("cannot {doing}: {}", causes(error)))
}
