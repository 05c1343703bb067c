//! Finds the repository and the commit that a task starts from.

use crate::cli::context::homely;
use git2::{ErrorCode, Repository};
use hayward_daemon::config::nearest;
use hayward_shared::address::holds_password;
use hayward_shared::fault::{Code, Fault};
use hayward_shared::path::is_url;
use std::path::{Path, PathBuf};

/// How many names are offered for one that is not there.
const OFFERED: usize = 3;

/// Where a task starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// The repository's folder, without links in its path; or its URL.
    pub(super) root: String,
    /// What the base was called: a branch, tag or commit. Of a URL only what was said.
    pub(super) name: Option<String>,
    /// The commit that it names now; of a URL, the daemon will know.
    pub(super) commit: Option<String>,
    /// Whether the base is a branch, into which work can go; of a URL, the daemon will know.
    pub(super) is_branch: bool,
}

impl Base {
    /// Whether the repository is on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.commit.is_some()
    }
}

/// The repository around `repo`, or around the current folder, and the commit that `base` names in
/// it, or HEAD.
pub(super) fn find(repo: Option<&str>, base: Option<&str>) -> Result<Base, Fault> {
    let start = PathBuf::from(repo.unwrap_or("."));
    if let Some(url) = repo.filter(|repo| is_url(repo) && !start.exists()) {
        if holds_password(url) {
            let message = "the URL holds a password, which would be stored with the task";
            return Err(Fault::new(Code::Invalid, message)
                .with_hint("leave it out: git's own credential helpers are asked for it"));
        }
        let name = base.map(str::to_owned);
        return Ok(Base { root: url.to_owned(), name, commit: None, is_branch: true });
    }
    let repository = open(&start)?;
    let root = root(&repository)?;
    let (name, commit) = resolve(&repository, base, &root)?;
    let text = root.to_str().ok_or_else(|| {
        Fault::new(Code::Invalid, format!("the path {} is no UTF-8", root.display()))
    })?;
    let is_branch = is_branch(&repository, &name);
    Ok(Base { root: text.to_owned(), name: Some(name), commit: Some(commit), is_branch })
}

/// The repository around `repo`, or around the current folder, whatever it holds.
pub(crate) fn around(repo: Option<&str>) -> Result<String, Fault> {
    let root = root(&open(Path::new(repo.unwrap_or(".")))?)?;
    root.into_os_string().into_string().map_err(|path| {
        Fault::new(Code::Invalid, format!("the path {} is no UTF-8", Path::new(&path).display()))
    })
}

fn open(start: &Path) -> Result<Repository, Fault> {
    Repository::discover(start).map_err(|error| {
        let place = start.canonicalize().unwrap_or_else(|_| start.to_owned());
        let shown = homely(&place);
        match error.code() {
            ErrorCode::NotFound if start.exists() => {
                Fault::new(Code::Invalid, format!("no git repository at {shown} or above it"))
                    .with_hint("go into one, name one with --repo PATH, or make one: git init")
            }
            ErrorCode::NotFound => Fault::new(Code::Invalid, format!("there is no folder {shown}")),
            ErrorCode::Owner => {
                let message = format!("the repository at {shown} belongs to another user");
                Fault::new(Code::Refused, message)
                    .with_hint("git config --global --add safe.directory PATH trusts it")
            }
            _ => unreadable(&shown, &error),
        }
    })
}

fn unreadable(shown: &str, error: &git2::Error) -> Fault {
    let message = format!("the repository at {shown} cannot be read: {}", error.message());
    Fault::new(Code::Failed, message)
}

fn root(repository: &Repository) -> Result<PathBuf, Fault> {
    let folder = repository.workdir().unwrap_or_else(|| repository.path());
    folder.canonicalize().map_err(|error| {
        let shown = folder.display();
        Fault::new(Code::Failed, format!("the folder {shown} cannot be entered: {error}"))
    })
}

/// The base's name, and the commit that it names now.
fn resolve(
    repository: &Repository,
    base: Option<&str>,
    root: &Path,
) -> Result<(String, String), Fault> {
    let shown = homely(root);
    let Some(base) = base.filter(|base| *base != "HEAD") else {
        let head = repository.head().map_err(|error| match error.code() {
            ErrorCode::UnbornBranch | ErrorCode::NotFound => {
                Fault::new(Code::Invalid, format!("the repository at {shown} has no commit yet"))
                    .with_hint("make one: git commit --allow-empty -m start")
            }
            _ => unreadable(&shown, &error),
        })?;
        let commit = head.peel_to_commit().map_err(|error| unreadable(&shown, &error))?.id();
        let branch = head.is_branch().then(|| head.shorthand().ok()).flatten();
        let name = branch.map_or_else(|| commit.to_string(), str::to_owned);
        return Ok((name, commit.to_string()));
    };
    let named = repository.revparse_single(base).and_then(|object| object.peel_to_commit());
    match named {
        Ok(commit) => Ok((base.to_owned(), commit.id().to_string())),
        Err(_) => {
            let fault = Fault::new(Code::NotFound, format!("'{base}' names no commit of {shown}"));
            let near = near(repository, base);
            Err(if near.is_empty() {
                fault.with_hint("git branch --all shows the branches")
            } else {
                fault.with_hint(format!("did you mean {}?", near.join(", ")))
            })
        }
    }
}

/// Whether a name is one of a branch, be it of a remote.
fn is_branch(repository: &Repository, name: &str) -> bool {
    let name = name.strip_prefix("refs/heads/").unwrap_or(name);
    ["refs/heads/", "refs/remotes/origin/", "refs/remotes/"]
        .iter()
        .any(|place| repository.refname_to_id(&format!("{place}{name}")).is_ok())
}

/// The branches and tags whose names are the nearest.
fn near(repository: &Repository, base: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for reference in repository.references().into_iter().flatten().flatten() {
        if let Ok(name) = reference.shorthand()
            && !name.starts_with("hayward/")
            && !name.ends_with("/HEAD")
        {
            names.push(name.to_owned());
        }
    }
    let mut offered = Vec::new();
    while offered.len() < OFFERED {
        let Some(name) = nearest(base, names.iter().map(String::as_str)).map(str::to_owned) else {
            break;
        };
        names.retain(|known| *known != name);
        offered.push(name);
    }
    offered
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scratch() -> (tempfile::TempDir, Repository) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = git2::RepositoryInitOptions::new();
        options.initial_head("main");
        let repository = Repository::init_opts(folder.path(), &options).unwrap();
        (folder, repository)
    }

    fn commit(repository: &Repository) -> git2::Oid {
        let who = git2::Signature::new("t", "t@example.com", &git2::Time::new(0, 0)).unwrap();
        let tree = repository.treebuilder(None).unwrap().write().unwrap();
        let tree = repository.find_tree(tree).unwrap();
        repository.commit(Some("HEAD"), &who, &who, "start", &tree, &[]).unwrap()
    }

    fn fault(folder: &Path, base: Option<&str>) -> Fault {
        find(folder.to_str(), base).unwrap_err()
    }

    #[test]
    fn a_folder_below_the_root_serves_and_links_are_resolved() {
        let (folder, repository) = scratch();
        let commit = commit(&repository).to_string();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&deep, &link).unwrap();
        let root = folder.path().canonicalize().unwrap().to_str().unwrap().to_owned();
        let expected =
            Base { root, name: Some("main".into()), commit: Some(commit.clone()), is_branch: true };
        assert_eq!(find(deep.to_str(), None).unwrap(), expected);
        assert_eq!(find(link.to_str(), Some("main")).unwrap(), expected);
        let short = &commit[..8];
        assert_eq!(find(deep.to_str(), Some(short)).unwrap().commit.as_ref(), Some(&commit));
        repository.set_head_detached(git2::Oid::from_str(&commit).unwrap()).unwrap();
        assert_eq!(find(deep.to_str(), None).unwrap().name, Some(commit));
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let bare = tempfile::tempdir().unwrap();
        let none = fault(bare.path(), None);
        assert!(none.message.starts_with("no git repository at"), "{none}");
        assert_eq!((none.code.exit(), none.hint.is_some()), (2, true));
        let gone = fault(Path::new("/no/such/folder"), None);
        assert!(gone.message.contains("there is no folder"), "{gone}");
        let (folder, repository) = scratch();
        let empty = fault(folder.path(), None);
        assert!(empty.message.contains("no commit yet"), "{empty}");
        commit(&repository);
        let unknown = fault(folder.path(), Some("mian"));
        assert_eq!((unknown.code.exit(), unknown.hint.as_deref()), (3, Some("did you mean main?")));
    }

    #[test]
    fn of_a_url_only_what_was_said_is_known() {
        for url in ["https://example.com/a.git", "git@example.com:a/b.git"] {
            let base = find(Some(url), Some("dev")).unwrap();
            assert_eq!((base.root.as_str(), base.name.as_deref()), (url, Some("dev")));
            assert!(!base.is_local());
        }
    }
}
