//! The queue's actor: the one place where lanes change.

use super::machine::{Event, Lane, Stays, Turn, Work};
use super::record::{Record, settled};
use super::runner::{self, Site};
use super::{Answer, Ask, back};
use crate::clock;
use crate::fault::point;
use crate::journal::{Answered, JournalError, QueueRow, QueueStep};
use crate::task::{Board, Command, Shop, chain};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{EntryId, RequestId, TaskId};
use hayward_shared::protocol::{FromDaemon, Reply};
use hayward_shared::queue::{QueueEntry, SentBack};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use uuid::Uuid;

/// A journal that cannot be written (its disk is full) is tried again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// The most entries that wait on one daemon.
const MOST_OPEN: usize = 500;

/// The most bytes of entries that one answer holds: a text frame takes a mebibyte.
const MOST_BYTES: usize = 768 * 1024;

/// A branch of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key(PathBuf, String);

impl Key {
    fn of(record: &Record) -> Self {
        let wish = &record.entry.wish;
        Self(PathBuf::from(&wish.repository), wish.target.clone())
    }

    /// As the journal calls it.
    fn name(&self) -> String {
        json!([self.0.to_string_lossy(), self.1]).to_string()
    }
}

struct Room {
    lane: Lane,
    /// The entries that have not ended.
    records: BTreeMap<EntryId, Record>,
    running: Option<Running>,
    /// What begins when that has ended.
    next: Option<(u64, Work)>,
}

/// Work under way.
struct Running {
    number: u64,
    task: Id,
    cancel: Option<oneshot::Sender<()>>,
}

/// What came of work.
struct Done {
    key: Key,
    number: u64,
    event: Event,
}

/// What brought a turn about, and what was asked with it.
#[derive(Default)]
struct Cause {
    /// Entries that nobody was told of yet.
    fresh: BTreeSet<EntryId>,
    answer: Option<(RequestId, FromDaemon)>,
}

pub(super) struct Owner {
    shop: Arc<Shop>,
    board: Board,
    rooms: BTreeMap<Key, Room>,
    works: JoinSet<Done>,
}

impl Owner {
    /// All lanes of the journal, going on.
    pub(super) async fn open(shop: Arc<Shop>, board: Board) -> Result<Self, JournalError> {
        let lanes = shop.journal.queue_lanes::<Lane>().await?;
        let mut owner =
            Self { shop: shop.clone(), board, rooms: BTreeMap::new(), works: JoinSet::new() };
        for (name, mut lane) in lanes {
            let Ok(key) = serde_json::from_str::<Key>(&name) else {
                tracing::warn!(name, "a lane of the merge queue has a name that means nothing");
                continue;
            };
            let rows = owner.shop.journal.queue_entries::<Record>(Some(&name), true).await?;
            let records = rows.into_iter().map(|record| (record.entry.id, record)).collect();
            let turn = lane.resume();
            owner.rooms.insert(key.clone(), Room { lane, records, running: None, next: None });
            owner.sweep(&key);
            owner.apply(&key, turn, Cause::default()).await;
        }
        let live = owner.rooms.values().map(|room| room.lane.id).collect();
        tokio::task::spawn_blocking(move || runner::drop_old_logs(&shop, &live));
        Ok(owner)
    }

    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<(Ask, Answer)>) {
        loop {
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some((ask, reply)) => {
                        let answer = self.answer(ask).await;
                        // whoever asked may have gone
                        drop(reply.send(answer));
                    }
                    None => return,
                },
                Some(done) = self.works.join_next() => {
                    match done {
                        Ok(Done { key, number, event }) => self.done(&key, number, event).await,
                        Err(error) => self.broke(&error).await,
                    }
                }
            }
        }
    }

    async fn answer(&mut self, ask: Ask) -> Result<Value, Fault> {
        match ask {
            Ask::Add(records, request) => self.add(records, request).await,
            Ask::List => self.list().await,
            Ask::Remove(id, request) => self.remove(id, request).await,
            Ask::Forget(task) => self.forget(task).await,
        }
    }

    /// Puts them at the end of their lane: they all go to one.
    async fn add(
        &mut self,
        records: Vec<Record>,
        request: Option<RequestId>,
    ) -> Result<Value, Fault> {
        let open = self.rooms.values().map(|room| room.records.len()).sum::<usize>();
        if open + records.len() > MOST_OPEN {
            let text = format!("{open} entries wait already: {MOST_OPEN} may");
            return Err(Fault::new(Code::Conflict, text));
        }
        for record in &records {
            let room = self.rooms.get(&Key::of(record));
            let waits = |task: TaskId| move |one: &Record| one.entry.task_id == task;
            if room.is_some_and(|room| room.records.values().any(waits(record.entry.task_id))) {
                let (task, target) = (record.entry.task_id.short(), &record.entry.wish.target);
                let text = format!("task {task} waits in the queue of '{target}' already");
                return Err(Fault::new(Code::Conflict, text));
            }
        }
        let payload = json!({ "queue": records.iter().map(|r| &r.entry).collect::<Vec<_>>() });
        let answer = FromDaemon::Reply(Reply::done(payload.clone()));
        let answer = request.map(|request| (request, answer));
        let Some(key) = records.first().map(Key::of) else { return Ok(payload) };
        let room = self.rooms.entry(key.clone()).or_insert_with(|| Room {
            lane: Lane::new(Uuid::now_v7()),
            records: BTreeMap::new(),
            running: None,
            next: None,
        });
        let turn = room.lane.add(records.iter().map(Record::item).collect());
        let fresh = records.iter().map(|record| record.entry.id).collect();
        room.records.extend(records.into_iter().map(|record| (record.entry.id, record)));
        self.apply(&key, turn, Cause { fresh, answer }).await;
        Ok(payload)
    }

    async fn remove(&mut self, id: EntryId, request: Option<RequestId>) -> Result<Value, Fault> {
        let found = self.rooms.iter_mut().find(|(_, room)| room.records.contains_key(&id));
        let Some((key, room)) = found else {
            let ended = self.shop.journal.queue_entries::<Record>(None, false).await;
            let ended = ended.map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
            let known = ended.into_iter().find(|record| record.entry.id == id);
            return Err(match known {
                Some(record) => {
                    let state = record.entry.state.name();
                    Fault::new(Code::Conflict, format!("entry {} has {state}", id.short()))
                }
                None => Fault::not_found("entry", id),
            });
        };
        let turn = room.lane.remove(id).map_err(|stays| match stays {
            Stays::Absent => Fault::not_found("entry", id),
            Stays::Landing => {
                let text = format!("entry {} passed its check and is about to land", id.short());
                Fault::new(Code::Conflict, text)
            }
        })?;
        let mut shown = room.records.get(&id).cloned();
        for change in &turn.changes {
            if let Some(record) = shown.as_mut().filter(|_| change.id == id) {
                record.take(change, clock::now());
            }
        }
        let payload = json!({ "entry": shown.map(|record| record.entry) });
        let answer = FromDaemon::Reply(Reply::done(payload.clone()));
        let answer = request.map(|request| (request, answer));
        let key = key.clone();
        self.apply(&key, turn, Cause { answer, ..Cause::default() }).await;
        Ok(payload)
    }

    /// Takes all entries of a task out, however many refuse.
    async fn forget(&mut self, task: TaskId) -> Result<Value, Fault> {
        let records = self.rooms.values().flat_map(|room| room.records.values());
        let ours = records.filter(|record| record.entry.task_id == task);
        let mut last = Ok(Value::Null);
        for id in ours.map(|record| record.entry.id).collect::<Vec<_>>() {
            if let Err(fault) = self.remove(id, None).await {
                last = Err(fault);
            }
        }
        last
    }

    /// All that wait, and what ended lately as far as it fits into an answer; oldest first.
    async fn list(&self) -> Result<Value, Fault> {
        let ended = self.shop.journal.queue_entries::<Record>(None, false).await;
        let ended = ended.map_err(|error| Fault::new(Code::Failed, chain(&error)))?;
        let mut open: Vec<QueueEntry> = Vec::new();
        for room in self.rooms.values() {
            for (at, id) in room.lane.ids().enumerate() {
                let entry = room.records.get(&id).map(|record| record.entry.clone());
                open.extend(
                    entry.map(|entry| QueueEntry { position: Some(at as u64 + 1), ..entry }),
                );
            }
        }
        let newest = ended.into_iter().rev().map(|record| record.entry);
        let mut bytes = 0;
        let mut shown: Vec<(EntryId, Value)> = Vec::new();
        let mut truncated = false;
        for entry in open.into_iter().chain(newest) {
            let row = serde_json::to_value(&entry).unwrap_or_default();
            bytes += row.to_string().len();
            truncated = bytes > MOST_BYTES;
            if truncated {
                break;
            }
            shown.push((entry.id, row));
        }
        shown.sort_by_key(|(id, _)| *id);
        let rows: Vec<_> = shown.into_iter().map(|(_, row)| row).collect();
        Ok(json!({ "queue": rows, "truncated": truncated }))
    }

    async fn done(&mut self, key: &Key, number: u64, event: Event) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        room.running = None;
        let turn = room.lane.on(number, event);
        self.apply(key, turn, Cause::default()).await;
    }

    async fn broke(&mut self, error: &tokio::task::JoinError) {
        let ours = |room: &Room| room.running.as_ref().is_some_and(|run| run.task == error.id());
        let found = self.rooms.iter().find(|(_, room)| ours(room));
        let found =
            found.and_then(|(key, room)| Some((key.clone(), room.running.as_ref()?.number)));
        if let Some((key, number)) = found {
            let why = format!("a step of the merge queue broke: {error}");
            tracing::error!(why);
            self.done(&key, number, Event::Trouble(why)).await;
        }
    }

    /// Writes a turn down, tells of it, and begins its work.
    async fn apply(&mut self, key: &Key, turn: Turn, cause: Cause) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        let now = clock::now();
        let mut touched = cause.fresh.clone();
        let mut messages = Vec::new();
        let mut words = Vec::new();
        for change in settled(turn.changes) {
            let Some(record) = room.records.get_mut(&change.id) else { continue };
            if !record.take(&change, now) && !cause.fresh.contains(&change.id) {
                continue;
            }
            touched.insert(change.id);
            let epoch = record.run.lease_epoch;
            messages.push((epoch, record.told(now)));
            if let Some(blame) = &change.blame {
                let way = back::way(&self.shop, &self.board, record).await;
                record.entry.sent_back = Some(way.clone());
                messages.push((epoch, record.rejected(blame, now)));
                match way {
                    SentBack::Message => {
                        words.push((record.entry.task_id, change.id, record.words(blame)));
                    }
                    SentBack::Resumed => {
                        messages.push((epoch, record.follow_up(record.words(blame))));
                    }
                    SentBack::Event { .. } => {}
                }
            }
        }
        if let Some(next) = turn.work {
            room.next = Some(next);
        }
        let is_over = room.lane.is_empty() && room.running.is_none();
        if is_over || !touched.is_empty() || room.next.is_some() {
            keep(&self.shop, key, room, &touched, &messages, cause.answer.as_ref()).await;
        }
        room.records.retain(|_, record| !record.entry.state.is_final());
        if let Err(error) = point("queue.turn.kept") {
            tracing::warn!(%error, "a test made a point fail that nothing hangs on");
        }
        for (task, id, text) in words {
            self.tell_agent(task, id, text).await;
        }
        match is_over {
            true => drop(self.rooms.remove(key)),
            false => self.proceed(key),
        }
    }

    /// Says it into the live session of that very task.
    async fn tell_agent(&self, task: TaskId, id: EntryId, text: String) {
        let told = self.board.command(task, Command::Message { id: id.0, text }).await;
        tokio::spawn(async move {
            if !matches!(told.await, Ok(Ok(()))) {
                tracing::debug!(%task, "its session has ended: the event alone tells of it");
            }
        });
    }

    /// Begins what is to be done, once what was under way has ended.
    fn proceed(&mut self, key: &Key) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        if let Some(running) = &mut room.running {
            if !room.lane.awaits(running.number)
                && let Some(cancel) = running.cancel.take()
            {
                let task = running.task;
                tracing::debug!(%task, done = cancel.send(()).is_err(), "no longer wanted");
            }
            return;
        }
        let Some((number, work)) = room.next.take() else { return };
        let (cancel, cancelled) = oneshot::channel();
        let (shop, site, to) = (self.shop.clone(), site(key, room), key.clone());
        let task = self.works.spawn(async move {
            let event = runner::perform(&shop, &site, work, cancelled).await;
            Done { key: to, number, event }
        });
        room.running = Some(Running { number, task: task.id(), cancel: Some(cancel) });
    }

    /// Clears away what a killed daemon left of a lane, before anything else is done in it.
    fn sweep(&mut self, key: &Key) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        let (shop, site, to) = (self.shop.clone(), site(key, room), key.clone());
        let task = self.works.spawn(async move {
            runner::clear(&shop, &site).await;
            Done { key: to, number: 0, event: Event::TimeUp }
        });
        room.running = Some(Running { number: 0, task: task.id(), cancel: None });
    }
}

fn site(key: &Key, room: &Room) -> Site {
    Site {
        lane: room.lane.id,
        repository: key.0.clone(),
        target: key.1.clone(),
        records: room.records.clone(),
    }
}

/// Returns only when it is on disk.
async fn keep(
    shop: &Shop,
    key: &Key,
    room: &Room,
    touched: &BTreeSet<EntryId>,
    messages: &[(u64, FromDaemon)],
    answer: Option<&(RequestId, FromDaemon)>,
) {
    let row = |id: &EntryId| {
        let body = room.records.get(id)?;
        Some(QueueRow { id: *id, open: !body.entry.state.is_final(), body })
    };
    let name = key.name();
    let step = QueueStep {
        lane: &name,
        state: (!room.lane.is_empty() || room.running.is_some()).then_some(&room.lane),
        entries: touched.iter().filter_map(row).collect(),
        messages,
        answered: answer.map(|(request, answer)| Answered {
            request: *request,
            answer,
            at: clock::now(),
        }),
    };
    while let Err(error) = shop.journal.keep_queue(&step).await {
        tracing::error!(error = chain(&error), "a step of the merge queue waits for the journal");
        tokio::time::sleep(WRITE_AGAIN).await;
    }
}
