//! A repository to work on, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hayward_daemon::git::pool::Terms;
use hayward_daemon::git::worktree::{NewWorktree, Worktree, Yard};
use hayward_daemon::git::{BranchName, CommitId, Pool, Repositories, Repository};
use tempfile::TempDir;

/// A user's repository and a yard beside it.
pub struct Farm {
    room: PathBuf,
    _folder: Option<TempDir>,
}

impl Farm {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let farm = Self { room: folder.path().canonicalize().unwrap(), _folder: Some(folder) };
        fs::create_dir(farm.user()).unwrap();
        fs::create_dir(farm.yard()).unwrap();
        farm.git(&["init", "-q", "-b", "main"]);
        farm.git(&["config", "user.name", "User"]);
        farm.git(&["config", "user.email", "user@example.org"]);
        farm.write("src/a.txt", "one\ntwo\n");
        farm.write("b.txt", "b\n");
        farm.write(".gitignore", "ignored/\n");
        farm.commit("first");
        farm
    }

    /// One that another process made, and that stays.
    #[cfg(feature = "fault-points")]
    pub fn at(room: PathBuf) -> Self {
        Self { room, _folder: None }
    }

    pub fn room(&self) -> PathBuf {
        self.room.clone()
    }

    pub fn user(&self) -> PathBuf {
        self.room().join("user")
    }

    pub fn yard(&self) -> PathBuf {
        self.room().join("yard")
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(&self.user(), args)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.user().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn commit(&self, message: &str) -> CommitId {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    /// Lets the checkout be one that has stood for a while: an index vouches for no file that is as
    /// young as itself.
    pub fn settle(&self) {
        for name in contents(&self.user()).into_keys() {
            let place = self.user().join(name);
            if fs::symlink_metadata(&place).is_ok_and(|found| found.is_file()) {
                let file = fs::File::options().write(true).open(place).unwrap();
                let modified = file.metadata().unwrap().modified().unwrap();
                file.set_modified(modified - Duration::from_secs(60)).unwrap();
            }
        }
        self.git(&["update-index", "-q", "--really-refresh"]);
    }

    pub fn terms(&self, places: usize, budget: u64) -> Terms {
        Terms { yard: Yard::new(self.yard()), places, budget }
    }

    pub fn repositories(&self, places: usize) -> Repositories {
        Repositories::with_pool(Pool::new(self.terms(places, 1 << 40)))
    }

    /// A repository that had its first task, with its places ready.
    pub async fn hot(&self, places: usize) -> (Repositories, Repository) {
        let all = self.repositories(places);
        let repository = all.open(&self.user()).await.unwrap();
        self.task(&repository, "first").await;
        all.refill().await;
        assert_eq!(all.pool().report().repositories[0].ready, places);
        (all, repository)
    }

    pub fn wanted(&self, name: &str, commit: &CommitId) -> NewWorktree {
        let branch = Some(BranchName::for_task(name, "0badcafe"));
        NewWorktree { path: self.yard().join(name), commit: commit.clone(), branch }
    }

    pub async fn task(&self, repository: &Repository, name: &str) -> Worktree {
        let commit = repository.resolve("main").await.unwrap();
        repository.provide(self.wanted(name, &commit)).await.unwrap()
    }

    /// What must hold whenever nothing is under way: no folder, record, note, branch or temporary
    /// file but those of the worktrees named, and a sound repository.
    pub fn holds_only(&self, names: &[&str]) {
        self.holds(names, names);
    }

    /// The same, with the branches of other tasks.
    pub fn holds(&self, names: &[&str], branches: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let entries = |folder: &Path| -> BTreeSet<String> {
            let all = fs::read_dir(folder).into_iter().flatten().flatten();
            all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let mut folders = entries(&self.yard());
        folders.retain(|name| !name.starts_with('.'));
        assert_eq!(folders, wanted);
        assert_eq!(entries(&self.yard().join(".notes")), wanted);
        assert_eq!(entries(&self.yard().join(".trash")), BTreeSet::new());
        let common = self.user().join(".git");
        let pooled: usize = fs::read_dir(self.yard().join(".pool"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|pool| entries(&pool.path()).len() - 1)
            .sum();
        assert_eq!(entries(&common.join("worktrees")).len(), names.len() + pooled);
        assert!(!entries(&common).iter().any(|name| name.starts_with("hayward-")));
        let listed = self.git(&["worktree", "list", "--porcelain"]);
        assert!(!listed.contains("prunable"), "{listed}");
        let locked = listed.lines().filter(|line| line.starts_with("locked")).count();
        assert_eq!(locked, pooled, "{listed}");
        for branch in
            self.git(&["branch", "--list", "--format=%(refname:short)", "hayward/*"]).lines()
        {
            assert!(branches.iter().any(|name| branch.contains(name)), "{branch} is a stray");
        }
        assert_eq!(self.git(&["fsck", "--strict", "--no-dangling"]), "");
    }
}

pub fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git").args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// All files of a folder but `.git`, with what they are.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(folder).unwrap().to_owned();
            let found = fs::symlink_metadata(&path).unwrap();
            if relative == Path::new(".git") {
                continue;
            }
            let bytes = if found.is_dir() {
                folders.push(path);
                Vec::new()
            } else if found.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            all.insert(relative, (found.permissions().mode(), bytes));
        }
    }
    all
}

/// Whether a worktree is as `git worktree add` would have made it.
pub fn is_fresh(farm: &Farm, tree: &Worktree) {
    // it believes the index, and refreshes nothing: what the index knows of each file is true
    assert_eq!(git(&tree.path, &["diff-files"]), "");
    let status = git(&tree.path, &["status", "--porcelain", "--ignored", "-uall"]);
    assert_eq!(status, "");
    assert_eq!(git(&tree.path, &["rev-parse", "HEAD"]), tree.commit.as_str());
    let index = git(&tree.path, &["write-tree"]);
    assert_eq!(index, git(&tree.path, &["rev-parse", "HEAD^{tree}"]));
    let other = farm.room().join("other");
    farm.git(&["worktree", "add", "-q", "--detach", other.to_str().unwrap(), tree.commit.as_str()]);
    assert_eq!(contents(&tree.path), contents(&other));
    farm.git(&["worktree", "remove", other.to_str().unwrap()]);
    let git_dir = PathBuf::from(git(&tree.path, &["rev-parse", "--absolute-git-dir"]));
    for name in ["locked", "index.lock", "HEAD.lock", "MERGE_HEAD"] {
        assert!(!git_dir.join(name).exists(), "{name} is left");
    }
}
