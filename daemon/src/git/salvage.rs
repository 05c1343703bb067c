//! What would be lost with a worktree, kept under refs of its own before it goes.
//!
//! `refs/hayward/salvage/<slug>-<short id>` names one commit. Its tree is the worktree as it lay
//! there: tracked and untracked files, secrets and large files too, which no commit of ours would
//! hold; ignored files alone are left out. Its first parent is HEAD. Where the index held
//! something else, or a merge or the like was under way, further parents hold that, patches that
//! were not applied yet too; and where a submodule had work that is nowhere else, that too, carried
//! into this repository's objects. The commit stays on this machine: no refspec of git's own and no
//! push of ours sends these refs, save `git push --mirror`.

use std::fs;
use std::path::{Path, PathBuf};

use super::adrift::{pending, plans, staged};
use super::command::{CommandError, Git};
use super::hidden::reveal;
use super::lend::left_behind;
use super::modules::{self, Module, Stake, Unkeepable};
use super::repo::{Closed, CommitId, Repository, read};
use super::snapshot::whole;
use super::worktree::{EMAIL, NAME, Record, RemoveError, is_on_a_branch, leftover, open_own};
use super::worktree::{Held, Sight, blocking, under_way};
use crate::fault;

/// Where salvaged work is kept.
pub const PLACE: &str = "refs/hayward/salvage/";

/// How often a worktree is looked at anew because somebody wrote to it meanwhile.
const LOOKS: usize = 3;

/// How many paths an error names.
const MAX_NAMED: usize = 10;

/// The most of a merge's message that a salvage keeps.
const MAX_MESSAGE: usize = 4 * 1024;

/// The most names that are tried for one task: each holds a different commit.
const MAX_NAMES: usize = 1_000;

/// With what the message of a commit that was made to keep work begins.
const LEFT: &str = "Work that was left in a worktree\n";

/// Why what would be lost could not be kept, or the worktree not be removed. It stands then.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// It is no worktree of the repository, it is locked, or the like.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// Git cannot hold some of its files.
    #[error("{path} holds what no commit can keep ({}): move it away first", list(.files))]
    Unkept {
        /// The worktree.
        path: PathBuf,
        /// The first ten files, each with the reason.
        files: Vec<String>,
    },
    /// Somebody writes to it.
    #[error("{0} changes while it is looked at: end what works there")]
    Busy(PathBuf),
    /// Git's data cannot be read or written.
    #[error("the work in {path} could not be kept: check the disk, and `git fsck`")]
    Unreadable {
        /// The worktree.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The ref could not be made.
    #[error("the work in {path} could not be kept under a ref")]
    Git {
        /// The worktree.
        path: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// The disk failed.
    #[error("the removal of {path} was cut off")]
    Disk {
        /// The worktree.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The daemon is shutting down.
    #[error(transparent)]
    Closed(#[from] Closed),
}

fn list(files: &[String]) -> String {
    files.join(", ")
}

/// Work that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvage {
    /// The whole name of its ref.
    pub reference: String,
    /// The commit that it names.
    pub commit: CommitId,
}

impl Repository {
    /// Keeps under `name` what would be lost with the worktree; none when nothing would. Doing it
    /// again finds what is kept already. The worktree stays as it is.
    ///
    /// # Errors
    /// [`SalvageError`] when not all of it can be kept.
    pub async fn salvage(&self, held: &Held, name: &str) -> Result<Option<Salvage>, SalvageError> {
        let failed = |source| SalvageError::Git { path: held.path().to_owned(), source };
        reveal(held.path()).await.map_err(failed)?;
        let Some(commit) = self.at_stake(held.path()).await? else { return Ok(None) };
        let (path, name) = (held.path().to_owned(), name.to_owned());
        let kept = self.in_turn(move |common| async move {
            let reference = keep(&common, &name, &commit)
                .await
                .map_err(|source| SalvageError::Git { path, source })?;
            Ok(Some(Salvage { reference, commit }))
        });
        kept.await?
    }

    /// Removes the worktree after what would be lost with it is kept under `name`.
    ///
    /// # Errors
    /// [`SalvageError`]; the worktree stands then, and no work is lost.
    pub async fn retire(&self, held: &Held, name: &str) -> Result<Option<Salvage>, SalvageError> {
        let path = held.path();
        for _ in 0..LOOKS {
            let salvage = self.salvage(held, name).await?;
            let failed = |source| SalvageError::Disk { path: path.to_owned(), source };
            fault::point("salvage.kept").map_err(failed)?;
            let place = path.to_owned();
            let Ok(seen) = blocking(move || Sight::of(&place)).await else { continue };
            // nobody wrote between the look and now, nor does until it is out of sight
            if self.at_stake(path).await? == salvage.as_ref().map(|kept| kept.commit.clone())
                && self.take_away(held, seen).await?
            {
                return Ok(salvage);
            }
        }
        Err(SalvageError::Busy(path.to_owned()))
    }

    /// The salvaged work of the repository, by name.
    ///
    /// # Errors
    /// What libgit2 said.
    pub async fn salvages(&self) -> Result<Vec<Salvage>, git2::Error> {
        let common = self.common_dir().to_owned();
        read(move || all(&common)).await.and_then(|found| found)
    }

    /// Salvaged work by the whole name of its ref, and where HEAD of its worktree stood.
    ///
    /// # Errors
    /// What libgit2 said, as that there is no such ref.
    pub async fn salvaged(&self, reference: &str) -> Result<(Salvage, CommitId), git2::Error> {
        let (common, reference) = (self.common_dir().to_owned(), reference.to_owned());
        read(move || {
            let repository = git2::Repository::open(common)?;
            let commit = repository.find_reference(&reference)?.peel_to_commit()?;
            let ours = commit.message_bytes().starts_with(LEFT.as_bytes())
                && commit.committer().email_bytes() == EMAIL.as_bytes();
            let head = if ours { commit.parent_id(0)? } else { commit.id() };
            Ok((Salvage { reference, commit: commit.id().into() }, head.into()))
        })
        .await
        .and_then(|found| found)
    }

    /// The commit that holds what would be lost; none when nothing would.
    async fn at_stake(&self, path: &Path) -> Result<Option<CommitId>, SalvageError> {
        let (common, place) = (self.common_dir().to_owned(), path.to_owned());
        let unreadable = |source| SalvageError::Unreadable { path: path.to_owned(), source };
        read(move || at_stake(&common, &place)).await.map_err(unreadable)?
    }
}

fn at_stake(common: &Path, path: &Path) -> Result<Option<CommitId>, SalvageError> {
    let unreadable = |source| SalvageError::Unreadable { path: path.to_owned(), source };
    let not_ours = || RemoveError::NotOurs(path.to_owned());
    let records = leftover::records(common, path);
    let record = records.first().ok_or_else(not_ours)?;
    refuse_locked(record, path)?;
    let inner = modules::stakes(common, record.folder(), path).map_err(|cause| match cause {
        Unkeepable::Git(source) => unreadable(source),
        Unkeepable::Files(mut files) => {
            files.truncate(MAX_NAMED);
            SalvageError::Unkept { path: path.to_owned(), files }
        }
    })?;
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return only_commits(common, record, &inner).map_err(unreadable);
    }
    let repository = open_own(common, path).ok_or_else(not_ours)?;
    let taken = whole(&repository, path).map_err(unreadable)?;
    if !taken.withheld.is_empty() {
        let name =
            |file: &super::staging::Withheld| format!("{} {}", file.path.display(), file.why);
        let files = taken.withheld.iter().take(MAX_NAMED).map(name).collect();
        return Err(SalvageError::Unkept { path: path.to_owned(), files });
    }
    let head = taken.head.oid().map_err(unreadable)?;
    let commit = bind(&repository, record, &taken.tree, head, &inner).map_err(unreadable)?;
    if commit == head && is_on_a_branch(&repository, head).map_err(unreadable)? {
        return Ok(None);
    }
    Ok(Some(commit.into()))
}

fn refuse_locked(record: &Record, path: &Path) -> Result<(), RemoveError> {
    if let Some(reason) = record.locked() {
        let reason = reason.trim().to_owned();
        return Err(RemoveError::Locked { path: path.to_owned(), reason });
    }
    Ok(())
}

/// The files are gone from here: only commits that HEAD or a submodule alone names can be lost.
fn only_commits(
    common: &Path,
    record: &Record,
    inner: &[(Module, Stake)],
) -> Result<Option<CommitId>, git2::Error> {
    let repository = git2::Repository::open(common)?;
    let named = match (record.head(), record.branch()) {
        (_, Some(branch)) => repository.refname_to_id(&format!("refs/heads/{branch}")).ok(),
        (head, None) => head.and_then(|head| git2::Oid::from_str(&head).ok()),
    };
    // a record that was cut off may name nothing
    let Some(head) = named.and_then(|head| repository.find_commit(head).ok()) else {
        return Ok(None);
    };
    if !inner.is_empty() {
        let mut parents = vec![head.clone()];
        take_in(&repository, inner, &mut parents)?;
        let by = git2::Signature::new(NAME, EMAIL, &head.time())?;
        let parents: Vec<_> = parents.iter().collect();
        let text = message(&repository, record, inner);
        let bound = repository.commit(None, &by, &by, &text, &head.tree()?, &parents)?;
        return Ok(Some(bound.into()));
    }
    let held = record.branch().is_some() || is_on_a_branch(&repository, head.id())?;
    Ok((!held).then(|| head.id().into()))
}

/// Carries what submodules hold into the repository, as further parents.
fn take_in<'repository>(
    repository: &'repository git2::Repository,
    inner: &[(Module, Stake)],
    parents: &mut Vec<git2::Commit<'repository>>,
) -> Result<(), git2::Error> {
    for (module, stake) in inner {
        module.hand_over(stake, repository)?;
        for tip in &stake.tips {
            if parents.iter().all(|known| known.id() != *tip) {
                parents.push(repository.find_commit(*tip)?);
            }
        }
    }
    Ok(())
}

/// One commit that holds all of it; HEAD itself when that does. The same work makes the same
/// commit, whenever it is looked at.
fn bind(
    repository: &git2::Repository,
    record: &Record,
    tree: &str,
    head: git2::Oid,
    inner: &[(Module, Stake)],
) -> Result<git2::Oid, git2::Error> {
    let head = repository.find_commit(head)?;
    let tree = repository.find_tree(git2::Oid::from_str(tree)?)?;
    let by = git2::Signature::new(NAME, EMAIL, &head.time())?;
    let mut parents = vec![head.clone()];
    let mut adrift: Vec<_> = staged(repository, &head, tree.id())?.into_iter().collect();
    adrift.extend(pending(record.folder()));
    adrift.extend(plans(repository, record.folder(), &head)?);
    adrift.extend(left_behind(repository)?);
    for tip in adrift {
        if let Ok(commit) = repository.find_commit(tip)
            && parents.iter().all(|known| known.id() != tip)
        {
            parents.push(commit);
        }
    }
    take_in(repository, inner, &mut parents)?;
    if parents.len() == 1 && tree.id() == head.tree_id() {
        return Ok(head.id());
    }
    let parents: Vec<_> = parents.iter().collect();
    repository.commit(None, &by, &by, &message(repository, record, inner), &tree, &parents)
}

fn message(repository: &git2::Repository, record: &Record, inner: &[(Module, Stake)]) -> String {
    let mut text = LEFT.to_owned();
    for (_, stake) in inner {
        let tips: Vec<_> = stake.tips.iter().map(ToString::to_string).collect();
        let name = stake.name.to_string_lossy().replace('\0', "\u{fffd}");
        text.push_str(&format!("\nThe submodule {name} held {}.\n", tips.join(", ")));
    }
    if let Some(what) = under_way(repository) {
        text.push_str(&format!("\nA {what} was under way.\n"));
    }
    if let Ok(said) = fs::read(record.folder().join("MERGE_MSG")) {
        let said = String::from_utf8_lossy(&said).replace('\0', "\u{fffd}");
        let end = said.floor_char_boundary(MAX_MESSAGE);
        text.push_str(&format!("\n{}\n", said[..end].trim_end()));
    }
    text
}

/// Makes a ref for the commit under the first name that is free, or finds the one that names it.
pub(super) async fn keep(
    common: &Path,
    name: &str,
    commit: &CommitId,
) -> Result<String, CommandError> {
    let mut tried = 1;
    loop {
        let reference = match tried {
            1 => format!("{PLACE}{name}"),
            n => format!("{PLACE}{name}-{n}"),
        };
        match standing(common, &reference).await {
            Some(found) if found == *commit => return Ok(reference),
            Some(_) if tried < MAX_NAMES => {}
            _ => {
                make(common, &reference, commit).await?;
                return Ok(reference);
            }
        }
        tried += 1;
    }
}

/// A ref under which the commit is kept already, whatever the name.
pub(super) async fn kept_as(common: &Path, commit: &CommitId) -> Option<String> {
    let (common, commit) = (common.to_owned(), commit.clone());
    let found = read(move || {
        let mut all = all(&common)?;
        all.retain(|kept| kept.commit == commit);
        Ok(all.into_iter().next().map(|kept| kept.reference))
    });
    found.await.and_then(|found: Result<_, git2::Error>| found).ok().flatten()
}

/// The salvaged work of a repository, by name.
fn all(common: &Path) -> Result<Vec<Salvage>, git2::Error> {
    let repository = git2::Repository::open(common)?;
    let mut all = Vec::new();
    for reference in repository.references_glob(&format!("{PLACE}*"))? {
        let reference = reference?;
        if let (Ok(name), Some(target)) = (reference.name(), reference.target()) {
            all.push(Salvage { reference: name.to_owned(), commit: target.into() });
        }
    }
    all.sort_by(|one, other| one.reference.cmp(&other.reference));
    Ok(all)
}

async fn standing(common: &Path, reference: &str) -> Option<CommitId> {
    let (common, reference) = (common.to_owned(), reference.to_owned());
    let found = read(move || {
        let repository = git2::Repository::open(common)?;
        repository.refname_to_id(&reference)
    });
    found.await.and_then(|found| found).ok().map(CommitId::from)
}

/// Makes the ref; fails when somebody made it meanwhile.
async fn make(common: &Path, reference: &str, commit: &CommitId) -> Result<(), CommandError> {
    Git::on_repository(common)
        .committer(NAME, EMAIL)
        .args(["update-ref", "-m", "hayward: salvage"])
        .args([reference, commit.as_str(), &"0".repeat(commit.as_str().len())])
        .run()
        .await
        .map(drop)
}
