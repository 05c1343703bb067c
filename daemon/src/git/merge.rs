//! Merges as data: tried out, told of, and made into a commit without any work tree.

use std::path::{Path, PathBuf};

use hayward_shared::merge::{ConflictKind, MergeSide, Relation};
use serde::{Deserialize, Serialize};

use super::command::{CommandError, Git, OBJECT_TRIES};
use super::diff::{ChangedFile, compare_trees};
use super::foresee::{Foreseen, foresee};
use super::parse::{self, Merged, Message, ParseError};
use super::repo::{CommitId, Repository, read};
use super::worktree::{EMAIL, NAME};

/// The mode of a repository inside, in a tree.
const SUBMODULE: u32 = 0o160_000;

/// A merge that was tried out: what comes of it, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// How the two stand to each other.
    pub relation: Relation,
    /// A commit that both share.
    pub base: CommitId,
    /// Whether it goes without a conflict.
    pub is_clean: bool,
    /// The tree that comes of it; with conflicts it holds their markers.
    pub tree: String,
    /// What is in conflict, in git's order.
    pub conflicts: Vec<Conflict>,
}

/// What merging one commit into another would bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The merge itself.
    pub trial: Trial,
    /// What would change in `ours`.
    pub changed_files: Vec<ChangedFile>,
}

/// A file in conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The file; one without stages may be a folder that was renamed in two ways.
    pub path: PathBuf,
    /// In what the sides differ.
    pub kind: ConflictKind,
    /// What each side has of it.
    pub stages: Stages,
}

/// What the common ancestor and the two sides have of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stages {
    /// The common ancestor.
    pub base: Option<Version>,
    /// Ours.
    pub ours: Option<Version>,
    /// Theirs.
    pub theirs: Option<Version>,
}

/// One version of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its mode, as in a tree.
    pub mode: u32,
    /// Its object.
    pub id: String,
}

impl Stages {
    /// Whether there is anything to choose from.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Which side deleted the file, where one did.
    #[must_use]
    pub fn deleted_by(&self) -> Option<MergeSide> {
        match (&self.base, &self.ours, &self.theirs) {
            (Some(_), None, Some(_)) => Some(MergeSide::Ours),
            (Some(_), Some(_), None) => Some(MergeSide::Theirs),
            _ => None,
        }
    }

    /// What a side has; nothing where it deleted the file.
    #[must_use]
    pub fn of(&self, side: MergeSide) -> Option<&Version> {
        match side {
            MergeSide::Ours => self.ours.as_ref(),
            MergeSide::Theirs => self.theirs.as_ref(),
        }
    }

    fn is_submodule(&self) -> bool {
        let all = [&self.base, &self.ours, &self.theirs];
        all.into_iter().flatten().any(|version| version.mode == SUBMODULE)
    }

    fn kind(&self, told: &[&str]) -> ConflictKind {
        let is = |part: &str| told.iter().any(|kind| kind.contains(part));
        if self.is_submodule() || is("submodule") {
            ConflictKind::Submodule
        } else if is("(file/directory)") {
            ConflictKind::FileDirectory
        } else if is("(distinct ") {
            ConflictKind::Type
        } else if is("rename") {
            ConflictKind::Rename
        } else if is("(binary)") {
            ConflictKind::Binary
        } else if is("(modify/delete)") || self.deleted_by().is_some() {
            ConflictKind::ModifyDelete
        } else if self.base.is_none() {
            ConflictKind::AddAdd
        } else {
            ConflictKind::Content
        }
    }
}

/// A file in conflict, settled by taking one side's version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The file.
    pub path: PathBuf,
    /// What each side has of it.
    pub stages: Stages,
    /// Whose version it is; a side that deleted the file deletes it.
    pub side: MergeSide,
}

/// A merge commit to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMerge {
    /// Into what, the first parent.
    pub ours: CommitId,
    /// What is merged, the second parent.
    pub theirs: CommitId,
    /// The tree of the trial.
    pub tree: String,
    /// How its conflicts are settled.
    pub settled: Vec<Settled>,
    /// What the commit says.
    pub message: String,
    /// When, in seconds since 1970: the same merge made again is the same commit.
    pub at: i64,
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

/// Why a merge commit was not made. No ref moved.
#[derive(Debug, thiserror::Error)]
#[error("the merge of {theirs} into {ours} could not be written in {repository}")]
pub struct MakeError {
    /// The repository.
    pub repository: PathBuf,
    /// Into which it would go.
    pub ours: CommitId,
    /// What would be merged.
    pub theirs: CommitId,
    /// What libgit2 said.
    #[source]
    pub source: git2::Error,
}

impl Repository {
    /// Tries out merging `theirs` into `ours`, and tells what would change in `ours`. Objects are
    /// written, nothing else: no work tree, index or ref changes. At most one process of git.
    ///
    /// A merge driver of the repository does not run; its files count as in conflict where both
    /// sides changed them.
    ///
    /// # Errors
    /// [`PreviewError`] when the commits are unknown or unrelated, or git fails.
    pub async fn preview(
        &self,
        ours: &CommitId,
        theirs: &CommitId,
    ) -> Result<Preview, PreviewError> {
        let (seen, repository) = self.foresee(ours, theirs).await?;
        let (trial, tree) = self.tried(ours, theirs, &seen).await?;
        let changed_files = read(move || changed(&repository, seen.ours, tree))
            .await
            .and_then(|files| files)
            .map_err(|source| self.not_compared(ours, theirs, source))?;
        Ok(Preview { trial, changed_files })
    }

    /// As [`Repository::preview`], without what would change.
    ///
    /// # Errors
    /// As [`Repository::preview`].
    pub async fn try_merge(
        &self,
        ours: &CommitId,
        theirs: &CommitId,
    ) -> Result<Trial, PreviewError> {
        let (seen, _) = self.foresee(ours, theirs).await?;
        Ok(self.tried(ours, theirs, &seen).await?.0)
    }

    async fn foresee(
        &self,
        ours: &CommitId,
        theirs: &CommitId,
    ) -> Result<(Foreseen, git2::Repository), PreviewError> {
        let (place, one, two) = (self.common_dir().to_owned(), ours.clone(), theirs.clone());
        let seen = read(move || {
            // git too takes an object for what its name says; `git fsck` is there to doubt it
            git2::opts::strict_hash_verification(false);
            let repository = git2::Repository::open(place)?;
            Ok(foresee(&repository, &one, &two)?.map(|seen| (seen, repository)))
        });
        let unrelated = || PreviewError::Unrelated { ours: ours.clone(), theirs: theirs.clone() };
        let seen = seen.await.and_then(|seen| seen);
        seen.map_err(|source| self.not_compared(ours, theirs, source))?.ok_or_else(unrelated)
    }

    /// The merge with its tree, by git where it is not known yet.
    async fn tried(
        &self,
        ours: &CommitId,
        theirs: &CommitId,
        seen: &Foreseen,
    ) -> Result<(Trial, git2::Oid), PreviewError> {
        let outcome = match seen.merged {
            Some(tree) => Outcome { is_clean: true, tree, conflicts: Vec::new() },
            None => self.merge_trees(ours, theirs).await?,
        };
        let Outcome { is_clean, tree, conflicts } = outcome;
        let (relation, base) = (seen.relation, seen.base.clone());
        Ok((Trial { relation, base, is_clean, tree: tree.to_string(), conflicts }, tree))
    }

    /// Has git merge the two trees.
    async fn merge_trees(
        &self,
        ours: &CommitId,
        theirs: &CommitId,
    ) -> Result<Outcome, PreviewError> {
        let output = Git::on_repository(self.common_dir())
            .args(["merge-tree", "--write-tree", "-z", "--messages"])
            .args([ours.as_str(), theirs.as_str()])
            .accept(&[0, 1])
            .again()
            .run()
            .await
            .map_err(PreviewError::Git)?;
        let merged = parse::merge_tree(&output.stdout).map_err(PreviewError::Parse)?;
        let is_clean = output.code == 0;
        let tree = git2::Oid::from_str(&merged.tree)
            .map_err(|source| self.not_compared(ours, theirs, source))?;
        let conflicts = if is_clean { Vec::new() } else { conflicts(merged) };
        Ok(Outcome { is_clean, tree, conflicts })
    }

    /// Makes the commit of a merge. Objects are written, nothing else: land it to make it count.
    ///
    /// # Errors
    /// [`MakeError`] when an object is missing or cannot be written.
    pub async fn make_merge(&self, new: NewMerge) -> Result<CommitId, MakeError> {
        let (place, held) = (self.common_dir().to_owned(), new.clone());
        let made = read(move || {
            (1..OBJECT_TRIES)
                .find_map(|_| make(&place, &held).ok())
                .map_or_else(|| make(&place, &held), Ok)
        });
        made.await.and_then(|made| made).map_err(|source| MakeError {
            repository: self.common_dir().to_owned(),
            ours: new.ours,
            theirs: new.theirs,
            source,
        })
    }

    fn not_compared(
        &self,
        ours: &CommitId,
        theirs: &CommitId,
        source: git2::Error,
    ) -> PreviewError {
        let repository = self.common_dir().to_owned();
        PreviewError::Unreadable { repository, ours: ours.clone(), theirs: theirs.clone(), source }
    }
}

fn changed(
    repository: &git2::Repository,
    ours: git2::Oid,
    merged: git2::Oid,
) -> Result<Vec<ChangedFile>, git2::Error> {
    if ours == merged {
        return Ok(Vec::new());
    }
    compare_trees(repository, &repository.find_tree(ours)?, &repository.find_tree(merged)?)
}

/// What git says of a merge.
struct Outcome {
    is_clean: bool,
    tree: git2::Oid,
    conflicts: Vec<Conflict>,
}

/// The files in conflict, each once, then what git tells of that has no stages.
fn conflicts(merged: Merged) -> Vec<Conflict> {
    let Merged { stages, messages, .. } = merged;
    let mut files: Vec<(PathBuf, Stages)> = Vec::new();
    for staged in stages {
        let version = Some(Version { mode: staged.mode, id: staged.id });
        if files.last().is_none_or(|(path, _)| *path != staged.path) {
            files.push((staged.path, Stages::default()));
        }
        let Some((_, stages)) = files.last_mut() else { continue };
        match staged.stage {
            1 => stages.base = version,
            2 => stages.ours = version,
            _ => stages.theirs = version,
        }
    }
    let is_conflict = |message: &&Message| message.kind.starts_with("CONFLICT");
    let mut rest: Vec<PathBuf> = Vec::new();
    for message in messages.iter().filter(is_conflict) {
        let known = |path: &PathBuf| files.iter().any(|(file, _)| file == path);
        if !message.paths.iter().any(known) {
            rest.extend(message.paths.first().filter(|path| !rest.contains(path)).cloned());
        }
    }
    files.extend(rest.into_iter().map(|path| (path, Stages::default())));
    let told = |path: &PathBuf| -> Vec<&str> {
        let about = messages.iter().filter(|message| message.paths.contains(path));
        about.filter(is_conflict).map(|message| message.kind.as_str()).collect()
    };
    let conflict = |(path, stages): (PathBuf, Stages)| {
        let kind = stages.kind(&told(&path));
        Conflict { path, kind, stages }
    };
    files.into_iter().map(conflict).collect()
}

fn make(common: &Path, new: &NewMerge) -> Result<CommitId, git2::Error> {
    let repository = git2::Repository::open(common)?;
    let (ours, theirs) =
        (repository.find_commit(new.ours.oid()?)?, repository.find_commit(new.theirs.oid()?)?);
    let tree = repository.find_tree(git2::Oid::from_str(&new.tree)?)?;
    let tree = match new.settled.is_empty() {
        true => tree,
        false => repository.find_tree(settle(&repository, &tree, &new.settled)?)?,
    };
    let config = repository.config()?.snapshot()?;
    let own = |key| config.get_str(key).ok().filter(|value| !value.trim().is_empty());
    let who = match (own("user.name"), own("user.email")) {
        (Some(name), Some(email)) => (name, email),
        _ => (NAME, EMAIL),
    };
    let signature = git2::Signature::new(who.0, who.1, &git2::Time::new(new.at, 0))?;
    let message = tidy(&new.message);
    repository
        .commit(None, &signature, &signature, &message, &tree, &[&ours, &theirs])
        .map(CommitId::from)
}

/// The tree with the chosen versions in place of the conflicts.
fn settle(
    repository: &git2::Repository,
    tree: &git2::Tree<'_>,
    settled: &[Settled],
) -> Result<git2::Oid, git2::Error> {
    let mut index = git2::Index::new()?;
    index.read_tree(tree)?;
    for Settled { path, stages, side } in settled {
        if index.get_path(path, 0).is_some() {
            index.remove(path, 0)?;
        }
        if let Some(version) = stages.of(*side) {
            index.add(&entry(path, version)?)?;
        }
    }
    index.write_tree_to(repository)
}

fn entry(path: &Path, version: &Version) -> Result<git2::IndexEntry, git2::Error> {
    let unknown = git2::IndexTime::new(0, 0);
    Ok(git2::IndexEntry {
        ctime: unknown,
        mtime: unknown,
        dev: 0,
        ino: 0,
        mode: version.mode,
        uid: 0,
        gid: 0,
        file_size: 0,
        id: git2::Oid::from_str(&version.id)?,
        flags: 0,
        flags_extended: 0,
        path: std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec(),
    })
}

/// A message as git takes it: no NUL, one line end at its end, never empty.
fn tidy(message: &str) -> String {
    let message = message.replace('\0', "\u{fffd}").replace("\r\n", "\n");
    let message = message.trim();
    format!("{}\n", if message.is_empty() { "Merge" } else { message })
}
