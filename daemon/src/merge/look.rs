//! Merge commands that only look.

use super::machine::{self, MOST_LISTED, Part, Session};
use super::{Desk, Ground, faults};
use crate::git::merge::{Conflict, Preview};
use crate::git::repo::ResolveError;
use crate::git::{CommitId, Repository, diff};
use crate::journal::RunRow;
use crate::task::{RunState, order_of};
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::TaskId;
use hayward_shared::merge::{MergeConflict, MergePreview};
use hayward_shared::protocol::{BranchInfo, FromDaemon, Reply, ToDaemon};
use hayward_shared::task::{DiffStat, Order};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a preview is about, once all that was left out is filled in.
struct Asked {
    repository: Repository,
    source: (String, CommitId),
    target: (String, CommitId),
}

impl Desk {
    pub(super) async fn branches(&self, ground: &Ground) -> Result<FromDaemon, Fault> {
        let tip = ground.tip().await?;
        let listed = ground.repository.own_branches(&tip).await;
        let listed = listed.map_err(|error| faults::failed(&error))?;
        let repository = ground.repository.common_dir().to_string_lossy();
        let makers = self.shop.journal.branch_makers(&repository).await;
        let makers: HashMap<String, TaskId> =
            makers.map_err(faults::journal)?.into_iter().collect();
        let others = listed.into_iter().filter(|branch| branch.name != ground.branch);
        let branches = others.take(MOST_LISTED).map(|branch| BranchInfo {
            task_id: makers.get(&branch.name).copied(),
            name: branch.name,
            is_merged: branch.is_merged,
            last_commit: branch.short,
            last_commit_message: branch.subject,
        });
        Ok(FromDaemon::BranchList { task_id: ground.task, branches: branches.collect() })
    }

    pub(super) async fn status(&self, task_id: TaskId) -> Result<FromDaemon, Fault> {
        let session = self.session(task_id).await?;
        let waiting = session.as_ref().map(Session::waiting).unwrap_or_default();
        Ok(FromDaemon::MergeStatusResponse {
            task_id,
            in_progress: session.is_some(),
            source_branch: session.map(|session| session.source),
            conflicted_files: waiting.into_iter().take(MOST_LISTED).collect(),
        })
    }

    /// The last runs of a task's parts that ran here.
    pub(super) async fn parts(&self, task: TaskId) -> Result<Vec<RunRow<RunState>>, Fault> {
        self.shop.journal.part_runs(task).await.map_err(faults::journal)
    }

    pub(super) async fn check(&self, ground: &Ground) -> Result<FromDaemon, Fault> {
        let tip = ground.tip().await?;
        let listed = ground.repository.own_branches(&tip).await;
        let listed = listed.map_err(|error| faults::failed(&error))?;
        let merged: HashMap<&str, bool> =
            listed.iter().map(|branch| (branch.name.as_str(), branch.is_merged)).collect();
        let part = |row: RunRow<RunState>| {
            let branch = row.state.place.and_then(|place| place.branch);
            Part {
                task: row.key.task_id,
                merged: branch.as_deref().and_then(|name| merged.get(name).copied()),
                branch,
                is_live: !row.ended,
            }
        };
        let parts: Vec<_> = self.parts(ground.task).await?.into_iter().map(part).collect();
        let skipped = self.shop.journal.skipped_parts(ground.task).await;
        let skipped = skipped.map_err(faults::journal)?;
        let is_merging = self.session(ground.task).await?.is_some();
        Ok(machine::tally(ground.task, &parts, &skipped, is_merging))
    }

    /// What a merge would bring. Nothing is changed, and no turn is waited for.
    pub(super) async fn preview(&self, command: &ToDaemon) -> Result<FromDaemon, Fault> {
        let ToDaemon::PreviewMerge { task_id, repository, source, target } = command else {
            return Err(Fault::new(Code::UnknownType, "no preview was asked for"));
        };
        let named = (source.as_deref(), target.as_deref());
        let asked = match (task_id, repository) {
            (Some(task), _) => self.asked_of_task(*task, named).await?,
            (None, Some(folder)) => self.asked_of_folder(folder, named).await?,
            (None, None) => {
                return Err(Fault::new(Code::Invalid, "name a task or a repository"));
            }
        };
        let Asked { repository, source, target } = asked;
        let preview = repository.preview(&target.1, &source.1).await.map_err(faults::preview)?;
        let told = tell(preview, source, target);
        let payload = serde_json::to_value(told).map_err(|error| faults::failed(&error))?;
        Ok(FromDaemon::Reply(Reply::done(payload)))
    }

    async fn asked_of_task(
        &self,
        task: TaskId,
        (source, target): (Option<&str>, Option<&str>),
    ) -> Result<Asked, Fault> {
        let (repository, order, source) = match source {
            None => {
                let ground = self.ground(task).await?;
                let source = (ground.branch.clone(), ground.tip().await?);
                (ground.repository, ground.order, source)
            }
            // what is named needs no branch of the task's own
            Some(source) => {
                let journal = &self.shop.journal;
                let row = journal.last_run::<RunState>(task).await.map_err(faults::journal)?;
                let absent = || Fault::not_found("worktree", format!("of task {}", task.short()));
                let row = row.ok_or_else(absent)?;
                let place = row.state.place.ok_or_else(absent)?;
                let repository = self.open(&place.repository).await?;
                let source = (source.to_owned(), resolve(&repository, source).await?);
                (repository, order_of(&row.spawn), source)
            }
        };
        let target = match target {
            Some(target) => (target.to_owned(), resolve(&repository, target).await?),
            None => usual_target(&repository, &order).await?,
        };
        Ok(Asked { repository, source, target })
    }

    async fn asked_of_folder(
        &self,
        folder: &str,
        (source, target): (Option<&str>, Option<&str>),
    ) -> Result<Asked, Fault> {
        let folder = PathBuf::from(folder);
        if !folder.is_absolute() {
            return Err(Fault::new(Code::Invalid, "repository: an absolute path"));
        }
        let source =
            source.ok_or_else(|| Fault::new(Code::Invalid, "source: name what would be merged"))?;
        let repository = self.open(&folder).await?;
        let source = (source.to_owned(), resolve(&repository, source).await?);
        let target = match target {
            Some(target) => (target.to_owned(), resolve(&repository, target).await?),
            None => checked_out(&repository).await?,
        };
        Ok(Asked { repository, source, target })
    }

    async fn open(&self, folder: &Path) -> Result<Repository, Fault> {
        self.shop.repositories.open(folder).await.map_err(faults::open)
    }
}

async fn resolve(repository: &Repository, name: &str) -> Result<CommitId, Fault> {
    repository.resolve(name).await.map_err(faults::resolve)
}

/// Where a task's work is meant to go: its target branch, its base branch where that is a branch
/// still, or what is checked out in its repository.
async fn usual_target(repository: &Repository, order: &Order) -> Result<(String, CommitId), Fault> {
    if let Some(target) = &order.target_branch {
        return Ok((target.clone(), resolve(repository, target).await?));
    }
    if let Some(base) = &order.base_branch {
        match repository.resolve(&format!("refs/heads/{base}")).await {
            Ok(commit) => return Ok((base.clone(), commit)),
            Err(ResolveError::Unknown { .. }) => {}
            Err(error) => return Err(faults::resolve(error)),
        }
    }
    checked_out(repository).await
}

async fn checked_out(repository: &Repository) -> Result<(String, CommitId), Fault> {
    let head = repository.head().await.map_err(faults::resolve)?;
    Ok((head.branch.unwrap_or_else(|| "HEAD".to_owned()), head.commit))
}

fn tell(preview: Preview, source: (String, CommitId), target: (String, CommitId)) -> MergePreview {
    let Preview { trial, changed_files } = preview;
    let stat = diff::DiffStat::of(&changed_files);
    let truncated = changed_files.len() > MOST_LISTED || trial.conflicts.len() > MOST_LISTED;
    let conflict = |conflict: &Conflict| MergeConflict {
        path: machine::shown(&conflict.path),
        kind: conflict.kind,
        deleted_by: conflict.stages.deleted_by(),
    };
    let conflicts: Vec<_> = trial.conflicts.iter().take(MOST_LISTED).map(conflict).collect();
    let changed = changed_files.iter().take(MOST_LISTED);
    MergePreview {
        can_merge: trial.is_clean,
        conflicted_files: conflicts.iter().map(|conflict| conflict.path.clone()).collect(),
        conflicts,
        changed_files: changed.map(|file| machine::shown(&file.path)).collect(),
        truncated,
        tree: trial.tree,
        stat: DiffStat {
            files: stat.files as u64,
            insertions: stat.insertions as u64,
            deletions: stat.deletions as u64,
        },
        relation: trial.relation,
        source: source.0,
        source_commit: source.1.to_string(),
        target: target.0,
        target_commit: target.1.to_string(),
        base_commit: trial.base.to_string(),
    }
}
