//! Files of a worktree that git was told not to look at. What an agent hid from git, on purpose or
//! by the user's settings, is work all the same: it is shown again before work is looked for.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::command::{CommandError, Git};
use super::repo::read;
use super::worktree::{Record, is_content};

/// How an entry is hidden.
enum Hidden {
    /// It is taken for unchanged.
    Valid,
    /// It is left out of the work tree.
    Skipped,
}

/// Whether git was told to take the file for unchanged, or to leave it out of the work tree.
pub(super) fn is_hidden(entry: &git2::IndexEntry) -> bool {
    how(entry).is_some()
}

fn how(entry: &git2::IndexEntry) -> Option<Hidden> {
    if entry.flags & git2::IndexEntryFlag::VALID.bits() != 0 {
        Some(Hidden::Valid)
    } else if entry.flags_extended & git2::IndexEntryExtendedFlag::SKIP_WORKTREE.bits() != 0 {
        Some(Hidden::Skipped)
    } else {
        None
    }
}

/// What keeps git or libgit2 from telling of all that lies in a worktree.
#[derive(Debug, Default)]
struct Seen {
    /// Parts of the index lie in a file that libgit2 does not read.
    is_split: bool,
    /// Hidden files that are there, each name with a NUL.
    valid: Vec<u8>,
    skipped: Vec<u8>,
}

/// Whether names that differ in case alone are two files to the disk at `root`, a work tree. A
/// repository that came from a disk where they are one still says so (`core.ignoreCase`), and git
/// would take a new file for an old one.
pub(super) fn tells_case(root: &Path) -> bool {
    let is_there = |name| fs::symlink_metadata(root.join(name)).is_ok();
    is_there(".git") && !is_there(".GIT")
}

/// Lets git look at every file that lies in the worktree of ours at `path`, and puts an index in
/// parts into one file. Only the worktree's own index changes, and mostly nothing does.
///
/// # Errors
/// Git refused, as it does when the index is locked or broken.
pub(super) async fn reveal(path: &Path) -> Result<(), CommandError> {
    let look = || {
        let place = path.to_owned();
        // what cannot be read is told of by whoever needs it
        async { read(move || see(&place)).await.unwrap_or_default() }
    };
    let mut seen = look().await;
    if seen.is_split {
        Git::in_worktree(path).args(["update-index", "--no-split-index"]).run().await?;
        seen = look().await;
    }
    for (names, flag) in
        [(seen.valid, "--no-assume-unchanged"), (seen.skipped, "--no-skip-worktree")]
    {
        if !names.is_empty() {
            let git = Git::in_worktree(path).args(["update-index", flag, "-z", "--stdin"]);
            git.stdin(names).run().await?;
        }
    }
    Ok(())
}

/// The hidden files of a worktree of ours that are not as its index says, ten at the most. Only
/// looks. Blocking.
pub(super) fn unseen(path: &Path) -> Vec<PathBuf> {
    let index = Record::of(path).and_then(|record| git2::Index::open(&record.index()).ok());
    let Some(index) = index else { return Vec::new() };
    let changed = |entry: git2::IndexEntry| {
        let name = Path::new(OsStr::from_bytes(&entry.path));
        let place = path.join(name);
        let is_there = is_hidden(&entry) && fs::symlink_metadata(&place).is_ok();
        (is_there && !is_content(&place, &entry)).then(|| name.to_owned())
    };
    index.iter().filter_map(changed).take(MAX_NAMED).collect()
}

/// How many files are named: they are enough to know that there is work.
const MAX_NAMED: usize = 10;

fn see(path: &Path) -> Seen {
    let mut seen = Seen::default();
    // what a link leads to may be somebody else's
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let Some(record) = Record::of(path).filter(|_| is_folder) else { return seen };
    let Ok(index) = git2::Index::open(&record.index()) else {
        seen.is_split = is_split(&record.index());
        return seen;
    };
    for entry in index.iter() {
        let names = match how(&entry) {
            Some(Hidden::Valid) => &mut seen.valid,
            Some(Hidden::Skipped) => &mut seen.skipped,
            None => continue,
        };
        if fs::symlink_metadata(path.join(OsStr::from_bytes(&entry.path))).is_ok() {
            names.extend_from_slice(&entry.path);
            names.push(0);
        }
    }
    seen
}

/// Whether the index names another file that holds the rest of it: its extension `link`.
fn is_split(index: &Path) -> bool {
    fs::read(index).is_ok_and(|bytes| bytes.windows(4).any(|part| part == b"link"))
}
