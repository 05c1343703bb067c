//! `hayward demo`.

use super::context::Context;
use crate::exit::{End, Outcome};
use hayward_shared::fault::{Code, Fault};

/// What remains of the demonstration.
#[derive(clap::Args)]
pub(crate) struct DemoArgs {
    /// Keep the repository and its branches, and say where they are
    #[arg(long)]
    keep: bool,
}

/// Shows the main job.
pub(crate) async fn run(args: DemoArgs, context: &Context) -> Outcome {
    show(args, context).await?;
    Ok(End::Done)
}

async fn show(args: DemoArgs, _context: &Context) -> Result<(), Fault> {
    let DemoArgs { keep: _ } = args;
    Err(Fault::new(Code::Failed, "not in this build"))
}
