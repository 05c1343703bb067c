//! The tips of our branches, and whether a commit holds them.

use std::path::{Path, PathBuf};

use super::branch::{PREFIX, near};
use super::repo::{CommitId, Repository, ResolveError, read};

/// A branch of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnBranch {
    /// Its name, without `refs/heads/`.
    pub name: String,
    /// Its tip.
    pub tip: CommitId,
    /// The tip's id, as short as it stays unique.
    pub short: String,
    /// The tip's subject line.
    pub subject: String,
    /// Whether the commit that was asked about holds it.
    pub is_merged: bool,
    /// When the tip was committed, in seconds since 1970.
    pub at: i64,
}

/// Why our branches could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("the branches of {repository} cannot be read: check it with `git fsck`")]
pub struct TipsError {
    /// The repository.
    pub repository: PathBuf,
    /// What libgit2 said.
    #[source]
    pub source: git2::Error,
}

impl Repository {
    /// All branches below `hayward/` (and below the prefix that stands in for it where a user has a
    /// branch of that name), newest first, and whether `holder` holds their tips.
    ///
    /// # Errors
    /// [`TipsError`] when the repository cannot be read.
    pub async fn own_branches(&self, holder: &CommitId) -> Result<Vec<OwnBranch>, TipsError> {
        let (place, holder) = (self.common_dir().to_owned(), holder.clone());
        let listed = read(move || list(&place, &holder)).await.and_then(|listed| listed);
        listed.map_err(|source| TipsError { repository: self.common_dir().to_owned(), source })
    }

    /// Where the local branch of exactly this name stands. No other revision is meant by it, as
    /// `main~1` would be by [`Repository::resolve`].
    ///
    /// # Errors
    /// [`ResolveError`] with similar names when there is none.
    pub async fn branch_tip(&self, branch: &str) -> Result<CommitId, ResolveError> {
        let name = format!("refs/heads/{branch}");
        let (place, wanted) = (self.common_dir().to_owned(), name.clone());
        let found =
            read(move || Ok(git2::Repository::open(&place)?.find_reference(&wanted).is_ok()));
        if found.await.and_then(|found| found).unwrap_or(false) {
            return self.resolve(&name).await;
        }
        let near = near(branch, &self.branches().await?);
        Err(ResolveError::Unknown {
            reference: name,
            repository: self.common_dir().to_owned(),
            near,
        })
    }

    /// Whether `holder` is `commit` or descends from it. A commit that is not there is held by none.
    ///
    /// # Errors
    /// [`TipsError`] when the repository cannot be read.
    pub async fn holds(&self, holder: &CommitId, commit: &CommitId) -> Result<bool, TipsError> {
        let (place, holder, commit) =
            (self.common_dir().to_owned(), holder.clone(), commit.clone());
        read(move || {
            let repository = git2::Repository::open(&place)?;
            if repository.find_commit(commit.oid()?).is_err() {
                return Ok(false);
            }
            Ok(holder == commit || repository.graph_descendant_of(holder.oid()?, commit.oid()?)?)
        })
        .await
        .and_then(|held| held)
        .map_err(|source| TipsError { repository: self.common_dir().to_owned(), source })
    }
}

fn list(common: &Path, holder: &CommitId) -> Result<Vec<OwnBranch>, git2::Error> {
    let repository = git2::Repository::open(common)?;
    let holder = holder.oid()?;
    let mut all = Vec::new();
    for branch in repository.branches(Some(git2::BranchType::Local))? {
        let (branch, _) = branch?;
        let name = String::from_utf8_lossy(branch.name_bytes()?).into_owned();
        let top = name.split('/').next().unwrap_or_default();
        // the stand-in is `hayward-work`, `hayward-work-2` and so on
        let is_ours =
            top == PREFIX || top.strip_prefix(PREFIX).is_some_and(|r| r.starts_with("-work"));
        if !is_ours || top == name {
            continue;
        }
        let Ok(tip) = branch.get().peel_to_commit() else { continue };
        let short = tip.as_object().short_id()?;
        all.push(OwnBranch {
            name,
            tip: tip.id().into(),
            short: String::from_utf8_lossy(&short).into_owned(),
            subject: String::from_utf8_lossy(tip.summary_bytes().unwrap_or_default()).into_owned(),
            is_merged: tip.id() == holder || repository.graph_descendant_of(holder, tip.id())?,
            at: tip.time().seconds(),
        });
    }
    all.sort_by(|one, two| two.at.cmp(&one.at).then_with(|| one.name.cmp(&two.name)));
    Ok(all)
}
