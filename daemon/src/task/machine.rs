//! What happens in a run, and what follows: pure.
//!
//! The machine takes what happened and answers what to write down and what to do. Its messages
//! and its new state go to the journal together, before any of its effects is begun.

use super::state::{
    Chosen, ExitFacts, Phase, Place, RunState, Terms, Wish, Work, details_of, details_of_failure,
};
use crate::agent::Decode;
use hayward_shared::event::{Channel, Kind, MAX_TEXT, bounded};
use hayward_shared::protocol::{Details, FromDaemon, StatusReport, TaskEvent};
use hayward_shared::run::Failure;
use hayward_shared::task::{Outcome, Reason, Retry, Status, retry_delay_ms};
use hayward_shared::time::Timestamp;
use serde_json::{Value, json};

/// Milliseconds between asking a cancelled agent to end and killing it: a cancel must have ended
/// it within two seconds.
pub const GRACE_MS: u64 = 1_000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// There is a free place for it, or the daemon came back: go on from the phase it is in.
    Proceed,
    /// The worktree is there.
    Prepared(Place, Chosen),
    /// The agent's process runs.
    Started {
        /// Its process.
        pid: i32,
    },
    /// The daemon came back and the agent's process runs still.
    Adopted {
        /// Its process.
        pid: i32,
    },
    /// The folder of the keeper is barred and no agent ever started in it.
    NeverStarted,
    /// Something of the run failed. Its agent, if one lives, is ended first.
    Failed(Failure),
    /// The session is gone without a record, and nothing of it lives.
    Lost(Failure),
    /// The agent's process ended and all its output was read.
    Exited(ExitFacts, Result<(), Failure>),
    /// The work is home.
    Delivered(Work),
    /// The work is on its branch, and went no further.
    Stuck(Work, Failure),
    /// No word of the relay came in time. Nothing of its session lives: how it ended, where there
    /// was one.
    Expired(Option<ExitFacts>),
    /// Its time ran out.
    TimeUp,
    /// A person cancelled the task.
    Cancel,
    /// Another daemon has the task.
    Fence,
    /// The agent was frozen.
    Paused,
    /// The agent goes on.
    Resumed,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make the worktree and choose the agent; answered by `Prepared` or `Failed`.
    Prepare,
    /// Start keeper and agent; answered by `Started`, `Exited` or `Failed`.
    Start,
    /// Find out what became of the session; answered by `Started`, `Adopted`, `NeverStarted`,
    /// `Exited` or `Failed`.
    Find,
    /// Read the output and wait for the end; answered by `Exited`.
    Attend,
    /// Wake me at that moment with `TimeUp`.
    Arm(Timestamp),
    /// End the whole process tree.
    End,
    /// Commit, and do what completes the task; answered by `Delivered` or `Failed`.
    Deliver,
    /// Cancel the background work that brings its branch home.
    CallOff,
    /// The run has ended: free its place.
    Over,
}

/// What follows an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// To be journalled with the new state, before any effect.
    pub messages: Vec<FromDaemon>,
    /// To be done, in order.
    pub effects: Vec<Effect>,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Machine {
    terms: Terms,
    state: RunState,
}

impl Machine {
    /// A machine that goes on from `state`.
    #[must_use]
    pub fn new(terms: Terms, state: RunState) -> Self {
        Self { terms, state }
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// How far the output was understood; the reader keeps it.
    pub fn reading(&mut self) -> &mut super::state::Reading {
        &mut self.state.reading
    }

    /// Takes an event. `roll` in 0..1 spreads retries.
    pub fn on(&mut self, event: Event, now: Timestamp, roll: f64) -> Turn {
        let mut turn = Turn::default();
        let (phase, wish) = (self.state.phase, self.state.wish);
        match event {
            _ if phase == Phase::Ended => {}
            Event::Proceed => self.proceed(now, roll, &mut turn),
            Event::Prepared(place, chosen) if phase == Phase::Preparing => {
                self.prepared(place, chosen, now, &mut turn);
                match wish {
                    Some(_) => self.finish_wish(now, Details::default(), &mut turn),
                    None => {
                        self.state.phase = Phase::Starting;
                        turn.effects.push(Effect::Start);
                    }
                }
            }
            Event::Started { pid } if phase == Phase::Starting => {
                self.started(Kind::RunStarted, pid, now, &mut turn);
            }
            Event::Adopted { pid } if matches!(phase, Phase::Starting | Phase::Running) => {
                self.started(Kind::RunAdopted, pid, now, &mut turn);
            }
            Event::NeverStarted if phase == Phase::Starting => {
                self.state.folder += 1;
                match wish {
                    Some(_) => self.finish_wish(now, Details::default(), &mut turn),
                    None => turn.effects.push(Effect::Start),
                }
            }
            Event::Failed(failure) if phase == Phase::Running => {
                // its agent may live: it ends first, and nothing fails that still runs
                if self.state.broken.is_none() {
                    self.state.broken = Some(failure);
                    turn.effects.push(Effect::End);
                }
            }
            Event::Failed(failure) | Event::Lost(failure) => {
                self.fail(failure, now, roll, &mut turn);
            }
            Event::Exited(exit, ending) if matches!(phase, Phase::Starting | Phase::Running) => {
                self.exited(exit, ending, now, roll, &mut turn);
            }
            Event::Delivered(work) if phase == Phase::Delivering => {
                self.delivered(&work, now, roll, &mut turn);
            }
            Event::Stuck(work, failure) if phase == Phase::Delivering => {
                self.committed(&work, now, &mut turn);
                match wish {
                    Some(_) => self.finish_wish(now, details_of(&work), &mut turn),
                    None => self.fail_with(failure, details_of(&work), now, roll, &mut turn),
                }
            }
            Event::Expired(exit) => self.expired(exit, now, &mut turn),
            // the time of one that is frozen stands still
            Event::TimeUp if phase == Phase::Running && self.state.status != Status::Paused => {
                self.wish(Wish::TimedOut, now, &mut turn);
            }
            Event::Cancel => self.wish(Wish::Cancelled, now, &mut turn),
            Event::Fence => self.wish(Wish::Fenced, now, &mut turn),
            Event::Paused if self.state.status == Status::Running => {
                self.state.frozen_since = Some(now);
                self.report(Status::Paused, None, Details::default(), now, &mut turn);
            }
            Event::Resumed if self.state.status == Status::Paused => {
                self.state.thaw(now);
                self.report(Status::Running, None, Details::default(), now, &mut turn);
                turn.effects.extend(self.state.time_up(&self.terms).map(Effect::Arm));
            }
            Event::Prepared(..)
            | Event::Started { .. }
            | Event::Adopted { .. }
            | Event::NeverStarted
            | Event::Exited(..)
            | Event::Delivered(_)
            | Event::Stuck(..)
            | Event::TimeUp
            | Event::Paused
            | Event::Resumed => {}
        }
        turn
    }

    fn proceed(&mut self, now: Timestamp, roll: f64, turn: &mut Turn) {
        match (self.state.phase, self.state.wish) {
            (Phase::Preparing, Some(_)) => self.finish_wish(now, Details::default(), turn),
            (Phase::Preparing, None) => turn.effects.push(Effect::Prepare),
            (Phase::Starting | Phase::Running, _) => turn.effects.push(Effect::Find),
            (Phase::Delivering, _) if self.state.place.is_some() => {
                turn.effects.push(Effect::Deliver);
            }
            (Phase::Delivering, _) => {
                let lost = Failure::new(Reason::Internal, "the journal lost the run's worktree");
                self.fail(lost, now, roll, turn);
            }
            (Phase::Ended, _) => {}
        }
    }

    fn prepared(&mut self, place: Place, chosen: Chosen, now: Timestamp, turn: &mut Turn) {
        let payload = json!({
            "path": place.path,
            "branch": place.branch,
            "baseCommit": place.base_commit,
            "agent": chosen.name,
            "why": chosen.why,
            "notes": place.notes,
        });
        self.state.place = Some(place);
        self.state.agent = Some(chosen);
        self.tell(Kind::RunPrepared, Some(Channel::Status), payload, now, turn);
    }

    fn started(&mut self, kind: Kind, pid: i32, now: Timestamp, turn: &mut Turn) {
        self.state.started_at.get_or_insert(now);
        self.state.phase = Phase::Running;
        let agent = self.state.agent.as_ref().map(|chosen| chosen.name.clone());
        let payload = json!({ "pid": pid, "agent": agent });
        self.tell(kind, Some(Channel::Status), payload, now, turn);
        if self.state.status == Status::Dispatched {
            let details = Details {
                base_commit: self.state.place.as_ref().map(|place| place.base_commit.clone()),
                agent,
                ..Details::default()
            };
            self.report(Status::Running, None, details, now, turn);
        }
        if self.state.wish.is_some() || self.state.broken.is_some() {
            turn.effects.push(Effect::End);
        } else {
            turn.effects.extend(self.state.time_up(&self.terms).map(Effect::Arm));
        }
        turn.effects.push(Effect::Attend);
    }

    fn exited(
        &mut self,
        exit: ExitFacts,
        ending: Result<(), Failure>,
        now: Timestamp,
        roll: f64,
        turn: &mut Turn,
    ) {
        let payload = json!({
            "exitCode": exit.code,
            "signal": exit.signal,
            "outputBytes": exit.output_bytes,
        });
        let details = Details {
            exit_code: exit.code,
            session_id: self.state.reading.session_id.clone(),
            ..Details::default()
        };
        self.state.exit = Some(exit);
        self.tell(Kind::SessionExited, Some(Channel::Status), payload, now, turn);
        let ending = self.state.broken.take().map_or(ending, Err);
        match (self.state.wish, ending) {
            (Some(_), _) => self.finish_wish(now, details, turn),
            (None, Err(failure)) => self.fail(failure, now, roll, turn),
            (None, Ok(())) => {
                if self.state.status == Status::Dispatched || self.state.status == Status::Paused {
                    self.report(Status::Running, None, Details::default(), now, turn);
                }
                self.state.phase = Phase::Delivering;
                turn.effects.push(Effect::Deliver);
            }
        }
    }

    fn delivered(&mut self, work: &Work, now: Timestamp, roll: f64, turn: &mut Turn) {
        let empty = work.outcome == Outcome::NoChanges;
        if empty && self.terms.require_changes && self.state.wish.is_none() {
            let failure = match work.withheld.len() {
                0 => Failure::new(Reason::NoChanges, "the agent ended well and changed nothing"),
                n => Failure::new(
                    Reason::OnlyWithheld,
                    format!("all that the agent changed was withheld ({n} files)"),
                ),
            };
            self.fail_with(failure, details_of(work), now, roll, turn);
            return;
        }
        self.committed(work, now, turn);
        let mut details = self.state.with_exit(details_of(work));
        if self.state.wish.is_some() {
            details.outcome = None;
            self.finish_wish(now, details, turn);
        } else {
            self.report(Status::Completed, None, details, now, turn);
            self.end(turn);
        }
    }

    fn expired(&mut self, exit: Option<ExitFacts>, now: Timestamp, turn: &mut Turn) {
        if let Some(exit) = exit {
            let payload = json!({
                "exitCode": exit.code,
                "signal": exit.signal,
                "outputBytes": exit.output_bytes,
                "fenced": true,
            });
            self.tell(Kind::SessionExited, Some(Channel::Status), payload, now, turn);
            // a run after it may go on with the agent's session
            self.state.failed = Some(Reason::SessionLost);
            self.state.exit = Some(exit);
        }
        self.state.broken = None;
        self.state.wish.get_or_insert(Wish::Expired);
        self.finish_wish(now, Details::default(), turn);
    }

    fn committed(&mut self, work: &Work, now: Timestamp, turn: &mut Turn) {
        let payload = json!({
            "branch": work.branch,
            "headCommit": work.head_commit,
            "commits": work.commits,
            "diffStat": work.stat,
            "withheldFiles": work.withheld,
            "inertHooks": work.inert_hooks,
            "completed": work.completed,
            "prUrl": work.pr_url,
        });
        self.state.head_commit.clone_from(&work.head_commit);
        self.tell(Kind::WorkCommitted, Some(Channel::Status), payload, now, turn);
    }

    fn wish(&mut self, wish: Wish, now: Timestamp, turn: &mut Turn) {
        let first = self.state.wish.is_none();
        if first || wish == Wish::Fenced {
            self.state.wish = Some(wish);
        }
        match self.state.phase {
            Phase::Preparing if first && self.state.place.is_none() => {
                self.finish_wish(now, Details::default(), turn);
            }
            Phase::Running if first => turn.effects.push(Effect::End),
            Phase::Delivering if first => turn.effects.push(Effect::CallOff),
            _ => {}
        }
    }

    fn finish_wish(&mut self, now: Timestamp, details: Details, turn: &mut Turn) {
        match self.state.wish {
            Some(Wish::Cancelled) => self.report(Status::Cancelled, None, details, now, turn),
            Some(Wish::TimedOut) => {
                let seconds = self.terms.timeout_ms.unwrap_or_default() / 1_000;
                let details = Details {
                    error_message: Some(format!("it ran longer than its {seconds} s")),
                    ..details
                };
                self.report(Status::TimedOut, Some(Reason::Timeout), details, now, turn);
            }
            Some(Wish::Expired) => self.report(Status::Queued, None, details, now, turn),
            Some(Wish::Fenced) | None => {}
        }
        self.end(turn);
    }

    fn fail(&mut self, failure: Failure, now: Timestamp, roll: f64, turn: &mut Turn) {
        if self.state.wish.is_some() {
            let details = details_of_failure(&failure);
            self.finish_wish(now, details, turn);
        } else {
            self.fail_with(failure, Details::default(), now, roll, turn);
        }
    }

    fn fail_with(
        &mut self,
        failure: Failure,
        details: Details,
        now: Timestamp,
        roll: f64,
        turn: &mut Turn,
    ) {
        // whose quota comes back waits for it, whatever attempts are left; and for how long one goes
        // on that asked too often, the relay decides
        let decoder = self.state.reading.decoder.as_ref();
        let resets_at =
            decoder.filter(|_| failure.reason == Reason::Quota).and_then(Decode::resets_at);
        let again = resets_at.is_some()
            || failure.reason == Reason::ProviderRateLimited
            || failure.reason.retry() != Retry::Never
                && self.terms.attempt < self.terms.max_attempts;
        let mut details = self.state.with_exit(details);
        details.error_message = Some(bounded(&failure.message, MAX_TEXT).0.to_owned());
        self.state.failed = Some(failure.reason);
        if again {
            if self.state.status == Status::Paused {
                self.report(Status::Running, None, Details::default(), now, turn);
            }
            let delay = retry_delay_ms(self.terms.attempt, roll);
            let due = resets_at.unwrap_or_else(|| now.plus_millis(delay));
            self.report(Status::Deferred, Some(failure.reason), details, now, turn);
            if let Some(FromDaemon::TaskStatusChange(report)) = turn.messages.last_mut() {
                report.next_retry_at = Some(due);
            }
        } else {
            self.report(Status::Failed, Some(failure.reason), details, now, turn);
        }
        self.end(turn);
    }

    fn end(&mut self, turn: &mut Turn) {
        self.state.phase = Phase::Ended;
        turn.effects.push(Effect::Over);
    }

    fn report(
        &mut self,
        to: Status,
        reason: Option<Reason>,
        details: Details,
        now: Timestamp,
        turn: &mut Turn,
    ) {
        let details = (details != Details::default()).then_some(details);
        turn.messages.push(FromDaemon::TaskStatusChange(StatusReport {
            task_id: self.terms.key.task_id,
            old_status: self.state.status,
            new_status: to,
            at: Some(now),
            reason,
            next_retry_at: None,
            details,
        }));
        self.state.status = to;
    }

    fn tell(
        &self,
        event: Kind,
        channel: Option<Channel>,
        payload: Value,
        at: Timestamp,
        turn: &mut Turn,
    ) {
        turn.messages.push(FromDaemon::TaskEvent(TaskEvent {
            task_id: self.terms.key.task_id,
            run_id: self.terms.key.run_id,
            event,
            at,
            channel,
            payload,
        }));
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
