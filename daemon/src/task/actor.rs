//! The actor of a run: it gathers what happens, lets the machine decide, writes the decision down,
//! and only then acts on it.

use super::attend::{Attended, Seen, agent_exit};
use super::input::{Input, Wrote, text};
use super::machine::{Effect, Event, Machine, Turn};
use super::places::Present;
use super::prepare::{self, Past, Start};
use super::shop::Shop;
use super::state::{ExitFacts, Phase, RunState, Terms, Unwritten, Wish};
use super::telling::{seen_from, tell};
use super::time::Time;
use super::{furnish, order::RunOrder};
use crate::agent::ending::{Ending, Exit};
use crate::agent::event::AgentEvent;
use crate::agent::{Decode, Step};
use crate::clock::{self, roll};
use crate::home::Home;
use crate::journal::{RunRow, Step as JournalStep};
use crate::keeper::RunFolder;
use crate::session::{End, Found, Session, StartError};
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
use tracing::{Instrument, Span};

/// A journal that cannot be written (its disk is full) is tried again after this long.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// A run on its way.
pub(super) struct Actor {
    pub(super) shop: Arc<Shop>,
    pub(super) key: RunKey,
    /// Of all that is said of the run.
    pub(super) span: Span,
    pub(super) order: Order,
    pub(super) machine: Machine,
    pub(super) past: Past,
    pub(super) work: JoinSet<Done>,
    pub(super) input: Input,
    pub(super) attended: Option<Attended>,
    pub(super) session: watch::Sender<Option<Session>>,
    pub(super) alarm: Option<Timestamp>,
    pub(super) present: Option<Present>,
    pub(super) time: Option<Time>,
    pub(super) over: bool,
}

/// What became of an effect.
pub(super) enum Done {
    /// The machine's answer.
    Event(Event),
    /// Keeper and agent were started.
    Started(Result<Session, StartError>),
    /// What was found of a session.
    Found(Found),
    /// How to start, and when the beat was sent that acknowledged the run.
    Ready(Box<Result<(Start, Option<u64>), Failure>>),
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
    /// The relay heard a beat that names the run.
    Renewed,
    Abandoned,
}

impl Actor {
    pub(super) fn new(
        shop: Arc<Shop>,
        (key, span): (RunKey, Span),
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
        let time = spawn.run.as_ref().and_then(|run| run.fence_after_ms).map(|after_ms| {
            Time::begin(
                key.task_id,
                after_ms,
                &shop.leases,
                &run_folder(&shop.home, key.run_id, &state),
            )
        });
        Self {
            shop,
            key,
            span,
            order,
            machine: Machine::new(terms, state),
            past: Past::new(spawn, former),
            work: JoinSet::new(),
            input: Input::default(),
            attended: None,
            session: watch::Sender::new(None),
            alarm: None,
            present: None,
            time,
            over: false,
        }
    }

    /// The live session, whenever there is one; ends with the actor.
    pub(super) fn session_watch(&self) -> watch::Receiver<Option<Session>> {
        self.session.subscribe()
    }

    pub(super) fn attend(&mut self, session: Session) {
        self.session.send_replace(Some(session.clone()));
        self.attended = Some(Attended::live(session, self.machine.reading()));
    }

    /// Runs to the end. Dropping it leaves the agent with its keeper, to be adopted later.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<RunOrder>) {
        tracing::info!(phase = ?self.machine.state().phase, "its run is taken up");
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
                Woken::Renewed => self.write_time(),
                Woken::Abandoned => return,
            }
        }
        self.leave().await;
        tracing::info!("its run is over");
    }

    /// Does something beside the actor, which hears what became of it.
    pub(super) fn aside(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.work.spawn(work.in_current_span());
    }

    /// Gives back what the run had besides its place on the board.
    async fn leave(&self) {
        let state = self.machine.state();
        if let Some(place) = &state.place
            && self.shop.stage.is_none()
            && !matches!(state.wish, Some(Wish::Fenced | Wish::Expired))
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
        let time = self.time.as_mut();
        let renewed = async {
            match time {
                Some(time) => time.renewed().await,
                None => std::future::pending().await,
            }
        };
        // orders before all else; output, which may come without end, behind all else
        tokio::select! {
            biased;
            order = orders.recv() => order.map_or(Woken::Abandoned, Woken::Order),
            () = due => Woken::TimeUp,
            Some(done) = self.work.join_next() => match done {
                Ok(done) => Woken::Done(done),
                Err(error) => Woken::Done(Done::Event(Event::Failed(Failure::new(
                    Reason::Internal,
                    format!("a step of the run broke: {error}"),
                )))),
            },
            () = renewed => Woken::Renewed,
            seen = seen => Woken::Seen(seen),
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
                    tracing::error!(text, "a step waits for the journal");
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
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
                Ok((start, sent_ms)) => self.launch(start, sent_ms).await,
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
            let text =
                "the session's keeper or its records are gone; its agent was ended with them";
            self.take(Event::Lost(Failure::new(Reason::SessionLost, text))).await;
            return;
        };
        let ending = match &self.machine.state().reading.decoder {
            Some(decoder) => decoder.finish(&exit),
            None => Ending::Finished,
        };
        let fenced = matches!(end, End::Exited(exit) if exit.is_fenced());
        let facts = ExitFacts {
            code: if let Exit::Code(code) = exit { Some(code) } else { None },
            signal: if let Exit::Signal(signal) = exit { Some(signal) } else { None },
            output_bytes: if let End::Exited(exit) = end { exit.output_end } else { 0 },
        };
        let ending = match ending {
            Ending::Finished => Ok(()),
            Ending::Failed { reason, message } => Err(Failure::new(reason, message)),
        };
        let event = if fenced { Event::Expired(Some(facts)) } else { Event::Exited(facts, ending) };
        self.take(event).await;
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
