//! Throw-away repositories, and whether anything of them was touched.

use crate::must;
use crate::program::{Ran, run};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A repository with one commit on `main`, an ignored file and some work in progress: what a
/// user's checkout looks like.
#[derive(Debug)]
pub struct ScratchRepo {
    folder: TempDir,
}

/// All of a checkout that must not change behind its user's back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Each file of the working tree with its bytes.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// The bytes of the index.
    pub index: Vec<u8>,
    /// What HEAD says.
    pub head: Vec<u8>,
    /// Every ref that is not Hayward's own, with its commit; the stash is one of them.
    pub refs: String,
    /// The repository's configuration.
    pub config: Vec<u8>,
}

impl ScratchRepo {
    /// A new one. Its working tree is clean.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("hwr-").tempdir();
        let repo = Self { folder: must("make a folder", folder) };
        repo.git(&["init", "-q", "-b", "main"]);
        repo.git(&["config", "user.name", "Una User"]);
        repo.git(&["config", "user.email", "una@example.org"]);
        repo.write("README", "a project\n");
        repo.write(".gitignore", "ignored/\n");
        repo.commit("begin");
        repo
    }

    /// Puts the checkout into the state in which people work: something stashed, staged, edited,
    /// untracked and ignored.
    pub fn in_use(&self) {
        self.write("README", "a project, stashed\n");
        self.git(&["stash", "-q"]);
        self.write("staged", "staged\n");
        self.git(&["add", "staged"]);
        self.write("README", "a project, edited\n");
        self.write("untracked", "untracked\n");
        self.write("ignored/cache", "cache\n");
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs git there; what it printed, without the last line's end.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        let ran = self.try_git(arguments).expect(0);
        ran.text().trim_end_matches('\n').to_owned()
    }

    /// Runs git there, whatever comes of it.
    pub fn try_git(&self, arguments: &[&str]) -> Ran {
        run(git(self.path()).args(arguments))
    }

    /// Writes a file of the working tree.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        if let Some(folder) = path.parent() {
            must("make a folder", fs::create_dir_all(folder));
        }
        must("write a file", fs::write(path, text));
    }

    /// Commits everything; the commit.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Everything that must stay as it is. Looking changes nothing.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let dot_git = self.path().join(".git");
        let read = |name: &str| fs::read(dot_git.join(name)).unwrap_or_default();
        let refs = self.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
        let ours = ["refs/heads/hayward/", "refs/hayward/"];
        let theirs = |line: &&str| !ours.iter().any(|prefix| line.starts_with(prefix));
        let mut files = BTreeMap::new();
        gather(self.path(), &mut files);
        Snapshot {
            files,
            index: read("index"),
            head: read("HEAD"),
            refs: refs.lines().filter(theirs).collect::<Vec<_>>().join("\n"),
            config: read("config"),
        }
    }
}

impl Default for ScratchRepo {
    fn default() -> Self {
        Self::new()
    }
}

fn gather(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in must("list a folder", fs::read_dir(folder)).flatten() {
        let path = entry.path();
        if entry.file_name() == ".git" {
            continue;
        }
        if path.is_dir() {
            gather(&path, files);
        } else {
            files.insert(path.clone(), must("read a file", fs::read(path)));
        }
    }
}

/// git in a folder, deaf to this machine's configuration and to whatever runs the test.
#[must_use]
pub fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", folder).env("LC_ALL", "C");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.current_dir(folder);
    command
}
