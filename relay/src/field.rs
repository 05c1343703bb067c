//! Who of the daemons linked here would do a task best: what each said of itself, kept so that a
//! hint needs no look into the store. It decides who is told first and nothing else: who asks first
//! gets the task.

use crate::placement::{Candidate, explain, merit};
use crate::registry::LinkId;
use crate::store::daemons::Profile;
use hayward_shared::id::{DaemonId, WorkspaceId};
use hayward_shared::task::Task;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Others that one daemon is compared with at the most: each of them does the same for each hint,
/// and the best of so many is good enough.
const COMPARED: usize = 64;

/// The daemons linked to this relay, by workspace. Locks are short and never held across an await.
#[derive(Debug, Default)]
pub(crate) struct Field(Mutex<HashMap<WorkspaceId, BTreeMap<DaemonId, Player>>>);

#[derive(Debug)]
struct Player {
    link: LinkId,
    profile: Profile,
    /// Places that were free when it last asked for work, less what it got.
    free: u32,
}

type Players = HashMap<WorkspaceId, BTreeMap<DaemonId, Player>>;

impl Field {
    fn lock(&self) -> MutexGuard<'_, Players> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A daemon is linked. It gets no work before it asks, so it is nobody's better until then. A
    /// link that was replaced before it came here changes nothing.
    pub(crate) fn enter(
        &self,
        workspace: WorkspaceId,
        daemon: DaemonId,
        link: LinkId,
        profile: &Profile,
    ) {
        let mut all = self.lock();
        let players = all.entry(workspace).or_default();
        if players.get(&daemon).is_none_or(|player| player.link < link) {
            players.insert(daemon, Player { link, profile: profile.clone(), free: 0 });
        }
    }

    /// A link ended; one that was replaced changes nothing.
    pub(crate) fn leave(&self, workspace: WorkspaceId, daemon: DaemonId, link: LinkId) {
        let mut all = self.lock();
        let Some(players) = all.get_mut(&workspace) else { return };
        if players.get(&daemon).is_some_and(|player| player.link == link) {
            players.remove(&daemon);
        }
        if players.is_empty() {
            all.remove(&workspace);
        }
    }

    /// A daemon said anew how it stands; what comes over a link that was replaced is passed over.
    pub(crate) fn describe(
        &self,
        workspace: WorkspaceId,
        daemon: DaemonId,
        link: LinkId,
        profile: &Profile,
    ) {
        self.at(workspace, daemon, link, |player| player.profile = profile.clone());
    }

    /// A daemon has so many places left; what comes over a link that was replaced is passed over.
    pub(crate) fn has_free(
        &self,
        workspace: WorkspaceId,
        daemon: DaemonId,
        link: LinkId,
        free: u32,
    ) {
        self.at(workspace, daemon, link, |player| player.free = free);
    }

    fn at(
        &self,
        workspace: WorkspaceId,
        daemon: DaemonId,
        link: LinkId,
        change: impl FnOnce(&mut Player),
    ) {
        let mut all = self.lock();
        let player = all.get_mut(&workspace).and_then(|all| all.get_mut(&daemon));
        player.filter(|player| player.link == link).map(change).unwrap_or_default();
    }

    /// Whether another daemon of the workspace has room.
    pub(crate) fn has_rival(&self, workspace: WorkspaceId, daemon: DaemonId) -> bool {
        let all = self.lock();
        let has_room = |(id, player): (&DaemonId, &Player)| *id != daemon && player.free > 0;
        all.get(&workspace).is_some_and(|players| players.iter().any(has_room))
    }

    /// Whether another daemon that has room would do `task` better than `daemon`.
    pub(crate) fn has_better(&self, workspace: WorkspaceId, daemon: DaemonId, task: &Task) -> bool {
        let all = self.lock();
        let Some(players) = all.get(&workspace) else { return false };
        let Some(own) = players.get(&daemon) else { return false };
        let mine = merit(task, &own.profile, own.free);
        players.iter().filter(|(id, _)| **id != daemon).take(COMPARED).any(|(id, player)| {
            let profile = &player.profile;
            player.free > 0
                && !profile.vitals.is_short()
                && merit(task, profile, player.free) > mine
                && explain(task, None, Candidate { id: *id, profile }).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::queued;
    use crate::placement::tests::profile;
    use hayward_shared::api::Vitals;
    use hayward_shared::task::Order;

    #[test]
    fn only_one_that_is_here_fit_and_free_is_better() {
        let field = Field::default();
        let workspace = WorkspaceId::fresh();
        let (cold, warm) = (DaemonId::fresh(), DaemonId::fresh());
        let order = Order {
            repository_url: Some("/r".into()),
            agent: Some("claude".into()),
            ..Order::default()
        };
        let task = queued(order).task;
        let plain = profile(&[("claude", true)]);
        let vitals = Vitals { warm: vec!["/r".into()], ..Vitals::default() };
        let ready = Profile { vitals, ..plain.clone() };
        field.enter(workspace, cold, LinkId(1), &plain);
        field.has_free(workspace, cold, LinkId(1), 1);
        assert!(!field.has_better(workspace, cold, &task), "it is alone");
        field.enter(workspace, warm, LinkId(2), &ready);
        assert!(!field.has_better(workspace, cold, &task), "the other has not asked for work");
        assert!(!field.has_rival(workspace, cold) && field.has_rival(workspace, warm));
        field.has_free(workspace, warm, LinkId(1), 1);
        assert!(!field.has_rival(workspace, cold), "that was a link of before");
        field.has_free(workspace, warm, LinkId(2), 1);
        assert!(field.has_rival(workspace, cold));
        assert!(field.has_better(workspace, cold, &task));
        assert!(!field.has_better(workspace, warm, &task));
        assert!(!field.has_better(WorkspaceId::fresh(), cold, &task));
        let without = Profile { runtimes: vec![], ..ready.clone() };
        field.describe(workspace, warm, LinkId(1), &without);
        assert!(field.has_better(workspace, cold, &task), "that was a link of before");
        field.describe(workspace, warm, LinkId(2), &without);
        assert!(!field.has_better(workspace, cold, &task), "it has no such agent");
        field.describe(workspace, warm, LinkId(2), &ready);
        field.leave(workspace, warm, LinkId(1));
        assert!(field.has_better(workspace, cold, &task), "that was a link of before");
        field.enter(workspace, warm, LinkId(1), &plain);
        assert!(field.has_better(workspace, cold, &task), "and comes late");
        field.leave(workspace, warm, LinkId(2));
        assert!(!field.has_better(workspace, cold, &task));
    }
}
