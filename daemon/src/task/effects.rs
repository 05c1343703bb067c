//! What the machine decided, begun: its effects run beside the actor, which hears of their end.

use super::actor::{Actor, Done, run_folder};
use super::attend::Attended;
use super::deliver;
use super::input::text;
use super::machine::{Effect, Event, GRACE_MS};
use super::prepare::{self, Start};
use super::shop::Shop;
use super::state::Phase;
use super::time::Time;
use crate::keeper::RunFolder;
use crate::session::{self, End, Found, Lost, Session};
use hayward_shared::id::RunId;
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{CompletionAction, Order, Reason};
use std::time::Duration;

/// A keeper that could not be asked, or speaks another version, is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Actor {
    pub(super) async fn begin(&mut self, effect: Effect) {
        let (shop, key, order) = (self.shop.clone(), self.key, self.order.clone());
        let state = self.machine.state();
        match effect {
            Effect::Prepare if self.is_unfenced() => {
                // it would have to end its own agent before another daemon may begin
                let text = "the relay does not say when this daemon would have to end the agent for \
                            another to take over: upgrade it, or leave requeueAfter out";
                let failure = Failure::new(Reason::ActionUnsupported, text);
                self.take_later(Event::Failed(failure));
            }
            Effect::Prepare => {
                let past = self.past.clone();
                self.aside(async move {
                    let made = match &shop.stage {
                        Some(stage) => stage.prepare(key).await,
                        None => prepare::prepare(&shop, key, &order, &past).await,
                    };
                    Done::Event(made.map_or_else(Event::Failed, |(place, chosen)| {
                        Event::Prepared(place, chosen)
                    }))
                });
            }
            Effect::Start => {
                let (place, chosen) = (state.place.clone(), state.agent.clone());
                let past = self.past.clone();
                let acknowledged = self.time.as_ref().map(Time::acknowledged);
                self.aside(async move {
                    let mut sent_ms = None;
                    if let Some(acknowledged) = acknowledged {
                        sent_ms = acknowledged.wait().await;
                        if sent_ms.is_none() {
                            return Done::Event(Event::Expired(None));
                        }
                    }
                    let ready = match (&place, &chosen) {
                        (Some(place), Some(_)) if shop.stage.is_some() => {
                            Ok(Start::elsewhere(key, place))
                        }
                        (Some(place), Some(chosen)) => {
                            let what = (place, chosen);
                            prepare::start(&shop, key, &order, what, &past).await
                        }
                        _ => Err(Failure::new(Reason::Internal, "the run has no worktree")),
                    };
                    Done::Ready(Box::new(ready.map(|start| (start, sent_ms))))
                });
            }
            Effect::Find => {
                let folder = self.folder();
                self.aside(async move { Done::Found(find(&shop, key, folder).await) });
            }
            Effect::Attend | Effect::Arm(_) | Effect::End | Effect::CallOff | Effect::Over => {
                self.begin_here(effect).await;
            }
            Effect::Deliver if self.time.as_ref().is_some_and(Time::is_over) => {
                // another daemon may be at the same work by now
                self.take_later(Event::Expired(None));
            }
            Effect::Deliver => self.deliver(order),
        }
    }

    fn deliver(&mut self, mut order: Order) {
        let (shop, key, state) = (self.shop.clone(), self.key, self.machine.state());
        let place = state.place.clone();
        let goes_home =
            matches!(order.completion_action, CompletionAction::Merge | CompletionAction::Pr);
        if state.wish.is_some() && goes_home {
            // the work is kept on its branch, and goes nowhere
            order.completion_action = CompletionAction::Branch;
        }
        self.aside(async move {
            let delivered = match (&place, &shop.stage) {
                (Some(_), Some(stage)) => stage.deliver(key).await.map(|work| (work, None)),
                (Some(place), None) => deliver::deliver(&shop, key, &order, place).await,
                (None, _) => Err(Failure::new(Reason::Internal, "the run has no worktree")),
            };
            Done::Event(match delivered {
                Ok((work, None)) => Event::Delivered(work),
                Ok((work, Some(failure))) => Event::Stuck(work, failure),
                Err(failure) => Event::Failed(failure),
            })
        });
    }

    async fn begin_here(&mut self, effect: Effect) {
        match effect {
            Effect::Arm(at) => self.alarm = Some(at),
            Effect::End => {
                if let Some(session) = self.session().cloned() {
                    self.aside(async move {
                        end(&session).await;
                        Done::Nothing
                    });
                } else if self.machine.state().phase == Phase::Running {
                    self.find_later();
                }
            }
            Effect::Over => {
                self.over = true;
                // what it was to have done in the background is nobody's business any more
                self.shop.jobs.call_off(self.key.run_id).await;
            }
            Effect::CallOff => self.shop.jobs.call_off(self.key.run_id).await,
            // the session is attended from the moment it is there; what it wants is written now
            _ => self.write_on(),
        }
    }

    /// Whether its task may be handed over, and nobody said when its agent would have to be ended.
    fn is_unfenced(&self) -> bool {
        self.order.requeue_after.is_some() && self.time.is_none() && self.past.follow_up.is_none()
    }

    /// The decoder is on disk before the agent can say anything. `sent_ms` is when the beat was sent
    /// that acknowledged the run, where it lives by that.
    pub(super) async fn launch(&mut self, start: Start, sent_ms: Option<u64>) {
        let mut launch = start.launch;
        if let Some(sent_ms) = sent_ms {
            launch.fenced = true;
            match self.begin_time(sent_ms) {
                Ok(true) => {}
                Ok(false) => return self.take_later(Event::Expired(None)),
                Err(error) => {
                    let text = format!("the run folder cannot be written: {error}");
                    let failure = Failure::new(Reason::SpawnFailed, text);
                    return self.take_later(Event::Failed(failure));
                }
            }
        }
        let reading = self.machine.reading();
        reading.decoder = Some(start.decoder);
        reading.unwritten = start.first_input.map(text).into_iter().collect();
        self.write_down(&[]).await;
        let (folder, key, shop) = (self.folder(), self.key, self.shop.clone());
        self.aside(async move {
            Done::Started(match &shop.stage {
                Some(stage) => stage.start(key, folder).await,
                None => session::start(&folder, &launch, &shop.keeper).await,
            })
        });
    }

    /// Has an event taken when the present one has been.
    fn take_later(&mut self, event: Event) {
        self.aside(async move { Done::Event(event) });
    }

    pub(super) async fn found(&mut self, found: Found) {
        let folder = self.folder();
        match found {
            Found::Live(session) => {
                let pid = session.agent_pid().map_or(0, |agent| agent.pid);
                self.attend(session);
                self.take(Event::Adopted { pid }).await;
            }
            Found::Never if self.machine.state().phase == Phase::Running => {
                tracing::warn!("its session began and left no records; what lives of it is ended");
                let (shop, run) = (self.shop.clone(), self.key.run_id);
                self.aside(async move { Done::Found(Found::Lost(clear(&shop, run).await)) });
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
                tracing::warn!(version, "its keeper is of another version; left alone");
                self.find_later();
            }
            Found::Unknown(doubt) => {
                tracing::warn!(?doubt, "its keeper does not answer; left alone");
                self.find_later();
            }
        }
    }

    fn find_later(&mut self) {
        let (folder, key, shop) = (self.folder(), self.key, self.shop.clone());
        self.aside(async move {
            tokio::time::sleep(ASK_AGAIN).await;
            Done::Found(find(&shop, key, folder).await)
        });
    }

    pub(super) fn folder(&self) -> RunFolder {
        run_folder(&self.shop.home, self.key.run_id, self.machine.state())
    }
}

/// A folder that was never made is one in which no agent started: it is made, to be barred.
async fn find(shop: &Shop, key: RunKey, folder: RunFolder) -> Found {
    if let Some(stage) = &shop.stage {
        return stage.find(key, folder).await;
    }
    if let Err(error) = folder.create() {
        tracing::warn!(%error, folder = %folder.path().display(), "a run folder cannot be made");
    }
    session::find(&folder).await
}

/// Ends what lives of a session that left no records.
async fn clear(shop: &Shop, run: RunId) -> Lost {
    match shop.stage {
        Some(_) => Lost { ended: 0, left: 0 },
        None => session::clear_unrecorded(run).await,
    }
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
