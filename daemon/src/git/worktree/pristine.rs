//! Whether a worktree is as git wrote it, told from the index by looking at every file once.
//!
//! This answers yes or "not sure", never no: a changed time, a file that nobody tracks or an index
//! of a newer kind leave the question to `git status`. It costs a fifth of that at most, because it
//! reads no file but the few that changed when the index did.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::ops::AddAssign;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::repo::CommitId;
use super::Record;
use super::index;
use super::walk::{Seen, walk};

/// Kernels tick at 100 Hz at the slowest: two writes this close may bear the same time.
const TICK_NS: i128 = 20_000_000;

pub(super) const LINK: u32 = 0o120_000;
pub(super) const SUBMODULE: u32 = 0o160_000;
pub(super) const EXECUTABLE: u32 = 0o100_755;
pub(super) const SKIP_WORKTREE: u16 = 1 << 14;
pub(super) const INTENT_TO_ADD: u16 = 1 << 13;

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::git) struct Pristine {
    /// The bytes of its files.
    pub(in crate::git) bytes: u64,
}

/// Which file the index is and when it was written, to tell whether anybody wrote it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::git) struct Stamp {
    inode: u64,
    size: u64,
    changed_ns: i128,
}

impl Stamp {
    /// The stamp of the index file as it is now.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(in crate::git) fn of(index: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(index)?;
        let changed_ns = nanoseconds(found.ctime(), found.ctime_nsec());
        Ok(Self { inode: found.ino(), size: found.size(), changed_ns })
    }

    /// The stamp as text without spaces; equal stamps have equal texts.
    pub(in crate::git) fn text(self) -> String {
        format!("{}-{}-{}", self.inode, self.size, self.changed_ns)
    }
}

struct Known {
    entry: git2::IndexEntry,
    racy: bool,
}

/// The files as the index knows them, read by several threads.
struct Tracked {
    files: HashMap<PathBuf, Known>,
    folders: HashSet<PathBuf>,
    submodules: HashSet<PathBuf>,
}

/// Looks at the worktree at `path`. None when it is not surely as git wrote it; only files that
/// are tracked may be there, ignored ones neither, and the index must hold the commit's very tree.
///
/// # Errors
/// The folder or its index cannot be read, or the index is of a kind that libgit2 does not know.
pub(in crate::git) fn look(
    path: &Path,
    record: &Record,
    commit: &CommitId,
) -> Result<Option<Pristine>, Box<dyn std::error::Error + Send + Sync>> {
    let mut index = git2::Index::open(&record.index())?;
    if index.has_conflicts() || !holds(&mut index, path, commit)? {
        return Ok(None);
    }
    let written = fs::symlink_metadata(record.index())?;
    let written = nanoseconds(written.mtime(), written.mtime_nsec());
    let Some(tracked) = Tracked::of(&index, written) else { return Ok(None) };
    Ok(tracked.meets(path)?)
}

/// Whether the index holds the tree of the commit. What libgit2 has to compute for it stays in
/// memory.
fn holds(index: &mut git2::Index, path: &Path, commit: &CommitId) -> Result<bool, git2::Error> {
    let repository = git2::Repository::open(path)?;
    repository.odb()?.add_new_mempack_backend(i32::MAX)?;
    let wanted = repository.find_commit(commit.oid()?)?.tree_id();
    Ok(index.write_tree_to(&repository)? == wanted)
}

impl Tracked {
    /// None when an entry is one that only git understands.
    fn of(index: &git2::Index, written: i128) -> Option<Self> {
        let mut files = HashMap::with_capacity(index.len());
        let (mut folders, mut submodules) = (HashSet::new(), HashSet::new());
        folders.insert(PathBuf::new());
        for entry in index.iter() {
            let path = Path::new(std::ffi::OsStr::from_bytes(&entry.path)).to_owned();
            if entry.flags_extended & INTENT_TO_ADD != 0 {
                return None;
            }
            if entry.flags_extended & SKIP_WORKTREE != 0 {
                continue;
            }
            for folder in path.ancestors().skip(1) {
                if !folders.insert(folder.to_owned()) {
                    break;
                }
            }
            if entry.mode == SUBMODULE {
                submodules.insert(path);
                continue;
            }
            let modified =
                nanoseconds(entry.mtime.seconds().into(), entry.mtime.nanoseconds().into());
            let racy = modified + TICK_NS >= written;
            files.insert(path, Known { entry, racy });
        }
        Some(Self { files, folders, submodules })
    }

    fn meets(&self, root: &Path) -> io::Result<Option<Pristine>> {
        let all = walk(|folder| survey(root, folder, self))?;
        let whole = all.filter(|all| all.met == self.files.len() + self.submodules.len());
        Ok(whole.map(|all| Pristine { bytes: all.bytes }))
    }

    /// The bytes of a file that is as the index says.
    fn met(&self, root: &Path, relative: &Path, found: &Metadata) -> Option<u64> {
        let known = self.files.get(relative)?;
        let entry = &known.entry;
        (is_of(entry.mode, &index::Known::entered(entry), found)
            && (!known.racy || is_content(&root.join(relative), entry)))
        .then(|| found.size())
    }
}

/// Whether this is the file that the entry was written for, unchanged since.
pub(super) fn is_of(mode: u32, known: &index::Known, found: &Metadata) -> bool {
    let kind = match mode {
        LINK => found.is_symlink(),
        mode => found.is_file() && (mode == EXECUTABLE) == (found.mode() & 0o100 != 0),
    };
    kind && known.is_of(found)
}

/// Whether the file's bytes are those of the entry. A file that a filter changed is none.
pub(in crate::git) fn is_content(path: &Path, entry: &git2::IndexEntry) -> bool {
    use git2::{ObjectType, Oid};
    let id = match entry.mode {
        LINK => fs::read_link(path)
            .ok()
            .and_then(|to| Oid::hash_object(ObjectType::Blob, to.as_os_str().as_bytes()).ok()),
        _ => Oid::hash_file(ObjectType::Blob, path).ok(),
    };
    id == Some(entry.id)
}

fn nanoseconds(seconds: i64, rest: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

/// What was found as the index says.
#[derive(Default)]
struct Tally {
    met: usize,
    bytes: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.met += other.met;
        self.bytes += other.bytes;
    }
}

/// Looks at one folder; none when something in it is odd.
fn survey(root: &Path, folder: &Path, tracked: &Tracked) -> io::Result<Seen<Tally>> {
    let (mut folders, mut tally) = (Vec::new(), Tally::default());
    for child in fs::read_dir(root.join(folder))? {
        let child = child?;
        let relative = folder.join(child.file_name());
        if relative == Path::new(".git") {
            continue;
        }
        if child.file_type()?.is_dir() {
            if tracked.submodules.contains(&relative) && is_empty(&child) {
                tally.met += 1;
            } else if tracked.folders.contains(&relative) {
                folders.push(relative);
            } else {
                return Ok(None);
            }
            continue;
        }
        let Some(bytes) = tracked.met(root, &relative, &child.metadata()?) else {
            return Ok(None);
        };
        tally += Tally { met: 1, bytes };
    }
    Ok(Some((folders, tally)))
}

fn is_empty(child: &DirEntry) -> bool {
    fs::read_dir(child.path()).is_ok_and(|mut inside| inside.next().is_none())
}
