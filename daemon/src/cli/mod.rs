//! The command line: one file per command.

mod agent;
mod attach;
mod budget;
mod complete;
mod completions;
mod compose;
mod context;
mod daemon;
mod demo;
mod detach;
mod doctor;
mod down;
mod job;
mod limits;
mod log;
mod logs;
mod merge;
mod overlap;
mod print;
mod run;
#[cfg(test)]
pub(crate) mod sample;
mod search;
mod serve;
mod status;
mod task;
mod token;
mod typed;
mod up;
mod user;
mod version;
mod worktree;

use crate::exit::{self, End, Outcome, is_closed};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use context::{Context, Globals};
use hayward_shared::fault::{Code, Fault};
use print::{Output, Wishes};
use std::ffi::OsString;

/// Runs coding agents, each on a worktree of its own, and brings their work home as branches.
#[derive(Parser)]
#[command(
    name = "hayward",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Begin with: hayward run \"fix the failing test\"\n\
        Ids may be shortened to 4 or more of their first or last digits.\n\
        Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 illegal state or conflict,\n\
        5 refused, 6 relay or daemon unreachable, 7 the awaited task did not complete, 130 interrupted."
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the daemon, and a relay with it where none is configured
    Up(up::UpArgs),
    /// Stop them; agents live on, and the next `up` finds them again
    Down,
    /// Show relay, daemons, agents and how many tasks there are
    Status,
    /// Give an agent a task and follow it until its branch is there
    Run(Box<run::RunArgs>),
    /// Look at tasks and command them
    Task(task::TaskArgs),
    /// See what a merge would bring, and merge the branches of a task's parts
    Merge(merge::MergeArgs),
    /// Bring the work of a task that has ended home, or take that back
    Complete(complete::CompleteArgs),
    /// Print what a task's agent prints
    Logs(logs::LogsArgs),
    /// Work in the terminal of a task's agent; Ctrl-\ twice leaves it
    Attach(attach::AttachArgs),
    /// Search all that agents printed, on every machine
    Search(search::SearchArgs),
    /// Show which running tasks change the same lines
    Overlap(overlap::OverlapArgs),
    /// Look at worktrees, copy one out, remove those that nobody needs
    Worktree(worktree::WorktreeArgs),
    /// Look at background work, and try, pause or end it
    Job(job::JobArgs),
    /// See what runs at once and which providers refuse, and ask one again
    Limits(limits::LimitsArgs),
    /// Show which agents there are
    Agent(agent::AgentArgs),
    /// See the main job done on a throw-away repository, without model or network
    Demo(demo::DemoArgs),
    /// Make and revoke the tokens that users and daemons show the relay
    Token(token::TokenArgs),
    /// Add the members of the workspace and list them
    User(user::UserArgs),
    /// The daemon itself, for service managers
    Daemon(daemon::DaemonArgs),
    /// A relay for a team
    Relay(serve::RelayArgs),
    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),
    /// Print the version
    Version,
}

/// Runs a command line; the answer is the exit code.
pub(crate) fn main(arguments: Vec<OsString>) -> u8 {
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error, &arguments),
    };
    let context = Context::new(cli.globals);
    let outcome = perform(cli.command, &context);
    if let Err(fault) = &outcome
        && !is_closed(fault)
    {
        context.out.fault(fault);
    }
    exit::code(&outcome)
}

/// Help and version are answers; anything else is a fault of usage.
fn misunderstood(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let is_answer = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // with `--` begin the words of a command, which are not ours
    let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    if json && !is_answer {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let fault = Fault::new(Code::Usage, first).with_hint("see hayward --help");
        Output::new(Wishes { json, ..Wishes::default() }).fault(&fault);
        return fault.code.exit();
    }
    // clap writes help to stdout and errors to stderr; a closed stream changes nothing
    drop(error.print());
    if is_answer { 0 } else { Code::Usage.exit() }
}

/// Does what needs no runtime at once, the rest on the smallest one that serves.
fn perform(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Version => version::run(context),
        Command::Completions(args) => completions::run(&args, &mut Cli::command(), context),
        Command::Up(args) => {
            up::leave_session(&args)?;
            serving(up::run(args, context))
        }
        Command::Daemon(args) => serving(daemon::run(args, context)),
        Command::Relay(args) => serving(serve::run(args, context)),
        Command::Demo(args) => serving(demo::run(args, context)),
        // Ctrl-C detaches a run; it handles that itself
        Command::Run(args) => asking(run::run(*args, context)),
        // it takes keys and signals as they are, to give the terminal back
        Command::Attach(args) => asking(attach::run(args, context)),
        Command::Down => asking(interruptible(down::run(context))),
        Command::Status => asking(interruptible(status::run(context))),
        Command::Task(args) => asking(interruptible(task::run(args, context))),
        Command::Merge(args) => asking(interruptible(merge::run(args, context))),
        Command::Complete(args) => asking(interruptible(complete::run(args, context))),
        Command::Logs(args) => asking(interruptible(logs::run(args, context))),
        Command::Search(args) => asking(interruptible(search::run(args, context))),
        Command::Overlap(args) => asking(interruptible(overlap::run(args, context))),
        Command::Worktree(args) => asking(interruptible(worktree::run(args, context))),
        Command::Job(args) => asking(interruptible(job::run(args, context))),
        Command::Limits(args) => asking(interruptible(limits::run(args, context))),
        Command::Agent(args) => asking(interruptible(agent::run(args, context))),
        Command::Token(args) => asking(interruptible(token::run(args, context))),
        Command::User(args) => asking(interruptible(user::run(args, context))),
    }
}

/// Steps of a client between two looks at keys and signals, where much comes that needs none: some
/// parts of 32 KiB at the most, which `attach` takes some milliseconds each for.
const LOOK: u32 = 8;

/// Runs a client's command: one thread is enough.
fn asking(command: impl Future<Output = Outcome>) -> Outcome {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.event_interval(LOOK);
    on(builder, command)
}

/// Runs a server.
fn serving(command: impl Future<Output = Outcome>) -> Outcome {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2);
    on(builder, command)
}

fn on(mut builder: tokio::runtime::Builder, command: impl Future<Output = Outcome>) -> Outcome {
    // it is there already only where a test installed it
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Fault::new(Code::Failed, format!("cannot start the runtime: {error}")))?;
    runtime.block_on(command)
}

/// Ends a command at Ctrl-C.
async fn interruptible(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::select! {
        outcome = command => outcome,
        _ = tokio::signal::ctrl_c() => Ok(End::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_says_what_it_is_for() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no help");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
            }
            command.get_subcommands().for_each(|below| check(below, &path));
        }
        let mut command = Cli::command();
        command.build();
        check(&command, "");
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for line in
            ["hayward --json -q task ls", "hayward task ls --json -q", "hayward task --json ls -q"]
        {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.globals.json && cli.globals.quiet, "{line}");
        }
    }

    #[test]
    fn the_words_of_a_command_are_not_ours() {
        let cli = Cli::try_parse_from(["hayward", "run", "--", "ls", "--json", "-q"]).unwrap();
        assert!(!cli.globals.json && !cli.globals.quiet);
    }
}
