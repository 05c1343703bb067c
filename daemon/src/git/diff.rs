//! What a task changed: committed, uncommitted and untracked, read without touching the index.

use imara_diff::{Algorithm, InternedInput};
use std::path::{Path, PathBuf};
use std::thread;

use super::graft::Entry;
use super::joined::Joined;
use super::repo::{CommitId, Repository, read};
use super::touched::{Change, below, entries, is_folder, walk};
use super::worktree::open_own;

/// A larger file is shown as binary: nobody reads such a patch, and it would fill memory.
const MAX_TEXT: i64 = 4 * 1024 * 1024;

/// Fewer changes are compared on one thread: another one, which opens the repository anew, begins
/// no sooner than they are done.
const MANY: usize = 16;

/// What is compared with the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// A worktree of the repository as it lies there, with all that is in no commit yet.
    Worktree(PathBuf),
    /// A commit.
    Commit(CommitId),
}

/// How a file changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new; untracked files count.
    Added,
    /// Its content or mode changed.
    Modified,
    /// It is gone.
    Deleted,
    /// It has another name.
    Renamed,
    /// It turned from file to link or the like.
    TypeChanged,
    /// It has an unresolved conflict.
    Conflicted,
}

impl ChangeKind {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Renamed => "renamed",
            Self::TypeChanged => "type_changed",
            Self::Conflicted => "conflicted",
        }
    }
}

/// One changed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedFile {
    /// The file; of a rename its new name. A name that ends in `/` is a repository inside.
    pub path: PathBuf,
    /// Of a rename its old name.
    pub renamed_from: Option<PathBuf>,
    /// How it changed.
    pub status: ChangeKind,
    /// Lines added; 0 for a binary file.
    pub additions: usize,
    /// Lines removed; 0 for a binary file.
    pub deletions: usize,
}

/// How much changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffStat {
    /// Files.
    pub files: usize,
    /// Lines added.
    pub insertions: usize,
    /// Lines removed.
    pub deletions: usize,
}

impl DiffStat {
    /// The sum over the files.
    #[must_use]
    pub fn of(files: &[ChangedFile]) -> Self {
        files.iter().fold(Self::default(), |sum, file| Self {
            files: sum.files + 1,
            insertions: sum.insertions + file.additions,
            deletions: sum.deletions + file.deletions,
        })
    }
}

/// A difference, its patch cut to a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// All changed files, also those whose patch was cut off.
    pub files: Vec<ChangedFile>,
    /// The unified patch. Bytes that are no UTF-8 are replaced.
    pub patch: String,
    /// Whether the patch was cut off; it then ends at the end of a line.
    pub truncated: bool,
}

/// Why there is no difference to show.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The folder is no worktree of this repository.
    #[error("{0} is no worktree of this repository: it may have been removed")]
    NotOurs(PathBuf),
    /// A commit is missing, or git's data cannot be read.
    #[error("the difference to {base} could not be read in {repository}: check with `git fsck`")]
    Unreadable {
        /// The repository.
        repository: PathBuf,
        /// With what it was compared.
        base: CommitId,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
}

impl Repository {
    /// What `side` changed against `base`, with at most `byte_cap` bytes of patch.
    ///
    /// # Errors
    /// [`DiffError`] when the worktree or a commit is unknown.
    pub async fn diff(
        &self,
        base: &CommitId,
        side: Side,
        byte_cap: usize,
    ) -> Result<Diff, DiffError> {
        let unreadable = |source| DiffError::Unreadable {
            repository: self.common_dir().to_owned(),
            base: base.clone(),
            source,
        };
        let look = async |joined: Option<Joined>| {
            let (common, from, side) = (self.common_dir().to_owned(), base.clone(), side.clone());
            let told = read(move || {
                let repository = match &side {
                    Side::Worktree(path) => match open_own(&common, path) {
                        Some(repository) => repository,
                        None => return Err(Missed::NotOurs(path.clone())),
                    },
                    Side::Commit(_) => git2::Repository::open(&common).map_err(Missed::Git)?,
                };
                let lent = joined.map_or(Ok(()), |joined| joined.lend(&repository));
                lent.and_then(|()| compare(&repository, &from, &side, byte_cap))
                    .map_err(Missed::Git)
            });
            told.await.map_err(Missed::Git).and_then(|told| told)
        };
        let mut told = look(None).await;
        if let (Err(Missed::Git(_)), Side::Worktree(path)) = (&told, &side)
            && let Some(joined) = Joined::of(path).await
        {
            told = look(Some(joined)).await;
        }
        told.map_err(|missed| match missed {
            Missed::NotOurs(path) => DiffError::NotOurs(path),
            Missed::Git(source) => unreadable(source),
        })
    }

    /// How much `side` changed against `base`.
    ///
    /// # Errors
    /// As [`Repository::diff`].
    pub async fn diff_stat(&self, base: &CommitId, side: Side) -> Result<DiffStat, DiffError> {
        Ok(DiffStat::of(&self.diff(base, side, 0).await?.files))
    }
}

enum Missed {
    NotOurs(PathBuf),
    Git(git2::Error),
}

/// The files that differ between two trees.
pub(super) fn compare_trees(
    repository: &git2::Repository,
    before: &git2::Tree<'_>,
    after: &git2::Tree<'_>,
) -> Result<Vec<ChangedFile>, git2::Error> {
    if let Some(files) = compare_plainly(repository, before, after)? {
        return Ok(files);
    }
    let diff = repository.diff_tree_to_tree(Some(before), Some(after), Some(&mut options()))?;
    Ok(collect(diff, 0)?.files)
}

/// The same, much quicker, where no file can have been renamed or have become something else; none
/// where one can. Where much differs, half of it is read on a thread of its own, and so in half the
/// time.
fn compare_plainly(
    repository: &git2::Repository,
    before: &git2::Tree<'_>,
    after: &git2::Tree<'_>,
) -> Result<Option<Vec<ChangedFile>>, git2::Error> {
    let mut ahead = spread(repository, before, after)?;
    if ahead.len() < MANY {
        return Ok(count_below(repository, ahead)?.and_then(Plain::files));
    }
    let rest = ahead.split_off(ahead.len() / 2);
    let place = repository.commondir();
    let (one, two) = thread::scope(|scope| {
        let work = || count_below(&git2::Repository::open(place)?, rest);
        let refused =
            |error| git2::Error::from_str(&format!("no thread to compare files: {error}"));
        let other = thread::Builder::new().spawn_scoped(scope, work).map_err(refused)?;
        let one = count_below(repository, ahead)?;
        let broken = |_| git2::Error::from_str("the thread that compares files broke off");
        Ok::<_, git2::Error>((one, other.join().map_err(broken)??))
    })?;
    Ok(one.zip(two).and_then(|(one, two)| one.and(two).files()))
}

/// What differs between two trees, in no order: files, and folders that nobody has read yet, read
/// from the top until there is enough for two.
fn spread(
    repository: &git2::Repository,
    before: &git2::Tree<'_>,
    after: &git2::Tree<'_>,
) -> Result<Vec<Change>, git2::Error> {
    let mut ahead = below(Path::new(""), Some(before), Some(after));
    while ahead.len() < MANY && ahead.iter().any(is_folder) {
        let (folders, mut next): (Vec<_>, Vec<_>) = ahead.into_iter().partition(is_folder);
        for change in folders {
            next.append(&mut entries(repository, &change)?);
        }
        ahead = next;
    }
    Ok(ahead)
}

/// Counted changes of plain files, and whether some came or went.
struct Plain {
    counted: Vec<ChangedFile>,
    came: bool,
    went: bool,
}

impl Plain {
    fn and(mut self, mut other: Self) -> Self {
        self.counted.append(&mut other.counted);
        Self { counted: self.counted, came: self.came || other.came, went: self.went || other.went }
    }

    /// The files by path; none where one that came may be one that went.
    fn files(mut self) -> Option<Vec<ChangedFile>> {
        self.counted.sort_unstable_by(|one, two| one.path.cmp(&two.path));
        (!(self.came && self.went)).then_some(self.counted)
    }
}

/// Counts the lines of all changes, those below folders included; none where one of them is no
/// plain file or may be a rename.
fn count_below(
    repository: &git2::Repository,
    ahead: Vec<Change>,
) -> Result<Option<Plain>, git2::Error> {
    let mut changes = Vec::new();
    for change in ahead {
        walk(repository, change, &mut changes)?;
    }
    let plain = |(_, one, two): &Change| one.iter().chain(two).all(is_file);
    let came = changes.iter().any(|(_, one, _)| one.is_none());
    let went = changes.iter().any(|(_, _, two)| two.is_none());
    if (came && went) || !changes.iter().all(plain) {
        return Ok(None);
    }
    let counted = changes.into_iter().map(|change| count(repository, change));
    Ok(Some(Plain { counted: counted.collect::<Result<_, _>>()?, came, went }))
}

/// Whether it is a plain file, no link, folder or submodule.
pub(super) fn is_file(entry: &Entry) -> bool {
    entry.mode & 0o170_000 == 0o100_000
}

/// Counts the lines of one change between plain files. No attributes are asked for, which would
/// read the index: what holds a NUL is binary.
pub(super) fn count(
    repository: &git2::Repository,
    (path, before, after): Change,
) -> Result<ChangedFile, git2::Error> {
    let status = match (&before, &after) {
        (None, _) => ChangeKind::Added,
        (_, None) => ChangeKind::Deleted,
        _ => ChangeKind::Modified,
    };
    let mut file = ChangedFile { path, renamed_from: None, status, additions: 0, deletions: 0 };
    let blob = |entry: Option<Entry>| entry.map(|one| repository.find_blob(one.id)).transpose();
    let (before, after) = match (blob(before), blob(after)) {
        (Ok(before), Ok(after)) => (before, after),
        // a partial clone lacks what nobody asked for: its lines are not counted
        (Err(cause), _) | (_, Err(cause)) if cause.code() == git2::ErrorCode::NotFound => {
            return Ok(file);
        }
        (Err(cause), _) | (_, Err(cause)) => return Err(cause),
    };
    let is_text = |blob: &git2::Blob<'_>| {
        i64::try_from(blob.size()).is_ok_and(|size| size <= MAX_TEXT) && !blob.is_binary()
    };
    if before.iter().chain(&after).all(is_text) {
        let lines =
            |blob: &git2::Blob<'_>| blob.content().split_inclusive(|byte| *byte == b'\n').count();
        match (&before, &after) {
            (Some(old), Some(new)) => {
                // libgit2 hashes both first, and makes a patch to count it
                let lines = InternedInput::new(old.content(), new.content());
                let diff = imara_diff::Diff::compute(Algorithm::Myers, &lines);
                file.additions = usize::try_from(diff.count_additions()).unwrap_or(usize::MAX);
                file.deletions = usize::try_from(diff.count_removals()).unwrap_or(usize::MAX);
            }
            (old, new) => {
                file.additions = new.as_ref().map_or(0, lines);
                file.deletions = old.as_ref().map_or(0, lines);
            }
        }
    }
    Ok(file)
}

fn compare(
    repository: &git2::Repository,
    base: &CommitId,
    side: &Side,
    byte_cap: usize,
) -> Result<Diff, git2::Error> {
    let before = repository.find_commit(base.oid()?)?.tree()?;
    let mut options = options();
    let diff = match side {
        Side::Commit(head) => {
            let after = repository.find_commit(head.oid()?)?.tree()?;
            repository.diff_tree_to_tree(Some(&before), Some(&after), Some(&mut options))?
        }
        Side::Worktree(_) => {
            repository.diff_tree_to_workdir_with_index(Some(&before), Some(&mut options))?
        }
    };
    collect(diff, byte_cap)
}

fn options() -> git2::DiffOptions {
    let mut options = git2::DiffOptions::new();
    options
        .include_untracked(true)
        .recurse_untracked_dirs(true)
        .show_untracked_content(true)
        .include_typechange(true)
        .update_index(false)
        .indent_heuristic(true)
        .max_size(MAX_TEXT);
    options
}

fn collect(mut diff: git2::Diff<'_>, byte_cap: usize) -> Result<Diff, git2::Error> {
    diff.find_similar(Some(git2::DiffFindOptions::new().renames(true).for_untracked(true)))?;
    let mut files = Vec::new();
    let mut patch = Vec::new();
    let mut truncated = false;
    for index in 0..diff.deltas().len() {
        let one = git2::Patch::from_diff(&diff, index)?;
        let Some(delta) = diff.get_delta(index) else { continue };
        let Some(status) = kind(delta.status()) else { continue };
        let path = delta.new_file().path().or_else(|| delta.old_file().path());
        let (mut additions, mut deletions) = (0, 0);
        if let Some(mut one) = one {
            (_, additions, deletions) = one.line_stats()?;
            if !truncated {
                patch.extend_from_slice(&one.to_buf()?);
                truncated = patch.len() > byte_cap;
                patch.truncate(byte_cap);
            }
        }
        let path = path.unwrap_or(Path::new("")).to_owned();
        let renamed = status == ChangeKind::Renamed;
        let renamed_from = delta.old_file().path().filter(|_| renamed).map(Path::to_owned);
        files.push(ChangedFile { path, renamed_from, status, additions, deletions });
    }
    if truncated {
        let whole = patch.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        patch.truncate(whole);
    }
    let mut patch = String::from_utf8_lossy(&patch).into_owned();
    // a replaced byte grows to three
    if patch.len() > byte_cap {
        truncated = true;
        let end = (0..=byte_cap).rev().find(|end| patch.is_char_boundary(*end)).unwrap_or(0);
        patch.truncate(patch[..end].rfind('\n').map_or(0, |line| line + 1));
    }
    Ok(Diff { files, patch, truncated })
}

fn kind(delta: git2::Delta) -> Option<ChangeKind> {
    use git2::Delta;
    match delta {
        Delta::Added | Delta::Untracked | Delta::Copied => Some(ChangeKind::Added),
        Delta::Modified => Some(ChangeKind::Modified),
        Delta::Deleted => Some(ChangeKind::Deleted),
        Delta::Renamed => Some(ChangeKind::Renamed),
        Delta::Typechange => Some(ChangeKind::TypeChanged),
        Delta::Conflicted | Delta::Unreadable => Some(ChangeKind::Conflicted),
        Delta::Unmodified | Delta::Ignored => None,
    }
}
