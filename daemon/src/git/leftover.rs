//! What an attempt that was cut off left behind: told apart from work, and cleared away.
//!
//! Only a folder that git explains wholly is cleared: its `.git` file points into our repository
//! and each file is, as far as it was written, a file of the commit that was to be checked out.

use std::fs::{self, DirEntry};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::repo::read;
use super::worktree::{EMAIL, NAME, NewWorktree, WorktreeError};

/// Clears a former attempt at `new`. Returns a branch that it made and that is to be deleted.
pub(super) async fn clear(
    common: &Path,
    new: &NewWorktree,
) -> Result<Option<String>, WorktreeError> {
    let (place, new) = (common.to_owned(), new.clone());
    let at = common.to_owned();
    read(move || {
        let entries = admin_entries(&place, &new.path);
        let exists = fs::symlink_metadata(&new.path).is_ok();
        if exists || !entries.is_empty() {
            explain(&place, &new, &entries)?;
            take_down(&place, &new.path)
                .map_err(|source| WorktreeError::Uncleared { path: new.path.clone(), source })?;
        }
        Ok(stray_branch(&place, &new))
    })
    .await
    .unwrap_or_else(|source| Err(WorktreeError::Unreadable { path: at, source }))
}

/// Removes the folder and what the repository records of it. Both may be half made or gone.
///
/// A folder that is not empty and that the repository does not know is left alone.
pub(super) fn take_down(common: &Path, path: &Path) -> io::Result<()> {
    let entries = admin_entries(common, path);
    if entries.is_empty() && fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_some()) {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the folder is not ours"));
    }
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    entries.iter().try_for_each(fs::remove_dir_all)
}

/// The folders in `worktrees/` of the repository that stand for `path`.
fn admin_entries(common: &Path, path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(common.join("worktrees")) else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|entry| stands_for(entry, path) || points_at(&path.join(".git"), entry))
        .collect()
}

fn stands_for(entry: &Path, path: &Path) -> bool {
    fs::read_to_string(entry.join("gitdir")).is_ok_and(|recorded| {
        let recorded = Path::new(recorded.trim_end());
        recorded.parent().is_some_and(|folder| same(folder, path))
    })
}

fn points_at(file: &Path, entry: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| {
        text.strip_prefix("gitdir: ").is_some_and(|to| same(Path::new(to.trim_end()), entry))
    })
}

/// Whether two paths name one place, also when the last part of them is gone.
fn same(one: &Path, two: &Path) -> bool {
    let settled = |path: &Path| {
        path.canonicalize()
            .ok()
            .or_else(|| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)))
    };
    one == two || settled(one).is_some_and(|one| Some(one) == settled(two))
}

/// Fails unless all that stands at the path is an attempt at this very commit.
fn explain(common: &Path, new: &NewWorktree, entries: &[PathBuf]) -> Result<(), WorktreeError> {
    let occupied =
        |found: &Path| WorktreeError::Occupied { path: new.path.clone(), found: found.to_owned() };
    let unreadable = |source| WorktreeError::Unreadable { path: common.to_owned(), source };
    let repository = git2::Repository::open(common).map_err(unreadable)?;
    if let Some(entry) = entries.iter().find(|entry| !is_at_rest(&repository, entry, new)) {
        return Err(occupied(entry));
    }
    match fs::symlink_metadata(&new.path) {
        Err(_) => return Ok(()),
        Ok(found) if !found.is_dir() => return Err(occupied(&new.path)),
        Ok(_) => {}
    }
    let tree =
        new.commit.oid().and_then(|oid| repository.find_commit(oid)?.tree()).map_err(unreadable)?;
    let mut folders = vec![(new.path.clone(), tree)];
    while let Some((folder, tree)) = folders.pop() {
        let Ok(children) = fs::read_dir(&folder) else { return Err(occupied(&folder)) };
        for child in children {
            let Ok(child) = child else { return Err(occupied(&folder)) };
            let path = child.path();
            if folder == new.path && child.file_name() == ".git" {
                if entries.iter().any(|entry| points_at(&path, entry)) {
                    continue;
                }
                return Err(occupied(&path));
            }
            match explained(&repository, &tree, &child) {
                Explained::File => {}
                Explained::Folder(tree) => folders.push((path, tree)),
                Explained::Not => return Err(occupied(&path)),
            }
        }
    }
    Ok(())
}

/// Whether the entry's HEAD names nothing, our commit, or a branch that stands there.
fn is_at_rest(repository: &git2::Repository, entry: &Path, new: &NewWorktree) -> bool {
    let Ok(head) = fs::read_to_string(entry.join("HEAD")) else { return true };
    let head = head.trim_end();
    match head.strip_prefix("ref: ") {
        Some(name) => {
            repository.refname_to_id(name).map_or(true, |at| at.to_string() == new.commit.as_str())
        }
        None => head == new.commit.as_str() || head.bytes().all(|byte| byte == b'0'),
    }
}

enum Explained<'repository> {
    File,
    Folder(git2::Tree<'repository>),
    Not,
}

fn explained<'repository>(
    repository: &'repository git2::Repository,
    tree: &git2::Tree<'_>,
    child: &DirEntry,
) -> Explained<'repository> {
    let (Some(known), Ok(kind)) =
        (tree.get_path(child.file_name().as_ref()).ok(), child.file_type())
    else {
        return Explained::Not;
    };
    let object = known.to_object(repository).ok();
    match (known.kind(), object) {
        (Some(git2::ObjectType::Tree), Some(object)) if kind.is_dir() => {
            object.into_tree().map_or(Explained::Not, Explained::Folder)
        }
        // a submodule's place is an empty folder
        (Some(git2::ObjectType::Commit), _) if kind.is_dir() => {
            match fs::read_dir(child.path()).map(|mut inside| inside.next().is_none()) {
                Ok(true) => Explained::File,
                _ => Explained::Not,
            }
        }
        (Some(git2::ObjectType::Blob), Some(object)) if !kind.is_dir() => {
            let written = if kind.is_symlink() {
                fs::read_link(child.path()).map(|to| to.into_os_string().into_encoded_bytes())
            } else {
                contents(&child.path())
            };
            match (written, object.as_blob()) {
                (Ok(written), Some(blob)) if begins(blob.content(), &written) => Explained::File,
                _ => Explained::Not,
            }
        }
        _ => Explained::Not,
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether `written` is `whole` or was cut off on the way to it, line ends aside.
fn begins(whole: &[u8], written: &[u8]) -> bool {
    if whole.starts_with(written) {
        return true;
    }
    let plain =
        |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().filter(|byte| *byte != b'\r').collect() };
    plain(whole).starts_with(&plain(written))
}

/// The wanted branch, when a former attempt made it and nothing came of it.
fn stray_branch(common: &Path, new: &NewWorktree) -> Option<String> {
    let wanted = new.branch.as_ref()?.wanted();
    let commit = new.commit.oid().ok()?;
    let is_stray = is_untouched(common, &wanted, commit) && !is_checked_out(common, &wanted);
    is_stray.then_some(wanted)
}

/// Whether we made the branch at this commit and nobody moved it: its reflog has our signature
/// alone.
pub(super) fn is_untouched(common: &Path, branch: &str, commit: git2::Oid) -> bool {
    let name = format!("refs/heads/{branch}");
    let Ok(repository) = git2::Repository::open(common) else { return false };
    if !repository.refname_to_id(&name).is_ok_and(|tip| tip == commit) {
        return false;
    }
    let Ok(log) = repository.reflog(&name) else { return false };
    log.len() == 1
        && log.get(0).is_some_and(|only| {
            let by = only.committer();
            let ours = by.name_bytes() == NAME.as_bytes() && by.email_bytes() == EMAIL.as_bytes();
            ours && only.id_old().is_zero()
        })
}

/// Whether the main checkout or a worktree has the branch checked out.
pub(super) fn is_checked_out(common: &Path, branch: &str) -> bool {
    let wanted = format!("ref: refs/heads/{branch}");
    let linked = fs::read_dir(common.join("worktrees")).into_iter().flatten().flatten();
    let heads = linked.map(|entry| entry.path()).chain([common.to_owned()]);
    heads
        .filter_map(|folder| fs::read_to_string(folder.join("HEAD")).ok())
        .any(|head| head.trim_end() == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cut_off_is_explained_and_another_is_not() {
        assert!(begins(b"one\ntwo\n", b"one\r\ntw"));
        assert!(begins(b"one", b""));
        assert!(!begins(b"one", b"one more"));
        assert!(!begins(b"one", b"two"));
    }
}
