//! The relays that share this one's database and bus.

use super::caller::Bearer;
use super::fault::Refusal;
use crate::core::Core;
use crate::store::relays::{self, Card};
use crate::store::{StoreError, links};
use axum::Json;
use axum::extract::State;
use hayward_shared::api::RelayView;
use hayward_shared::id::{RelayId, WorkspaceId};
use hayward_shared::time::Timestamp;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// All of them, oldest first.
#[derive(Debug, Serialize)]
pub(super) struct Relays {
    relays: Vec<RelayView>,
}

pub(super) async fn list(
    State(core): State<Arc<Core>>,
    Bearer(caller): Bearer,
) -> Result<Json<Relays>, Refusal> {
    caller.reads()?;
    let mut relays = others(&core, caller.workspace).await?;
    if !relays.iter().any(|relay| relay.answers) {
        relays.push(alone(&core, caller.workspace));
    }
    if caller.manages().is_err() {
        relays.iter_mut().for_each(conceal);
    }
    Ok(Json(Relays { relays }))
}

/// Leaves out how the network of the relays is built, which is for those who run them: of where one
/// listens the port stays.
fn conceal(relay: &mut RelayView) {
    (relay.host, relay.url) = (None, None);
    if let Ok(at) = relay.address.parse::<SocketAddr>() {
        relay.address = format!("0.0.0.0:{}", at.port());
    }
}

/// Those that are on the list of the database and live, or lived till a moment ago.
async fn others(core: &Core, workspace: WorkspaceId) -> Result<Vec<RelayView>, StoreError> {
    let mut reader = core.store.read().await?;
    let cards = relays::cards(&mut reader).await?;
    let links = links::of_workspace(&mut reader, workspace).await?;
    drop(reader);
    let own_host = cards.iter().find(|(card, _)| card.id == core.id).map(|(_, host)| host.clone());
    let is_online =
        |relay: RelayId| if relay == core.id { Some(true) } else { core.bus.is_alive(relay) };
    let view = |(card, host): (Card, String)| {
        // one of which nobody ever heard that it lives is a row that nobody took away
        let online = is_online(card.id)?;
        let linked = if card.id == core.id {
            core.registry.linked_here(workspace)
        } else {
            links.iter().filter(|(_, relay)| online && *relay == card.id).count()
        };
        let url = card.address.parse().ok().and_then(|at| url(at, &host, own_host.as_deref()));
        let Card { id, address, version, .. } = card;
        let (answers, since) = (id == core.id, since(id));
        let host = Some(host);
        Some(RelayView { id, address, host, url, version, answers, online, since, links: linked })
    };
    Ok(cards.into_iter().filter_map(view).collect())
}

/// This one, which has no list to be on, or lost its place there.
fn alone(core: &Core, workspace: WorkspaceId) -> RelayView {
    let here = (!core.address.ip().is_unspecified()).then(|| format!("http://{}", core.address));
    RelayView {
        id: core.id,
        address: core.address.to_string(),
        host: None,
        url: here,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        answers: true,
        online: true,
        since: since(core.id),
        links: core.registry.linked_here(workspace),
    }
}

fn since(relay: RelayId) -> Timestamp {
    relay.made_at().unwrap_or(Timestamp::from_millis(0))
}

/// Where a relay can be asked that listens there, and reached the database from `host`. An address on
/// loopback leads there from the same host alone: that of the relay that answers.
fn url(listens: SocketAddr, host: &str, own_host: Option<&str>) -> Option<String> {
    let at = match listens.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(host.parse::<IpAddr>().ok()?, listens.port()),
        _ => listens,
    };
    let leads_there = !at.ip().is_loopback() || own_host == Some(host);
    leads_there.then(|| format!("http://{at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_asked_where_it_listens_if_that_leads_there() {
        let url = |listens: &str, host, own| url(listens.parse().unwrap(), host, own);
        let told = |text: &str| Some(text.to_owned());
        let here = Some("10.0.0.1");
        assert_eq!(url("10.0.0.7:80", "10.0.0.8", here), told("http://10.0.0.7:80"));
        assert_eq!(url("0.0.0.0:80", "10.0.0.8", here), told("http://10.0.0.8:80"));
        assert_eq!(url("[::]:80", "fd00::8", here), told("http://[fd00::8]:80"));
        assert_eq!(url("0.0.0.0:80", "the same machine", here), None);
        assert_eq!(url("127.0.0.1:80", "10.0.0.8", here), None);
        assert_eq!(url("127.0.0.1:80", "10.0.0.1", here), told("http://127.0.0.1:80"));
        assert_eq!(url("127.0.0.1:80", "10.0.0.1", None), None);
    }
    #[test]
    fn who_runs_no_relay_learns_of_where_one_is_the_port_alone() {
        for (address, told) in [("10.0.0.7:80", "0.0.0.0:80"), ("[fd00::8]:81", "0.0.0.0:81")] {
            let id = RelayId::fresh();
            let mut relay = RelayView {
                id,
                address: address.to_owned(),
                host: Some("10.0.0.8".to_owned()),
                url: Some(format!("http://{address}")),
                version: "1".to_owned(),
                answers: true,
                online: true,
                since: since(id),
                links: 0,
            };
            conceal(&mut relay);
            assert_eq!((relay.address.as_str(), relay.host, relay.url), (told, None, None));
        }
    }
}
