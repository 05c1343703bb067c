//! An agent's work, committed on its branch: what it committed itself and what it left lying.

mod error;
mod survey;

use std::path::{Path, PathBuf};

use super::command::{CommandError, Fault, Git};
use super::diff::{ChangedFile, DiffStat, compare_trees};
use super::hidden::{reveal, unseen};
use super::links::inside;
use super::parse;
use super::repo::{CommitId, Repository, read};
use super::staging::{Inspector, MAX_FILE, Plan, Withheld};
use super::worktree::{EMAIL, NAME, open_own};
use survey::{Survey, settle, survey};

pub use error::CommitError;

/// What to commit, where, and how.
#[derive(Clone, Debug)]
pub struct WorkOrder {
    /// The worktree.
    pub worktree: PathBuf,
    /// The commit at which it was made.
    pub base: CommitId,
    /// The branch that was made for it, none when its HEAD is detached by design. No other branch
    /// is ever moved.
    pub branch: Option<String>,
    /// What the commit says.
    pub message: Message,
    /// What is too much.
    pub limits: Limits,
    /// Whether the repository's hooks run.
    pub hooks: Hooks,
    /// Whether the commit is signed, as the user's own configuration says how.
    pub sign: bool,
}

/// What a commit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The first line. Line breaks in it become spaces.
    pub subject: String,
    /// The rest; may be empty.
    pub body: String,
}

/// What is too much for a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of one file.
    pub max_file: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_file: MAX_FILE }
    }
}

/// Whether the repository's commit hooks run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hooks {
    /// They do not; those that would have are named in [`Work::inert_hooks`].
    #[default]
    Inert,
    /// They do, because the user said so; one that fails blocks the commit.
    Run,
}

/// What a task's worktree holds after the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Where HEAD stands now.
    pub head: CommitId,
    /// Commits that HEAD has and the base has not.
    pub commits: usize,
    /// What came of it.
    pub outcome: Outcome,
    /// Changed files that stayed out, untouched in the worktree.
    pub withheld: Vec<Withheld>,
    /// Files that the agent committed itself and that would have been withheld: do not push.
    pub exposed: Vec<Withheld>,
    /// How much differs from the base.
    pub stat: DiffStat,
    /// Which files differ from the base.
    pub changed_files: Vec<ChangedFile>,
    /// Whether HEAD no longer descends from the base, as after a reset or a rebase.
    pub diverged: bool,
    /// Where the agent had left HEAD, when it was not on the task's branch.
    pub strayed_to: Option<String>,
    /// Commit hooks of the repository that did not run.
    pub inert_hooks: Vec<String>,
}

/// What came of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There are commits.
    Delivered,
    /// Nothing was changed.
    NoChanges,
    /// All that was changed had to be withheld.
    OnlyWithheld,
}

impl Repository {
    /// Commits what an agent left in its worktree; see [`WorkOrder`]. The agent must have ended.
    ///
    /// # Errors
    /// [`CommitError`]; no file of the worktree changed then.
    pub async fn commit_work(&self, order: WorkOrder) -> Result<Work, CommitError> {
        self.in_turn(move |common| async move { commit(&common, order).await }).await?
    }

    /// Whether [`Repository::commit_work`] would commit anything that lies there; changes nothing.
    ///
    /// # Errors
    /// [`CommitError`] when it cannot be told.
    pub async fn has_work(&self, order: WorkOrder) -> Result<bool, CommitError> {
        self.in_turn(move |common| async move {
            let seen = blocking(&common, &order, survey).await??;
            let hidden = blocking(&common, &order, |_, order| unseen(&order.worktree)).await?;
            Ok(!hidden.is_empty() || planned(&common, &order, &seen).await?.has_work())
        })
        .await?
    }
}

/// Commits; runs in the repository's actor. Three commands of git, four when files were deleted.
async fn commit(common: &Path, order: WorkOrder) -> Result<Work, CommitError> {
    show_all(&order).await?;
    let seen = blocking(common, &order, survey).await??;
    let strayed_to = settle(&order, &seen).await?;
    let plan = planned(common, &order, &seen).await?;
    if plan.has_work() {
        record(common, &order, &seen, &plan).await?;
    }
    let before = seen.head.clone();
    let withheld = plan.withheld;
    let mut work = blocking(common, &order, move |common, order| {
        let repository = own(common, order)?;
        summary(&repository, order, &before, withheld).map_err(|source| unreadable(order, source))
    })
    .await??;
    work.strayed_to = strayed_to;
    if order.hooks == Hooks::Inert {
        work.inert_hooks = seen.hooks;
    }
    Ok(work)
}

/// What an agent hid from git is work too.
async fn show_all(order: &WorkOrder) -> Result<(), CommitError> {
    let path = &order.worktree;
    reveal(path).await.map_err(|source| CommitError::Git { path: path.clone(), source })
}

/// What of the worktree is to be committed, and how.
async fn planned(common: &Path, order: &WorkOrder, seen: &Survey) -> Result<Plan, CommitError> {
    let status = Git::in_worktree(&order.worktree)
        .args(["status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames"])
        .arg("--ignore-submodules=dirty")
        .run()
        .await
        .map_err(|source| classify(order, seen, source))?;
    let entries = parse::status(&status.stdout)
        .map_err(|source| CommitError::Parse { path: order.worktree.clone(), source })?;
    let plan = blocking(common, order, move |common, order| {
        let repository = own(common, order)?;
        let base = order.base.oid().map_err(|source| unreadable(order, source))?;
        Inspector::new(&repository, &order.worktree, base, order.limits.max_file)
            .map(|inspector| inspector.plan(entries))
            .map_err(|source| unreadable(order, source))
    })
    .await??;
    if !plan.conflicts.is_empty() {
        return Err(CommitError::Conflicted {
            path: order.worktree.clone(),
            files: plan.conflicts,
        });
    }
    Ok(plan)
}

async fn blocking<T: Send + 'static>(
    common: &Path,
    order: &WorkOrder,
    look: impl FnOnce(&Path, &WorkOrder) -> T + Send + 'static,
) -> Result<T, CommitError> {
    let (common, held) = (common.to_owned(), order.clone());
    read(move || look(&common, &held)).await.map_err(|source| unreadable(order, source))
}

fn own(common: &Path, order: &WorkOrder) -> Result<git2::Repository, CommitError> {
    open_own(common, &order.worktree).ok_or_else(|| CommitError::NotOurs(order.worktree.clone()))
}

fn unreadable(order: &WorkOrder, source: git2::Error) -> CommitError {
    CommitError::Unreadable { path: order.worktree.clone(), source }
}

/// Stages what the plan says and commits the index.
async fn record(
    common: &Path,
    order: &WorkOrder,
    seen: &Survey,
    plan: &Plan,
) -> Result<(), CommitError> {
    let failed = |source| classify(order, seen, source);
    if !plan.entries.is_empty() {
        Git::in_worktree(&order.worktree)
            .args(["update-index", "-z", "--index-info"])
            .stdin(plan.entries.clone())
            .run()
            .await
            .map_err(failed)?;
    }
    if !plan.add.is_empty() {
        Git::in_worktree(&order.worktree)
            .args(["update-index", "--add", "--replace", "--remove", "-z", "--stdin"])
            .stdin(plan.added())
            .again()
            .run()
            .await
            .map_err(failed)?;
    }
    let mut git = Git::in_worktree(&order.worktree)
        .args(["commit", "--quiet", "--no-status", "--cleanup=whitespace", "--file=-"])
        .stdin(order.message.text());
    if !seen.has_identity {
        git = git.config("user.name", NAME).config("user.email", EMAIL);
    }
    if order.hooks == Hooks::Run {
        git = git.with_hooks();
    }
    if order.sign {
        git = git.signed();
    }
    if !order.sign && order.hooks == Hooks::Inert {
        git = git.again();
    }
    let Err(cause) = git.run().await else { return Ok(()) };
    // changes that cancel each other out leave nothing to commit, which git calls a failure
    let empty = blocking(common, order, |common, order| {
        own(common, order).is_ok_and(|repository| index_is_head(&repository).unwrap_or(false))
    })
    .await?;
    if order.sign && was_not_signed(&cause) {
        return Err(not_signed(order, seen, cause));
    }
    match classify(order, seen, cause) {
        CommitError::Git { .. } if empty => Ok(()),
        CommitError::Git { source, .. } if order.hooks == Hooks::Run && !seen.hooks.is_empty() => {
            Err(CommitError::Blocked {
                path: order.worktree.clone(),
                stderr: source.stderr().trim().to_owned(),
            })
        }
        failure => Err(failure),
    }
}

fn was_not_signed(cause: &CommandError) -> bool {
    let says = |words: &str| cause.stderr().contains(words);
    matches!(cause.fault, Fault::TimedOut(_)) || says("failed to sign") || says("signing failed")
}

/// The git that waited for a signer was killed with it, and left its lock: the agent has ended, so
/// nobody else's it is.
fn not_signed(order: &WorkOrder, seen: &Survey, source: CommandError) -> CommitError {
    if matches!(source.fault, Fault::TimedOut(_))
        && let Err(cause) = std::fs::remove_file(seen.git_dir.join("index.lock"))
    {
        tracing::debug!(%cause, "the killed git left no lock");
    }
    CommitError::NotSigned { path: order.worktree.clone(), source }
}

fn index_is_head(repository: &git2::Repository) -> Result<bool, git2::Error> {
    let tree = repository.head()?.peel_to_tree()?;
    Ok(repository.diff_tree_to_index(Some(&tree), None, None)?.deltas().len() == 0)
}

/// What a failure of git means, by what it left and by the C library's own words.
fn classify(order: &WorkOrder, seen: &Survey, source: CommandError) -> CommitError {
    let lock = seen.git_dir.join("index.lock");
    let path = order.worktree.clone();
    if source.is_disk_full() {
        CommitError::DiskFull { path, source }
    } else if lock.exists() {
        CommitError::IndexLocked { lock, source }
    } else {
        CommitError::Git { path, source }
    }
}

fn summary(
    repository: &git2::Repository,
    order: &WorkOrder,
    before: &CommitId,
    mut withheld: Vec<Withheld>,
) -> Result<Work, git2::Error> {
    let base = order.base.oid()?;
    withheld.extend(inside(repository.commondir(), repository, &order.worktree)?);
    let head = repository.head()?.peel_to_commit()?;
    let whole = git2::Repository::open(repository.commondir())?;
    let (commits, _) = whole.graph_ahead_behind(head.id(), base)?;
    let changed_files =
        compare_trees(repository, &repository.find_commit(base)?.tree()?, &head.tree()?)?;
    let inspector = Inspector::new(repository, &order.worktree, base, order.limits.max_file)?;
    Ok(Work {
        head: head.id().into(),
        commits,
        outcome: match (commits, withheld.is_empty()) {
            (0, true) => Outcome::NoChanges,
            (0, false) => Outcome::OnlyWithheld,
            _ => Outcome::Delivered,
        },
        exposed: inspector.exposed(before.oid()?)?,
        withheld,
        stat: DiffStat::of(&changed_files),
        changed_files,
        diverged: head.id() != base && !whole.graph_descendant_of(head.id(), base)?,
        strayed_to: None,
        inert_hooks: Vec::new(),
    })
}

impl Message {
    /// The message as git reads it; never empty.
    pub(super) fn text(&self) -> Vec<u8> {
        let subject = self.subject.split_whitespace().collect::<Vec<_>>().join(" ");
        let subject = if subject.is_empty() { "Work without a title" } else { &subject };
        format!("{subject}\n\n{}\n", self.body.trim()).into_bytes()
    }
}
