//! One worktree on its way out.

use super::machine::{Need, Why};
use super::{Life, Needs, Row};
use crate::clock;
use crate::fault;
use crate::git::lend::LendError;
use crate::git::salvage::SalvageError;
use crate::git::worktree::{Held, RemoveError};
use crate::git::{BranchName, Repository};
use crate::journal::{JournalError, Removed, Standing};
use crate::session::{self, Found};
use crate::spans;
use crate::task::{Place, RunState, chain, order_of, run_folder};
use hayward_shared::event::Kind;
use hayward_shared::protocol::{FromDaemon, TaskEvent};
use hayward_shared::run::RunKey;
use hayward_shared::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io;
use std::path::PathBuf;
use tracing::Instrument;

/// A worktree that is to go.
#[derive(Clone, Debug)]
pub(super) struct Going {
    key: RunKey,
    state: RunState,
    gone: Gone,
    /// What its salvaged work would be called.
    name: String,
}

/// What went, and why: what the journal keeps of a worktree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Gone {
    /// Where and of what it was.
    pub(super) place: Place,
    /// Why it went.
    pub(super) why: Why,
    /// The refs under which its work is kept.
    pub(super) salvage: Vec<String>,
    /// The bytes that it took.
    pub(super) bytes: u64,
    /// When its run was accepted.
    pub(super) created_at: Timestamp,
}

impl Going {
    /// None when the run made no worktree.
    pub(super) fn of(one: &Standing<RunState>, why: Why, bytes: u64) -> Option<Self> {
        let (key, order) = (one.run.key, order_of(&one.run.spawn));
        let place = one.run.state.place.clone()?;
        let name = BranchName::for_task(&order.name, &key.task_id.short()).leaf().to_owned();
        let gone = Gone { place, why, salvage: Vec::new(), bytes, created_at: one.created_at };
        Some(Self { key, state: one.run.state.clone(), gone, name })
    }

    /// What is said of it when something keeps it.
    pub(super) fn kept_by(&self, need: Need) -> Row {
        let stays = Stays::Needed(need);
        Row { note: Some(chain(&stays)), ..self.row(stays.why()) }
    }

    fn row(&self, why: &'static str) -> Row {
        Row {
            path: self.gone.place.path.clone(),
            task_id: self.key.task_id,
            why,
            salvage: Vec::new(),
            bytes: self.gone.bytes,
            done: false,
            note: None,
        }
    }
}

/// Why a worktree stays although it was due.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error("it holds work that is nowhere else")]
    Unsaved(#[source] RemoveError),
    #[error("{}", .0.told())]
    Needed(Need),
    #[error("{0} is not in the folder of worktrees: left to you")]
    Outside(PathBuf),
    #[error("its repository cannot be used")]
    Repository(#[source] crate::git::repo::OpenError),
    #[error("its work cannot be kept")]
    Unkept(#[source] SalvageError),
    #[error("it cannot be removed")]
    Stuck(#[source] RemoveError),
    #[error(
        "{0} is no worktree of its repository any more: its `.git` is gone or leads elsewhere. Take \
         what you need out of it and delete that folder"
    )]
    NoWorktree(PathBuf),
    #[error("the journal cannot be written")]
    Journal(#[from] crate::journal::JournalError),
    #[error("its removal was cut off")]
    Cut(#[from] io::Error),
    #[error("what its own repository holds is not home yet")]
    Lent(#[from] LendError),
}

impl Stays {
    /// For a worktree that is there.
    fn stuck(error: RemoveError) -> Self {
        match error {
            RemoveError::NotOurs(path) => Self::NoWorktree(path),
            error => Self::Stuck(error),
        }
    }

    fn why(&self) -> &'static str {
        if matches!(self, Self::Unsaved(_)) { "unsaved" } else { "failed" }
    }
}

impl Life {
    /// Removes it, after what would be lost is kept where `may_salvage` allows that.
    pub(super) async fn go(&self, going: &Going, may_salvage: bool) -> Row {
        let span = spans::task(going.key.task_id, "remove");
        match self.remove(going, may_salvage).instrument(span).await {
            Ok(salvage) => {
                let path = going.gone.place.path.display();
                tracing::info!(task = %going.key.task_id, %path, ?salvage, "a worktree was removed");
                Row { salvage, done: true, ..going.row(going.gone.why.name()) }
            }
            Err(stays) => {
                let (task, note) = (going.key.task_id, chain(&stays));
                tracing::info!(%task, note, "a worktree stays");
                Row { note: Some(note), ..going.row(stays.why()) }
            }
        }
    }

    /// What [`Life::go`] would do; changes nothing.
    pub(super) async fn foresee(&self, going: &Going, force: bool) -> Row {
        let place = &going.gone.place;
        let may_salvage = force || going.gone.why != Why::Asked;
        let repository = match self.repository(going).await {
            Ok(Some(repository)) => repository,
            Ok(None) => return going.row(going.gone.why.name()),
            Err(stays) => return Row { note: Some(chain(&stays)), ..going.row(stays.why()) },
        };
        match repository.check_removal(&place.path).await {
            Ok(()) => going.row(going.gone.why.name()),
            Err(error) if !loses(&error) => {
                Row { note: Some(chain(&Stays::stuck(error))), ..going.row("failed") }
            }
            Err(error) if may_salvage => Row {
                salvage: vec![format!("{}{}", crate::git::salvage::PLACE, going.name)],
                note: Some(chain(&error)),
                ..going.row(going.gone.why.name())
            },
            Err(error) => Row { note: Some(chain(&Stays::Unsaved(error))), ..going.row("unsaved") },
        }
    }

    /// Its repository; none when neither that nor the worktree is there any more.
    async fn repository(&self, going: &Going) -> Result<Option<Repository>, Stays> {
        let place = &going.gone.place;
        if !place.path.starts_with(self.shop.home.worktrees()) {
            return Err(Stays::Outside(place.path.clone()));
        }
        match self.shop.repositories.open(&place.repository).await {
            Ok(repository) => Ok(Some(repository)),
            Err(_) if place.path.symlink_metadata().is_err() => Ok(None),
            Err(error) => Err(Stays::Repository(error)),
        }
    }

    async fn remove(&self, going: &Going, may_salvage: bool) -> Result<Vec<String>, Stays> {
        let Some(repository) = self.repository(going).await? else {
            let gone = self.at_home(going.key, &going.name, going.gone.clone()).await?;
            return self.tell(going, &gone).await;
        };
        let place = &going.gone.place;
        let held = repository.hold(&place.path).await;
        // whoever wants it now is in the journal, or waits until it is let go
        if let Some(need) = self.need(going).await? {
            return Err(Stays::Needed(need));
        }
        let mut gone = going.gone.clone();
        repository.uncover(&held).await.map_err(Stays::stuck)?;
        let checked = repository.check_removal(&place.path).await;
        let is_clean = checked.is_ok();
        match checked {
            Ok(()) => {}
            Err(error) if !loses(&error) && !is_absent(&error, place) => {
                return Err(Stays::stuck(error));
            }
            Err(error) if loses(&error) && !may_salvage => return Err(Stays::Unsaved(error)),
            Err(_) => {
                let kept = repository.salvage(&held, &going.name).await;
                let kept = kept.or_else(|error| match error {
                    SalvageError::Remove(error) if is_absent(&error, place) => Ok(None),
                    error => Err(Stays::Unkept(error)),
                })?;
                gone.salvage.extend(kept.map(|kept| kept.reference));
            }
        }
        self.shop.journal.begin_removal(going.key, &gone, clock::now()).await?;
        fault::point("life.remove.noted")?;
        match vanish(&repository, &held, going, &mut gone, is_clean).await {
            Ok(()) => {}
            Err(stays) => {
                self.shop.journal.cancel_removal(going.key.run_id).await?;
                return Err(stays);
            }
        }
        fault::point("life.remove.gone")?;
        self.shop.journal.begin_removal(going.key, &gone, clock::now()).await?;
        drop_branch(&repository, place).await;
        let gone = self.at_home(going.key, &going.name, gone).await?;
        self.tell(going, &gone).await
    }

    /// What is gone, all of it in the user's repository: one of the task's own gives back what it
    /// alone holds, and goes. Its names are on disk before it does.
    async fn at_home(&self, key: RunKey, name: &str, mut gone: Gone) -> Result<Gone, Stays> {
        let Some(home) = gone.place.lent_from.clone() else { return Ok(gone) };
        let lent = gone.place.repository.clone();
        let repository = match self.shop.repositories.open(&home).await {
            Ok(repository) => repository,
            // the user's is gone, and with it whatever was borrowed
            Err(_) if !home.exists() => return Ok(gone),
            Err(error) => return Err(Stays::Repository(error)),
        };
        if lent.is_dir() {
            gone.salvage = repository.bring_home(&lent, name).await?;
            self.shop.journal.begin_removal(key, &gone, clock::now()).await?;
            fault::point("life.lent.home")?;
        }
        repository.call_in(&lent, name).await?;
        drop_branch(&repository, &gone.place).await;
        gone.place.repository = home;
        gone.place.lent_from = None;
        Ok(gone)
    }

    async fn need(&self, going: &Going) -> Result<Option<Need>, Stays> {
        let needs = Needs::now(&self.shop).await?;
        if let Some(need) = needs.of(going.key.task_id, &going.gone.place.path) {
            return Ok(Some(need));
        }
        let folder = run_folder(&self.shop.home, going.key.run_id, &going.state);
        if !folder.path().is_dir() {
            return Ok(None);
        }
        Ok(match session::find(&folder).await {
            Found::Never | Found::Ended(_) | Found::Lost(_) => None,
            Found::Live(_) | Found::Foreign { .. } | Found::Unknown(_) => Some(Need::Session),
        })
    }

    async fn tell(&self, going: &Going, gone: &Gone) -> Result<Vec<String>, Stays> {
        self.finish(going.key, gone).await?;
        Ok(gone.salvage.clone())
    }

    async fn finish(&self, key: RunKey, gone: &Gone) -> Result<(), JournalError> {
        self.shop.journal.begin_removal(key, gone, clock::now()).await?;
        self.shop.journal.end_removal(key, removed(key, gone)).await
    }

    /// Finishes the removals that a crash cut off: what is gone is told, what stands stays.
    pub(super) async fn recover(&self) {
        let cut_off = self.shop.journal.removals::<Gone>(false, u32::MAX).await;
        let cut_off = cut_off.unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "cut-off removals cannot be read");
            Vec::new()
        });
        for Removed { key, body, .. } in cut_off {
            let settled = match body.place.path.symlink_metadata() {
                Ok(_) => self.shop.journal.cancel_removal(key.run_id).await,
                Err(_) => {
                    if let Ok(repository) =
                        self.shop.repositories.open(&body.place.repository).await
                    {
                        drop_branch(&repository, &body.place).await;
                    }
                    let name = leaf(&body.place, key);
                    match self.at_home(key, &name, body).await {
                        Ok(gone) => self.finish(key, &gone).await,
                        Err(stays) => {
                            tracing::error!(error = chain(&stays), "a cut-off removal waits");
                            continue;
                        }
                    }
                }
            };
            if let Err(error) = settled {
                tracing::error!(error = chain(&error), "a cut-off removal waits");
            }
        }
    }
}

/// Takes the worktree away, by the cheap way where it is clean. What is not may still hold nothing
/// that would be lost, as a bisection under way.
async fn vanish(
    repository: &Repository,
    held: &Held,
    going: &Going,
    gone: &mut Gone,
    is_clean: bool,
) -> Result<(), Stays> {
    let place = &gone.place;
    if is_clean {
        return match repository.remove_held(held).await {
            Err(error) if is_absent(&error, place) => Ok(()),
            removed => removed.map_err(Stays::Stuck),
        };
    }
    let kept = match repository.retire(held, &going.name).await {
        Err(SalvageError::Remove(error)) if is_absent(&error, place) => return Ok(()),
        kept => kept.map_err(Stays::Unkept)?,
    };
    if let Some(kept) = kept.filter(|kept| !gone.salvage.contains(&kept.reference)) {
        gone.salvage.push(kept.reference);
    }
    Ok(())
}

/// What salvaged work of a place is called: as its branch, or its folder.
fn leaf(place: &Place, key: RunKey) -> String {
    let branch = place.branch.as_deref().and_then(|branch| branch.rsplit('/').next());
    let folder = || place.path.file_name().map(|name| name.to_string_lossy().into_owned());
    branch.map(str::to_owned).or_else(folder).unwrap_or_else(|| key.task_id.short())
}

/// A branch that holds nothing goes with its worktree.
async fn drop_branch(repository: &Repository, place: &Place) {
    if let (Some(branch), Ok(base)) = (&place.branch, place.base_commit.parse())
        && let Err(error) = repository.drop_branch(branch, &base).await
    {
        tracing::warn!(branch, error = chain(&error), "a branch without work is left");
    }
}

/// Whether work would be lost, which a ref can keep.
fn loses(error: &RemoveError) -> bool {
    matches!(
        error,
        RemoveError::Dirty { .. }
            | RemoveError::Unreachable { .. }
            | RemoveError::InProgress { .. }
            | RemoveError::Submodules { .. }
    )
}

/// Whether somebody else took the worktree away.
fn is_absent(error: &RemoveError, place: &Place) -> bool {
    matches!(error, RemoveError::NotOurs(_)) && place.path.symlink_metadata().is_err()
}

fn removed(key: RunKey, gone: &Gone) -> FromDaemon {
    FromDaemon::TaskEvent(TaskEvent {
        task_id: key.task_id,
        run_id: key.run_id,
        event: Kind::WorktreeRemoved,
        at: clock::now(),
        channel: None,
        payload: json!({
            "path": gone.place.path.to_string_lossy(),
            "why": gone.why.name(),
            "salvage": gone.salvage,
        }),
    })
}
