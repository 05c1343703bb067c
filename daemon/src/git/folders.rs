//! The folders of a worktree in which git would see a change: those that are not ignored.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders at and below `below` (from the worktree's top; empty for all of it) that are not
/// ignored or hold files that git knows, `.git` and repositories inside left out. Stops when there
/// are more than `most`, and answers one more than that then. An ignored tree costs one look,
/// whatever its size. Blocking.
///
/// # Errors
/// When `root` is no worktree that can be read. A folder that cannot is passed over.
pub fn folders(root: &Path, below: &Path, most: usize) -> Result<Vec<PathBuf>, git2::Error> {
    let repository = git2::Repository::open(root)?;
    let known = known_folders(&repository)?;
    let mut found = Vec::new();
    let mut open = vec![below.to_owned()];
    while let Some(folder) = open.pop() {
        let full = root.join(&folder);
        let inner = !folder.as_os_str().is_empty();
        let is_folder = fs::symlink_metadata(&full).is_ok_and(|found| found.is_dir());
        if !is_folder || inner && full.join(".git").exists() {
            continue;
        }
        if inner && !known.contains(&folder) && repository.is_path_ignored(&folder)? {
            continue;
        }
        found.push(full.clone());
        if found.len() > most {
            return Ok(found);
        }
        let entries = fs::read_dir(&full).into_iter().flatten().flatten();
        let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(
            inside
                .map(|entry| entry.file_name())
                .filter(|name| name != ".git")
                .map(|name| folder.join(name)),
        );
    }
    Ok(found)
}

/// The folders of files that the index holds.
fn known_folders(repository: &git2::Repository) -> Result<BTreeSet<PathBuf>, git2::Error> {
    use std::os::unix::ffi::OsStrExt;
    let mut all = BTreeSet::new();
    for entry in repository.index()?.iter() {
        let file = Path::new(std::ffi::OsStr::from_bytes(&entry.path));
        for folder in file.ancestors().skip(1) {
            if !all.insert(folder.to_owned()) {
                break;
            }
        }
    }
    Ok(all)
}
