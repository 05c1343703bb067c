//! Commits carried from one object store into another, in process: nothing of either repository's
//! configuration is run, and no ref moves.

use std::io::Write;

/// Writes what `into` lacks of the commits `tips` and all that they stand on into its object store,
/// as one pack. Where it has everything, nothing is written. Blocking.
///
/// # Errors
/// What libgit2 said, as that an object is missing; no ref names the half that may be written.
pub(super) fn carry(
    from: &git2::Repository,
    tips: &[git2::Oid],
    into: &git2::Repository,
) -> Result<(), git2::Error> {
    let mut walk = from.revwalk()?;
    for tip in tips {
        walk.push(*tip)?;
    }
    for reference in into.references()?.flatten() {
        if let Some(known) = reference.peel_to_commit().ok().map(|commit| commit.id())
            && from.find_commit(known).is_ok()
        {
            walk.hide(known)?;
        }
    }
    let mut pack = from.packbuilder()?;
    pack.insert_walk(&mut walk)?;
    if pack.object_count() == 0 {
        return Ok(());
    }
    let store = into.odb()?;
    let mut writer = store.packwriter()?;
    let mut failed = None;
    pack.foreach(|bytes| {
        failed = writer.write_all(bytes).err();
        failed.is_none()
    })?;
    if let Some(cause) = failed {
        return Err(git2::Error::from_str(&cause.to_string()));
    }
    writer.commit()?;
    Ok(())
}

/// The commits that the refs of a repository name, save those that `passes_over` by their name; of
/// the stash, all that is in it. Blocking.
///
/// # Errors
/// What libgit2 said.
pub(super) fn tips(
    repository: &git2::Repository,
    passes_over: impl Fn(&[u8]) -> bool,
) -> Result<Vec<git2::Oid>, git2::Error> {
    let mut all = Vec::new();
    for reference in repository.references()? {
        let reference = reference?;
        if !passes_over(reference.name_bytes())
            && let Ok(commit) = reference.peel_to_commit()
        {
            all.push(commit.id());
        }
    }
    if !passes_over(b"refs/stash")
        && let Ok(stashed) = repository.reflog("refs/stash")
    {
        all.extend(stashed.iter().map(|entry| entry.id_new()));
    }
    all.retain(|tip| repository.find_commit(*tip).is_ok());
    Ok(all)
}

/// Whether `commit` is among what `tips` stand on, of those that the repository has. Blocking.
///
/// # Errors
/// What libgit2 said.
pub(super) fn is_held(
    repository: &git2::Repository,
    commit: git2::Oid,
    tips: &[git2::Oid],
) -> Result<bool, git2::Error> {
    let mut walk = repository.revwalk()?;
    walk.push(commit)?;
    for tip in tips.iter().filter(|tip| repository.find_commit(**tip).is_ok()) {
        walk.hide(*tip)?;
    }
    Ok(walk.next().is_none())
}
