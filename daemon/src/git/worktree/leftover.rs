//! What an attempt that was cut off left behind: told apart from work, and cleared away.
//!
//! Only a folder that git explains wholly is cleared: its `.git` file points into our repository
//! and each file is, as far as it was written, a file of the commit that was to be checked out.

use std::fs::{self, DirEntry};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::command::CommandError;
use super::super::repo::{CommitId, read};
use super::yard::{Note, Yard};
use super::{EMAIL, NAME, NewWorktree, Record, WorktreeError, delete_branch};

/// Clears away the folder of a former attempt at `new` and its record. Answers the branches that it may
/// have made. Blocking.
pub(super) fn clear(common: &Path, new: &NewWorktree) -> Result<Vec<String>, WorktreeError> {
    let records = records(common, &new.path);
    let yard = Yard::around(&new.path);
    let noted = yard.noted(&new.path).and_then(|note: Note| note.branch);
    let mut branches: Vec<String> =
        records.iter().filter_map(Record::branch).chain(noted).collect();
    branches.extend(new.branch.as_ref().map(|branch| branch.wanted()));
    branches.sort();
    branches.dedup();
    if fs::symlink_metadata(&new.path).is_ok() || !records.is_empty() {
        // no agent ever had what is still locked by us
        let is_ours = records.iter().any(|record| record.hold().is_some())
            || records.is_empty() && is_empty_or_dangling(common, &new.path);
        if !is_ours {
            explain(common, new, &records)?;
        }
        take_down(common, &yard, &new.path)
            .map_err(|source| WorktreeError::Uncleared { path: new.path.clone(), source })?;
    }
    Ok(branches)
}

/// Takes the folder away, and what the repository records of it. Both may be half made or gone.
///
/// A folder that is not empty and that the repository does not know is left alone.
pub(in crate::git) fn take_down(common: &Path, yard: &Yard, path: &Path) -> io::Result<()> {
    let records = records(common, path);
    if records.is_empty() && !is_empty_or_dangling(common, path) {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the folder is not ours"));
    }
    yard.discard(path)?;
    records.iter().try_for_each(Record::remove)
}

/// Takes away the locks of a branch that a daemon held when it died while it made the branch. Only
/// for one that a note names, and before any branch is made: nobody else makes it.
pub(in crate::git) fn unlock_branch(common: &Path, branch: &str) -> io::Result<()> {
    let name = format!("refs/heads/{branch}");
    if !git2::Reference::is_valid_name(&name) {
        return Ok(());
    }
    for place in [common.to_owned(), common.join("logs")] {
        match fs::remove_file(place.join(format!("{name}.lock"))) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
    }
    Ok(())
}

/// Deletes a branch that we made at `commit`, that nobody moved and nobody has checked out.
pub(in crate::git) async fn drop_untouched(
    common: &Path,
    branch: &str,
    commit: &CommitId,
) -> Result<(), CommandError> {
    let (place, name, at) = (common.to_owned(), branch.to_owned(), commit.clone());
    let stray = read(move || {
        let repository = git2::Repository::open(place)?;
        Ok::<_, git2::Error>(is_stray(&repository, &name, at.oid()?))
    });
    match stray.await {
        Ok(Ok(true)) => delete_branch(common, branch, commit).await,
        _ => Ok(()),
    }
}

/// The records that stand for `path`, whether or not something is there. A link there stands for
/// nothing but itself: what it points at may be another worktree.
pub(in crate::git) fn records(common: &Path, path: &Path) -> Vec<Record> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    let named = named_by(&path.join(".git")).filter(|_| !is_link);
    let stands_for = |record: &Record| {
        record.path().is_some_and(|folder| is_place(&folder, path))
            || named.as_ref().is_some_and(|named| same(named, record.folder()))
    };
    Record::all(common).into_iter().filter(stands_for).collect()
}

/// Whether two paths name one place in one folder, whatever stands at that place.
fn is_place(one: &Path, two: &Path) -> bool {
    let settled =
        |path: &Path| Some((path.parent()?.canonicalize().ok()?, path.file_name()?.to_owned()));
    let is_called_alike = one.file_name() == two.file_name();
    one == two || is_called_alike && settled(one).is_some_and(|one| Some(one) == settled(two))
}

fn points_at(file: &Path, record: &Record) -> bool {
    named_by(file).is_some_and(|to| same(&to, record.folder()))
}

/// Whether nothing of worth stands there: nothing at all, an empty folder, or one with only a
/// `.git` file that names a record which was never entered, or nothing yet.
pub(in crate::git) fn is_empty_or_dangling(common: &Path, path: &Path) -> bool {
    let Ok(inside) = fs::read_dir(path) else { return fs::symlink_metadata(path).is_err() };
    match inside.take(2).count() {
        0 => true,
        1 => {
            let link = path.join(".git");
            let is_unwritten =
                fs::symlink_metadata(&link).is_ok_and(|found| found.is_file() && found.len() == 0);
            is_unwritten
                || named_by(&link).is_some_and(|named| {
                    let folder = named.parent();
                    let is_ours = folder.is_some_and(|f| same(f, &common.join("worktrees")));
                    is_ours && !named.exists()
                })
        }
        _ => false,
    }
}

fn named_by(file: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(file).ok()?;
    Some(PathBuf::from(text.strip_prefix("gitdir: ")?.trim_end()))
}

/// Whether two paths name one place, also when the last part of them is gone.
fn same(one: &Path, two: &Path) -> bool {
    let settled = |path: &Path| {
        path.canonicalize()
            .ok()
            .or_else(|| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?)))
    };
    one == two
        || (one.file_name() == two.file_name()
            && settled(one).is_some_and(|one| Some(one) == settled(two)))
}

/// Fails unless all that stands at the path is an attempt at this very commit.
fn explain(common: &Path, new: &NewWorktree, entries: &[Record]) -> Result<(), WorktreeError> {
    let occupied =
        |found: &Path| WorktreeError::Occupied { path: new.path.clone(), found: found.to_owned() };
    let unreadable = |source| WorktreeError::Unreadable { path: common.to_owned(), source };
    let repository = git2::Repository::open(common).map_err(unreadable)?;
    if let Some(entry) = entries.iter().find(|entry| !is_at_rest(&repository, entry, new)) {
        return Err(occupied(entry.folder()));
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
fn is_at_rest(repository: &git2::Repository, record: &Record, new: &NewWorktree) -> bool {
    let Some(head) = record.head() else { return true };
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

/// Whether we made the branch at this commit, nobody moved it and nobody has it checked out.
pub(super) fn is_stray(repository: &git2::Repository, branch: &str, commit: git2::Oid) -> bool {
    is_untouched(repository, branch, commit) && !is_checked_out(repository.commondir(), branch)
}

/// Whether we made the branch at this commit and nobody moved it: its reflog has our signature
/// alone.
pub(in crate::git) fn is_untouched(
    repository: &git2::Repository,
    branch: &str,
    commit: git2::Oid,
) -> bool {
    let name = format!("refs/heads/{branch}");
    // one that stands for another has no target of its own
    if !repository.find_reference(&name).is_ok_and(|branch| branch.target() == Some(commit)) {
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
pub(in crate::git) fn is_checked_out(common: &Path, branch: &str) -> bool {
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
