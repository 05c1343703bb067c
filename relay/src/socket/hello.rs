//! Letting a daemon in: its first message, its token, its row, its place among the links.

use super::connection::{Connection, End, Peer};
use super::handshake::{self, Manners};
use super::pipe::Outlet;
use super::reconcile;
use crate::auth::{self, Who};
use crate::bus::Linked;
use crate::core::Core;
use crate::discards;
use crate::registry::NewLink;
use crate::store::links;
use crate::store::{daemons, tokens};
use axum::extract::ws::{Message, WebSocket};
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TokenId;
use hayward_shared::id::WorkspaceId;
use hayward_shared::protocol::{Authenticate, MAX_PREAUTH, Tagged, ToDaemon};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, error_span};

/// Waits for the hello and answers it; a link that is let in has been reconciled.
pub(super) async fn greet(
    stream: &mut SplitStream<WebSocket>,
    outlet: &Outlet,
    core: &Arc<Core>,
) -> Result<Connection, End> {
    let mut stopping = core.stopping.clone();
    let text = tokio::select! {
        biased;
        _ = stopping.wait_for(|stop| *stop) => return Err(End::Stopping),
        text = timeout(core.timing.hello, first(stream)) => text.map_err(|_| late())??,
    };
    let (hello, manners) = handshake::read(&text).map_err(End::Refused)?;
    let (workspace, token) = admit(core, &hello.api_key).await?;
    enter(core, outlet, (workspace, token), hello, manners).await
}

fn late() -> End {
    End::Refused(Fault::new(Code::Unauthorized, "no authenticate came in time"))
}

async fn first(stream: &mut SplitStream<WebSocket>) -> Result<String, End> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(bytes))) if bytes.len() > MAX_PREAUTH => {
                let fault = Fault::new(Code::TooLarge, "the first message is over 64 KiB");
                return Err(End::Refused(fault));
            }
            Some(Ok(Message::Binary(_))) => return Err(End::Refused(handshake::refusal())),
            Some(Ok(Message::Close(_))) => return Err(End::Farewell),
            Some(Err(_)) | None => return Err(End::Broken),
        }
    }
}

async fn admit(core: &Core, key: &str) -> Result<(WorkspaceId, TokenId), End> {
    let now = crate::clock::now();
    let hash = auth::hash(key);
    let found = tokens::find(&mut *core.store.read().await?, &hash).await?;
    let caller = found.as_ref().and_then(|credential| credential.admit(&hash, now));
    match caller {
        Some(caller) if caller.who == Who::Daemon => {
            let mut tx = core.store.write().await?;
            tokens::used(tx.conn(), caller.token, now).await?;
            tx.commit().await?;
            Ok((caller.workspace, caller.token))
        }
        _ => Err(End::Refused(Fault::new(Code::Unauthorized, "the daemon's token is not valid"))),
    }
}

async fn enter(
    core: &Arc<Core>,
    outlet: &Outlet,
    (workspace, token): (WorkspaceId, TokenId),
    mut hello: Authenticate,
    manners: Manners,
) -> Result<Connection, End> {
    let now = crate::clock::now();
    let runs = hello.resume.take().unwrap_or_default().runs;
    let machine = hello.machine_id;
    let mut tx = core.store.write().await?;
    let profile = described(hello, manners);
    let daemon = daemons::welcome(tx.conn(), workspace, machine, profile, now).await?;
    tx.commit().await?;
    let joined = core.registry.join(
        NewLink {
            daemon: daemon.id,
            workspace,
            replies: manners.replies,
            terminals: manners.terminals,
            streams: manners.streams,
            outlet: outlet.clone(),
        },
        now,
    );
    // an older link may have stored something between the two
    let acked = daemons::acked(&mut *core.store.read().await?, daemon.id).await?;
    let settle = if joined.after_break { core.timing.settle_ms } else { 0 };
    let settle = Duration::from_millis(u64::try_from(settle).unwrap_or(0));
    let mut profile = daemon.profile;
    profile.settles_at = joined.after_break.then(|| now.plus_millis(core.timing.settle_ms));
    core.field.enter(workspace, daemon.id, joined.link, &profile);
    let (daemon, plain) = (daemon.id, manners.plain);
    let span = error_span!(parent: None, "link", %daemon);
    let peer = Peer { daemon, workspace, token, plain, profile, span: span.clone() };
    let mut connection = Connection {
        core: core.clone(),
        peer,
        link: joined.link,
        outlet: outlet.clone(),
        work: joined.work,
        settled_at: Instant::now() + settle,
        told_at: None,
        unnamed: Vec::new(),
        stored: (acked.unwrap_or(0), 0),
    };
    let welcome = ToDaemon::Authenticated(handshake::welcome(daemon, manners, acked));
    let link = Linked { link: joined.link.number(), workspace, manners: noted(manners) };
    let begun = async {
        // what an earlier link at another relay was given is stored by then
        core.bus.entered(daemon, link).await?;
        core.registry.entered(daemon, joined.link);
        connection.say(&Tagged::from(welcome)).await?;
        core.registry.greeted(daemon, joined.link);
        reconcile::tell_online(core, &connection.peer, now).await?;
        tracing::info!(%workspace, "daemon online");
        if manners.plain {
            return Ok(());
        }
        connection.reconcile(&runs).await?;
        if manners.replies {
            discards::tell_all(core, daemon);
        }
        Ok(())
    };
    match begun.instrument(span.clone()).await {
        Ok(()) => Ok(connection),
        Err(end) => {
            connection.leave(&end).instrument(span).await;
            Err(end)
        }
    }
}

/// What the hello says of the daemon.
fn described(hello: Authenticate, manners: Manners) -> daemons::Profile {
    daemons::Profile {
        hostname: hello.hostname,
        version: hello.version,
        capacity: hello.max_concurrent_tasks,
        labels: hello.labels,
        runtimes: hello.runtimes,
        plain: manners.plain,
        fences: manners.fences,
        jobs: manners.jobs,
        ..daemons::Profile::default()
    }
}

/// What other relays have to know of them.
fn noted(Manners { replies, terminals, streams, .. }: Manners) -> links::Manners {
    links::Manners { replies, terminals, streams }
}
