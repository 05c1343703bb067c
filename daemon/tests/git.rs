//! Worktrees, commits, diffs and previews against real repositories and the real git.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hayward_daemon::git::commit::{CommitError, Hooks, Limits, Message, Outcome, Work, WorkOrder};
use hayward_daemon::git::diff::{ChangeKind, Side};
use hayward_daemon::git::parse;
use hayward_daemon::git::repo::{OpenError, ResolveError};
use hayward_daemon::git::staging::Why;
use hayward_daemon::git::worktree::{NewWorktree, RemoveError, Worktree, WorktreeError};
use hayward_daemon::git::{BranchName, CommitId, Repositories, Repository};
use hayward_shared::merge::{ConflictKind, MergeSide};
use tempfile::TempDir;

/// A user's repository with a few files and one commit, and room for worktrees beside it.
struct Scratch {
    folder: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let scratch = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(scratch.user()).unwrap();
        scratch.git(&["init", "-q", "-b", "main"]);
        scratch.git(&["config", "user.name", "User"]);
        scratch.git(&["config", "user.email", "user@example.org"]);
        write(&scratch.user().join("src/a.txt"), "one\ntwo\nthree\n");
        write(&scratch.user().join("b.txt"), "b\n");
        write(&scratch.user().join(".gitignore"), "ignored/\n");
        scratch.git(&["add", "."]);
        scratch.git(&["commit", "-q", "-m", "first"]);
        scratch
    }

    fn room(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    fn user(&self) -> PathBuf {
        self.room().join("user")
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.room().join("trees").join(name)
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.user(), args)
    }

    async fn open(&self) -> Repository {
        Repositories::default().open(&self.user()).await.unwrap()
    }

    async fn make(&self, repository: &Repository, name: &str) -> Worktree {
        let commit = repository.head().await.unwrap().commit;
        repository.create(self.wanted(name, &commit)).await.unwrap()
    }

    fn wanted(&self, name: &str, commit: &CommitId) -> NewWorktree {
        NewWorktree {
            path: self.tree(name),
            commit: commit.clone(),
            branch: Some(BranchName::for_task(name, "0badcafe")),
        }
    }

    /// All that is the user's: files, index, configuration, HEAD, stash and refs outside ours.
    fn holdings(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.user()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.ends_with(".git") {
                    folders.push(path);
                } else if path.is_file() {
                    all.insert(path.display().to_string(), fs::read(&path).unwrap());
                }
            }
        }
        for name in ["index", "config", "HEAD", "logs/HEAD", "refs/stash", "logs/refs/stash"] {
            let bytes = fs::read(self.user().join(".git").join(name)).unwrap_or_default();
            all.insert(name.to_owned(), bytes);
        }
        let refs: String = self
            .git(&["for-each-ref", "--format=%(refname) %(objectname)"])
            .lines()
            .filter(|line| !line.starts_with("refs/heads/hayward/"))
            .collect();
        all.insert("refs".to_owned(), refs.into_bytes());
        all
    }
}

fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    for name in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"] {
        command.env_remove(name);
    }
    let output = command.args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What the repository records of a worktree.
fn git_dir(worktree: &Path) -> PathBuf {
    PathBuf::from(git(worktree, &["rev-parse", "--absolute-git-dir"]))
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn script(path: &Path, body: &str) {
    write(path, &format!("#!/bin/sh\n{body}\n"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn order(tree: &Worktree) -> WorkOrder {
    WorkOrder {
        worktree: tree.path.clone(),
        base: tree.commit.clone(),
        branch: tree.branch.as_ref().map(|choice| choice.name.clone()),
        message: Message { subject: "Work".to_owned(), body: "Because.".to_owned() },
        limits: Limits::default(),
        hooks: Hooks::Inert,
        sign: false,
    }
}

fn withheld(work: &Work) -> BTreeMap<String, Why> {
    work.withheld.iter().map(|one| (one.path.display().to_string(), one.why.clone())).collect()
}

#[tokio::test]
async fn opens_from_anywhere_and_says_what_is_wrong() {
    let scratch = Scratch::new();
    let all = Repositories::default();
    let top = all.open(&scratch.user()).await.unwrap();
    let inner = all.open(&scratch.user().join("src")).await.unwrap();
    assert_eq!(top.common_dir(), inner.common_dir());
    let tree = scratch.make(&top, "one").await;
    let linked = all.open(&tree.path).await.unwrap();
    assert_eq!(linked.common_dir(), top.common_dir());
    assert_eq!(linked.head().await.unwrap().branch.as_deref(), Some("hayward/one-0badcafe"));

    git(&scratch.room(), &["clone", "-q", "--bare", "user", "bare.git"]);
    let bare = all.open(&scratch.room().join("bare.git")).await.unwrap();
    assert_eq!(bare.checkout(), None);
    let made = bare.create(scratch.wanted("two", &tree.commit)).await.unwrap();
    assert_eq!(git(&made.path, &["rev-parse", "HEAD"]), tree.commit.as_str());

    let nothing = scratch.room().join("nothing");
    fs::create_dir(&nothing).unwrap();
    assert!(matches!(all.open(&nothing).await, Err(OpenError::NotARepository(_))));
    git(&nothing, &["init", "-q"]);
    let empty = all.open(&nothing).await.unwrap_err();
    assert!(empty.to_string().contains("no commits yet"), "{empty}");
}

#[tokio::test]
async fn f18_a_worktree_stands_at_the_recorded_commit_not_at_origin_head() {
    let scratch = Scratch::new();
    let recorded = scratch.git(&["rev-parse", "HEAD"]);
    scratch.git(&["commit", "-q", "--allow-empty", "-m", "second"]);
    let other = scratch.git(&["rev-parse", "HEAD"]);
    scratch.git(&["update-ref", "refs/remotes/origin/main", &other]);
    scratch.git(&["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]);
    scratch.git(&["checkout", "-q", "--detach", &recorded]);
    let repository = scratch.open().await;
    let head = repository.head().await.unwrap();
    assert_eq!((head.branch, head.commit.as_str()), (None, &*recorded));
    assert_eq!(repository.resolve("origin/main").await.unwrap().as_str(), other);
    let tree = scratch.make(&repository, "one").await;
    assert_eq!(git(&tree.path, &["rev-parse", "HEAD"]), recorded);
    assert!(!fs::read_to_string(scratch.user().join(".git/config")).unwrap().contains("hayward"));
}

#[tokio::test]
async fn an_unknown_reference_is_named_with_its_neighbours() {
    let scratch = Scratch::new();
    scratch.git(&["branch", "feature/login"]);
    let unknown = scratch.open().await.resolve("feature/logni").await.unwrap_err();
    assert!(matches!(&unknown, ResolveError::Unknown { .. }), "{unknown:?}");
    let said = unknown.to_string();
    assert!(said.contains("feature/logni") && said.contains("'feature/login'"), "{said}");
}

#[tokio::test]
async fn f19_a_failed_creation_leaves_nothing_and_touches_nothing() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let commit = repository.head().await.unwrap().commit;
    let before = scratch.holdings();
    let clean = |name: &str| {
        assert_eq!(scratch.git(&["worktree", "list"]).lines().count(), 1, "{name}");
        assert_eq!(scratch.git(&["branch", "--list", "hayward/*"]), "", "{name}");
        let admin = fs::read_dir(scratch.user().join(".git/worktrees"));
        assert_eq!(admin.map_or(0, Iterator::count), 0, "{name}");
    };

    // the commit is unknown
    let unknown: CommitId = "1".repeat(40).parse().unwrap();
    let failure = repository.create(scratch.wanted("unknown", &unknown)).await.unwrap_err();
    assert!(matches!(failure, WorktreeError::UnknownCommit { .. }), "{failure}");
    clean("unknown");

    // a blob is missing: the checkout breaks half way
    let blob = scratch.git(&["rev-parse", "HEAD:b.txt"]);
    let stored = scratch.user().join(".git/objects").join(&blob[..2]).join(&blob[2..]);
    let aside = scratch.room().join("aside");
    fs::rename(&stored, &aside).unwrap();
    let broken = scratch.wanted("broken", &commit);
    let failure = repository.create(broken.clone()).await.unwrap_err();
    assert!(matches!(failure, WorktreeError::Git { .. }), "{failure}");
    assert!(!broken.path.exists());
    clean("broken");
    fs::rename(&aside, &stored).unwrap();

    // the folder is a user's: it stays as it is
    write(&scratch.tree("mine").join("notes.txt"), "mine");
    let failure = repository.create(scratch.wanted("mine", &commit)).await.unwrap_err();
    assert!(failure.to_string().contains("notes.txt"), "{failure}");
    assert_eq!(fs::read_to_string(scratch.tree("mine").join("notes.txt")).unwrap(), "mine");
    clean("mine");

    // the folder cannot be made at all
    let blocked = scratch.room().join("file");
    fs::write(&blocked, "").unwrap();
    let new = NewWorktree { path: blocked.join("tree"), ..scratch.wanted("blocked", &commit) };
    repository.create(new).await.unwrap_err();
    clean("blocked");

    assert_eq!(scratch.holdings(), before);
    repository.create(broken).await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_was_cut_off_is_done_anew_and_work_is_not_lost() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let commit = repository.head().await.unwrap().commit;
    let new = scratch.wanted("again", &commit);
    repository.create(new.clone()).await.unwrap();
    // as a kill in the middle of the checkout leaves it
    fs::write(new.path.join("src/a.txt"), "one\ntw").unwrap();
    fs::remove_file(new.path.join("b.txt")).unwrap();
    let admin = git_dir(&new.path);
    fs::remove_file(admin.join("index")).unwrap();
    fs::write(admin.join("index.lock"), "").unwrap();
    let again = repository.create(new.clone()).await.unwrap();
    assert_eq!(again.branch.unwrap().name, "hayward/again-0badcafe");
    assert_eq!(git(&new.path, &["status", "--porcelain"]), "");

    // killed after the branch was made, before the folder was
    scratch.git(&["worktree", "remove", "--force", new.path.to_str().unwrap()]);
    let again = repository.create(new.clone()).await.unwrap();
    assert_eq!(again.branch.unwrap().name, "hayward/again-0badcafe");

    // content that git does not explain
    fs::write(new.path.join("b.txt"), "an agent's").unwrap();
    let refused = repository.create(new.clone()).await.unwrap_err();
    assert!(matches!(refused, WorktreeError::Occupied { .. }), "{refused}");
    assert_eq!(fs::read_to_string(new.path.join("b.txt")).unwrap(), "an agent's");

    // commits, even with a clean folder
    git(&new.path, &["commit", "-q", "-am", "work"]);
    repository.create(new.clone()).await.unwrap_err();
    assert_eq!(git(&new.path, &["rev-list", "--count", "main..HEAD"]), "1");
}

#[tokio::test]
async fn f23_a_branch_that_stands_for_another_is_never_deleted_with_it() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let commit = repository.head().await.unwrap().commit;
    let alias = "refs/heads/hayward/alias-0badcafe";
    scratch.git(&["symbolic-ref", alias, "refs/heads/main"]);
    let before = scratch.git(&["for-each-ref"]);
    repository.drop_branch("hayward/alias-0badcafe", &commit).await.unwrap();
    assert_eq!(scratch.git(&["for-each-ref"]), before);
    let made = scratch.make(&repository, "alias").await.branch.unwrap();
    assert_eq!(made.name, "hayward/alias-0badcafe-2");
    assert_eq!(scratch.git(&["symbolic-ref", alias]), "refs/heads/main");
}

#[tokio::test]
async fn f23_a_branch_that_cannot_be_read_keeps_its_name_and_its_log() {
    let scratch = Scratch::new();
    scratch.git(&["branch", "--create-reflog", "hayward/fix-0badcafe"]);
    let repository = scratch.open().await;
    // as a machine that lost power may leave it
    let place = scratch.user().join(".git/refs/heads/hayward/fix-0badcafe");
    fs::write(&place, "").unwrap();
    let log = scratch.user().join(".git/logs/refs/heads/hayward/fix-0badcafe");
    let before = fs::read(&log).unwrap();
    let made = scratch.make(&repository, "fix").await.branch.unwrap();
    assert_eq!(made.name, "hayward/fix-0badcafe-2");
    assert_eq!((fs::read(&place).unwrap(), fs::read(&log).unwrap()), (vec![], before));
}

#[tokio::test]
async fn f23_a_taken_name_gets_a_suffix_and_no_ref_moves() {
    let scratch = Scratch::new();
    scratch.git(&["branch", "hayward/Fix-0badcafe"]);
    scratch.git(&["branch", "hayward/same-0badcafe"]);
    scratch.git(&["branch", "hayward/nest-0badcafe/inner"]);
    let before = scratch.git(&["for-each-ref"]);
    let repository = scratch.open().await;
    let fix = scratch.make(&repository, "fix").await.branch.unwrap();
    assert_eq!(fix.name, "hayward/fix-0badcafe-2");
    assert!(fix.to_string().contains("hayward/Fix-0badcafe"), "{fix}");
    let same = scratch.make(&repository, "same").await.branch.unwrap();
    assert_eq!(same.name, "hayward/same-0badcafe-2");
    let nest = scratch.make(&repository, "nest").await.branch.unwrap();
    assert_eq!(nest.name, "hayward/nest-0badcafe-2");
    let after = scratch.git(&["for-each-ref"]);
    assert!(before.lines().all(|line| after.contains(line)));

    let other = Scratch::new();
    other.git(&["branch", "hayward"]);
    let repository = other.open().await;
    let made = other.make(&repository, "fix").await.branch.unwrap();
    assert_eq!(made.name, "hayward-work/fix-0badcafe");
    assert_eq!(made.in_the_way, ["hayward"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_many_creations_at_once_all_succeed() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    for round in 0..3 {
        let mut all = tokio::task::JoinSet::new();
        let commit = repository.head().await.unwrap().commit;
        for number in 0..32 {
            let new = scratch.wanted(&format!("r{round}-n{number}"), &commit);
            let repository = repository.clone();
            all.spawn(async move { repository.create(new).await });
        }
        while let Some(made) = all.join_next().await {
            made.unwrap().unwrap();
        }
    }
    assert_eq!(scratch.git(&["branch", "--list", "hayward/*"]).lines().count(), 96);
    assert_eq!(repository.worktrees().await.unwrap().len(), 97);
}

#[tokio::test]
async fn what_an_agent_left_is_committed_on_top_of_what_it_committed() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "work").await;
    write(&tree.path.join("first.txt"), "first\n");
    git(&tree.path, &["add", "first.txt"]);
    git(&tree.path, &["commit", "-q", "-m", "by the agent"]);
    write(&tree.path.join("new dir/ü \n.txt"), "new\n");
    write(&tree.path.join("src/a.txt"), "one\n2\nthree\n");
    write(&tree.path.join("staged.txt"), "staged\n");
    git(&tree.path, &["add", "staged.txt"]);
    write(&tree.path.join("ignored/out"), "x");
    fs::remove_file(tree.path.join("b.txt")).unwrap();
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!((work.commits, work.outcome, work.diverged), (2, Outcome::Delivered, false));
    assert_eq!((work.stat.files, work.stat.insertions, work.stat.deletions), (5, 4, 2));
    assert!(work.withheld.is_empty() && work.exposed.is_empty());
    assert_eq!(git(&tree.path, &["status", "--porcelain"]), "");
    let said = git(&tree.path, &["log", "-1", "--format=%an <%ae> %s|%b"]);
    assert_eq!(said, "User <user@example.org> Work|Because.");
    assert_eq!(scratch.git(&["rev-parse", "hayward/work-0badcafe"]), work.head.as_str());
    let again = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(again, work);
}

#[tokio::test]
async fn f57_no_changes_only_withheld_and_undone_changes_are_told_apart() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "idle").await;
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!((work.outcome, &work.head), (Outcome::NoChanges, &tree.commit));
    // staged, then undone in the file alone
    write(&tree.path.join("b.txt"), "other\n");
    git(&tree.path, &["add", "b.txt"]);
    write(&tree.path.join("b.txt"), "b\n");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(work.outcome, Outcome::NoChanges);
    write(&tree.path.join(".env"), "A=1");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!((work.outcome, &work.head), (Outcome::OnlyWithheld, &tree.commit));
}

#[tokio::test]
async fn f48_secrets_blobs_and_nested_repositories_are_withheld_and_listed() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "secret").await;
    let at = |name: &str| tree.path.join(name);
    write(&at(".env"), "TOKEN=1");
    write(&at(".env.example"), "TOKEN=");
    write(&at("deploy/id_rsa"), "x");
    write(&at("src/a.txt"), "key: AKIAIOSFODNN7EXAMPLE\n");
    write(&at("staged.key"), "x");
    git(&tree.path, &["add", "-f", "staged.key", "src/a.txt"]);
    fs::File::create(at("big.bin")).unwrap().set_len(50 << 20).unwrap();
    write(&at("fine.txt"), "fine\n");
    write(&at("inner/x"), "x");
    git(&at("inner"), &["init", "-q"]);
    write(&at("linked/x"), "x");
    git(&at("linked"), &["init", "-q"]);
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
    let commit = ["commit", "-q", "--allow-empty", "-m", "x"];
    git(&at("linked"), &[&identity[..], &commit[..]].concat());
    git(&tree.path, &["add", "linked"]);
    let work = repository.commit_work(order(&tree)).await.unwrap();
    let out = withheld(&work);
    assert_eq!(out[".env"], Why::SecretName);
    assert_eq!(out["deploy/id_rsa"], Why::SecretName);
    assert_eq!(out["staged.key"], Why::SecretName);
    assert_eq!(out["src/a.txt"], Why::SecretContent { what: "AWS access key" });
    assert!(matches!(out["big.bin"], Why::TooLarge { .. }));
    assert_eq!(out["inner/"], Why::NestedRepository);
    assert_eq!(out["linked"], Why::NestedRepository);
    assert_eq!(out.len(), 7);
    let committed = git(&tree.path, &["diff", "--name-only", "main", "HEAD"]);
    assert_eq!(committed.lines().collect::<Vec<_>>(), [".env.example", "fine.txt"]);
    assert_eq!(fs::read_to_string(at("src/a.txt")).unwrap(), "key: AKIAIOSFODNN7EXAMPLE\n");
    assert_eq!(fs::read_to_string(at("staged.key")).unwrap(), "x");

    // one that the agent committed itself is told, so that a push can be refused
    git(&tree.path, &["add", "-f", ".env"]);
    git(&tree.path, &["commit", "-q", "-m", "oops"]);
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(work.exposed.len(), 1);
    assert_eq!(work.exposed[0].path, Path::new(".env"));
}

#[tokio::test]
async fn folders_files_and_links_may_take_each_others_place() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "shapes").await;
    fs::remove_dir_all(tree.path.join("src")).unwrap();
    std::os::unix::fs::symlink("b.txt", tree.path.join("src")).unwrap();
    fs::remove_file(tree.path.join("b.txt")).unwrap();
    write(&tree.path.join("b.txt/inner"), "x\n");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(work.outcome, Outcome::Delivered);
    assert_eq!(git(&tree.path, &["status", "--porcelain"]), "");
    let names = git(&tree.path, &["ls-tree", "-r", "--name-only", "HEAD"]);
    assert_eq!(names.lines().collect::<Vec<_>>(), [".gitignore", "b.txt/inner", "src"]);
}

#[tokio::test]
async fn work_on_another_branch_comes_home_and_that_branch_never_moves() {
    let scratch = Scratch::new();
    scratch.git(&["branch", "theirs"]);
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "stray").await;
    git(&tree.path, &["checkout", "-q", "theirs"]);
    write(&tree.path.join("new.txt"), "new\n");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(work.strayed_to.as_deref(), Some("'theirs'"));
    assert_eq!(scratch.git(&["rev-parse", "theirs"]), tree.commit.as_str());
    assert_eq!(scratch.git(&["rev-parse", "hayward/stray-0badcafe"]), work.head.as_str());

    git(&tree.path, &["checkout", "-q", "theirs"]);
    let strayed = repository.commit_work(order(&tree)).await.unwrap_err();
    assert!(matches!(strayed, CommitError::Strayed { .. }), "{strayed}");

    repository.release(&tree.path).await.unwrap();
    scratch.git(&["checkout", "-q", "hayward/stray-0badcafe"]);
    let in_use = repository.commit_work(order(&tree)).await.unwrap_err();
    assert!(matches!(in_use, CommitError::BranchInUse { .. }), "{in_use}");
    assert_eq!(scratch.git(&["rev-parse", "HEAD"]), work.head.as_str());

    let detached = NewWorktree { branch: None, ..scratch.wanted("none", &tree.commit) };
    let tree = repository.create(detached).await.unwrap();
    git(&tree.path, &["checkout", "-q", "-b", "feature"]);
    write(&tree.path.join("new.txt"), "new\n");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(work.commits, 1);
    assert_eq!(scratch.git(&["rev-parse", "feature"]), tree.commit.as_str());
}

#[tokio::test]
async fn f19_a_worktree_that_lost_its_git_file_is_no_way_into_an_outer_checkout() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let commit = repository.head().await.unwrap().commit;
    // the worktree lies inside the user's own checkout
    let path = scratch.user().join("ignored/tree");
    let new = NewWorktree { path: path.clone(), ..scratch.wanted("inside", &commit) };
    let tree = repository.create(new).await.unwrap();
    let before = scratch.git(&["rev-parse", "main"]);
    fs::remove_file(path.join(".git")).unwrap();
    write(&path.join("new.txt"), "new\n");
    let lost = repository.commit_work(order(&tree)).await.unwrap_err();
    assert!(matches!(lost, CommitError::NotOurs(_)), "{lost}");
    assert!(repository.release(&path).await.is_err());
    assert!(repository.remove(&path).await.is_err());
    assert_eq!(scratch.git(&["rev-parse", "main"]), before);
    assert!(path.join("new.txt").exists());
}

#[tokio::test]
async fn a_lock_that_blocks_a_commit_is_named() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "blocked").await;
    write(&tree.path.join("new.txt"), "new\n");
    let lock = git_dir(&tree.path).join("index.lock");
    fs::write(&lock, "").unwrap();
    let locked = repository.commit_work(order(&tree)).await.unwrap_err();
    assert!(locked.to_string().contains(lock.to_str().unwrap()), "{locked}");
    assert!(matches!(locked, CommitError::IndexLocked { .. }));
    fs::remove_file(&lock).unwrap();
    assert_eq!(repository.commit_work(order(&tree)).await.unwrap().commits, 1);
}

#[tokio::test]
async fn a_merge_in_progress_blocks_and_a_rewritten_history_is_told() {
    let scratch = Scratch::new();
    scratch.git(&["commit", "-q", "--allow-empty", "-m", "second"]);
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "merge").await;
    git(&tree.path, &["reset", "-q", "--hard", "HEAD~1"]);
    write(&tree.path.join("b.txt"), "mine\n");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert!(work.diverged);
    write(&scratch.user().join("b.txt"), "theirs\n");
    scratch.git(&["commit", "-q", "-am", "third"]);
    let merge = Command::new("git").args(["merge", "main"]).current_dir(&tree.path).output();
    assert!(!merge.unwrap().status.success());
    let busy = repository.commit_work(order(&tree)).await.unwrap_err();
    assert!(busy.to_string().contains("in the middle of a merge"), "{busy}");
    assert!(matches!(repository.remove(&tree.path).await, Err(RemoveError::InProgress { .. })));
}

#[tokio::test]
async fn f26_hooks_that_do_not_run_are_told_and_those_that_do_can_block() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "hooks").await;
    script(&scratch.user().join(".git/hooks/pre-commit"), "echo no lint >&2; exit 1");
    write(&tree.path.join("new.txt"), "new\n");
    let run = WorkOrder { hooks: Hooks::Run, ..order(&tree) };
    let blocked = repository.commit_work(run).await.unwrap_err();
    assert!(matches!(&blocked, CommitError::Blocked { stderr, .. } if stderr == "no lint"));
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(work.inert_hooks, ["pre-commit"]);
}

#[tokio::test]
async fn f13_a_worktree_with_anything_to_lose_is_not_removed() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "keep").await;
    write(&tree.path.join("new.txt"), "new\n");
    let dirty = repository.remove(&tree.path).await.unwrap_err();
    assert!(dirty.to_string().contains("new.txt"), "{dirty}");
    git(&tree.path, &["checkout", "-q", "--detach"]);
    git(&tree.path, &["add", "."]);
    git(&tree.path, &["commit", "-q", "-m", "detached"]);
    assert!(matches!(repository.remove(&tree.path).await, Err(RemoveError::Unreachable { .. })));
    git(&tree.path, &["branch", "saved"]);
    repository.remove(&tree.path).await.unwrap();
    assert!(!tree.path.exists());
    assert!(matches!(repository.remove(&scratch.user()).await, Err(RemoveError::NotOurs(_))));
}

#[tokio::test]
async fn a_diff_shows_committed_uncommitted_and_untracked_work_up_to_its_cap() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "diff").await;
    write(&tree.path.join("committed.txt"), "c\n");
    git(&tree.path, &["add", "."]);
    git(&tree.path, &["commit", "-q", "-m", "c"]);
    write(&tree.path.join("src/a.txt"), "one\n2\nthree\n");
    write(&tree.path.join("untracked.txt"), "u\nu\n");
    fs::remove_file(tree.path.join("b.txt")).unwrap();
    let index = fs::read(git_dir(&tree.path).join("index")).unwrap();
    let side = Side::Worktree(tree.path.clone());
    let diff = repository.diff(&tree.commit, side.clone(), 1 << 20).await.unwrap();
    let kinds: Vec<_> =
        diff.files.iter().map(|file| (file.path.to_str().unwrap(), file.status)).collect();
    assert_eq!(
        kinds,
        [
            ("b.txt", ChangeKind::Deleted),
            ("committed.txt", ChangeKind::Added),
            ("src/a.txt", ChangeKind::Modified),
            ("untracked.txt", ChangeKind::Added),
        ]
    );
    assert!(!diff.truncated && diff.patch.contains("+2\n") && diff.patch.contains("+u\n+u\n"));
    let cut = repository.diff(&tree.commit, side.clone(), 100).await.unwrap();
    assert!(cut.truncated && cut.patch.len() <= 100 && cut.patch.ends_with('\n'));
    assert_eq!(cut.files, diff.files);
    let stat = repository.diff_stat(&tree.commit, side).await.unwrap();
    assert_eq!((stat.files, stat.insertions, stat.deletions), (4, 4, 2));
    assert_eq!(fs::read(git_dir(&tree.path).join("index")).unwrap(), index);

    // git's own counts and letters say the same of the commits
    let work = repository.commit_work(order(&tree)).await.unwrap();
    let between = |form: &str| {
        let range = [tree.commit.as_str(), work.head.as_str()];
        git(&tree.path, &["diff", "-z", form, range[0], range[1]]).into_bytes()
    };
    let counted = parse::numstat(&between("--numstat")).unwrap();
    let named = parse::name_status(&between("--name-status")).unwrap();
    let raw = parse::name_status(&between("--raw")).unwrap();
    assert_eq!(named, raw);
    assert_eq!((counted.len(), named.len()), (4, 4));
    for (file, (count, name)) in work.changed_files.iter().zip(counted.iter().zip(&named)) {
        assert_eq!((&file.path, &file.path), (&count.path, &name.path));
        assert_eq!(Some((file.additions as u64, file.deletions as u64)), count.lines);
    }
}

#[tokio::test]
async fn a_merge_is_known_before_it_is_made() {
    let scratch = Scratch::new();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "ours").await;
    write(&tree.path.join("new.txt"), "new\n");
    write(&tree.path.join("b.txt"), "agent\n");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    let before = scratch.holdings();
    let clean = repository.preview(&tree.commit, &work.head).await.unwrap();
    assert!(clean.trial.is_clean && clean.trial.conflicts.is_empty());
    assert_eq!(clean.changed_files.len(), 2);
    assert_eq!(scratch.holdings(), before);

    write(&scratch.user().join("new.txt"), "other\n");
    fs::remove_file(scratch.user().join("b.txt")).unwrap();
    scratch.git(&["add", "-A"]);
    scratch.git(&["commit", "-q", "-m", "user"]);
    let ours = repository.resolve("main").await.unwrap();
    let preview = repository.preview(&ours, &work.head).await.unwrap();
    assert!(!preview.trial.is_clean);
    let conflicts = preview.trial.conflicts.iter();
    let kinds: Vec<_> = conflicts
        .map(|one| (one.path.to_str().unwrap(), one.kind, one.stages.deleted_by()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("b.txt", ConflictKind::ModifyDelete, Some(MergeSide::Ours)),
            ("new.txt", ConflictKind::AddAdd, None)
        ]
    );

    scratch.git(&["checkout", "-q", "--orphan", "alone"]);
    scratch.git(&["commit", "-q", "-m", "alone"]);
    let alone = repository.resolve("alone").await.unwrap();
    let unrelated = repository.preview(&ours, &alone).await.unwrap_err();
    assert!(unrelated.to_string().contains("share no history"), "{unrelated}");
}

#[tokio::test]
async fn f19_f20_the_checkout_is_sacred_through_a_whole_task() {
    let scratch = Scratch::new();
    write(&scratch.user().join("stashed.txt"), "s");
    scratch.git(&["stash", "-q", "-u"]);
    write(&scratch.user().join("staged.txt"), "s");
    scratch.git(&["add", "staged.txt"]);
    write(&scratch.user().join("b.txt"), "edited");
    write(&scratch.user().join("untracked.txt"), "u");
    // an index entry that is stale, so that any refresh would rewrite the index
    fs::write(scratch.user().join("src/a.txt"), "one\ntwo\nthree\n").unwrap();
    let before = scratch.holdings();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "sacred").await;
    write(&tree.path.join("b.txt"), "agent\n");
    write(&tree.path.join("untracked.txt"), "agent\n");
    let side = Side::Worktree(tree.path.clone());
    repository.diff(&tree.commit, side, 1 << 20).await.unwrap();
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(work.commits, 1);
    repository.preview(&tree.commit, &work.head).await.unwrap();
    repository.release(&tree.path).await.unwrap();
    repository.worktrees().await.unwrap();
    repository.remove(&tree.path).await.unwrap();
    assert_eq!(scratch.holdings(), before);
}

#[tokio::test]
async fn f43_no_program_of_the_repository_runs() {
    let scratch = Scratch::new();
    let marker = scratch.room().join("fired");
    let canary = scratch.room().join("canary");
    script(&canary, &format!("echo \"$0 $@\" >> {}; cat", marker.display()));
    let canary = canary.to_str().unwrap().to_owned();
    let hooks = scratch.room().join("hooks");
    let named = "post-checkout pre-commit post-commit reference-transaction post-index-change \
                 commit-msg prepare-commit-msg post-merge pre-auto-gc";
    for hook in named.split_whitespace() {
        script(&hooks.join(hook), &format!("echo {hook} >> {}", marker.display()));
    }
    write(&scratch.user().join("theirs.md"), "one\ntwo\n");
    scratch.git(&["add", "."]);
    scratch.git(&["commit", "-q", "-m", "md"]);
    let attributes = "*.txt filter=evil diff=evil merge=evil\n*.md filter=pro merge=evil\n";
    write(&scratch.user().join(".git/info/attributes"), attributes);
    scratch.git(&["config", "extensions.worktreeConfig", "true"]);
    for (key, value) in [
        ("filter.evil.clean", &*canary),
        ("filter.evil.smudge", &canary),
        ("filter.evil.required", "true"),
        ("filter.pro.process", &canary),
        ("filter.pro.required", "true"),
        ("diff.external", &canary),
        ("diff.evil.textconv", &canary),
        ("diff.evil.command", &canary),
        ("merge.evil.driver", &canary),
        ("credential.helper", &canary),
        ("gpg.program", &canary),
        ("commit.gpgSign", "true"),
        ("core.sshCommand", &canary),
        ("core.pager", &canary),
        ("core.editor", &canary),
        ("core.askPass", &canary),
        ("core.fsmonitor", &canary),
        ("core.hooksPath", hooks.to_str().unwrap()),
    ] {
        scratch.git(&["config", key, value]);
    }
    let quiet = || fs::read_to_string(&marker).unwrap_or_default();
    fs::remove_file(&marker).ok();
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "evil").await;
    assert_eq!(quiet(), "", "create");
    git(&tree.path, &["config", "--worktree", "filter.late.clean", &canary]);
    fs::remove_file(&marker).ok();
    write(&tree.path.join(".gitattributes"), "*.rs filter=late\n");
    write(&tree.path.join("late.rs"), "late\n");
    write(&tree.path.join("new.c"), "new\n");
    write(&tree.path.join("b.txt"), "changed\n");
    let side = Side::Worktree(tree.path.clone());
    repository.diff(&tree.commit, side, 1 << 20).await.unwrap();
    assert_eq!(quiet(), "", "diff");
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!(quiet(), "", "commit");
    assert_eq!(work.commits, 1);
    assert_eq!(withheld(&work)["b.txt"], Why::Filtered { filter: "evil".to_owned() });
    assert_eq!(withheld(&work)["late.rs"], Why::Filtered { filter: "late".to_owned() });

    // two sides that changed one file whose merge driver is theirs
    let side = |name: &str, text: &str| {
        let blob = scratch.room().join(name);
        fs::write(&blob, text).unwrap();
        let blob = scratch.git(&["hash-object", "-w", "--no-filters", blob.to_str().unwrap()]);
        let index = scratch.room().join(format!("{name}.index"));
        let inner = |args: &[&str]| {
            let made = Command::new("git")
                .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
                .args(["-c", "commit.gpgSign=false"])
                .args(args)
                .current_dir(scratch.user())
                .env("GIT_INDEX_FILE", &index)
                .output()
                .unwrap();
            String::from_utf8(made.stdout).unwrap().trim().to_owned()
        };
        inner(&["read-tree", "HEAD"]);
        inner(&["update-index", "--cacheinfo", &format!("100644,{blob},theirs.md")]);
        let made = inner(&["write-tree"]);
        inner(&["commit-tree", "-p", "HEAD", "-m", name, &made]).parse::<CommitId>().unwrap()
    };
    let (ours, theirs) = (side("left", "1\ntwo\n"), side("right", "3\ntwo\n"));
    fs::remove_file(&marker).ok();
    let preview = repository.preview(&ours, &theirs).await.unwrap();
    assert!(!preview.trial.is_clean);
    repository.worktrees().await.unwrap();
    repository.release(&tree.path).await.unwrap();
    fs::remove_file(tree.path.join("late.rs")).unwrap();
    fs::write(tree.path.join("b.txt"), "b\n").unwrap();
    repository.remove(&tree.path).await.ok();
    assert_eq!(quiet(), "", "preview, list, release, remove");
}

#[tokio::test]
async fn f43_no_program_named_through_a_conditional_include_runs() {
    let scratch = Scratch::new();
    let marker = scratch.room().join("fired");
    let canary = scratch.room().join("canary");
    script(&canary, &format!("echo \"$0 $@\" >> {}; cat", marker.display()));
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "evil").await;
    let common = scratch.user().join(".git");
    let named = |filter: &str| format!("[filter \"{filter}\"]\n\tclean = {}\n", canary.display());
    write(&common.join("one"), &format!("{}[include]\n\tpath = two\n", named("one")));
    write(&common.join("two"), &named("two"));
    scratch.git(&["remote", "add", "origin", "https://example.com/a"]);
    scratch.git(&["config", "includeIf.hasconfig:remote.*.url:https://example.com/**.path", "one"]);
    write(&common.join("info/attributes"), "*.rs filter=one\n*.md filter=two\n");
    write(&tree.path.join("a.rs"), "a\n");
    write(&tree.path.join("a.md"), "a\n");
    // the test means something: a git that nobody disarmed runs the program
    git(&tree.path, &["add", "a.rs"]);
    assert!(fs::read_to_string(&marker).unwrap().contains("canary"));
    git(&tree.path, &["reset", "-q"]);
    fs::remove_file(&marker).ok();
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert!(!marker.exists(), "{}", fs::read_to_string(&marker).unwrap());
    for (file, filter) in [("a.rs", "one"), ("a.md", "two")] {
        assert_eq!(withheld(&work)[file], Why::Filtered { filter: filter.to_owned() });
    }
    write(&common.join("one"), "[filter\n");
    let error = repository.is_dirty(&tree.path).await.unwrap_err();
    assert!(format!("{error:?}").contains("one"), "{error:?}");
}

#[tokio::test]
async fn a_submodule_that_is_not_checked_out_is_no_change() {
    let scratch = Scratch::new();
    let other = Scratch::new();
    let from = other.user();
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"];
    scratch.git(&[&add[..], &[from.to_str().unwrap(), "module"]].concat());
    scratch.git(&["commit", "-q", "-m", "module"]);
    let repository = scratch.open().await;
    let tree = scratch.make(&repository, "module").await;
    let side = Side::Worktree(tree.path.clone());
    assert_eq!(repository.diff(&tree.commit, side, 1 << 20).await.unwrap().files, []);
    let work = repository.commit_work(order(&tree)).await.unwrap();
    assert_eq!((work.outcome, work.withheld), (Outcome::NoChanges, Vec::new()));
    repository.create(scratch.wanted("module", &tree.commit)).await.unwrap();
}

#[tokio::test]
async fn a_change_is_finished_though_nobody_waits_and_the_next_handle_comes_after_it() {
    let scratch = Scratch::new();
    let all = Repositories::default();
    let repository = all.open(&scratch.user()).await.unwrap();
    let commit = repository.head().await.unwrap().commit;
    for number in 0..3 {
        let wanted = scratch.wanted(&format!("n{number}"), &commit);
        let creation = repository.create(wanted);
        // polled once, so that it is queued, then given up
        tokio::time::timeout(std::time::Duration::ZERO, creation).await.unwrap_err();
    }
    drop(repository);
    let repository = all.open(&scratch.user()).await.unwrap();
    repository.create(scratch.wanted("last", &commit)).await.unwrap();
    assert_eq!(repository.worktrees().await.unwrap().len(), 5);
}

/// Runs this very test program again with git's variables set, as in a hook of git.
#[test]
fn f17_git_variables_of_the_parent_do_not_leak() {
    let trap = Scratch::new();
    let before = trap.holdings();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "f19_f20_the_checkout_is_sacred_through_a_whole_task"])
        .env("GIT_DIR", trap.user().join(".git"))
        .env("GIT_INDEX_FILE", trap.user().join(".git/index"))
        .env("GIT_WORK_TREE", trap.user())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(trap.holdings(), before);
}

/// The path, and the git that it leads to.
fn real_git() -> (String, PathBuf) {
    let path = std::env::var("PATH").unwrap();
    let real = path.split(':').map(|folder| Path::new(folder).join("git"));
    let real = real.into_iter().find(|file| file.is_file()).unwrap();
    (path, real)
}

/// Runs the test below with a git on the path whose new worktrees stand a commit further.
#[test]
fn f18_f19_a_worktree_that_stands_elsewhere_is_taken_down() {
    let room = tempfile::tempdir().unwrap();
    let (path, real) = real_git();
    let body = format!(
        "{real} \"$@\" || exit\n\
         case \"$*\" in *read-tree*) {real} checkout -q --detach\n\
         {real} -c user.name=a -c user.email=a@b commit -q --allow-empty -m x\n\
         esac",
        real = real.display()
    );
    script(&room.path().join("git"), &body);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "inner_a_git_that_strays"])
        .env("PATH", format!("{}:{path}", room.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by f18_f19_a_worktree_that_stands_elsewhere_is_taken_down"]
async fn inner_a_git_that_strays() {
    let scratch = Scratch::new();
    let before = scratch.holdings();
    let repository = scratch.open().await;
    let commit = repository.head().await.unwrap().commit;
    let new = scratch.wanted("elsewhere", &commit);
    let failure = repository.create(new.clone()).await.unwrap_err();
    assert!(matches!(failure, WorktreeError::WrongCommit { .. }), "{failure}");
    assert!(!new.path.exists());
    assert_eq!(scratch.git(&["worktree", "list"]).lines().count(), 1);
    assert_eq!(scratch.git(&["branch", "--list", "hayward/*"]), "");
    assert_eq!(scratch.holdings(), before);
}

/// Runs a whole task with a git on the path that notes how it is called.
#[test]
fn a_creation_costs_one_git_and_a_commit_three() {
    let room = tempfile::tempdir().unwrap();
    let (path, real) = real_git();
    let (log, folder) = (room.path().join("log"), room.path().join("bin"));
    let body = format!("echo \"$*\" >> {}\nexec {} \"$@\"", log.display(), real.display());
    script(&folder.join("git"), &body);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "f19_f20_the_checkout_is_sacred_through_a_whole_task"])
        .env("PATH", format!("{}:{path}", folder.display()))
        .output()
        .unwrap();
    assert!(output.status.success());
    let calls = fs::read_to_string(&log).unwrap();
    let ours: Vec<&str> = calls
        .lines()
        .filter_map(|line| line.strip_prefix("--no-pager --no-optional-locks --literal-pathspecs "))
        .map(|line| match line.strip_prefix("--git-dir ") {
            Some(rest) => rest.split_once(' ').unwrap().1,
            None => line,
        })
        .map(|line| line.split(" -").next().unwrap())
        .collect();
    // and the preview of what the task made none: its sides meet in no file
    let wanted = ["status", "update-index", "commit", "update-ref", "worktree list"];
    // the files are git's to write only where the user's are as young as their index, by the second
    assert_eq!(ours.strip_prefix(&["read-tree"]).unwrap_or(&ours), wanted);
}
