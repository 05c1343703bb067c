//! What can be told of a merge before git is asked. Where the two sides meet in no file, that is
//! all of it: no process runs, and only the folders that both touched are read.

use std::collections::BTreeMap;

use hayward_shared::merge::Relation;

use super::graft::{Entry, FOLDER};
use super::repo::CommitId;
use super::touched::{Difference, differing_entries};

/// A merge as far as it is known before it was tried.
#[derive(Debug)]
pub(super) struct Foreseen {
    pub(super) relation: Relation,
    /// A commit that both share.
    pub(super) base: CommitId,
    /// The tree of ours.
    pub(super) ours: git2::Oid,
    /// The merged tree, where it is known. It is written.
    pub(super) merged: Option<git2::Oid>,
}

/// Reads how the two stand to each other; none when they share nothing.
///
/// # Errors
/// An object is missing, or cannot be read or written.
pub(super) fn foresee(
    repository: &git2::Repository,
    ours: &CommitId,
    theirs: &CommitId,
) -> Result<Option<Foreseen>, git2::Error> {
    let (one, two) = (repository.find_commit(ours.oid()?)?, repository.find_commit(theirs.oid()?)?);
    let bases = match repository.merge_bases(one.id(), two.id()) {
        Ok(bases) => bases,
        Err(cause) if cause.code() == git2::ErrorCode::NotFound => return Ok(None),
        Err(cause) => return Err(cause),
    };
    let Some(base) = bases.first().copied() else { return Ok(None) };
    let (relation, merged) = if one.id() == two.id() {
        (Relation::Identical, Some(one.tree_id()))
    } else if base == two.id() {
        (Relation::AlreadyMerged, Some(one.tree_id()))
    } else if base == one.id() {
        (Relation::FastForward, Some(two.tree_id()))
    } else if bases.len() == 1 {
        let base = repository.find_commit(base)?.tree()?;
        // where an object is missing, as in a partial clone, git may know a way
        let merged = merge(repository, &base, &one.tree()?, &two.tree()?).unwrap_or_else(|cause| {
            tracing::debug!(%cause, "a merge is left to git");
            None
        });
        (Relation::Diverged, merged)
    } else {
        (Relation::Diverged, None)
    };
    Ok(Some(Foreseen { relation, base: base.into(), ours: one.tree_id(), merged }))
}

/// The merged tree; none where git has to look. An entry that one side alone changed is that
/// side's. That is what git says too, whatever was renamed: a rename changes what the other side
/// gets only where that side touched the file, or a folder that is gone as a whole; either is then
/// changed by both, and left to git. So is what both made alike, unless it is a file that was there
/// before: what both deleted, they may have renamed to two names.
fn merge(
    repository: &git2::Repository,
    base: &git2::Tree<'_>,
    ours: &git2::Tree<'_>,
    theirs: &git2::Tree<'_>,
) -> Result<Option<git2::Oid>, git2::Error> {
    let own = differing_entries(Some(base), Some(ours));
    let mut known: BTreeMap<&[u8], Vec<&Difference>> = BTreeMap::new();
    for difference in &own {
        known.entry(&difference.0).or_default().push(difference);
    }
    let mut builder = repository.treebuilder(Some(ours))?;
    let (gone, come): (Vec<_>, Vec<_>) = differing_entries(Some(base), Some(theirs))
        .into_iter()
        .partition(|(_, _, after)| after.is_none());
    for (name, before, after) in gone.into_iter().chain(come) {
        let met = known.get(name.as_slice());
        let entry = match (met.map(Vec::as_slice), after) {
            (None, None) => {
                builder.remove(name)?;
                continue;
            }
            (None, Some(entry)) => entry,
            (Some([(_, Some(was), Some(own))]), Some(entry)) if before == Some(*was) => {
                if *own == entry && !entry.is_folder() && !was.is_folder() {
                    continue;
                }
                let all = [*was, *own, entry];
                let Some(merged) = merge_folders(repository, all)? else { return Ok(None) };
                merged
            }
            _ => return Ok(None),
        };
        builder.insert(name, entry.id, entry.mode)?;
    }
    // no folder is without a file in git
    if builder.is_empty() { Ok(None) } else { builder.write().map(Some) }
}

fn merge_folders(
    repository: &git2::Repository,
    all: [Entry; 3],
) -> Result<Option<Entry>, git2::Error> {
    if !all.iter().all(|entry| entry.is_folder()) {
        return Ok(None);
    }
    let [base, ours, theirs] = all.map(|entry| repository.find_tree(entry.id));
    let merged = merge(repository, &base?, &ours?, &theirs?)?;
    Ok(merged.map(|id| Entry { id, mode: FOLDER }))
}
