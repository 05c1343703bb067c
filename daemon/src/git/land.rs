//! Landing: a branch moved forward to a commit that descends from its tip, together with the work
//! tree that has it checked out.
//!
//! A work tree moves only when nothing in it is changed or in the way; otherwise nothing moves at
//! all. Landing again after a crash finds it done or does the rest: git writes files, then the
//! index, then the branch, and what a former attempt wrote is no change of anyone's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{CommandError, Git};
use super::holder::{Holder, holders};
use super::parse::{self, ParseError, Status, Tracked};
use super::repo::{Closed, CommitId, Repository, read};
use super::worktree::{EMAIL, NAME, open_own, under_way};
use crate::fault;

/// How many files an error names: the rest is shown by the reader's own `git status`.
const MAX_NAMED: usize = 20;

/// How long the lock of an index is waited for: a git that outlived its daemon ends by then.
const LOCK: Duration = Duration::from_secs(5);

/// How often the lock is looked at meanwhile.
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// The id that git reads as "there must be no such ref".
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// A branch to be moved forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    /// The branch, without `refs/heads/`.
    pub branch: String,
    /// Where it must stand now.
    pub from: CommitId,
    /// Where it shall stand; it descends from `from`.
    pub to: CommitId,
}

/// A branch that stands where it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landed {
    /// The work tree that has it checked out and moved with it, if one has.
    pub checkout: Option<PathBuf>,
    /// Whether it stood there already, for instance after a crash.
    pub already: bool,
}

/// Why nothing was landed. Branch, index and files are as they were.
#[derive(Debug, thiserror::Error)]
pub enum LandError {
    /// There is no such branch.
    #[error("there is no branch '{0}' to land on: make it first")]
    NoBranch(String),
    /// The branch moved meanwhile.
    #[error("'{branch}' stands at {found}, no longer at {expected}: merge into what it is now")]
    Moved {
        /// The branch.
        branch: String,
        /// Where it was expected.
        expected: CommitId,
        /// Where it stands.
        found: CommitId,
    },
    /// The new commit does not hold the branch's work.
    #[error("{to} does not descend from '{branch}': merge '{branch}' into it first")]
    NotForward {
        /// The branch.
        branch: String,
        /// Where it was to go.
        to: CommitId,
    },
    /// Files of the work tree would be lost or mixed up.
    #[error(
        "'{branch}' is checked out in {path}, where changes are in the way ({}): \
         commit them or put them away first", named(.files)
    )]
    InTheWay {
        /// The branch.
        branch: String,
        /// The work tree.
        path: PathBuf,
        /// The files, at most twenty.
        files: Vec<PathBuf>,
    },
    /// A merge, rebase or the like of the branch is under way.
    #[error("'{branch}' is in the middle of a {what} in {path}: finish or abort it there first")]
    InProgress {
        /// The branch.
        branch: String,
        /// The work tree.
        path: PathBuf,
        /// What is under way.
        what: &'static str,
    },
    /// Several work trees have the branch checked out.
    #[error("'{branch}' is checked out in {} and {}: leave it in one of them", .one.display(), .two.display())]
    Twice {
        /// The branch.
        branch: String,
        /// One work tree.
        one: PathBuf,
        /// Another.
        two: PathBuf,
    },
    /// Another git holds the index, or one that was killed left its lock.
    #[error("{0} exists: end the git that runs there, or remove the file if none does")]
    IndexLocked(PathBuf),
    /// The disk or quota is full.
    #[error("no space is left to land on '{branch}': free some, then try again")]
    DiskFull {
        /// The branch.
        branch: String,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git failed otherwise.
    #[error("'{branch}' could not be moved")]
    Git {
        /// The branch.
        branch: String,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git wrote something unknown.
    #[error("the state of {path} could not be read")]
    Parse {
        /// The work tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// Git's data cannot be read.
    #[error("{path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The repository or work tree.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// A test asked for it.
    #[error("landing on '{branch}' was stopped")]
    Stopped {
        /// The branch.
        branch: String,
        /// What the test asked for.
        #[source]
        source: io::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

fn named(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    names.join(", ")
}

impl LandError {
    /// The files that are in the way, if that is why.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::InTheWay { files, .. } => files,
            _ => &[],
        }
    }
}

impl Repository {
    /// Moves a branch forward; see [`Landing`]. Where no work tree has it checked out, only the
    /// ref moves, and only from the commit that was expected. Where one has, its files move with
    /// it: no tracked file may be changed there, and no untracked or ignored one in the way. Files
    /// that a filter of the repository would rewrite (git-lfs) arrive as they are stored.
    ///
    /// # Errors
    /// [`LandError`]; nothing moved then.
    pub async fn land(&self, landing: Landing) -> Result<Landed, LandError> {
        self.in_turn(move |common| async move { land(&common, &landing).await }).await?
    }

    /// Takes a worktree of ours, whose HEAD is detached at `from`, on to `to`, which descends from
    /// it. False, and nothing changed, when it stands elsewhere or is on a branch.
    ///
    /// # Errors
    /// [`LandError`], above all when something there is changed; nothing moved then.
    pub async fn follow(
        &self,
        worktree: &Path,
        from: &CommitId,
        to: &CommitId,
    ) -> Result<bool, LandError> {
        let (path, landing) = (
            worktree.to_owned(),
            Landing { branch: "HEAD".to_owned(), from: from.clone(), to: to.clone() },
        );
        self.in_turn(move |common| async move { follow(&common, &path, &landing).await }).await?
    }

    /// Takes a landing back: the branch that stands at `to` goes back to `from`, with the work tree
    /// that has it checked out, under the same conditions. A branch that moved on stays.
    ///
    /// # Errors
    /// [`LandError`]; nothing moved then.
    pub async fn take_back(&self, landing: Landing) -> Result<Landed, LandError> {
        self.in_turn(move |common| async move { take_back(&common, landing).await }).await?
    }

    /// Makes a branch of ours again that was dropped because it held nothing. One that is there
    /// stays as it is.
    ///
    /// # Errors
    /// [`LandError`] when git fails.
    pub async fn restore_branch(&self, name: &str, at: &CommitId) -> Result<(), LandError> {
        let (name, at) = (name.to_owned(), at.clone());
        self.in_turn(move |common| async move {
            if tip(&common, &name).await?.is_some() {
                return Ok(());
            }
            move_ref(&common, &name, &at, NO_COMMIT).await
        })
        .await?
    }
}

/// Which way a work tree moves.
#[derive(Clone, Copy)]
enum Way {
    Forward,
    Back,
}

async fn land(common: &Path, landing: &Landing) -> Result<Landed, LandError> {
    shift(common, landing, Way::Forward).await
}

async fn take_back(common: &Path, landing: Landing) -> Result<Landed, LandError> {
    let Landing { branch, from, to } = landing;
    shift(common, &Landing { branch, from: to, to: from }, Way::Back).await
}

async fn shift(common: &Path, landing: &Landing, way: Way) -> Result<Landed, LandError> {
    let Landing { branch, from, to } = landing;
    let found = tip(common, branch).await?.ok_or_else(|| LandError::NoBranch(branch.to_owned()))?;
    let place = common.to_owned();
    let name = branch.clone();
    let held = read(move || holders(&place, &name))
        .await
        .map_err(|source| LandError::Unreadable { path: common.to_owned(), source })?;
    let mut held = held.into_iter();
    let checkout = match (held.next(), held.next()) {
        (None, _) => None,
        (Some(Holder { path, busy: None }), None) => Some(path),
        (Some(Holder { path, busy: Some(what) }), None) => {
            return Err(LandError::InProgress { branch: branch.clone(), path, what });
        }
        (Some(one), Some(two)) => {
            let (one, two) = (one.path, two.path);
            return Err(LandError::Twice { branch: branch.clone(), one, two });
        }
    };
    if found == *to {
        return Ok(Landed { checkout, already: true });
    }
    if found != *from {
        let (branch, expected) = (branch.clone(), from.clone());
        return Err(LandError::Moved { branch, expected, found });
    }
    match way {
        Way::Forward => must_be_forward(common, branch, (from, to)).await?,
        Way::Back => must_be_forward(common, branch, (to, from)).await?,
    }
    fault::point("merge.land.begun").map_err(stopped(branch))?;
    match &checkout {
        Some(path) => advance(path, landing, way).await?,
        None => move_ref(common, branch, to, from.as_str()).await?,
    }
    fault::point("merge.land.moved").map_err(stopped(branch))?;
    Ok(Landed { checkout, already: false })
}

fn stopped(branch: &str) -> impl FnOnce(io::Error) -> LandError {
    let branch = branch.to_owned();
    move |source| LandError::Stopped { branch, source }
}

async fn follow(common: &Path, path: &Path, landing: &Landing) -> Result<bool, LandError> {
    let (place, folder) = (common.to_owned(), path.to_owned());
    let unreadable = |source| LandError::Unreadable { path: path.to_owned(), source };
    let head = read(move || {
        let Some(repository) = open_own(&place, &folder) else { return Ok(None) };
        if !repository.head_detached()? {
            return Ok(None);
        }
        Ok(Some(CommitId::from(repository.head()?.peel_to_commit()?.id())))
    })
    .await
    .and_then(|head| head)
    .map_err(unreadable)?;
    match head {
        Some(head) if head == landing.to => Ok(true),
        Some(head) if head == landing.from => {
            must_be_forward(common, &landing.branch, (&landing.from, &landing.to)).await?;
            advance(path, landing, Way::Forward).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Where the branch stands; none when there is no such branch.
async fn tip(common: &Path, branch: &str) -> Result<Option<CommitId>, LandError> {
    let (place, name) = (common.to_owned(), format!("refs/heads/{branch}"));
    read(move || match git2::Repository::open(&place)?.refname_to_id(&name) {
        Ok(tip) => Ok(Some(CommitId::from(tip))),
        Err(cause) if cause.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(cause) if cause.code() == git2::ErrorCode::InvalidSpec => Ok(None),
        Err(cause) => Err(cause),
    })
    .await
    .and_then(|tip| tip)
    .map_err(|source| LandError::Unreadable { path: common.to_owned(), source })
}

async fn must_be_forward(
    common: &Path,
    branch: &str,
    (older, newer): (&CommitId, &CommitId),
) -> Result<(), LandError> {
    let (place, one, two) = (common.to_owned(), older.clone(), newer.clone());
    let forward = read(move || {
        let repository = git2::Repository::open(&place)?;
        repository.find_commit(two.oid()?)?;
        Ok(one == two || repository.graph_descendant_of(two.oid()?, one.oid()?)?)
    })
    .await
    .and_then(|forward| forward)
    .map_err(|source| LandError::Unreadable { path: common.to_owned(), source })?;
    if forward {
        return Ok(());
    }
    Err(LandError::NotForward { branch: branch.to_owned(), to: newer.clone() })
}

async fn move_ref(common: &Path, branch: &str, to: &CommitId, old: &str) -> Result<(), LandError> {
    Git::on_repository(common)
        .committer(NAME, EMAIL)
        .config("core.logAllRefUpdates", "true")
        .args(["update-ref", "-m", "hayward: land"])
        .arg(format!("refs/heads/{branch}"))
        .args([to.as_str(), old])
        .run()
        .await
        .map(|_| ())
        .map_err(|source| failed(branch, source))
}

fn failed(branch: &str, source: CommandError) -> LandError {
    let branch = branch.to_owned();
    if source.is_disk_full() {
        LandError::DiskFull { branch, source }
    } else {
        LandError::Git { branch, source }
    }
}

/// Moves a work tree and what its HEAD names.
async fn advance(path: &Path, landing: &Landing, way: Way) -> Result<(), LandError> {
    let Landing { branch, to, .. } = landing;
    let lock = unlocked(path).await?;
    let status = Git::in_worktree(path)
        .args(["status", "--porcelain=v2", "-z", "--untracked-files=no", "--no-renames"])
        .arg("--ignore-submodules=dirty")
        .run()
        .await
        .map_err(|source| failed(branch, source))?;
    let entries = parse::status(&status.stdout)
        .map_err(|source| LandError::Parse { path: path.to_owned(), source })?;
    let (folder, held) = (path.to_owned(), landing.clone());
    let unreadable = |source| LandError::Unreadable { path: path.to_owned(), source };
    let (what, mut files) = read(move || look(&folder, &held, entries))
        .await
        .and_then(|seen| seen)
        .map_err(unreadable)?;
    if let Some(what) = what {
        let (branch, path) = (branch.clone(), path.to_owned());
        return Err(LandError::InProgress { branch, path, what });
    }
    if !files.is_empty() {
        files.truncate(MAX_NAMED);
        return Err(LandError::InTheWay { branch: branch.clone(), path: path.to_owned(), files });
    }
    let git = Git::in_worktree(path).committer(NAME, EMAIL);
    let git = match way {
        Way::Forward => git
            .args(["merge", "--ff-only", "--quiet", "--no-stat", "--no-squash", "--no-autostash"])
            .args(["--no-overwrite-ignore", "--no-verify-signatures"]),
        // keeps what is changed, or refuses
        Way::Back => git.args(["reset", "--keep", "--quiet"]),
    };
    git.arg(to.as_str()).run().await.map(|_| ()).map_err(|source| match lock {
        Some(lock) if lock.exists() => LandError::IndexLocked(lock),
        _ => failed(branch, source),
    })
}

/// Waits until no git holds the index. Answers where its lock would be.
async fn unlocked(path: &Path) -> Result<Option<PathBuf>, LandError> {
    let folder = path.to_owned();
    let lock = read(move || Ok(git2::Repository::open(&folder)?.path().join("index.lock")))
        .await
        .and_then(|lock| lock)
        .map_err(|source| LandError::Unreadable { path: path.to_owned(), source })?;
    let waited = tokio::time::timeout(LOCK, async {
        while lock.exists() {
            tokio::time::sleep(LOCK_LOOK).await;
        }
    });
    match waited.await {
        Ok(()) => Ok(Some(lock)),
        Err(_) => Err(LandError::IndexLocked(lock)),
    }
}

type Seen = (Option<&'static str>, Vec<PathBuf>);

/// What keeps the work tree from moving: something under way, changed files, files in the way.
fn look(path: &Path, landing: &Landing, entries: Vec<Status>) -> Result<Seen, git2::Error> {
    let repository = git2::Repository::open(path)?;
    if let Some(what) = under_way(&repository) {
        return Ok((Some(what), Vec::new()));
    }
    let tree = |commit: &CommitId| repository.find_commit(commit.oid()?)?.tree();
    let (before, after) = (tree(&landing.from)?, tree(&landing.to)?);
    let index = repository.index()?;
    let mut files = Vec::new();
    for entry in entries {
        match entry {
            Status::Tracked(file) if was_written(&file, &index, &after) => {}
            Status::Tracked(Tracked { path, .. }) | Status::Unmerged(path) => files.push(path),
            Status::Untracked(_) | Status::Ignored(_) => {}
        }
    }
    files.extend(unseen_in_the_way(path, &repository, (&before, &after), &index)?);
    Ok((None, files))
}

/// Whether the index and the file hold what is to come: a former attempt came this far.
fn was_written(file: &Tracked, index: &git2::Index, after: &git2::Tree<'_>) -> bool {
    let staged = index.get_path(&file.path, 0).map(|entry| (entry.id, entry.mode));
    let wanted =
        after.get_path(&file.path).ok().map(|entry| (entry.id(), entry.filemode().cast_unsigned()));
    file.unstaged == b'.' && staged == wanted
}

/// Files that `git status` does not tell of and that stand where the landing brings something:
/// unknown ones, and changed ones that git was told not to look at.
fn unseen_in_the_way(
    path: &Path,
    repository: &git2::Repository,
    (before, after): (&git2::Tree<'_>, &git2::Tree<'_>),
    index: &git2::Index,
) -> Result<Vec<PathBuf>, git2::Error> {
    let diff = repository.diff_tree_to_tree(Some(before), Some(after), None)?;
    let is_file = |name: &Path| match fs::symlink_metadata(path.join(name)) {
        Ok(found) => !found.is_dir(),
        Err(cause) => cause.kind() == io::ErrorKind::PermissionDenied,
    };
    let mut found = Vec::new();
    for delta in diff.deltas() {
        let Some(name) = delta.new_file().path().or_else(|| delta.old_file().path()) else {
            continue;
        };
        match index.get_path(name, 0) {
            Some(entry) if is_hidden(&entry) && is_file(name) => {
                let held = git2::Oid::hash_file(git2::ObjectType::Blob, path.join(name));
                if held.ok() != Some(entry.id) {
                    found.push(name.to_owned());
                }
            }
            Some(_) => {}
            // the file itself, or a file where one of its folders must be
            None => found.extend(
                name.ancestors()
                    .filter(|part| !part.as_os_str().is_empty())
                    .find(|part| is_file(part) && index.get_path(part, 0).is_none())
                    .map(Path::to_owned),
            ),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Whether git was told to take the file for unchanged, or to leave it out of the work tree.
fn is_hidden(entry: &git2::IndexEntry) -> bool {
    entry.flags & git2::IndexEntryFlag::VALID.bits() != 0
        || entry.flags_extended & git2::IndexEntryExtendedFlag::SKIP_WORKTREE.bits() != 0
}
