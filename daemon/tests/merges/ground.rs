//! A user's repository, and whether anything of it moved.

use hayward_daemon::git::{CommitId, Repositories, Repository};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A user's repository with a few files and one commit, and room beside it.
pub struct Ground {
    folder: TempDir,
}

impl Ground {
    pub fn new() -> Self {
        let ground = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(ground.user()).unwrap();
        ground.git(&["init", "-q", "-b", "main"]);
        ground.git(&["config", "user.name", "User"]);
        ground.git(&["config", "user.email", "user@example.org"]);
        ground.write("a.txt", "one\ntwo\nthree\n");
        ground.write("b.txt", "b\n");
        ground.write(".gitignore", "ignored*\n");
        ground.commit("first");
        ground
    }

    pub fn room(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    pub fn user(&self) -> PathBuf {
        self.room().join("user")
    }

    pub fn git(&self, args: &[&str]) -> String {
        git(&self.user(), args)
    }

    pub fn write(&self, path: &str, text: &str) {
        write(&self.user().join(path), text);
    }

    /// Commits everything; the commit.
    pub fn commit(&self, message: &str) -> CommitId {
        self.git(&["add", "-A", "-f"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.tip("HEAD")
    }

    /// Clears away whatever no ref holds, as a user's `git gc` does in time.
    pub fn clear_out(&self) {
        self.git(&["reflog", "expire", "--expire=now", "--all"]);
        self.git(&["gc", "-q", "--prune=now"]);
    }

    /// A branch on top of HEAD with these files, the checkout as before; its commit.
    pub fn branch(&self, name: &str, files: &[(&str, &str)]) -> CommitId {
        let here = self.git(&["symbolic-ref", "--short", "HEAD"]);
        self.git(&["checkout", "-q", "-b", name]);
        for (path, text) in files {
            self.write(path, text);
        }
        let tip = self.commit(name);
        self.git(&["checkout", "-q", &here]);
        tip
    }

    pub fn tip(&self, name: &str) -> CommitId {
        self.git(&["rev-parse", &format!("{name}^{{commit}}")]).parse().unwrap()
    }

    pub async fn open(&self) -> Repository {
        Repositories::default().open(&self.user()).await.unwrap()
    }

    /// All of a work tree and its repository that a refusal must leave alone: files, index, HEAD,
    /// refs, status.
    pub fn holdings(&self, checkout: &Path) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut folders = vec![checkout.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.ends_with(".git") {
                    folders.push(path);
                } else if path.is_file() {
                    all.insert(path.display().to_string(), text(&path));
                }
            }
        }
        let dir = PathBuf::from(git(checkout, &["rev-parse", "--absolute-git-dir"]));
        for name in ["index", "HEAD", "logs/HEAD", "MERGE_HEAD", "ORIG_HEAD"] {
            all.insert(name.to_owned(), text(&dir.join(name)));
        }
        let refs = self.git(&["for-each-ref", "--format=%(refname) %(objectname)"]);
        all.insert("refs".to_owned(), refs);
        let stash = self.git(&["stash", "list"]);
        all.insert("stash".to_owned(), stash);
        all
    }

    /// Has hooks, fsmonitor, filters, a merge driver and an external diff leave a mark when they
    /// run; answers the mark.
    pub fn set_canaries(&self) -> PathBuf {
        let mark = self.room().join("canary-sang");
        let bird = self.room().join("bird");
        write(&bird, &format!("#!/bin/sh\necho \"$0 $*\" >> {}\ncat\n", mark.display()));
        fs::set_permissions(&bird, fs::Permissions::from_mode(0o755)).unwrap();
        let bird = bird.display().to_string();
        let hooks = self.room().join("hooks");
        fs::create_dir(&hooks).unwrap();
        for name in [
            "post-merge",
            "pre-merge-commit",
            "post-checkout",
            "reference-transaction",
            "post-index-change",
            "pre-commit",
            "commit-msg",
        ] {
            fs::copy(&bird, hooks.join(name)).unwrap();
        }
        self.write(".gitattributes", "*.bird filter=bird merge=bird diff=bird\n");
        self.commit("birds");
        for (key, value) in [
            ("core.hooksPath", hooks.display().to_string()),
            ("core.fsmonitor", bird.clone()),
            ("filter.bird.smudge", bird.clone()),
            ("filter.bird.clean", bird.clone()),
            ("filter.bird.process", bird.clone()),
            ("merge.bird.driver", bird.clone()),
            ("diff.bird.textconv", bird.clone()),
            ("diff.external", bird.clone()),
            ("core.sshCommand", bird.clone()),
            ("gpg.program", bird.clone()),
        ] {
            self.git(&["config", key, &value]);
        }
        for key in ["merge.verifySignatures", "commit.gpgSign", "merge.autoStash"] {
            self.git(&["config", key, "true"]);
        }
        fs::remove_file(&mark).unwrap_or_default();
        mark
    }

    /// No repository of this ground stands mid-merge.
    pub fn assert_no_merge_head(&self) {
        let mut folders = vec![self.user().join(".git")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                assert!(!path.ends_with("MERGE_HEAD"), "{}", path.display());
                if path.is_dir() && !path.ends_with("objects") {
                    folders.push(path);
                }
            }
        }
    }
}

/// git in a folder, deaf to this machine's configuration.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", folder).env("LC_ALL", "C");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.current_dir(folder);
    command
}

pub fn git(folder: &Path, args: &[&str]) -> String {
    let output = command(folder).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A file as text that tells every byte; empty when it is not there.
fn text(path: &Path) -> String {
    fs::read(path).unwrap_or_default().escape_ascii().to_string()
}
