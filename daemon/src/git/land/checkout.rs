//! The work tree that goes with its branch: seen to be clean, then moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LandError, Landing, failed, move_ref, moved, stopped};
use crate::fault;
use crate::git::command::{CommandError, Git};
use crate::git::hidden::is_hidden;
use crate::git::parse::{self, Status, Tracked};
use crate::git::repo::{CommitId, read};
use crate::git::worktree::{EMAIL, NAME, under_way};

/// How many files an error names: the rest is shown by the reader's own `git status`.
const MAX_NAMED: usize = 20;

/// How long the lock of an index is waited for: a git that outlived its daemon ends by then.
const LOCK: Duration = Duration::from_secs(5);

/// How often the lock is looked at meanwhile.
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// What a landing names in place of a branch, where a detached work tree follows.
pub(super) const HEAD: &str = "HEAD";

/// Moves a work tree's files and index, then the branch by its name, or a detached HEAD. Whatever
/// its user did while its lock was waited for is found before anything is written; what they do in
/// the moment between the files and the branch takes the files back.
pub(super) async fn advance(
    common: &Path,
    path: &Path,
    landing: &Landing,
) -> Result<(), LandError> {
    let Landing { branch, from, to } = landing;
    let lock = unlocked(path).await?;
    stands(path, landing).await?;
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
    write(path, (from, to)).await.map_err(|source| match lock {
        Some(lock) if lock.exists() => LandError::IndexLocked(lock),
        _ => failed(branch, source),
    })?;
    fault::point("merge.land.written").map_err(stopped(branch))?;
    let named = match branch.as_str() {
        HEAD => {
            let git = Git::in_worktree(path).committer(NAME, EMAIL);
            let moved = git.args(["update-ref", "--no-deref", "-m", "hayward: follow", HEAD]);
            let moved = moved.args([to.as_str(), from.as_str()]).run().await;
            moved.map(|_| ()).map_err(|source| failed(branch, source))
        }
        _ => move_ref(common, branch, to, from.as_str()).await,
    };
    if named.is_err() && stands(path, landing).await.is_err() {
        write(path, (to, from)).await.map_err(|source| failed(branch, source))?;
        return stands(path, landing).await;
    }
    named
}

/// Moves files and index from one commit to the other, or refuses: nothing changed is overwritten.
async fn write(path: &Path, (from, to): (&CommitId, &CommitId)) -> Result<(), CommandError> {
    let git = Git::in_worktree(path).args(["read-tree", "-m", "-u"]);
    git.args([from.as_str(), to.as_str()]).run().await.map(|_| ())
}

/// Sees that the work tree's HEAD still is what is to be moved, and where.
async fn stands(path: &Path, landing: &Landing) -> Result<(), LandError> {
    let (folder, branch) = (path.to_owned(), landing.branch.clone());
    let found = read(move || {
        let repository = git2::Repository::open(&folder)?;
        let reference = repository.find_reference(HEAD)?;
        let on = reference.symbolic_target_bytes().map(String::from_utf8_lossy);
        let wanted = (branch != HEAD).then(|| format!("refs/heads/{branch}"));
        let same = on.as_deref() == wanted.as_deref();
        Ok((same, CommitId::from(repository.head()?.peel_to_commit()?.id())))
    })
    .await
    .and_then(|found| found)
    .map_err(|source| LandError::Unreadable { path: path.to_owned(), source })?;
    match found {
        (true, commit) if commit == landing.from => Ok(()),
        (_, commit) => Err(moved(landing, commit)),
    }
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
