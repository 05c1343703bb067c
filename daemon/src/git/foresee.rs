//! What a merge would change in the branch that it goes into, told from its two sides while git
//! merges them. What only theirs changed comes as it is: neither it nor the merged tree has to be
//! compared once more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::diff::{ChangedFile, compare_trees, count, is_file};
use super::repo::CommitId;
use super::touched::{Change, walk};

/// A merge as far as it is known before it was tried.
#[derive(Clone, Debug)]
pub(super) struct Sides {
    pub(super) base: CommitId,
    pub(super) ours: CommitId,
    pub(super) theirs: CommitId,
}

/// What the two sides changed.
#[derive(Debug)]
pub(super) struct Foreseen {
    ours: BTreeSet<PathBuf>,
    theirs: Vec<ChangedFile>,
}

/// Reads what the sides changed; none where files went away or became something else, so that one
/// side's file may be found under another name on the other.
pub(super) fn foresee(common: &Path, sides: &Sides) -> Result<Option<Foreseen>, git2::Error> {
    // git too takes an object for what its name says; `git fsck` is there to doubt it
    git2::opts::strict_hash_verification(false);
    let repository = git2::Repository::open(common)?;
    let tree = |commit: &CommitId| repository.find_commit(commit.oid()?)?.tree();
    let base = tree(&sides.base)?;
    let since = |commit: &CommitId| {
        let mut changes = Vec::new();
        walk(&repository, Some(&base), Some(&tree(commit)?), Path::new(""), &mut changes)?;
        Ok::<_, git2::Error>(changes)
    };
    let (ours, mut theirs) = (since(&sides.ours)?, since(&sides.theirs)?);
    let stays = |(_, one, two): &Change| two.is_some() && one.iter().chain(two).all(is_file);
    if !ours.iter().chain(&theirs).all(stays) {
        return Ok(None);
    }
    let paths = |changes: &[Change]| -> BTreeSet<PathBuf> {
        changes.iter().map(|(path, _, _)| path.clone()).collect()
    };
    let (own, others) = (paths(&ours), paths(&theirs));
    // a file of one side where the other has a folder
    let lies_in = |path: &PathBuf, all: &BTreeSet<PathBuf>| {
        path.ancestors().skip(1).any(|folder| all.contains(folder))
    };
    if own.iter().any(|path| lies_in(path, &others)) || others.iter().any(|p| lies_in(p, &own)) {
        return Ok(None);
    }
    theirs.sort_unstable_by(|one, two| one.0.cmp(&two.0));
    let counted: Result<_, _> =
        theirs.into_iter().map(|change| count(&repository, change)).collect();
    Ok(Some(Foreseen { ours: own, theirs: counted? }))
}

impl Foreseen {
    /// What changes in ours, where that is known without the merged tree: no file was changed by
    /// both.
    pub(super) fn whole(&self) -> Option<Vec<ChangedFile>> {
        let is_theirs = |file: &ChangedFile| !self.ours.contains(&file.path);
        self.theirs.iter().all(is_theirs).then(|| self.theirs.clone())
    }
}

/// The files that the merged tree changes in ours.
pub(super) fn changed(
    common: &Path,
    ours: &CommitId,
    merged: &str,
    foreseen: Option<Foreseen>,
) -> Result<Vec<ChangedFile>, git2::Error> {
    let repository = git2::Repository::open(common)?;
    let before = repository.find_commit(ours.oid()?)?.tree()?;
    let after = repository.find_tree(git2::Oid::from_str(merged)?)?;
    let Some(seen) = foreseen else { return compare_trees(&repository, &before, &after) };
    let mut files = Vec::with_capacity(seen.theirs.len());
    for file in seen.theirs {
        if !seen.ours.contains(&file.path) {
            files.push(file);
            continue;
        }
        let entry = |tree: &git2::Tree<'_>| {
            tree.get_path(&file.path).ok().map(|entry| super::graft::Entry::of(&entry))
        };
        let (one, two) = (entry(&before), entry(&after));
        if one != two {
            files.push(count(&repository, (file.path, one, two))?);
        }
    }
    Ok(files)
}
