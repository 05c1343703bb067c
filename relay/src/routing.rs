//! Routing: what a daemon's message means for a task. Pure: the task and the message go in, the
//! change or the refusal comes out.

mod aftermath;

use crate::change::Change;
use crate::lease;
use crate::limits::LONGEST_QUOTA_MS;
use crate::store::events::Draft;
use crate::store::tasks::{Braker, Stored};
use hayward_shared::event::{
    Actor, ActorKind, Channel, Kind, MAX_SUMMARY, MAX_TEXT, Subject, bounded,
};
use hayward_shared::id::{DaemonId, RunId};
use hayward_shared::protocol::{Details, FromDaemon, StatusReport, TaskEvent};
use hayward_shared::task::{Reason, Retry, Status, Usage, retry_delay_ms};
use hayward_shared::time::Timestamp;
use serde_json::{Value, json};

/// The most bytes of a payload, written as JSON: a bounded text or two bounded summaries, escaped.
const MAX_PAYLOAD: usize = 4 * MAX_TEXT;

/// The longest name of a ref that a task names, and how many it names: one for each run that left
/// work, and few runs do.
const MAX_REF: usize = 512;

const MOST_SALVAGED: usize = 64;

/// Times in a row that a provider refuses a task for its rate before that counts as a failure: with
/// the pauses between them more than an hour.
const MOST_REFUSALS: u32 = 20;

/// The longest name of a model, in bytes.
const MAX_MODEL: usize = 200;

/// The longest address of a pull request: what browsers take.
const MAX_URL: usize = 2_048;

/// Whose message it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) daemon: DaemonId,
    /// The fence that the message carries; plain peers have none.
    pub(crate) epoch: Option<u64>,
}

impl Sender {
    /// How events name a daemon.
    pub(crate) fn actor(&self) -> Actor {
        Actor { kind: ActorKind::Daemon, id: self.daemon.to_string() }
    }
}

/// What a message means.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The task changes.
    Apply(Box<Change>),
    /// The task changes, and its run used this much so far.
    Spent(Box<Change>, RunId, Usage),
    /// The run was handed over, by its fence: its agent must end. What it used so far counts all the
    /// same, where it was a run of the task.
    Late(Box<Change>, u64, (RunId, Usage)),
    /// Nothing changes, for this reason.
    Pass(&'static str),
    /// The run was handed over: its agent must end.
    Stale(u64),
    /// For this daemon there is no such task.
    Absent,
}

/// How long things take, for the answers that need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: Timestamp,
    /// Until when whoever is heard now need not be heard again, by the clock of leases.
    pub(crate) lease_end: Timestamp,
    /// In 0..1; spreads retries.
    pub(crate) jitter: f64,
}

/// The task that a message is about, when it may change one.
pub(crate) fn subject(message: &FromDaemon) -> Option<hayward_shared::id::TaskId> {
    match message {
        FromDaemon::TaskStatusChange(report) => Some(report.task_id),
        FromDaemon::TaskEvent(event) => Some(event.task_id),
        FromDaemon::TaskProgress { task_id, .. }
        | FromDaemon::TaskFollowUp { task_id, .. }
        | FromDaemon::TaskComplete { task_id, .. }
        | FromDaemon::TaskOutput { task_id, .. } => Some(*task_id),
        _ => None,
    }
}

/// What `message` means for `row`.
pub(crate) fn judge(row: Stored, from: Sender, message: FromDaemon, moment: Moment) -> Verdict {
    let epoch = row.task.holding.lease_epoch;
    let former = from.epoch.filter(|told| lease::is_former(*told, epoch));
    if let Some(told) = former.filter(|_| !aftermath::is_part(&message)) {
        return aftermath::late_usage(Change::of(row), from, (told, message));
    }
    if row.task.holding.daemon_id != Some(from.daemon) {
        return Verdict::Absent;
    }
    if from.epoch.is_some_and(|told| told > epoch) {
        return Verdict::Pass("its fence is newer than the task's");
    }
    let mut change = Change::of(row);
    let by = from.actor();
    if let Some(told) = former {
        return aftermath::judge(change, &by, (told, message), moment.now);
    }
    change.row.heard_epoch = epoch;
    match message {
        FromDaemon::TaskStatusChange(report) => status(change, &by, report, from, moment),
        FromDaemon::TaskComplete { success, error, .. } => {
            let report = plain_end(&change, success, error);
            status(change, &by, report, from, moment)
        }
        FromDaemon::TaskProgress { summary, .. } => {
            lease::heard(&mut change, &by, moment.now, moment.lease_end);
            let summary = bounded(&summary, MAX_SUMMARY).0.to_owned();
            change.row.task.version += 1;
            change.say(Kind::TaskProgress, &by, moment.now, json!({ "summary": summary }));
            change.row.task.results.progress_summary = Some(summary);
            Verdict::Apply(Box::new(change))
        }
        FromDaemon::TaskOutput { output, .. } => {
            lease::heard(&mut change, &by, moment.now, moment.lease_end);
            let (text, cut) = bounded(&output, MAX_TEXT);
            change.say(
                Kind::SessionOutput,
                &by,
                moment.now,
                json!({ "text": text, "truncated": cut }),
            );
            if let Some(draft) = change.drafts.last_mut() {
                draft.channel = Some(Channel::Text);
            }
            Verdict::Apply(Box::new(change))
        }
        FromDaemon::TaskEvent(event) => happened(change, &by, event, moment),
        FromDaemon::TaskFollowUp { run_id, follow_up, .. } => {
            aftermath::sent_back(change, &by, (run_id, follow_up), moment.now)
        }
        _ => Verdict::Pass("it is about no task"),
    }
}

fn plain_end(change: &Change, success: bool, error: Option<String>) -> StatusReport {
    StatusReport {
        task_id: change.row.task.id,
        old_status: change.row.task.status,
        new_status: if success { Status::Completed } else { Status::Failed },
        at: None,
        reason: (!success).then_some(Reason::AgentExit),
        next_retry_at: None,
        details: Some(Details { error_message: error, ..Details::default() }),
    }
}

fn happened(mut change: Change, by: &Actor, event: TaskEvent, moment: Moment) -> Verdict {
    let holding = &change.row.task.holding;
    if holding.run_id != Some(event.run_id) {
        return Verdict::Stale(holding.lease_epoch);
    }
    let epoch = holding.lease_epoch;
    lease::heard(&mut change, by, moment.now, moment.lease_end);
    let usage = usage_of(&event);
    if event.event == Kind::SessionStarted
        && let Some(session) = event.payload.get("sessionId").and_then(Value::as_str)
    {
        change.row.task.results.session_id = Some(session.to_owned());
        let model = event.payload.get("model").and_then(Value::as_str);
        let model = model.filter(|model| model.len() <= MAX_MODEL).map(str::to_owned);
        change.row.task.results.session_model = model;
        change.row.task.version += 1;
    }
    if event.event == Kind::WorktreeRemoved {
        salvaged(&mut change, &event.payload);
    }
    if event.event == Kind::BranchMoved {
        moved(&mut change, &event.payload);
    }
    if event.event == Kind::MergeResult {
        opened(&mut change, &event.payload);
    }
    let run = event.run_id;
    change.drafts.push(draft(event, by, epoch));
    match usage {
        Some(usage) => Verdict::Spent(Box::new(change), run, usage),
        None => Verdict::Apply(Box::new(change)),
    }
}

/// What a run used so far, where its event tells that.
fn usage_of(event: &TaskEvent) -> Option<Usage> {
    let told = (event.event == Kind::UsageReported).then(|| event.payload.clone())?;
    serde_json::from_value(told).ok()
}

/// What a run's event becomes in the task's stream.
fn draft(event: TaskEvent, by: &Actor, epoch: u64) -> Draft {
    Draft {
        kind: event.event,
        at: event.at,
        actor: by.clone(),
        subject: Subject { kind: "run".into(), id: event.run_id.to_string() },
        lease_epoch: Some(epoch),
        channel: event.channel,
        payload: bounded_payload(event.payload),
    }
}

/// Names in the task the refs under which the work of its worktree is kept.
fn salvaged(change: &mut Change, payload: &Value) {
    let names = payload.get("salvage").and_then(Value::as_array).into_iter().flatten();
    let known = &mut change.row.task.results.salvage;
    let before = known.len();
    for name in names.filter_map(Value::as_str).filter(|name| name.len() <= MAX_REF) {
        if known.len() < MOST_SALVAGED && !known.iter().any(|one| one == name) {
            known.push(name.to_owned());
        }
    }
    if known.len() > before {
        change.row.task.version += 1;
    }
}

/// Names in the task where its branch stands now.
fn moved(change: &mut Change, payload: &Value) {
    let told = |name: &str| {
        let text = payload.get(name).and_then(Value::as_str);
        text.filter(|text| text.len() <= MAX_REF).map(str::to_owned)
    };
    let results = &mut change.row.task.results;
    let before = (results.branch.clone(), results.head_commit.clone());
    take(&mut results.branch, told("branch").as_ref());
    take(&mut results.head_commit, told("headCommit").as_ref());
    if before != (results.branch.clone(), results.head_commit.clone()) {
        change.row.task.version += 1;
    }
}

/// Names in the task the pull request that its completion opened.
fn opened(change: &mut Change, payload: &Value) {
    let told = payload.get("prUrl").and_then(Value::as_str).filter(|url| url.len() <= MAX_URL);
    let known = &mut change.row.task.results.pr_url;
    if told.is_some() && known.as_deref() != told {
        *known = told.map(str::to_owned);
        change.row.task.version += 1;
    }
}

/// A payload within the bounds of what the relay keeps: a long text is cut, all else is left out.
fn bounded_payload(mut payload: Value) -> Value {
    if let Some(text) = payload.get("text").and_then(Value::as_str)
        && let (cut, true) = bounded(text, MAX_TEXT)
    {
        let cut = cut.to_owned();
        payload["text"] = cut.into();
        payload["truncated"] = true.into();
    }
    if payload.to_string().len() > MAX_PAYLOAD {
        return json!({ "truncated": true });
    }
    payload
}

fn status(
    mut change: Change,
    by: &Actor,
    report: StatusReport,
    from: Sender,
    moment: Moment,
) -> Verdict {
    let now = moment.now;
    let merged = report.details.as_ref().is_some_and(|details| merge(&mut change, details));
    let (old, to) = (change.row.task.status, report.new_status);
    if old == to && (to.is_final() || change.row.task.reason == report.reason) {
        if merged {
            change.updated(&["results"], by, now);
        }
        lease::heard(&mut change, by, now, moment.lease_end);
        return Verdict::Apply(Box::new(change));
    }
    if !old.is_held() {
        return Verdict::Pass("the task is not held by anyone");
    }
    lease::heard(&mut change, by, now, moment.lease_end);
    let plain = from.epoch.is_none();
    // a plain peer may end a run that it never said was begun
    let skipped = plain && change.row.task.status == Status::Dispatched && to.is_final();
    if skipped && change.step(Status::Running, None, by, now).is_err() {
        return Verdict::Pass("the run cannot have begun");
    }
    if change.row.task.status != to && advance(&mut change, by, &report, moment).is_err() {
        return Verdict::Pass("the table does not allow that step");
    }
    Verdict::Apply(Box::new(change))
}

fn advance(
    change: &mut Change,
    by: &Actor,
    report: &StatusReport,
    moment: Moment,
) -> Result<(), hayward_shared::task::IllegalTransition> {
    let holding = &change.row.task.holding;
    let attempt = holding.attempt;
    let spent = attempt >= change.row.task.order.max_attempts;
    // a newer daemon may know a reason that we do not
    let in_vain = report
        .reason
        .is_some_and(|reason| reason != Reason::Unknown && reason.retry() == Retry::Never);
    let quota = report.reason == Some(Reason::Quota);
    // how long counts, not when: the daemon's clock may be wrong; but a quota that came back while
    // the report was on its way is not waited for again
    let told = report.next_retry_at.zip(report.at).map(|(due, at)| {
        let told = due.since(at);
        match quota {
            true => told.min(due.since(moment.now)).clamp(0, LONGEST_QUOTA_MS),
            false => told.max(0),
        }
    });
    // whose quota is used up waits for it, and has not failed; nor has who came too often, unless
    // that does not end
    let limited = report.reason == Some(Reason::ProviderRateLimited)
        && change.row.task.holding.refusals < MOST_REFUSALS;
    let parked = limited || quota && told.is_some();
    match report.new_status {
        Status::Deferred if (spent || in_vain) && !parked => {
            change.step(Status::Failed, report.reason, by, moment.now)
        }
        Status::Deferred => {
            change.step(Status::Deferred, report.reason, by, moment.now)?;
            if parked {
                change.row.task.holding.attempt = attempt.saturating_sub(1);
            }
            if limited {
                change.row.task.holding.refusals += 1;
            }
            let wait = told.unwrap_or_else(|| retry_delay_ms(attempt, moment.jitter));
            change.row.task.holding.next_retry_at = Some(moment.now.plus_millis(wait));
            if report.reason.is_some_and(|reason| reason.retry() == Retry::Fresh) {
                change.row.task.results.session_id = None;
            }
            Ok(())
        }
        Status::Queued => {
            change.fence();
            change.step(Status::Queued, None, by, moment.now)
        }
        // the daemon does not know for what it was told to pause
        Status::Paused if change.row.braked == Some(Braker::Budget) => {
            change.step(Status::Paused, Some(Reason::Budget), by, moment.now)
        }
        to => change.step(to, report.reason, by, moment.now),
    }
}

/// Takes over what is known of the result; whether that was anything new.
fn merge(change: &mut Change, details: &Details) -> bool {
    let task = &mut change.row.task;
    let before = (task.results.clone(), task.order.base_commit.clone(), task.order.agent.clone());
    let results = &mut task.results;
    if task.order.base_commit.is_none() {
        task.order.base_commit.clone_from(&details.base_commit);
    }
    if task.order.agent.is_none() {
        task.order.agent.clone_from(&details.agent);
    }
    take(&mut results.branch, details.branch.as_ref());
    take(&mut results.head_commit, details.head_commit.as_ref());
    take(&mut results.outcome, details.outcome.as_ref());
    take(&mut results.diff_stat, details.diff_stat.as_ref());
    take(&mut results.pr_url, details.pr_url.as_ref());
    take(&mut results.exit_code, details.exit_code.as_ref());
    take(&mut results.session_id, details.session_id.as_ref());
    if let Some(files) = &details.withheld_files {
        results.withheld_files.clone_from(files);
    }
    if let Some(message) = &details.error_message {
        results.error_message = Some(bounded(message, MAX_SUMMARY).0.to_owned());
    }
    before != (task.results.clone(), task.order.base_commit.clone(), task.order.agent.clone())
}

fn take<T: Clone>(known: &mut Option<T>, told: Option<&T>) {
    if let Some(told) = told {
        *known = Some(told.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::system;
    use crate::lease::tests::{at, both, running};
    use hayward_shared::task::{FollowUp, Order, Task};

    const MOMENT: fn() -> Moment = || Moment { now: at(9_000), lease_end: at(69_000), jitter: 0.0 };

    fn report(row: &Stored, to: Status) -> FromDaemon {
        FromDaemon::TaskStatusChange(StatusReport {
            task_id: row.task.id,
            old_status: row.task.status,
            new_status: to,
            at: None,
            reason: None,
            next_retry_at: None,
            details: None,
        })
    }

    #[test]
    fn what_a_run_used_counts_after_it_was_handed_over_and_changes_nothing_else() {
        let me = DaemonId::fresh();
        let row = running(Order::default(), me);
        let run = row.task.holding.run_id.unwrap();
        let told = |event| {
            FromDaemon::TaskEvent(TaskEvent {
                task_id: row.task.id,
                run_id: run,
                event,
                at: at(5_000),
                channel: None,
                payload: json!({ "inputTokens": 7, "outputTokens": 5 }),
            })
        };
        let mut change = Change::of(row.clone());
        change.fence();
        change.step(Status::Queued, None, &system(), at(6_000)).unwrap();
        lease::claim(&mut change, DaemonId::fresh(), &system(), at(7_000), at(67_000)).unwrap();
        let late = Sender { daemon: me, epoch: Some(1) };
        let verdict = judge(change.row.clone(), late, told(Kind::UsageReported), MOMENT());
        let Verdict::Late(after, 1, (of, usage)) = verdict else { panic!("{verdict:?}") };
        assert_eq!((of, usage.counted(), &after.row), (run, 12, &change.row));
        let drafts: Vec<_> = after.drafts.iter().map(|one| (&one.kind, one.lease_epoch)).collect();
        assert_eq!(drafts, [(&Kind::UsageReported, Some(1))]);
        let other = judge(change.row, late, told(Kind::SessionStarted), MOMENT());
        assert!(matches!(other, Verdict::Stale(1)), "{other:?}");
    }

    fn applied(verdict: Verdict) -> Change {
        match verdict {
            Verdict::Apply(change) => *change,
            other => panic!("not applied: {other:?}"),
        }
    }

    #[test]
    fn a_completed_task_is_sent_back_once_and_only_by_its_last_run() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        let row = running(Order::default(), me);
        let told = |run| FromDaemon::TaskFollowUp {
            task_id: row.task.id,
            run_id: run,
            follow_up: FollowUp { id: Default::default(), text: "x".repeat(2 * MAX_TEXT) },
        };
        let run = row.task.holding.run_id.unwrap();
        assert!(matches!(judge(row.clone(), from, told(run), MOMENT()), Verdict::Pass(_)));
        let mut done = applied(judge(row.clone(), from, report(&row, Status::Completed), MOMENT()));
        let unknown = applied(judge(done.row.clone(), from, told(run), MOMENT()));
        assert_eq!(unknown.row.task.status, Status::Completed, "it has no session");
        let why = &unknown.drafts[0].payload["undelivered"];
        assert_eq!(why, "no session of its agent is known");
        done.row.task.results.session_id = Some("s".into());
        let stranger = judge(done.row.clone(), from, told(RunId::fresh()), MOMENT());
        assert!(matches!(stranger, Verdict::Stale(1)));
        let sent = applied(judge(done.row, from, told(run), MOMENT()));
        let task = &sent.row.task;
        assert_eq!((task.status, task.results.session_id.as_deref()), (Status::Queued, Some("s")));
        assert_eq!(task.holding.follow_up.as_ref().unwrap().text.len(), MAX_TEXT);
        assert_eq!(sent.drafts.len(), 2);
        assert!(matches!(judge(sent.row.clone(), from, told(run), MOMENT()), Verdict::Pass(_)));
        // it waits for the one daemon that can go on with it
        assert!(
            lease::overdue(&sent.row, both(i64::MAX), &crate::config::Timing::default()).is_none()
        );
    }

    #[test]
    fn f58_a_providers_refusals_cost_no_attempts_until_there_were_twenty_in_a_row() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        let mut row = running(Order::default(), me);
        for nth in 1..=MOST_REFUSALS {
            let FromDaemon::TaskStatusChange(mut told) = report(&row, Status::Deferred) else {
                panic!()
            };
            told.reason = Some(Reason::ProviderRateLimited);
            let told = FromDaemon::TaskStatusChange(told);
            let change = applied(judge(row.clone(), from, told.clone(), MOMENT()));
            let Task { status, ref holding, .. } = change.row.task;
            assert_eq!((status, holding.attempt, holding.refusals), (Status::Deferred, 0, nth));
            row.task.holding.refusals = nth;
            if nth == MOST_REFUSALS {
                let change = applied(judge(row.clone(), from, told, MOMENT()));
                assert_eq!(change.row.task.status, Status::Failed);
            }
        }
    }

    #[test]
    fn f58_a_quota_that_is_told_to_come_back_in_years_is_waited_for_a_month() {
        let me = DaemonId::fresh();
        let row = running(Order::default(), me);
        let FromDaemon::TaskStatusChange(mut told) = report(&row, Status::Deferred) else {
            panic!()
        };
        told.reason = Some(Reason::Quota);
        (told.at, told.next_retry_at) = (Some(at(0)), Some(at(i64::MAX / 2)));
        let from = Sender { daemon: me, epoch: Some(1) };
        let told = FromDaemon::TaskStatusChange(told);
        let change = applied(judge(row, from, told, MOMENT()));
        let due = change.row.task.holding.next_retry_at.unwrap();
        assert_eq!(due.since(MOMENT().now), LONGEST_QUOTA_MS);
    }

    #[test]
    fn a_task_that_was_told_to_pause_for_a_budget_says_so_and_another_does_not() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        for (braked, reason) in [
            (Some(Braker::Budget), Some(Reason::Budget)),
            (Some(Braker::Person), None),
            (None, None),
        ] {
            let row = Stored { braked, ..running(Order::default(), me) };
            let change = applied(judge(row.clone(), from, report(&row, Status::Paused), MOMENT()));
            assert_eq!((change.row.task.reason, change.row.running_since), (reason, None));
            assert_eq!(change.spent.ms, 7_000, "it ran since 2_000");
            let on = applied(judge(
                change.row.clone(),
                from,
                report(&change.row, Status::Running),
                MOMENT(),
            ));
            assert_eq!((on.row.braked, on.row.running_since), (None, Some(at(9_000))));
        }
    }

    #[test]
    fn a_pause_for_a_budget_stays_one_when_it_is_reported_after_the_lease_ran_out() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        let row = Stored { braked: Some(Braker::Budget), ..running(Order::default(), me) };
        let timing = crate::config::Timing::default();
        let mut away = lease::overdue(&row, both(99_000), &timing).unwrap();
        assert_eq!(away.row.task.status, Status::Waiting);
        lease::heard(&mut away, &from.actor(), at(100_000), at(160_000));
        let row = away.row;
        assert_eq!((row.task.status, row.braked), (Status::Running, Some(Braker::Budget)));
        let paused = applied(judge(row.clone(), from, report(&row, Status::Paused), MOMENT()));
        let told = (paused.row.task.reason, paused.row.braked);
        assert_eq!(told, (Some(Reason::Budget), Some(Braker::Budget)));
        let ended = applied(judge(row.clone(), from, report(&row, Status::Completed), MOMENT()));
        assert_eq!(ended.row.braked, None, "who has ended is not told to pause");
    }

    #[test]
    fn a_session_that_names_no_model_takes_over_none() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        let mut row = running(Order::default(), me);
        for model in [Some("m"), None] {
            let told = FromDaemon::TaskEvent(TaskEvent {
                task_id: row.task.id,
                run_id: row.task.holding.run_id.unwrap(),
                event: Kind::SessionStarted,
                at: at(5_000),
                channel: None,
                payload: json!({ "sessionId": "s", "model": model }),
            });
            row = applied(judge(row, from, told, MOMENT())).row;
            assert_eq!(row.task.results.session_model.as_deref(), model);
        }
    }

    #[test]
    fn f58_words_before_a_refusal_end_no_row_of_them_and_another_end_does() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        let mut row = running(Order { max_attempts: 9, ..Order::default() }, me);
        row.task.holding.refusals = 7;
        for (to, reason, refusals) in [
            (Status::Deferred, Some(Reason::ProviderRateLimited), 8),
            (Status::Deferred, Some(Reason::Quota), 7),
            (Status::Waiting, Some(Reason::Approval), 7),
            (Status::Deferred, Some(Reason::ProviderNetwork), 0),
            (Status::Completed, None, 0),
            (Status::Failed, Some(Reason::AgentExit), 0),
        ] {
            let FromDaemon::TaskStatusChange(mut told) = report(&row, to) else { panic!() };
            told.reason = reason;
            (told.at, told.next_retry_at) = (Some(at(0)), Some(at(60_000)));
            let told = FromDaemon::TaskStatusChange(told);
            let change = applied(judge(row.clone(), from, told, MOMENT()));
            assert_eq!(change.row.task.holding.refusals, refusals, "{to} {reason:?}");
        }
    }

    #[test]
    fn f28_an_old_fence_and_a_foreign_daemon_change_nothing() {
        let me = DaemonId::fresh();
        let row = running(Order::default(), me);
        let old = Sender { daemon: me, epoch: Some(0) };
        let message = report(&row, Status::Completed);
        assert!(matches!(judge(row.clone(), old, message.clone(), MOMENT()), Verdict::Stale(0)));
        let foreign = Sender { daemon: DaemonId::fresh(), epoch: Some(1) };
        assert!(matches!(judge(row, foreign, message, MOMENT()), Verdict::Absent));
    }

    #[test]
    fn f29_a_late_end_restores_the_run_and_ends_it() {
        let me = DaemonId::fresh();
        let row = running(Order::default(), me);
        let away =
            lease::overdue(&row, both(99_000), &crate::config::Timing::default()).unwrap().row;
        let from = Sender { daemon: me, epoch: Some(1) };
        let change = applied(judge(away, from, report(&row, Status::Completed), MOMENT()));
        assert_eq!(change.row.task.status, Status::Completed);
        assert_eq!(change.drafts.len(), 2);
    }

    #[test]
    fn a_cancelled_task_cannot_complete_but_takes_the_details_of_its_end() {
        let me = DaemonId::fresh();
        let row = running(Order::default(), me);
        let by = Sender { daemon: me, epoch: Some(1) };
        let gone = lease::cancel(row, &by.actor(), at(5_000)).unwrap().row;
        let verdict = judge(gone.clone(), by, report(&gone, Status::Completed), MOMENT());
        assert!(matches!(verdict, Verdict::Pass(_)));
        let FromDaemon::TaskStatusChange(mut told) = report(&gone, Status::Cancelled) else {
            panic!()
        };
        told.details = Some(Details { exit_code: Some(143), ..Details::default() });
        let change = applied(judge(gone, by, FromDaemon::TaskStatusChange(told), MOMENT()));
        assert_eq!(change.row.task.results.exit_code, Some(143));
        assert_eq!(change.row.task.status, Status::Cancelled);
    }

    #[test]
    fn a_retry_without_attempts_left_is_a_failure() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        for (most, expected) in [(1, Status::Failed), (2, Status::Deferred)] {
            let row = running(Order { max_attempts: most, ..Order::default() }, me);
            let change =
                applied(judge(row.clone(), from, report(&row, Status::Deferred), MOMENT()));
            assert_eq!(change.row.task.status, expected);
            let due = change.row.task.holding.next_retry_at;
            assert_eq!(due.is_some(), expected == Status::Deferred);
        }
    }

    #[test]
    fn a_retry_is_due_by_the_relays_clock_and_only_after_a_failure_that_may_pass() {
        let me = DaemonId::fresh();
        let from = Sender { daemon: me, epoch: Some(1) };
        let row = running(Order { max_attempts: 3, ..Order::default() }, me);
        let told = |reason| {
            let FromDaemon::TaskStatusChange(mut told) = report(&row, Status::Deferred) else {
                panic!()
            };
            // a daemon whose clock is an hour ahead
            told.at = Some(at(3_600_000));
            told.next_retry_at = Some(at(3_601_500));
            told.reason = Some(reason);
            let message = FromDaemon::TaskStatusChange(told);
            applied(judge(row.clone(), from, message, MOMENT())).row.task
        };
        let later = told(Reason::ProviderNetwork);
        assert_eq!(later.holding.next_retry_at, Some(MOMENT().now.plus_millis(1_500)));
        for reason in hayward_shared::task::REASONS {
            let expected = match reason.retry() {
                // it is told when it comes back
                _ if *reason == Reason::Quota => Status::Deferred,
                Retry::Never => Status::Failed,
                Retry::Again | Retry::Fresh => Status::Deferred,
            };
            assert_eq!(told(*reason).status, expected, "{reason}");
        }
    }

    #[test]
    fn a_branch_that_moved_is_told_in_the_task_after_its_end_and_odd_names_are_not() {
        let me = DaemonId::fresh();
        let mut row = running(Order::default(), me);
        row.task.status = Status::Completed;
        let by = Sender { daemon: me, epoch: Some(1) };
        let told = |head: &str| {
            FromDaemon::TaskEvent(TaskEvent {
                task_id: row.task.id,
                run_id: row.task.holding.run_id.unwrap(),
                event: Kind::BranchMoved,
                at: at(5_000),
                channel: None,
                payload: json!({ "branch": "hayward/x", "headCommit": head }),
            })
        };
        let change = applied(judge(row.clone(), by, told(&"a".repeat(40)), MOMENT()));
        let (results, version) = (change.row.task.results, change.row.task.version);
        assert_eq!(results.branch.as_deref(), Some("hayward/x"));
        assert_eq!(results.head_commit, Some("a".repeat(40)));
        assert_eq!(version, row.task.version + 1);
        let change = applied(judge(row.clone(), by, told(&"a".repeat(MAX_REF + 1)), MOMENT()));
        assert_eq!(change.row.task.results.head_commit, None);
    }

    #[test]
    fn a_pull_request_that_was_opened_late_is_named_in_the_task_once() {
        let me = DaemonId::fresh();
        let mut row = running(Order::default(), me);
        row.task.status = Status::Completed;
        let by = Sender { daemon: me, epoch: Some(1) };
        let told = |url: Value| {
            FromDaemon::TaskEvent(TaskEvent {
                task_id: row.task.id,
                run_id: row.task.holding.run_id.unwrap(),
                event: Kind::MergeResult,
                at: at(5_000),
                channel: None,
                payload: json!({ "command": "complete", "success": true, "prUrl": url }),
            })
        };
        let url = "https://github.com/o/r/pull/7";
        let change = applied(judge(row.clone(), by, told(url.into()), MOMENT()));
        assert_eq!(change.row.task.results.pr_url.as_deref(), Some(url));
        assert_eq!(change.row.task.version, row.task.version + 1);
        let version = change.row.task.version;
        for other in [url.into(), Value::Null, "x".repeat(MAX_URL + 1).into()] {
            let change = applied(judge(change.row.clone(), by, told(other), MOMENT()));
            assert_eq!(change.row.task.results.pr_url.as_deref(), Some(url));
            assert_eq!(change.row.task.version, version);
        }
    }

    #[test]
    fn f30_odd_and_long_texts_are_kept_within_bounds() {
        let long = "\u{0}\u{fffd}é".repeat(MAX_TEXT);
        let payload = bounded_payload(json!({ "text": long }));
        assert!(payload["text"].as_str().unwrap().len() <= MAX_TEXT);
        assert_eq!(payload["truncated"], true);
        let payload = bounded_payload(json!({ "other": "x".repeat(MAX_PAYLOAD) }));
        assert_eq!(payload, json!({ "truncated": true }));
    }
}
