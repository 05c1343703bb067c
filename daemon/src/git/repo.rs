//! One repository: opened once, read from anywhere, changed by one actor in order.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

use super::branch;
use super::pool::Pool;
use super::worktree::Grounds;

/// How many changes of one repository may wait; who comes later waits for a place, none is lost.
const QUEUE: usize = 64;

/// A commit by its full id: 40 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitId(String);

/// The text is no full commit id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no commit id: give all 40 hex digits")]
pub struct BadCommitId(pub String);

impl CommitId {
    /// The 40 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn oid(&self) -> Result<git2::Oid, git2::Error> {
        git2::Oid::from_str(&self.0)
    }
}

impl From<git2::Oid> for CommitId {
    fn from(oid: git2::Oid) -> Self {
        Self(oid.to_string())
    }
}

impl FromStr for CommitId {
    type Err = BadCommitId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(BadCommitId(text.to_owned()))
        }
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitId({})", self.0)
    }
}

/// Where a HEAD stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The branch that is checked out, none when HEAD is detached.
    pub branch: Option<String>,
    /// The commit.
    pub commit: CommitId,
}

/// Why a folder cannot be used as a repository.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither the folder nor one above it is a repository.
    #[error("{0} is in no git repository: run `git init` there or name another folder")]
    NotARepository(PathBuf),
    /// There is nothing that a worktree could start from.
    #[error("the repository at {0} has no commits yet: make a first commit")]
    NoCommits(PathBuf),
    /// It belongs to another user and is not marked as safe.
    #[error(
        "the repository at {0} belongs to another user: run \
         `git config --global --add safe.directory {0}` if you trust it"
    )]
    NotTrusted(PathBuf),
    /// Git's data cannot be read.
    #[error("the repository at {path} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The folder that was named.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
}

/// Why a reference names no commit.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no such branch, tag or commit.
    #[error("'{reference}' is no branch, tag or commit of {repository}{}", hint(.near))]
    Unknown {
        /// What was asked for.
        reference: String,
        /// The repository.
        repository: PathBuf,
        /// Branches with a similar name, nearest first, at most five.
        near: Vec<String>,
    },
    /// Git's data cannot be read.
    #[error("'{reference}' could not be looked up in {repository}: check it with `git fsck`")]
    Unreadable {
        /// What was asked for.
        reference: String,
        /// The repository.
        repository: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
}

fn hint(near: &[String]) -> String {
    match near {
        [] => ": list them with `git branch -a`".to_owned(),
        near => format!(": did you mean '{}'?", near.join("', '")),
    }
}

/// The work on a repository was cut off: the daemon is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is shutting down: the work on the repository was not done; start it again")]
pub struct Closed;

/// The repositories of this daemon; clones share them. It alone knows which actors live.
///
/// An actor ends once the last handle of its repository is gone and its queue is empty.
#[derive(Clone, Debug, Default)]
pub struct Repositories {
    actors: Arc<Mutex<HashMap<PathBuf, Entry>>>,
    grounds: Arc<Grounds>,
    pool: Pool,
}

#[derive(Debug)]
struct Entry {
    queue: mpsc::WeakSender<Turn>,
    actor: JoinHandle<()>,
}

/// A handle of one repository; clones share its actor.
#[derive(Clone, Debug)]
pub struct Repository {
    common: PathBuf,
    checkout: Option<PathBuf>,
    queue: mpsc::Sender<Turn>,
    grounds: Arc<Grounds>,
    pool: Pool,
}

/// A change of the repository whose common folder it is given, whole with its answer.
type Turn = Box<dyn FnOnce(PathBuf) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Repositories {
    /// Repositories whose worktrees come out of `pool` when it has a ready one.
    #[must_use]
    pub fn with_pool(pool: Pool) -> Self {
        Self { pool, ..Self::default() }
    }

    /// The pool of ready worktrees; without [`Self::with_pool`] it is off.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Opens the repository that holds `path`: any folder of a work tree or worktree, or a bare
    /// repository. All handles of one repository share one actor, whichever folder was named.
    ///
    /// # Errors
    /// [`OpenError`] when there is none, it is empty, not trusted, or unreadable.
    pub async fn open(&self, path: &Path) -> Result<Repository, OpenError> {
        let named = path.to_owned();
        let found = tokio::task::spawn_blocking(move || discover(&named))
            .await
            .map_err(|_| OpenError::NotARepository(path.to_owned()))?;
        let (common, checkout) = found?;
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = actors.get(&common).and_then(|entry| entry.queue.upgrade()) {
            return Ok(self.handle(common, checkout, queue));
        }
        // a former actor may still be at work: its successor waits for its end
        let former = actors.remove(&common).map(|entry| entry.actor);
        actors.retain(|_, entry| !entry.actor.is_finished());
        let (queue, turns) = mpsc::channel(QUEUE);
        let actor = tokio::spawn(serve(common.clone(), turns, former));
        actors.insert(common.clone(), Entry { queue: queue.downgrade(), actor });
        Ok(self.handle(common, checkout, queue))
    }

    fn handle(
        &self,
        common: PathBuf,
        checkout: Option<PathBuf>,
        queue: mpsc::Sender<Turn>,
    ) -> Repository {
        let (grounds, pool) = (self.grounds.clone(), self.pool.clone());
        Repository { common, checkout, queue, grounds, pool }
    }
}

async fn serve(common: PathBuf, mut turns: mpsc::Receiver<Turn>, former: Option<JoinHandle<()>>) {
    if let Some(Err(cause)) = match former {
        Some(former) => Some(former.await),
        None => None,
    } {
        tracing::error!(repository = %common.display(), %cause, "the former actor broke");
    }
    while let Some(turn) = turns.recv().await {
        turn(common.clone()).await;
    }
}

impl Repository {
    /// The folder that all worktrees share (`.git` of the main checkout, or the bare repository).
    #[must_use]
    pub fn common_dir(&self) -> &Path {
        &self.common
    }

    /// The top of the work tree that this handle was opened through, none for a bare repository.
    #[must_use]
    pub fn checkout(&self) -> Option<&Path> {
        self.checkout.as_deref()
    }

    /// What all worktrees being made share.
    pub(super) fn grounds(&self) -> &Grounds {
        &self.grounds
    }

    /// The pool that its worktrees come from.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The commit that a branch, tag, id or other revision names. A local branch wins over a
    /// remote one of the same name, as in git.
    ///
    /// # Errors
    /// [`ResolveError`] with similar names when there is none.
    pub async fn resolve(&self, reference: &str) -> Result<CommitId, ResolveError> {
        let (place, reference) = (self.place(), reference.to_owned());
        let (at, named) = (place.clone(), reference.clone());
        read(move || resolve(&place, &reference)).await.unwrap_or_else(|source| {
            Err(ResolveError::Unreadable { reference: named, repository: at, source })
        })
    }

    /// Whether `above` holds all of `below`: it is that commit, or descends from it. Nothing holds a
    /// commit that is not there.
    ///
    /// # Errors
    /// [`ResolveError::Unreadable`] when `above` is not there.
    pub async fn descends(&self, above: &CommitId, below: &CommitId) -> Result<bool, ResolveError> {
        let (place, one, two) = (self.common.clone(), above.clone(), below.clone());
        read(move || {
            let repository = git2::Repository::open(&place)?;
            if !is_there(&repository, &two)? {
                return Ok(false);
            }
            Ok(one == two || repository.graph_descendant_of(one.oid()?, two.oid()?)?)
        })
        .await
        .and_then(|found| found)
        .map_err(|source| ResolveError::Unreadable {
            reference: above.to_string(),
            repository: self.common.clone(),
            source,
        })
    }

    /// Whether a commit is there.
    ///
    /// # Errors
    /// [`ResolveError::Unreadable`] when git's data cannot be read.
    pub async fn has(&self, commit: &CommitId) -> Result<bool, ResolveError> {
        let (place, wanted) = (self.common.clone(), commit.clone());
        read(move || is_there(&git2::Repository::open(&place)?, &wanted))
            .await
            .and_then(|found| found)
            .map_err(|source| ResolveError::Unreadable {
                reference: commit.to_string(),
                repository: self.common.clone(),
                source,
            })
    }

    /// All local branches, without `refs/heads/`.
    ///
    /// # Errors
    /// [`ResolveError::Unreadable`].
    pub async fn branches(&self) -> Result<Vec<String>, ResolveError> {
        let place = self.common.clone();
        read(move || branches(&git2::Repository::open(place)?))
            .await
            .and_then(|found| found)
            .map_err(|source| ResolveError::Unreadable {
                reference: "refs/heads".to_owned(),
                repository: self.common.clone(),
                source,
            })
    }

    /// Where HEAD of the folder that was opened stands.
    ///
    /// # Errors
    /// [`ResolveError`] when HEAD names a branch that has no commit.
    pub async fn head(&self) -> Result<Head, ResolveError> {
        let commit = self.resolve("HEAD").await?;
        let place = self.place();
        let at = place.clone();
        read(move || {
            let repository = git2::Repository::open(&place)?;
            let head = repository.head()?;
            let branch = head
                .is_branch()
                .then(|| String::from_utf8_lossy(head.shorthand_bytes()).into_owned());
            Ok(Head { branch, commit })
        })
        .await
        .and_then(|head| head)
        .map_err(|source| ResolveError::Unreadable {
            reference: "HEAD".to_owned(),
            repository: at,
            source,
        })
    }

    /// Where reads open the repository: the folder that was named, so that HEAD is its HEAD.
    fn place(&self) -> PathBuf {
        self.checkout.clone().unwrap_or_else(|| self.common.clone())
    }

    /// Changes the repository when its turn comes: `change` is given the common folder, and no
    /// other change of this daemon runs meanwhile. Once queued it is done even if nobody waits.
    ///
    /// # Errors
    /// [`Closed`] when the daemon shuts down first.
    pub(super) async fn in_turn<T, F>(
        &self,
        change: impl FnOnce(PathBuf) -> F + Send + 'static,
    ) -> Result<T, Closed>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let span = Span::current();
        let turn: Turn = Box::new(move |common| {
            Box::pin(async move {
                let place = common.clone();
                if reply.send(change(common).instrument(span).await).is_err() {
                    tracing::debug!(repository = %place.display(), "done, but nobody waited for it");
                }
            })
        });
        self.queue.send(turn).await.map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }
}

/// Runs a blocking read on a thread where blocking is allowed.
pub(super) async fn read<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, git2::Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|cause| git2::Error::from_str(&format!("the read was cut off: {cause}")))
}

/// Whether a repository has a commit.
pub(super) fn is_there(
    repository: &git2::Repository,
    commit: &CommitId,
) -> Result<bool, git2::Error> {
    match repository.find_commit(commit.oid()?) {
        Ok(_) => Ok(true),
        Err(cause) if cause.code() == git2::ErrorCode::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// All local branches, without `refs/heads/`.
pub(super) fn branches(repository: &git2::Repository) -> Result<Vec<String>, git2::Error> {
    // only their folder is walked, not that of all refs
    let mut named = repository.references_glob("refs/heads/*")?;
    let short = |name: &str| name.strip_prefix("refs/heads/").unwrap_or(name).to_owned();
    let all = named.names().map(|name| name.map(short)).collect::<Result<Vec<String>, _>>();
    all.or_else(|_| {
        let branches = repository.branches(Some(git2::BranchType::Local))?;
        let name = |(branch, _): (git2::Branch<'_>, _)| {
            Ok(String::from_utf8_lossy(branch.name_bytes()?).into_owned())
        };
        branches.map(|branch| name(branch?)).collect()
    })
}

fn discover(path: &Path) -> Result<(PathBuf, Option<PathBuf>), OpenError> {
    use git2::RepositoryOpenFlags as Flags;
    let named = path.to_owned();
    let unreadable = |source| OpenError::Unreadable { path: path.to_owned(), source };
    let none: [&Path; 0] = [];
    let repository = git2::Repository::open_ext(path, Flags::empty(), none).map_err(|source| {
        match source.code() {
            git2::ErrorCode::NotFound => OpenError::NotARepository(named.clone()),
            git2::ErrorCode::Owner => OpenError::NotTrusted(named.clone()),
            _ => unreadable(source),
        }
    })?;
    let has_commits = match repository.head() {
        Ok(_) => true,
        Err(_) => repository.references().map_err(unreadable)?.next().is_some(),
    };
    if !has_commits {
        return Err(OpenError::NoCommits(named));
    }
    let canonical = |path: &Path| {
        path.canonicalize().map_err(|cause| unreadable(git2::Error::from_str(&cause.to_string())))
    };
    let checkout = repository.workdir().map(canonical).transpose()?;
    Ok((canonical(repository.commondir())?, checkout))
}

fn resolve(place: &Path, reference: &str) -> Result<CommitId, ResolveError> {
    let unreadable = |source| ResolveError::Unreadable {
        reference: reference.to_owned(),
        repository: place.to_owned(),
        source,
    };
    let repository = git2::Repository::open(place).map_err(unreadable)?;
    let looked_up =
        repository.revparse_single(reference).and_then(|object| object.peel_to_commit());
    match looked_up {
        Ok(commit) => Ok(commit.id().into()),
        Err(_) => {
            let mut names = Vec::new();
            for branch in repository.branches(None).map_err(unreadable)? {
                let (branch, _) = branch.map_err(unreadable)?;
                let name = branch.name_bytes().map_err(unreadable)?;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            Err(ResolveError::Unknown {
                reference: reference.to_owned(),
                repository: place.to_owned(),
                near: branch::near(reference, &names),
            })
        }
    }
}
