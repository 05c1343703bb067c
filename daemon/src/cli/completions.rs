//! `hayward completions`.

use super::context::Context;
use crate::exit::{End, Outcome};
use clap_complete::Shell;

/// Which shell.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell whose completions to print
    shell: Shell,
}

/// Prints the shell's script.
pub(crate) fn run(
    args: &CompletionsArgs,
    command: &mut clap::Command,
    context: &Context,
) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "hayward", &mut script);
    context.out.bytes(&script)?;
    Ok(End::Done)
}
