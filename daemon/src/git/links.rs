//! Gitlinks whose commits nobody but this machine's worktrees has: whoever gets such a commit cannot
//! check the submodule out.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::modules::{self, Module, has};
use super::repo::{CommitId, Repository, read};
use super::staging::{Why, Withheld};
use super::worktree::Record;

/// A gitlink that leads nowhere for others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The submodule's path.
    pub path: PathBuf,
    /// The commit of the submodule that it names.
    pub names: String,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.names.get(..10).unwrap_or(&self.names);
        write!(f, "the submodule {} at {short}", self.path.display())
    }
}

impl Repository {
    /// The gitlinks that commits of `head` brought, save those that `published` stand on, and whose
    /// commits neither the checkout's own copy of the submodule has nor a remote of it is known to.
    /// One of a submodule that nobody here has set up is not told: nothing is known of it.
    ///
    /// # Errors
    /// What libgit2 said.
    pub async fn loose_links(
        &self,
        published: Vec<CommitId>,
        head: &CommitId,
    ) -> Result<Vec<Link>, git2::Error> {
        let (common, head) = (self.common_dir().to_owned(), head.clone());
        let checkout = self.checkout().map(Path::to_owned);
        read(move || {
            let repository = git2::Repository::open(&common)?;
            let mut walk = repository.revwalk()?;
            walk.push(head.oid()?)?;
            for tip in published {
                if repository.find_commit(tip.oid()?).is_ok() {
                    walk.hide(tip.oid()?)?;
                }
            }
            let mut links = BTreeSet::new();
            for commit in walk {
                brought(&repository, &repository.find_commit(commit?)?, &mut links)?;
            }
            loose(&repository, &common, checkout.as_deref(), links)
        })
        .await
        .and_then(|found| found)
    }
}

/// What the submodules of a worktree hold that its last commits do not bring to anybody: changes
/// that were not committed there, and commits that are there alone. Blocking.
///
/// # Errors
/// What libgit2 said.
pub(super) fn inside(
    common: &Path,
    repository: &git2::Repository,
    root: &Path,
) -> Result<Vec<Withheld>, git2::Error> {
    let modules = modules::find(common, repository.path(), root);
    let dirty = modules.iter().filter(|module| module.is_dirty());
    let mut all: Vec<_> =
        dirty.map(|module| Withheld { path: module.name.clone(), why: Why::InSubmodule }).collect();
    let tree = repository.head()?.peel_to_tree()?;
    for module in &modules {
        let Ok(entry) = tree.get_path(&module.name) else { continue };
        if entry.kind() == Some(git2::ObjectType::Commit) && module.alone_has(entry.id())? {
            let why = Why::LooseLink { commit: entry.id().to_string() };
            all.push(Withheld { path: module.name.clone(), why });
        }
    }
    Ok(all)
}

/// Adds the gitlinks that the commit has and none of its parents.
fn brought(
    repository: &git2::Repository,
    commit: &git2::Commit<'_>,
    links: &mut BTreeSet<(PathBuf, git2::Oid)>,
) -> Result<(), git2::Error> {
    let after = commit.tree()?;
    let parents = commit.parents().map(|parent| parent.tree()).collect::<Result<Vec<_>, _>>()?;
    let diff = repository.diff_tree_to_tree(parents.first(), Some(&after), None)?;
    for delta in diff.deltas().filter(|delta| delta.new_file().mode() == git2::FileMode::Commit) {
        let Some(path) = delta.new_file().path_bytes() else { continue };
        let path = Path::new(OsStr::from_bytes(path));
        let id = delta.new_file().id();
        let known = |tree: &git2::Tree<'_>| tree.get_path(path).is_ok_and(|had| had.id() == id);
        if !parents.iter().any(known) {
            links.insert((path.to_owned(), id));
        }
    }
    Ok(())
}

fn loose(
    repository: &git2::Repository,
    common: &Path,
    checkout: Option<&Path>,
    links: BTreeSet<(PathBuf, git2::Oid)>,
) -> Result<Vec<Link>, git2::Error> {
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let copies = modules::stores(&common.join("modules"));
    let inner: Vec<Module> = Record::all(common)
        .iter()
        .filter_map(|record| Some(modules::find(common, record.folder(), &record.path()?)))
        .flatten()
        .collect();
    let mut all = Vec::new();
    for (path, id) in links {
        if copies.iter().any(|copy| has(copy, id)) || inner.iter().any(|one| one.shares(id)) {
            continue;
        }
        let mut is_loose = repository.find_commit(id).is_ok();
        for module in &inner {
            is_loose |= module.alone_has(id)?;
        }
        let set_up = checkout.and_then(|checkout| checkout.join(&path).canonicalize().ok());
        let of_copy = |copy: &PathBuf| {
            let place = git2::Repository::open(copy).ok()?.workdir()?.canonicalize().ok();
            (place == set_up).then_some(())
        };
        if is_loose || (set_up.is_some() && copies.iter().any(|copy| of_copy(copy).is_some())) {
            all.push(Link { path, names: id.to_string() });
        }
    }
    Ok(all)
}
