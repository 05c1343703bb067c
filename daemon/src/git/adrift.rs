//! What a git directory holds that no ref names: what is staged, what is under way, and commits
//! that HEAD was moved away from. It goes with the directory, unless a commit of a salvage holds it.

use std::fs;
use std::path::Path;

use super::worktree::{EMAIL, NAME};

/// Files of a git directory that name commits of something under way.
const PENDING: [&str; 9] = [
    "MERGE_HEAD",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "MERGE_AUTOSTASH",
    "rebase-merge/orig-head",
    "rebase-merge/autostash",
    "rebase-merge/stopped-sha",
    "rebase-apply/orig-head",
    "rebase-apply/autostash",
];

/// Folders of a git directory that hold the patches and plans of something under way.
const PLANS: [&str; 3] = ["rebase-apply", "rebase-merge", "sequencer"];

/// The commits of what is under way, in the order of their files.
pub(super) fn pending(git_dir: &Path) -> Vec<git2::Oid> {
    let texts = PENDING.iter().filter_map(|name| fs::read_to_string(git_dir.join(name)).ok());
    let mut all: Vec<_> = texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| git2::Oid::from_str(line.trim()).ok())
        .collect();
    let mut folders = vec![git_dir.join("refs")];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => all.extend(
                    fs::read_to_string(entry.path())
                        .ok()
                        .and_then(|text| git2::Oid::from_str(text.trim()).ok()),
                ),
            }
        }
    }
    all
}

/// One commit on `head` that holds what is staged; none where `head` or the files, whose tree is
/// `tree`, hold it too, and none while there are conflicts. Blocking.
///
/// # Errors
/// What libgit2 said.
pub(super) fn staged(
    repository: &git2::Repository,
    head: &git2::Commit<'_>,
    tree: git2::Oid,
) -> Result<Option<git2::Oid>, git2::Error> {
    let mut index = repository.index()?;
    if index.is_empty() || index.has_conflicts() {
        return Ok(None);
    }
    let staged = index.write_tree_to(repository)?;
    if staged == head.tree_id() || staged == tree {
        return Ok(None);
    }
    on_top(repository, head, staged, "What was staged in a worktree\n").map(Some)
}

/// One commit on `head` that holds the files of what is under way, patches that were not applied
/// yet among them; none when there are none. Blocking.
///
/// # Errors
/// What libgit2 said, or that one cannot be read.
pub(super) fn plans(
    repository: &git2::Repository,
    git_dir: &Path,
    head: &git2::Commit<'_>,
) -> Result<Option<git2::Oid>, git2::Error> {
    let unread = |cause: std::io::Error| git2::Error::from_str(&cause.to_string());
    let mut all = repository.treebuilder(None)?;
    for name in PLANS {
        let mut folder = repository.treebuilder(None)?;
        for entry in fs::read_dir(git_dir.join(name)).into_iter().flatten() {
            let entry = entry.map_err(unread)?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let text = fs::read(entry.path()).map_err(unread)?;
                folder.insert(entry.file_name(), repository.blob(&text)?, 0o100_644)?;
            }
        }
        if !folder.is_empty() {
            all.insert(name, folder.write()?, 0o040_000)?;
        }
    }
    if all.is_empty() {
        return Ok(None);
    }
    on_top(repository, head, all.write()?, "What was under way in a worktree\n").map(Some)
}

/// The commits at which HEAD stood, the latest first; some may be gone. Blocking.
pub(super) fn stood(repository: &git2::Repository) -> Vec<git2::Oid> {
    let log = repository.reflog("HEAD");
    log.map(|log| log.iter().map(|entry| entry.id_new()).collect()).unwrap_or_default()
}

/// The same content makes the same commit, whenever it is made.
fn on_top(
    repository: &git2::Repository,
    head: &git2::Commit<'_>,
    tree: git2::Oid,
    says: &str,
) -> Result<git2::Oid, git2::Error> {
    let by = git2::Signature::new(NAME, EMAIL, &head.time())?;
    repository.commit(None, &by, &by, says, &repository.find_tree(tree)?, &[head])
}
