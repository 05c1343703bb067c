use super::*;
use hayward_shared::id::{RunId, TaskId};
use hayward_shared::run::RunKey;
use hayward_shared::task::{DiffStat, WithheldFile};
use proptest::prelude::*;

fn terms() -> Terms {
    Terms {
        key: RunKey { task_id: TaskId::fresh(), run_id: RunId::fresh(), lease_epoch: 3 },
        attempt: 1,
        max_attempts: 1,
        timeout_ms: Some(60_000),
        require_changes: false,
    }
}

fn place() -> Place {
    Place {
        path: "/w".into(),
        repository: "/r".into(),
        base_commit: "b".repeat(40),
        branch: Some("hayward/x-1".into()),
        lent_from: None,
        first_port: None,
        pushes_to: None,
        notes: Vec::new(),
    }
}

fn chosen() -> Chosen {
    Chosen { name: "command".into(), why: "asked for".into() }
}

fn work(outcome: Outcome) -> Work {
    Work {
        outcome,
        branch: Some("hayward/x-1".into()),
        head_commit: Some("h".repeat(40)),
        commits: 1,
        stat: DiffStat { files: 1, insertions: 1, deletions: 0 },
        withheld: vec![],
        inert_hooks: vec![],
        completed: None,
        pr_url: None,
    }
}

fn exit(code: i32) -> ExitFacts {
    ExitFacts { code: Some(code), signal: None, output_bytes: 3 }
}

fn statuses(turn: &Turn) -> Vec<(Status, Status)> {
    turn.messages
        .iter()
        .filter_map(|message| match message {
            FromDaemon::TaskStatusChange(report) => Some((report.old_status, report.new_status)),
            _ => None,
        })
        .collect()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn running(terms: Terms) -> Machine {
    let mut machine = Machine::new(terms, RunState::default());
    machine.on(Event::Proceed, at(0), 0.0);
    machine.on(Event::Prepared(place(), chosen()), at(1), 0.0);
    machine.on(Event::Started { pid: 9 }, at(2), 0.0);
    machine
}

#[test]
fn a_run_goes_from_worktree_to_branch() {
    let mut machine = Machine::new(terms(), RunState::default());
    assert_eq!(machine.on(Event::Proceed, at(0), 0.0).effects, [Effect::Prepare]);
    let turn = machine.on(Event::Prepared(place(), chosen()), at(1), 0.0);
    assert_eq!(turn.effects, [Effect::Start]);
    let turn = machine.on(Event::Started { pid: 9 }, at(2), 0.0);
    assert_eq!(turn.effects, [Effect::Arm(at(60_002)), Effect::Attend]);
    assert_eq!(statuses(&turn), [(Status::Dispatched, Status::Running)]);
    let turn = machine.on(Event::Exited(exit(0), Ok(())), at(3), 0.0);
    assert_eq!(turn.effects, [Effect::Deliver]);
    let turn = machine.on(Event::Delivered(work(Outcome::Delivered)), at(4), 0.0);
    assert_eq!(statuses(&turn), [(Status::Running, Status::Completed)]);
    assert_eq!(turn.effects, [Effect::Over]);
    assert_eq!(machine.on(Event::Cancel, at(5), 0.0), Turn::default());
}

#[test]
fn f01_a_restarted_daemon_asks_what_became_of_the_session_and_never_starts_a_second() {
    for phase in [Phase::Starting, Phase::Running] {
        let state = RunState { phase, place: Some(place()), ..RunState::default() };
        let mut machine = Machine::new(terms(), state);
        assert_eq!(machine.on(Event::Proceed, at(0), 0.0).effects, [Effect::Find]);
        let turn = machine.on(Event::Adopted { pid: 9 }, at(1), 0.0);
        assert!(turn.effects.contains(&Effect::Attend));
        assert!(!turn.effects.contains(&Effect::Start));
    }
}

#[test]
fn an_agent_that_never_started_starts_in_a_new_folder() {
    let state = RunState { phase: Phase::Starting, place: Some(place()), ..RunState::default() };
    let mut machine = Machine::new(terms(), state);
    machine.on(Event::Proceed, at(0), 0.0);
    assert_eq!(machine.on(Event::NeverStarted, at(1), 0.0).effects, [Effect::Start]);
    assert_eq!(machine.state().folder, 1);
}

#[test]
fn f57_nothing_delivered_is_told_apart_from_delivered() {
    let mut machine = running(terms());
    machine.on(Event::Exited(exit(0), Ok(())), at(3), 0.0);
    let turn = machine.on(Event::Delivered(work(Outcome::NoChanges)), at(4), 0.0);
    assert_eq!(statuses(&turn), [(Status::Running, Status::Completed)]);

    for (withheld, reason) in [(0, Reason::NoChanges), (2, Reason::OnlyWithheld)] {
        let mut machine = running(Terms { require_changes: true, ..terms() });
        machine.on(Event::Exited(exit(0), Ok(())), at(3), 0.0);
        let file = WithheldFile { path: ".env".into(), why: "secret".into() };
        let empty = Work { withheld: vec![file; withheld], ..work(Outcome::NoChanges) };
        let turn = machine.on(Event::Delivered(empty), at(4), 0.0);
        let FromDaemon::TaskStatusChange(report) = &turn.messages[0] else { panic!("{turn:?}") };
        assert_eq!((report.new_status, report.reason), (Status::Failed, Some(reason)));
    }

    let mut machine = running(terms());
    machine.on(Event::Exited(exit(0), Ok(())), at(3), 0.0);
    let refused = Failure::new(Reason::CommitFailed, "index.lock");
    let turn = machine.on(Event::Failed(refused), at(4), 0.0);
    assert_eq!(statuses(&turn), [(Status::Running, Status::Failed)]);
}

#[test]
fn a_cancel_ends_the_agent_in_every_phase() {
    let mut preparing = Machine::new(terms(), RunState::default());
    let turn = preparing.on(Event::Cancel, at(0), 0.0);
    assert_eq!(statuses(&turn), [(Status::Dispatched, Status::Cancelled)]);

    let mut starting = Machine::new(terms(), RunState::default());
    starting.on(Event::Proceed, at(0), 0.0);
    starting.on(Event::Prepared(place(), chosen()), at(1), 0.0);
    assert_eq!(starting.on(Event::Cancel, at(2), 0.0).effects, []);
    let turn = starting.on(Event::Started { pid: 9 }, at(3), 0.0);
    assert_eq!(turn.effects, [Effect::End, Effect::Attend]);

    let mut machine = running(terms());
    assert_eq!(machine.on(Event::Cancel, at(3), 0.0).effects, [Effect::End]);
    assert_eq!(machine.on(Event::Cancel, at(3), 0.0).effects, [], "once is enough");
    let signalled = ExitFacts { code: None, signal: Some(15), output_bytes: 0 };
    let failure = Failure::new(Reason::AgentSignal, "signal 15");
    let turn = machine.on(Event::Exited(signalled, Err(failure)), at(4), 0.0);
    assert_eq!(statuses(&turn), [(Status::Running, Status::Cancelled)]);
    assert_eq!(turn.effects, [Effect::Over]);
}

#[test]
fn f28_a_fenced_run_ends_its_agent_and_reports_no_status() {
    let mut machine = running(terms());
    assert_eq!(machine.on(Event::Fence, at(3), 0.0).effects, [Effect::End]);
    let turn = machine.on(Event::Exited(exit(0), Ok(())), at(4), 0.0);
    assert_eq!(statuses(&turn), []);
    assert_eq!(turn.effects, [Effect::Over]);
}

#[test]
fn f28_a_run_whose_time_is_over_is_given_back_and_may_go_on_with_its_session() {
    let signalled = ExitFacts { code: None, signal: Some(9), output_bytes: 3 };
    let mut machine = running(terms());
    let turn = machine.on(Event::Expired(Some(signalled)), at(4), 0.0);
    assert_eq!(statuses(&turn), [(Status::Running, Status::Queued)]);
    assert_eq!(turn.effects, [Effect::Over]);
    assert_eq!(machine.state().failed, Some(Reason::SessionLost));
    let FromDaemon::TaskEvent(told) = &turn.messages[0] else { panic!("{turn:?}") };
    assert_eq!((&told.event, &told.payload["fenced"]), (&Kind::SessionExited, &true.into()));

    let mut unstarted = Machine::new(terms(), RunState::default());
    unstarted.on(Event::Prepared(place(), chosen()), at(1), 0.0);
    let turn = unstarted.on(Event::Expired(None), at(2), 0.0);
    assert_eq!(statuses(&turn), [(Status::Dispatched, Status::Queued)]);
    assert_eq!(unstarted.state().failed, None);
}

#[test]
fn f28_a_run_whose_time_is_over_says_nothing_of_what_was_decided_before() {
    for (wish, said) in [
        (Event::Cancel, vec![(Status::Running, Status::Cancelled)]),
        (Event::TimeUp, vec![(Status::Running, Status::TimedOut)]),
        (Event::Fence, vec![]),
    ] {
        let mut machine = running(terms());
        machine.on(wish, at(3), 0.0);
        let turn = machine.on(Event::Expired(Some(exit(0))), at(4), 0.0);
        assert_eq!(statuses(&turn), said);
        assert_eq!(turn.effects, [Effect::Over]);
    }
}

#[test]
fn only_a_passing_failure_with_attempts_left_is_deferred() {
    let overloaded = Failure::new(Reason::ProviderOverloaded, "529");
    for (attempt, reason, status) in [
        (1, Reason::ProviderOverloaded, Status::Deferred),
        (2, Reason::ProviderOverloaded, Status::Failed),
        (1, Reason::AgentExit, Status::Failed),
        // how often that may be is the relay's to say
        (2, Reason::ProviderRateLimited, Status::Deferred),
    ] {
        let mut machine = running(Terms { attempt, max_attempts: 2, ..terms() });
        let failure = Failure { reason, ..overloaded.clone() };
        let turn = machine.on(Event::Exited(exit(1), Err(failure)), at(1_000), 0.0);
        let Some(FromDaemon::TaskStatusChange(report)) = turn.messages.last() else { panic!() };
        assert_eq!(report.new_status, status);
        assert_eq!(report.next_retry_at.is_some(), status == Status::Deferred);
        assert_eq!(report.details.as_ref().unwrap().exit_code, Some(1));
    }
}

#[test]
fn f58_a_quota_whose_reset_is_known_is_waited_for_whatever_attempts_are_left() {
    let line = |status: &str| {
        format!(
            "{{\"type\":\"rate_limit_event\",\"rate_limit_info\":\
             {{\"status\":\"{status}\",\"resetsAt\":7200}}}}\n"
        )
    };
    for (status, to) in [("rejected", Status::Deferred), ("allowed", Status::Failed)] {
        let mut machine = running(terms());
        let order = crate::agent::Order {
            worktree: "/w".into(),
            command: vec![],
            prompt: None,
            model: None,
            session: crate::agent::Session::Resume("s".into()),
            instructions: None,
        };
        let driver = crate::agent::Runtime::Claude.driver().unwrap();
        let mut decoder = driver.decoder(&order);
        decoder.decode(line(status).as_bytes(), at(3));
        machine.reading().decoder = Some(decoder);
        let failure = Failure::new(Reason::Quota, "used up");
        let turn = machine.on(Event::Exited(exit(1), Err(failure)), at(1_000), 0.5);
        let Some(FromDaemon::TaskStatusChange(report)) = turn.messages.last() else { panic!() };
        assert_eq!((report.new_status, report.reason), (to, Some(Reason::Quota)));
        let due = report.next_retry_at;
        assert_eq!(due, (to == Status::Deferred).then(|| at(7_200_000)));
    }
}

#[test]
fn nothing_fails_whose_agent_still_runs() {
    let mut machine = running(terms());
    let broken = Failure::new(Reason::AgentProtocol, "half a line was written");
    let turn = machine.on(Event::Failed(broken), at(3), 0.0);
    assert_eq!((turn.messages.len(), turn.effects), (0, vec![Effect::End]));
    let turn = machine.on(Event::Exited(exit(0), Ok(())), at(4), 0.0);
    assert_eq!(statuses(&turn), [(Status::Running, Status::Failed)]);
    assert_eq!(machine.state().failed, Some(Reason::AgentProtocol));
}

#[test]
fn time_up_is_a_status_of_its_own() {
    let mut machine = running(terms());
    assert_eq!(machine.on(Event::TimeUp, at(60_002), 0.0).effects, [Effect::End]);
    let turn = machine.on(Event::Exited(exit(0), Ok(())), at(60_003), 0.0);
    assert_eq!(statuses(&turn), [(Status::Running, Status::TimedOut)]);
}

#[test]
fn the_time_of_a_frozen_agent_stands_still_until_it_goes_on() {
    let mut machine = running(terms());
    // it began at 2 and may work for a minute
    machine.on(Event::Paused, at(10_002), 0.0);
    let turn = machine.on(Event::TimeUp, at(60_002), 0.0);
    assert_eq!((turn.messages.len(), turn.effects.len(), machine.state().wish), (0, 0, None));
    // a daemon that comes back wakes it too early, and that ends nothing
    let mut machine = Machine::new(terms(), machine.state().clone());
    machine.on(Event::Adopted { pid: 9 }, at(70_000), 0.0);
    assert_eq!(machine.on(Event::TimeUp, at(70_000), 0.0).effects, []);
    let turn = machine.on(Event::Resumed, at(100_002), 0.0);
    assert_eq!(turn.effects, [Effect::Arm(at(150_002))]);
    machine.on(Event::Paused, at(120_000), 0.0);
    let turn = machine.on(Event::Resumed, at(121_000), 0.0);
    assert_eq!(turn.effects, [Effect::Arm(at(151_002))]);
    let mut adopted = Machine::new(terms(), machine.state().clone());
    let turn = adopted.on(Event::Adopted { pid: 9 }, at(130_000), 0.0);
    assert_eq!(turn.effects, [Effect::Arm(at(151_002)), Effect::Attend]);
    assert_eq!(machine.on(Event::TimeUp, at(151_002), 0.0).effects, [Effect::End]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let failure = Failure::new(Reason::SessionLost, "lost");
    prop_oneof![
        Just(Event::Proceed),
        Just(Event::Prepared(place(), chosen())),
        Just(Event::Started { pid: 9 }),
        Just(Event::Adopted { pid: 9 }),
        Just(Event::NeverStarted),
        Just(Event::Failed(failure.clone())),
        Just(Event::Lost(failure.clone())),
        Just(Event::Exited(exit(0), Ok(()))),
        Just(Event::Exited(exit(1), Err(failure))),
        Just(Event::Delivered(work(Outcome::Delivered))),
        Just(Event::TimeUp),
        Just(Event::Cancel),
        Just(Event::Fence),
        Just(Event::Paused),
        Just(Event::Resumed),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_every_reported_step_is_legal_and_the_end_comes_once(
        events in proptest::collection::vec(any_event(), 1..40),
    ) {
        let mut machine =
            Machine::new(Terms { max_attempts: 2, ..terms() }, RunState::default());
        let (mut status, mut overs, mut started) = (Status::Dispatched, 0, 0);
        for (n, event) in events.into_iter().enumerate() {
            let turn = machine.on(event, at(n as i64), 0.5);
            for (from, to) in statuses(&turn) {
                prop_assert_eq!(from, status);
                prop_assert!(from.can_become(to), "{} -> {}", from, to);
                status = to;
            }
            overs += turn.effects.iter().filter(|e| **e == Effect::Over).count();
            started += turn.effects.iter().filter(|e| **e == Effect::Start).count();
            let reread: RunState =
                serde_json::from_value(serde_json::to_value(machine.state()).unwrap()).unwrap();
            prop_assert_eq!(&reread, machine.state());
        }
        prop_assert!(overs <= 1);
        prop_assert!(started <= 1 + machine.state().folder as usize);
    }
}
