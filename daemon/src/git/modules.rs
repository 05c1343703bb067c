//! The repositories inside a worktree: its submodules, and what an agent made one by hand.
//!
//! Their commits lie in stores of their own that go with the worktree. A commit of one is safe
//! where the user's checkout has it in its own copy of the submodule, or where a remote-tracking
//! branch shows that a remote has it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::adrift::{pending, plans, staged, stood};
use super::carry::{carry, is_held, tips};
use super::snapshot::whole;
use super::worktree::{EMAIL, NAME};

/// Repositories inside repositories inside …: deeper ones are a loop, not a project.
const MAX_DEPTH: usize = 8;

/// The mode of a gitlink in an index.
const GITLINK: u32 = 0o160_000;

/// A repository inside a worktree.
#[derive(Clone, Debug)]
pub(super) struct Module {
    git_dir: PathBuf,
    /// Its name for people: the path from the worktree's top, where it has files there.
    pub(super) name: PathBuf,
    /// Where its files are, inside the worktree.
    root: Option<PathBuf>,
    /// The user's checkout's own copy, if it has one.
    copy: Option<PathBuf>,
    /// Whether its store goes with the worktree.
    goes: bool,
}

/// What a module has that is nowhere else.
#[derive(Clone, Debug)]
pub(super) struct Stake {
    /// Its name for people.
    pub(super) name: PathBuf,
    /// The commits that hold it.
    pub(super) tips: Vec<git2::Oid>,
}

/// Why the work in a module cannot be kept.
#[derive(Debug)]
pub(super) enum Unkeepable {
    /// Files that git cannot hold, or a history that was cut short, in words.
    Files(Vec<String>),
    /// Git's data cannot be read or written.
    Git(git2::Error),
}

impl From<git2::Error> for Unkeepable {
    fn from(cause: git2::Error) -> Self {
        Self::Git(cause)
    }
}

/// The modules of the worktree at `path` whose git directory is `git_dir`; those whose files are
/// gone too. Blocking.
pub(super) fn find(common: &Path, git_dir: &Path, path: &Path) -> Vec<Module> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let here = path.canonicalize().ok().filter(|_| !path.is_symlink());
    let top = git_dir.join("modules");
    for store in stores(&top) {
        let name = store.strip_prefix(&top).unwrap_or(&store).to_owned();
        let copy = Some(common.join("modules").join(&name)).filter(|copy| copy.is_dir());
        let root = here.as_deref().and_then(|here| root_of(&store, here));
        let name = match (&root, &here) {
            (Some(root), Some(here)) => root.strip_prefix(here).unwrap_or(root).to_owned(),
            _ => name,
        };
        seen.extend(store.canonicalize());
        found.push(Module { git_dir: store, name, root, copy, goes: true });
    }
    if let Some(here) = here {
        let kept = [here.as_path(), git_dir];
        nested(&here, &here, kept, MAX_DEPTH, &mut seen, &mut found);
    }
    found
}

/// The stores of submodules in a `modules` folder, those of their own submodules too. Blocking.
pub(super) fn stores(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let store = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if store.join("objects").is_dir() && store.join("HEAD").exists() {
                open.push(store.join("modules"));
                found.push(store);
            } else {
                open.push(store);
            }
        }
    }
    found
}

/// Where the files of a submodule's store are, if that is in the worktree and says so too.
fn root_of(store: &Path, worktree: &Path) -> Option<PathBuf> {
    let repository = git2::Repository::open(store).ok()?;
    let root = repository.workdir()?.canonicalize().ok()?;
    let there = git2::Repository::open(&root).ok()?;
    let same = there.path().canonicalize().ok()? == store.canonicalize().ok()?;
    (same && root.starts_with(worktree) && root != worktree).then_some(root)
}

/// The repositories that stand where gitlinks of the one at `at` are.
fn nested(
    at: &Path,
    top: &Path,
    kept: [&Path; 2],
    depth: usize,
    seen: &mut BTreeSet<PathBuf>,
    found: &mut Vec<Module>,
) {
    let Ok(repository) = git2::Repository::open(at) else { return };
    for link in gitlinks(&repository) {
        let root = at.join(link);
        let is_inside = root.canonicalize().is_ok_and(|real| real.starts_with(top));
        if depth == 0 || !is_inside || root.join(".git").symlink_metadata().is_err() {
            continue;
        }
        let Ok(inner) = git2::Repository::open(&root) else { continue };
        let git_dir = inner.path().to_owned();
        if git_dir.canonicalize().is_ok_and(|git_dir| seen.insert(git_dir)) {
            let name = root.strip_prefix(top).unwrap_or(&root).to_owned();
            let store = inner.commondir().canonicalize().unwrap_or_default();
            let goes = kept
                .iter()
                .any(|kept| kept.canonicalize().is_ok_and(|kept| store.starts_with(kept)));
            found.push(Module { git_dir, name, root: Some(root.clone()), copy: None, goes });
        }
        nested(&root, top, kept, depth - 1, seen, found);
    }
}

/// The paths of the gitlinks in a repository's index. What is a gitlink in HEAD alone is untracked.
fn gitlinks(repository: &git2::Repository) -> BTreeSet<PathBuf> {
    let raw = fs::read(repository.path().join("index")).unwrap_or_default();
    if !may_link(&raw) {
        return BTreeSet::new();
    }
    let Ok(index) = repository.index() else { return BTreeSet::new() };
    let links = index.iter().filter(|entry| entry.mode == GITLINK);
    links.map(|entry| Path::new(OsStr::from_bytes(&entry.path)).to_owned()).collect()
}

/// Whether an index may hold a gitlink, without reading its entries: their modes stand in it as
/// they are. One that borrows from another may.
fn may_link(index: &[u8]) -> bool {
    let mode = GITLINK.to_be_bytes();
    index.windows(mode.len()).any(|bytes| bytes == mode || bytes == b"link")
}

/// What of the modules is nowhere else, each with whose it is. Blocking.
///
/// # Errors
/// As [`Module::stake`].
pub(super) fn stakes(
    common: &Path,
    git_dir: &Path,
    path: &Path,
) -> Result<Vec<(Module, Stake)>, Unkeepable> {
    let mut all = Vec::new();
    for module in find(common, git_dir, path) {
        if let Some(stake) = module.stake()? {
            all.push((module, stake));
        }
    }
    all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    Ok(all)
}

impl Module {
    /// What of it is nowhere else; objects may be written to its own store. Blocking.
    ///
    /// # Errors
    /// [`Unkeepable`]: then nobody may take the worktree away.
    pub(super) fn stake(&self) -> Result<Option<Stake>, Unkeepable> {
        let repository = git2::Repository::open(&self.git_dir)?;
        let mut all = Vec::new();
        let head = repository.head().and_then(|head| head.peel_to_commit());
        match &self.root {
            Some(root) if head.is_ok() || holds_files(root) => {
                all.extend(self.work(&repository, root)?);
            }
            _ => {
                if let Ok(head) = &head {
                    all.push(head.id());
                    all.extend(staged(&repository, head, head.tree_id())?);
                }
            }
        }
        if self.goes {
            all.extend(tips(&repository, |name| name.starts_with(b"refs/remotes/"))?);
            all.extend(pending(&self.git_dir));
            if let Ok(head) = &head {
                all.extend(plans(&repository, &self.git_dir, head)?);
            }
            // a gitlink may name what no ref of the submodule does, once its HEAD moved on
            all.extend(stood(&repository));
        }
        let mut known = BTreeSet::new();
        all.retain(|tip| known.insert(*tip) && repository.find_commit(*tip).is_ok());
        let mut tips = Vec::new();
        for tip in all {
            if !is_held(&repository, tip, &tips)? && !self.is_safe(&repository, tip)? {
                tips.push(tip);
            }
        }
        if tips.is_empty() {
            return Ok(None);
        }
        if repository.is_shallow() {
            let text = format!("{} is a shallow clone with work of its own", self.name.display());
            return Err(Unkeepable::Files(vec![text]));
        }
        Ok(Some(Stake { name: self.name.clone(), tips }))
    }

    /// One commit that holds its files as they lie there, HEAD itself when that does; and another
    /// that holds what is staged, where that is something else.
    fn work(
        &self,
        repository: &git2::Repository,
        root: &Path,
    ) -> Result<Vec<git2::Oid>, Unkeepable> {
        let taken = whole(repository, root)?;
        if !taken.withheld.is_empty() {
            let one = |file: &super::staging::Withheld| {
                format!("{} {}", self.name.join(&file.path).display(), file.why)
            };
            return Err(Unkeepable::Files(taken.withheld.iter().map(one).collect()));
        }
        let head = repository.find_commit(taken.head.oid()?)?;
        let tree = repository.find_tree(git2::Oid::from_str(&taken.tree)?)?;
        let mut all = Vec::new();
        if tree.id() == head.tree_id() {
            all.push(head.id());
        } else {
            let by = git2::Signature::new(NAME, EMAIL, &head.time())?;
            let says = "Work that was left in a submodule\n";
            all.push(repository.commit(None, &by, &by, says, &tree, &[&head])?);
        }
        all.extend(staged(repository, &head, tree.id())?);
        Ok(all)
    }

    /// Whether the commit is somewhere that stays.
    fn is_safe(&self, repository: &git2::Repository, tip: git2::Oid) -> Result<bool, git2::Error> {
        if !self.goes && is_held(repository, tip, &tips(repository, |_| false)?)? {
            return Ok(true);
        }
        if self.copy.as_deref().is_some_and(|copy| has(copy, tip)) {
            return Ok(true);
        }
        let mut elsewhere = tips(repository, |name| !name.starts_with(b"refs/remotes/"))?;
        if let Some(copy) = self.copy.as_deref().and_then(|copy| git2::Repository::open(copy).ok())
        {
            elsewhere.extend(all_tips(&copy)?);
        }
        is_held(repository, tip, &elsewhere)
    }

    /// Whether the commit is in it, and nowhere else that is known. Blocking.
    ///
    /// # Errors
    /// What libgit2 said.
    pub(super) fn alone_has(&self, commit: git2::Oid) -> Result<bool, git2::Error> {
        let repository = git2::Repository::open(&self.git_dir)?;
        Ok(repository.find_commit(commit).is_ok() && !self.is_safe(&repository, commit)?)
    }

    /// Whether the commit is in it, and somewhere that stays too. Blocking.
    pub(super) fn shares(&self, commit: git2::Oid) -> bool {
        let shared = git2::Repository::open(&self.git_dir).and_then(|repository| {
            Ok(repository.find_commit(commit).is_ok() && self.is_safe(&repository, commit)?)
        });
        shared.unwrap_or(false)
    }

    /// Whether its files hold what no commit of it has. Blocking.
    pub(super) fn is_dirty(&self) -> bool {
        let look = |root: &Path| {
            let repository = git2::Repository::open(&self.git_dir).ok()?;
            let head = repository.head().and_then(|head| head.peel_to_tree()).ok()?;
            let taken = whole(&repository, root).ok()?;
            Some(taken.tree != head.id().to_string() || !taken.withheld.is_empty())
        };
        self.root.as_deref().and_then(look).unwrap_or(false)
    }

    /// Writes the commits of its stake into `into`. Blocking.
    ///
    /// # Errors
    /// What libgit2 said.
    pub(super) fn hand_over(
        &self,
        stake: &Stake,
        into: &git2::Repository,
    ) -> Result<(), git2::Error> {
        carry(&git2::Repository::open(&self.git_dir)?, &stake.tips, into)
    }
}

/// Whether a folder holds anything but its `.git`.
fn holds_files(root: &Path) -> bool {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name() != ".git")
}

/// Whether a repository has the commit, under a ref or as its HEAD. Blocking.
pub(super) fn has(place: &Path, commit: git2::Oid) -> bool {
    let held = git2::Repository::open(place).and_then(|repository| {
        repository.find_commit(commit)?;
        is_held(&repository, commit, &all_tips(&repository)?)
    });
    held.unwrap_or(false)
}

fn all_tips(repository: &git2::Repository) -> Result<Vec<git2::Oid>, git2::Error> {
    let mut all = tips(repository, |_| false)?;
    all.extend(repository.head().and_then(|head| head.peel_to_commit()).ok().map(|one| one.id()));
    Ok(all)
}
