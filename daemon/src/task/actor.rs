//! The actor of a run: it gathers what happens, lets the machine decide, writes the decision down,
//! and only then acts on it.

use super::attend::{Attended, Seen, agent_exit};
use super::input::{Input, Wrote, text};
use super::machine::{Effect, Event, GRACE_MS, Machine, Turn};
use super::places::Present;
use super::prepare::{self, Past, Start};
use super::shop::Shop;
use super::state::{ExitFacts, Phase, RunState, Terms, Unwritten, Wish};
use super::telling::{seen_from, tell};
use super::{deliver, furnish, order::RunOrder};
use crate::agent::ending::{Ending, Exit};
use crate::agent::event::AgentEvent;
use crate::agent::{Decode, Step};
use crate::clock::{self, roll};
use crate::home::Home;
use crate::journal::{RunRow, Step as JournalStep};
use crate::keeper::RunFolder;
use crate::session::{self, End, Found, Session, StartError};
use hayward_shared::fault::Fault;
use hayward_shared::id::RunId;
use hayward_shared::protocol::{FromDaemon, SpawnTask};
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{Order, Reason};
use hayward_shared::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// A keeper that could not be asked, or speaks another version, is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A journal that cannot be written (its disk is full) is tried again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// A run on its way.
pub(super) struct Actor {
    pub(super) shop: Arc<Shop>,
    pub(super) key: RunKey,
    pub(super) order: Order,
    pub(super) machine: Machine,
    past: Past,
    pub(super) work: JoinSet<Done>,
    pub(super) input: Input,
    attended: Option<Attended>,
    session: watch::Sender<Option<Session>>,
    alarm: Option<Timestamp>,
    pub(super) present: Option<Present>,
    over: bool,
}

/// What became of an effect.
pub(super) enum Done {
    /// The machine's answer.
    Event(Event),
    /// Keeper and agent were started.
    Started(Result<Session, StartError>),
    /// What was found of a session.
    Found(Found),
    /// How to start.
    Ready(Box<Result<Start, Failure>>),
    /// The session did what a person ordered, or refused.
    Asked(Option<Event>, oneshot::Sender<Result<(), Fault>>, Result<(), Fault>),
    /// Input was written to the agent, as far as it went.
    Wrote(Wrote),
    /// Something whose end is seen elsewhere.
    Nothing,
}

/// What the actor woke up for.
enum Woken {
    Done(Done),
    Order(RunOrder),
    Seen(std::io::Result<Seen>),
    TimeUp,
    Abandoned,
}

impl Actor {
    pub(super) fn new(
        shop: Arc<Shop>,
        key: RunKey,
        spawn: &SpawnTask,
        state: RunState,
        former: Option<RunRow<RunState>>,
    ) -> Self {
        let order = prepare::order_of(spawn);
        let terms = Terms {
            key,
            attempt: spawn.run.as_ref().map_or(1, |run| run.attempt),
            max_attempts: order.max_attempts,
            timeout_ms: order
                .timeout_seconds
                .map(|s| i64::try_from(s).unwrap_or(i64::MAX / 1_000) * 1_000),
            require_changes: order.require_changes,
        };
        if let Some(first) = state.place.as_ref().and_then(|place| place.first_port) {
            shop.ports.restore(key.run_id, first);
        }
        Self {
            shop,
            key,
            order,
            machine: Machine::new(terms, state),
            past: Past::new(spawn, former),
            work: JoinSet::new(),
            input: Input::default(),
            attended: None,
            session: watch::Sender::new(None),
            alarm: None,
            present: None,
            over: false,
        }
    }

    /// The live session, whenever there is one; ends with the actor.
    pub(super) fn session_watch(&self) -> watch::Receiver<Option<Session>> {
        self.session.subscribe()
    }

    fn attend(&mut self, session: Session) {
        self.session.send_replace(Some(session.clone()));
        self.attended = Some(Attended::live(session, self.machine.reading()));
    }

    /// Runs to the end. Dropping it leaves the agent with its keeper, to be adopted later.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<RunOrder>) {
        self.take(Event::Proceed).await;
        while !self.over {
            match self.gather(&mut orders).await {
                Woken::Done(done) => self.done(done).await,
                Woken::Order(order) => self.obey(order).await,
                Woken::Seen(Ok(Seen::Steps(steps))) => self.steps(steps).await,
                Woken::Seen(Ok(Seen::Over(end))) => self.ended(&end).await,
                Woken::Seen(Err(error)) => {
                    let text = format!("the output of the session cannot be read: {error}");
                    if let Some(attended) = &mut self.attended {
                        attended.stop_decoding();
                    }
                    self.take(Event::Failed(Failure::new(Reason::Internal, text))).await;
                }
                Woken::TimeUp => {
                    self.alarm = None;
                    self.take(Event::TimeUp).await;
                }
                Woken::Abandoned => return,
            }
        }
        self.leave().await;
    }

    /// Gives back what the run had besides its place on the board.
    async fn leave(&self) {
        let state = self.machine.state();
        if let Some(place) = &state.place
            && state.wish != Some(Wish::Fenced)
        {
            furnish::mend(&self.shop, self.key, place).await;
            furnish::tear_down(&self.shop, self.key, &self.order, place).await;
        }
        self.shop.ports.release(self.key.run_id);
    }

    async fn gather(&mut self, orders: &mut mpsc::Receiver<RunOrder>) -> Woken {
        let alarm = self.alarm;
        let due = async {
            match alarm {
                Some(at) => {
                    let ms = u64::try_from(at.since(clock::now())).unwrap_or(0);
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                None => std::future::pending().await,
            }
        };
        let reading = self.machine.reading();
        let seen = async {
            match &mut self.attended {
                Some(attended) => attended.next(reading, clock::now).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            order = orders.recv() => order.map_or(Woken::Abandoned, Woken::Order),
            Some(done) = self.work.join_next() => match done {
                Ok(done) => Woken::Done(done),
                Err(error) => Woken::Done(Done::Event(Event::Failed(Failure::new(
                    Reason::Internal,
                    format!("a step of the run broke: {error}"),
                )))),
            },
            seen = seen => Woken::Seen(seen),
            () = due => Woken::TimeUp,
        }
    }

    /// Lets the machine decide, writes the decision down, begins its effects.
    pub(super) async fn take(&mut self, event: Event) {
        let turn = self.machine.on(event, clock::now(), roll());
        self.turn(turn).await;
    }

    async fn turn(&mut self, turn: Turn) {
        self.write_down(&turn.messages).await;
        self.show_place();
        for effect in turn.effects {
            self.begin(effect).await;
        }
    }

    /// Returns only when state and messages are on disk.
    pub(super) async fn write_down(&mut self, messages: &[FromDaemon]) {
        loop {
            let step = JournalStep {
                key: self.key,
                state: self.machine.state(),
                ended: self.machine.state().phase == Phase::Ended,
                messages,
                at: clock::now(),
            };
            match self.shop.journal.step(step).await {
                Ok(()) => return,
                Err(error) => {
                    let text = prepare::chain(&error);
                    tracing::error!(task = %self.key.task_id, text, "a step waits for the journal");
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
    }

    async fn begin(&mut self, effect: Effect) {
        let (shop, key, order) = (self.shop.clone(), self.key, self.order.clone());
        let state = self.machine.state();
        match effect {
            Effect::Prepare => {
                let past = self.past.clone();
                self.work.spawn(async move {
                    let made = prepare::prepare(&shop, key, &order, &past).await;
                    Done::Event(made.map_or_else(Event::Failed, |(place, chosen)| {
                        Event::Prepared(place, chosen)
                    }))
                });
            }
            Effect::Start => {
                let (place, chosen) = (state.place.clone(), state.agent.clone());
                let past = self.past.clone();
                self.work.spawn(async move {
                    let ready = match (&place, &chosen) {
                        (Some(place), Some(chosen)) => {
                            let what = (place, chosen);
                            prepare::start(&shop, key, &order, what, &past).await
                        }
                        _ => Err(Failure::new(Reason::Internal, "the run has no worktree")),
                    };
                    Done::Ready(Box::new(ready))
                });
            }
            Effect::Find => {
                let folder = self.folder();
                self.work.spawn(async move { Done::Found(find(&folder).await) });
            }
            Effect::Attend | Effect::Arm(_) | Effect::End | Effect::Over => {
                self.begin_here(effect).await;
            }
            Effect::Deliver => {
                let place = state.place.clone();
                self.work.spawn(async move {
                    let delivered = match &place {
                        Some(place) => deliver::deliver(&shop, key.task_id, &order, place).await,
                        None => Err(Failure::new(Reason::Internal, "the run has no worktree")),
                    };
                    Done::Event(match delivered {
                        Ok((work, None)) => Event::Delivered(work),
                        Ok((work, Some(failure))) => Event::Stuck(work, failure),
                        Err(failure) => Event::Failed(failure),
                    })
                });
            }
        }
    }

    async fn begin_here(&mut self, effect: Effect) {
        match effect {
            Effect::Arm(at) => self.alarm = Some(at),
            Effect::End => {
                if let Some(session) = self.session().cloned() {
                    self.work.spawn(async move {
                        end(&session).await;
                        Done::Nothing
                    });
                } else if self.machine.state().phase == Phase::Running {
                    self.find_later();
                }
            }
            Effect::Over => self.over = true,
            // the session is attended from the moment it is there; what it wants is written now
            _ => self.write_on(),
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Event(event) => self.take(event).await,
            Done::Ready(_) if self.machine.state().wish.is_some() => {
                let text = "it was ended before its agent started";
                self.take(Event::Failed(Failure::new(Reason::Internal, text))).await;
            }
            Done::Ready(ready) => match *ready {
                Ok(start) => self.launch(start).await,
                Err(failure) => self.take(Event::Failed(failure)).await,
            },
            Done::Started(Ok(session)) => {
                let pid = session.agent_pid().map(|agent| agent.pid);
                self.attend(session);
                if let Some(pid) = pid {
                    self.take(Event::Started { pid }).await;
                }
            }
            Done::Started(Err(StartError::Silent)) => {
                self.begin(Effect::Find).await;
            }
            Done::Started(Err(error)) => {
                let failure = Failure::new(Reason::SpawnFailed, prepare::chain(&error));
                self.take(Event::Failed(failure)).await;
            }
            Done::Found(found) => self.found(found).await,
            Done::Asked(event, reply, result) => {
                if let (Ok(()), Some(event)) = (&result, event) {
                    self.take(event).await;
                }
                answer(reply, result);
            }
            Done::Wrote(wrote) => self.wrote(wrote).await,
            Done::Nothing => {}
        }
    }

    /// The decoder is on disk before the agent can say anything.
    async fn launch(&mut self, start: Start) {
        let reading = self.machine.reading();
        reading.decoder = Some(start.decoder);
        reading.unwritten = start.first_input.map(text).into_iter().collect();
        self.write_down(&[]).await;
        let (folder, keeper) = (self.folder(), self.shop.keeper.clone());
        self.work.spawn(async move {
            Done::Started(session::start(&folder, &start.launch, &keeper).await)
        });
    }

    async fn found(&mut self, found: Found) {
        let folder = self.folder();
        match found {
            Found::Live(session) => {
                let pid = session.agent_pid().map_or(0, |agent| agent.pid);
                self.attend(session);
                self.take(Event::Adopted { pid }).await;
            }
            Found::Never => self.take(Event::NeverStarted).await,
            Found::Ended(exit) => {
                let end = End::Exited(exit);
                self.attended = Some(Attended::past(&folder, end, self.machine.reading()));
            }
            Found::Lost(lost) => {
                let end = End::Lost(lost);
                self.attended = Some(Attended::past(&folder, end, self.machine.reading()));
            }
            Found::Foreign { version } => {
                tracing::warn!(task = %self.key.task_id, version, "its keeper is of another version; left alone");
                self.find_later();
            }
            Found::Unknown(doubt) => {
                tracing::warn!(task = %self.key.task_id, ?doubt, "its keeper does not answer; left alone");
                self.find_later();
            }
        }
    }

    fn find_later(&mut self) {
        let folder = self.folder();
        self.work.spawn(async move {
            tokio::time::sleep(ASK_AGAIN).await;
            Done::Found(find(&folder).await)
        });
    }

    /// What the decoder said: told and kept in one write, then done.
    pub(super) async fn steps(&mut self, steps: Vec<Step>) {
        self.note(steps).await;
        self.write_on();
    }

    /// Keeps what the decoder said, and what is to be told of it, in one write.
    pub(super) async fn note(&mut self, steps: Vec<Step>) {
        let (now, key) = (clock::now(), self.key);
        let worktree = self.machine.state().place.as_ref().map(|place| place.path.clone());
        let reading = self.machine.reading();
        let mut messages = Vec::new();
        for step in steps {
            match step {
                Step::Event(seen) => {
                    if let AgentEvent::Session { id, .. } = &seen {
                        reading.session_id = Some(id.clone());
                    }
                    let seen = seen_from(seen, worktree.as_deref());
                    messages.extend(tell(key, &seen, &mut reading.telling, now));
                }
                Step::Write(bytes) => reading.unwritten.push(text(bytes)),
                Step::CloseInput => reading.unwritten.push(Unwritten::Close),
            }
        }
        self.write_down(&messages).await;
    }

    pub(super) fn session(&self) -> Option<&Session> {
        self.attended.as_ref().and_then(Attended::session)
    }

    async fn ended(&mut self, end: &End) {
        self.attended = None;
        let Some(exit) = agent_exit(end) else {
            let text = "the session's keeper was killed; its agent was ended with it";
            self.take(Event::Lost(Failure::new(Reason::SessionLost, text))).await;
            return;
        };
        let ending = match &self.machine.state().reading.decoder {
            Some(decoder) => decoder.finish(&exit),
            None => Ending::Finished,
        };
        let facts = ExitFacts {
            code: if let Exit::Code(code) = exit { Some(code) } else { None },
            signal: if let Exit::Signal(signal) = exit { Some(signal) } else { None },
            output_bytes: if let End::Exited(exit) = end { exit.output_end } else { 0 },
        };
        let ending = match ending {
            Ending::Finished => Ok(()),
            Ending::Failed { reason, message } => Err(Failure::new(reason, message)),
        };
        self.take(Event::Exited(facts, ending)).await;
    }

    fn folder(&self) -> RunFolder {
        run_folder(&self.shop.home, self.key.run_id, self.machine.state())
    }
}

/// A folder that was never made is one in which no agent started: it is made, to be barred.
async fn find(folder: &RunFolder) -> Found {
    if let Err(error) = folder.create() {
        tracing::warn!(%error, folder = %folder.path().display(), "a run folder cannot be made");
    }
    session::find(folder).await
}

/// Asks until it is heard: a cancelled agent must not go on because its keeper was slow once.
async fn end(session: &Session) {
    while let Err(error) = session.end(Duration::from_millis(GRACE_MS)).await {
        if matches!(error, session::SessionError::Ended) {
            return;
        }
        tracing::warn!(
            text = prepare::chain(&error),
            "a session was asked to end and did not answer"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Where a run's session is. One whose folder was barred before its agent started has the next.
pub(crate) fn run_folder(home: &Home, run: RunId, state: &RunState) -> RunFolder {
    let folder = home.run(run);
    match state.folder {
        0 => RunFolder::new(folder),
        n => RunFolder::new(folder.with_extension(n.to_string())),
    }
}

/// Answers whoever gave an order; nobody may be waiting any more.
pub(super) fn answer<T>(reply: oneshot::Sender<T>, with: T) {
    drop(reply.send(with));
}
