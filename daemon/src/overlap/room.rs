//! The room: one actor that knows the live worktrees, has them looked at when they were touched,
//! and says what is new. It owns when a look is due and what the looks found; which worktrees and
//! stores there are is in `ground`, what it answers when asked in `report`.

mod ground;
mod report;

use super::index::{Announcement, Index, Two};
use super::look::{Compared, Look, Seen, Subject, look};
use super::watcher::{Touched, Watcher};
use super::{Ask, Settings};
use crate::clock;
use crate::git::aside::Aside;
use crate::git::{CommitId, Repositories, Repository};
use crate::task::LivePlace;
use ground::{Ground, Tree};
use hayward_shared::id::TaskId;
use hayward_shared::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Writes come in bursts: the first one waits this long for the others.
const DEBOUNCE_MS: i64 = 30;

/// After a look the repository rests for so many times what it took: at most a third of a core.
const REST: u32 = 2;

/// Polling takes at most a twentieth of a core.
const POLL_SHARE: u32 = 20;

/// A watched worktree is looked at as a whole this often, should a watch have missed something.
const RECHECK_MS: i64 = 60_000;

/// After so many looks a repository's store is made anew: what was written for verdicts long past
/// goes with it, some 100 MiB at the most where agents write source code.
const MOST_LOOKS: u32 = 2_000;

pub(super) struct Room {
    settings: Settings,
    repositories: Repositories,
    trees: BTreeMap<TaskId, Tree>,
    grounds: HashMap<PathBuf, Ground>,
    index: Index,
    compared: BTreeMap<Two, (CommitId, CommitId)>,
    watcher: Arc<Watcher>,
    work: JoinSet<Done>,
    out: mpsc::Sender<Announcement>,
    unsaid: Vec<Announcement>,
}

enum Done {
    Opened(PathBuf, Option<(Repository, Aside)>),
    Looked(PathBuf, Vec<Seen>, Vec<Compared>),
    Released,
}

enum Woken {
    Places,
    Touched,
    Ask(Ask),
    Done(Done),
    Time,
    Over,
}

impl Room {
    pub(super) fn new(
        settings: Settings,
        repositories: Repositories,
        out: mpsc::Sender<Announcement>,
    ) -> Self {
        let watcher = Arc::new(Watcher::new(settings.watches));
        Self {
            settings,
            repositories,
            trees: BTreeMap::new(),
            grounds: HashMap::new(),
            index: Index::default(),
            compared: BTreeMap::new(),
            watcher,
            work: JoinSet::new(),
            out,
            unsaid: Vec::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut places: watch::Receiver<BTreeMap<TaskId, LivePlace>>,
        mut asks: mpsc::Receiver<Ask>,
    ) {
        places.mark_changed();
        loop {
            match self.gather(&mut places, &mut asks).await {
                Woken::Places => {
                    let live = places.borrow_and_update().clone();
                    self.attend(live, clock::now());
                }
                Woken::Touched => {
                    for (task, touched) in self.watcher.fetch() {
                        self.touch(task, touched);
                    }
                }
                Woken::Ask(ask) => drop(ask.reply.send(self.report(ask.task))),
                Woken::Done(done) => self.done(done, clock::now()),
                Woken::Time => {}
                Woken::Over => return,
            }
            self.proceed(clock::now());
        }
    }

    async fn gather(
        &mut self,
        places: &mut watch::Receiver<BTreeMap<TaskId, LivePlace>>,
        asks: &mut mpsc::Receiver<Ask>,
    ) -> Woken {
        let due = self.due();
        let time = async {
            match due {
                Some(at) => {
                    let ms = u64::try_from(at.since(clock::now())).unwrap_or(0);
                    tokio::time::sleep(Duration::from_millis(ms.max(1))).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = places.changed() => changed.map_or(Woken::Over, |()| Woken::Places),
            () = self.watcher.touched() => Woken::Touched,
            ask = asks.recv() => ask.map_or(Woken::Over, Woken::Ask),
            Some(done) = self.work.join_next() => match done {
                Ok(done) => Woken::Done(done),
                Err(error) => {
                    tracing::error!(%error, "a look at live worktrees broke");
                    self.grounds.values_mut().for_each(|ground| ground.busy = false);
                    let again = later(clock::now(), self.settings.poll);
                    for tree in self.trees.values_mut().filter(|tree| tree.looking) {
                        (tree.looking, tree.due) = (false, again);
                    }
                    Woken::Time
                }
            },
            () = time => Woken::Time,
        }
    }

    fn touch(&mut self, task: TaskId, touched: Touched) {
        if let Some(tree) = self.trees.get_mut(&task) {
            match &mut tree.touched {
                Some(known) => known.add(touched),
                None => tree.touched = Some(touched),
            }
        }
    }

    fn done(&mut self, done: Done, now: Timestamp) {
        match done {
            Done::Opened(common, open) => {
                if let Some(ground) = self.grounds.get_mut(&common) {
                    let failed = open.is_none();
                    ground.open = open;
                    ground.busy = false;
                    ground.rests_until = if failed { later(now, self.settings.poll) } else { now };
                }
            }
            Done::Looked(common, seen, compared) => {
                let took = seen.iter().map(|seen| seen.took).sum::<Duration>();
                if let Some(ground) = self.grounds.get_mut(&common) {
                    ground.busy = false;
                    ground.rests_until = later(now, took * REST);
                    ground.looks += 1;
                }
                seen.into_iter().for_each(|seen| self.seen(seen, now));
                for Compared { tasks, commits, clashes } in compared {
                    if self.trees.contains_key(&tasks.0) && self.trees.contains_key(&tasks.1) {
                        self.index.settle(tasks, clashes);
                        self.compared.insert(tasks, commits);
                    }
                }
                if self.grounds.get(&common).is_some_and(|ground| ground.looks >= MOST_LOOKS) {
                    self.renew(&common, now);
                }
            }
            Done::Released => {}
        }
    }

    fn seen(&mut self, Seen { subject, snapshot, took }: Seen, now: Timestamp) {
        let watcher = self.watcher.clone();
        let Some(tree) =
            self.trees.get_mut(&subject.task).filter(|t| t.live.place.path == subject.path)
        else {
            // it ended while it was looked at, after its watches were released
            let task = subject.task;
            if !self.trees.contains_key(&task) {
                self.work.spawn_blocking(move || {
                    watcher.release(task);
                    Done::Released
                });
            }
            return;
        };
        tree.looking = false;
        tree.watched = subject.watched;
        tree.due = match (snapshot.is_some(), subject.watched) {
            (true, Some(true)) => Timestamp::from_millis(now.millis() + RECHECK_MS),
            _ => later(now, self.settings.poll.max(took * POLL_SHARE)),
        };
        tree.snapshot = snapshot;
        if tree.snapshot.is_none() {
            self.index.leave(subject.task);
            self.compared.retain(|(one, two), _| *one != subject.task && *two != subject.task);
        }
    }

    /// Begins what can be begun, says what is to be said.
    fn proceed(&mut self, now: Timestamp) {
        let polled: Vec<_> = self
            .trees
            .iter()
            .filter(|(_, tree)| !tree.looking && tree.due <= now)
            .map(|(t, _)| *t)
            .collect();
        for task in polled {
            self.touch(task, Touched::all(Timestamp::from_millis(now.millis() - DEBOUNCE_MS)));
        }
        let commons: Vec<_> = self.grounds.keys().cloned().collect();
        for common in commons {
            self.look_at(&common, now);
        }
        self.unsaid.extend(self.index.announce(now));
        while let Some(one) = self.unsaid.pop() {
            if let Err(mpsc::error::TrySendError::Full(one)) = self.out.try_send(one) {
                self.unsaid.push(one);
                break;
            }
        }
        let trees = &self.trees;
        self.index.tidy(|task| trees.contains_key(&task));
    }

    fn look_at(&mut self, common: &Path, now: Timestamp) {
        let Some(ground) = self.grounds.get_mut(common) else { return };
        if ground.busy || now < ground.rests_until {
            return;
        }
        let Some((repository, aside)) = ground.open.clone() else {
            self.grounds.remove(common);
            if self.trees.values().any(|tree| tree.live.place.repository == common) {
                self.open(common.to_owned(), now);
            }
            return;
        };
        let (mut subjects, mut known) = (Vec::new(), BTreeMap::new());
        for (task, tree) in &mut self.trees {
            if tree.live.place.repository != common {
                continue;
            }
            known.extend(tree.snapshot.clone().map(|snapshot| (*task, snapshot)));
            let ripe = |touched: &mut Touched| now.since(touched.since) >= DEBOUNCE_MS;
            if let Some(touched) = tree.touched.take_if(ripe) {
                tree.looking = true;
                subjects.push(Subject {
                    task: *task,
                    path: tree.live.place.path.clone(),
                    base: tree.base.clone(),
                    touched,
                    watched: tree.watched,
                });
            }
        }
        if subjects.is_empty() {
            return;
        }
        ground.busy = true;
        let compared = self.compared.clone();
        let looking = Look { repository, aside, subjects, known, compared };
        let (watcher, common) = (self.watcher.clone(), common.to_owned());
        self.work.spawn(async move {
            let (seen, compared) = look(looking, watcher).await;
            Done::Looked(common, seen, compared)
        });
    }

    /// When something is to be done though nothing happens.
    fn due(&self) -> Option<Timestamp> {
        let trees = self.trees.values().filter(|tree| !tree.looking).filter_map(|tree| {
            let ground = self.grounds.get(&tree.live.place.repository)?;
            let ripe =
                |touched: &Touched| Timestamp::from_millis(touched.since.millis() + DEBOUNCE_MS);
            let next =
                tree.touched.as_ref().map_or(tree.due, |touched| ripe(touched).min(tree.due));
            (!ground.busy).then_some(next.max(ground.rests_until))
        });
        let unsaid =
            (!self.unsaid.is_empty()).then(|| later(clock::now(), Duration::from_millis(100)));
        trees.chain(self.index.due()).chain(unsaid).min()
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(
        now.millis().saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
    )
}
