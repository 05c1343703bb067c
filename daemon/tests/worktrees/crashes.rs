//! SIGKILL and failure at every point of create, claim, refill and remove; then a restart.
//!
//! The work is done by this very test program, started anew with a fault in its environment.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::farm::{Farm, is_fresh};
use hayward_daemon::git::worktree::Yard;
use hayward_daemon::git::{Repositories, Repository};

/// Every point that the work passes, and how often it is passed before.
const POINTS: [&str; 26] = [
    "worktree.create.noted",
    "worktree.create.branched",
    "worktree.create.added",
    "worktree.create.written",
    "worktree.create.filled",
    "worktree.create.unlocked",
    "worktree.refill.noted",
    "worktree.create.added:2",
    "worktree.refill.added",
    "worktree.create.written:2",
    "worktree.refill.filled",
    "worktree.refill.ready",
    "worktree.create.noted:2",
    "worktree.claim.taken",
    "worktree.claim.moved",
    "worktree.claim.renamed",
    "worktree.claim.pointed",
    "worktree.claim.branched",
    "worktree.claim.headed",
    "worktree.claim.unlocked",
    "worktree.remove.checked",
    "worktree.remove.renamed",
    "worktree.remove.pruned",
    "worktree.remove.forgotten",
    "worktree.remove.checked:2",
    "worktree.remove.renamed:2",
];

/// What a daemon does: its journal is a file that names the worktrees that tasks were given.
struct Work {
    farm: Farm,
    journal: PathBuf,
}

impl Work {
    fn at(room: PathBuf) -> Self {
        Self { journal: room.join("journal"), farm: Farm::at(room) }
    }

    fn known(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.journal).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn start(&self) -> (Repositories, Repository) {
        let all = self.farm.repositories(1);
        let known: Vec<PathBuf> =
            self.known().iter().map(|name| self.farm.yard().join(name)).collect();
        all.recover(&Yard::new(self.farm.yard()), |path| known.iter().any(|one| one == path)).await;
        let repository = all.open(&self.farm.user()).await.unwrap();
        (all, repository)
    }

    async fn give(
        &self,
        repository: &Repository,
        name: &str,
        reference: &str,
    ) -> Result<(), String> {
        if self.known().iter().any(|known| known == name) {
            return Ok(());
        }
        let commit = repository.resolve(reference).await.unwrap();
        let given = repository.provide(self.farm.wanted(name, &commit)).await;
        is_fresh(&self.farm, &given.map_err(|error| format!("{error:?}"))?);
        let mut known = self.known();
        known.push(name.to_owned());
        fs::write(&self.journal, known.join("\n")).unwrap();
        Ok(())
    }

    /// All of it: made from nothing, refilled, claimed at another commit, removed.
    async fn all(&self) -> Result<(), String> {
        let (all, repository) = self.start().await;
        self.give(&repository, "first", "main~1").await?;
        all.refill().await;
        self.give(&repository, "second", "main").await?;
        all.refill().await;
        for name in ["first", "second"] {
            let path = self.farm.yard().join(name);
            if path.symlink_metadata().is_ok() {
                repository.remove(&path).await.map_err(|error| format!("{error:?}"))?;
            }
        }
        all.empty_trash().await;
        Ok(())
    }

    fn suffer(&self, fault: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "crashes::inner_work"])
            .env("HAYWARD_FAULT", fault)
            .env("HAYWARD_FAULT_ONCE", self.farm.room().join("hit"))
            .env("FARM", self.farm.room())
            .output()
            .unwrap()
    }

    /// Nothing is there but the worktrees named and the branches of all that was given.
    fn holds(&self, names: &[String]) {
        let known = self.known();
        let (names, known) = (names.iter().map(String::as_str), known.iter().map(String::as_str));
        self.farm.holds(&names.collect::<Vec<_>>(), &known.collect::<Vec<_>>());
    }

    /// The worktrees that stand.
    fn standing(&self) -> Vec<String> {
        let stands = |name: &String| self.farm.yard().join(name).exists();
        self.known().into_iter().filter(stands).collect()
    }
}

#[tokio::test]
#[ignore = "run by the tests below"]
async fn inner_work() {
    Work::at(std::env::var_os("FARM").unwrap().into()).all().await.unwrap();
}

/// Every second point each, so that the two run side by side.
#[tokio::test]
async fn f21_a_kill_at_any_point_leaves_what_the_next_start_repairs() {
    killed_at(POINTS.iter().copied().step_by(2), &[]).await;
}

#[tokio::test]
async fn f21_a_kill_at_any_other_point_leaves_what_the_next_start_repairs() {
    killed_at(POINTS.iter().copied().skip(1).step_by(2), &[]).await;
}

#[tokio::test]
async fn f21_a_kill_is_repaired_where_git_itself_records_the_worktree() {
    let own_settings = ["config", "extensions.worktreeConfig", "true"];
    let points = ["added", "branched", "headed"].map(|point| format!("worktree.create.{point}"));
    killed_at(points.iter().map(String::as_str), &own_settings).await;
}

/// In a repository after that git command, if any.
async fn killed_at(points: impl Iterator<Item = &str>, prepare: &[&str]) {
    for point in points {
        let new = Farm::new();
        new.write("b.txt", "second\n");
        new.commit("second");
        new.settle();
        if !prepare.is_empty() {
            new.git(prepare);
        }
        let work = Work::at(new.room());
        let before = new.git(&["for-each-ref"]);
        let ended = work.suffer(point);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.signal(), Some(9), "{point}: {said}");
        assert!(new.room().join("hit").exists(), "{point} was not passed");

        let (all, repository) = work.start().await;
        all.empty_trash().await;
        let standing = work.standing();
        work.holds(&standing);
        for name in &standing {
            let commit = if name == "first" { "main~1" } else { "main" };
            let wanted = repository.resolve(commit).await.unwrap();
            let at = super::git(&new.yard().join(name), &["rev-parse", "HEAD"]);
            assert_eq!(at, wanted.as_str(), "{point}");
        }
        drop((all, repository));
        work.all().await.unwrap();
        work.holds(&[]);
        let after = new.git(&["for-each-ref", "--format=%(objectname) %(objecttype)\t%(refname)"]);
        let users = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.contains("/hayward/")).map(str::to_owned).collect()
        };
        assert_eq!(users(&after), users(&before), "{point}: a ref of the user moved");
    }
}

#[tokio::test]
async fn f19_a_step_that_fails_leaves_nothing_and_a_claim_that_fails_costs_only_time() {
    for point in POINTS {
        let new = Farm::new();
        new.write("b.txt", "second\n");
        new.commit("second");
        new.settle();
        let work = Work::at(new.room());
        let ended = work.suffer(&format!("{point}=fail"));
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(new.room().join("hit").exists(), "{point} was not passed");
        // the pool may fail at any step: the task gets a worktree made from nothing. What fails
        // from the second passing on also fails there
        let may_fail = point.contains("create") || point.contains("remove");
        assert!(ended.status.success() || may_fail, "{point}: {said}");
        if !ended.status.success() {
            assert!(said.contains("a test made"), "{point}: {said}");
        }
        let names = work.standing();
        let listed = new.git(&["worktree", "list", "--porcelain"]);
        assert!(!listed.contains("prunable") || point.contains("remove"), "{point}: {listed}");
        let branches = new.git(&["branch", "--list", "hayward/*"]);
        assert!(branches.lines().count() <= work.known().len(), "{point}: {branches}");
        if !point.contains("remove") {
            let all = new.repositories(1);
            all.empty_trash().await;
            work.holds(&names);
        }
    }
}
