//! `hayward token`.

use super::context::Context;
use super::print::table::{Table, fixed};
use super::print::tone::Tone;
use super::print::words::{age, seconds};
use super::typed::Typed;
use crate::client::{Doc, read};
use crate::exit::{End, Outcome};
use clap::ValueEnum;
use hayward_daemon::clock;
use hayward_shared::api::{IssuedToken, NewToken, Role, TokenKind, TokenView};
use hayward_shared::fault::Fault;
use hayward_shared::id::UserId;
use serde_json::json;

/// What to do with tokens.
#[derive(clap::Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(clap::Subcommand)]
enum TokenCommand {
    /// Make a token; its secret is printed now and never again
    Create(CreateArgs),
    /// List the tokens of the workspace, without their secrets
    Ls,
    /// End a token at once
    Revoke {
        /// The token's id, not its secret
        id: Typed,
    },
}

#[derive(clap::Args)]
struct CreateArgs {
    /// Whom it speaks for: user or daemon
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = Kind::User)]
    kind: Kind,

    /// What it may do: owner, member or viewer [default: what its user may]
    #[arg(long, value_name = "R")]
    role: Option<Role>,

    /// How long it works, as 12h, 30d or 4w [default: for ever]
    #[arg(long, value_name = "D", value_parser = seconds)]
    expires: Option<u64>,

    /// The user it speaks for, by id [default: you]
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A person
    User,
    /// A daemon
    Daemon,
}

/// Makes, lists and revokes tokens.
pub(crate) async fn run(args: TokenArgs, context: &Context) -> Outcome {
    match args.command {
        TokenCommand::Create(args) => create(args, context).await?,
        TokenCommand::Ls => list(context).await?,
        TokenCommand::Revoke { id } => revoke(&id, context).await?,
    }
    Ok(End::Done)
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), Fault> {
    let new = NewToken {
        kind: match args.kind {
            Kind::User => TokenKind::User,
            Kind::Daemon => TokenKind::Daemon,
        },
        role: args.role,
        user_id: args.user,
        expires_seconds: args.expires,
    };
    let raw = context.client()?.post(&["api", "v1", "tokens"], Some(&new)).await?;
    let made: Doc<IssuedToken> = Doc::read(raw)?;
    if context.out.json() {
        return context.out.value(&made.raw);
    }
    let id = made.body.view.id.short();
    context.out.note(Tone::Dim, &format!("token {id}; keep it now, it is not shown again"));
    context.out.line(Tone::Plain, &made.body.token)
}

async fn list(context: &Context) -> Result<(), Fault> {
    let rows = context.client()?.all(&["api", "v1", "tokens"], &[], "tokens").await?;
    if context.out.json() {
        return context.out.value(&json!({ "tokens": rows }));
    }
    let now = clock::now();
    let mut table = Table::new(&[
        fixed("ID"),
        fixed("KIND"),
        fixed("ROLE"),
        fixed("STATE"),
        fixed("AGE"),
        fixed("USED"),
    ]);
    for token in rows.iter().map(read::<TokenView>) {
        let token = token?;
        let (state, tone) = match (token.revoked_at, token.expires_at) {
            (Some(_), _) => ("revoked".to_owned(), Tone::Dim),
            (None, Some(at)) if at <= now => ("expired".to_owned(), Tone::Dim),
            (None, Some(at)) => (format!("{} left", age(at.since(now))), Tone::Good),
            (None, None) => ("good".to_owned(), Tone::Good),
        };
        let used = token.last_used_at.map_or("never".to_owned(), |at| age(now.since(at)));
        table.toned([
            (token.id.short(), Tone::Plain),
            (word(&token.kind), Tone::Plain),
            (word(&token.role), Tone::Plain),
            (state, tone),
            (age(now.since(token.created_at)), Tone::Plain),
            (used, Tone::Plain),
        ]);
    }
    context.out.table(&table)
}

/// A name as the wire has it.
pub(super) fn word(name: &impl serde::Serialize) -> String {
    json!(name).as_str().unwrap_or_default().to_owned()
}

async fn revoke(id: &Typed, context: &Context) -> Result<(), Fault> {
    let part = id.fragment("token")?;
    let raw = context.client()?.delete(&["api", "v1", "tokens", &part.to_string()]).await?;
    if context.out.json() {
        return context.out.value(&raw);
    }
    context.out.note(Tone::Plain, &format!("token {id} is revoked"));
    Ok(())
}
