//! Placement: may this daemon run that task, and if not, why not; and which of two would do better.
//! Pure.

pub(crate) mod why;

use crate::store::daemons::Profile;
use hayward_shared::api::{COMMAND_AGENT, Runtime, provider_of};
use hayward_shared::id::DaemonId;
use hayward_shared::task::Task;
use std::cmp::Reverse;

/// The one agent that a plain makima peer drives.
const PLAIN_AGENT: &str = "claude";

/// Loads are told apart by this many hundredths of a processor: less is noise of the last minute.
const LOAD_STEP: u32 = 50;

/// A daemon that might run a task.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) id: DaemonId,
    pub(crate) profile: &'a Profile,
}

/// Why a daemon may not run a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The task names another daemon.
    #[error("the task names another daemon")]
    OtherDaemon,
    /// The daemon lacks a label that the task requires.
    #[error("it has no label {0}: set it under [daemon] labels there, or do not require it")]
    Label(String),
    /// The worktree that it continues, or its local repository, is on another machine.
    #[error("what the task works on is on another machine")]
    Elsewhere,
    /// The daemon has no such agent.
    #[error("it has no agent '{0}': install it there, or name another")]
    NoAgent(String),
    /// The daemon began a moment ago and does not know its agents yet.
    #[error("it still looks for its agents")]
    StillLooking,
    /// The daemon has the agent, but it cannot be used.
    #[error("its agent '{name}' cannot be used: {reason}")]
    Unhealthy {
        /// The agent.
        name: String,
        /// What the daemon said of it.
        reason: String,
    },
    /// The task may be handed over, and the daemon would not end its agent before.
    #[error("it cannot end an agent by itself before its task is handed over: upgrade it")]
    Unfenced,
    /// A plain peer cannot run it.
    #[error("it is a plain peer, which runs no commands")]
    Plain,
}

/// Whether `daemon` may run `task`; `continued` is where the task that it continues was run.
pub(crate) fn explain(
    task: &Task,
    continued: Option<DaemonId>,
    daemon: Candidate<'_>,
) -> Result<(), Unfit> {
    let Candidate { id, profile } = daemon;
    if task.order.wanted_daemon_id.is_some_and(|wanted| wanted != id) {
        return Err(Unfit::OtherDaemon);
    }
    let lacks = |(key, value): &(&String, &String)| profile.labels.get(*key) != Some(*value);
    if let Some((key, value)) = task.order.requires.iter().find(lacks) {
        return Err(Unfit::Label(format!("{key}={value}")));
    }
    if task.order.requeue_after.is_some() && !profile.fences {
        return Err(Unfit::Unfenced);
    }
    // a local folder that a daemon has worked on is not on another machine
    let local = task.order.repository_url.as_deref().is_some_and(is_local);
    // so is the session of an agent that is to go on
    let stays = local || task.holding.follow_up.is_some();
    let bound = if stays { task.holding.daemon_id.or(continued) } else { continued };
    if bound.is_some_and(|bound| bound != id) {
        return Err(Unfit::Elsewhere);
    }
    let named = task.order.named_agent();
    if profile.plain && (named == Some(COMMAND_AGENT) || !task.order.command.is_empty()) {
        return Err(Unfit::Plain);
    }
    match named {
        Some(COMMAND_AGENT) => Ok(()),
        // by whom it is run, and whose limits count, is known once the daemon has looked
        None if !profile.plain && profile.runtimes.is_empty() => Err(Unfit::StillLooking),
        None => Ok(()),
        // nobody else may run it, and the daemon itself says best what is wrong with the agent
        Some(_) if task.order.wanted_daemon_id == Some(id) => Ok(()),
        Some(name) => healthy(name, profile),
    }
}

/// Whether a repository is a folder of some machine.
pub(crate) fn is_local(repository: &str) -> bool {
    repository.starts_with(['/', '~', '.']) || repository.starts_with("file://")
}

fn healthy(name: &str, daemon: &Profile) -> Result<(), Unfit> {
    if daemon.plain && name == PLAIN_AGENT {
        return Ok(());
    }
    match runtime(name, daemon) {
        Some(runtime) if runtime.healthy => Ok(()),
        Some(runtime) => Err(Unfit::Unhealthy {
            name: name.to_owned(),
            reason: runtime.reason.clone().unwrap_or_else(|| "it does not answer".to_owned()),
        }),
        None => Err(Unfit::NoAgent(name.to_owned())),
    }
}

fn runtime<'a>(name: &str, daemon: &'a Profile) -> Option<&'a Runtime> {
    daemon.runtimes.iter().find(|runtime| runtime.name == name)
}

/// The agent that runs a task there: the one that it names, else the best that the daemon has.
pub(crate) fn agent_of(task: &Task, daemon: &Profile) -> Option<String> {
    task.order.named_agent().map(str::to_owned).or_else(|| chosen(daemon))
}

/// The agent of a task that names none.
pub(crate) fn chosen(daemon: &Profile) -> Option<String> {
    let good = |one: &&Runtime| one.healthy && one.name != COMMAND_AGENT;
    let plain = daemon.plain.then_some(PLAIN_AGENT);
    plain.or_else(|| daemon.runtimes.iter().find(good).map(|one| &*one.name)).map(str::to_owned)
}

/// Whose models an agent asks there.
pub(crate) fn provider_at(agent: &str, daemon: &Profile) -> Option<String> {
    let told = runtime(agent, daemon).and_then(|runtime| runtime.provider.clone());
    told.or_else(|| provider_of(agent).map(str::to_owned))
}

/// How well a daemon would run a task, the greater the better: one that has a worktree of the
/// repository ready, then one that has less to do, then one with more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Merit {
    warm: bool,
    idle: Reverse<u32>,
    free: u32,
}

/// How well `daemon`, which has `free` places, would run `task`.
pub(crate) fn merit(task: &Task, daemon: &Profile, free: u32) -> Merit {
    let repository = task.order.repository_url.as_deref();
    let is_warm = |url: &str| daemon.vitals.warm.iter().any(|warm| alike(warm, url));
    // a machine that says nothing of its load is taken to have some to do
    let load = daemon.vitals.load_percent.unwrap_or(LOAD_STEP);
    Merit { warm: repository.is_some_and(is_warm), idle: Reverse(load / LOAD_STEP), free }
}

/// Whether two texts name one repository.
fn alike(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.trim_end_matches('/').trim_end_matches(".git").len();
    one.get(..plain(one)).map(|name| name.trim_end_matches('/'))
        == other.get(..plain(other)).map(|name| name.trim_end_matches('/'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::lease::tests::queued;
    use hayward_shared::api::Vitals;
    use hayward_shared::task::{FollowUp, Order};

    pub(crate) fn profile(runtimes: &[(&str, bool)]) -> Profile {
        let runtimes = runtimes
            .iter()
            .chain(&[(COMMAND_AGENT, true)])
            .map(|(name, healthy)| Runtime {
                name: (*name).into(),
                version: None,
                healthy: *healthy,
                reason: None,
                provider: None,
            })
            .collect();
        Profile {
            hostname: "box".into(),
            capacity: 2,
            fences: true,
            runtimes,
            ..Profile::default()
        }
    }

    fn plain() -> Profile {
        Profile { plain: true, fences: false, runtimes: vec![], ..profile(&[]) }
    }

    fn wants(order: Order, profile: &Profile) -> Result<(), Unfit> {
        let daemon = Candidate { id: DaemonId::fresh(), profile };
        explain(&queued(order).task, None, daemon)
    }

    fn named(name: &str) -> Order {
        Order { agent: Some(name.into()), ..Order::default() }
    }

    #[test]
    fn a_named_agent_must_be_there_and_healthy() {
        let ours = profile(&[("codex", true), ("claude", false)]);
        assert_eq!(wants(named("codex"), &ours), Ok(()));
        let ill = wants(named("claude"), &ours).unwrap_err();
        assert!(matches!(ill, Unfit::Unhealthy { name, .. } if name == "claude"));
        assert_eq!(wants(named("gemini"), &ours), Err(Unfit::NoAgent("gemini".into())));
        assert_eq!(wants(named("command"), &ours), Ok(()));
        assert_eq!(wants(Order::default(), &ours), Ok(()));
        let early = Profile { runtimes: vec![], ..ours };
        assert_eq!(wants(Order::default(), &early), Err(Unfit::StillLooking));
        assert_eq!(wants(Order::default(), &plain()), Ok(()));
    }

    #[test]
    fn what_a_task_requires_the_daemon_must_have_with_that_value() {
        let mut ours = profile(&[]);
        ours.labels = [("gpu".to_owned(), "a100".to_owned()), ("os".into(), "linux".into())].into();
        let requires = |pairs: &[(&str, &str)]| Order {
            requires: pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Order::default()
        };
        assert_eq!(wants(requires(&[("gpu", "a100")]), &ours), Ok(()));
        assert_eq!(wants(requires(&[("gpu", "a100"), ("os", "linux")]), &ours), Ok(()));
        for wrong in [("gpu", "h100"), ("zone", "")] {
            let missing = format!("{}={}", wrong.0, wrong.1);
            assert_eq!(wants(requires(&[wrong]), &ours), Err(Unfit::Label(missing)));
        }
    }

    #[test]
    fn f28_a_task_that_may_be_handed_over_goes_only_to_who_ends_its_agent_before() {
        let order = Order { requeue_after: Some(5), ..Order::default() };
        let ours = profile(&[]);
        assert_eq!(wants(order.clone(), &ours), Ok(()));
        let older = Profile { fences: false, ..ours };
        assert_eq!(wants(order, &older), Err(Unfit::Unfenced));
        assert_eq!(wants(Order::default(), &older), Ok(()));
    }

    #[test]
    fn a_plain_peer_gets_prompts_and_no_commands() {
        let plain = plain();
        let command = Order { command: vec!["true".into()], ..Order::default() };
        assert_eq!(wants(command.clone(), &plain), Err(Unfit::Plain));
        let command = Order { agent: Some("claude".into()), ..command };
        assert_eq!(wants(command, &plain), Err(Unfit::Plain));
        assert_eq!(wants(Order::default(), &plain), Ok(()));
        assert_eq!(wants(named("claude"), &plain), Ok(()));
    }

    #[test]
    fn a_task_stays_where_its_work_is() {
        let profile = profile(&[]);
        let ours = Candidate { id: DaemonId::fresh(), profile: &profile };
        let other = DaemonId::fresh();
        let wanted = Order { wanted_daemon_id: Some(other), ..Order::default() };
        assert_eq!(explain(&queued(wanted).task, None, ours), Err(Unfit::OtherDaemon));
        let mut row = queued(Order { repository_url: Some("/r".into()), ..Order::default() });
        assert_eq!(explain(&row.task, None, ours), Ok(()));
        assert_eq!(explain(&row.task, Some(other), ours), Err(Unfit::Elsewhere));
        row.task.holding.daemon_id = Some(other);
        assert_eq!(explain(&row.task, None, ours), Err(Unfit::Elsewhere));
        row.task.order.repository_url = Some("https://example.org/r".into());
        assert_eq!(explain(&row.task, None, ours), Ok(()));
        let follow_up = FollowUp { id: Default::default(), text: "go on".into() };
        row.task.holding.follow_up = Some(follow_up);
        assert_eq!(explain(&row.task, None, ours), Err(Unfit::Elsewhere));
        row.task.holding.daemon_id = Some(ours.id);
        assert_eq!(explain(&row.task, None, ours), Ok(()));
    }

    #[test]
    fn the_agent_and_its_provider_are_known_before_a_task_is_handed_out() {
        let mut ours = profile(&[("command", true), ("claude", false), ("mine", true)]);
        ours.runtimes[2].provider = Some("anthropic-team".into());
        let agent = |order: Order| agent_of(&queued(order).task, &ours);
        assert_eq!(agent(Order::default()).as_deref(), Some("mine"));
        assert_eq!(agent(named("claude")).as_deref(), Some("claude"));
        let command = Order { command: vec!["true".into()], ..Order::default() };
        assert_eq!(agent(command.clone()).as_deref(), Some("command"));
        // as the daemon does it
        let both = Order { agent: Some("mine".into()), ..command };
        assert_eq!(agent(both).as_deref(), Some("mine"));
        assert_eq!(provider_at("mine", &ours).as_deref(), Some("anthropic-team"));
        assert_eq!(provider_at("claude", &ours).as_deref(), Some("anthropic"));
        assert_eq!(provider_at("command", &ours), None);
        assert_eq!(chosen(&plain()).as_deref(), Some("claude"));
        assert_eq!(chosen(&profile(&[])), None);
    }

    #[test]
    fn a_warm_worktree_goes_before_an_idle_machine_and_that_before_room() {
        let order = Order { repository_url: Some("https://h/o/r.git".into()), ..Order::default() };
        let task = queued(order).task;
        let machine = |load, warm: &[&str]| {
            let warm = warm.iter().map(|&name| name.into()).collect();
            let vitals = Vitals { load_percent: Some(load), warm, ..Vitals::default() };
            Profile { vitals, ..profile(&[]) }
        };
        let worst_first = [
            merit(&task, &machine(300, &["/src/r"]), 9),
            merit(&task, &machine(10, &[]), 1),
            merit(&task, &machine(49, &[]), 2),
            merit(&task, &machine(200, &["https://h/o/r/"]), 1),
            merit(&task, &machine(0, &["https://h/o/r.git"]), 1),
        ];
        assert!(worst_first.is_sorted_by(|one, other| one < other), "{worst_first:?}");
    }
}
