//! The scratch worktree of a check: fitted out as a task's worktree is, by what the user says of the
//! repository. What fails in it is no entry's fault: they wait, and it is tried again.

use super::runner::{Site, Trouble};
use crate::agent::command::Command as Plain;
use crate::agent::environment::{RunFacts, Variables, environment};
use crate::chore::{Chore, ChoreError};
use crate::git::Repository;
use crate::git::bring::{Bring, BringError, bring};
use crate::task::{PORTS, Shop, chain};
use hayward_shared::id::{RunId, TaskId};
use std::path::Path;
use std::time::Duration;

/// What the user says of worktrees of the repository.
struct Policy {
    copy_files: Vec<String>,
    setup: Option<String>,
    teardown: Option<String>,
    /// How long each of them may take.
    limit: Duration,
}

/// A worktree that is being checked. Its ports are its own until it is dropped.
pub(super) struct Ground<'a> {
    shop: &'a Shop,
    run: RunId,
    policy: Policy,
    worktree: &'a Path,
    environment: Variables,
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        self.shop.ports.release(self.run);
    }
}

impl<'a> Ground<'a> {
    pub(super) async fn new(
        shop: &'a Shop,
        site: &Site,
        (worktree, tip): (&'a Path, &str),
    ) -> Ground<'a> {
        let run = RunId(site.lane);
        let none = Variables::new();
        let facts = RunFacts {
            task: TaskId(site.lane),
            run,
            worktree: worktree.to_owned(),
            base_commit: tip.to_owned(),
            search_path: shop.agents.path().await,
            home: std::env::home_dir(),
            ports: shop.ports.reserve(run).map(|first| (first, PORTS)),
            terminal: false,
        };
        let mut variables = environment(&shop.parent, &Plain, &none, &none, &facts);
        // it is about several tasks, and no run
        variables.remove("HAYWARD_TASK_ID");
        variables.remove("HAYWARD_RUN_ID");
        Self { shop, run, policy: policy(shop, site), worktree, environment: variables }
    }

    /// Brings the files that each worktree needs, fills submodules, and runs the setup command.
    pub(super) async fn fit_out(&self, repository: &Repository) -> Result<(), Trouble> {
        if let Some(from) = repository.checkout() {
            let from = from.to_owned();
            let required = self.policy.copy_files.clone();
            let wanted = Bring { from, required, included: true, uncommitted: false };
            let brought = bring(wanted, self.worktree.to_owned()).await;
            brought.map_err(|error| Trouble::fitting(&error))?;
        } else if let Some(path) = self.policy.copy_files.first() {
            let from = repository.common_dir().to_owned();
            return Err(Trouble::fitting(&BringError::Missing { path: path.clone(), from }));
        }
        repository.fill_submodules(self.worktree).await?;
        if let Some(command) = &self.policy.setup {
            let name = ("setup", "check-setup");
            let done = self.command(name, command, self.policy.limit).run().await;
            done.map_err(|error| Trouble::fitting(&error))?;
        }
        Ok(())
    }

    /// Runs the check to its end.
    pub(super) async fn check(&self, command: &str, limit: Duration) -> Result<(), ChoreError> {
        self.command(("check", "check"), command, limit).run().await
    }

    /// Ends what the setup command began. Its failure is only logged: the check is over.
    pub(super) async fn tear_down(&self) {
        let (name, limit) = (("teardown", "check-teardown"), self.policy.limit);
        if let Some(command) = &self.policy.teardown
            && let Err(error) = self.command(name, command, limit).run().await
        {
            tracing::warn!(lane = %self.run, error = chain(&error), "a teardown command failed");
        }
    }

    fn command<'b>(
        &'b self,
        (what, log): (&'static str, &str),
        command: &'b str,
        limit: Duration,
    ) -> Chore<'b> {
        Chore {
            what,
            run: self.run,
            command,
            worktree: self.worktree,
            environment: self.environment.clone(),
            log: self.shop.home.chore_log(self.run, log),
            limit,
        }
    }
}

/// By whichever name the lane's tasks know the repository.
fn policy(shop: &Shop, site: &Site) -> Policy {
    let common = site.repository.to_string_lossy();
    let named = site.records.values().map(|record| record.named.as_str());
    let names: Vec<&str> = named.filter(|name| !name.is_empty()).chain([&*common]).collect();
    let section = shop.config.repository(&names);
    Policy {
        copy_files: section.copy_files,
        setup: section.setup,
        teardown: section.teardown,
        limit: Duration::from_secs(section.setup_timeout_seconds),
    }
}
