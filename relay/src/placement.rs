//! Placement: may this daemon run that task, and if not, why not. Pure.

use hayward_shared::api::Runtime;
use hayward_shared::id::DaemonId;
use hayward_shared::task::Task;

/// The agent that runs any command; every daemon of ours has it.
const COMMAND: &str = "command";

/// The one agent that a plain makima peer drives.
const PLAIN_AGENT: &str = "claude";

/// A daemon that asks for work.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: DaemonId,
    /// Whether it speaks the seed's protocol alone.
    pub(crate) plain: bool,
    /// Whether it ends an agent by itself before its task is handed over.
    pub(crate) fences: bool,
    pub(crate) runtimes: Vec<Runtime>,
}

/// Why a daemon may not run a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The task names another daemon.
    #[error("it is meant for another daemon")]
    OtherDaemon,
    /// The worktree that it continues, or its local repository, is on another machine.
    #[error("what it works on is on another machine")]
    Elsewhere,
    /// The daemon has no such agent.
    #[error("the daemon has no agent '{0}'")]
    NoAgent(String),
    /// The daemon has the agent, but it cannot be used.
    #[error("the daemon's agent '{0}' cannot be used")]
    Unhealthy(String),
    /// The task may be handed over, and the daemon would not end its agent before.
    #[error("the daemon cannot end an agent by itself before its task is handed over")]
    Unfenced,
    /// A plain peer cannot run it.
    #[error("a plain peer runs no commands")]
    Plain,
}

/// Whether `daemon` may run `task`; `continued` is where the task that it continues was run.
pub(crate) fn explain(
    task: &Task,
    continued: Option<DaemonId>,
    daemon: &Candidate,
) -> Result<(), Unfit> {
    if task.order.wanted_daemon_id.is_some_and(|wanted| wanted != daemon.id) {
        return Err(Unfit::OtherDaemon);
    }
    if task.order.requeue_after.is_some() && !daemon.fences {
        return Err(Unfit::Unfenced);
    }
    // a local folder that a daemon has worked on is not on another machine
    let local = task.order.repository_url.as_deref().is_some_and(is_local);
    // so is the session of an agent that is to go on
    let stays = local || task.holding.follow_up.is_some();
    let bound = if stays { task.holding.daemon_id.or(continued) } else { continued };
    if bound.is_some_and(|bound| bound != daemon.id) {
        return Err(Unfit::Elsewhere);
    }
    let named = task.order.agent.as_deref();
    let command = !task.order.command.is_empty() || named == Some(COMMAND);
    match named {
        _ if command => (!daemon.plain).then_some(()).ok_or(Unfit::Plain),
        None => Ok(()),
        // nobody else may run it, and the daemon itself says best what is wrong with the agent
        Some(_) if task.order.wanted_daemon_id == Some(daemon.id) => Ok(()),
        Some(name) => agent(name, daemon),
    }
}

/// Whether a repository is a folder of some machine.
pub(crate) fn is_local(repository: &str) -> bool {
    repository.starts_with(['/', '~', '.']) || repository.starts_with("file://")
}

fn agent(name: &str, daemon: &Candidate) -> Result<(), Unfit> {
    if daemon.plain && name == PLAIN_AGENT {
        return Ok(());
    }
    match daemon.runtimes.iter().find(|r| r.name == name) {
        Some(runtime) if runtime.healthy => Ok(()),
        Some(_) => Err(Unfit::Unhealthy(name.to_owned())),
        None => Err(Unfit::NoAgent(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::queued;
    use hayward_shared::task::{FollowUp, Order};

    fn daemon(plain: bool, runtimes: &[(&str, bool)]) -> Candidate {
        let runtimes = runtimes
            .iter()
            .map(|(name, healthy)| Runtime {
                name: (*name).into(),
                version: None,
                healthy: *healthy,
                reason: None,
            })
            .collect();
        Candidate { id: DaemonId::fresh(), plain, fences: !plain, runtimes }
    }

    fn wants(order: Order, daemon: &Candidate) -> Result<(), Unfit> {
        explain(&queued(order).task, None, daemon)
    }

    #[test]
    fn a_named_agent_must_be_there_and_healthy() {
        let ours = daemon(false, &[("codex", true), ("claude", false)]);
        let named = |name: &str| Order { agent: Some(name.into()), ..Order::default() };
        assert_eq!(wants(named("codex"), &ours), Ok(()));
        assert_eq!(wants(named("claude"), &ours), Err(Unfit::Unhealthy("claude".into())));
        assert_eq!(wants(named("gemini"), &ours), Err(Unfit::NoAgent("gemini".into())));
        assert_eq!(wants(named("command"), &ours), Ok(()));
        assert_eq!(wants(Order::default(), &ours), Ok(()));
    }

    #[test]
    fn f28_a_task_that_may_be_handed_over_goes_only_to_who_ends_its_agent_before() {
        let order = Order { requeue_after: Some(5), ..Order::default() };
        let ours = daemon(false, &[]);
        assert_eq!(wants(order.clone(), &ours), Ok(()));
        let older = Candidate { fences: false, ..ours };
        assert_eq!(wants(order, &older), Err(Unfit::Unfenced));
        assert_eq!(wants(Order::default(), &older), Ok(()));
    }

    #[test]
    fn a_plain_peer_gets_prompts_and_no_commands() {
        let plain = daemon(true, &[]);
        let command = Order { command: vec!["true".into()], ..Order::default() };
        assert_eq!(wants(command, &plain), Err(Unfit::Plain));
        assert_eq!(wants(Order::default(), &plain), Ok(()));
        let claude = Order { agent: Some("claude".into()), ..Order::default() };
        assert_eq!(wants(claude, &plain), Ok(()));
    }

    #[test]
    fn a_task_stays_where_its_work_is() {
        let ours = daemon(false, &[]);
        let other = DaemonId::fresh();
        let wanted = Order { wanted_daemon_id: Some(other), ..Order::default() };
        assert_eq!(wants(wanted, &ours), Err(Unfit::OtherDaemon));
        let mut row = queued(Order { repository_url: Some("/r".into()), ..Order::default() });
        assert_eq!(explain(&row.task, None, &ours), Ok(()));
        assert_eq!(explain(&row.task, Some(other), &ours), Err(Unfit::Elsewhere));
        row.task.holding.daemon_id = Some(other);
        assert_eq!(explain(&row.task, None, &ours), Err(Unfit::Elsewhere));
        row.task.order.repository_url = Some("https://example.org/r".into());
        assert_eq!(explain(&row.task, None, &ours), Ok(()));
        let follow_up = FollowUp { id: Default::default(), text: "go on".into() };
        row.task.holding.follow_up = Some(follow_up);
        assert_eq!(explain(&row.task, None, &ours), Err(Unfit::Elsewhere));
        row.task.holding.daemon_id = Some(ours.id);
        assert_eq!(explain(&row.task, None, &ours), Ok(()));
    }
}
