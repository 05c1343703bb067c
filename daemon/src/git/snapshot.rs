//! A worktree's work as it lies there, committed or not, as one commit that no ref names.
//!
//! Nothing of the worktree is written: not its index, not its refs, not its files. Objects are
//! written, to the repository or aside ([`Aside`]). A snapshot taken again looks at what was
//! touched alone, and writes only what changed and the folders above it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::aside::Aside;
use super::graft::{Entry, graft};
use super::hidden::tells_case;
use super::joined::Joined;
use super::repo::{CommitId, Repository, read};
use super::staging::{Inspector, MAX_FILE, Why, Withheld};
use super::touched::{TouchedFile, between};
use super::worktree::{EMAIL, NAME, open_own};

/// What an index entry says of a file that a sparse checkout leaves out.
const SKIP_WORKTREE: u16 = 1 << 14;

/// More touched paths than this are looked for in one walk over the whole worktree.
const MAX_TOUCHED: usize = 512;

/// The largest file that is kept where nothing else is kept out: git on some machines holds no
/// larger one.
const MOST_HELD: u64 = (4 << 30) - 1;

/// A worktree's work at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// A commit on top of HEAD that holds all work; HEAD itself when nothing is uncommitted. Only
    /// where it was written to does it exist.
    pub commit: CommitId,
    /// Its tree.
    pub tree: String,
    /// Where HEAD stood.
    pub head: CommitId,
    /// What it is told against.
    pub base: CommitId,
    /// What differs from the base, by path.
    pub files: Vec<TouchedFile>,
    /// Changed files that policy keeps out: not even their objects were written.
    pub withheld: Vec<Withheld>,
    /// What is uncommitted: an entry, or gone.
    pending: BTreeMap<PathBuf, Option<Entry>>,
}

/// What to look at again.
#[derive(Clone, Debug)]
pub struct Again {
    /// The snapshot before, taken of the same worktree against the same base with the same store.
    pub former: Arc<Snapshot>,
    /// Files and folders in which anything may have changed since, from the worktree's top. Nothing
    /// else is looked at, unless HEAD moved or an ignore or attribute file is among them.
    pub touched: Vec<PathBuf>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The folder is no worktree of this repository.
    #[error("{0} is no worktree of this repository: it may have been removed")]
    NotOurs(PathBuf),
    /// A commit is missing, or git's data cannot be read or written.
    #[error("the work in {worktree} could not be read: check with `git fsck`")]
    Unreadable {
        /// The worktree.
        worktree: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
}

impl Repository {
    /// The work in `worktree` against `base`, written to the repository's objects.
    ///
    /// # Errors
    /// [`SnapshotError`] when the worktree or the base is unknown.
    pub async fn snapshot(
        &self,
        worktree: &Path,
        base: &CommitId,
    ) -> Result<Snapshot, SnapshotError> {
        self.take(worktree, base, None, None).await
    }

    /// The same written aside, and where there is a former one, only as far as was touched.
    ///
    /// # Errors
    /// As [`Repository::snapshot`].
    pub async fn snapshot_aside(
        &self,
        worktree: &Path,
        base: &CommitId,
        aside: &Aside,
        again: Option<Again>,
    ) -> Result<Snapshot, SnapshotError> {
        self.take(worktree, base, Some(aside.clone()), again).await
    }

    async fn take(
        &self,
        worktree: &Path,
        base: &CommitId,
        aside: Option<Aside>,
        again: Option<Again>,
    ) -> Result<Snapshot, SnapshotError> {
        let look = async |joined: Option<Joined>| {
            let (common, root, base) =
                (self.common_dir().to_owned(), worktree.to_owned(), base.clone());
            let (aside, again) = (aside.clone(), again.clone());
            let taken = read(move || {
                let Some(repository) = open_own(&common, &root) else { return Ok(None) };
                joined.map_or(Ok(()), |joined| joined.lend(&repository))?;
                if let Some(aside) = aside {
                    aside.lend(&repository)?;
                }
                Camera::new(&repository, &root, &base)?.take(again.as_ref()).map(Some)
            });
            taken.await.and_then(|taken| taken)
        };
        let mut taken = look(None).await;
        if taken.is_err()
            && let Some(joined) = Joined::of(worktree).await
        {
            taken = look(Some(joined)).await;
        }
        match taken {
            Ok(Some(snapshot)) => Ok(snapshot),
            Ok(None) => Err(SnapshotError::NotOurs(worktree.to_owned())),
            Err(source) => Err(SnapshotError::Unreadable { worktree: worktree.to_owned(), source }),
        }
    }
}

/// All work in the worktree at `root` against its own HEAD, also what policy keeps out of commits:
/// for what must not be lost. What is withheld all the same cannot be held by git. Blocking.
pub(super) fn whole(repository: &git2::Repository, root: &Path) -> Result<Snapshot, git2::Error> {
    let head = repository.head()?.peel_to_commit()?.id();
    let mut camera = Camera::new(repository, root, &head.into())?;
    camera.inspector = None;
    camera.take(None)
}

/// Takes one snapshot. Blocking.
struct Camera<'repository> {
    repository: &'repository git2::Repository,
    root: &'repository Path,
    base: git2::Commit<'repository>,
    head: git2::Commit<'repository>,
    tree: git2::Tree<'repository>,
    index: git2::Index,
    /// None: nothing is kept out but what git cannot hold.
    inspector: Option<Inspector<'repository>>,
    file_mode: bool,
}

/// What a path holds now.
enum Sight {
    /// Nothing to record: it is not git's business, or left out of the checkout.
    Nothing,
    Gone,
    There(Entry),
    Withheld(Why),
}

impl<'repository> Camera<'repository> {
    fn new(
        repository: &'repository git2::Repository,
        root: &'repository Path,
        base: &CommitId,
    ) -> Result<Self, git2::Error> {
        let head = repository.head()?.peel_to_commit()?;
        let base = base.oid()?;
        Ok(Self {
            repository,
            root,
            base: repository.find_commit(base)?,
            tree: head.tree()?,
            head,
            index: repository.index()?,
            inspector: Some(Inspector::new(repository, root, base, MAX_FILE)?),
            file_mode: repository.config()?.get_bool("core.fileMode").unwrap_or(true),
        })
    }

    fn take(&self, again: Option<&Again>) -> Result<Snapshot, git2::Error> {
        let head = CommitId::from(self.head.id());
        let again = again.filter(|again| again.former.head == head && is_partial(&again.touched));
        let (mut pending, mut withheld) = (BTreeMap::new(), Vec::new());
        if let Some(Again { former, touched }) = again {
            let seen = |path: &Path| touched.iter().any(|touched| path.starts_with(touched));
            pending.clone_from(&former.pending);
            pending.retain(|path, _| !seen(path));
            withheld.clone_from(&former.withheld);
            withheld.retain(|one: &Withheld| !seen(&one.path));
        }
        for path in self.candidates(again.map(|again| again.touched.as_slice()))? {
            let before = self.tree.get_path(&path).ok().map(|entry| Entry::of(&entry));
            match self.look(&path, before)? {
                Sight::Nothing => {}
                Sight::Gone if before.is_some() => drop(pending.insert(path, None)),
                Sight::Gone => {}
                Sight::There(entry) if before == Some(entry) => {}
                Sight::There(entry) => drop(pending.insert(path, Some(entry))),
                Sight::Withheld(why) => withheld.push(Withheld { path, why }),
            }
        }
        let known = again.map_or(&[][..], |again| &again.former.files);
        self.develop(head, pending, withheld, known)
    }

    /// All paths that may differ from HEAD, in the index or beside it.
    fn candidates(&self, touched: Option<&[PathBuf]>) -> Result<BTreeSet<PathBuf>, git2::Error> {
        let mut options = git2::DiffOptions::new();
        options
            .include_untracked(true)
            .recurse_untracked_dirs(true)
            .include_typechange(true)
            .update_index(false)
            .skip_binary_check(true);
        if let Some(touched) = touched {
            options.disable_pathspec_match(true);
            for path in touched {
                options.pathspec(path.as_os_str().as_bytes());
            }
        }
        let mut all = BTreeSet::new();
        let index = Some(&self.index);
        let mut gather = |diff: git2::Diff<'_>| {
            for delta in diff.deltas() {
                let sides = [delta.old_file().path(), delta.new_file().path()];
                all.extend(sides.into_iter().flatten().map(Path::to_owned));
            }
        };
        if touched != Some(&[]) {
            let staged =
                self.repository.diff_tree_to_index(Some(&self.tree), index, Some(&mut options))?;
            gather(staged);
            gather(self.repository.diff_index_to_workdir(index, Some(&mut options))?);
        }
        if self.repository.config()?.get_bool("core.ignoreCase").unwrap_or(false)
            && tells_case(self.root)
        {
            let known: HashSet<_> = self.index.iter().map(|entry| entry.path).collect();
            self.overlooked(Path::new(""), &known, &mut all)?;
        }
        Ok(all)
    }

    /// Files that libgit2 takes for others, whose names differ in case alone.
    fn overlooked(
        &self,
        folder: &Path,
        known: &HashSet<Vec<u8>>,
        all: &mut BTreeSet<PathBuf>,
    ) -> Result<(), git2::Error> {
        let Ok(children) = fs::read_dir(self.root.join(folder)) else { return Ok(()) };
        for child in children.flatten() {
            let path = folder.join(child.file_name());
            let is_folder = child.file_type().is_ok_and(|kind| kind.is_dir());
            if child.file_name() == ".git" || self.repository.is_path_ignored(&path)? {
                continue;
            }
            if is_folder && !child.path().join(".git").exists() {
                self.overlooked(&path, known, all)?;
            } else if !is_folder && !known.contains(path.as_os_str().as_bytes()) {
                all.insert(path);
            }
        }
        Ok(())
    }

    fn look(&self, path: &Path, before: Option<Entry>) -> Result<Sight, git2::Error> {
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Ok(Sight::Withheld(Why::NestedRepository));
        }
        let full = self.root.join(path);
        let found = match fs::symlink_metadata(&full) {
            Ok(found) => found,
            Err(cause) => return Ok(self.missing(path, &cause)),
        };
        let kind = found.file_type();
        if kind.is_dir() {
            return Ok(self.submodule(path));
        }
        if !kind.is_file() && !kind.is_symlink() {
            return Ok(Sight::Gone);
        }
        let why = match &self.inspector {
            Some(inspector) => inspector.inspect(path),
            None if found.len() > MOST_HELD => {
                Some(Why::TooLarge { bytes: found.len(), limit: MOST_HELD })
            }
            None => None,
        };
        if let Some(why) = why {
            return Ok(Sight::Withheld(why));
        }
        let written = match kind.is_symlink() {
            true => fs::read_link(&full).map_or_else(
                |cause| Err(git2::Error::from_str(&cause.to_string())),
                |target| self.repository.blob(target.as_os_str().as_bytes()),
            ),
            false => self.repository.blob_path(&full),
        };
        let Ok(id) = written else {
            // gone or locked away since we looked
            let again = fs::symlink_metadata(&full);
            return Ok(again.map_or_else(
                |cause| self.missing(path, &cause),
                |_| Sight::Withheld(Why::Unreadable),
            ));
        };
        let mode = match before {
            _ if kind.is_symlink() => 0o120_000,
            Some(before) if !self.file_mode && before.mode & 0o170_000 == 0o100_000 => before.mode,
            _ if self.file_mode && found.permissions().mode() & 0o100 != 0 => 0o100_755,
            _ => 0o100_644,
        };
        Ok(Sight::There(Entry { id, mode }))
    }

    fn missing(&self, path: &Path, cause: &io::Error) -> Sight {
        let gone = matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        let left_out = || {
            let entry = self.index.get_path(path, 0);
            entry.is_some_and(|entry| entry.flags_extended & SKIP_WORKTREE != 0)
        };
        match gone {
            false => Sight::Withheld(Why::Unreadable),
            true if left_out() => Sight::Nothing,
            true => Sight::Gone,
        }
    }

    /// A folder where an entry is expected: a registered submodule, or files that stand for
    /// themselves.
    fn submodule(&self, path: &Path) -> Sight {
        let module = path.to_str().and_then(|name| self.repository.find_submodule(name).ok());
        match module.and_then(|module| module.workdir_id()) {
            Some(id) => Sight::There(Entry { id, mode: 0o160_000 }),
            None => Sight::Gone,
        }
    }

    fn develop(
        &self,
        head: CommitId,
        pending: BTreeMap<PathBuf, Option<Entry>>,
        withheld: Vec<Withheld>,
        known: &[TouchedFile],
    ) -> Result<Snapshot, git2::Error> {
        let repository = self.repository;
        let changes = pending.iter().map(|(path, entry)| (path.as_path(), *entry));
        let tree = match pending.is_empty() {
            true => self.tree.id(),
            false => graft(repository, &self.tree, changes)?,
        };
        let written = repository.find_tree(tree)?;
        let commit = if tree == self.tree.id() {
            head.clone()
        } else {
            // the same work has the same id, whenever it is looked at
            let by = git2::Signature::new(NAME, EMAIL, &self.head.time())?;
            let says = "A snapshot of work under way\n";
            repository.commit(None, &by, &by, says, &written, &[&self.head])?.into()
        };
        Ok(Snapshot {
            commit,
            tree: tree.to_string(),
            head,
            base: self.base.id().into(),
            files: between(repository, &self.base.tree()?, &written, known)?,
            withheld,
            pending,
        })
    }
}

/// Whether a look at these paths alone tells all.
fn is_partial(touched: &[PathBuf]) -> bool {
    touched.len() <= MAX_TOUCHED
        && touched.iter().all(|path| {
            !path.as_os_str().is_empty()
                && !path.ends_with(".gitignore")
                && !path.ends_with(".gitattributes")
        })
}
