//! Files that git does not check out and a worktree needs all the same: those ignored ones that
//! `.worktreeinclude` lists, those that the user names, and what an earlier task left uncommitted.
//!
//! Nothing is ever read from outside the folder that is copied from, or written outside the
//! worktree, whatever links lie on the way. Runs before any agent does: nobody moves the folders
//! meanwhile but the user.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use super::command::{CommandError, Git};
use super::parse::{self, ParseError, Status};
use super::repo::read;
use hayward_shared::path::inside;

/// Lists the ignored files to bring along, in the syntax of `.gitignore`, at the top of a checkout.
pub const INCLUDE_FILE: &str = ".worktreeinclude";

/// Files brought along at the most: a list that names a dependency folder is meant, one that
/// names the world is a mistake.
pub const MOST_FILES: usize = 200_000;

/// Bytes brought along at the most.
pub const MOST_BYTES: u64 = 8 << 30;

/// Skipped files that are named; the rest are counted.
const MOST_NAMED: usize = 50;

/// What to bring, from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bring {
    /// The top of the checkout or worktree that has the files.
    pub from: PathBuf,
    /// Files or folders in it that must come along, relative to its top.
    pub required: Vec<String>,
    /// Whether to bring what its `.worktreeinclude` lists.
    pub included: bool,
    /// Whether to bring its uncommitted changes: changed and untracked files, and deletions.
    pub uncommitted: bool,
}

/// What was brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Files and links that were copied.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What was listed and not copied, with the reason, at most 50.
    pub skipped: Vec<(PathBuf, &'static str)>,
}

/// Why the files were not brought. The worktree may hold some of them; it is not used.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// The path leads, or could lead, out of the checkout.
    #[error("'{0}' cannot be copied: name a file inside the checkout, without '..'")]
    Outside(String),
    /// A file that must come along is not there.
    #[error(
        "'{path}' is to be copied but is not in {from}: make it there, or take it off the list"
    )]
    Missing {
        /// The path that was named.
        path: String,
        /// Where it was looked for.
        from: PathBuf,
    },
    /// It is more than a worktree should be given.
    #[error(
        "more than {MOST_FILES} files or {} GiB are to be copied from {from}: shorten the list",
        MOST_BYTES >> 30
    )]
    TooMuch {
        /// The checkout.
        from: PathBuf,
    },
    /// A file could not be copied.
    #[error("{path} could not be copied")]
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Git could not list the files.
    #[error("the files to copy from {from} could not be listed")]
    Git {
        /// The checkout.
        from: PathBuf,
        /// The command that failed.
        #[source]
        source: CommandError,
    },
    /// Git's data cannot be read.
    #[error("the repository of {from} cannot be read: check it with `git fsck`")]
    Unreadable {
        /// The checkout.
        from: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// Git wrote something unknown.
    #[error("the list of files to copy from {from} could not be read")]
    Parse {
        /// The checkout.
        from: PathBuf,
        /// Why.
        #[source]
        source: ParseError,
    },
}

/// Copies the files into the worktree at `to`. Files that the worktree has already are left alone
/// where they were listed, and replaced where they were named or are uncommitted changes.
///
/// # Errors
/// [`BringError`]; the worktree is then to be thrown away.
pub async fn bring(order: Bring, to: PathBuf) -> Result<Brought, BringError> {
    let listed = if order.included { listed(&order.from).await? } else { Vec::new() };
    let changed = if order.uncommitted { changed(&order.from).await? } else { Vec::new() };
    let from = order.from.clone();
    tokio::task::spawn_blocking(move || {
        let mut copy =
            Copy { from: order.from, to, done: Brought::default(), seen: BTreeSet::new() };
        // what is gone first: a file may stand where a folder was, and the other way round
        changed.iter().try_for_each(|path| copy.clear(path))?;
        changed.iter().try_for_each(|path| copy.change(path))?;
        for path in &order.required {
            copy.required(path)?;
        }
        for path in listed {
            copy.listed(&path)?;
        }
        Ok(copy.done)
    })
    .await
    .map_err(|cause| BringError::Copy { path: from, source: io::Error::other(cause) })?
}

/// The files that git ignores and `.worktreeinclude` lists.
async fn listed(from: &Path) -> Result<Vec<PathBuf>, BringError> {
    if !from.join(INCLUDE_FILE).is_file() {
        return Ok(Vec::new());
    }
    let failed = |source| BringError::Git { from: from.to_owned(), source };
    let matching = Git::in_worktree(from)
        .args(["ls-files", "-z", "--others", "--ignored", "--exclude-from", INCLUDE_FILE])
        .run()
        .await
        .map_err(failed)?
        .stdout;
    let place = from.to_owned();
    read(move || {
        let repository = git2::Repository::open(place)?;
        let mut kept = Vec::new();
        for path in matching.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            let path = Path::new(OsStr::from_bytes(path));
            if repository.is_path_ignored(path)? {
                kept.push(path.to_owned());
            }
        }
        Ok(kept)
    })
    .await
    .and_then(|kept| kept)
    .map_err(|source| BringError::Unreadable { from: from.to_owned(), source })
}

/// The files that differ from the commit that the worktree stands at.
async fn changed(from: &Path) -> Result<Vec<PathBuf>, BringError> {
    let output = Git::in_worktree(from)
        .args(["status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames"])
        .arg("--ignore-submodules=dirty")
        .run()
        .await
        .map_err(|source| BringError::Git { from: from.to_owned(), source })?;
    let entries = parse::status(&output.stdout)
        .map_err(|source| BringError::Parse { from: from.to_owned(), source })?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| match entry {
            Status::Tracked(tracked) => Some(tracked.path),
            Status::Unmerged(path) | Status::Untracked(path) => Some(path),
            Status::Ignored(_) => None,
        })
        .collect())
}

struct Copy {
    from: PathBuf,
    to: PathBuf,
    done: Brought,
    seen: BTreeSet<PathBuf>,
}

impl Copy {
    fn skip(&mut self, path: &Path, why: &'static str) {
        if self.done.skipped.len() < MOST_NAMED {
            self.done.skipped.push((path.to_owned(), why));
        }
    }

    /// What stands at `path` in the folder that is copied from; what lies behind a link does not.
    fn source(&self, path: &Path) -> Option<fs::Metadata> {
        let mut folder = self.from.clone();
        for part in path.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            fs::symlink_metadata(&folder).ok().filter(fs::Metadata::is_dir)?;
        }
        fs::symlink_metadata(self.from.join(path)).ok()
    }

    /// Takes away what an uncommitted change took away: a file that is gone, or is a folder now, and
    /// the folders that are empty with it.
    fn clear(&mut self, path: &Path) -> Result<(), BringError> {
        let failed = |source| BringError::Copy { path: path.to_owned(), source };
        if self.source(path).is_some_and(|found| !found.is_dir()) {
            return Ok(());
        }
        let mut at = self.to.clone();
        for part in path.components() {
            match fs::symlink_metadata(&at) {
                Ok(found) if found.is_dir() => at.push(part),
                _ => return Ok(()),
            }
        }
        match fs::symlink_metadata(&at) {
            Ok(found) if !found.is_dir() => fs::remove_file(&at).map_err(failed)?,
            _ => return Ok(()),
        }
        for folder in path.ancestors().skip(1).filter(|folder| *folder != Path::new("")) {
            let stays = self.source(folder).is_some_and(|found| found.is_dir());
            if stays || fs::remove_dir(self.to.join(folder)).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// A change that was not committed: the file as it is now.
    fn change(&mut self, path: &Path) -> Result<(), BringError> {
        match self.source(path) {
            None => Ok(()),
            Some(found) if !found.is_dir() => self.one(path, &found, true),
            // what is in a folder is a change of its own
            Some(_) if self.from.join(path).join(".git").symlink_metadata().is_err() => Ok(()),
            Some(_) => {
                self.skip(path, "it is a repository of its own");
                Ok(())
            }
        }
    }

    fn required(&mut self, named: &str) -> Result<(), BringError> {
        let outside = || BringError::Outside(named.to_owned());
        let path = inside(named).ok_or_else(outside)?;
        let found = self.from.join(&path);
        if fs::symlink_metadata(&found).is_err() {
            return Err(BringError::Missing { path: named.to_owned(), from: self.from.clone() });
        }
        // a link on the way, or at its end, may lead out
        let real = found.canonicalize().map_err(|_| outside())?;
        let top = self.from.canonicalize().map_err(|_| outside())?;
        if !real.starts_with(&top) || real.starts_with(top.join(".git")) {
            return Err(outside());
        }
        self.tree(&path, true)
    }

    fn listed(&mut self, path: &Path) -> Result<(), BringError> {
        if fs::symlink_metadata(self.to.join(path)).is_ok() {
            return Ok(());
        }
        self.tree(path, false)
    }

    /// Copies a file, a link, or a folder with all that is in it.
    fn tree(&mut self, path: &Path, replace: bool) -> Result<(), BringError> {
        let failed = |source| BringError::Copy { path: path.to_owned(), source };
        let meta = fs::symlink_metadata(self.from.join(path)).map_err(failed)?;
        if !meta.is_dir() {
            return self.one(path, &meta, replace);
        }
        if path.file_name() == Some(OsStr::new(".git"))
            || self.from.join(path).join(".git").exists()
        {
            self.skip(path, "it is a repository of its own");
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(self.from.join(path)).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        names.iter().try_for_each(|name| self.tree(&path.join(name), replace))
    }

    fn one(&mut self, path: &Path, meta: &fs::Metadata, replace: bool) -> Result<(), BringError> {
        let failed = |source| BringError::Copy { path: path.to_owned(), source };
        if !self.seen.insert(path.to_owned()) || !self.room(path, replace)? {
            return Ok(());
        }
        if self.done.files >= MOST_FILES || self.done.bytes + meta.len() > MOST_BYTES {
            return Err(BringError::TooMuch { from: self.from.clone() });
        }
        let (source, target) = (self.from.join(path), self.to.join(path));
        let there = fs::symlink_metadata(&target).ok();
        if there.as_ref().is_some_and(|there| there.is_dir() || !replace) {
            self.skip(path, "the worktree has it already");
            return Ok(());
        }
        let leads_to = meta.is_symlink().then(|| fs::read_link(&source)).transpose();
        let leads_to = leads_to.map_err(failed)?;
        if leads_to.as_deref().is_some_and(|leads_to| !stays_inside(path, leads_to)) {
            self.skip(path, "it is a link that leads out of the checkout");
            return Ok(());
        }
        if leads_to.is_none() && !meta.is_file() {
            self.skip(path, "it is neither file, folder nor link");
            return Ok(());
        }
        if there.is_some() {
            fs::remove_file(&target).map_err(failed)?;
        }
        match leads_to {
            Some(leads_to) => symlink(leads_to, &target).map_err(failed)?,
            // shares the blocks where the file system can
            None => fs::copy(&source, &target).map(drop).map_err(failed)?,
        }
        self.done.files += 1;
        self.done.bytes += meta.len();
        Ok(())
    }

    /// Makes the folders above `path` in the worktree; `false` where a file or link is in the way
    /// of what need not come.
    fn room(&mut self, path: &Path, must: bool) -> Result<bool, BringError> {
        let failed = |source| BringError::Copy { path: path.to_owned(), source };
        let mut folder = self.to.clone();
        for part in path.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            match fs::symlink_metadata(&folder) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) if must => return Err(failed(io::ErrorKind::NotADirectory.into())),
                Ok(_) => {
                    self.skip(path, "a file or link of the worktree is in the way");
                    return Ok(false);
                }
                Err(_) => fs::create_dir(&folder).map_err(failed)?,
            }
        }
        Ok(true)
    }
}

/// Whether a link at `path`, read from its own folder, ends below the top.
fn stays_inside(path: &Path, leads_to: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in leads_to.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}
