//! What the room stands on. It owns which worktrees are live, and which repositories are open for
//! them, each with a store for what looks write; both come and go with the runs.

use super::{Done, Room};
use crate::git::aside::Aside;
use crate::git::snapshot::Snapshot;
use crate::git::{CommitId, Repositories, Repository};
use crate::overlap::watcher::Touched;
use crate::task::LivePlace;
use hayward_shared::id::TaskId;
use hayward_shared::time::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A live worktree.
pub(super) struct Tree {
    pub(super) live: LivePlace,
    pub(super) base: CommitId,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) touched: Option<Touched>,
    pub(super) watched: Option<bool>,
    /// When it is looked at though nothing was seen to be touched.
    pub(super) due: Timestamp,
    pub(super) looking: bool,
}

impl Tree {
    pub(super) fn is_known(&self) -> bool {
        self.snapshot.is_some() && self.touched.is_none() && !self.looking
    }
}

/// A repository with live worktrees.
pub(super) struct Ground {
    pub(super) open: Option<(Repository, Aside)>,
    pub(super) busy: bool,
    pub(super) rests_until: Timestamp,
    pub(super) looks: u32,
}

impl Room {
    /// The runs that are under way have changed.
    pub(super) fn attend(&mut self, live: BTreeMap<TaskId, LivePlace>, now: Timestamp) {
        let gone: Vec<_> = self
            .trees
            .iter()
            .filter(|(task, tree)| live.get(*task) != Some(&tree.live))
            .map(|(task, _)| *task)
            .collect();
        for task in gone {
            self.trees.remove(&task);
            self.index.leave(task);
            self.compared.retain(|(one, two), _| *one != task && *two != task);
            let watcher = self.watcher.clone();
            self.work.spawn_blocking(move || {
                watcher.release(task);
                Done::Released
            });
        }
        for (task, live) in live {
            let Ok(base) = live.place.base_commit.parse() else { continue };
            if self.trees.contains_key(&task) {
                continue;
            }
            self.open(live.place.repository.clone(), now);
            let touched = Some(Touched::all(now));
            let tree = Tree {
                live,
                base,
                snapshot: None,
                touched,
                watched: None,
                due: now,
                looking: false,
            };
            self.trees.insert(task, tree);
        }
        let trees = &self.trees;
        let unused = |common: &PathBuf, ground: &mut Ground| {
            !ground.busy && !trees.values().any(|tree| tree.live.place.repository == *common)
        };
        let gone: Vec<_> = self.grounds.extract_if(unused).map(|(_, ground)| ground.open).collect();
        gone.into_iter().for_each(|open| self.let_go(open));
    }

    /// A store is removed from disk, which takes a while.
    fn let_go(&mut self, open: Option<(Repository, Aside)>) {
        self.work.spawn_blocking(move || {
            drop(open);
            Done::Released
        });
    }

    /// Makes the store of a repository anew: all its worktrees are looked at as a whole then.
    pub(super) fn renew(&mut self, common: &Path, now: Timestamp) {
        let Some(ground) = self.grounds.remove(common) else { return };
        self.let_go(ground.open);
        for (task, tree) in &mut self.trees {
            if tree.live.place.repository == common {
                (tree.snapshot, tree.touched) = (None, Some(Touched::all(now)));
                self.compared.retain(|(one, two), _| one != task && two != task);
            }
        }
        self.open(common.to_owned(), now);
    }

    pub(super) fn open(&mut self, common: PathBuf, now: Timestamp) {
        if self.grounds.contains_key(&common) {
            return;
        }
        let ground = Ground { open: None, busy: true, rests_until: now, looks: 0 };
        self.grounds.insert(common.clone(), ground);
        let (repositories, room) = (self.repositories.clone(), self.settings.folder.clone());
        self.work.spawn(async move {
            let opened = open(&repositories, &common, room).await;
            Done::Opened(common, opened)
        });
    }
}

async fn open(
    repositories: &Repositories,
    common: &Path,
    room: PathBuf,
) -> Option<(Repository, Aside)> {
    let repository = repositories.open(common).await;
    let repository = repository
        .map_err(|error| tracing::warn!(%error, "a repository of live worktrees cannot be opened"))
        .ok()?;
    let place = common.to_owned();
    let made = tokio::task::spawn_blocking(move || Aside::beside(&place, &room)).await.ok()?;
    let aside = made.map_err(|error| tracing::warn!(%error, "overlap cannot be computed")).ok()?;
    Some((repository, aside))
}
