//! The room: one actor that knows the live worktrees, has them looked at when they were touched,
//! and says what is new.

use super::index::{Announcement, Index, Two};
use super::look::{Compared, Look, Seen, Subject, look};
use super::watcher::{Touched, Watcher, Watches};
use super::{Ask, Report, Settings};
use crate::clock;
use crate::git::aside::Aside;
use crate::git::snapshot::Snapshot;
use crate::git::touched::TouchedFile;
use crate::git::{CommitId, Repositories, Repository};
use crate::task::LivePlace;
use hayward_shared::git::{Lines, TaskLines, TaskRename};
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

/// The most lines of one task that a verdict names.
const MOST_LINES: usize = 100;

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

/// A live worktree.
struct Tree {
    live: LivePlace,
    base: CommitId,
    snapshot: Option<Arc<Snapshot>>,
    touched: Option<Touched>,
    watched: Option<bool>,
    /// When it is looked at though nothing was seen to be touched.
    due: Timestamp,
    looking: bool,
}

impl Tree {
    fn is_known(&self) -> bool {
        self.snapshot.is_some() && self.touched.is_none() && !self.looking
    }
}

/// A repository with live worktrees.
struct Ground {
    open: Option<(Repository, Aside)>,
    busy: bool,
    rests_until: Timestamp,
    looks: u32,
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

    /// The runs that are under way have changed.
    fn attend(&mut self, live: BTreeMap<TaskId, LivePlace>, now: Timestamp) {
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
    fn renew(&mut self, common: &Path, now: Timestamp) {
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

    fn open(&mut self, common: PathBuf, now: Timestamp) {
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

    /// Where tasks renamed a file to.
    fn renames(&self, tasks: &[TaskId], path: &Path) -> Vec<TaskRename> {
        let to = |task: &TaskId| {
            let snapshot = self.trees.get(task)?.snapshot.as_ref()?;
            let to = touched(snapshot, path)?.renamed_to.as_ref()?;
            Some(TaskRename { task_id: *task, to: to.to_string_lossy().into_owned() })
        };
        tasks.iter().filter_map(to).collect()
    }

    fn report(&self, only: Option<TaskId>) -> Report {
        let lines = |task_id: TaskId, path: &Path| {
            let tree = self.trees.get(&task_id).and_then(|tree| tree.snapshot.as_ref());
            TaskLines { task_id, lines: tree.map(|tree| lines_of(tree, path)).unwrap_or_default() }
        };
        let repository = |task| {
            let tree = self.trees.get(&task);
            tree.map(|tree| tree.live.place.repository.display().to_string()).unwrap_or_default()
        };
        let mut verdicts = self.index.verdicts(only, lines, repository);
        for verdict in &mut verdicts {
            verdict.renames = self.renames(&verdict.tasks, Path::new(&verdict.file_path));
        }
        let polled = self.trees.iter().filter(|(_, tree)| tree.watched == Some(false));
        let Watches { count, budget, why_polled } = self.watcher.standing();
        Report {
            verdicts,
            live: self.trees.len(),
            looked_at: self.trees.values().filter(|tree| tree.is_known()).count(),
            watched: Watches { count, budget, why_polled },
            polled: polled.map(|(task, _)| *task).collect(),
        }
    }
}

fn touched<'a>(snapshot: &'a Snapshot, path: &Path) -> Option<&'a TouchedFile> {
    let at = snapshot.files.binary_search_by(|file| file.path.as_path().cmp(path)).ok()?;
    snapshot.files.get(at)
}

fn lines_of(snapshot: &Snapshot, path: &Path) -> Vec<Lines> {
    let hunks = touched(snapshot, path).and_then(|file| file.hunks.as_ref());
    hunks.into_iter().flatten().map(|hunk| hunk.new).take(MOST_LINES).collect()
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_millis(
        now.millis().saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
    )
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
