//! Before the agent: which agent, which commit, which worktree, which process.

use super::aim;
use super::furnish::{facts, furnish, section_of, worktree_of};
use super::jobs::fetched;
use super::shop::Shop;
use super::state::{Chosen, Place, RunState};
use crate::agent::discover::resolve;
use crate::agent::environment::environment;
use crate::agent::{
    Agent, Decoder, Message, Mode as AgentMode, Order as AgentOrder, Runtime, Session,
};
use crate::config::{AgentSection, Isolation};
use crate::git::branch::slug;
use crate::git::repo::{OpenError, ResolveError};
use crate::git::worktree::{NewWorktree, WorktreeError, await_task, hand_over, withhold};
use crate::git::{BranchName, CommitId, Repository};
use crate::journal::RunRow;
use crate::keeper::{Launch, Mode};
use hayward_shared::path::is_url;
use hayward_shared::protocol::SpawnTask;
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{CompletionAction, FollowUp, Order, Reason, Retry};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Hex digits of the task's id in its folder's name. Twelve are 48 random bits: the folders of two
/// tasks never meet, however many start in one second.
const FOLDER_DIGITS: usize = 12;

/// What a run goes on from.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// The run of the task before it.
    pub(super) former: Option<RunRow<RunState>>,
    /// What it is about instead of the plan.
    pub(super) follow_up: Option<FollowUp>,
    /// The agent's session, as the relay knows it.
    session: Option<String>,
}

impl Past {
    pub(super) fn new(spawn: &SpawnTask, former: Option<RunRow<RunState>>) -> Self {
        let run = spawn.run.as_ref();
        Self {
            former,
            follow_up: run.and_then(|run| run.follow_up.clone()),
            session: run.and_then(|run| run.resume_session_id.clone()),
        }
    }

    /// The agent's session, where the run goes on with it.
    fn session(&self) -> Option<String> {
        let row = self.former.as_ref()?;
        let known = row.state.reading.session_id.clone();
        match self.follow_up {
            Some(_) => known.or_else(|| self.session.clone()),
            None => {
                let goes_on = row.state.failed.is_some_and(|reason| reason.retry() == Retry::Again);
                known.filter(|_| goes_on)
            }
        }
    }

    /// What its agent is told first.
    fn words(&self, order: &Order) -> Message {
        let cut_off = self.former.as_ref().is_some_and(|row| row.state.failed.is_some());
        let (id, text) = match &self.follow_up {
            Some(words) => (words.id, &words.text),
            None => (Uuid::now_v7(), &order.plan),
        };
        match self.session() {
            Some(_) if cut_off => Message {
                id: Uuid::now_v7(),
                text: format!("You were cut off. Go on with the task:\n\n{text}"),
            },
            _ => Message { id, text: text.clone() },
        }
    }
}

/// How to start the agent of a run, and how to understand it.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) launch: Launch,
    pub(super) decoder: Decoder,
    pub(super) first_input: Option<Vec<u8>>,
}

impl Start {
    /// A command whose program is nothing to this machine.
    pub(super) fn elsewhere(key: RunKey, place: &Place) -> Self {
        let launch = Launch {
            run: key.run_id,
            task: key.task_id,
            argv: Vec::new(),
            cwd: place.path.clone(),
            env: BTreeMap::new(),
            mode: Mode::Pipe,
            ring_bytes: 0,
            fenced: false,
        };
        Self { launch, decoder: Decoder::Command(Default::default()), first_input: None }
    }
}

/// The order behind a message of the wire; a plain peer sends only the seed's fields.
pub(crate) fn order_of(spawn: &SpawnTask) -> Order {
    if let Some(run) = &spawn.run {
        return run.order.clone();
    }
    Order {
        name: spawn.task_name.clone(),
        plan: spawn.plan.clone(),
        repository_url: spawn.target_repo_path.clone().or_else(|| spawn.repo_url.clone()),
        base_branch: spawn.base_branch.clone(),
        target_branch: spawn.target_branch.clone(),
        completion_action: spawn.completion_action.unwrap_or_default(),
        continue_from_task_id: spawn.continue_from_task_id,
        copy_files: spawn.copy_files.clone().unwrap_or_default(),
        max_attempts: 1,
        ..Order::default()
    }
}

/// Chooses the agent and makes the worktree. Doing it again after a crash is harmless: no agent
/// has been started yet.
pub(super) async fn prepare(
    shop: &Shop,
    key: RunKey,
    order: &Order,
    past: &Past,
) -> Result<(Place, Chosen), Failure> {
    let chosen = choose(shop, order).await?;
    let first_port = shop.ports.reserve(key.run_id);
    if let Some(place) = past.former.as_ref().and_then(|row| row.state.place.clone())
        && still_stands(shop, &place).await
    {
        if past.follow_up.is_some() && past.session().is_none() {
            let text = "the session of its agent, which was to go on, is not known";
            return Err(Failure::new(Reason::SpawnFailed, text));
        }
        return Ok((Place { first_port, ..place }, chosen));
    }
    if past.follow_up.is_some() {
        let text = "its agent was to go on in its worktree, which is gone";
        return Err(Failure::new(Reason::WorktreeFailed, text));
    }
    let repository = open(shop, key, order).await?;
    aim::check(&repository, order).await?;
    let commit = base(shop, &repository, order).await?;
    let name = folder_name(order, key);
    let checkout = repository.checkout().map(Path::to_owned);
    let home = repository.clone();
    let pushes_to = aim::pushes(&repository, order).await;
    let (repository, lent_from) = isolated(shop, order, repository, &commit, &name).await?;
    let lent = lent_from.as_ref().map(|_| repository.common_dir().to_owned());
    let branch = (order.completion_action != CompletionAction::None)
        .then(|| BranchName::for_task(&order.name, &key.task_id.short()));
    let new = NewWorktree { path: shop.home.worktrees().join(&name), commit, branch };
    let made = match lent_from {
        None => repository.provide(new.clone()).await,
        // no second task will ever come to a repository of the task's own
        Some(_) => repository.create(new.clone()).await,
    };
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            call_in(&home, lent.as_deref(), &name).await;
            let full = is_disk_full(&error);
            let reason = if full { Reason::DiskFull } else { Reason::WorktreeFailed };
            return Err(Failure::new(reason, chain(&error)));
        }
    };
    let mut place = Place {
        path: made.path,
        repository: repository.common_dir().to_owned(),
        base_commit: made.commit.to_string(),
        branch: made.branch.as_ref().map(|choice| choice.name.clone()),
        lent_from,
        first_port,
        pushes_to,
        notes: Vec::new(),
    };
    match fit_out(shop, key, order, (&repository, checkout.as_deref()), &place).await {
        Ok(notes) => place.notes = notes,
        Err(failure) => {
            repository.take_down(new, made.branch).await;
            call_in(&home, lent.as_deref(), &name).await;
            return Err(failure);
        }
    }
    Ok((place, chosen))
}

/// Furnishes a worktree that stays ours alone until its task begins: a crash meanwhile leaves
/// nothing of it.
async fn fit_out(
    shop: &Shop,
    key: RunKey,
    order: &Order,
    repository: (&Repository, Option<&Path>),
    place: &Place,
) -> Result<Vec<String>, Failure> {
    let failed = |error: WorktreeError| Failure::new(Reason::WorktreeFailed, chain(&error));
    withhold(&place.path).await.map_err(failed)?;
    let notes = furnish(shop, key, order, repository, place).await?;
    await_task(&place.path).await.map_err(failed)?;
    Ok(notes)
}

/// Whether the worktree of a former run is there, and stays now that a live run has it.
async fn still_stands(shop: &Shop, place: &Place) -> bool {
    let Ok(repository) = shop.repositories.open(&place.repository).await else { return false };
    let _settled = repository.hold(&place.path).await;
    place.path.is_dir()
}

/// Says how to start the agent. Looks the program up anew: it may have moved since it was found.
pub(super) async fn start(
    shop: &Shop,
    key: RunKey,
    order: &Order,
    (place, chosen): (&Place, &Chosen),
    past: &Past,
) -> Result<Start, Failure> {
    hand_over(&place.path)
        .await
        .map_err(|error| Failure::new(Reason::WorktreeFailed, chain(&error)))?;
    let section = shop.config.agents.get(&chosen.name).cloned().unwrap_or_default();
    let driver = driver(&chosen.name, &section)?;
    let agent_order = agent_order(driver, order, place, &section, past);
    let plan = driver.launch(&agent_order);
    let program = plan.argv.first().map(String::as_str).unwrap_or_default();
    let terminal = matches!(plan.mode, AgentMode::Pty { .. });
    let facts = facts(shop, key, place, terminal).await;
    let found = resolve(program, &facts.search_path).or_else(|| resolve_in(program, &place.path));
    let Some(found) = found else {
        return Err(Failure::new(
            Reason::AgentNotFound,
            format!("there is no program '{program}' on the PATH of {}", chosen.name),
        ));
    };
    let mut argv = plan.argv;
    if let Some(first) = argv.first_mut() {
        *first = found.to_string_lossy().into_owned();
    }
    let launch = Launch {
        run: key.run_id,
        task: key.task_id,
        argv,
        cwd: place.path.clone(),
        env: environment(&shop.parent, driver, &plan.env, &section.env, &facts),
        mode: match plan.mode {
            AgentMode::Pty { rows, cols } => Mode::Pty { rows, cols },
            AgentMode::Pipe => Mode::Pipe,
        },
        ring_bytes: shop.config.terminal.ring_bytes,
        fenced: false,
    };
    Ok(Start { launch, decoder: driver.decoder(&agent_order), first_input: plan.first_input })
}

async fn choose(shop: &Shop, order: &Order) -> Result<Chosen, Failure> {
    if let Some(name) = order.named_agent() {
        let section = shop.config.agents.get(name).cloned().unwrap_or_default();
        driver(name, &section)?;
        let why = if order.agent.is_some() { "asked for" } else { "a command was given" };
        return Ok(Chosen { name: name.to_owned(), why: why.to_owned() });
    }
    let roster = shop.agents.roster().await;
    let best = roster.best().ok_or_else(|| {
        Failure::new(
            Reason::AgentNotFound,
            "no agent that can take a prompt is installed: install Claude Code \
             (npm install -g @anthropic-ai/claude-code), or give a command after --",
        )
    })?;
    let version = best.version.as_deref().unwrap_or("of unknown version");
    let why = format!("the best of those installed, {version}");
    Ok(Chosen { name: best.name.name().to_owned(), why })
}

fn driver(name: &str, section: &AgentSection) -> Result<&'static dyn Agent, Failure> {
    let runtime = section.runtime.as_deref().unwrap_or(name);
    let known: Option<Runtime> = serde_json::from_value(runtime.into()).ok();
    match known.map(|runtime| (runtime, runtime.driver())) {
        Some((_, Some(driver))) => Ok(driver),
        Some((_, None)) => Err(Failure::new(
            Reason::AgentNotFound,
            format!("this version cannot drive '{runtime}' yet: use claude, or a command after --"),
        )),
        None => Err(Failure::new(
            Reason::AgentNotFound,
            format!("there is no agent '{name}': see `hayward agent ls`"),
        )),
    }
}

fn agent_order(
    driver: &dyn Agent,
    order: &Order,
    place: &Place,
    section: &AgentSection,
    past: &Past,
) -> AgentOrder {
    let is_command = driver.runtime() == Runtime::Command;
    AgentOrder {
        worktree: place.path.clone(),
        command: match &section.command {
            Some(program) => vec![program.clone()],
            None => order.command.clone(),
        },
        prompt: (!is_command).then(|| past.words(order)),
        model: order.model.clone().or_else(|| section.model.clone()),
        session: past.session().map_or_else(|| Session::Fresh(Uuid::new_v4()), Session::Resume),
        instructions: section.instructions.clone(),
    }
}

/// A program that is named by a path inside the worktree, as `./build.sh`.
fn resolve_in(program: &str, worktree: &Path) -> Option<std::path::PathBuf> {
    let inside = program.contains('/') && !program.starts_with('/');
    inside.then(|| worktree.join(program)).filter(|path| path.is_file())
}

async fn open(shop: &Shop, key: RunKey, order: &Order) -> Result<Repository, Failure> {
    let unavailable = |text| Failure::new(Reason::RepositoryUnavailable, text);
    let place = order.repository_url.as_deref().unwrap_or_default();
    if place.starts_with('/') {
        let opened = shop.repositories.open(Path::new(place)).await;
        return opened.map_err(|error: OpenError| unavailable(chain(&error)));
    }
    if is_url(place) {
        return fetched(shop, key, place).await;
    }
    let what = if place.is_empty() { "no repository was given" } else { place };
    Err(unavailable(format!("{what}: name a folder of this machine by its whole path, or a URL")))
}

/// The repository that the task works in: the user's, or where the user wants it one of the task's
/// own that borrows from it. Says from which then.
async fn isolated(
    shop: &Shop,
    order: &Order,
    repository: Repository,
    commit: &CommitId,
    name: &str,
) -> Result<(Repository, Option<PathBuf>), Failure> {
    let common = repository.common_dir().to_owned();
    if section_of(shop, order, &common).isolation == Isolation::Worktree {
        return Ok((repository, None));
    }
    let failed =
        |error: &dyn std::error::Error| Failure::new(Reason::WorktreeFailed, error.to_string());
    let lent = shop.home.lent().join(format!("{name}.git"));
    repository.lend(commit, &lent, name).await.map_err(|error| failed(&error))?;
    let own = shop.repositories.open(&lent).await.map_err(|error| failed(&error))?;
    Ok((own, Some(common)))
}

/// Gives up the repository of a task that was never begun. What cannot go now goes at the next start.
async fn call_in(home: &Repository, lent: Option<&Path>, name: &str) {
    if let Some(lent) = lent
        && let Err(error) = home.call_in(lent, name).await
    {
        tracing::warn!(lent = %lent.display(), error = chain(&error), "a lent repository is left");
    }
}

/// The commit to start from: where the task that is continued stands, else what was recorded when
/// the task was made, else what the base names now.
async fn base(shop: &Shop, repository: &Repository, order: &Order) -> Result<CommitId, Failure> {
    let unknown = |error: ResolveError| Failure::new(Reason::BaseNotFound, chain(&error));
    if let Some(former) = order.continue_from_task_id
        && let Some(place) = worktree_of(shop, former).await?
    {
        let there = shop.repositories.open(&place.path).await;
        let there =
            there.map_err(|error| Failure::new(Reason::RepositoryUnavailable, chain(&error)))?;
        return Ok(there.head().await.map_err(unknown)?.commit);
    }
    let wanted = order.base_commit.as_deref().or(order.base_branch.as_deref());
    match order.repository_url.as_deref().is_some_and(is_url) {
        true => repository.resolve_remote(wanted).await.map_err(unknown),
        false => repository.resolve(wanted.unwrap_or("HEAD")).await.map_err(unknown),
    }
}

/// The name of the folders that a task's run has to itself.
pub(crate) fn folder_name(order: &Order, key: RunKey) -> String {
    let hex = key.task_id.0.simple().to_string();
    format!("{}-{}", slug(&order.name), &hex[hex.len() - FOLDER_DIGITS..])
}

pub(super) fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
            || error
                .downcast_ref::<crate::git::command::CommandError>()
                .is_some_and(crate::git::command::CommandError::is_disk_full)
    })
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
