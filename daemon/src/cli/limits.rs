//! `hayward limits`: what a workspace may have at once, and providers that refused.

use super::context::Context;
use super::print::escape::line;
use super::print::table::{Table, fixed, flexible};
use super::print::tone::Tone;
use super::print::words::count;
use crate::client::{array, read};
use crate::exit::{End, Outcome};
use hayward_shared::api::RefusalView;
use hayward_shared::fault::Fault;
use serde_json::Value;

/// What to do with limits.
#[derive(clap::Args)]
pub(crate) struct LimitsArgs {
    #[command(subcommand)]
    command: LimitsCommand,
}

#[derive(clap::Subcommand)]
enum LimitsCommand {
    /// Show what runs at once at the most, and which providers nobody asks now
    Ls,
    /// Ask a provider again now, whatever it told, and wake the tasks that wait for it
    Lift {
        /// The provider, as `limits ls` names it
        provider: String,
    },
}

/// Does what the command line says.
pub(crate) async fn run(args: LimitsArgs, context: &Context) -> Outcome {
    match args.command {
        LimitsCommand::Ls => list(context).await?,
        LimitsCommand::Lift { provider } => lift(&provider, context).await?,
    }
    Ok(End::Done)
}

async fn list(context: &Context) -> Result<(), Fault> {
    let mut all = context.client()?.get_newer("limits", &["api", "v1", "limits"], &[]).await?;
    if context.out.json() {
        return context.out.value(&all);
    }
    for (what, most) in bounds(&all["limits"]) {
        context.out.line(Tone::Plain, &format!("{:<24} {most}", line(&what)))?;
    }
    let refusals = array(&mut all, "refusals");
    if refusals.is_empty() {
        context.out.note(Tone::Dim, "no provider refuses");
        return Ok(());
    }
    let mut table = Table::new(&[flexible("PROVIDER"), fixed("NOBODY ASKS BEFORE"), fixed("ROW")]);
    for refusal in refusals.iter().map(read::<RefusalView>) {
        let RefusalView { provider, until, strikes, .. } = refusal?;
        table.row([line(&provider), until.to_string(), strikes.to_string()]);
    }
    context.out.table(&table)
}

/// What is bounded, and by how much.
fn bounds(limits: &Value) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for (name, told) in limits.as_object().into_iter().flatten() {
        all.extend(told.as_u64().map(|most| (name.clone(), most)));
        for (one, most) in told.as_object().into_iter().flatten() {
            let kind = name.trim_end_matches('s');
            all.extend(most.as_u64().map(|most| (format!("{kind} {one}"), most)));
        }
    }
    all
}

async fn lift(provider: &str, context: &Context) -> Result<(), Fault> {
    let path = ["api", "v1", "limits", provider, "lift"];
    let done = context.client()?.post::<()>(&path, None).await?;
    if context.out.json() {
        return context.out.value(&done);
    }
    let woken = done["woken"].as_u64().unwrap_or_default();
    let text = format!("provider {provider} may be asked again; {} woken", count(woken, "task"));
    context.out.line(Tone::Plain, &line(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_bounded_is_not_shown() {
        let limits = json!({"workspace": null, "agents": {"claude": 4}, "depth": 2});
        assert_eq!(bounds(&limits), [("agent claude".to_owned(), 4), ("depth".to_owned(), 2)]);
    }
}
