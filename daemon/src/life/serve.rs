//! The commands of the wire about worktrees, answered in its words.

use super::look::Work;
use super::{Life, Wish, outside};
use crate::clock;
use crate::task::chain;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::id::{RequestId, TaskId};
use hayward_shared::protocol::{FromDaemon, Reply, ToDaemon};
use serde_json::json;
use std::path::PathBuf;

impl Life {
    /// Carries out a command about worktrees; any other is refused. The answer of one that changes
    /// something is kept before it is given: the same request again gets it again.
    pub async fn serve(&self, command: ToDaemon, request: Option<RequestId>) -> FromDaemon {
        let changes = match &command {
            ToDaemon::CloneWorktree { .. } => true,
            ToDaemon::PruneWorktrees { dry_run, .. } => !dry_run,
            _ => false,
        };
        let answer = self.answer(command).await;
        if let Some(request) = request.filter(|_| changes)
            && let Err(error) = self.shop.journal.keep_answer(request, &answer, clock::now()).await
        {
            tracing::error!(error = chain(&error), "an answer cannot be kept");
        }
        answer
    }

    async fn answer(&self, command: ToDaemon) -> FromDaemon {
        let told = match command {
            ToDaemon::CloneWorktree { task_id, target_dir } => {
                return self.clone_out(task_id, &target_dir).await;
            }
            ToDaemon::CheckTargetExists { task_id, target_dir } => {
                return self.check_target(task_id, target_dir).await;
            }
            ToDaemon::ReadDiff { task_id } => self.diff(task_id).await,
            ToDaemon::ReadOverlay { task_id } => self.overlay(task_id).await,
            ToDaemon::ListWorktrees { task_id } => self.list(task_id).await,
            ToDaemon::PruneWorktrees { task_id: only, dry_run, force } => {
                let rows = self.sweep(Wish::Prune { only, dry_run, force }).await;
                Ok(json!({ "worktrees": rows }))
            }
            other => {
                let text = format!("'{}' is no command about worktrees", other.type_name());
                Err(Fault::new(Code::UnknownType, text))
            }
        };
        FromDaemon::Reply(told.map_or_else(Reply::refused, Reply::done))
    }

    async fn target(&self, named: &str) -> Result<PathBuf, Fault> {
        let (home, named) = (self.shop.home.clone(), named.to_owned());
        let found = tokio::task::spawn_blocking(move || outside::target(&home, &named)).await;
        found.unwrap_or_else(|cause| Err(Fault::new(Code::Failed, cause.to_string())))
    }

    async fn clone_out(&self, task_id: TaskId, named: &str) -> FromDaemon {
        let cloned = async {
            let target = self.target(named).await?;
            let work = Work::find(&self.shop, task_id).await?;
            let told = outside::copy(&self.shop, &work, &target).await?;
            Ok::<_, Fault>((told, target))
        };
        match cloned.await {
            Ok((message, target)) => FromDaemon::CloneWorktreeResult {
                task_id,
                success: true,
                message,
                target_dir: Some(target.to_string_lossy().into_owned()),
                error: None,
            },
            Err(fault) => FromDaemon::CloneWorktreeResult {
                task_id,
                success: false,
                message: fault.message.clone(),
                target_dir: None,
                error: Some(fault),
            },
        }
    }

    async fn check_target(&self, task_id: TaskId, named: String) -> FromDaemon {
        match self.target(&named).await {
            Ok(target) => FromDaemon::CheckTargetExistsResult {
                task_id,
                exists: outside::is_there(&target),
                target_dir: target.to_string_lossy().into_owned(),
                error: None,
            },
            Err(fault) => FromDaemon::CheckTargetExistsResult {
                task_id,
                exists: false,
                target_dir: named,
                error: Some(fault),
            },
        }
    }
}
