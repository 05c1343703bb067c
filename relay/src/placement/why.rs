//! Why a task waits, for each daemon of its workspace and for all of them, in words that a user
//! acts on. Pure.

use super::{Candidate, Unfit, agent_of, explain, provider_at};
use crate::limits::{Barrier, Gauge};
use crate::store::daemons::{Daemon, Profile};
use hayward_shared::budget::BudgetReached;
use hayward_shared::id::{DaemonId, TaskId};
use hayward_shared::task::{Reason, Status, Task};
use hayward_shared::time::Timestamp;
use hayward_shared::why::{Why, WhyCode};

/// A daemon of the workspace, as the relay sees it now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) daemon: &'a Daemon,
    /// Whether its link is up.
    pub(crate) online: bool,
}

/// What is known around a task that waits.
#[derive(Debug)]
pub(crate) struct Around<'a> {
    /// All daemons of the workspace.
    pub(crate) daemons: &'a [Seen<'a>],
    /// Where the task that it continues was run.
    pub(crate) continued: Option<DaemonId>,
    /// The workspace against its limits.
    pub(crate) gauge: Gauge<'a>,
    /// The runs under way, oldest first, as far as they are to be named: who holds a limit.
    pub(crate) holders: &'a [Task],
}

/// Runs that are named where a limit is reached.
const NAMED: usize = 5;

const GIB: u64 = 1 << 30;

/// Why `task` waits; nothing for one that runs or has ended.
pub(crate) fn why(task: &Task, around: &Around<'_>) -> Vec<Why> {
    match task.status {
        Status::Pending => {
            let text = "it was written down and not released: release it with POST .../run";
            vec![Why::of_all(WhyCode::NotReleased, text)]
        }
        Status::Queued => queued(task, around),
        Status::Waiting => vec![waiting(task, around)],
        Status::Deferred => vec![deferred(task)],
        _ => Vec::new(),
    }
}

fn queued(task: &Task, around: &Around<'_>) -> Vec<Why> {
    if let Some(barrier) = around.gauge.whole() {
        return vec![of_barrier(&barrier, around)];
    }
    if around.daemons.is_empty() {
        let text = "the workspace has no daemon: start one with `hayward daemon run --relay URL`";
        return vec![Why::of_all(WhyCode::NoDaemon, text)];
    }
    let mut all: Vec<_> =
        around.daemons.iter().map(|seen| for_daemon(task, *seen, around)).collect();
    // who could run it soonest goes first
    all.sort_by_key(|why| std::cmp::Reverse(nearness(why.code)));
    all
}

/// How near a daemon is to running the task: it waits for nothing, for a moment, for others, for a
/// person.
fn nearness(code: WhyCode) -> u8 {
    match code {
        WhyCode::Ready => 4,
        WhyCode::Settling => 3,
        WhyCode::NoFreeSlot
        | WhyCode::WorkspaceLimit
        | WhyCode::AgentLimit
        | WhyCode::ProviderLimit
        | WhyCode::ProviderBackoff => 2,
        WhyCode::DiskLow | WhyCode::DaemonOffline => 1,
        _ => 0,
    }
}

fn for_daemon(task: &Task, seen: Seen<'_>, around: &Around<'_>) -> Why {
    let Daemon { id, profile, held, .. } = seen.daemon;
    let now = around.gauge.now;
    let (code, message) = unfit(task, *id, profile, around.continued)
        .or_else(|| (!seen.online).then(|| away(seen.daemon)))
        .or_else(|| settling(profile, now))
        .or_else(|| short(profile))
        .or_else(|| full(profile, *held))
        .or_else(|| limited(task, profile, around))
        .unwrap_or_else(|| {
            (WhyCode::Ready, "nothing holds it back there: the daemon was told of it".to_owned())
        });
    let hostname = Some(profile.hostname.clone());
    Why { daemon_id: Some(*id), hostname, ..Why::of_all(code, message) }
}

type Said = (WhyCode, String);

fn unfit(
    task: &Task,
    id: DaemonId,
    profile: &Profile,
    continued: Option<DaemonId>,
) -> Option<Said> {
    let unfit = explain(task, continued, Candidate { id, profile }).err()?;
    let code = match unfit {
        Unfit::OtherDaemon => WhyCode::OtherDaemon,
        Unfit::Label(_) => WhyCode::MissingLabel,
        Unfit::Elsewhere => WhyCode::Elsewhere,
        Unfit::NoAgent(_) | Unfit::StillLooking => WhyCode::NoAgent,
        Unfit::Unhealthy { .. } => WhyCode::AgentUnhealthy,
        Unfit::Unfenced => WhyCode::Unfenced,
        Unfit::Plain => WhyCode::PlainPeer,
    };
    Some((code, unfit.to_string()))
}

fn away(daemon: &Daemon) -> Said {
    let text = format!("it was last heard at {}: start it there", daemon.last_seen_at);
    (WhyCode::DaemonOffline, text)
}

fn settling(profile: &Profile, now: Timestamp) -> Option<Said> {
    let at = profile.settles_at.filter(|at| *at > now)?;
    Some((WhyCode::Settling, format!("its link broke and is new: it gets work from {at} on")))
}

fn short(profile: &Profile) -> Option<Said> {
    let vitals = &profile.vitals;
    let (free, floor) = (vitals.free_bytes?, vitals.floor_bytes?);
    let text = format!(
        "its disk has {} free, and it begins nothing below {} ([daemon] min_free_bytes): make room",
        size(free),
        size(floor)
    );
    vitals.is_short().then_some((WhyCode::DiskLow, text))
}

fn full(profile: &Profile, held: u32) -> Option<Said> {
    let text = match profile.capacity {
        1 => "its one place is taken ([daemon] max_concurrent_tasks)".to_owned(),
        all => format!("all its {all} places are taken ([daemon] max_concurrent_tasks)"),
    };
    (held >= profile.capacity).then_some((WhyCode::NoFreeSlot, text))
}

fn limited(task: &Task, profile: &Profile, around: &Around<'_>) -> Option<Said> {
    let agent = agent_of(task, profile);
    let provider = agent.as_deref().and_then(|agent| provider_at(agent, profile));
    let barrier = around.gauge.barrier(agent.as_deref(), provider.as_deref())?;
    let Why { code, message, .. } = of_barrier(&barrier, around);
    Some((code, message))
}

fn of_barrier(barrier: &Barrier, around: &Around<'_>) -> Why {
    let held = |most: &u32, what: &str, of: &dyn Fn(&Task) -> bool| {
        let by: Vec<_> =
            around.holders.iter().filter(|task| of(task)).map(|task| task.id).collect();
        format!("{what} runs {most} at once and no more; {}", held_by(&by))
    };
    let (code, text) = match barrier {
        Barrier::Workspace(most) => {
            (WhyCode::WorkspaceLimit, held(most, "the workspace", &|_| true))
        }
        Barrier::Agent(name, most) => {
            let of = |task: &Task| task.holding.claimed_agent.as_ref() == Some(name);
            (WhyCode::AgentLimit, held(most, &format!("agent '{name}'"), &of))
        }
        Barrier::Provider(name, most) => {
            let of = |task: &Task| task.holding.provider.as_ref() == Some(name);
            (WhyCode::ProviderLimit, held(most, &format!("provider '{name}'"), &of))
        }
        Barrier::Backoff(name, until) => {
            let text = format!(
                "provider '{name}' refused for its rate or quota: nobody asks it before {until}"
            );
            (WhyCode::ProviderBackoff, text)
        }
        Barrier::Probed(name, until) => {
            let text = format!(
                "provider '{name}' refused before, and one run tries it: the others follow when it \
                 is answered, at {until} at the latest"
            );
            (WhyCode::ProviderBackoff, text)
        }
    };
    Why::of_all(code, text)
}

/// Who holds the places of a limit, by the ids that commands take.
fn held_by(tasks: &[TaskId]) -> String {
    let names: Vec<_> = tasks.iter().take(NAMED).map(|id| id.short()).collect();
    match tasks.len().checked_sub(NAMED).filter(|more| *more > 0) {
        None if names.is_empty() => "a place is free again".to_owned(),
        None => format!("held by {}", names.join(", ")),
        Some(more) => format!("held by {} and {more} more", names.join(", ")),
    }
}

fn waiting(task: &Task, around: &Around<'_>) -> Why {
    let holder = around.daemons.iter().find(|seen| Some(seen.daemon.id) == task.holding.daemon_id);
    let said = task.results.progress_summary.as_deref();
    let asked = |what: &str| match said {
        Some(said) => format!("{what}: {said}"),
        None => what.to_owned(),
    };
    let (code, message) = match task.reason {
        Some(Reason::DaemonOffline) => match holder {
            Some(seen) => (WhyCode::DaemonOffline, return_of(seen.daemon, task)),
            None => (WhyCode::DaemonOffline, "its daemon is away".to_owned()),
        },
        Some(Reason::LocalDirectory) => {
            (WhyCode::LocalDirectory, "another run works in its folder".to_owned())
        }
        Some(Reason::Approval) => (WhyCode::Approval, asked("its agent asks for an approval")),
        Some(Reason::UserInput) => (WhyCode::UserInput, asked("its agent asks for an answer")),
        Some(Reason::Dependency) => {
            (WhyCode::Dependency, "another task must end before it".to_owned())
        }
        Some(Reason::Quota) => {
            (WhyCode::Quota, "the quota of its agent's provider is used up".to_owned())
        }
        other => {
            let reason = other.map_or("a reason that was not told", Reason::name);
            (WhyCode::Unknown, format!("it waits for {reason}"))
        }
    };
    let hostname = holder.map(|seen| seen.daemon.profile.hostname.clone());
    Why { daemon_id: task.holding.daemon_id, hostname, ..Why::of_all(code, message) }
}

fn return_of(daemon: &Daemon, task: &Task) -> String {
    let heard = format!(
        "its daemon was last heard at {}; it goes on when that is back",
        daemon.last_seen_at
    );
    match task.order.requeue_after {
        Some(minutes) => {
            format!("{heard}, and goes to another one {minutes} min after its lease ran out")
        }
        None => heard,
    }
}

fn deferred(task: &Task) -> Why {
    let at = task.holding.next_retry_at;
    let when = at.map_or_else(|| "soon".to_owned(), |at| format!("at {at}"));
    match task.reason {
        Some(Reason::Quota) => {
            let whose = task.holding.provider.as_deref().unwrap_or("its provider");
            let text = format!("the quota of {whose} is used up; it goes on {when}");
            Why::of_all(WhyCode::Quota, text)
        }
        reason => {
            let failed = reason.map_or("failed", Reason::name);
            let next = task.holding.attempt + 1;
            let text = format!(
                "attempt {} ended ({failed}); number {next} of {} comes {when}",
                task.holding.attempt, task.order.max_attempts
            );
            Why::of_all(WhyCode::Retry, text)
        }
    }
}

/// Why a task waits whose budget, or that of one that it is a part of, is used up.
pub(crate) fn of_budget(over: BudgetReached) -> Why {
    Why { budget: Some(over), ..Why::of_all(WhyCode::BudgetReached, over.to_string()) }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..GIB => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes / GIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::{at, queued, running};
    use crate::limits::{Backoff, Limits, UnderWay};
    use crate::placement::tests::profile;
    use hayward_shared::api::Vitals;
    use hayward_shared::id::MachineId;
    use hayward_shared::task::Order;

    fn daemon(change: impl FnOnce(&mut Daemon)) -> Daemon {
        let mut daemon = Daemon {
            id: DaemonId::fresh(),
            machine: MachineId::fresh(),
            profile: profile(&[("claude", true), ("command", true)]),
            last_seen_at: at(500),
            held: 0,
        };
        change(&mut daemon);
        daemon
    }

    fn gauge(limits: &Limits) -> Gauge<'_> {
        Gauge { limits, under_way: vec![], backoffs: vec![], now: at(1_000) }
    }

    /// Why the task waits when this is its only daemon, and its link is up.
    fn one(task: &Task, daemon: &Daemon, gauge: Gauge<'_>, holders: &[Task]) -> (WhyCode, String) {
        let seen = [Seen { daemon, online: true }];
        let around = Around { daemons: &seen, continued: None, gauge, holders };
        let mut all = why(task, &around);
        assert_eq!(all.len(), 1, "{all:?}");
        let Why { code, message, .. } = all.remove(0);
        (code, message)
    }

    #[test]
    fn each_reason_is_told_with_what_a_user_may_do() {
        let limits = Limits::default();
        let claude = || Order { agent: Some("claude".into()), ..Order::default() };
        let requires = [("gpu".to_owned(), "yes".to_owned())].into();
        let away =
            Daemon { profile: Profile { hostname: "h".into(), ..profile(&[]) }, ..daemon(|_| {}) };
        let low =
            Vitals { free_bytes: Some(5 << 20), floor_bytes: Some(2 << 30), ..Vitals::default() };
        let cases = [
            (claude(), daemon(|_| {}), WhyCode::Ready, "nothing holds it back"),
            (claude(), daemon(|one| one.held = 2), WhyCode::NoFreeSlot, "all its 2 places"),
            (
                claude(),
                daemon(|one| one.profile.settles_at = Some(at(1_001))),
                WhyCode::Settling,
                "from 1970-01-01T00:00:01.001Z on",
            ),
            (claude(), daemon(|one| one.profile.settles_at = Some(at(1_000))), WhyCode::Ready, ""),
            (
                claude(),
                daemon(|one| one.profile.vitals = low),
                WhyCode::DiskLow,
                "has 5 MiB free, and it begins nothing below 2 GiB",
            ),
            (claude(), away, WhyCode::NoAgent, "no agent 'claude': install it"),
            (Order { requires, ..claude() }, daemon(|_| {}), WhyCode::MissingLabel, "gpu=yes"),
            (
                Order { wanted_daemon_id: Some(DaemonId::fresh()), ..claude() },
                daemon(|_| {}),
                WhyCode::OtherDaemon,
                "another daemon",
            ),
        ];
        for (order, daemon, code, part) in cases {
            let (told, message) = one(&queued(order).task, &daemon, gauge(&limits), &[]);
            assert_eq!(told, code, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn every_daemon_is_told_of_the_nearest_first_and_one_that_is_away_as_such() {
        let limits = Limits::default();
        let (busy, gone, fit) = (daemon(|one| one.held = 9), daemon(|_| {}), daemon(|_| {}));
        let seen = [
            Seen { daemon: &gone, online: false },
            Seen { daemon: &busy, online: true },
            Seen { daemon: &fit, online: true },
        ];
        let task = queued(Order::default()).task;
        let around =
            Around { daemons: &seen, continued: Some(fit.id), gauge: gauge(&limits), holders: &[] };
        let told: Vec<_> =
            why(&task, &around).iter().map(|why| (why.daemon_id, why.code)).collect();
        assert_eq!(told[0], (Some(fit.id), WhyCode::Ready));
        assert_eq!(told.iter().filter(|(_, code)| *code == WhyCode::Elsewhere).count(), 2);
        let around = Around { continued: None, ..around };
        let codes: Vec<_> = why(&task, &around).iter().map(|why| why.code).collect();
        assert_eq!(codes, [WhyCode::Ready, WhyCode::NoFreeSlot, WhyCode::DaemonOffline]);
        let around = Around { daemons: &[], ..around };
        assert_eq!(why(&task, &around)[0].code, WhyCode::NoDaemon);
    }

    #[test]
    fn a_limit_is_told_by_its_name_and_by_who_holds_it() {
        let mut limits = Limits::default();
        limits.set("agent:claude=1").unwrap();
        let mut holder = running(Order::default(), DaemonId::fresh()).task;
        holder.holding.claimed_agent = Some("claude".into());
        holder.holding.provider = Some("anthropic".into());
        let mut other = holder.clone();
        (other.id, other.holding.claimed_agent) = (TaskId::fresh(), Some("command".into()));
        let holders = [other, holder.clone()];
        let under_way = || {
            let of = |agent: &str| UnderWay { agent: Some(agent.into()), provider: None, runs: 1 };
            vec![of("command"), of("claude")]
        };
        let task = queued(Order { agent: Some("claude".into()), ..Order::default() }).task;
        let full = Gauge { under_way: under_way(), ..gauge(&limits) };
        let (code, message) = one(&task, &daemon(|_| {}), full, &holders);
        assert_eq!(code, WhyCode::AgentLimit);
        let wanted =
            format!("agent 'claude' runs 1 at once and no more; held by {}", holder.id.short());
        assert_eq!(message, wanted);
        limits.set("workspace=2").unwrap();
        let full = Gauge { under_way: under_way(), ..gauge(&limits) };
        let (code, message) = one(&task, &daemon(|_| {}), full, &holders);
        assert_eq!(code, WhyCode::WorkspaceLimit);
        assert!(message.contains(&holders[0].id.short()), "{message}");
    }

    #[test]
    fn a_refusing_provider_is_told_with_the_moment_until_when() {
        let limits = Limits::default();
        let backoff =
            Backoff { provider: "anthropic".into(), until: at(9_000), strikes: 1, probed: false };
        let refused = Gauge { backoffs: vec![backoff], ..gauge(&limits) };
        let task = queued(Order::default()).task;
        let (code, message) = one(&task, &daemon(|_| {}), refused, &[]);
        assert_eq!(code, WhyCode::ProviderBackoff);
        assert!(message.contains("'anthropic'") && message.contains(":09.000Z"), "{message}");
    }

    #[test]
    fn what_was_handed_out_before_tells_its_reason_or_its_next_try() {
        let limits = Limits::default();
        let holder = daemon(|_| {});
        let mut task = running(Order { max_attempts: 3, ..Order::default() }, holder.id).task;
        assert_eq!(why(&task, &around(&[], gauge(&limits))), []);
        task.status = Status::Deferred;
        task.reason = Some(Reason::ProviderOverloaded);
        task.holding.next_retry_at = Some(at(7_000));
        let (code, message) = one(&task, &holder, gauge(&limits), &[]);
        assert_eq!(code, WhyCode::Retry);
        assert!(message.contains("number 2 of 3") && message.contains(":07.000Z"), "{message}");
        task.reason = Some(Reason::Quota);
        assert_eq!(one(&task, &holder, gauge(&limits), &[]).0, WhyCode::Quota);
        task.status = Status::Waiting;
        task.reason = Some(Reason::DaemonOffline);
        let (code, message) = one(&task, &holder, gauge(&limits), &[]);
        assert_eq!(code, WhyCode::DaemonOffline);
        assert!(message.contains(":00.500Z"), "{message}");
        task.reason = Some(Reason::UserInput);
        task.results.progress_summary = Some("which branch?".into());
        assert!(one(&task, &holder, gauge(&limits), &[]).1.contains("which branch?"));
    }

    fn around<'a>(daemons: &'a [Seen<'a>], gauge: Gauge<'a>) -> Around<'a> {
        Around { daemons, continued: None, gauge, holders: &[] }
    }
}
