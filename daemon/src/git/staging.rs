//! What of an agent's changes goes into the commit, and what is withheld.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::configured::filters;
use super::parse::{Status, Tracked};
use super::secrets;

/// The largest file that is committed unless told: hosts refuse over 100 MB, warn at 50, and what
/// an agent makes by hand is far smaller.
pub const MAX_FILE: u64 = 20 * 1024 * 1024;

/// The mode of a repository inside a repository.
const GITLINK: &str = "160000";

/// A changed file that stays out of the commit and untouched in the worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// The file, from the worktree's top; a nested repository ends in `/`.
    pub path: PathBuf,
    /// Why.
    pub why: Why,
}

/// Why a file is withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its name is one that holds secrets by custom, and the base does not have it.
    SecretName,
    /// It holds a secret that the base's version does not hold.
    SecretContent {
        /// What kind of secret.
        what: &'static str,
    },
    /// It is larger than allowed.
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The most bytes allowed.
        limit: u64,
    },
    /// It is a repository of its own and no registered submodule.
    NestedRepository,
    /// Git would store it through a program of the repository (LFS, git-crypt), and we run none.
    Filtered {
        /// The name of the filter.
        filter: String,
    },
    /// It cannot be read.
    Unreadable,
    /// Files inside a submodule were changed: only a commit in there can hold that.
    InSubmodule,
    /// It is committed, but names a commit of a submodule that is in this worktree alone.
    LooseLink {
        /// The commit.
        commit: String,
    },
}

impl fmt::Display for Why {
    /// For people, as the rest of a sentence that begins with the file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SecretName => f.write_str("has the name of a file that holds secrets"),
            Self::SecretContent { what } => write!(f, "holds what looks like a {what}"),
            Self::TooLarge { bytes, limit } => {
                write!(f, "has {} MiB, more than the {} allowed", bytes >> 20, limit >> 20)
            }
            Self::NestedRepository => f.write_str("is a git repository of its own"),
            Self::Filtered { filter } => write!(f, "is stored through the git filter '{filter}'"),
            Self::Unreadable => f.write_str("cannot be read"),
            Self::InSubmodule => f.write_str("has changes that only a commit inside it can hold"),
            Self::LooseLink { commit } => {
                let short = commit.get(..10).unwrap_or(commit);
                write!(f, "is committed at {short}, which is in this worktree alone: push it there")
            }
        }
    }
}

/// What to do to the index of a worktree.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Files whose content goes into the index.
    pub(super) add: Vec<PathBuf>,
    /// Entries to set or to drop, as `git update-index -z --index-info` reads them.
    pub(super) entries: Vec<u8>,
    /// Whether files were deleted, or the agent staged something that may stay.
    pub(super) has_other: bool,
    /// What stays out.
    pub(super) withheld: Vec<Withheld>,
    /// Files with an unresolved conflict: nothing can be committed.
    pub(super) conflicts: Vec<PathBuf>,
}

impl Plan {
    /// Whether anything is there to commit.
    pub(super) fn has_work(&self) -> bool {
        self.has_other || !self.add.is_empty()
    }

    /// The files to add, as `git update-index -z --stdin` reads them.
    pub(super) fn added(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for path in &self.add {
            bytes.extend_from_slice(path.as_os_str().as_bytes());
            bytes.push(0);
        }
        bytes
    }

    fn entry(&mut self, mode: &str, blob: &str, path: &Path) {
        let mode = if mode == "000000" { "0" } else { mode };
        self.entries.extend_from_slice(format!("{mode} {blob}\t").as_bytes());
        self.entries.extend_from_slice(path.as_os_str().as_bytes());
        self.entries.push(0);
    }
}

/// Looks at the changed files of a worktree. Blocking.
pub(super) struct Inspector<'repository> {
    repository: &'repository git2::Repository,
    root: PathBuf,
    base: git2::Tree<'repository>,
    filters: BTreeSet<String>,
    max_file: u64,
}

impl<'repository> Inspector<'repository> {
    pub(super) fn new(
        repository: &'repository git2::Repository,
        root: &Path,
        base: git2::Oid,
        max_file: u64,
    ) -> Result<Self, git2::Error> {
        Ok(Self {
            repository,
            root: root.to_owned(),
            base: repository.find_commit(base)?.tree()?,
            filters: filters(repository.path())
                .map_err(|cause| git2::Error::from_str(&cause.to_string()))?,
            max_file,
        })
    }

    /// Sorts the entries of a status into what is committed and what is not.
    pub(super) fn plan(&self, entries: Vec<Status>) -> Plan {
        let mut plan = Plan::default();
        for entry in entries {
            match entry {
                Status::Unmerged(path) => plan.conflicts.push(path),
                Status::Ignored(_) => {}
                Status::Untracked(path) if path.as_os_str().as_bytes().ends_with(b"/") => {
                    plan.withheld.push(Withheld { path, why: Why::NestedRepository });
                }
                Status::Untracked(path) => match self.inspect(&path) {
                    Some(why) => plan.withheld.push(Withheld { path, why }),
                    None => plan.add.push(path),
                },
                Status::Tracked(tracked) => self.place(tracked, &mut plan),
            }
        }
        plan
    }

    fn place(&self, tracked: Tracked, plan: &mut Plan) {
        let nested = tracked.index_mode == GITLINK;
        let why = match (tracked.staged, tracked.unstaged) {
            (_, b'D') => {
                plan.has_other = true;
                plan.entry("0", &"0".repeat(tracked.head_blob.len()), &tracked.path);
                return;
            }
            (b'D', _) => None,
            _ if nested && tracked.head_mode != GITLINK => {
                (!self.is_submodule(&tracked.path)).then_some(Why::NestedRepository)
            }
            _ if nested => None,
            _ => self.inspect(&tracked.path),
        };
        match why {
            Some(why) => {
                if tracked.staged != b'.' {
                    plan.entry(&tracked.head_mode, &tracked.head_blob, &tracked.path);
                }
                plan.withheld.push(Withheld { path: tracked.path, why });
            }
            None if tracked.unstaged == b'.' => plan.has_other = true,
            None => plan.add.push(tracked.path),
        }
    }

    /// Why the file must stay out, if it must.
    pub(super) fn inspect(&self, path: &Path) -> Option<Why> {
        let before = self.base.get_path(path).ok();
        if before.is_none() && has_secret_name(path) {
            return Some(Why::SecretName);
        }
        let full = self.root.join(path);
        let Ok(found) = fs::symlink_metadata(&full) else { return Some(Why::Unreadable) };
        if !found.is_file() {
            return None;
        }
        if found.len() > self.max_file {
            return Some(Why::TooLarge { bytes: found.len(), limit: self.max_file });
        }
        if let Some(filter) = self.filter(path) {
            return Some(Why::Filtered { filter });
        }
        let Ok(text) = fs::read(&full) else { return Some(Why::Unreadable) };
        let before = before.and_then(|entry| self.repository.find_blob(entry.id()).ok());
        fresh_secret(before.as_ref().map_or(&[], |blob| blob.content()), &text)
    }

    /// Files that commits between base and `head` brought and that would have been withheld: the
    /// agent committed them itself, so a push must be refused.
    pub(super) fn exposed(&self, head: git2::Oid) -> Result<Vec<Withheld>, git2::Error> {
        let after = self.repository.find_commit(head)?.tree()?;
        exposed_between(self.repository, Some(&self.base), &after, self.max_file)
    }

    fn filter(&self, path: &Path) -> Option<String> {
        let flags = git2::AttrCheckFlags::FILE_THEN_INDEX;
        let value = self.repository.get_attr_bytes(path, "filter", flags).ok()??;
        let name = String::from_utf8_lossy(value).into_owned();
        self.filters.contains(&name).then_some(name)
    }

    fn is_submodule(&self, path: &Path) -> bool {
        path.to_str().is_some_and(|name| {
            self.repository
                .find_submodule(name)
                .is_ok_and(|module| module.opt_url_bytes().is_some())
        })
    }
}

fn has_secret_name(path: &Path) -> bool {
    path.file_name().is_some_and(|name| secrets::name_is_secret(&name.to_string_lossy()))
}

/// The files that `after` has and `before` has not so, and that no commit should hold.
pub(super) fn exposed_between(
    repository: &git2::Repository,
    before: Option<&git2::Tree<'_>>,
    after: &git2::Tree<'_>,
    max_file: u64,
) -> Result<Vec<Withheld>, git2::Error> {
    let diff = repository.diff_tree_to_tree(before, Some(after), None)?;
    let mut all = Vec::new();
    for delta in diff.deltas().filter(|delta| delta.status() != git2::Delta::Deleted) {
        let Some(path) = delta.new_file().path() else { continue };
        let Ok(blob) = repository.find_blob(delta.new_file().id()) else { continue };
        let before = repository.find_blob(delta.old_file().id()).ok();
        let size = u64::try_from(blob.size()).unwrap_or(u64::MAX);
        let why = if before.is_none() && has_secret_name(path) {
            Some(Why::SecretName)
        } else if size > max_file {
            Some(Why::TooLarge { bytes: size, limit: max_file })
        } else {
            fresh_secret(before.as_ref().map_or(&[], |blob| blob.content()), blob.content())
        };
        all.extend(why.map(|why| Withheld { path: path.to_owned(), why }));
    }
    Ok(all)
}

fn fresh_secret(before: &[u8], after: &[u8]) -> Option<Why> {
    let found = secrets::in_text(after);
    if found.is_empty() {
        return None;
    }
    let known = secrets::in_text(before);
    found.difference(&known).next().map(|found| Why::SecretContent { what: found.what })
}
