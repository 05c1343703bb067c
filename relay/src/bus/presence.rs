//! Which relays live, and whether what the store says of this one's links is true.
//!
//! Each relay counts on in the store. One whose count stands still for several looks of another one
//! is gone for that one: only what was looked at counts, so a database that was away, or a relay that
//! was paused itself, takes nobody for gone.

use super::{Seen, Shared};
use crate::core::Core;
use crate::registry::{Held, LinkId};
use crate::store::{StoreError, links};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{DaemonId, RelayId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// How often a relay counts on and looks.
const BEAT: Duration = Duration::from_secs(1);

/// A relay whose count stood still for so many looks is gone. Its daemons are offline within some
/// seconds, and a slow commit or two takes none away.
const STILL: u32 = 5;

/// So many looks later what is stored of it goes, too. Till then it may come back.
const FORGOTTEN: u32 = 60;

/// Between so many looks the links of this relay are compared with what is stored of them.
const COMPARED: u64 = 10;

/// What was seen of the relays, look by look. Pure.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    nth: u64,
    seen: BTreeMap<RelayId, Count>,
}

#[derive(Debug)]
struct Count {
    beat: u64,
    still: u32,
}

/// What a look made of the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) alive: HashSet<RelayId>,
    pub(super) gone: HashSet<RelayId>,
    /// Those that are gone since the last look, or ended.
    pub(super) newly: Vec<RelayId>,
    /// Those that are to be forgotten, with the count by which they were judged.
    pub(super) forgotten: Vec<(RelayId, u64)>,
}

impl Rounds {
    fn is_time_to_compare(&self) -> bool {
        self.nth.is_multiple_of(COMPARED)
    }

    /// Judges the others by what is stored of them now.
    pub(super) fn judge(&mut self, own: RelayId, beats: &[(RelayId, u64)]) -> Judged {
        let mut judged = Judged::default();
        // whoever ended in order took its row away
        let there: HashSet<_> = beats.iter().map(|(relay, _)| *relay).collect();
        let ended = self.seen.extract_if(.., |relay, _| !there.contains(relay));
        judged.newly.extend(ended.filter(|(_, seen)| seen.still < STILL).map(|(relay, _)| relay));
        for (relay, beat) in beats.iter().filter(|(relay, _)| *relay != own) {
            let seen = self.seen.entry(*relay).or_insert(Count { beat: *beat, still: 0 });
            if seen.beat == *beat {
                seen.still = seen.still.saturating_add(1);
            } else {
                *seen = Count { beat: *beat, still: 0 };
            }
            let to = if seen.still < STILL { &mut judged.alive } else { &mut judged.gone };
            to.insert(*relay);
            match seen.still {
                STILL => judged.newly.push(*relay),
                FORGOTTEN.. => judged.forgotten.push((*relay, *beat)),
                _ => {}
            }
        }
        judged
    }
}

/// Counts on and looks, again and again. Ends when it is aborted.
pub(super) async fn watch(core: Arc<Core>, shared: Arc<Shared>, mut rounds: Rounds) {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    let mut comparing = JoinSet::new();
    loop {
        ticks.tick().await;
        let looked = round(&core, &shared, &mut rounds).await;
        if let Err(e) = &looked
            && !failed
        {
            tracing::warn!(error = e as &dyn std::error::Error, "cannot see which relays live");
        }
        failed = looked.is_err();
        // one at a time, and beside the count: many odd links must not hold that up
        while comparing.try_join_next().is_some() {}
        if let Ok(forgotten) = looked
            && comparing.is_empty()
            && (rounds.is_time_to_compare() || !forgotten.is_empty())
        {
            comparing.spawn(tidy(core.clone(), shared.clone(), forgotten));
        }
    }
}

/// Forgets the relays that stayed away, and compares what is stored of this one's links.
async fn tidy(core: Arc<Core>, shared: Arc<Shared>, forgotten: Vec<(RelayId, u64)>) {
    let tidied = async {
        for (relay, beat) in forgotten {
            let mut tx = core.store.write().await?;
            links::forget_gone(tx.conn(), relay, beat).await?;
            tx.commit().await?;
        }
        compare(&core, &shared).await
    };
    if let Err(e) = tidied.await {
        let error = &e as &dyn std::error::Error;
        tracing::warn!(error, "the stored links could not be compared with those that are there");
    }
}

/// Counts on, looks once, and draws the conclusions; who is to be forgotten.
pub(super) async fn round(
    core: &Core,
    shared: &Shared,
    rounds: &mut Rounds,
) -> Result<Vec<(RelayId, u64)>, StoreError> {
    rounds.nth += 1;
    let mut tx = core.store.write().await?;
    links::beat(tx.conn(), shared.own, rounds.nth).await?;
    tx.commit().await?;
    let beats = links::beats(&mut *core.store.read().await?).await?;
    let judged = rounds.judge(shared.own, &beats);
    for relay in &judged.newly {
        tracing::warn!(%relay, "another relay is gone: its daemons are offline until they return");
        let fault = Fault::new(Code::DaemonOffline, "the daemon went away with its relay");
        core.registry.void(Some(*relay), &fault);
    }
    *shared.seen() = Seen { alive: judged.alive, gone: judged.gone };
    Ok(judged.forgotten)
}

/// Compares the links that this relay has with what is stored: a word may have been lost, or a write
/// may have failed.
async fn compare(core: &Core, shared: &Shared) -> Result<(), StoreError> {
    let held = core.registry.held();
    let stored = links::of_relay(&mut *core.store.read().await?, shared.own).await?;
    for (daemon, link) in &stored {
        // one that came since joined before it was stored; one that is not there now never returns
        if !core.registry.is_current(*daemon, LinkId(*link)) {
            drop_link(core, shared, (*daemon, *link)).await?;
        }
    }
    let known: HashMap<_, _> = stored.into_iter().collect();
    for Held { daemon, link } in &held {
        if known.get(daemon) != Some(&link.link) {
            settle(core, shared, Held { daemon: *daemon, link: *link }).await?;
        }
    }
    Ok(())
}

/// Forgets a link that ended.
async fn drop_link(
    core: &Core,
    shared: &Shared,
    (daemon, link): (DaemonId, u64),
) -> Result<(), StoreError> {
    let mut tx = core.store.write().await?;
    links::remove(tx.conn(), daemon, shared.own, link).await?;
    tx.commit().await
}

/// A link of which the store does not know: another relay has a later one, or nobody that lives has
/// any.
pub(super) async fn settle(core: &Core, shared: &Shared, held: Held) -> Result<(), StoreError> {
    let Held { daemon, link } = held;
    let id = LinkId(link.link);
    if !core.registry.is_current(daemon, id) {
        return Ok(());
    }
    let mut tx = core.store.write().await?;
    let mut noted = links::put_back(tx.conn(), daemon, link.at(shared.own)).await?;
    let mut found = links::find(tx.conn(), daemon).await?;
    if found.is_some_and(|at| shared.is_gone(at.relay)) {
        links::put(tx.conn(), daemon, link.at(shared.own)).await?;
        (noted, found) = (true, None);
    }
    tx.commit().await?;
    if noted {
        if !core.registry.is_current(daemon, id) {
            // it ended meanwhile, and found nothing to forget
            return drop_link(core, shared, (daemon, link.link)).await;
        }
        // what it asked for till now may have been refused
        core.registry.wake(daemon, id);
    }
    if found.is_some_and(|at| at.relay != shared.own) {
        tracing::info!(%daemon, "its later link is at another relay: this one ends");
        core.registry.end(daemon, link.link);
    }
    Ok(())
}

/// Ends a daemon's link here if another relay has a later one.
pub(super) async fn look(core: &Core, shared: &Shared, held: Held) {
    if let Err(e) = settle(core, shared, held).await {
        let error = &e as &dyn std::error::Error;
        tracing::warn!(daemon = %held.daemon, error, "whether a link is the later one is unknown");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Bus, Linked};
    use crate::config::Config;
    use crate::store::Store;
    use hayward_shared::id::WorkspaceId;
    use uuid::Uuid;

    fn relay(nth: u128) -> RelayId {
        RelayId(Uuid::from_u128(nth))
    }

    #[test]
    fn a_relay_is_gone_when_its_count_stands_still_and_back_when_it_goes_on() {
        let (own, other) = (relay(1), relay(2));
        let mut rounds = Rounds::default();
        assert_eq!(rounds.judge(own, &[(own, 1), (other, 7)]).gone.len(), 0);
        for _ in 0..STILL {
            assert!(rounds.judge(own, &[(own, 1), (other, 8)]).alive.contains(&other));
        }
        let judged = rounds.judge(own, &[(own, 1), (other, 8)]);
        assert_eq!((judged.gone.contains(&other), judged.newly), (true, vec![other]));
        let judged = rounds.judge(own, &[(own, 1), (other, 8)]);
        assert_eq!((judged.gone.contains(&other), judged.newly), (true, vec![]));
        let judged = rounds.judge(own, &[(own, 1), (other, 9)]);
        assert_eq!((judged.alive.contains(&other), judged.newly), (true, vec![]));
        // it ended in order
        assert_eq!(rounds.judge(own, &[(own, 1)]).newly, [other]);
        assert_eq!(rounds.judge(own, &[(own, 1)]), Judged::default());
    }

    #[tokio::test]
    async fn a_link_that_a_comparison_forgot_was_the_last_one_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path().join("relay.db"), "127.0.0.1:0".parse().unwrap());
        let store = Arc::new(Store::open(&config.database).await.unwrap());
        let (bus, _post) = Bus::shared(relay(1), store.clone());
        let (daemon, workspace) = (DaemonId::fresh(), WorkspaceId::fresh());
        let manners = links::Manners { replies: true, terminals: true, streams: true };
        let link = |link| Linked { link, workspace, manners };
        let mut tx = store.write().await.unwrap();
        links::put(tx.conn(), daemon, link(1).at(relay(1))).await.unwrap();
        links::remove(tx.conn(), daemon, relay(1), 1).await.unwrap();
        assert!(bus.left(tx.conn(), daemon, 1).await.unwrap(), "it is offline");
        links::put(tx.conn(), daemon, link(2).at(relay(1))).await.unwrap();
        assert!(!bus.left(tx.conn(), daemon, 1).await.unwrap(), "a later one is here");
        links::put(tx.conn(), daemon, link(1).at(relay(2))).await.unwrap();
        assert!(!bus.left(tx.conn(), daemon, 2).await.unwrap(), "a later one is elsewhere");
    }

    #[test]
    fn one_that_stays_away_is_forgotten() {
        let (own, other) = (relay(1), relay(2));
        let mut rounds = Rounds::default();
        let forgotten = (0..FORGOTTEN + 1)
            .map(|_| rounds.judge(own, &[(other, 3)]).forgotten)
            .filter(|all| *all == [(other, 3)]);
        assert!(forgotten.count() >= 1);
    }
}
