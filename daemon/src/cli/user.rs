//! `hayward user`.

use super::context::Context;
use super::print::table::{Table, fixed, flexible};
use super::print::tone::Tone;
use super::print::words::age;
use super::token::word;
use crate::client::{Doc, read};
use crate::exit::{End, Outcome};
use hayward_daemon::clock;
use hayward_shared::api::{NewUser, Role, UserView};
use hayward_shared::fault::Fault;
use serde_json::json;

/// What to do with users.
#[derive(clap::Args)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(clap::Subcommand)]
enum UserCommand {
    /// Add a member to the workspace
    Add {
        /// The name, unique in the relay
        name: String,

        /// What they may do: owner, member or viewer
        #[arg(long, value_name = "R", default_value = "member")]
        role: Role,
    },
    /// List the members of the workspace
    Ls,
}

/// Adds and lists members.
pub(crate) async fn run(args: UserArgs, context: &Context) -> Outcome {
    match args.command {
        UserCommand::Add { name, role } => add(NewUser { name, role }, context).await?,
        UserCommand::Ls => list(context).await?,
    }
    Ok(End::Done)
}

async fn add(new: NewUser, context: &Context) -> Result<(), Fault> {
    let raw = context.client()?.post(&["api", "v1", "users"], Some(&new)).await?;
    let added: Doc<UserView> = Doc::read(raw)?;
    if context.out.json() {
        return context.out.value(&added.raw);
    }
    let id = added.body.id;
    context.out.line(Tone::Plain, &id.to_string())?;
    context.out.note(Tone::Dim, &format!("next, a token: hayward token create --user {id}"));
    Ok(())
}

async fn list(context: &Context) -> Result<(), Fault> {
    let rows = context.client()?.all(&["api", "v1", "users"], &[], "users").await?;
    if context.out.json() {
        return context.out.value(&json!({ "users": rows }));
    }
    let now = clock::now();
    let mut table = Table::new(&[fixed("ID"), flexible("NAME"), fixed("ROLE"), fixed("AGE")]);
    for user in rows.iter().map(read::<UserView>) {
        let UserView { id, name, role, created_at } = user?;
        table.row([id.to_string(), name, word(&role), age(now.since(created_at))]);
    }
    context.out.table(&table)
}
