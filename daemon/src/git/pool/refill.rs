//! The one who tends the pool: makes places ready while nobody waits, and empties the trash.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::super::repo::{CommitId, Repositories, Repository, read};
use super::super::worktree::{
    Hold, MAX_HELD, Record, Stamp, WorktreeError, blocking, digest, disk, enter, likeness, look,
    point, write_files,
};
use super::{Miss, Place, Pool, REPOSITORY, Terms, chain};
use crate::fault;
use crate::kept::Kept;

/// The share of the disk that stays free whatever the budget says: 1 in 50, room for a day of other
/// work.
const FREE_SHARE: u64 = 50;

/// Free space below which no place is made, however large the disk.
const FREE_LEAST: u64 = 1 << 30;

/// Git compares times by the second. An index that is written this long after its files needs no
/// file read again at the first `git status`.
const SETTLE: Duration = Duration::from_millis(1_100);

/// Sections of the configuration that decide what a checkout writes.
const SETTINGS: [&str; 5] = ["core.", "filter.", "extensions.", "checkout.", "submodule."];

impl Repositories {
    /// Begins to tend the pool: places are refilled one at a time while no task waits for a
    /// worktree, and trash is deleted. Call it once, after [`Self::recover`]. What it was making when
    /// it was dropped is taken down at the next start.
    pub fn tend(&self) -> Kept {
        let repositories = self.clone();
        Kept::of(tokio::spawn(async move {
            loop {
                repositories.empty_trash().await;
                repositories.refill().await;
                repositories.pool().shared.work.notified().await;
            }
        }))
    }

    /// Makes places until every hot repository has its own, or none can be made, or a task waits
    /// for a worktree.
    pub async fn refill(&self) {
        while let Some((common, commit)) = self.pool().next_due() {
            let made = match self.open(&common).await {
                Ok(repository) => fill(&repository, &commit).await,
                Err(cause) => Err(Miss::RefillFailed(cause.to_string())),
            };
            if let Err(why) = &made {
                tracing::info!(repository = %common.display(), ?why, "the pool is not refilled");
            }
            self.pool().refilled(&common, made);
        }
    }

    /// Deletes what was discarded; returns when it is gone.
    pub async fn empty_trash(&self) {
        let Some(yard) = self.pool().shared.yard.clone() else { return };
        if let Err(cause) = read(move || yard.empty_trash()).await {
            tracing::warn!(%cause, "the trash is not emptied");
        }
    }
}

impl Pool {
    /// The repository whose turn it is, marked as being refilled.
    fn next_due(&self) -> Option<(PathBuf, CommitId)> {
        let places = self.shared.terms.as_ref()?.places;
        let mut state = self.state();
        if state.waiting > 0 {
            return None;
        }
        let (common, hot) =
            state.hot.iter_mut().find(|(_, hot)| hot.due && hot.ready.len() < places)?;
        hot.refilling = true;
        Some((common.clone(), hot.wanted.clone()))
    }

    fn refilled(&self, common: &Path, made: Result<Place, Miss>) {
        let mut state = self.state();
        let Some(hot) = state.hot.get_mut(common) else { return };
        hot.refilling = false;
        match made {
            Ok(place) => {
                hot.ready.push(place);
                hot.stuck = None;
            }
            Err(why) => {
                // the next task asks again
                hot.due = false;
                hot.stuck = Some(why);
            }
        }
    }
}

/// Makes one place.
async fn fill(repository: &Repository, commit: &CommitId) -> Result<Place, Miss> {
    let pool = repository.pool();
    let terms = pool.shared.terms.clone().ok_or(Miss::Off)?;
    let used = pool.state().bytes();
    let (common, wanted, within) =
        (repository.common_dir().to_owned(), commit.clone(), terms.clone());
    read(move || room(&within, &common, &wanted, used)).await.map_err(failed)??;
    let place = terms.yard.pool_of(repository.common_dir()).join(fresh_name());
    match grow(repository, &place, commit).await {
        Ok(place) => Ok(place),
        Err(cause) => {
            let why = failed(chain(&cause));
            pool.take_down(repository, place).await;
            Err(why)
        }
    }
}

async fn grow(
    repository: &Repository,
    path: &Path,
    commit: &CommitId,
) -> Result<Place, WorktreeError> {
    let (common, folder) = (repository.common_dir().to_owned(), path.parent().unwrap_or(path));
    let (pool, name) = (folder.to_owned(), common.clone());
    blocking(move || {
        fs::create_dir_all(&pool)?;
        fs::write(pool.join(REPOSITORY), name.as_os_str().as_encoded_bytes())?;
        fault::point("worktree.refill.noted")
    })
    .await
    .map_err(disk("make the pool's folder", folder))?;
    let record = enter(repository, path, commit, Hold::Filling).await?;
    point("worktree.refill.added", path)?;
    write_files(repository, path, commit, None, None).await?;
    point("worktree.refill.filled", path)?;
    tokio::time::sleep(SETTLE).await;
    let (place, held, wanted) = (path.to_owned(), record.clone(), commit.clone());
    let settled = read(move || settle(&common, &place, &held, &wanted)).await.and_then(|done| done);
    let (stamp, bytes) =
        settled.map_err(|source| WorktreeError::Unreadable { path: path.to_owned(), source })?;
    record.lock(&Hold::Ready(stamp.clone())).map_err(disk("offer", path))?;
    point("worktree.refill.ready", path)?;
    Ok(Place { path: path.to_owned(), record, commit: commit.clone(), stamp, bytes })
}

/// Sees that the place is as git wrote it, and says so by the time of its index.
fn settle(
    common: &Path,
    path: &Path,
    record: &Record,
    commit: &CommitId,
) -> Result<(String, u64), git2::Error> {
    let broken = |cause: &dyn std::error::Error| git2::Error::from_str(&cause.to_string());
    #[expect(clippy::disallowed_methods, reason = "a file's time is the system's, as git sets it")]
    let now = SystemTime::now();
    fs::File::options()
        .append(true)
        .open(record.index())
        .and_then(|index| index.set_modified(now))
        .map_err(|cause| broken(&cause))?;
    let looked = look(path, record, commit);
    let found = looked.map_err(|cause| git2::Error::from_str(&cause.to_string()))?;
    let Some(found) = found else {
        return Err(git2::Error::from_str("what git wrote there is not what its index says"));
    };
    Ok((fingerprint(common, path, record, found.bytes)?, found.bytes))
}

/// What must be the same when a place is claimed as it was when it was made: its files, its index,
/// and what decides which bytes a checkout writes. Its last word is the size of the place in bytes.
pub(super) fn fingerprint(
    common: &Path,
    path: &Path,
    record: &Record,
    bytes: u64,
) -> Result<String, git2::Error> {
    let mut settings = Vec::new();
    let config = git2::Repository::open(common)?.config()?.snapshot()?;
    let mut entries = config.entries(None)?;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.name_bytes();
        if SETTINGS.iter().any(|section| name.starts_with(section.as_bytes())) {
            settings.extend([name, b"=", entry.value_bytes(), b"\n"].concat());
        }
    }
    for file in ["info/attributes", "info/sparse-checkout"] {
        settings.extend(fs::read(common.join(file)).unwrap_or_default());
    }
    if let Ok(file) = config.get_path("core.attributesFile") {
        settings.extend(fs::read(file).unwrap_or_default());
    }
    let index = Stamp::of(&record.index())
        .map_err(|cause| git2::Error::from_str(&format!("it has no index: {cause}")))?;
    let files = likeness(path, |path| path == Path::new(".git"))
        .map_err(|cause| git2::Error::from_str(&format!("its files cannot be read: {cause}")))?;
    Ok(format!("{} {} {files:016x} {bytes}", digest(&settings), index.text()))
}

/// Refuses when the files of the commit have no room within the budget or on the disk.
fn room(terms: &Terms, common: &Path, commit: &CommitId, used: u64) -> Result<(), Miss> {
    let bytes = tree_bytes(common, commit).map_err(failed)?;
    if used.saturating_add(bytes) > terms.budget {
        return Err(Miss::OverBudget);
    }
    let disk = nix::sys::statvfs::statvfs(terms.yard.root()).map_err(failed)?;
    let block = disk.fragment_size();
    let (free, whole) = (disk.blocks_available() * block, disk.blocks() * block);
    if free.saturating_sub(bytes) < FREE_LEAST.max(whole / FREE_SHARE) {
        return Err(Miss::DiskNearlyFull);
    }
    Ok(())
}

/// The bytes of all files of the commit, as they are stored. An error where there are more than
/// anybody has.
fn tree_bytes(common: &Path, commit: &CommitId) -> Result<u64, git2::Error> {
    let repository = git2::Repository::open(common)?;
    let odb = repository.odb()?;
    let (mut bytes, mut held) = (0, 0);
    let tree = repository.find_commit(commit.oid()?)?.tree()?;
    tree.walk(git2::TreeWalkMode::PreOrder, |_, entry| {
        if entry.kind() == Some(git2::ObjectType::Blob) {
            bytes += odb.read_header(entry.id()).map_or(0, |(size, _)| size as u64);
        }
        held += 1;
        if held < MAX_HELD { git2::TreeWalkResult::Ok } else { git2::TreeWalkResult::Abort }
    })?;
    Ok(bytes)
}

fn fresh_name() -> String {
    Uuid::new_v4().simple().to_string()
}

fn failed(cause: impl std::fmt::Display) -> Miss {
    Miss::RefillFailed(cause.to_string())
}
