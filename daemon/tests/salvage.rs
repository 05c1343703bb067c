//! Nothing is lost with a worktree: judged by the refs and trees that git itself shows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkout;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use checkout::{git, init, write};
use hayward_daemon::git::salvage::{Salvage, SalvageError};
use hayward_daemon::git::worktree::{NewWorktree, RemoveError, Yard};
use hayward_daemon::git::{BranchName, Repositories, Repository, clone};
use tempfile::TempDir;

struct Ground {
    folder: TempDir,
    all: Repositories,
    repository: Repository,
}

impl Ground {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = folder.path().join("user");
        init(&user);
        write(&user.join("a.txt"), "one\ntwo\nthree\n");
        write(&user.join("gone.txt"), "gone\n");
        write(&user.join(".gitignore"), "ignored/\n");
        git(&user, &["add", "."]);
        git(&user, &["commit", "-q", "-m", "first"]);
        let all = Repositories::default();
        let repository = all.open(&user).await.unwrap();
        Self { folder, all, repository }
    }

    fn user(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("user")
    }

    fn yard(&self) -> PathBuf {
        self.user().with_file_name("yard")
    }

    /// A worktree of ours; on no branch.
    async fn worktree(&self, name: &str) -> PathBuf {
        let commit = self.repository.resolve("main").await.unwrap();
        let path = self.yard().join(name);
        let new = NewWorktree { path: path.clone(), commit, branch: None };
        self.repository.provide(new).await.unwrap();
        path
    }

    async fn retire(&self, path: &Path, name: &str) -> Result<Option<Salvage>, SalvageError> {
        let held = self.repository.hold(path).await;
        self.repository.retire(&held, name).await
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.user(), args)
    }

    fn salvages(&self) -> String {
        self.git(&["for-each-ref", "--format=%(refname) %(objectname)", "refs/hayward/"])
    }

    /// Folder and record are gone.
    fn is_gone(&self, path: &Path) -> bool {
        let listed = self.git(&["worktree", "list", "--porcelain"]);
        path.symlink_metadata().is_err() && !listed.contains(path.to_str().unwrap())
    }
}

/// The tree that git would make of all that lies there, through an index of its own.
fn whole_tree(path: &Path) -> String {
    let index = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(args).current_dir(path).env("GIT_INDEX_FILE", index.path().join("index"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    run(&["add", "--all"]);
    run(&["write-tree"])
}

#[tokio::test]
async fn f13_dirty_and_untracked_work_is_kept_to_the_byte_and_ignored_files_are_not() {
    let ground = Ground::new().await;
    let path = ground.worktree("dirty").await;
    write(&path.join("a.txt"), "one\nTWO\nthree\n");
    write(&path.join("new/deep.txt"), "new\n");
    write(&path.join(".env"), "TOKEN=AKIAIOSFODNN7EXAMPLE\n");
    write(&path.join("ignored/cache"), "cache\n");
    fs::write(path.join("blob.bin"), vec![7; 21 << 20]).unwrap();
    fs::remove_file(path.join("gone.txt")).unwrap();
    symlink("nowhere", path.join("link")).unwrap();
    let (tree, head) = (whole_tree(&path), git(&path, &["rev-parse", "HEAD"]));
    let refused = ground.repository.remove(&path).await.unwrap_err();
    assert!(matches!(refused, RemoveError::Dirty { .. }), "{refused}");

    let kept = ground.retire(&path, "dirty-0badcafe").await.unwrap().unwrap();
    assert!(ground.is_gone(&path));
    assert_eq!(kept.reference, "refs/hayward/salvage/dirty-0badcafe");
    assert_eq!(ground.salvages(), format!("{} {}", kept.reference, kept.commit));
    assert_eq!(ground.git(&["rev-parse", &format!("{}^{{tree}}", kept.commit)]), tree);
    assert_eq!(ground.git(&["rev-parse", &format!("{}^@", kept.commit)]), head);
    let files = ground.git(&["ls-tree", "-r", "--name-only", kept.commit.as_str()]);
    assert!(files.contains(".env") && files.contains("blob.bin") && !files.contains("ignored"));
    assert_eq!(ground.git(&["fsck", "--strict", "--no-dangling"]), "");
}

#[tokio::test]
async fn f13_a_commit_on_no_branch_is_named_and_one_on_a_branch_needs_no_name() {
    let ground = Ground::new().await;
    let clean = ground.worktree("clean").await;
    assert_eq!(ground.retire(&clean, "clean-1").await.unwrap(), None);
    assert!(ground.is_gone(&clean));
    let path = ground.worktree("detached").await;
    write(&path.join("b.txt"), "b\n");
    git(&path, &["add", "."]);
    git(&path, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", "loose"]);
    let head = git(&path, &["rev-parse", "HEAD"]);
    let kept = ground.retire(&path, "detached-1").await.unwrap().unwrap();
    assert_eq!(kept.commit.as_str(), head);
    assert!(ground.is_gone(&path));
    let (_, stood) = ground.repository.salvaged(&kept.reference).await.unwrap();
    assert_eq!(stood.as_str(), head);
}

#[tokio::test]
async fn f13_a_merge_under_way_is_kept_with_both_sides_and_what_was_staged() {
    let ground = Ground::new().await;
    let path = ground.worktree("merging").await;
    let commit = |at: &Path, text: &str| {
        write(&at.join("a.txt"), text);
        git(at, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-a", "-m", text]);
        git(at, &["rev-parse", "HEAD"])
    };
    let theirs = commit(&ground.user(), "theirs\n");
    let ours = commit(&path, "ours\n");
    let mut merge = Command::new("git");
    merge.args(["-c", "user.name=A", "-c", "user.email=a@a", "merge", "-q", "main"]);
    assert!(!merge.current_dir(&path).output().unwrap().status.success());
    let tree = whole_tree(&path);
    let refused = ground.repository.remove(&path).await.unwrap_err();
    assert!(matches!(refused, RemoveError::InProgress { .. }), "{refused}");
    let kept = ground.retire(&path, "merging-1").await.unwrap().unwrap();
    let parents = ground.git(&["rev-parse", &format!("{}^@", kept.commit)]);
    assert_eq!(parents.lines().collect::<Vec<_>>(), [ours.as_str(), theirs.as_str()]);
    assert_eq!(ground.git(&["rev-parse", &format!("{}^{{tree}}", kept.commit)]), tree);
    let held = ground.git(&["show", &format!("{}:a.txt", kept.commit)]);
    assert!(held.contains("<<<<<<<") && held.contains("ours") && held.contains("theirs"));
    assert!(ground.git(&["log", "-1", "--format=%B", kept.commit.as_str()]).contains("merge was"));

    // staged one way, written another: both are kept
    let path = ground.worktree("staged").await;
    write(&path.join("a.txt"), "staged\n");
    git(&path, &["add", "a.txt"]);
    write(&path.join("a.txt"), "written\n");
    let staged = git(&path, &["write-tree"]);
    let kept = ground.retire(&path, "staged-1").await.unwrap().unwrap();
    assert_eq!(ground.git(&["show", &format!("{}:a.txt", kept.commit)]), "written");
    assert_eq!(ground.git(&["rev-parse", &format!("{}^2^{{tree}}", kept.commit)]), staged);
}

#[tokio::test]
async fn f13_patches_that_were_not_applied_yet_are_kept() {
    let ground = Ground::new().await;
    let path = ground.worktree("mailbox").await;
    let commit = |file: &str, text: &str| {
        write(&path.join(file), text);
        git(&path, &["add", "."]);
        git(&path, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", text]);
    };
    let base = git(&path, &["rev-parse", "HEAD"]);
    commit("a.txt", "theirs\n");
    commit("later.txt", "the last patch\n");
    let mailbox = ground.yard().with_file_name("mailbox");
    fs::write(&mailbox, git(&path, &["format-patch", "--stdout", &base]) + "\n").unwrap();
    git(&path, &["reset", "-q", "--hard", &base]);
    write(&path.join("a.txt"), "ours\n");
    git(&path, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-a", "-m", "ours"]);
    let mut apply = Command::new("git");
    apply.args(["-c", "user.name=A", "-c", "user.email=a@a", "am", "-q"]).arg(&mailbox);
    assert!(!apply.current_dir(&path).output().unwrap().status.success());
    write(&path.join("more.txt"), "more\n");
    let kept = ground.retire(&path, "mailbox-1").await.unwrap().unwrap();
    assert!(ground.is_gone(&path));
    assert_eq!(ground.git(&["show", &format!("{}:more.txt", kept.commit)]), "more");
    let last = ground.git(&["show", &format!("{}^2:rebase-apply/0002", kept.commit)]);
    assert!(last.contains("+the last patch"), "{last}");
    assert_eq!(ground.git(&["fsck", "--strict", "--no-dangling"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_what_is_written_until_the_last_moment_is_kept_or_its_worktree_stands() {
    let ground = Ground::new().await;
    for round in 0..ROUNDS {
        let path = ground.worktree(&format!("live-{round}")).await;
        let live = path.join("live");
        fs::write(&live, text_of(0)).unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let writer = {
            let (live, end) = (live.clone(), end.clone());
            std::thread::spawn(move || {
                let (mut sure, mut last, mut tried) = (0, 0, 0);
                while !end.load(Ordering::SeqCst) {
                    tried += 1;
                    let begun = Instant::now();
                    let open = fs::OpenOptions::new().write(true).open(&live);
                    let wrote = |file: &fs::File| file.write_all_at(&text_of(tried), 0).is_ok();
                    if let Some(file) = open.ok().filter(wrote) {
                        last = tried;
                        // one that stood still since it opened may have written what was gone by then
                        let is_quick = begun.elapsed() < Duration::from_micros(50);
                        let (named, own) = (fs::metadata(&live), file.metadata().unwrap().ino());
                        if is_quick || named.is_ok_and(|named| named.ino() == own) {
                            sure = tried;
                        }
                    }
                    std::thread::sleep(Duration::from_millis(round));
                }
                (sure, last)
            })
        };
        let gone = ground.retire(&path, &format!("live-{round}")).await;
        end.store(true, Ordering::SeqCst);
        let (sure, last) = writer.join().unwrap();
        let found = match gone {
            Ok(kept) => ground.git(&["show", &format!("{}:live", kept.unwrap().commit)]),
            Err(SalvageError::Busy(_)) => fs::read_to_string(&live).unwrap(),
            Err(error) => panic!("{error}"),
        };
        let found: u64 = found.trim_end().parse().unwrap();
        assert!((sure..=last).contains(&found), "{found}, of {sure} to {last}");
    }
}

/// Rounds of a race, each with a slower writer.
const ROUNDS: u64 = 24;

/// Always as long: one write replaces all of it.
fn text_of(n: u64) -> Vec<u8> {
    format!("{n:08}\n").into_bytes()
}

#[tokio::test]
async fn f13_a_worktree_that_was_set_aside_when_the_daemon_died_is_brought_back() {
    let ground = Ground::new().await;
    let path = ground.worktree("aside").await;
    write(&path.join("late.txt"), "late\n");
    let trash = ground.yard().join(".trash");
    fs::create_dir_all(&trash).unwrap();
    fs::rename(&path, trash.join("aside-0")).unwrap();
    let yard = Yard::new(ground.yard());
    ground.all.recover(&yard, |_| true).await;
    assert_eq!(fs::read_to_string(path.join("late.txt")).unwrap(), "late\n");
    let kept = ground.retire(&path, "aside-1").await.unwrap().unwrap();
    assert_eq!(ground.git(&["show", &format!("{}:late.txt", kept.commit)]), "late");
    assert!(ground.is_gone(&path));
    // one whose record went had been looked at
    fs::create_dir(trash.join("aside-1")).unwrap();
    ground.all.recover(&yard, |_| true).await;
    assert!(!trash.join("aside-1").exists());
}

#[tokio::test]
async fn a_name_is_never_taken_twice_and_the_same_work_is_kept_once() {
    let ground = Ground::new().await;
    for (round, text) in ["one", "two", "two", "three"].into_iter().enumerate() {
        let path = ground.worktree("again").await;
        write(&path.join("new.txt"), text);
        let held = ground.repository.hold(&path).await;
        let kept = ground.repository.salvage(&held, "again-1").await.unwrap().unwrap();
        let again = ground.repository.salvage(&held, "again-1").await.unwrap().unwrap();
        assert_eq!(kept, again);
        drop(held);
        let wanted = ["again-1", "again-1-2", "again-1-2", "again-1-3"][round];
        assert_eq!(kept.reference, format!("refs/hayward/salvage/{wanted}"));
        assert_eq!(ground.retire(&path, "again-1").await.unwrap(), Some(kept));
    }
    assert_eq!(ground.repository.salvages().await.unwrap().len(), 3);
}

#[tokio::test]
async fn what_git_cannot_hold_keeps_its_worktree() {
    let ground = Ground::new().await;
    let nested = ground.worktree("nested").await;
    let inner = nested.join("inner");
    fs::create_dir(&inner).unwrap();
    git(&inner, &["init", "-q"]);
    write(&inner.join("x"), "x");
    let refused = ground.retire(&nested, "nested-1").await.unwrap_err();
    assert!(matches!(&refused, SalvageError::Unkept { files, .. } if files[0].contains("inner")));
    let locked = ground.worktree("locked").await;
    git(&ground.user(), &["worktree", "lock", "--reason", "mine", locked.to_str().unwrap()]);
    write(&locked.join("x"), "x");
    let refused = ground.retire(&locked, "locked-1").await.unwrap_err();
    assert!(matches!(refused, SalvageError::Remove(RemoveError::Locked { .. })), "{refused}");
    assert!(inner.join("x").exists() && locked.join("x").exists());
    assert_eq!(ground.salvages(), "");
}

#[tokio::test]
async fn f27_a_root_that_became_a_link_is_unlinked_and_its_commit_kept() {
    let ground = Ground::new().await;
    let path = ground.worktree("linked").await;
    write(&path.join("b.txt"), "b\n");
    git(&path, &["add", "."]);
    git(&path, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", "loose"]);
    let head = git(&path, &["rev-parse", "HEAD"]);
    let outside = ground.yard().with_file_name("outside");
    fs::rename(&path, &outside).unwrap();
    symlink(&outside, &path).unwrap();
    let kept = ground.retire(&path, "linked-1").await.unwrap().unwrap();
    assert_eq!(kept.commit.as_str(), head);
    assert!(ground.is_gone(&path) && outside.join("b.txt").exists());
    // a folder that somebody removed by hand: only the record is left, and what it alone names
    let path = ground.worktree("vanished").await;
    write(&path.join("c.txt"), "c\n");
    git(&path, &["add", "."]);
    git(&path, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", "loose"]);
    let head = git(&path, &["rev-parse", "HEAD"]);
    fs::remove_dir_all(&path).unwrap();
    let kept = ground.retire(&path, "vanished-1").await.unwrap().unwrap();
    assert_eq!(kept.commit.as_str(), head);
    assert!(ground.is_gone(&path));
}

#[tokio::test]
async fn a_clone_has_the_branch_and_the_uncommitted_work_and_needs_nobody() {
    let ground = Ground::new().await;
    let commit = ground.repository.resolve("main").await.unwrap();
    let path = ground.yard().join("task");
    let branch = Some(BranchName::for_task("task", "0badcafe"));
    let new = NewWorktree { path: path.clone(), commit, branch };
    let made = ground.repository.provide(new).await.unwrap();
    let branch = made.branch.unwrap().name;
    write(&path.join("b.txt"), "b\n");
    git(&path, &["add", "."]);
    git(&path, &["-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", "work"]);
    let head = ground.repository.resolve(&branch).await.unwrap();
    write(&path.join("a.txt"), "changed\n");
    write(&path.join("new.txt"), "new\n");
    fs::remove_file(path.join("gone.txt")).unwrap();
    let status = git(&path, &["status", "--porcelain"]);
    let to = ground.yard().with_file_name("copy");
    let work = clone::Work::Worktree(path.clone());
    ground.repository.clone_work(&work, (Some(&branch), &head), &to).await.unwrap();
    let stands = |to: &Path| {
        assert_eq!(git(to, &["symbolic-ref", "--short", "HEAD"]), branch);
        assert_eq!(git(to, &["rev-parse", "HEAD"]), head.as_str());
        assert_eq!(git(to, &["status", "--porcelain"]), status);
        assert_eq!(git(to, &["remote", "get-url", "origin"]), ground.user().to_str().unwrap());
        assert!(!to.join(".git/objects/info/alternates").exists());
        assert_eq!(git(to, &["fsck", "--strict", "--no-dangling"]), "");
    };
    stands(&to);
    // the same from what was salvaged, once the worktree is gone
    let kept = ground.retire(&path, "task-0badcafe").await.unwrap().unwrap();
    let (_, stood) = ground.repository.salvaged(&kept.reference).await.unwrap();
    assert_eq!(stood, head);
    let again = ground.yard().with_file_name("again");
    let work = clone::Work::Salvage(kept.reference);
    ground.repository.clone_work(&work, (Some(&branch), &head), &again).await.unwrap();
    stands(&again);
    assert_eq!(fs::read_to_string(again.join("new.txt")).unwrap(), "new\n");
    // nothing of it is left behind
    ground.all.recover(&Yard::new(ground.yard()), |_| true).await;
    assert_eq!(fs::read_dir(ground.yard().join(".notes")).unwrap().count(), 0);
}
