//! What a merge would do, known before it is made.

use std::path::PathBuf;

use super::command::{CommandError, Git};
use super::diff::{ChangedFile, compare_trees};
use super::parse::{self, ParseError};
use super::repo::{CommitId, Repository, read};

/// What merging one commit into another would bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Whether it would go without a conflict.
    pub can_merge: bool,
    /// The files in conflict.
    pub conflicted_files: Vec<Conflict>,
    /// What would change in `ours`.
    pub changed_files: Vec<ChangedFile>,
    /// The tree that would come of it; with conflicts it holds their markers.
    pub tree: String,
}

/// A file in conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The file.
    pub path: PathBuf,
    /// In what the sides differ.
    pub kind: ConflictKind,
}

/// In what the two sides of a merge differ about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKind {
    /// Both changed it.
    Content,
    /// Both added it, differently.
    BothAdded,
    /// Ours deleted what theirs changed.
    DeletedByOurs,
    /// Theirs deleted what ours changed.
    DeletedByTheirs,
    /// Renames, or a file against a folder.
    Structure,
}

impl ConflictKind {
    /// By the stages in the index: bit 0 the common ancestor, bit 1 ours, bit 2 theirs.
    fn of(stages: u8) -> Self {
        match stages {
            7 => Self::Content,
            6 => Self::BothAdded,
            5 => Self::DeletedByOurs,
            3 => Self::DeletedByTheirs,
            _ => Self::Structure,
        }
    }
}

/// Why a merge could not be foreseen.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The two share no commit.
    #[error("{ours} and {theirs} share no history: they cannot be merged")]
    Unrelated {
        /// Into which it would go.
        ours: CommitId,
        /// What would be merged.
        theirs: CommitId,
    },
    /// A commit is missing, or git's data cannot be read.
    #[error(
        "{ours} and {theirs} cannot be compared in {repository}: fetch both, or run `git fsck`"
    )]
    Unreadable {
        /// The repository.
        repository: PathBuf,
        /// Into which it would go.
        ours: CommitId,
        /// What would be merged.
        theirs: CommitId,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// Git failed.
    #[error("the merge could not be tried out")]
    Git(#[source] CommandError),
    /// Git wrote something unknown.
    #[error("the outcome of the merge could not be read")]
    Parse(#[source] ParseError),
}

impl Repository {
    /// Tries out merging `theirs` into `ours`. Objects are written, nothing else: no work tree,
    /// index or ref changes. A merge driver of the repository does not run; its files count as in
    /// conflict where both sides changed them.
    ///
    /// # Errors
    /// [`PreviewError`] when the commits are unknown or unrelated, or git fails.
    pub async fn preview(
        &self,
        ours: &CommitId,
        theirs: &CommitId,
    ) -> Result<Preview, PreviewError> {
        let unreadable = |source| PreviewError::Unreadable {
            repository: self.common_dir().to_owned(),
            ours: ours.clone(),
            theirs: theirs.clone(),
            source,
        };
        let (place, one, two) = (self.common_dir().to_owned(), ours.clone(), theirs.clone());
        let related = read(move || {
            let repository = git2::Repository::open(&place)?;
            repository.find_commit(two.oid()?)?;
            match repository.merge_base(repository.find_commit(one.oid()?)?.id(), two.oid()?) {
                Ok(_) => Ok(true),
                Err(cause) if cause.code() == git2::ErrorCode::NotFound => Ok(false),
                Err(cause) => Err(cause),
            }
        })
        .await
        .and_then(|related| related)
        .map_err(unreadable)?;
        if !related {
            return Err(PreviewError::Unrelated { ours: ours.clone(), theirs: theirs.clone() });
        }
        let output = Git::on_repository(self.common_dir())
            .args(["merge-tree", "--write-tree", "-z", "--no-messages"])
            .args([ours.as_str(), theirs.as_str()])
            .accept(&[0, 1])
            .run()
            .await
            .map_err(PreviewError::Git)?;
        let merged = parse::merge_tree(&output.stdout).map_err(PreviewError::Parse)?;
        let (place, one, tree) = (self.common_dir().to_owned(), ours.clone(), merged.tree.clone());
        let changed_files = read(move || {
            let repository = git2::Repository::open(&place)?;
            let before = repository.find_commit(one.oid()?)?.tree()?;
            let after = repository.find_tree(git2::Oid::from_str(&tree)?)?;
            compare_trees(&repository, &before, &after)
        })
        .await
        .and_then(|files| files)
        .map_err(unreadable)?;
        Ok(Preview {
            can_merge: output.code == 0,
            conflicted_files: merged
                .conflicts
                .into_iter()
                .map(|(path, stages)| Conflict { path, kind: ConflictKind::of(stages) })
                .collect(),
            changed_files,
            tree: merged.tree,
        })
    }
}
