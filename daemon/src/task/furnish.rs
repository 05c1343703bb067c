//! What a new worktree needs before its agent can work: files that git ignores, submodules, ports
//! of its own, and what the user's setup command makes.

use super::ports;
use super::prepare::chain;
use super::shop::Shop;
use super::state::{Place, RunState};
use crate::agent::environment::{RunFacts, Variables, environment};
use crate::chore::{Chore, ChoreError};
use crate::config::{AgentSection, RepositorySection};
use crate::git::Repository;
use crate::git::bring::{Bring, BringError, Brought, bring};
use hayward_shared::id::TaskId;
use hayward_shared::run::{Failure, RunKey};
use hayward_shared::task::{Order, Reason};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The worktree of a task's last run on this daemon, if it is still there.
pub(super) async fn worktree_of(shop: &Shop, task: TaskId) -> Result<Option<Place>, Failure> {
    let row = shop.journal.last_run::<RunState>(task).await;
    let row = row.map_err(|error| Failure::new(Reason::Internal, chain(&error)))?;
    Ok(row.and_then(|row| row.state.place).filter(|place| place.path.is_dir()))
}

/// What the user says of the repository in the configuration.
pub(crate) fn section_of(shop: &Shop, order: &Order, repository: &Path) -> RepositorySection {
    let common = repository.to_string_lossy();
    let named = order.repository_url.as_deref().unwrap_or_default();
    shop.config.repository(&[named, &common])
}

/// The user's repository that the place is of.
pub(crate) fn whose(place: &Place) -> &Path {
    place.lent_from.as_deref().unwrap_or(&place.repository)
}

/// Makes the worktree fit to work in, and says what the user may want to know of it. Runs only in
/// a worktree that no agent has seen; a failure means that it is thrown away.
pub(super) async fn furnish(
    shop: &Shop,
    key: RunKey,
    order: &Order,
    (repository, checkout): (&Repository, Option<&Path>),
    place: &Place,
) -> Result<Vec<String>, Failure> {
    let section = section_of(shop, order, whose(place));
    let mut notes = Vec::new();
    for source in sources(shop, order, &section, (whose(place), checkout)).await? {
        let from = source.from.clone();
        // it may be a worktree whose time is over: it stays until all is copied
        let _still = repository.hold(&from).await;
        let brought = bring(source, place.path.clone()).await.map_err(not_brought)?;
        notes.extend(told(&brought, &from));
    }
    let submodules = repository
        .fill_submodules(&place.path)
        .await
        .map_err(|error| Failure::new(Reason::WorktreeFailed, chain(&error)))?;
    notes.extend(
        filtered(&place.path).into_iter().map(|filter| {
            format!("files of the git filter '{filter}' are left as they are stored")
        }),
    );
    for (path, why) in submodules.empty {
        notes.push(format!("the submodule {} stays empty: {why}", path.display()));
    }
    if let Some(command) = &section.setup {
        chore(shop, key, place, &section, ("setup", command))
            .await
            .map_err(|error| Failure::new(Reason::SetupFailed, chain(&error)))?;
    }
    Ok(notes)
}

/// Mends what the run did to the user's checkout through the repository that both share.
pub(super) async fn mend(shop: &Shop, key: RunKey, place: &Place) {
    let mended = match shop.repositories.open(whose(place)).await {
        Ok(repository) => repository.mend_bare().await.map_err(|error| chain(&error)),
        Err(error) => Err(chain(&error)),
    };
    match mended {
        Ok(false) => {}
        Ok(true) => {
            let repository = whose(place).display();
            tracing::warn!(task = %key.task_id, %repository, "the run had marked it as bare: mended");
        }
        Err(error) => {
            tracing::warn!(task = %key.task_id, error, "the repository was not looked at")
        }
    }
}

/// Lets the user's teardown command end what its setup began. Its failure is only logged: the
/// run's end is told already.
pub(super) async fn tear_down(shop: &Shop, key: RunKey, order: &Order, place: &Place) {
    let section = section_of(shop, order, whose(place));
    if let Some(command) = &section.teardown
        && let Err(error) = chore(shop, key, place, &section, ("teardown", command)).await
    {
        tracing::warn!(task = %key.task_id, error = chain(&error), "a teardown command failed");
    }
}

/// Where files come from, in order: a later source never replaces a listed file of an earlier one.
async fn sources(
    shop: &Shop,
    order: &Order,
    section: &RepositorySection,
    (repository, checkout): (&Path, Option<&Path>),
) -> Result<Vec<Bring>, Failure> {
    let mut sources = Vec::new();
    if let Some(former) = order.continue_from_task_id {
        let place = worktree_of(shop, former).await?.ok_or_else(|| gone(former))?;
        sources.push(Bring {
            from: place.path,
            required: Vec::new(),
            included: true,
            uncommitted: true,
        });
    }
    let parent = match order.parent_task_id {
        Some(parent) => worktree_of(shop, parent).await?,
        None => None,
    };
    let checkout = checkout.map(Path::to_owned);
    match (parent.map(|place| place.path), checkout) {
        // what the parent made for its parts lies in its worktree
        (Some(from), checkout) if !order.copy_files.is_empty() => {
            let named = |from: PathBuf, required: &[String], included| Bring {
                from,
                required: required.to_vec(),
                included,
                uncommitted: false,
            };
            sources.push(named(from, &order.copy_files, false));
            sources.extend(checkout.map(|from| named(from, &section.copy_files, true)));
        }
        (_, Some(from)) => {
            let required = order.copy_files.iter().chain(&section.copy_files).cloned().collect();
            sources.push(Bring { from, required, included: true, uncommitted: false });
        }
        (_, None) => {
            if let Some(path) = order.copy_files.iter().chain(&section.copy_files).next() {
                let from = repository.to_owned();
                return Err(not_brought(BringError::Missing { path: path.clone(), from }));
            }
        }
    }
    Ok(sources)
}

fn gone(former: TaskId) -> Failure {
    let text = format!(
        "task {} is to be continued, but its worktree is not on this machine any more: start from \
         its branch instead",
        former.short()
    );
    Failure::new(Reason::WorktreeFailed, text)
}

fn not_brought(error: BringError) -> Failure {
    let reason = match &error {
        BringError::Outside(_) | BringError::Missing { .. } | BringError::TooMuch { .. } => {
            Reason::FilesMissing
        }
        _ if super::prepare::is_disk_full(&error) => Reason::DiskFull,
        _ => Reason::WorktreeFailed,
    };
    Failure::new(reason, chain(&error))
}

fn told(brought: &Brought, from: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    if brought.files > 0 {
        notes.push(format!("{} files were copied from {}", brought.files, from.display()));
    }
    let skipped = brought.skipped.iter();
    notes.extend(skipped.map(|(path, why)| format!("{} was not copied: {why}", path.display())));
    notes
}

/// The filters that the worktree's own attributes name: no program of theirs runs in its making.
fn filtered(worktree: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(worktree.join(".gitattributes")).unwrap_or_default();
    let words = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    words.filter_map(|word| word.strip_prefix("filter=")).map(str::to_owned).collect()
}

async fn chore(
    shop: &Shop,
    key: RunKey,
    place: &Place,
    section: &RepositorySection,
    (what, command): (&'static str, &str),
) -> Result<(), ChoreError> {
    let facts = facts(shop, key, place, false).await;
    let none = Variables::new();
    let agent = AgentSection::default();
    let driver = &crate::agent::command::Command;
    Chore {
        what,
        run: key.run_id,
        command,
        worktree: &place.path,
        environment: environment(&shop.parent, driver, &none, &agent.env, &facts),
        log: shop.home.chore_log(key.run_id, what),
        limit: Duration::from_secs(section.setup_timeout_seconds),
    }
    .run()
    .await
}

/// What the processes of a run are told about it.
pub(super) async fn facts(shop: &Shop, key: RunKey, place: &Place, terminal: bool) -> RunFacts {
    RunFacts {
        task: key.task_id,
        run: key.run_id,
        worktree: place.path.clone(),
        base_commit: place.base_commit.clone(),
        search_path: shop.agents.path().await,
        home: std::env::home_dir(),
        ports: place.first_port.map(|first| (first, ports::COUNT)),
        terminal,
    }
}
