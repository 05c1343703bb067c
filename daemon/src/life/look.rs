//! Looks at worktrees: all of them, or what one task made. Changes nothing.

use super::going::Gone;
use super::{Life, Needs};
use crate::git::diff::{ChangedFile, Side};
use crate::git::{CommitId, Repository, clone};
use crate::journal::{JournalError, Removed, RunRow, Standing};
use crate::task::{Place, RunState, Shop, chain, order_of, whose};
use futures_util::future::join_all;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The most bytes of a patch that one answer carries: a text frame takes a mebibyte, and JSON may
/// double a text.
const PATCH_BYTES: usize = 256 * 1024;

/// The most files that one answer names.
const MOST_FILES: usize = 2_000;

/// The most worktrees that one answer names, each half a kibibyte; the newest are.
const MOST_WORKTREES: usize = 1_000;

/// Worktrees looked at at once: the disk is waited for most of the time.
const AT_ONCE: usize = 4;

/// The work of a task on this daemon, wherever it is now.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) repository: Repository,
    pub(super) kind: clone::Work,
    /// The branch that stands at `head`.
    pub(super) branch: Option<String>,
    pub(super) head: CommitId,
    /// All of it, uncommitted work too.
    side: Side,
    place: Place,
    run: RunRow<RunState>,
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::new(Code::Failed, chain(error))
}

impl Work {
    /// Finds it: in its worktree, else under its salvage ref, else on its branch.
    ///
    /// # Errors
    /// `not_found` when this daemon has nothing of it any more.
    pub(super) async fn find(shop: &Shop, task: TaskId) -> Result<Self, Fault> {
        let none = |what: &str| Fault::new(Code::NotFound, format!("task {} {what}", task.short()));
        let run = shop.journal.last_run::<RunState>(task).await.map_err(|error| failed(&error))?;
        let run = run.ok_or_else(|| none("did not run here"))?;
        let place = run.state.place.clone().ok_or_else(|| none("has no worktree here"))?;
        let opened = match shop.repositories.open(&place.repository).await {
            // one of the task's own went with its worktree
            Err(_) if place.lent_from.is_some() && !place.repository.is_dir() => {
                shop.repositories.open(whose(&place)).await
            }
            opened => opened,
        };
        let repository = opened.map_err(|error| failed(&error))?;
        let tip = match &place.branch {
            Some(branch) => repository.resolve(&format!("refs/heads/{branch}")).await.ok(),
            None => None,
        };
        let (kind, head, side) = if place.path.is_dir() {
            let there =
                shop.repositories.open(&place.path).await.map_err(|error| failed(&error))?;
            let head = there.head().await.map_err(|error| failed(&error))?.commit;
            let side = Side::Worktree(place.path.clone());
            (clone::Work::Worktree(place.path.clone()), head, side)
        } else if let Some((salvage, head)) = salvaged(shop, &repository, task).await {
            (clone::Work::Salvage(salvage.reference), head, Side::Commit(salvage.commit))
        } else if let Some(tip) = tip.clone() {
            (clone::Work::Branch, tip.clone(), Side::Commit(tip))
        } else {
            return Err(none("left neither worktree nor branch here"));
        };
        let branch = place.branch.clone().filter(|_| tip.as_ref() == Some(&head));
        Ok(Self { repository, kind, branch, head, side, place, run })
    }

    /// What it changes against its base, within the bounds of an answer.
    async fn diff(&self) -> Result<Value, Fault> {
        let base: CommitId = self
            .place
            .base_commit
            .parse()
            .map_err(|error: crate::git::repo::BadCommitId| failed(&error))?;
        let diff = self.repository.diff(&base, self.side.clone(), PATCH_BYTES).await;
        let diff = diff.map_err(|error| failed(&error))?;
        let files: Vec<_> = diff.files.iter().take(MOST_FILES).map(file).collect();
        let truncated = diff.truncated || diff.files.len() > MOST_FILES;
        Ok(json!({ "files": files, "patch": diff.patch, "truncated": truncated }))
    }
}

async fn salvaged(
    shop: &Shop,
    repository: &Repository,
    task: TaskId,
) -> Option<(crate::git::salvage::Salvage, CommitId)> {
    let gone: Gone = shop.journal.removal(task).await.ok()??;
    repository.salvaged(gone.salvage.first()?).await.ok()
}

fn file(file: &ChangedFile) -> Value {
    let path: &PathBuf = &file.path;
    json!({
        "path": path.to_string_lossy(),
        "oldPath": file.renamed_from.as_ref().map(|old| old.to_string_lossy()),
        "status": file.status.name(),
        "additions": file.additions,
        "deletions": file.deletions,
    })
}

impl Life {
    /// What the task changed against its base: committed, uncommitted and untracked.
    pub(super) async fn diff(&self, task: TaskId) -> Result<Value, Fault> {
        Work::find(&self.shop, task).await?.diff().await
    }

    /// What a sibling may see of a task: its branch, status and difference.
    pub(super) async fn overlay(&self, task: TaskId) -> Result<Value, Fault> {
        let work = Work::find(&self.shop, task).await?;
        let (state, dirty) = match &work.kind {
            clone::Work::Worktree(path) => {
                let dirty = work.repository.is_dirty(path).await.ok();
                (if work.run.ended { "ended" } else { "live" }, dirty)
            }
            clone::Work::Branch | clone::Work::Salvage(_) => ("removed", None),
        };
        let mut peek = work.diff().await?;
        let salvage = match &work.kind {
            clone::Work::Salvage(reference) => vec![reference.clone()],
            _ => Vec::new(),
        };
        let facts = json!({
            "taskId": task,
            "name": order_of(&work.run.spawn).name,
            "status": work.run.state.status.name(),
            "state": state,
            "branch": work.place.branch,
            "headCommit": work.head.as_str(),
            "baseCommit": work.place.base_commit,
            "path": work.place.path.to_string_lossy(),
            "dirty": dirty,
            "salvage": salvage,
        });
        if let (Value::Object(peek), Value::Object(facts)) = (&mut peek, facts) {
            peek.extend(facts);
        }
        Ok(peek)
    }

    /// The worktrees of this daemon, the newest first, and its pool. Those that went are listed
    /// while work of theirs is kept under a ref.
    pub(super) async fn list(&self, only: Option<TaskId>) -> Result<Value, Fault> {
        let failed = |error: JournalError| failed(&error);
        let mut standing = self.shop.journal.standing::<RunState>().await.map_err(failed)?;
        standing.retain(|one| only.is_none_or(|task| one.run.key.task_id == task));
        let most = u32::try_from(MOST_WORKTREES).unwrap_or(u32::MAX);
        let removed = self.shop.journal.removals::<Gone>(true, most).await.map_err(failed)?;
        let needs = Needs::now(&self.shop).await.map_err(failed)?;
        let mut salvages = Salvages::default();
        let mut rows = Vec::new();
        let newest: Vec<_> = standing.iter().rev().take(MOST_WORKTREES).collect();
        for some in newest.chunks(AT_ONCE) {
            let looked = join_all(some.iter().map(|one| self.row(one, &needs))).await;
            rows.extend(looked.into_iter().flatten());
        }
        let is_wanted = |gone: &Removed<Gone>| only.is_none_or(|task| gone.key.task_id == task);
        for gone in removed.iter().filter(|gone| is_wanted(gone) && !gone.body.salvage.is_empty()) {
            if rows.len() == MOST_WORKTREES {
                break;
            }
            rows.extend(self.removed(gone, &mut salvages).await);
        }
        let truncated = standing.len() > MOST_WORKTREES || rows.len() == MOST_WORKTREES;
        let pool = serde_json::to_value(self.shop.repositories.pool().report()).unwrap_or_default();
        Ok(json!({ "worktrees": rows, "truncated": truncated, "pool": pool }))
    }

    async fn row(&self, one: &Standing<RunState>, needs: &Needs) -> Option<Value> {
        let (key, place) = (one.run.key, one.run.state.place.as_ref()?);
        if !place.path.is_dir() {
            return None;
        }
        let (mut head, mut dirty) = (None, None);
        if let Ok(there) = self.shop.repositories.open(&place.path).await {
            head = there.head().await.ok();
            dirty = there.is_dirty(&place.path).await.ok();
        }
        let is_live = needs.live.contains(&key.task_id);
        let on = head.as_ref().and_then(|head| head.branch.clone());
        Some(json!({
            "taskId": key.task_id,
            "path": place.path.to_string_lossy(),
            "repository": place.repository.to_string_lossy(),
            "branch": place.branch.clone().or(on),
            "headCommit": head.map(|head| head.commit.to_string()),
            "baseCommit": place.base_commit,
            "state": if is_live { "live" } else { "ended" },
            "dirty": dirty,
            "sizeBytes": self.size(one.ended_at, key.run_id, &place.path).await,
            "salvage": [],
            "createdAt": one.created_at,
        }))
    }

    async fn removed(&self, gone: &Removed<Gone>, salvages: &mut Salvages) -> Option<Value> {
        let place = &gone.body.place;
        let known = salvages.of(&self.shop, place).await;
        let kept: Vec<_> =
            gone.body.salvage.iter().filter(|name| known.contains(*name)).cloned().collect();
        let head = kept.first()?.clone();
        let opened = self.shop.repositories.open(&place.repository).await.ok()?;
        let (salvage, _) = opened.salvaged(&head).await.ok()?;
        Some(json!({
            "taskId": gone.key.task_id,
            "path": place.path.to_string_lossy(),
            "repository": place.repository.to_string_lossy(),
            "branch": place.branch,
            "headCommit": salvage.commit.as_str(),
            "baseCommit": place.base_commit,
            "state": "removed",
            "dirty": false,
            "sizeBytes": 0,
            "salvage": kept,
            "createdAt": gone.body.created_at,
        }))
    }
}

/// The salvage refs of repositories, each read once.
#[derive(Debug, Default)]
struct Salvages(BTreeMap<PathBuf, BTreeSet<String>>);

impl Salvages {
    async fn of(&mut self, shop: &Shop, place: &Place) -> &BTreeSet<String> {
        if !self.0.contains_key(&place.repository) {
            let found = match shop.repositories.open(&place.repository).await {
                Ok(repository) => repository.salvages().await.unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            let names = found.into_iter().map(|salvage| salvage.reference).collect();
            self.0.insert(place.repository.clone(), names);
        }
        self.0.entry(place.repository.clone()).or_default()
    }
}
